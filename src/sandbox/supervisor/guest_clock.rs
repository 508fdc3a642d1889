//! The guest's clock while its container runs: it is set when a VM starts, and by then the host may
//! sleep, have its own clock set, or let the two drift apart. The kernel says when the host's jumped
//! (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`; so does the end of a suspend), and every ten
//! minutes one looks.
//!
//! The guest is asked what time it has, and told by how much to set it: a difference stays true
//! however long the request is on its way. Called by [`super`] for VMs; plain containers have the
//! host's clock.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::super::clock::monotonic_ns;

/// Between two looks when nothing jumps: clocks drift apart by some 50 µs a second at most.
const PERIOD: Duration = Duration::from_secs(10 * 60);

/// Less is left as it is: setting a clock is worse for who measures than a tenth of a second.
const TOLERANCE_NS: u64 = 100_000_000;

/// When to look, and whether the guest was asked.
#[derive(Debug)]
pub(super) struct GuestClock {
    timer: TimerFd,
    /// `CLOCK_MONOTONIC` when the guest was asked, until it answers.
    asked_ns: Option<u64>,
}

impl GuestClock {
    /// # Errors
    /// When the kernel has no timer.
    pub(super) fn new() -> Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags).context("create a timer")?;
        let clock = Self {
            timer,
            asked_ns: None,
        };
        clock.arm()?;
        Ok(clock)
    }

    /// Readable when it is time to look; then [`Self::asks`] says so.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    fn arm(&self) -> Result<()> {
        let then = TimeSpec::from_duration(now() + PERIOD);
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        self.timer
            .set(Expiration::OneShot(then), flags)
            .context("set a timer")
    }

    /// Whether the guest is to be asked now. One that has not answered is not asked again.
    pub(super) fn asks(&mut self) -> bool {
        // It expired, or the host's clock was set.
        if !matches!(self.timer.wait(), Ok(()) | Err(Errno::ECANCELED)) {
            return false;
        }
        // A timer that can't be set again is no reason to end a container.
        let _ = self.arm();
        let asks = self.asked_ns.is_none();
        self.asked_ns.get_or_insert_with(monotonic_ns);
        asks
    }

    /// By how many nanoseconds the guest is to set its clock, which it says is `guest_ns`: 0 when it may
    /// stay, `None` when nobody asked.
    pub(super) fn answered(&mut self, guest_ns: u64) -> Option<i64> {
        let took_ns = monotonic_ns().saturating_sub(self.asked_ns.take()?);
        let host_ns = u64::try_from(now().as_nanos()).unwrap_or(u64::MAX);
        Some(shift(took_ns, host_ns, guest_ns))
    }
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// The difference between the host's clock, when the answer came, and what the guest said at some
/// moment of the time that it took: its middle is at most half of that off. 0 when that may be all.
fn shift(took_ns: u64, host_ns: u64, guest_ns: u64) -> i64 {
    let half_ns = took_ns / 2;
    let difference = i128::from(host_ns) - i128::from(half_ns) - i128::from(guest_ns);
    if difference.unsigned_abs() <= u128::from(half_ns) + u128::from(TOLERANCE_NS) {
        return 0;
    }
    // No clock is three hundred years off but a guest's that lies.
    i64::try_from(difference).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const HOST: u64 = 1_800_000_000 * S;

    #[test]
    fn a_clock_is_set_when_it_is_surely_off() {
        // What the guest says came at once.
        assert_eq!(shift(0, HOST, HOST), 0);
        assert_eq!(shift(0, HOST, HOST - TOLERANCE_NS), 0);
        assert_eq!(shift(0, HOST, HOST - S), 1_000_000_000);
        assert_eq!(shift(0, HOST, HOST + 3600 * S), -3_600_000_000_000);
        // It took four seconds: the guest's clock may be right wherever in them it was read.
        assert_eq!(shift(4 * S, HOST, HOST), 0);
        assert_eq!(shift(4 * S, HOST, HOST - 4 * S), 0);
        assert_eq!(shift(4 * S, HOST, HOST - 5 * S), 3_000_000_000);
        assert_eq!(shift(4 * S, HOST, HOST + S), -3_000_000_000);
    }

    #[test]
    fn a_guest_that_lies_gets_a_number() {
        for (took, host, guest) in [
            (0, 0, u64::MAX),
            (0, u64::MAX, 0),
            (u64::MAX, 0, u64::MAX),
            (u64::MAX, u64::MAX, u64::MAX),
        ] {
            assert_eq!(shift(took, host, guest), 0, "{took} {host} {guest}");
        }
        assert_eq!(shift(0, HOST, 0), 1_800_000_000_000_000_000);
    }

    #[test]
    fn it_asks_when_it_is_time_and_once_until_it_is_answered() {
        let mut clock = GuestClock::new().unwrap();
        assert!(!clock.asks(), "nothing jumped");
        assert_eq!(clock.answered(0), None, "nobody asked");
        let expire = |clock: &GuestClock| {
            let at = TimeSpec::from_duration(Duration::from_nanos(1));
            let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
            clock.timer.set(Expiration::OneShot(at), flags).unwrap();
        };
        expire(&clock);
        assert!(clock.asks());
        assert!(!clock.asks(), "it was armed for later");
        expire(&clock);
        assert!(!clock.asks(), "it was asked already");
        let late = u64::try_from(now().as_nanos()).unwrap() - 3600 * S;
        let shift = clock.answered(late).unwrap();
        assert!(
            (3_599_000_000_000..3_700_000_000_000).contains(&shift),
            "{shift}"
        );
        expire(&clock);
        assert!(clock.asks(), "and again");
    }
}
