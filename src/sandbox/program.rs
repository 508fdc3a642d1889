//! A program as it is executed beside a VM: without the user's environment, with descriptors by number, in
//! the control group of its VM from its first instruction on; as a child of this process, or of its
//! parent. Called by [`super::launcher`] and for a plain container; it knows neither programs nor VMs.
#![allow(unsafe_code)] // clone; what runs between a fork and an execution

use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::process::Pid;
use serde::Serialize;

use super::child::Child;

/// First descriptor that a process finds something on.
pub const FIRST_FD: RawFd = 3;

/// Longest sentence on why a program could not be executed, in bytes.
const WHY_BYTES_MAX: u64 = 4 << 10;

const WITHOUT_GROUP: &[u8] = b"without a control group: it may not enter the one that was made\n";

/// Keeps what whoever called this command left open from every process that it starts.
///
/// # Errors
/// When the kernel can't.
pub fn keep_descriptors() -> io::Result<()> {
    let first = FIRST_FD.unsigned_abs();
    let flag = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: it marks descriptors to be closed by an execution, and touches no memory.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flag) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// This command, to be executed again. Where it was replaced since it began, as by an upgrade, it is still
/// the one that runs: the file has no name any more, but the kernel has it for who asks for its own.
///
/// # Errors
/// When `/proc` does not say where it is.
pub fn own() -> Result<PathBuf> {
    let path = std::env::current_exe().context("find the path of this command")?;
    Ok(match path.exists() {
        true => path,
        false => PathBuf::from("/proc/self/exe"),
    })
}

/// Has a write that would make a file longer than this user's files may be (`ulimit -f`) fail, where it
/// would end the process without a word.
pub fn survive_long_files() {
    // SAFETY: it sets no handler.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Takes that back, for whoever executes what is not ours.
pub fn end_by_long_files() {
    // SAFETY: it sets no handler.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigDfl) };
}

/// A program that is to be executed, without an environment, without input.
#[derive(Debug)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Takes its output.
    pub stdout: Option<OwnedFd>,
    /// Takes its own lines.
    pub stderr: OwnedFd,
    /// What it finds from [`FIRST_FD`] on.
    pub descriptors: Vec<OwnedFd>,
    /// `cgroup.procs` of the control group that it is in from its first instruction on.
    pub group: Option<OwnedFd>,
}

/// Collects descriptors for a program, numbered from [`FIRST_FD`], where it finds its configuration.
#[derive(Debug, Default)]
pub struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    /// Makes the first one the end of a pipe that the configuration is written to.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn begin(&mut self) -> Result<PipeWriter> {
        let (reader, writer) = io::pipe().context("create a pipe")?;
        self.add(reader)?;
        Ok(writer)
    }

    /// The number that it has in the program.
    ///
    /// # Errors
    /// More than there are numbers.
    pub fn add(&mut self, fd: impl Into<OwnedFd>) -> Result<RawFd> {
        let number = FIRST_FD + RawFd::try_from(self.0.len()).context("number a descriptor")?;
        self.0.push(fd.into());
        Ok(number)
    }
}

impl From<Descriptors> for Vec<OwnedFd> {
    fn from(all: Descriptors) -> Self {
        all.0
    }
}

/// A configuration that a program reads from a pipe.
#[derive(Debug)]
pub struct Told {
    text: Vec<u8>,
    writer: PipeWriter,
}

impl Told {
    /// What is to be written, in JSON, to that end of the program's pipe.
    ///
    /// # Errors
    /// When it can't be written as JSON.
    pub fn new(config: &impl Serialize, writer: PipeWriter) -> Result<Self> {
        let text = serde_json::to_vec(config).context("write a configuration")?;
        Ok(Self { text, writer })
    }

    /// Writes it, once the process is there to read.
    ///
    /// # Errors
    /// When it is gone.
    pub fn write(mut self) -> Result<()> {
        let written = self.writer.write_all(&self.text);
        written.context("hand over a configuration")
    }
}

impl Program {
    pub(super) fn command(self) -> Result<Command> {
        let mut command = Command::new(self.path);
        // Before the descriptors get the program's numbers.
        if let Some(group) = self.group {
            enter(&mut command, group);
        }
        let mappings = (FIRST_FD..)
            .zip(self.descriptors)
            .map(|(child_fd, parent_fd)| FdMapping {
                parent_fd,
                child_fd,
            })
            .collect();
        command
            .args(self.arguments)
            // Nothing of the user's, such as passwords, is in a process that a guest attacks.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(self.stdout.map_or_else(Stdio::null, Stdio::from))
            .stderr(self.stderr)
            .fd_mappings(mappings)
            .context("pass descriptors")?;
        Ok(command)
    }

    /// Executes it as a child.
    pub(super) fn spawn(self) -> Result<Child> {
        Ok(Child::adopt(self.command()?.spawn()?)?)
    }

    /// So too, in this control group.
    pub(super) fn spawn_in(self, group: Option<OwnedFd>) -> Result<Child> {
        Self { group, ..self }.spawn()
    }

    /// Executes it as a child of this process's parent, in this control group. This process has one
    /// thread. Its number, and a descriptor that stands for it.
    pub(super) fn spawn_beside(self, group: Option<OwnedFd>) -> Result<(Pid, OwnedFd)> {
        let mut command = Self { group, ..self }.command()?;
        let (why, mut tell) = io::pipe().context("create a pipe")?;
        let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD;
        let mut process: RawFd = -1;
        // SAFETY: without CLONE_VM this is a fork, and the process has this thread only; the kernel writes
        // a number to the variable.
        let copy = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut process, 0, 0) };
        if copy == 0 {
            let error = command.exec();
            let _ = write!(tell, "{error}");
            // SAFETY: it ends the copy, which has nothing of its own to clean up.
            unsafe { libc::_exit(127) }
        }
        let pid = i32::try_from(copy).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel opened it for this process alone, just now.
        let process = unsafe { OwnedFd::from_raw_fd(process) };
        drop(tell);
        // The end comes with the execution, by which the copy's own end of the pipe is closed.
        let mut text = String::new();
        why.take(WHY_BYTES_MAX).read_to_string(&mut text)?;
        match text.as_str() {
            "" => Ok((pid, process)),
            text => bail!("{text}"),
        }
    }
}

/// Has a process enter a control group before it executes its program. One that may not runs without,
/// and says so.
fn enter(command: &mut Command, group: OwnedFd) {
    let enter = move || {
        if rustix::io::write(&group, b"0").is_err() {
            let _ = rustix::io::write(rustix::stdio::stderr(), WITHOUT_GROUP);
        }
        Ok(())
    };
    // SAFETY: between fork and execution it makes two system calls and allocates nothing.
    unsafe { command.pre_exec(enter) };
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::io::FdFlags;

    use super::*;

    fn some(count: usize) -> Vec<OwnedFd> {
        let null = || File::open("/dev/null").unwrap().into();
        std::iter::repeat_with(null).take(count).collect()
    }

    #[test]
    fn what_was_left_open_goes_to_no_program() {
        let left = File::open("/dev/null").unwrap();
        let flags = || rustix::io::fcntl_getfd(&left).unwrap();
        rustix::io::fcntl_setfd(&left, FdFlags::empty()).unwrap();
        keep_descriptors().unwrap();
        assert_eq!(flags(), FdFlags::CLOEXEC);
    }

    #[test]
    fn a_program_is_in_its_group_before_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cgroup.procs");
        let said = folder.path().join("said");
        let program = |group: File| Program {
            path: "/bin/true".into(),
            arguments: Vec::new(),
            stdout: None,
            stderr: File::create(&said).unwrap().into(),
            descriptors: some(3),
            group: Some(group.into()),
        };
        let end = |program: Program| program.spawn().unwrap().wait().unwrap();
        assert!(end(program(File::create(&path).unwrap())).success());
        // The kernel takes "0" for who writes it.
        assert_eq!(std::fs::read(&path).unwrap(), b"0");
        assert_eq!(std::fs::read(&said).unwrap(), b"");
        // One that can't be written to keeps nothing from running.
        assert!(end(program(File::open(&path).unwrap())).success());
        assert_eq!(std::fs::read(&said).unwrap(), WITHOUT_GROUP);
    }
}
