//! Reads the lists of command lines. `differential` calls it; the form is in `README.md`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

/// What may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Code,
    Stdout,
    Stderr,
}

/// One test: command lines in order, the containers of the first ones there for the later.
#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) lines: Vec<Line>,
}

/// One command line.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Without the name of the command.
    pub(crate) arguments: Vec<String>,
    /// What it reads, or what is typed.
    pub(crate) stdin: Option<String>,
    /// Variables that the command itself has.
    pub(crate) variables: Vec<(String, String)>,
    /// Whether it is run at a terminal.
    pub(crate) terminal: bool,
    /// It is run again until its standard output, trimmed, is this.
    pub(crate) until: Option<String>,
    pub(crate) compares_stderr: bool,
    /// In this order: code, stdout, stderr.
    pub(crate) differs: Vec<Stream>,
    /// Why.
    pub(crate) reason: Option<String>,
}

impl Case {
    /// Whether it is a `run --rm` alone, which leaves nothing and sees nothing of others.
    pub(crate) fn is_alone(&self) -> bool {
        matches!(self.lines.as_slice(), [line] if line.arguments.starts_with(&RUN.map(str::to_owned)))
    }
}

impl Line {
    /// As a person would type it.
    pub(crate) fn text(&self) -> String {
        self.arguments.join(" ")
    }
}

/// What a line of the key `run` begins with.
const RUN: [&str; 2] = ["run", "--rm"];

/// Reads lists.
///
/// # Errors
///
/// A line is not of the form; the message has the list's name and the line's number.
pub(crate) fn parse(lists: &[(&str, &str)]) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    for (list, text) in lists {
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            entry(&mut cases, line).with_context(|| format!("line {} of {list}", index + 1))?;
        }
    }
    let mut names = BTreeSet::new();
    for case in &cases {
        if !names.insert(&case.name) {
            bail!("{} is there twice", case.name);
        }
        if case.lines.is_empty() {
            bail!("{} has no command line", case.name);
        }
        for line in &case.lines {
            if line.differs.is_empty() != line.reason.is_none() {
                bail!("{}: what differs and because go together", case.name);
            }
        }
    }
    Ok(cases)
}

/// One line: begins a case or adds to the last one.
fn entry(cases: &mut Vec<Case>, line: &str) -> Result<()> {
    let (key, value) = line
        .split_once(": ")
        .context("not of the form `key: value`")?;
    if key == "name" {
        cases.push(Case {
            name: value.to_owned(),
            lines: Vec::new(),
        });
        return Ok(());
    }
    let lines = &mut cases.last_mut().context("before the first name")?.lines;
    let before: &[&str] = match key {
        "run" => &RUN,
        "do" => &[],
        _ => return member(lines.last_mut().context("before run or do")?, key, value),
    };
    let before = before.iter().map(|word| (*word).to_owned());
    lines.push(Line {
        arguments: before.chain(words(value)?).collect(),
        ..Line::default()
    });
    Ok(())
}

fn member(line: &mut Line, key: &str, value: &str) -> Result<()> {
    match key {
        "stdin" => line.stdin = Some(unescaped(value)?),
        "variable" => {
            let (name, value) = value
                .split_once('=')
                .context("not of the form NAME=VALUE")?;
            line.variables.push((name.into(), value.into()));
        }
        "terminal" => line.terminal = yes(value)?,
        "until" => line.until = Some(unescaped(value)?),
        "stderr" => line.compares_stderr = yes(value)?,
        "differs" => {
            for word in value.split(", ") {
                line.differs.push(match word {
                    "code" => Stream::Code,
                    "stdout" => Stream::Stdout,
                    "stderr" => Stream::Stderr,
                    _ => bail!("{word} is none of code, stdout, stderr"),
                });
            }
        }
        "because" => line.reason = Some(value.to_owned()),
        _ => bail!("{key} is no key"),
    }
    Ok(())
}

fn yes(value: &str) -> Result<bool> {
    match value {
        "yes" => Ok(true),
        _ => bail!("{value} is not yes"),
    }
}

/// Splits as a shell does: blanks apart, single and double quotes together.
fn words(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        bail!("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

/// `\n`, `\r`, `\\` and `\xHH` as in C.
fn unescaped(text: &str) -> Result<String> {
    let mut result = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            result.push(character);
            continue;
        }
        result.push(match characters.next().context("a lone backslash")? {
            'n' => '\n',
            'r' => '\r',
            '\\' => '\\',
            'x' => {
                let digits: String = characters.by_ref().take(2).collect();
                char::from(u8::from_str_radix(&digits, 16).context("not two hex digits")?)
            }
            other => bail!("\\{other} means nothing"),
        });
    }
    Ok(result)
}
