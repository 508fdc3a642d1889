//! The VMM's process as its supervisor has it: a child that another child made
//! ([`super::vmm_jail`]), which has ended by then.
//!
//! It knows how to end it and how it ended, nothing of what it runs.

use std::io::{BufRead, BufReader, PipeReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use anyhow::{Context, Result};
use rustix::process::Pid;

use super::child::Child;
use super::vmm_jail::{PANIC_CODE, STARTED};

/// Bytes of what the starter says: a number and a word.
const WORDS_BYTES_MAX: u64 = 64;

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
    pub fn of(mut starter: Child, output: PipeReader) -> Result<Self> {
        let said = words_of(output);
        starter.wait().context("wait for the VMM's start")?;
        let (pid, has_started) = said?;
        Ok(Self {
            process: pid.map_or(starter, Child::of),
            is_made: pid.is_some(),
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
        self.process.kill();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When somebody else waited for it.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.process.wait().context("wait for the VMM process")
    }
}

/// The process's id, and whether it goes on.
fn words_of(output: PipeReader) -> Result<(Option<Pid>, bool)> {
    let mut lines = BufReader::new(output.take(WORDS_BYTES_MAX)).lines();
    let Some(id) = lines.next() else {
        return Ok((None, false));
    };
    let about = "read the VMM's process id";
    let id: i32 = id.context(about)?.parse().context(about)?;
    let is_started = matches!(lines.next(), Some(Ok(word)) if word == STARTED);
    Ok((Pid::from_raw(id), is_started))
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
        let made = |script: &str| {
            let (said, output) = std::io::pipe().unwrap();
            let mut command = std::process::Command::new("/bin/sh");
            let child = command.args(["-c", script]).stdout(output).spawn().unwrap();
            drop(command);
            VmmChild::of(child.into(), said)
        };
        let mut none = made("exit 3").unwrap();
        assert_eq!((none.id(), none.has_started()), (0, false));
        assert_eq!(none.wait().unwrap().code(), Some(3));
        none.kill();
        assert!(made("echo x").is_err());
        let failed = made("echo 4194304; exit 1").unwrap();
        assert_eq!((failed.id(), failed.has_started()), (4_194_304, false));
        let goes_on = made("echo 4194304; echo started").unwrap();
        assert!(goes_on.has_started());
    }
}
