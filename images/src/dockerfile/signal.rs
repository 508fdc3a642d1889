//! Signals by name or number, as STOPSIGNAL and `--stop-signal` write them.
//!
//! Pure; the numbers are Linux's.

/// The first real-time signal that programs may use: glibc keeps 32 and 33 to itself.
const RT_MIN: i32 = 34;

/// The last one.
const RT_MAX: i32 = 64;

/// Names of the signals from 1 on, without SIG (signal(7), x86 and ARM).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// A signal by name, with or without SIG, in upper or lower case, or by number; none of anything else.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    let number = match text.parse() {
        Ok(number) => number,
        Err(_) => by_name(&text.to_ascii_uppercase())?,
    };
    (1..=RT_MAX).contains(&number).then_some(number)
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
        "IOT" => "ABRT",
        _ => name,
    };
    (1..)
        .zip(NAMES)
        .find_map(|(number, known)| (known == name).then_some(number))
}
