//! Text to pieces: plain text, and actions as tokens. Called by [`super`]; it knows no grammar.

use anyhow::{Context, Result, bail};

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Printed as it is.
    Text(String),
    /// Between `{{` and `}}`.
    Action(Vec<Token>),
}

/// One token and whether a blank is in front of it: `.A .B` are two values, `.A.B` is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Nothing is between it and the token before.
    pub glued: bool,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `.` alone.
    Dot,
    /// `.Name`.
    Field(String),
    /// `$` or `$name`, without the dollar.
    Variable(String),
    /// A function or keyword.
    Word(String),
    /// A quoted text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// `|`.
    Pipe,
    /// `(`.
    Open,
    /// `)`.
    Close,
    /// `:=`.
    Declare,
    /// `=`.
    Assign,
    /// `,`.
    Comma,
}

/// Splits a template.
///
/// # Errors
/// An action that does not end, or a character that has no meaning in one.
pub fn pieces(text: &str) -> Result<Vec<Piece>> {
    let mut all = Vec::new();
    let mut rest = text;
    let mut trim = false;
    loop {
        let (plain, behind) = match rest.split_once("{{") {
            Some((plain, behind)) => (plain, Some(behind)),
            None => (rest, None),
        };
        let plain = if trim { plain.trim_start() } else { plain };
        // `{{- ` eats the blanks in front of it.
        let (plain, behind) = match behind {
            Some(behind) if behind.starts_with('-') && behind[1..].starts_with(blank) => {
                (plain.trim_end(), Some(&behind[1..]))
            }
            other => (plain, other),
        };
        if !plain.is_empty() {
            all.push(Piece::Text(plain.to_owned()));
        }
        let Some(behind) = behind else {
            return Ok(all);
        };
        if let Some(comment) = behind.trim_start().strip_prefix("/*") {
            let (_, after) = comment.split_once("*/").context("unclosed comment")?;
            (trim, rest) = end(after).context("comment ends before closing delimiter")?;
            continue;
        }
        let tokens;
        (tokens, trim, rest) = action(behind)?;
        all.push(Piece::Action(tokens));
    }
}

fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// The end of an action: whether the blanks behind it go, and what is behind it.
fn end(text: &str) -> Option<(bool, &str)> {
    let trimmed = text.trim_start_matches(blank);
    if let Some(rest) = trimmed.strip_prefix("-}}").filter(|_| text != trimmed) {
        return Some((true, rest));
    }
    trimmed.strip_prefix("}}").map(|rest| (false, rest))
}

/// The tokens of an action, and what [`end`] says.
fn action(text: &str) -> Result<(Vec<Token>, bool, &str)> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        if let Some((trim, behind)) = end(rest) {
            return Ok((tokens, trim, behind));
        }
        let trimmed = rest.trim_start_matches(blank);
        let glued = trimmed.len() == rest.len();
        let (kind, behind) = token(trimmed)?;
        tokens.push(Token { kind, glued });
        rest = behind;
    }
}

fn token(text: &str) -> Result<(Kind, &str)> {
    let Some(first) = text.chars().next() else {
        bail!("unclosed action");
    };
    let behind = &text[first.len_utf8()..];
    Ok(match first {
        '|' => (Kind::Pipe, behind),
        '(' => (Kind::Open, behind),
        ')' => (Kind::Close, behind),
        ',' => (Kind::Comma, behind),
        '=' => (Kind::Assign, behind),
        ':' => match behind.strip_prefix('=') {
            Some(behind) => (Kind::Declare, behind),
            None => bail!("expected :="),
        },
        '.' if !behind.starts_with(|c: char| c.is_ascii_digit()) => match word(behind) {
            ("", behind) => (Kind::Dot, behind),
            (name, behind) => (Kind::Field(name.to_owned()), behind),
        },
        '$' => {
            let (name, behind) = word(behind);
            (Kind::Variable(name.to_owned()), behind)
        }
        '"' => quoted(behind)?,
        '`' => match behind.split_once('`') {
            Some((raw, behind)) => (Kind::Text(raw.to_owned()), behind),
            None => bail!("unterminated raw quoted string"),
        },
        '.' | '+' | '-' | '0'..='9' => number(text)?,
        _ => match word(text) {
            ("", _) => bail!("unexpected {first:?} in command"),
            (name, behind) => (Kind::Word(name.to_owned()), behind),
        },
    })
}

/// A name at the beginning.
fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    text.split_at(end.unwrap_or(text.len()))
}

/// A text whose opening quote has been read.
fn quoted(text: &str) -> Result<(Kind, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                let (inside, behind) = (&text[..at], &text[at + 1..]);
                return Ok((Kind::Text(unescaped(inside)?), behind));
            }
            '\n' => break,
            _ => {}
        }
    }
    bail!("unterminated quoted string")
}

fn unescaped(text: &str) -> Result<String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some(c @ ('\\' | '"' | '\'')) => c,
            other => bail!("unknown escape \\{}", other.unwrap_or(' ')),
        });
    }
    Ok(out)
}

fn number(text: &str) -> Result<(Kind, &str)> {
    let end = text[1..]
        .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_'))
        .map_or(text.len(), |end| end + 1);
    let (digits, behind) = text.split_at(end);
    let kind = match digits.parse() {
        Ok(number) => Kind::Integer(number),
        Err(_) => Kind::Float(
            digits
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite())
                .with_context(|| format!("bad number syntax: {digits:?}"))?,
        ),
    };
    Ok((kind, behind))
}
