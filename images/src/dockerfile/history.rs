//! Text of the history as Go's `fmt` writes it, since that is what the classic builder did.
//!
//! Used by `steps`.

use crate::config::Healthcheck;

/// `NAME=value`, divided by blanks.
pub(super) fn spaced(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(" ")
}

/// As Go's `%q` of a list.
pub(super) fn quoted_list(list: &[String]) -> String {
    let list: Vec<String> = list.iter().map(|text| quoted(text)).collect();
    format!("[{}]", list.join(" "))
}

/// As Go's `%q` of a string.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// As Go's `%q` of Docker's structure: lengths of time as text, a number as a character.
pub(super) fn health_text(check: &Healthcheck) -> String {
    let times = [
        check.interval,
        check.timeout,
        check.start_period,
        check.start_interval,
    ];
    let times: Vec<String> = times
        .iter()
        .map(|nanos| quoted(&duration(*nanos)))
        .collect();
    let retries = match u32::try_from(check.retries).ok().and_then(char::from_u32) {
        Some(c) if c.is_ascii_control() => match c {
            '\t' => "'\\t'".to_owned(),
            '\n' => "'\\n'".to_owned(),
            '\r' => "'\\r'".to_owned(),
            '\x07' => "'\\a'".to_owned(),
            '\x08' => "'\\b'".to_owned(),
            '\x0b' => "'\\v'".to_owned(),
            '\x0c' => "'\\f'".to_owned(),
            c => format!("'\\x{:02x}'", u32::from(c)),
        },
        Some(c) => format!("'{c}'"),
        None => "'\u{fffd}'".to_owned(),
    };
    format!(
        "&{{{} {} {retries}}}",
        quoted_list(&check.test),
        times.join(" ")
    )
}

/// As Go writes a length of time: `1h2m3.5s`, `1.5ms`, `0s`.
fn duration(nanos: u64) -> String {
    let decimal = |whole: u64, unit: u64| {
        let fraction = format!("{:0width$}", whole % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{}{point}{fraction}", whole / unit)
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}
