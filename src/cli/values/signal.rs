//! Signals by name or number, as `--stop-signal` and STOPSIGNAL write them.

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

/// The first real-time signal that programs may use: glibc keeps 32 and 33 to itself.
const RT_MIN: i32 = 34;

/// The last one.
const RT_MAX: i32 = 64;

/// A signal by name, with or without SIG, in upper or lower case, or by number.
///
/// # Errors
/// `Invalid signal: TEXT`.
pub fn signal(text: &str) -> Result<i32> {
    let number = match text.parse() {
        Ok(number) => Some(number),
        Err(_) => by_name(&text.to_ascii_uppercase()),
    };
    match number {
        Some(number @ 1..=RT_MAX) => Ok(number),
        _ => bail!("Invalid signal: {text}"),
    }
}

fn by_name(upper: &str) -> Option<i32> {
    let name = upper.strip_prefix("SIG").unwrap_or(upper);
    let offset = |text: &str, sign: char| match text {
        "" => Some(0),
        _ => text.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from),
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return Some(RT_MIN + offset(rest, '+')?);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return Some(RT_MAX - offset(rest, '-')?).filter(|number| *number >= RT_MIN);
    }
    // Older names for the same numbers.
    let name = match name {
        "CLD" => "CHLD",
        "POLL" => "IO",
        _ => name,
    };
    let signal: Signal = format!("SIG{name}").parse().ok()?;
    Some(signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, want) in [
            ("TERM", 15),
            ("SIGKILL", 9),
            ("int", 2),
            ("sigusr1", 10),
            ("10", 10),
            ("CLD", 17),
            ("POLL", 29),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(signal(text).unwrap(), want, "{text}");
        }
        for text in [
            "0", "65", "-9", "NOPE", "", "SIG", "RTMIN+99", "RTMIN-1", "RTMAX-31", "RTMAX+1",
            "RTMIN+-1",
        ] {
            let error = signal(text).unwrap_err().to_string();
            assert_eq!(error, format!("Invalid signal: {text}"));
        }
    }
}
