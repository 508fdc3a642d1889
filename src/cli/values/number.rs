//! Numbers: bytes, CPUs, lists of CPUs, plain integers.

use anyhow::{Context, Result, bail};

/// Highest number of a CPU that is believed, far above any host.
const CPU_MAX: usize = 4096;

/// Fraction digits of bytes that count: finer ones are below a byte of any size that fits.
const BYTES_DIGITS: usize = 18;

/// Fraction digits of a number of CPUs that Docker takes: nanoseconds of a second.
const CPUS_DIGITS: usize = 9;

/// `1g`, `64m`, `1.5KiB`, `1024`: bytes with a binary suffix, in upper or lower case (what Docker
/// calls RAM in bytes).
///
/// # Errors
/// `invalid size: 'TEXT'`, also for what does not fit 63 bits.
pub fn bytes(text: &str) -> Result<u64> {
    parse(text, true).with_context(|| format!("invalid size: '{text}'"))
}

/// `10m` as ten million: bytes with a decimal suffix (what Docker calls a human size).
///
/// # Errors
/// As [`bytes`].
pub fn decimal_bytes(text: &str) -> Result<u64> {
    parse(text, false).with_context(|| format!("invalid size: '{text}'"))
}

fn parse(text: &str, binary: bool) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let split = lower.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = lower.split_at(split.unwrap_or(lower.len()));
    let power = match suffix.strip_prefix(' ').unwrap_or(suffix) {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    let unit = if binary { 1024_u128 } else { 1000 }.pow(power);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let part = |digits: &str| match digits {
        "" => Some(0),
        _ => digits.parse::<u128>().ok(),
    };
    let fraction = fraction.get(..BYTES_DIGITS).unwrap_or(fraction);
    let ten = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let total = part(whole)?
        .checked_mul(unit)?
        .checked_add(part(fraction)? * unit / ten)?;
    // Docker counts in signed 64 bits.
    u64::try_from(i64::try_from(total).ok()?).ok()
}

/// `1.5` in thousandths of a CPU; Docker's finer fractions do not count.
///
/// # Errors
/// In Docker's words.
pub fn cpus(text: &str) -> Result<u64> {
    let wrong = || format!("failed to parse {text} as a rational number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        bail!(wrong());
    }
    if fraction.len() > CPUS_DIGITS {
        bail!("value is too precise");
    }
    let whole: u64 = match whole {
        "" => 0,
        _ => whole.parse().with_context(wrong)?,
    };
    let thousandths: u64 = format!("{fraction:0<3.3}").parse().with_context(wrong)?;
    whole
        .checked_mul(1000)
        .and_then(|n| n.checked_add(thousandths))
        .with_context(wrong)
}

/// `0-3,5` as a sorted list.
///
/// # Errors
/// `invalid format: TEXT`.
pub fn cpu_set(text: &str) -> Result<Vec<usize>> {
    let wrong = || format!("invalid format: {text}");
    let mut all = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from: usize = from.parse().with_context(wrong)?;
        let to: usize = to.parse().with_context(wrong)?;
        if from > to || to >= CPU_MAX {
            bail!(wrong());
        }
        all.extend(from..=to);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// An integer.
///
/// # Errors
/// When it is none of 64 bits.
pub fn integer(text: &str) -> Result<i64> {
    text.parse().ok().context("not a whole number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, want) in [
            ("0", 0),
            ("1024", 1024),
            ("1b", 1),
            ("1B", 1),
            ("1k", 1024),
            ("1.5K", 1536),
            ("64MB", 64 << 20),
            ("64mib", 64 << 20),
            ("64MiB", 64 << 20),
            ("2g", 2 << 30),
            ("1t", 1 << 40),
            ("1p", 1 << 50),
            ("0.5m", 1 << 19),
            (".5m", 1 << 19),
            ("32.m", 32 << 20),
            ("1 kb", 1024),
            ("0.1", 0),
            ("1.000000000000000000000001k", 1024),
            ("9223372036854775807", i64::MAX as u64),
        ] {
            assert_eq!(bytes(text).unwrap(), want, "{text}");
        }
        for text in [
            "",
            "m",
            "-1",
            "1x",
            "1kk",
            "1ib",
            "1bb",
            "1kbb",
            "1e3",
            "9p p",
            " 1",
            "99999999999p",
            "9223372036854775808",
            ".",
            ".m",
            "1..5",
            "1.2.3",
            "+1",
        ] {
            let error = bytes(text).unwrap_err().to_string();
            assert_eq!(error, format!("invalid size: '{text}'"));
        }
    }

    #[test]
    fn cpus_are_counted_in_thousandths() {
        for (text, want) in [
            ("0", 0),
            ("1", 1000),
            ("1.5", 1500),
            (".25", 250),
            ("0.0015", 1),
            ("2.", 2000),
            ("1.123456789", 1123),
        ] {
            assert_eq!(cpus(text).unwrap(), want, "{text}");
        }
        for text in ["", ".", "x", "1.x", "-1", "1.-1", "+1", "99999999999999999"] {
            let error = cpus(text).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("failed to parse {text} as a rational number")
            );
        }
        let error = cpus("1.0000000001").unwrap_err().to_string();
        assert_eq!(error, "value is too precise");
    }

    #[test]
    fn cpu_sets_are_sorted_lists() {
        assert_eq!(cpu_set("5,0-2,1").unwrap(), [0, 1, 2, 5]);
        assert_eq!(cpu_set("3").unwrap(), [3]);
        for text in ["", "a", "3-1", "0-5000", "1,,2", "0-", "-1", "1-2-3"] {
            let error = cpu_set(text).unwrap_err().to_string();
            assert_eq!(error, format!("invalid format: {text}"));
        }
    }

    #[test]
    fn integers_have_signs_and_no_more() {
        assert_eq!(integer("-1").unwrap(), -1);
        for text in ["", "1.0", "many", "9223372036854775808"] {
            assert!(integer(text).is_err(), "{text}");
        }
    }
}
