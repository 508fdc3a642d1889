//! A process that this one is the parent of and waits for by itself, whoever made it: it may be that a
//! [`super::launcher`] did. Used for a VM's starter, its file server and its passt.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// A child that nobody else waits for.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    status: Option<ExitStatus>,
}

impl Child {
    /// The child with this number.
    #[must_use]
    pub fn of(pid: Pid) -> Self {
        Self { pid, status: None }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends it at once, as far as it has not ended.
    pub fn kill(&mut self) {
        if self.status.is_none() {
            // It is not waited for, so that the number is its own.
            let _ = kill_process(self.pid, Signal::KILL);
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

impl From<std::process::Child> for Child {
    fn from(child: std::process::Child) -> Self {
        Self::of(Pid::from_child(&child))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_once() {
        let mut child = Child::from(
            std::process::Command::new("cat")
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap(),
        );
        child.kill();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(
            child.try_wait().unwrap().unwrap().signal(),
            Some(libc::SIGKILL)
        );
        child.kill();
        let mut child = Child::from(std::process::Command::new("false").spawn().unwrap());
        while child.try_wait().unwrap().is_none() {}
        assert_eq!(child.wait().unwrap().code(), Some(1));
        let stranger = Pid::from_raw(1).unwrap();
        assert!(Child::of(stranger).wait().is_err());
    }
}
