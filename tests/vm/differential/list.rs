//! Reads the list of command lines. `differential` calls it; the form is in `README.md`.

use anyhow::{Context, Result, bail};

/// What may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Code,
    Stdout,
    Stderr,
}

/// One command line.
#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// Without the name of the command.
    pub(crate) arguments: Vec<String>,
    /// What it reads, or what is typed.
    pub(crate) stdin: Option<String>,
    /// Variables that the command itself has.
    pub(crate) variables: Vec<(String, String)>,
    /// Whether it is run at a terminal.
    pub(crate) terminal: bool,
    pub(crate) compares_stderr: bool,
    /// In this order: code, stdout, stderr.
    pub(crate) differs: Vec<Stream>,
    /// Why.
    pub(crate) reason: Option<String>,
}

impl Case {
    /// As a person would type it.
    pub(crate) fn line(&self) -> String {
        self.arguments.join(" ")
    }
}

/// Reads the list.
///
/// # Errors
///
/// A line is not of the form; the message has its number.
pub(crate) fn parse(text: &str) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        entry(&mut cases, line).with_context(|| format!("line {} of the list", index + 1))?;
    }
    for case in &cases {
        if case.arguments.is_empty() {
            bail!("{} has no run", case.name);
        }
        if case.differs.is_empty() != case.reason.is_none() {
            bail!("{}: what differs and because go together", case.name);
        }
    }
    Ok(cases)
}

/// One line: begins a case or adds to the last one.
fn entry(cases: &mut Vec<Case>, line: &str) -> Result<()> {
    let (key, value) = line
        .split_once(": ")
        .context("not of the form `key: value`")?;
    if key != "name" {
        return member(
            cases.last_mut().context("before the first name")?,
            key,
            value,
        );
    }
    if cases.iter().any(|case| case.name == value) {
        bail!("{value} is there twice");
    }
    cases.push(Case {
        name: value.to_owned(),
        ..Case::default()
    });
    Ok(())
}

fn member(case: &mut Case, key: &str, value: &str) -> Result<()> {
    match key {
        "run" => {
            case.arguments = vec!["run".into(), "--rm".into()];
            case.arguments.extend(words(value)?);
        }
        "stdin" => case.stdin = Some(unescaped(value)?),
        "variable" => {
            let (name, value) = value
                .split_once('=')
                .context("not of the form NAME=VALUE")?;
            case.variables.push((name.into(), value.into()));
        }
        "terminal" => case.terminal = yes(value)?,
        "stderr" => case.compares_stderr = yes(value)?,
        "differs" => {
            for word in value.split(", ") {
                case.differs.push(match word {
                    "code" => Stream::Code,
                    "stdout" => Stream::Stdout,
                    "stderr" => Stream::Stderr,
                    _ => bail!("{word} is none of code, stdout, stderr"),
                });
            }
        }
        "because" => case.reason = Some(value.to_owned()),
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
