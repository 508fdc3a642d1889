//! Functions: Go's own, and those that Docker adds. [`super`] hands them to `eval`; `parser` asks for their
//! names.

use std::cmp::Ordering;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::left_out;
use super::print::{holds, plain, sorted};
use super::verb::Verb;

/// All of them; `and` and `or` evaluate only what they need, and are not called.
pub const NAMES: [&str; 26] = [
    "and", "eq", "ge", "gt", "html", "index", "join", "js", "json", "le", "len", "lower", "lt",
    "ne", "not", "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate",
    "upper", "urlquery",
];

/// Calls a function by its name.
pub type Call = fn(&str, &[Value]) -> Result<Value>;

/// Calls a function.
///
/// # Errors
/// A name that is none, or arguments it can't take.
pub fn call(name: &str, args: &[Value]) -> Result<Value> {
    Ok(match (name, args) {
        ("json", [value]) => left_out::without(value).to_string().into(),
        ("lower", [value]) => text(value)?.to_lowercase().into(),
        ("upper", [value]) => text(value)?.to_uppercase().into(),
        ("title", [value]) => title(text(value)?).into(),
        ("split", [value, separator]) => {
            let (value, separator) = (text(value)?, text(separator)?);
            if separator.is_empty() {
                value.chars().map(String::from).collect()
            } else {
                value.split(separator).map(str::to_owned).collect()
            }
        }
        // A list that is not there.
        ("join", [Value::Null, _]) => "".into(),
        ("join", [list, separator]) => {
            let list = list.as_array().context("wrong type: not a list")?;
            let list: Vec<&str> = list.iter().map(text).collect::<Result<_>>()?;
            list.join(text(separator)?).into()
        }
        ("pad", [value, before, after]) => match text(value)? {
            "" => "".into(),
            text => {
                let (before, after) = (count(before)?, count(after)?);
                format!("{:before$}{text}{:after$}", "", "").into()
            }
        },
        ("truncate", [value, length]) => {
            let length = count(length)?;
            text(value)?.chars().take(length).collect::<String>().into()
        }
        ("len", [value]) => length(value)?.into(),
        ("index", [_, _, ..]) => index(args)?,
        ("slice", [value, bounds @ ..]) => slice(value, bounds)?,
        ("not", [value]) => (!holds(value)).into(),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            let mut equal = false;
            for other in others {
                equal |= is_equal(first, other)?;
            }
            equal.into()
        }
        ("ne", [a, b]) => (!is_equal(a, b)?).into(),
        ("lt", [a, b]) => (order(a, b)? == Ordering::Less).into(),
        ("le", [a, b]) => (order(a, b)? != Ordering::Greater).into(),
        ("gt", [a, b]) => (order(a, b)? == Ordering::Greater).into(),
        ("ge", [a, b]) => (order(a, b)? != Ordering::Less).into(),
        ("print", args) => print(args).into(),
        ("println", args) => {
            let words: Vec<String> = args.iter().map(plain).collect();
            (words.join(" ") + "\n").into()
        }
        ("printf", [format, args @ ..]) => printf(text(format)?, args)?.into(),
        ("html", args) => print(args).chars().map(html).collect::<String>().into(),
        ("js", args) => print(args).chars().map(js).collect::<String>().into(),
        ("urlquery", args) => query(&print(args)).into(),
        (
            "json" | "lower" | "upper" | "title" | "split" | "join" | "pad" | "truncate" | "len"
            | "index" | "slice" | "not" | "eq" | "ne" | "lt" | "le" | "gt" | "ge" | "printf",
            args,
        ) => bail!("wrong number of args for {name}: got {}", args.len()),
        _ => bail!("function \"{name}\" not defined"),
    })
}

/// Calls a function where a table's headers are made: those that change words leave them as they are, as
/// Docker's do there. `pad` is none of them, so that headers stay above their columns.
///
/// # Errors
/// As [`call`].
pub fn call_in_header(name: &str, args: &[Value]) -> Result<Value> {
    match (name, args) {
        ("json" | "lower" | "title" | "upper", [header])
        | ("join" | "split" | "truncate", [header, _]) => Ok(header.clone()),
        // A single label's: the last part of its name.
        ("index", [Value::Object(none), Value::String(label)]) if none.is_empty() => {
            let last = label.rsplit('.').next().unwrap_or_default();
            Ok(last.replace(['-', '_'], " ").into())
        }
        _ => call(name, args),
    }
}

/// As Go's HTMLEscaper does.
fn html(c: char) -> String {
    match c {
        '"' => "&#34;".to_owned(),
        '\'' => "&#39;".to_owned(),
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '\0' => '\u{fffd}'.to_string(),
        other => other.to_string(),
    }
}

/// As Go's JSEscaper does.
fn js(c: char) -> String {
    match c {
        '\\' | '\'' | '"' => format!("\\{c}"),
        '<' | '>' | '&' | '=' => format!("\\u{:04X}", u32::from(c)),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        other => other.to_string(),
    }
}

/// As Go's URLQueryEscaper does.
fn query(text: &str) -> String {
    let bytes = text.bytes().map(|byte| match byte {
        b' ' => "+".to_owned(),
        b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    bytes.collect()
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| {
        format!(
            "wrong type for value; expected string; got {}",
            plain(value)
        )
    })
}

fn count(value: &Value) -> Result<usize> {
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
        .with_context(|| format!("wrong type for value; expected int; got {}", plain(value)))
}

/// Every word with a capital, as Go's old function does it.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric() || matches!(c, '_' | '\'');
    }
    out
}

fn length(value: &Value) -> Result<usize> {
    match value {
        Value::String(text) => Ok(text.len()),
        Value::Array(list) => Ok(list.len()),
        Value::Object(_) => Ok(sorted(value).len()),
        // A list or a map that is not there.
        Value::Null => Ok(0),
        other => bail!("len of type {}", plain(other)),
    }
}

/// `index VALUE KEY…`: an element of a list or a map, and so on. A key that a map does not have
/// gives what Go's empty string does.
fn index(args: &[Value]) -> Result<Value> {
    let (first, keys) = args.split_first().context("index of nothing")?;
    let mut value = first.clone();
    for key in keys {
        value = match (&value, key) {
            (Value::Array(list), _) => {
                let at = count(key)?;
                let element = list.get(at);
                element
                    .with_context(|| format!("index out of range: {at}"))?
                    .clone()
            }
            (Value::Object(map), Value::String(key)) => match map.get(key) {
                Some(value) => value.clone(),
                None => "".into(),
            },
            // What has no labels, say: a map that is not there.
            (Value::Null, Value::String(_)) => "".into(),
            (Value::Null, _) => bail!("index of nil pointer"),
            (other, _) => bail!("can't index {} with {}", plain(other), plain(key)),
        };
    }
    Ok(value)
}

/// `slice VALUE FROM TO` of a text or a list.
fn slice(value: &Value, bounds: &[Value]) -> Result<Value> {
    let (from, to) = match bounds {
        [] => (0, length(value)?),
        [from] => (count(from)?, length(value)?),
        [from, to] => (count(from)?, count(to)?),
        _ => bail!("cannot slice more than twice"),
    };
    let found = match value {
        Value::String(text) => text.get(from..to).map(Value::from),
        Value::Array(list) => list.get(from..to).map(|list| list.to_vec().into()),
        other => bail!("can't slice {}", plain(other)),
    };
    found.with_context(|| format!("index out of range: {from} to {to}"))
}

/// Numbers with numbers, texts with texts, switches with switches.
fn is_equal(a: &Value, b: &Value) -> Result<bool> {
    match (a, b) {
        (Value::Null, _) | (_, Value::Null) => Ok(a == b),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        _ => Ok(order(a, b)? == Ordering::Equal),
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering> {
    let found = match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64().partial_cmp(&b.as_f64()),
        },
        _ => None,
    };
    found.context("incompatible types for comparison")
}

/// Blanks between what is no text on either side.
fn print(args: &[Value]) -> String {
    let mut out = String::new();
    for (at, value) in args.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| args.get(at));
        if before.is_some_and(|before| !before.is_string() && !value.is_string()) {
            out.push(' ');
        }
        out.push_str(&plain(value));
    }
    out
}

/// `%s %d %v %q %t %x %X %f %%`, as [`Verb`] reads and shows them.
fn printf(format: &str, args: &[Value]) -> Result<String> {
    let mut out = String::new();
    let mut args = args.iter();
    let mut rest = format;
    while let Some((before, behind)) = rest.split_once('%') {
        out.push_str(before);
        let (verb, behind) = Verb::parse(behind)?;
        rest = behind;
        if verb.letter == '%' {
            out.push('%');
            continue;
        }
        let value = args
            .next()
            .with_context(|| format!("printf: %{} has no argument", verb.letter))?;
        out.push_str(&verb.shown(value));
    }
    out.push_str(rest);
    Ok(out)
}
