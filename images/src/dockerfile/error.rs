//! What is wrong with a Dockerfile, and where: rendered as BuildKit does, with a mark below the word.
//!
//! Used by the whole module. It knows lines and columns, no instruction.

use std::fmt;

use thiserror::Error;

use crate::escape::printable;

/// Lines of a Dockerfile that are shown before and behind those at fault.
const CONTEXT_LINES: usize = 2;

/// Lines at fault that are shown: the first ones of a long here-document.
const SHOWN_LINES: usize = 16;

/// What is at fault in a Dockerfile. Printed it is one sentence, see [`Self::snippet`] for the lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerfileError {
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
        Self {
            message: message.to_owned(),
            hint: None,
            is_syntax: false,
            lines: None,
            word: None,
            shown: Vec::new(),
        }
    }

    /// First and last line at fault, counted from 1; none where the whole file is.
    #[must_use]
    pub fn lines(&self) -> Option<(usize, usize)> {
        self.lines
    }

    /// Line and column in bytes of the word at fault, both counted from 1.
    #[must_use]
    pub fn column(&self) -> Option<(usize, usize)> {
        self.word.map(|(line, column, _)| (line, column))
    }

    /// The sentence without where it is.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The lines at fault with their numbers and a caret below the word, and then nothing: the
    /// sentence is [`Display`](fmt::Display)'s. Empty where no line is.
    #[must_use]
    pub fn snippet(&self, file_name: &str) -> String {
        let Some((first, last)) = self.lines else {
            return String::new();
        };
        let mut out = format!("{}:{first}\n--------------------\n", printable(file_name));
        for (number, text) in &self.shown {
            let mark = match (first..=last).contains(number) {
                true => ">>>",
                false => "   ",
            };
            let line = format!("{number:4} | {mark} {}", printable(text));
            out.push_str(line.trim_end());
            out.push('\n');
            if let Some((line, column, len)) = self.word
                && line == *number
            {
                let before = text.get(..column.saturating_sub(1)).unwrap_or_default();
                let word = text
                    .get(column.saturating_sub(1)..)
                    .and_then(|rest| rest.get(..len))
                    .unwrap_or("^");
                let blanks = printable(before).chars().count();
                let carets = printable(word).chars().count().max(1);
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
        if self.is_syntax {
            out.write_str("dockerfile parse error")?;
            if let Some((line, _)) = self.lines {
                write!(out, " on line {line}")?;
            }
            out.write_str(": ")?;
        }
        out.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(out, " (did you mean {hint}?)"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for DockerfileError {}

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
