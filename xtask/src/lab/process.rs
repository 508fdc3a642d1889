//! One command inside the emulated host: its control group, its streams or terminal, its start.
//! `server` calls it. It must not know of connections.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::spawn::{Terminal, set_session};
use super::stream::{Link, Sink};
use super::terminal;
use super::wire::{Command, Stream};

/// Exit codes for commands that don't start, as in shells and Docker.
pub(super) const CODE_OWN_ERROR: u8 = 125;
const CODE_NOT_EXECUTABLE: u8 = 126;
const CODE_NOT_FOUND: u8 = 127;

/// What a terminal takes for "end of input".
const END_OF_TRANSMISSION: u8 = 4;

/// Lets the children of `group` use every controller it has.
pub(super) fn delegate(group: &Path) {
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        // One at a time: one that is refused must not take the others with it.
        let _ = fs::write(
            group.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

/// A command's control group: `lab/N`, with the command in `lab/N/main`, so that it may make
/// siblings of its own with limits, as in a delegated group of systemd's.
pub(super) struct Group {
    folder: PathBuf,
}

impl Group {
    pub(super) fn create(parent: &Path, number: u64) -> Result<Self> {
        let folder = parent.join(number.to_string());
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        delegate(&folder);
        let group = Self { folder };
        fs::create_dir(group.main()).context("create the command's control group")?;
        Ok(group)
    }

    fn main(&self) -> PathBuf {
        self.folder.join("main")
    }

    pub(super) fn kill(&self) {
        let _ = fs::write(self.folder.join("cgroup.kill"), "1");
    }

    /// Fails, rightly, when processes were left behind.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir(self.main());
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Why a command was not started.
pub(super) struct Refusal {
    pub(super) code: u8,
    pub(super) reason: String,
}

impl Refusal {
    fn own(what: &str, error: impl std::fmt::Display) -> Self {
        Self {
            code: CODE_OWN_ERROR,
            reason: format!("{what}: {error}"),
        }
    }
}

/// Where a command's input goes.
pub(super) enum Input {
    Pipe(std::process::ChildStdin),
    Terminal(File),
}

impl Input {
    pub(super) fn into_sink(self, link: Link) -> Sink {
        match self {
            Self::Pipe(pipe) => Sink::new(pipe, Stream::Stdin, link, drop),
            Self::Terminal(terminal) => Sink::new(terminal, Stream::Stdin, link, |mut terminal| {
                let _ = terminal.write_all(&[END_OF_TRANSMISSION]);
            }),
        }
    }
}

/// A command that runs.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) input: Input,
    pub(super) outputs: Vec<(Stream, File)>,
    pub(super) terminal: Option<OwnedFd>,
}

impl Started {
    pub(super) fn new(command: Command, group: &Group) -> Result<Self, Refusal> {
        let mut arguments = command.arguments.into_iter().map(OsString::from_vec);
        let Some(program) = arguments.next() else {
            return Err(Refusal::own("run", "no command was given"));
        };
        let folder = PathBuf::from(OsString::from_vec(command.folder));
        if !folder.is_dir() {
            return Err(Refusal::own(
                &folder.display().to_string(),
                "no such folder in the emulated host",
            ));
        }
        let mut process = std::process::Command::new(&program);
        process.args(arguments).current_dir(folder).env_clear();
        for (name, value) in command.environment {
            process.env(OsString::from_vec(name), OsString::from_vec(value));
        }
        let mut master = None;
        if let Some(size) = command.terminal {
            let pair = nix::pty::openpty(None, None)
                .map_err(|error| Refusal::own("open a terminal", error))?;
            terminal::resize(&pair.slave, size);
            let copy = || {
                pair.slave
                    .try_clone()
                    .map_err(|error| Refusal::own("copy a terminal", error))
            };
            process.stdin(copy()?).stdout(copy()?).stderr(copy()?);
            master = Some(pair.master);
        } else {
            process
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
        }
        let procs = File::options()
            .write(true)
            .open(group.main().join("cgroup.procs"));
        let procs = procs.map_err(|error| Refusal::own("open the control group", error))?;
        let kind = if master.is_some() {
            Terminal::Stdin
        } else {
            Terminal::None
        };
        set_session(&mut process, kind, procs);
        let child = process.spawn().map_err(|error| {
            let code = if error.kind() == io::ErrorKind::NotFound {
                CODE_NOT_FOUND
            } else {
                CODE_NOT_EXECUTABLE
            };
            Refusal {
                code,
                reason: format!("{}: {error}", program.to_string_lossy()),
            }
        })?;
        Self::connect(child, master).map_err(|error| Refusal::own("connect to the command", error))
    }

    fn connect(mut child: Child, master: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(master) = master {
            let input = Input::Terminal(master.try_clone()?.into());
            let outputs = vec![(Stream::Stdout, master.try_clone()?.into())];
            return Ok(Self {
                child,
                input,
                outputs,
                terminal: Some(master),
            });
        }
        let missing = || io::Error::other("a pipe is missing");
        let input = Input::Pipe(child.stdin.take().ok_or_else(missing)?);
        let stdout = OwnedFd::from(child.stdout.take().ok_or_else(missing)?);
        let stderr = OwnedFd::from(child.stderr.take().ok_or_else(missing)?);
        let outputs = vec![
            (Stream::Stdout, stdout.into()),
            (Stream::Stderr, stderr.into()),
        ];
        Ok(Self {
            child,
            input,
            outputs,
            terminal: None,
        })
    }
}

/// Reads an output to its end, or once the command has exited, until there is nothing left:
/// a daemon that kept the pipe must not keep its starter waiting.
pub(super) struct UntilExit {
    pub(super) output: File,
    pub(super) exited: PipeReader,
}

impl Read for UntilExit {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut both = [
                PollFd::new(self.output.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.exited.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut both, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [output, exited] = both.map(|descriptor| descriptor.any().unwrap_or(true));
            if output {
                return self.output.read(buffer);
            }
            if exited {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_written_before_the_exit_is_read_although_someone_keeps_the_pipe() {
        let (output, mut kept) = io::pipe().expect("pipe");
        let (exited, exited_writer) = io::pipe().expect("pipe");
        let mut source = UntilExit {
            output: OwnedFd::from(output).into(),
            exited,
        };
        kept.write_all(b"last words").expect("write");
        drop(exited_writer);
        let mut read = String::new();
        source.read_to_string(&mut read).expect("read");
        assert_eq!(read, "last words");
        kept.write_all(b"more").expect("the daemon can still write");
    }
}
