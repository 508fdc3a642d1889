//! The clocks: monotonic for the phases of a start, comparable between processes of one host; wall
//! clock as RFC 3339 for what users read.

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let (seconds, nanos) = (time.tv_sec(), time.tv_nsec());
        u64::try_from(seconds).unwrap_or(0) * 1_000_000_000 + u64::try_from(nanos).unwrap_or(0)
    })
}

/// Now, as Docker writes it: `2006-01-02T15:04:05.999999999Z`.
#[must_use]
pub fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// Docker's zero time: it has not happened.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// A moment in seconds since 1970, as Docker writes it; the zero time where there is no such year.
#[must_use]
pub fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| ZERO_TIME.to_owned(), |at| at.to_string())
}
