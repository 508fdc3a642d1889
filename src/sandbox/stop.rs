//! Stopping a container: the stop signal to its process, and SIGKILL when that has not ended in
//! time; then its guest is to shut down, and last its VM goes. Asked for by a command, or by SIGTERM to
//! the supervisor. Called by [`super::supervisor`].

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// From SIGKILL to the report of the process's end, as in Docker; then its guest is to shut down.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// From there to that report; then its VM is killed. A guest that can do so at all does so at once.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A process that runs on after SIGKILL: its guest does not do what it is told.
#[derive(Debug, thiserror::Error)]
#[error("the process did not end after SIGKILL")]
pub struct Unkillable;

/// What is to be done because time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// SIGKILL is to be sent.
    Kill,
    /// The guest is to shut down: it tells what it knows and leaves its disk clean.
    Shutdown,
}

/// How far a stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Nobody asked.
    None,
    /// The stop signal was sent.
    Asked,
    /// SIGKILL was sent.
    Killed,
    /// The guest was asked to shut down.
    Shutdown,
}

/// A stop that may be asked for at any time.
#[derive(Debug)]
pub struct Stop {
    terminated: SignalFd,
    stage: Stage,
    deadline: Option<Instant>,
}

impl Stop {
    /// Blocks SIGTERM for this thread and those it starts, and for processes that it starts: a VMM
    /// that everyone on the host asks to end waits for its guest.
    ///
    /// # Errors
    /// When the kernel has no descriptor for it.
    pub fn new() -> Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.thread_block().context("block SIGTERM")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self {
            terminated: SignalFd::with_flags(&signals, flags).context("wait for SIGTERM")?,
            stage: Stage::None,
            deadline: None,
        })
    }

    /// Readable when SIGTERM came; then [`Self::was_terminated`] says so.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.terminated.as_fd()
    }

    /// Whether SIGTERM came since the last look.
    ///
    /// # Errors
    /// When the kernel can't tell.
    pub fn was_terminated(&self) -> Result<bool> {
        let signal = self.terminated.read_signal().context("read a signal")?;
        Ok(signal.is_some())
    }

    /// Somebody asks; `signal` is to be sent now unless SIGKILL was. Of several who ask, the most
    /// impatient counts. A negative time is for ever.
    #[must_use]
    pub fn ask(&mut self, now: Instant, signal: i32, timeout_s: i64) -> Option<i32> {
        if self.stage >= Stage::Killed {
            return None;
        }
        self.stage = Stage::Asked;
        let timeout = u64::try_from(timeout_s).ok().map(Duration::from_secs);
        // One beyond the end of time is for ever, too.
        let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        self.deadline = match (self.deadline, deadline) {
            (Some(before), Some(at)) => Some(before.min(at)),
            (before, at) => before.or(at),
        };
        Some(signal)
    }

    /// SIGKILL is to be sent now.
    pub fn kill(&mut self, now: Instant) {
        if self.stage < Stage::Killed {
            self.stage = Stage::Killed;
            self.deadline = now.checked_add(KILL_TIMEOUT);
        }
    }

    /// Whether the container is on its way to its end.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.stage != Stage::None
    }

    /// Whether the guest was asked to shut down.
    #[must_use]
    pub fn is_at_shutdown(&self) -> bool {
        self.stage == Stage::Shutdown
    }

    /// When to call [`Self::due`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What is to be done now because time is up.
    ///
    /// # Errors
    /// When the process outlived all of that: whatever the guest is at, its VM has to go.
    pub fn due(&mut self, now: Instant) -> Result<Option<Due>, Unkillable> {
        if self.deadline.is_none_or(|at| now < at) {
            return Ok(None);
        }
        match self.stage {
            Stage::None | Stage::Asked => {
                self.kill(now);
                Ok(Some(Due::Kill))
            }
            Stage::Killed => {
                self.stage = Stage::Shutdown;
                self.deadline = now.checked_add(SHUTDOWN_TIMEOUT);
                Ok(Some(Due::Shutdown))
            }
            Stage::Shutdown => Err(Unkillable),
        }
    }

    /// The process has ended.
    pub fn reset(&mut self) {
        self.stage = Stage::None;
        self.deadline = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stop_signal_comes_first_and_sigkill_when_time_is_up() {
        let mut stop = Stop::new().unwrap();
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(stop.due(begin).unwrap(), None);
        assert_eq!(stop.ask(begin, 10, 3), Some(10));
        assert_eq!(stop.deadline(), Some(after(3)));
        assert_eq!(stop.due(after(2)).unwrap(), None);
        assert_eq!(stop.due(after(3)).unwrap(), Some(Due::Kill));
        assert_eq!(stop.ask(after(4), 10, 0), None);
        assert_eq!(stop.due(after(12)).unwrap(), None);
        assert_eq!(stop.due(after(13)).unwrap(), Some(Due::Shutdown));
        assert!(stop.is_at_shutdown());
        // Nobody can begin again.
        stop.kill(after(14));
        assert_eq!(stop.ask(after(14), 10, 0), None);
        assert_eq!(stop.due(after(17)).unwrap(), None);
        let error = stop.due(after(18)).unwrap_err().to_string();
        assert_eq!(error, "the process did not end after SIGKILL");
        stop.reset();
        assert!(!stop.is_asked() && stop.due(after(99)).unwrap().is_none());
    }

    #[test]
    fn a_negative_time_and_one_beyond_all_clocks_are_for_ever() {
        for timeout_s in [-1, i64::MIN, i64::MAX] {
            let mut stop = Stop::new().unwrap();
            assert_eq!(
                stop.ask(Instant::now(), 15, timeout_s),
                Some(15),
                "{timeout_s}"
            );
            assert_eq!(stop.deadline(), None, "{timeout_s}");
        }
    }

    #[test]
    fn the_most_impatient_counts() {
        let mut stop = Stop::new().unwrap();
        let begin = Instant::now();
        for (timeout_s, left) in [
            (-1, None),
            (9, Some(9)),
            (20, Some(9)),
            (2, Some(2)),
            (-1, Some(2)),
        ] {
            assert_eq!(stop.ask(begin, 15, timeout_s), Some(15));
            let left = left.map(|seconds| begin + Duration::from_secs(seconds));
            assert_eq!(stop.deadline(), left);
        }
    }

    #[test]
    fn sigterm_is_told_once() {
        let stop = Stop::new().unwrap();
        assert!(!stop.was_terminated().unwrap());
        // To this thread alone; it stays blocked, and is read by the descriptor.
        nix::sys::signal::raise(Signal::SIGTERM).unwrap();
        assert!(stop.was_terminated().unwrap());
        assert!(!stop.was_terminated().unwrap());
    }
}
