//! Signals by name or number, as `--stop-signal` and STOPSIGNAL write them.

use anyhow::{Context, Result};
use images::dockerfile::signal_number;

/// A signal by name, with or without SIG, in upper or lower case, or by number.
///
/// # Errors
/// `Invalid signal: TEXT`.
pub fn signal(text: &str) -> Result<i32> {
    signal_number(text).with_context(|| format!("Invalid signal: {text}"))
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
