//! The VMM's process as its supervisor has it: a child that another child made
//! ([`super::vmm_jail`]), which has ended by then.
//!
//! It knows how to end it and how it ended, nothing of what it runs.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, ExitStatus};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::vmm_jail::PANIC_CODE;

/// Longest line that the starter says, in bytes.
const WORD_BYTES_MAX: u64 = 32;

/// A process that is waited for.
#[derive(Debug)]
pub struct VmmChild {
    /// None where it could not be made: the report says why.
    pid: Option<Pid>,
    status: Option<ExitStatus>,
}

impl VmmChild {
    /// The process that `starter`, whose standard output is a pipe, makes; waits until it is there.
    ///
    /// # Errors
    /// When the starter can't be waited for.
    pub fn of(mut starter: Child) -> Result<Self> {
        let said = starter.stdout.take().map(id_of).transpose();
        let ended = starter.wait().context("wait for the VMM's start")?;
        let pid = said?.flatten();
        Ok(Self {
            pid,
            status: pid.is_none().then_some(ended),
        })
    }

    /// Its process id; none when it could not be made.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.pid.and_then(|pid| u32::try_from(pid.as_raw()).ok())
    }

    /// Ends it at once, as far as it has not ended.
    pub fn kill(&mut self) {
        if let (Some(pid), None) = (self.pid, self.status) {
            // It is this process's child and not waited for, so that the number is its own.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When somebody else waited for it.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let Some(pid) = self.pid else {
            bail!("there is no VMM process");
        };
        let status = loop {
            match wait_raw(pid) {
                Err(Errno::EINTR) => {}
                other => break other.context("wait for the VMM process")?,
            }
        };
        self.status = Some(status);
        Ok(status)
    }
}

fn wait_raw(pid: Pid) -> nix::Result<ExitStatus> {
    use nix::sys::wait::WaitStatus;
    Ok(match waitpid(pid, None)? {
        WaitStatus::Exited(_, code) => ExitStatus::from_raw((code & 0xff) << 8),
        WaitStatus::Signaled(_, signal, _) => ExitStatus::from_raw(signal as i32),
        // Only with flags that were not given.
        _ => ExitStatus::from_raw(0),
    })
}

fn id_of(output: ChildStdout) -> Result<Option<Pid>> {
    let mut line = String::new();
    BufReader::new(output.take(WORD_BYTES_MAX))
        .read_line(&mut line)
        .context("read the VMM's process id")?;
    if line.is_empty() {
        return Ok(None);
    }
    let id = line.trim().parse().context("read the VMM's process id")?;
    Ok(Some(Pid::from_raw(id)))
}

/// Why a VMM that reported nothing ended, in one sentence.
#[must_use]
pub fn cause(status: ExitStatus) -> String {
    if status.signal() == Some(Signal::SIGSYS as i32) {
        return "the VMM made a system call that it may not make, and was ended (SIGSYS; the kernel's \
            log has the call: `dmesg | grep type=1326`)"
            .to_owned();
    }
    if status.code() == Some(PANIC_CODE) {
        return "the VMM panicked: bulkhead has a bug, please report it".to_owned();
    }
    format!("its process ended with {status}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_and_a_panic_are_told_from_other_ends() {
        assert!(cause(ExitStatus::from_raw(libc::SIGSYS)).contains("SIGSYS"));
        assert!(cause(ExitStatus::from_raw(PANIC_CODE << 8)).contains("panicked"));
        let killed = cause(ExitStatus::from_raw(libc::SIGKILL));
        assert_eq!(killed, "its process ended with signal: 9 (SIGKILL)");
    }

    #[test]
    fn what_a_starter_says_is_the_id_of_its_child() {
        let spawn = |script: &str| {
            std::process::Command::new("/bin/sh")
                .args(["-c", script])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut none = VmmChild::of(spawn("exit 3")).unwrap();
        assert_eq!((none.id(), none.wait().unwrap().code()), (None, Some(3)));
        none.kill();
        assert!(VmmChild::of(spawn("echo x")).is_err());
        assert_eq!(
            VmmChild::of(spawn("echo 4194304")).unwrap().id(),
            Some(4_194_304)
        );
    }
}
