//! The clocks: monotonic for the phases of a start, comparable between processes of one host; wall
//! clock as RFC 3339 for what users read.
//! Called by the verbs, the supervisor and the VMM's process.

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

/// A moment as HTTP writes it (RFC 9110 section 5.6.7), in seconds since 1970.
#[must_use]
pub fn http_date(text: &str) -> Option<i64> {
    let at = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(at.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_servers_are_read() {
        assert_eq!(
            http_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777)
        );
        assert_eq!(http_date("yesterday"), None);
    }
}
