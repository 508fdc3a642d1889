//! The VMM's process as its supervisor has it: a child that another child made
//! ([`super::vmm_jail`]), which has ended by then.
//!
//! It knows how to end it and how it ended, nothing of what it runs.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, ExitStatus};

use anyhow::{Context, Result, bail};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::vmm_jail::{PANIC_CODE, STARTED};

/// Bytes of what the starter says: a number and a word.
const WORDS_BYTES_MAX: u64 = 64;

/// A process that is waited for.
#[derive(Debug)]
pub struct VmmChild {
    /// None where it could not be made: the report says why.
    pid: Option<Pid>,
    status: Option<ExitStatus>,
    has_started: bool,
}

impl VmmChild {
    /// The process that `starter`, whose standard output is a pipe, makes; waits until it is there.
    ///
    /// # Errors
    /// When the starter can't be waited for.
    pub fn of(mut starter: Child) -> Result<Self> {
        let said = starter.stdout.take().map(words_of).transpose();
        let ended = starter.wait().context("wait for the VMM's start")?;
        let (pid, has_started) = said?.unwrap_or_default();
        Ok(Self {
            pid,
            status: pid.is_none().then_some(ended),
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
        let pid = self.pid.map(|pid| pid.as_raw_nonzero().get());
        pid.map_or(0, i32::unsigned_abs)
    }

    /// Ends it at once, as far as it has not ended.
    pub fn kill(&mut self) {
        if let (Some(pid), None) = (self.pid, self.status) {
            // It is this process's child and not waited for, so that the number is its own.
            let _ = kill_process(pid, Signal::KILL);
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
        let ended = retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
        let ended = ended.context("wait for the VMM process")?;
        // None only where nobody waits.
        let (_, status) = ended.context("wait for the VMM process")?;
        let status = ExitStatus::from_raw(status.as_raw());
        self.status = Some(status);
        Ok(status)
    }
}

/// The process's id, and whether it goes on.
fn words_of(output: ChildStdout) -> Result<(Option<Pid>, bool)> {
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
        let spawn = |script: &str| {
            std::process::Command::new("/bin/sh")
                .args(["-c", script])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut none = VmmChild::of(spawn("exit 3")).unwrap();
        assert_eq!((none.id(), none.has_started()), (0, false));
        assert_eq!(none.wait().unwrap().code(), Some(3));
        none.kill();
        assert!(VmmChild::of(spawn("echo x")).is_err());
        let failed = VmmChild::of(spawn("echo 4194304; exit 1")).unwrap();
        assert_eq!((failed.id(), failed.has_started()), (4_194_304, false));
        let goes_on = VmmChild::of(spawn("echo 4194304; echo started")).unwrap();
        assert!(goes_on.has_started());
    }
}
