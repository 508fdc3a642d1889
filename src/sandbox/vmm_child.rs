//! The VMM's process as its supervisor has it: a child that another child made
//! ([`super::vmm_jail`]), which has ended by then.
//!
//! It knows how to end it and how it ended, nothing of what it runs.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use anyhow::{Context, Result};
use rustix::process::Pid;

use super::child::Child;
use super::vmm_jail::{PANIC_CODE, Said};
use super::wire::Link;

/// A process that is waited for.
#[derive(Debug)]
pub struct VmmChild {
    /// Its starter where it could not be made: the report says why.
    process: Child,
    is_made: bool,
    has_started: bool,
}

impl VmmChild {
    /// The process that `starter` makes, which says so on `output`; waits until it is there.
    ///
    /// # Errors
    /// When the starter can't be waited for.
    pub fn of(mut starter: Child, output: UnixStream) -> Result<Self> {
        let said = made_by(output);
        starter.wait().context("wait for the VMM's start")?;
        let (made, has_started) = said?;
        Ok(Self {
            is_made: made.is_some(),
            process: made.unwrap_or(starter),
            has_started,
        })
    }

    /// Whether it is shut in and goes on; else the report says why not.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.has_started
    }

    /// Its process id; 0 when it could not be made.
    #[must_use]
    pub fn id(&self) -> u32 {
        match self.is_made {
            true => self.process.pid().as_raw_nonzero().get().unsigned_abs(),
            false => 0,
        }
    }

    /// Ends it at once, as far as it has not ended.
    pub fn kill(&mut self) {
        // Root's has another user, in a namespace that is root's.
        let _ = self.process.kill();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When somebody else waited for it.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.process.wait().context("wait for the VMM process")
    }
}

impl AsFd for VmmChild {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

/// The process, and whether it goes on.
fn made_by(output: UnixStream) -> Result<(Option<Child>, bool)> {
    let about = "read the VMM's process id";
    let mut link = Link::new(output);
    let id = match link.wait().context(about)? {
        Some(Said::Made(id)) => id,
        _ => return Ok((None, false)),
    };
    let pid = Pid::from_raw(id).context(about)?;
    let made = Child::of(pid, link.take_one().context(about)?);
    let has_started = matches!(link.wait().context(about)?, Some(Said::Started));
    Ok((Some(made), has_started))
}

/// Why a VMM that reported nothing ended, in one sentence.
#[must_use]
pub fn cause(status: ExitStatus) -> String {
    if status.signal() == Some(libc::SIGSYS) {
        return "the VMM made a system call that it may not make, or had no memory left within its limit, and \
            was ended (SIGSYS; the kernel's log has the call: `dmesg | grep type=1326`)"
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
        let null = std::fs::File::open("/dev/null").unwrap();
        let made = |said: &[(Said, bool)]| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let starter = Link::new(theirs);
            for (word, has_descriptor) in said {
                let descriptors = [null.as_fd()];
                let count = usize::from(*has_descriptor);
                starter.send(word, &descriptors[..count]).unwrap();
            }
            drop(starter);
            let mut command = std::process::Command::new("/bin/sh");
            let child = command.args(["-c", "exit 3"]).spawn().unwrap();
            VmmChild::of(Child::adopt(child).unwrap(), ours)
        };
        let mut none = made(&[]).unwrap();
        assert_eq!((none.id(), none.has_started()), (0, false));
        assert_eq!(none.wait().unwrap().code(), Some(3));
        none.kill();
        // What stands for the process is missing, or there is none.
        assert!(made(&[(Said::Made(7), false)]).is_err());
        assert!(made(&[(Said::Made(0), true)]).is_err());
        let failed = made(&[(Said::Made(4_194_304), true)]).unwrap();
        assert_eq!((failed.id(), failed.has_started()), (4_194_304, false));
        let goes_on = [(Said::Made(4_194_304), true), (Said::Started, false)];
        assert!(made(&goes_on).unwrap().has_started());
    }
}
