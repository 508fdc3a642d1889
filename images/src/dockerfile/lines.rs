//! Bytes to logical lines: continuations joined, comments gone, here-documents attached.
//!
//! Called by `parse` and for what a base image's ONBUILD says. It follows BuildKit's parser
//! (frontend/dockerfile/parser), also where that is odd: blanks at the beginning of a continuation
//! line stay, an empty one is passed over with a warning, and directives come first or not at all.
//! It knows of instructions only which of them have here-documents.

use std::borrow::Cow;

use super::error::{Detail, DockerfileError, Warning, shown};
use super::expand::{self, Lexer};
use crate::escape::printable;
use crate::limits::{DOCKERFILE_BYTES, HEREDOC_BYTES, HEREDOCS, INSTRUCTIONS};

/// A Dockerfile, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    pub(crate) lines: Vec<Line>,
    pub(crate) directives: Directives,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) source: Vec<String>,
}

/// What `# name=value` at the top says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directives {
    /// Backslash or backtick.
    pub(crate) escape: char,
    pub(crate) syntax: Option<String>,
    pub(crate) check: Option<String>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Joined, as it is written otherwise.
    pub(crate) text: String,
    /// First and last line, those of here-documents included, counted from 1.
    pub(crate) span: (usize, usize),
    pub(crate) heredocs: Vec<Heredoc>,
    /// Where pieces of `text` are from: offset in it, line and offset there.
    pieces: Vec<(usize, usize, usize)>,
}

/// `<<NAME` and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    pub(crate) name: String,
    /// The name is not quoted, so that variables are replaced.
    pub(crate) expands: bool,
    /// `<<-`: tabs at the beginning of lines go.
    pub(crate) chomps: bool,
    pub(crate) content: String,
}

impl Heredoc {
    /// What is in it, without the tabs that are not meant.
    pub(crate) fn chomped(&self) -> String {
        if !self.chomps {
            return self.content.clone();
        }
        let lines = self.content.split_inclusive('\n');
        lines.map(|line| line.trim_start_matches('\t')).collect()
    }
}

impl Line {
    /// Line and offset in it of a place in the text, if that is in the file.
    pub(crate) fn place(&self, at: usize) -> Option<(usize, usize)> {
        let mut pieces = self.pieces.iter().rev();
        let (start, line, offset) = pieces.find(|(start, ..)| *start <= at)?;
        Some((*line, offset + at.checked_sub(*start)?))
    }

    /// Another text for the same place.
    pub(crate) fn instead(&self, text: String, heredocs: Vec<Heredoc>) -> Self {
        Self {
            text,
            span: self.span,
            heredocs,
            pieces: Vec::new(),
        }
    }
}

impl Lines {
    /// Whether the language that is asked for is the one that is read here.
    pub(crate) fn check_syntax(&mut self) -> Result<(), DockerfileError> {
        let line = |name: &str| {
            let is_it = |line: &String| {
                let text = line
                    .trim_start()
                    .strip_prefix('#')
                    .unwrap_or_default()
                    .trim_start();
                text.get(..name.len())
                    .is_some_and(|text| text.eq_ignore_ascii_case(name))
            };
            self.source.iter().position(is_it).map_or(1, |at| at + 1)
        };
        if self.directives.check.is_some() {
            self.warnings.push(Warning {
                line: line("check"),
                text: "the check directive has no effect: checks can't be chosen".to_owned(),
            });
        }
        let Some(syntax) = &self.directives.syntax else {
            return Ok(());
        };
        let name = syntax.split_whitespace().next().unwrap_or_default();
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let repository = name.split([':', '@']).next().unwrap_or_default();
        if matches!(
            repository,
            "docker/dockerfile" | "docker/dockerfile-upstream"
        ) {
            return Ok(());
        }
        let number = line("syntax");
        let message = format!(
            "syntax {} is not supported: the only one is docker/dockerfile",
            crate::escape::quoted(syntax)
        );
        Err(DockerfileError::from(Detail {
            message,
            is_syntax: true,
            lines: Some((number, number)),
            shown: shown(&self.source, number, number),
            ..Detail::default()
        }))
    }
}

/// Takes a Dockerfile apart.
pub(crate) fn read(bytes: &[u8]) -> Result<Lines, DockerfileError> {
    if bytes.len() > DOCKERFILE_BYTES {
        return Err(DockerfileError::of_file(&format!(
            "the dockerfile has {} bytes, above the limit of {DOCKERFILE_BYTES}",
            bytes.len()
        )));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.is_empty() {
        return Err(DockerfileError::of_file("the Dockerfile cannot be empty"));
    }
    let (text, damaged) = text(bytes)?;
    let physical: Vec<&str> = text.split_inclusive('\n').collect();
    let mut reader = Reader {
        source: physical
            .iter()
            .map(|line| trim_newline(line).to_owned())
            .collect(),
        physical,
        damaged,
        next: 0,
        directives: Directives {
            escape: '\\',
            syntax: None,
            check: None,
        },
        directives_seen: Vec::new(),
        directives_end: false,
        warnings: Vec::new(),
    };
    let mut lines = Vec::new();
    while let Some(line) = reader.line()? {
        if lines.len() == INSTRUCTIONS {
            return Err(reader.error(
                line.span,
                &format!("there are more than {INSTRUCTIONS} instructions"),
            ));
        }
        lines.push(line);
    }
    if lines.is_empty() {
        return Err(DockerfileError::of_file("file with no instructions"));
    }
    Ok(Lines {
        lines,
        directives: reader.directives,
        warnings: reader.warnings,
        source: reader.source,
    })
}

/// What is said of a line whose text is needed and is none.
const NOT_UTF8: &str = "the text is not UTF-8";

/// The text of a file, or which line has a byte that no text has. In what may be comments such a byte is
/// replaced, as it means nothing there; the second are the numbers of those lines.
fn text(bytes: &[u8]) -> Result<(Cow<'_, str>, Vec<usize>), DockerfileError> {
    let error = |line: usize, what: &str| {
        DockerfileError::from(Detail {
            message: what.to_owned(),
            is_syntax: true,
            lines: Some((line, line)),
            ..Detail::default()
        })
    };
    let lines = || (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n'));
    if let Some((line, _)) = lines().find(|(_, text)| text.contains(&0)) {
        return Err(error(line, "there is a NUL byte"));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Ok((Cow::Borrowed(text), Vec::new()));
    }
    let mut whole = String::with_capacity(bytes.len());
    let mut damaged = Vec::new();
    for (line, bytes) in lines() {
        let text = String::from_utf8_lossy(bytes);
        if matches!(text, Cow::Owned(_)) {
            if !bytes.trim_ascii_start().starts_with(b"#") {
                return Err(error(line, NOT_UTF8));
            }
            damaged.push(line);
        }
        whole.push_str(&text);
    }
    Ok((Cow::Owned(whole), damaged))
}

struct Reader<'a> {
    physical: Vec<&'a str>,
    /// Numbers of lines that are not as they stand in the file, in order.
    damaged: Vec<usize>,
    source: Vec<String>,
    /// Index of the line that is read next, so the number of the one before.
    next: usize,
    directives: Directives,
    directives_seen: Vec<String>,
    directives_end: bool,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    fn error(&self, (first, last): (usize, usize), message: &str) -> DockerfileError {
        DockerfileError::from(Detail {
            message: message.to_owned(),
            is_syntax: true,
            lines: Some((first, last)),
            shown: shown(&self.source, first, last),
            ..Detail::default()
        })
    }

    /// The next physical line with its end.
    fn take(&mut self) -> Option<&'a str> {
        let line = self.physical.get(self.next).copied()?;
        self.next += 1;
        Some(line)
    }

    /// Checks that the line that was taken last is as it stands in the file.
    fn check_text(&self) -> Result<(), DockerfileError> {
        match self.damaged.binary_search(&self.next) {
            Ok(_) => Err(self.error((self.next, self.next), NOT_UTF8)),
            Err(_) => Ok(()),
        }
    }

    /// The next instruction.
    fn line(&mut self) -> Result<Option<Line>, DockerfileError> {
        let (first, offset, start, mut continues) = loop {
            let Some(raw) = self.take() else {
                return Ok(None);
            };
            let raw = trim_newline(raw);
            let text = raw.trim_start();
            self.directive(text)?;
            if text.starts_with('#') {
                continue;
            }
            let (kept, continues) = self.continuation(text);
            if continues || !kept.is_empty() {
                break (self.next, raw.len() - text.len(), kept, continues);
            }
        };
        let mut line = Line {
            text: start.to_owned(),
            span: (first, first),
            heredocs: Vec::new(),
            pieces: vec![(0, first, offset)],
        };
        let mut has_empty = false;
        while continues {
            let Some(raw) = self.take() else { break };
            let text = trim_newline(raw);
            if text.trim_start().starts_with('#') {
                continue;
            }
            if text.trim_start().is_empty() {
                has_empty = true;
                continue;
            }
            let kept;
            (kept, continues) = self.continuation(text);
            line.pieces.push((line.text.len(), self.next, 0));
            line.text.push_str(kept);
        }
        line.span.1 = self.next;
        if has_empty {
            self.warnings.push(Warning {
                line: self.next,
                text: "empty continuation line".to_owned(),
            });
        }
        self.heredocs(&mut line)?;
        Ok(Some(line))
    }

    /// A line without its continuation character, and whether it has one: the last one that is no blank,
    /// unless there is the same before it.
    fn continuation(&self, text: &'a str) -> (&'a str, bool) {
        let escape = self.directives.escape;
        match text.trim_end_matches([' ', '\t']).strip_suffix(escape) {
            Some(kept) if !kept.ends_with(escape) => (kept, true),
            _ => (text, false),
        }
    }

    /// Takes a line as a directive, as long as there was nothing else.
    fn directive(&mut self, text: &str) -> Result<(), DockerfileError> {
        if self.directives_end {
            return Ok(());
        }
        let parts = text.strip_prefix('#').and_then(|rest| {
            let (name, value) = rest.trim_start().split_once('=')?;
            let (name, value) = (name.trim_end(), value.trim());
            let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric());
            (is_name && !value.is_empty()).then(|| (name.to_ascii_lowercase(), value.to_owned()))
        });
        let span = (self.next, self.next);
        let Some((name, value)) = parts else {
            self.directives_end = true;
            return Ok(());
        };
        if !["syntax", "check", "escape"].contains(&name.as_str()) {
            self.directives_end = true;
            return Ok(());
        }
        self.check_text()?;
        if self.directives_seen.contains(&name) {
            let message = format!("only one {name} parser directive can be used");
            return Err(self.error(span, &message));
        }
        match (name.as_str(), value.as_str()) {
            ("syntax", _) => self.directives.syntax = Some(value),
            ("check", _) => self.directives.check = Some(value),
            (_, "\\") => self.directives.escape = '\\',
            (_, "`") => self.directives.escape = '`',
            _ => {
                let value = printable(&value);
                let message = format!("invalid escape token '{value}' does not match ` or \\");
                return Err(self.error(span, &message));
            }
        }
        self.directives_seen.push(name);
        Ok(())
    }

    /// Reads the here-documents that a line asks for.
    fn heredocs(&mut self, line: &mut Line) -> Result<(), DockerfileError> {
        if !line.text.contains("<<") || !has_heredocs(&line.text) {
            return Ok(());
        }
        for mut heredoc in heredocs_of(&line.text) {
            if line.heredocs.len() == HEREDOCS {
                let message = format!("there are more than {HEREDOCS} here-documents");
                return Err(self.error(line.span, &message));
            }
            loop {
                let Some(raw) = self.take() else {
                    return Err(self.error((line.span.0, self.next), "unterminated heredoc"));
                };
                // What looks like a comment is content here.
                self.check_text()?;
                let text = trim_newline(raw);
                let text = match heredoc.chomps {
                    true => text.trim_start_matches('\t'),
                    false => text,
                };
                if text == heredoc.name {
                    break;
                }
                if heredoc.content.len() + raw.len() > HEREDOC_BYTES {
                    let message =
                        format!("a here-document is above the limit of {HEREDOC_BYTES} bytes");
                    return Err(self.error(line.span, &message));
                }
                heredoc.content.push_str(raw);
            }
            line.heredocs.push(heredoc);
        }
        line.span.1 = self.next;
        Ok(())
    }
}

fn trim_newline(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

/// Whether a line is of an instruction with here-documents: RUN, COPY, ADD, also behind ONBUILD, and
/// not in the JSON form.
fn has_heredocs(text: &str) -> bool {
    let Some((name, mut rest)) = word(text) else {
        return false;
    };
    let mut name = name;
    if name.eq_ignore_ascii_case("onbuild") {
        let Some(inner) = word(rest) else {
            return false;
        };
        (name, rest) = inner;
    }
    if !["run", "copy", "add"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
    {
        return false;
    }
    while let Some((flag, after)) = word(rest)
        && flag.starts_with("--")
    {
        rest = after;
    }
    let rest = rest.trim();
    !(rest.starts_with('[') && serde_json::from_str::<Vec<String>>(rest).is_ok())
}

fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    text.split_at_checked(end)
        .filter(|(word, _)| !word.is_empty())
}

/// The here-documents that a line names, without their content.
fn heredocs_of(text: &str) -> Vec<Heredoc> {
    // Whatever is wrong with the rest of the line is the shell's to say.
    let words = Lexer::for_heredocs(true).words(text).unwrap_or_default();
    words.iter().filter_map(|word| heredoc(word)).collect()
}

/// `<<NAME`, `<<-NAME`, `3<<"NAME"`; nothing where a word is none.
pub(crate) fn heredoc(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.strip_prefix("<<")?;
    let (rest, chomps) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let mut words = Lexer::for_heredocs(false).words(rest).ok()?;
    let name = words.pop().filter(|_| words.is_empty())?;
    Some(Heredoc {
        expands: expand::quotes(rest) == expand::quotes(&name),
        name,
        chomps,
        content: String::new(),
    })
}
