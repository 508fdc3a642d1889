//! HEALTHCHECK: `NONE`, or flags and `CMD` with a command.
//!
//! Used by `instruction`. Lengths of time are Go's.

use super::error::Fault;
use super::flags::Flags;
use super::words::{self, Command, Form};
use crate::config::Healthcheck;
use crate::escape::printable;

/// Units of a length of time, in nanoseconds.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Fraction digits that count.
const DIGITS_MAX: usize = 18;

/// Less is refused.
const INTERVAL_MIN_NS: i64 = 1_000_000;

/// Parses the instruction.
pub(super) fn parse(command: &Command<'_>) -> Result<Healthcheck, Fault> {
    let (kind, rest) = match command.args.split_once(char::is_whitespace) {
        Some((kind, rest)) => (kind, rest.trim()),
        None => (command.args, ""),
    };
    let mut flags = Flags::parse(
        &command.flags,
        &[
            "interval",
            "timeout",
            "start-period",
            "start-interval",
            "retries",
        ],
        &[],
        &[],
    )?;
    let mut check = Healthcheck::default();
    match kind.to_ascii_uppercase().as_str() {
        "" => return Err(Fault::new("HEALTHCHECK requires at least one argument")),
        "NONE" if !rest.is_empty() => {
            return Err(Fault::new("HEALTHCHECK NONE takes no arguments").word(rest));
        }
        "NONE" if !command.flags.is_empty() => {
            return Err(Fault::new("HEALTHCHECK NONE takes no flags"));
        }
        "NONE" => check.test = vec!["NONE".to_owned()],
        "CMD" => {
            check.test = match words::form(rest)? {
                Form::Exec(list) if !list.is_empty() => [vec!["CMD".to_owned()], list].concat(),
                Form::Shell(text) if !text.is_empty() => vec!["CMD-SHELL".to_owned(), text],
                _ => return Err(Fault::new("Missing command after HEALTHCHECK CMD")),
            };
        }
        other => {
            let other = printable(other);
            let fault = Fault::new(format!("Unknown type \"{other}\" in HEALTHCHECK (try CMD)"));
            return Err(fault.word(kind));
        }
    }
    for (name, field) in [
        ("interval", &mut check.interval),
        ("timeout", &mut check.timeout),
        ("start-period", &mut check.start_period),
        ("start-interval", &mut check.start_interval),
    ] {
        if let Some(text) = flags.text(name) {
            *field = interval(name, &text)?;
        }
    }
    if let Some(text) = flags.text("retries") {
        let number: i32 = text.parse().map_err(|_| {
            let shown = printable(&text);
            let message = format!("strconv.ParseInt: parsing \"{shown}\": invalid syntax");
            Fault::new(message).word(&text)
        })?;
        check.retries = u64::try_from(number).map_err(|_| {
            Fault::new(format!("--retries cannot be negative ({number})")).word("--retries")
        })?;
    }
    Ok(check)
}

fn interval(name: &str, text: &str) -> Result<u64, Fault> {
    let nanos = duration_ns(text).ok_or_else(|| {
        let shown = printable(text);
        Fault::new(format!("time: invalid duration \"{shown}\"")).word(text)
    })?;
    match u64::try_from(nanos) {
        Ok(0) => Ok(0),
        Ok(positive) if nanos >= INTERVAL_MIN_NS => Ok(positive),
        _ => Err(Fault::new(format!("Interval \"{name}\" cannot be less than 1ms")).word(text)),
    }
}

/// `1m30s`, `1.5h`, `-2s`, `0`: a length of time as Go writes it, in nanoseconds; none of anything else.
#[must_use]
pub fn duration_ns(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(end)?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, tail) = tail.split_at_checked(unit_end.unwrap_or(tail.len()))?;
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let digits = |text: &str| match text {
            "" => Some(0),
            _ => text.parse::<u64>().ok().map(i128::from),
        };
        let fraction = fraction.get(..DIGITS_MAX).unwrap_or(fraction);
        let ten = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        total = total
            .checked_add(digits(whole)?.checked_mul(*unit)?)?
            .checked_add(digits(fraction)?.checked_mul(*unit)?.checked_div(ten)?)?;
        rest = tail;
    }
    // Go counts in signed 64 bits.
    i64::try_from(total.checked_mul(sign)?).ok()
}
