//! COPY and ADD: what is copied from where to where.
//!
//! Called by `steps`.

use protocol::mode::Mode;
use protocol::pattern::Pattern;

use super::error::Fault;
use super::instruction::CopyLine;
use super::plan::{Action, Copy, CopyFrom, CreatedBy, Destination, Source, Unpack};
use super::stages::{Planner, Wrong};
use super::state::{State, joined};
use crate::digest::Digest;
use crate::escape::quoted;

/// The name of a file whose address has none, as BuildKit's.
const UNNAMED: &str = "__unnamed__";

impl<E: std::error::Error + 'static> Planner<'_, E> {
    pub(super) fn copy(
        &mut self,
        index: usize,
        state: &State,
        line: usize,
        copy: &CopyLine,
        is_add: bool,
    ) -> Result<(Action, CreatedBy), Wrong<E>> {
        let name = if is_add { "ADD" } else { "COPY" };
        let from = match copy.from.as_deref() {
            None => CopyFrom::Context,
            Some(from) if from.contains('$') => {
                return Err(Fault::new("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround").word(from).into());
            }
            Some(from) => self.copy_from(index, from, "copy from", line)?,
        };
        let optional = |text: &Option<String>| -> Result<Option<String>, Fault> {
            let text = text
                .as_deref()
                .map(|text| self.word(state, text))
                .transpose()?;
            Ok(text.filter(|text| !text.is_empty()))
        };
        let owner = optional(&copy.chown)?;
        let chmod = optional(&copy.chmod)?;
        let mode = match &chmod {
            Some(text) => Some(Mode::parse(text).map_err(|error| {
                let fault = Fault::new(error.to_string());
                fault.word(copy.chmod.as_deref().unwrap_or_default())
            })?),
            None => None,
        };
        let paths = self.words(state, &copy.sources)?;
        for pattern in paths.iter().filter(|path| !is_url(path)) {
            Pattern::shallow(pattern)
                .map_err(|error| Fault::new(error.to_string()).word(pattern))?;
        }
        for pattern in &copy.exclude {
            let bare = pattern.strip_prefix('!').unwrap_or(pattern);
            Pattern::deep(bare).map_err(|error| Fault::new(error.to_string()).word(pattern))?;
        }
        let checksum = checksum(&optional(&copy.checksum)?, &paths)?;
        let mut sources = Vec::new();
        for path in &paths {
            sources.push(source(path, is_add).map_err(|fault| fault.word(path))?);
        }
        let lexer = state.lexer(self.file.escape, &self.work).of_document();
        let mut bytes = 512_u64;
        for document in &copy.documents {
            let content = match document.expands {
                true => lexer.word(&document.content).map_err(Fault::new)?,
                false => document.content.clone(),
            };
            bytes = bytes.saturating_add(content.len() as u64);
            sources.push(Source::Inline {
                name: document.name.clone(),
                content,
            });
        }
        let text = self.word(state, &copy.destination)?;
        let destination = destination(state, &text);
        let shell = state.shell().join(" ");
        self.spend(bytes.saturating_add(shell.len() as u64))?;
        let words: Vec<String> = paths
            .into_iter()
            .chain(
                copy.documents
                    .iter()
                    .map(|document| format!("<<{}", document.name)),
            )
            .collect();
        let flags = [("chown", &owner), ("chmod", &chmod)];
        let flags = flags
            .iter()
            .filter_map(|(flag, text)| text.as_ref().map(|text| format!("--{flag}={text} ")));
        let flags: String = flags.collect();
        let created_by = CreatedBy::Sources(
            format!("{shell} #(nop) {name} {flags}"),
            format!(" in {text} "),
            words.join(" "),
        );
        let copy = Copy {
            sources,
            destination,
            from,
            owner,
            mode,
            unpack: match (is_add, copy.unpack) {
                (true, None) => Unpack::Paths,
                (true, Some(true)) => Unpack::Always,
                _ => Unpack::Never,
            },
            link: copy.link,
            parents: copy.parents,
            exclude: copy.exclude.clone(),
            checksum,
        };
        Ok((Action::Copy(Box::new(copy)), created_by))
    }
}

fn is_url(path: &str) -> bool {
    path.starts_with("http://") || path.starts_with("https://")
}

fn is_git(path: &str) -> bool {
    let is_remote = ["git://", "ssh://", "git@"]
        .iter()
        .any(|start| path.starts_with(start));
    let bare = path.split(['#', '?']).next().unwrap_or_default();
    is_remote || (is_url(path) && bare.ends_with(".git"))
}

fn source(path: &str, is_add: bool) -> Result<Source, Fault> {
    if is_git(path) {
        return Err(Fault::new(match is_add {
            true => "git sources are not supported: clone it and ADD the folder, or RUN git clone",
            false => "source can't be a git ref for COPY",
        }));
    }
    if !is_url(path) {
        return Ok(Source::Path(path.to_owned()));
    }
    if !is_add {
        return Err(Fault::new("source can't be a URL for COPY"));
    }
    Ok(Source::Url {
        url: path.to_owned(),
        name: file_name(path)?,
    })
}

/// The name of an address's file: what its decoded path ends in.
fn file_name(url: &str) -> Result<String, Fault> {
    let bare = url.split(['#', '?']).next().unwrap_or_default();
    let path = bare.splitn(4, '/').nth(3).unwrap_or_default();
    let path = decoded(path).ok_or_else(|| {
        Fault::new("the path of the address has a % without two digits, or is not UTF-8")
    })?;
    match path.rsplit('/').find(|name| !name.is_empty()) {
        None | Some(".") => Ok(UNNAMED.to_owned()),
        Some(name) if name == ".." || name.contains('\0') => Err(Fault::new(format!(
            "the address ends in {}, which can be no file's name",
            quoted(name)
        ))),
        Some(name) => Ok(name.to_owned()),
    }
}

/// A path without its percent-encoding (RFC 3986 section 2.1).
fn decoded(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let are_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| are_digits)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

fn checksum(text: &Option<String>, paths: &[String]) -> Result<Option<Digest>, Fault> {
    let Some(text) = text else {
        return Ok(None);
    };
    let fault = |message: String| Err(Fault::new(message).word(text));
    match paths {
        [path] if is_url(path) => match Digest::parse(text) {
            Ok(digest) => Ok(Some(digest)),
            Err(error) => fault(format!("{error}")),
        },
        [_] => fault("checksum requires HTTP(S) or Git sources".to_owned()),
        _ => fault("checksum can't be specified for multiple sources".to_owned()),
    }
}

fn destination(state: &State, text: &str) -> Destination {
    let path = joined(&state.working_dir(), text);
    let last = text.rsplit('/').next().unwrap_or_default();
    Destination {
        is_directory: matches!(last, "" | "." | "..") || path == "/",
        path,
    }
}
