//! RFC 3339 times of configs: checked, kept as written, and comparable.
//!
//! Used by configs and by `images`, `history` and `inspect`. It knows no time zones beyond an offset and
//! no leap seconds, as RFC 3339 section 5.6 has them.

use std::fmt;

/// A point in time as an image gives it, for example `2024-05-01T12:00:00.5Z`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamp {
    text: String,
    seconds: i64,
}

impl Timestamp {
    /// The time that `text` names, or `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        // The longest form that is used has nanoseconds and an offset.
        if text.len() > 40 || !text.is_ascii() {
            return None;
        }
        let number = |from: usize, len: usize| -> Option<i64> {
            let digits = text.get(from..from.checked_add(len)?)?;
            digits
                .bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| digits.parse().ok())?
        };
        let separator = |at: usize, wanted: &[u8]| {
            text.as_bytes()
                .get(at)
                .is_some_and(|byte| wanted.contains(byte))
        };
        let separators = separator(4, b"-")
            && separator(7, b"-")
            && separator(10, b"Tt ")
            && separator(13, b":")
            && separator(16, b":");
        if !separators {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
        let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
        let valid = (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second <= 60;
        if !valid {
            return None;
        }
        let rest = text.get(19..)?;
        let rest = match rest.strip_prefix('.') {
            Some(fraction) => {
                let zone = fraction.trim_start_matches(|digit: char| digit.is_ascii_digit());
                (zone.len() < fraction.len()).then_some(zone)?
            }
            None => rest,
        };
        let offset = match rest.as_bytes() {
            b"Z" | b"z" => 0,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
                let at = text.len().checked_sub(5)?;
                let (hours, minutes) = (number(at, 2)?, number(at + 3, 2)?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                let offset = hours * 3600 + minutes * 60;
                if *sign == b'+' { offset } else { -offset }
            }
            _ => return None,
        };
        let seconds =
            days_from_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
                - offset;
        Some(Self {
            text: text.to_owned(),
            seconds,
        })
    }

    /// Seconds since 1970-01-01T00:00:00Z; before that they are negative.
    pub fn unix_seconds(&self) -> i64 {
        self.seconds
    }

    /// The time as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days between 1970-01-01 and a date of the Gregorian calendar, for years 0 to 9999.
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let leap_days = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let years = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let months: i64 = (1..month).map(|month| days_in_month(year, month)).sum();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:30:45Z", 951_827_445),
            ("2024-05-01T12:00:00.123456789Z", 1_714_564_800),
            ("2024-05-01T14:00:00+02:00", 1_714_564_800),
            ("2024-05-01t06:30:00.5-05:30", 1_714_564_800),
            ("0001-01-01T00:00:00Z", -62_135_596_800),
            ("1969-12-31T23:59:59Z", -1),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            let time = Timestamp::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((time.unix_seconds(), time.as_str()), (seconds, text));
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2024",
            "2024-05-01",
            "2024-05-01T12:00:00",
            "2024-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-05-01T24:00:00Z",
            "2024-05-01T12:00:00.Z",
            "2024-05-01T12:00:00+2:00",
            "2024-05-01T12:00:00Zx",
            "2024-05-01T12:00:00+99:00",
            "+024-05-01T12:00:00Z",
            "2024-05-01T12:00:00\x1b[2JZ",
            "٢٠٢٤-05-01T12:00:00Z",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text:?}");
        }
    }
}
