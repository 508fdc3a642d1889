//! A program at a terminal that a test types on: waits for text, sends keys, changes the size.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::transcript::Transcript;
use crate::{PATIENCE, POLL_INTERVAL};

/// Rows and columns at the start.
pub const SIZE: (u16, u16) = (24, 80);

/// A program that runs at a terminal. Dropped, it is killed.
pub struct Terminal {
    line: String,
    child: Child,
    master: File,
    transcript: Transcript,
    cursor: usize,
}

impl Terminal {
    /// Starts a program with its arguments and this environment alone at a new terminal.
    ///
    /// # Errors
    ///
    /// There is no terminal, or the program does not start.
    pub fn start(line: &[OsString], variables: &[(&str, OsString)], folder: &Path) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .context("open a terminal")?;
        grantpt(&master)
            .and_then(|()| unlockpt(&master))
            .context("open a terminal")?;
        let name = ptsname(&master, Vec::new()).context("name a terminal")?;
        let slave = open_slave(&name)?;
        let master = File::from(master);
        set_size(&master, SIZE)?;

        // setsid makes the terminal the controlling one, which std can't, and env takes back what
        // whoever runs the tests ignores, as shells do for what they start in the background. Each
        // executes what follows in its own place.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "env", "--default-signal=INT,QUIT,HUP"])
            .args(line)
            .env_clear()
            .env("TERM", "xterm")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            .stdin(Stdio::from(slave.try_clone().context("share a terminal")?))
            .stdout(Stdio::from(slave.try_clone().context("share a terminal")?))
            .stderr(Stdio::from(slave));
        let words: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
        let line = words.join(" ");
        let child = command.spawn().with_context(|| format!("start {line}"))?;
        // Else the terminal would never end.
        drop(command);
        let transcript = Transcript::of(master.try_clone().context("share a terminal")?);
        Ok(Self {
            line,
            child,
            master,
            transcript,
            cursor: 0,
        })
    }

    /// Waits until `text` is shown behind what earlier waits have found.
    ///
    /// # Errors
    ///
    /// The program ends, or time is up, without.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        match self.transcript.wait_for(text, self.cursor, PATIENCE) {
            Some(end) => {
                self.cursor = end;
                Ok(())
            }
            None => bail!("no {text:?} at the terminal of {}", self.shown()),
        }
    }

    /// Types these keys.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub fn send(&mut self, keys: &str) -> Result<()> {
        self.master
            .write_all(keys.as_bytes())
            .with_context(|| format!("type {keys:?} at the terminal of {}", self.shown()))
    }

    /// Changes the size: rows and columns.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub fn resize(&mut self, size: (u16, u16)) -> Result<()> {
        set_size(&self.master, size)
    }

    /// Whether the terminal edits lines: it does until a program takes each key.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub fn edits_lines(&self) -> Result<bool> {
        let modes = tcgetattr(&self.master).context("read a terminal's modes")?;
        Ok(modes.local_modes.contains(LocalModes::ICANON))
    }

    /// All that was shown so far.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.transcript.bytes()).into_owned()
    }

    /// Waits for the program's end; its exit code and all that was shown.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn wait(mut self) -> Result<(i32, String)> {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().context("wait for a program")? {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                bail!("no end of {}", self.shown());
            }
            std::thread::sleep(POLL_INTERVAL);
        };
        if !self.transcript.wait_for_end(PATIENCE) {
            bail!("something holds the terminal of {}", self.shown());
        }
        Ok((status.code().unwrap_or(i32::MIN), self.text()))
    }

    fn shown(&self) -> String {
        format!("{}; it shows:\n{}", self.line, self.text())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open_slave(name: &CStr) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let no_ctty = i32::try_from(OFlags::NOCTTY.bits()).context("a flag")?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(no_ctty)
        .open(OsStr::from_bytes(name.to_bytes()))
        .context("open a terminal's other side")
}

fn set_size(master: &File, (rows, columns): (u16, u16)) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).context("size a terminal")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Terminal {
        let line = ["/bin/bash", "--norc", "-i"].map(OsString::from);
        let variables = [
            ("PATH", OsString::from("/usr/bin:/bin")),
            ("PS1", "$ ".into()),
        ];
        Terminal::start(&line, &variables, Path::new("/")).expect("start")
    }

    #[test]
    fn keys_reach_the_program_and_its_code_comes_back() {
        let mut terminal = shell();
        terminal.wait_for("$ ").expect("prompt");
        terminal.send("stty size; tty\n").expect("send");
        terminal.wait_for("24 80\r\n").expect("size");
        terminal.wait_for("/dev/pts/").expect("terminal");
        terminal.resize((50, 132)).expect("resize");
        terminal.send("stty size\n").expect("send");
        terminal.wait_for("50 132").expect("new size");
        terminal.send("exit 9\n").expect("send");
        let (code, text) = terminal.wait().expect("wait");
        assert_eq!(code, 9);
        assert!(text.contains("exit 9"), "{text}");
    }

    #[test]
    fn ctrl_c_interrupts_what_runs_in_the_foreground() {
        let mut terminal = shell();
        terminal.wait_for("$ ").expect("prompt");
        // The echo of the line has no 42: what has is in the foreground already.
        let line = "sh -c 'echo up $((40 + 2)); exec sleep 1000'; echo code $?\n";
        terminal.send(line).expect("send");
        terminal.wait_for("up 42").expect("start");
        terminal.send("\x03").expect("send");
        terminal.wait_for("^C").expect("echo");
        terminal.send("echo still $((40 + 3))\n").expect("send");
        terminal.wait_for("still 43").expect("alive");
    }

    #[test]
    fn text_that_never_comes_is_told_with_what_came() {
        let line = ["/bin/echo", "only this"].map(OsString::from);
        let mut terminal = Terminal::start(&line, &[], Path::new("/")).expect("start");
        let error = terminal.wait_for("that").expect_err("never").to_string();
        assert!(error.contains("only this"), "{error}");
    }
}
