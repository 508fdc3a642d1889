//! Lengths of time and moments, as Go and Docker write them.

use anyhow::{Context, Result, bail};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Length of a date, `2006-01-02`.
const DATE_LEN: usize = 10;

/// `1m30s`, `1.5h`, `-2s`, `0`: a length of time as Go writes it.
///
/// # Errors
/// In Go's words.
pub fn duration(text: &str) -> Result<SignedDuration> {
    parse(text).with_context(|| format!("time: invalid duration \"{text}\""))
}

fn parse(text: &str) -> Option<SignedDuration> {
    images::dockerfile::duration_ns(text).map(SignedDuration::from_nanos)
}

/// A moment as `--since` and `--until` take it: RFC 3339 or its beginning, seconds since 1970, or how
/// long before `now`.
///
/// # Errors
/// When it is none of these.
pub fn moment(text: &str, now: Timestamp) -> Result<Timestamp> {
    // As in Docker a 0 alone is 1970, which is before all.
    if text != "0"
        && let Some(ago) = parse(text)
    {
        return now.checked_sub(ago).context("the time is out of range");
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let nanos = format!("{fraction:0<9.9}").parse().ok();
        if let (Ok(seconds), Some(nanos)) = (seconds.parse(), nanos) {
            return Timestamp::new(seconds, nanos).context("the time is out of range");
        }
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    // A day with an offset: its first moment there.
    if let Some((date, zone)) = text.split_at_checked(DATE_LEN)
        && let Ok(time) = format!("{date}T00:00:00{zone}").parse::<Timestamp>()
    {
        return Ok(time);
    }
    // Without an offset it is the user's own time.
    let own = TimeZone::system();
    let local = text.parse::<DateTime>().ok().or_else(|| {
        let date: Date = text.parse().ok()?;
        Some(date.to_datetime(jiff::civil::Time::midnight()))
    });
    match local {
        Some(local) => Ok(own.to_timestamp(local)?),
        None => bail!("failed to parse value as time or duration: \"{text}\""),
    }
}

/// As [`moment`], for a flag that may be absent or empty.
///
/// # Errors
/// As [`moment`], with the flag's name.
pub fn moment_of_flag(text: Option<&str>, name: &str, now: Timestamp) -> Result<Option<Timestamp>> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => moment(text, now)
            .with_context(|| format!("invalid value for \"{name}\""))
            .map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_gos() {
        for (text, millis) in [
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("0", 0),
            ("-2s", -2000),
            ("100ms", 100),
            ("1h2m3.5s", 3_723_500),
            (".5s", 500),
        ] {
            assert_eq!(parse(text).unwrap().as_millis(), millis, "{text}");
        }
        for text in ["", "5", "5x", "s", "1s2", "-", "9999999999h", "1..2s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn moments_have_three_forms() {
        let now: Timestamp = "2025-01-02T12:00:00Z".parse().unwrap();
        for (text, want) in [
            ("2025-01-02T03:04:05.5Z", "2025-01-02T03:04:05.5Z"),
            ("2025-01-02T03:04:05+01:00", "2025-01-02T02:04:05Z"),
            ("10m", "2025-01-02T11:50:00Z"),
            ("0", "1970-01-01T00:00:00Z"),
            ("0s", "2025-01-02T12:00:00Z"),
            ("2025-01-02Z", "2025-01-02T00:00:00Z"),
            ("2025-01-02+02:00", "2025-01-01T22:00:00Z"),
            ("1735689600", "2025-01-01T00:00:00Z"),
            ("1735689600.25", "2025-01-01T00:00:00.25Z"),
        ] {
            let want: Timestamp = want.parse().unwrap();
            assert_eq!(moment(text, now).unwrap(), want, "{text}");
        }
        for text in ["yesterday", "2025-13-01", "2025-01-02x", "2025-01-0ä"] {
            moment(text, now).unwrap_err();
        }
        let local = moment("2025-01-02", now).unwrap();
        assert!((local.as_second() - 1_735_776_000).abs() <= 14 * 3600);
    }
}
