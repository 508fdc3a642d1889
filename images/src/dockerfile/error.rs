//! What is wrong with a Dockerfile, and where: rendered as BuildKit does, with a mark below the word.
//!
//! Used by the whole module. It knows lines and columns, no instruction.

use std::fmt;

use thiserror::Error;

use super::lines::Line;
use crate::escape::printable;
use crate::limits::MESSAGE_CHARS;

/// Lines of a Dockerfile that are shown before and behind those at fault.
const CONTEXT_LINES: usize = 2;

/// Lines at fault that are shown: the first ones of a long here-document.
const SHOWN_LINES: usize = 16;

/// What is at fault in a Dockerfile. Printed it is one sentence, see [`Self::snippet`] for the lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerfileError(Box<Detail>);

/// What an error has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Detail {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) is_syntax: bool,
    /// First and last line, counted from 1; none where the whole file is meant.
    pub(crate) lines: Option<(usize, usize)>,
    /// What the caret is put below: line, first column and length in bytes, columns counted from 1.
    pub(crate) word: Option<(usize, usize, usize)>,
    /// Numbers and text of what [`Self::snippet`] shows.
    pub(crate) shown: Vec<(usize, String)>,
}

impl DockerfileError {
    /// The whole file is at fault.
    pub(crate) fn of_file(message: &str) -> Self {
        Self::from(Detail {
            message: message.to_owned(),
            ..Detail::default()
        })
    }

    /// First and last line at fault, counted from 1; none where the whole file is.
    #[must_use]
    pub fn lines(&self) -> Option<(usize, usize)> {
        self.0.lines
    }

    /// Line and column in bytes of the word at fault, both counted from 1.
    #[must_use]
    pub fn column(&self) -> Option<(usize, usize)> {
        self.0.word.map(|(line, column, _)| (line, column))
    }

    /// The sentence without where it is.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The lines at fault with their numbers and a caret below the word, and then nothing: the
    /// sentence is [`Display`](fmt::Display)'s. Empty where no line is.
    #[must_use]
    pub fn snippet(&self, file_name: &str) -> String {
        let Some((first, last)) = self.0.lines else {
            return String::new();
        };
        let mut out = format!("{}:{first}\n--------------------\n", printable(file_name));
        for (number, text) in &self.0.shown {
            let mark = match (first..=last).contains(number) {
                true => ">>>",
                false => "   ",
            };
            let line = format!("{number:4} | {mark} {}", visible(text));
            out.push_str(line.trim_end());
            out.push('\n');
            if let Some((line, column, len)) = self.0.word
                && line == *number
                && column < MESSAGE_CHARS
            {
                let before = text.get(..column.saturating_sub(1)).unwrap_or_default();
                let word = text
                    .get(column.saturating_sub(1)..)
                    .and_then(|rest| rest.get(..len))
                    .unwrap_or("^");
                let blanks = visible(before).chars().count();
                let carets = visible(word).chars().count().max(1);
                out.push_str(&format!(
                    "     |     {}{}\n",
                    " ".repeat(blanks),
                    "^".repeat(carets)
                ));
            }
        }
        out.push_str("--------------------\n");
        out
    }
}

impl fmt::Display for DockerfileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_syntax {
            out.write_str("dockerfile parse error")?;
            if let Some((line, _)) = self.0.lines {
                write!(out, " on line {line}")?;
            }
            out.write_str(": ")?;
        }
        out.write_str(&self.0.message)?;
        match &self.0.hint {
            Some(hint) => write!(out, " (did you mean {hint}?)"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for DockerfileError {}

impl From<Detail> for DockerfileError {
    fn from(detail: Detail) -> Self {
        Self(Box::new(detail))
    }
}

/// Why there is no plan.
#[derive(Debug, Error)]
pub enum PlanError<E: std::error::Error + 'static> {
    /// The Dockerfile is at fault.
    #[error(transparent)]
    Dockerfile(#[from] DockerfileError),
    /// What the caller said of an image.
    #[error("{reference}")]
    Image {
        /// The image, as the Dockerfile has it.
        reference: String,
        /// The line that wants it, counted from 1.
        line: usize,
        /// The caller's error.
        #[source]
        source: E,
    },
}

/// What is no error and yet not right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Counted from 1; 0 where no line is meant.
    pub line: usize,
    /// A sentence, fit for a terminal.
    pub text: String,
}

/// A source line fit for a terminal: a tab is four blanks, and what can't be seen is escaped.
fn visible(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(MESSAGE_CHARS) {
        match c {
            '\t' => out.push_str("    "),
            '\\' | '"' | '\'' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

/// What is wrong with a line, before it is known which line that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    message: String,
    hint: Option<String>,
    /// Text of the line that the caret is put below.
    word: Option<String>,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            word: None,
        }
    }

    /// The word at fault, as it is written.
    pub(crate) fn word(mut self, word: &str) -> Self {
        self.word = Some(word.to_owned());
        self
    }

    /// What may be meant: the nearest of `known`, if one is near.
    pub(crate) fn meant(mut self, text: &str, known: &[&str]) -> Self {
        self.hint = nearest(text, known);
        self
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Of no line, but of the whole file.
    pub(crate) fn of_file(self) -> DockerfileError {
        DockerfileError::from(Detail {
            message: self.message,
            hint: self.hint,
            ..Detail::default()
        })
    }

    /// With its place: a line of the file.
    pub(crate) fn at(self, line: &Line, source: &[String]) -> DockerfileError {
        self.placed(line, source).into()
    }

    /// As [`Self::at`], where the syntax is at fault.
    pub(crate) fn syntax_at(self, line: &Line, source: &[String]) -> DockerfileError {
        DockerfileError::from(Detail {
            is_syntax: true,
            ..self.placed(line, source)
        })
    }

    fn placed(self, line: &Line, source: &[String]) -> Detail {
        let word = self.word.and_then(|word| {
            let (at, _) = line.text.match_indices(&*word).next()?;
            let (number, offset) = line.place(at)?;
            // A word goes no further than its physical line.
            let text = source.get(number.checked_sub(1)?)?;
            let len = word.len().min(text.len().checked_sub(offset)?);
            (len > 0).then_some((number, offset + 1, len))
        });
        let (first, last) = line.span;
        Detail {
            message: self.message,
            hint: self.hint,
            is_syntax: false,
            lines: Some((first, last)),
            word,
            shown: shown(source, first, last),
        }
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

/// The name that is fewer than three edits away, if it is another one. As in BuildKit.
fn nearest(text: &str, known: &[&str]) -> Option<String> {
    let lower = text.to_lowercase();
    let distances = known
        .iter()
        .map(|name| (edits(&lower, &name.to_lowercase()), *name));
    let (distance, name) = distances.min()?;
    (1..3).contains(&distance).then(|| name.to_owned())
}

/// Levenshtein's distance, or 3 of words whose lengths tell that it is no less.
fn edits(one: &str, other: &str) -> usize {
    if one.len().abs_diff(other.len()) > 8 {
        return 3;
    }
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut next = vec![i + 1];
        let mut left = i + 1;
        for ((b, above), before) in other.iter().zip(row.iter().skip(1)).zip(&row) {
            left = (left + 1).min(above + 1).min(before + usize::from(a != *b));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(3)
}

/// The lines from two before to two behind.
pub(crate) fn shown(source: &[String], first: usize, last: usize) -> Vec<(usize, String)> {
    let last = last.min(first.saturating_add(SHOWN_LINES));
    (1..)
        .zip(source)
        .skip(first.saturating_sub(CONTEXT_LINES + 1))
        .take_while(|(number, _)| *number <= last.saturating_add(CONTEXT_LINES))
        .map(|(number, text)| (number, text.clone()))
        .collect()
}
