//! Stopping a container from outside: SIGTERM to its supervisor becomes the stop signal to its
//! process, and SIGKILL when that has not ended in time. Called by [`super::supervisor`].

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// From SIGKILL to the report of the process's end, as in Docker; then its VM is killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How far a stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody asked.
    None,
    /// The stop signal was sent.
    Asked,
    /// SIGKILL was sent.
    Killed,
}

/// A stop that may be asked for at any time.
#[derive(Debug)]
pub struct Stop {
    asked: SignalFd,
    signal: i32,
    timeout: Option<Duration>,
    stage: Stage,
    deadline: Option<Instant>,
}

impl Stop {
    /// Blocks SIGTERM for this thread and those it starts, and for processes that it starts: a VMM
    /// that everyone on the host asks to end waits for its guest.
    ///
    /// # Errors
    /// When the kernel has no descriptor for it.
    pub fn new(signal: i32, timeout_s: i64) -> Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.thread_block().context("block SIGTERM")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self {
            asked: SignalFd::with_flags(&signals, flags).context("wait for SIGTERM")?,
            signal,
            // A negative one is for ever.
            timeout: u64::try_from(timeout_s).ok().map(Duration::from_secs),
            stage: Stage::None,
            deadline: None,
        })
    }

    /// Readable when a stop is asked for; then [`Self::due`] says what to do.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.asked.as_fd()
    }

    /// When to call [`Self::due`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The signal that the process gets now.
    ///
    /// # Errors
    /// When the process outlived SIGKILL: whatever the guest is at, its VM has to go.
    pub fn due(&mut self, now: Instant) -> Result<Option<i32>> {
        // A second one does not change what the first began.
        let asked = self.asked.read_signal().context("read a signal")?.is_some();
        let late = self.deadline.is_some_and(|at| now >= at);
        let (stage, signal, timeout) = match self.stage {
            Stage::None if asked => (Stage::Asked, self.signal, self.timeout),
            Stage::Asked if late => (Stage::Killed, libc::SIGKILL, Some(KILL_TIMEOUT)),
            Stage::Killed if late => bail!("the process did not end after SIGKILL"),
            _ => return Ok(None),
        };
        self.stage = stage;
        // One beyond the end of time is for ever, too.
        self.deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        Ok(Some(signal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SIGTERM to this thread alone; it stays blocked, and is read by the descriptor.
    fn ask() {
        nix::sys::signal::raise(Signal::SIGTERM).unwrap();
    }

    #[test]
    fn the_stop_signal_comes_first_and_sigkill_when_time_is_up() {
        let mut stop = Stop::new(10, 3).unwrap();
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(stop.due(begin).unwrap(), None);
        ask();
        assert_eq!(stop.due(begin).unwrap(), Some(10));
        assert_eq!(stop.deadline(), Some(after(3)));
        ask();
        assert_eq!(stop.due(after(2)).unwrap(), None);
        assert_eq!(stop.due(after(3)).unwrap(), Some(9));
        assert_eq!(stop.due(after(12)).unwrap(), None);
        let error = stop.due(after(13)).unwrap_err().to_string();
        assert_eq!(error, "the process did not end after SIGKILL");
    }

    #[test]
    fn a_negative_time_and_one_beyond_all_clocks_are_for_ever() {
        for timeout_s in [-1, i64::MIN, i64::MAX] {
            let mut stop = Stop::new(15, timeout_s).unwrap();
            ask();
            assert_eq!(stop.due(Instant::now()).unwrap(), Some(15), "{timeout_s}");
            assert_eq!(stop.deadline(), None, "{timeout_s}");
        }
    }
}
