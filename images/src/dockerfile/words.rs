//! A logical line into its instruction's name, flags and arguments, and those into words.
//!
//! Called by `instruction`. Quotes and escapes stay in words here, as in BuildKit: they go when
//! variables are replaced. Flags lose theirs at once.

use super::error::Fault;

/// An instruction, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command<'a> {
    pub(super) name: &'a str,
    pub(super) flags: Vec<String>,
    /// Without blanks around it.
    pub(super) args: &'a str,
}

/// What a JSON list is found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// A list of strings.
    Exec(Vec<String>),
    /// Anything else.
    Shell(String),
}

fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Takes a logical line apart.
pub(super) fn command(line: &str, escape: char) -> Command<'_> {
    let line = line.trim();
    let (name, rest) = line.split_once(is_blank).unwrap_or((line, ""));
    let (flags, args) = flags(rest, escape);
    Command {
        name,
        flags,
        args: args.trim(),
    }
}

/// Words that begin with `--`, and what is behind them. A `--` alone ends them.
fn flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let mut flag = String::new();
        let mut quote = None;
        let mut end = rest.len();
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match quote {
                None if c.is_whitespace() => {
                    end = at;
                    break;
                }
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ if c == escape => flag.extend(chars.next().map(|(_, c)| c)),
                _ => flag.push(c),
            }
        }
        rest = rest.get(end..).unwrap_or_default().trim_start();
        if flag == "--" {
            break;
        }
        flags.push(flag);
    }
    (flags, rest)
}

/// Words divided by blanks that are neither quoted nor escaped; quotes and escapes stay.
pub(super) fn words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                words.extend(word.take());
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        // Nothing is escaped in single quotes.
        if c == escape && quote != Some('\'') {
            let Some(next) = chars.next() else { break };
            word.get_or_insert_default().extend([c, next]);
            continue;
        }
        word.get_or_insert_default().push(c);
    }
    words.extend(word);
    words
}

/// Words divided by blanks, whatever is in them.
pub(super) fn plain_words(text: &str) -> Vec<String> {
    let words = text.split(is_blank).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// `["a", "b"]`, or text.
///
/// A list of other things than strings is an error; what is no JSON is text, as in Docker.
pub(super) fn form(text: &str) -> Result<Form, Fault> {
    if !text.starts_with('[') {
        return Ok(Form::Shell(text.to_owned()));
    }
    let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Ok(Form::Shell(text.to_owned()));
    };
    let strings = list.into_iter().map(|value| match value {
        serde_json::Value::String(text) if text.contains('\0') => {
            Err(Fault::new("there is a NUL byte in an argument"))
        }
        serde_json::Value::String(text) => Ok(text),
        _ => Err(Fault::new(
            "when using JSON array syntax, arrays must be comprised of strings only",
        )),
    });
    Ok(Form::Exec(strings.collect::<Result<_, _>>()?))
}
