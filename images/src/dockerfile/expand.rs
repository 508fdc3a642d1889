//! Words of a Dockerfile: quotes taken away, escapes resolved, variables replaced.
//!
//! Used by `state` and `arguments` for every word that an instruction replaces variables in, and by `lines`
//! to find here-documents. It follows BuildKit's lexer (frontend/dockerfile/shell), which is near to what
//! a shell does. What it makes is bounded, and so is what it compares for patterns; that
//! `${a:-${b:-c}}` may be nested is bounded, too.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use super::glob::Glob;
use crate::escape::{printable, quoted};
use crate::limits::{EXPANSION_DEPTH, EXPANSION_WORK, WORD_BYTES};

/// Variables by name.
pub(crate) type Variables = BTreeMap<String, String>;

/// How words are read.
#[derive(Debug, Clone)]
pub(crate) struct Lexer<'a> {
    variables: Option<&'a Variables>,
    /// What may still be made and compared in this build.
    work: Option<&'a Cell<u64>>,
    escape: char,
    /// Quotes stay where they are, but have their meaning.
    raw_quotes: bool,
    /// So do escapes.
    raw_escapes: bool,
    /// Quotes mean nothing.
    plain_quotes: bool,
    limit: usize,
}

/// What was read: as one word, and taken apart at blanks that are not quoted.
type Read = (String, Vec<String>);

/// The characters that have to come, and how deep in braces they are.
struct Scan<'a> {
    chars: Peekable<Chars<'a>>,
    depth: usize,
}

impl<'a> Lexer<'a> {
    /// Replaces variables.
    pub(crate) fn new(escape: char, variables: &'a Variables, work: &'a Cell<u64>) -> Self {
        Self {
            variables: Some(variables),
            work: Some(work),
            escape,
            raw_quotes: false,
            raw_escapes: false,
            plain_quotes: false,
            limit: WORD_BYTES,
        }
    }

    /// Leaves variables as they are.
    pub(super) fn for_heredocs(raw: bool) -> Lexer<'static> {
        Lexer {
            variables: None,
            work: None,
            escape: '\\',
            raw_quotes: raw,
            raw_escapes: raw,
            plain_quotes: false,
            limit: crate::limits::DOCKERFILE_BYTES,
        }
    }

    /// The same for a here-document: quotes stay, and the escape is always a backslash.
    pub(crate) fn of_document(&self) -> Self {
        Self {
            escape: '\\',
            plain_quotes: true,
            limit: 2 * crate::limits::HEREDOC_BYTES,
            ..self.clone()
        }
    }

    /// A word, blanks in it kept.
    pub(crate) fn word(&self, text: &str) -> Result<String, String> {
        Ok(self.read(text)?.0)
    }

    /// Words, taken apart after variables were replaced.
    pub(crate) fn words(&self, text: &str) -> Result<Vec<String>, String> {
        Ok(self.read(text)?.1)
    }

    fn read(&self, text: &str) -> Result<Read, String> {
        let mut scan = Scan {
            chars: text.chars().peekable(),
            depth: 0,
        };
        self.until(&mut scan, None, self.raw_escapes)
            .map_err(|error| format!("failed to process {}: {error}", quoted(text)))
    }

    fn spend(&self, units: u64) -> Result<(), String> {
        let Some(work) = self.work else {
            return Ok(());
        };
        let left = work.get().checked_sub(units).ok_or_else(|| {
            format!("replacing variables takes more than {EXPANSION_WORK} bytes and comparisons")
        })?;
        work.set(left);
        Ok(())
    }

    /// Reads up to a character, or to the end without one.
    fn until(
        &self,
        scan: &mut Scan<'_>,
        stop: Option<char>,
        raw_escapes: bool,
    ) -> Result<Read, String> {
        let mut out = Words::default();
        while let Some(c) = scan.chars.next() {
            if Some(c) == stop {
                return Ok(out.finish());
            }
            match c {
                '\'' if !self.plain_quotes => out.raw(&self.single_quoted(scan)?),
                '"' if !self.plain_quotes => out.raw(&self.double_quoted(scan, raw_escapes)?),
                '$' => {
                    let value = self.dollar(scan)?;
                    self.spend(value.len() as u64)?;
                    value.chars().for_each(|c| out.split(c));
                }
                // Blanks behind `<<` belong to the word that follows.
                '<' if scan.chars.next_if_eq(&'<').is_some() => {
                    out.raw("<<");
                    while let Some(blank) = scan.chars.next_if(|c| matches!(c, '\t' | '\r' | ' ')) {
                        out.push(blank);
                    }
                }
                c if c == self.escape => {
                    if raw_escapes {
                        out.push(c);
                    }
                    match scan.chars.next() {
                        Some(next) => out.push(next),
                        None => break,
                    }
                }
                '<' => out.push(c),
                c => out.split(c),
            }
            if out.whole.len() > self.limit {
                return Err(format!(
                    "it is above the limit of {} bytes with its variables replaced",
                    self.limit
                ));
            }
        }
        match stop {
            Some(stop) => Err(missing(stop)),
            None => {
                self.spend(out.whole.len() as u64)?;
                Ok(out.finish())
            }
        }
    }

    fn single_quoted(&self, scan: &mut Scan<'_>) -> Result<String, String> {
        let mut out = String::new();
        self.quote(&mut out, '\'');
        for c in scan.chars.by_ref() {
            if c == '\'' {
                self.quote(&mut out, c);
                return Ok(out);
            }
            out.push(c);
        }
        Err(missing_quote("single-quote"))
    }

    fn double_quoted(&self, scan: &mut Scan<'_>, raw_escapes: bool) -> Result<String, String> {
        let mut out = String::new();
        self.quote(&mut out, '"');
        while let Some(c) = scan.chars.next() {
            match c {
                '"' => {
                    self.quote(&mut out, c);
                    return Ok(out);
                }
                '$' => {
                    let value = self.dollar(scan)?;
                    self.spend(value.len() as u64)?;
                    out.push_str(&value);
                }
                c if c == self.escape => {
                    if raw_escapes {
                        out.push(c);
                    }
                    // Only what means something is kept from it.
                    let means = |next: &char| matches!(next, '"' | '$') || *next == self.escape;
                    match scan.chars.next_if(means) {
                        Some(next) => out.push(next),
                        None if scan.chars.peek().is_some() => out.push(c),
                        None => {}
                    }
                }
                c => out.push(c),
            }
            if out.len() > self.limit {
                return Err(format!(
                    "it is above the limit of {} bytes with its variables replaced",
                    self.limit
                ));
            }
        }
        Err(missing_quote("double-quote"))
    }

    fn quote(&self, out: &mut String, quote: char) {
        if self.raw_quotes {
            out.push(quote);
        }
    }

    /// What is behind a `$`.
    fn dollar(&self, scan: &mut Scan<'_>) -> Result<String, String> {
        if scan.chars.next_if_eq(&'{').is_none() {
            let name = name(scan);
            return Ok(match (name.is_empty(), self.variables) {
                (true, _) => "$".to_owned(),
                (false, None) => format!("${name}"),
                (false, Some(variables)) => variables.get(&name).cloned().unwrap_or_default(),
            });
        }
        if scan.depth == EXPANSION_DEPTH {
            return Err(format!("more than {EXPANSION_DEPTH} variables are nested"));
        }
        scan.depth += 1;
        let value = self.braces(scan);
        scan.depth -= 1;
        value
    }

    fn braces(&self, scan: &mut Scan<'_>) -> Result<String, String> {
        match scan.chars.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = name(scan);
        let value = self.variables.and_then(|variables| variables.get(&name));
        let unsupported = |modifier: &str| {
            let modifier = printable(modifier);
            Err(format!("unsupported modifier ({modifier}) in substitution"))
        };
        let first = scan.chars.next();
        let (modifier, empty_is_unset) = match first {
            Some('}') => {
                return Ok(match (value, self.variables) {
                    (Some(value), _) => value.clone(),
                    (None, None) => format!("${{{name}}}"),
                    (None, Some(_)) => String::new(),
                });
            }
            Some('/') => return self.replaced(scan, &name, value),
            Some(':') => (scan.chars.next(), true),
            other => (other, false),
        };
        let Some(modifier) = modifier else {
            return Err("syntax error: missing '}'".to_owned());
        };
        let is_pattern = matches!(modifier, '#' | '%');
        match modifier {
            '+' | '-' | '?' => {}
            '#' | '%' if !empty_is_unset => {}
            _ if empty_is_unset => return unsupported(&format!(":{modifier}")),
            _ => return unsupported(&modifier.to_string()),
        }
        let (word, _) = self.until(scan, Some('}'), is_pattern).map_err(|error| {
            let is_end = scan.chars.peek().is_none() && error == missing('}');
            if is_end {
                "syntax error: missing '}'".to_owned()
            } else {
                error
            }
        })?;
        let set = value.filter(|value| !(empty_is_unset && value.is_empty()));
        let colon = if empty_is_unset { ":" } else { "" };
        match (modifier, set) {
            _ if self.variables.is_none() => Ok(format!("${{{name}{colon}{modifier}{word}}}")),
            ('-' | '?', Some(value)) => Ok(value.clone()),
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('?', None) => Err(match (word.is_empty(), value) {
                (false, _) => format!("{name}: {}", printable(&word)),
                (true, None) => format!("{name}: is not allowed to be unset"),
                (true, Some(_)) => format!("{name}: is not allowed to be empty"),
            }),
            (modifier, value) => self.trimmed(modifier, value.map_or("", String::as_str), &word),
        }
    }

    /// `#`, `##`, `%` and `%%`.
    fn trimmed(&self, modifier: char, value: &str, word: &str) -> Result<String, String> {
        let (pattern, longest) = match word.strip_prefix(modifier) {
            Some(pattern) => (pattern, true),
            None => (word, false),
        };
        let glob = pattern_of(pattern)?;
        let mut work = 0;
        let kept = if modifier == '#' {
            let value: Vec<char> = value.chars().collect();
            let len = glob.prefix(&value, longest, &mut work).unwrap_or(0);
            value.into_iter().skip(len).collect()
        } else {
            let value: Vec<char> = value.chars().rev().collect();
            let len = glob
                .reversed()
                .prefix(&value, longest, &mut work)
                .unwrap_or(0);
            value.into_iter().skip(len).rev().collect()
        };
        self.spend(work)?;
        Ok(kept)
    }

    /// `/pattern/text` and `//pattern/text`.
    fn replaced(
        &self,
        scan: &mut Scan<'_>,
        name: &str,
        value: Option<&String>,
    ) -> Result<String, String> {
        let all = scan.chars.next_if_eq(&'/').is_some();
        let missing = |stop: char, what: &'static str| {
            move |error: String| {
                if error == missing(stop) {
                    what.to_owned()
                } else {
                    error
                }
            }
        };
        let (pattern, _) = self
            .until(scan, Some('/'), true)
            .map_err(missing('/', "syntax error: missing '/' in ${}"))?;
        let (with, _) = self
            .until(scan, Some('}'), true)
            .map_err(missing('}', "syntax error: missing '}'"))?;
        if self.variables.is_none() {
            return Ok(format!("${{{name}/{pattern}/{with}}}"));
        }
        let glob = pattern_of(&pattern)?;
        let value: Vec<char> = value.map_or("", String::as_str).chars().collect();
        let (mut out, mut work, mut at) = (String::new(), 0, 0);
        let copy = |out: &mut String, from: usize, to: usize| {
            out.extend(value.get(from..to).unwrap_or_default());
        };
        let mut last_end = None;
        while let Some((start, end)) = glob.find(&value, at, &mut work) {
            // Nothing right behind a match is none of its own.
            if start < end || last_end != Some(start) {
                copy(&mut out, last_end.unwrap_or(0), start);
                out.push_str(&with);
                last_end = Some(end);
            }
            at = if start == end { end + 1 } else { end };
            if !all || out.len() > self.limit || at > value.len() {
                break;
            }
            self.spend(std::mem::take(&mut work))?;
        }
        self.spend(work)?;
        copy(&mut out, last_end.unwrap_or(0), value.len());
        match out.len() > self.limit {
            true => Err(format!("it is above the limit of {} bytes", self.limit)),
            false => Ok(out),
        }
    }
}

fn pattern_of(text: &str) -> Result<Glob, String> {
    Glob::parse(text).map_err(|error| {
        let text = printable(text);
        format!("invalid pattern ({text}) in substitution: {error}")
    })
}

fn missing(stop: char) -> String {
    format!("unexpected end of statement while looking for matching {stop}")
}

fn missing_quote(name: &str) -> String {
    format!("unexpected end of statement while looking for matching {name}")
}

/// Letters, digits and underscores, digits alone, or one of the shell's special parameters.
fn name(scan: &mut Scan<'_>) -> String {
    let mut name = String::new();
    let Some(first) = scan.chars.peek().copied() else {
        return name;
    };
    let is_number = first.is_numeric();
    if "@*#?-$!".contains(first) {
        name.extend(scan.chars.next());
        return name;
    }
    let belongs = |c: &char| match is_number {
        true => c.is_numeric(),
        false => c.is_alphanumeric() || *c == '_',
    };
    while let Some(c) = scan.chars.next_if(belongs) {
        name.push(c);
    }
    name
}

/// How many quotes a word has.
pub(super) fn quotes(word: &str) -> usize {
    word.matches(['\'', '"']).count()
}

/// A text and its words as they grow.
#[derive(Default)]
struct Words {
    whole: String,
    words: Vec<String>,
    word: Option<String>,
}

impl Words {
    /// A character that divides words if it is a blank.
    fn split(&mut self, c: char) {
        self.whole.push(c);
        match c.is_whitespace() {
            true => self.words.extend(self.word.take()),
            false => self.word.get_or_insert_default().push(c),
        }
    }

    /// One that doesn't.
    fn push(&mut self, c: char) {
        self.whole.push(c);
        self.word.get_or_insert_default().push(c);
    }

    fn raw(&mut self, text: &str) {
        self.whole.push_str(text);
        self.word.get_or_insert_default().push_str(text);
    }

    fn finish(mut self) -> Read {
        self.words.extend(self.word.take());
        self.words.retain(|word| !word.is_empty());
        (self.whole, self.words)
    }
}
