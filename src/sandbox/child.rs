//! A process that this one is the parent of and waits for by itself, whoever made it: it may be that a
//! [`super::launcher`] did. Used for a VM's starter, its file server and its passt. What stands for it is
//! a descriptor (pidfd_open(2)) and not its number, so that who may end it may end nobody else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::io::retry_on_intr;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};

/// A child that nobody else waits for.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    /// Readable when it has ended.
    process: OwnedFd,
    status: Option<ExitStatus>,
}

impl Child {
    /// The child with this number, which `process` stands for.
    #[must_use]
    pub fn of(pid: Pid, process: OwnedFd) -> Self {
        Self {
            pid,
            process,
            status: None,
        }
    }

    /// The child that this process has just started.
    ///
    /// # Errors
    /// When there are no descriptors left; it is ended then.
    pub fn adopt(mut child: std::process::Child) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => Ok(Self::of(pid, process)),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends it at once, as far as it has not ended.
    ///
    /// # Errors
    /// When it has become another user, whom this process may not end.
    pub fn kill(&mut self) -> io::Result<()> {
        match self.status {
            None => Ok(pidfd_send_signal(&self.process, Signal::KILL)?),
            Some(_) => Ok(()),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When somebody else waited for it.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        match self.wait_by(WaitOptions::empty())? {
            Some(status) => Ok(status),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.wait_by(WaitOptions::NOHANG)
    }

    fn wait_by(&mut self, options: WaitOptions) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            let ended = retry_on_intr(|| waitpid(Some(self.pid), options))?;
            self.status = ended.map(|(_, status)| ExitStatus::from_raw(status.as_raw()));
        }
        Ok(self.status)
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_once() {
        let mut child = Child::adopt(
            std::process::Command::new("sleep")
                .arg("600")
                .spawn()
                .unwrap(),
        )
        .unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(
            child.try_wait().unwrap().unwrap().signal(),
            Some(libc::SIGKILL)
        );
        child.kill().unwrap();
        let child = std::process::Command::new("false").spawn().unwrap();
        let mut child = Child::adopt(child).unwrap();
        while child.try_wait().unwrap().is_none() {}
        assert_eq!(child.wait().unwrap().code(), Some(1));
        let stranger = Pid::from_raw(1).unwrap();
        let process = pidfd_open(stranger, PidfdFlags::empty()).unwrap();
        assert!(Child::of(stranger, process).wait().is_err());
    }
}
