//! `--format`: Go's templates, as far as scripts use them with docker: fields, variables, pipelines,
//! `if`, `with`, `range`, comparisons, and the functions of Docker's own.
//!
//! Called by the verbs that print objects. It knows JSON values and nothing of containers or images.
//! Written here because the one crate for it has not been kept up and prints values otherwise than
//! Go. Not supported and refused by name: `define`, `template`, `block`.
//!
//! ```text
//! text ─ lexer ─► tokens ─ parser ─► nodes ─ eval (functions, verb, print, left_out) ─► text
//! ```

mod eval;
mod functions;
pub mod left_out;
mod lexer;
mod parser;
mod print;
mod verb;

use anyhow::{Context, Result};
use serde_json::Value;

pub use print::quoted;

/// A format that has been understood.
#[derive(Debug)]
pub struct Template(Vec<parser::Node>);

impl Template {
    /// Reads a format; the word `json` stands for the whole object.
    ///
    /// # Errors
    /// What is no template, or not supported.
    pub fn parse(text: &str) -> Result<Self> {
        let text = if text == "json" { "{{json .}}" } else { text };
        let nodes = lexer::pieces(text)
            .and_then(|pieces| parser::parse(&pieces))
            .context("template parsing error")?;
        Ok(Self(nodes))
    }

    /// Reads the format of a list, in which `\t` and `\n` are the characters they mean.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_list(text: &str) -> Result<Self> {
        Self::parse(&text.replace("\\t", "\t").replace("\\n", "\n"))
    }

    /// Fills it from `value`.
    ///
    /// # Errors
    /// A name that is not there, or a value that a function can't take.
    pub fn render(&self, value: &Value) -> Result<String> {
        eval::render(&self.0, value, functions::call).context("template parsing error")
    }

    /// Fills it from the headers of a table's columns. Functions that change words leave these as they are;
    /// where a template can't be filled that way, since it takes a list where they leave a word, they do what
    /// they do in rows.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_header(&self, headers: &Value) -> Result<String> {
        eval::render(&self.0, headers, functions::call_in_header).or_else(|_| self.render(headers))
    }
}

#[cfg(test)]
mod tests;
