//! Reads the lists of Dockerfiles. `builds` calls it.
//!
//! ```text
//! === NAME                      begins an entry; the Dockerfile follows
//! --- file PATH [MODE]          a file of the context; its content follows
//! --- base64 PATH [MODE]        as that, its bytes encoded
//! --- archive PATH              a tar, packed as its name ends; its members follow, one a line:
//!                               `file NAME MODE UID:GID CONTENT`, `dir NAME MODE UID:GID`,
//!                               `link NAME TARGET`, `hard NAME MODE UID:GID TARGET`
//! --- dir PATH [MODE]           an empty folder
//! --- link PATH TARGET          a symbolic link
//! --- remove PATH               what an earlier build had
//! --- crlf                      lines of the Dockerfile end as on Windows
//! --- args WORD…                flags of `build`
//! --- variable NAME=VALUE       a variable of the command's own
//! --- again                     builds once more, with what follows added or instead; of files called
//!                               `stamp…` only counts whether they are those of the last build
//! --- differs PART… because …   what differs from Docker: code, files, config
//! --- fails                     it can't be built, the last time, on Docker
//! --- expect                    not run on Docker: what holds here at the end, a line each: `code N`,
//!                               `stderr TEXT`, `file PATH LINE`, `no PATH`, `config NAME JSON`
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::packing;

/// What may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Code,
    Files,
    Config,
}

/// An entry.
#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// Its lines, for what the engine's answer depends on.
    pub(crate) text: String,
    pub(crate) builds: Vec<Build>,
    pub(crate) differs: Vec<Part>,
    pub(crate) fails: bool,
    pub(crate) expected: Option<Vec<String>>,
}

/// One build of an entry.
#[derive(Debug, Default)]
pub(crate) struct Build {
    members: Vec<Member>,
    pub(crate) arguments: Vec<String>,
    pub(crate) variables: Vec<(String, String)>,
    crlf: bool,
}

#[derive(Debug)]
struct Member {
    path: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File {
        mode: u32,
        content: String,
        encoding: Encoding,
    },
    Dir {
        mode: u32,
    },
    Link {
        target: String,
    },
    Gone,
}

#[derive(Clone, Copy, Debug)]
enum Encoding {
    Plain,
    Base64,
    Archive,
}

impl Case {
    /// Makes the context of a build: what those before had, with its own.
    ///
    /// # Errors
    ///
    /// A file can't be made.
    pub(crate) fn write(&self, build: usize, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).context("create the context")?;
        for build in self.builds.iter().take(build + 1) {
            for member in &build.members {
                member
                    .write(folder)
                    .with_context(|| format!("create {}", member.path))?;
            }
            if build.crlf {
                let file = folder.join("Dockerfile");
                let text = fs::read_to_string(&file)?.replace('\n', "\r\n");
                fs::write(&file, text)?;
            }
        }
        Ok(())
    }
}

impl Member {
    fn write(&self, folder: &Path) -> Result<()> {
        let place = folder.join(&self.path);
        if let Some(above) = place.parent() {
            fs::create_dir_all(above)?;
        }
        let mode = match &self.kind {
            Kind::File {
                mode,
                content,
                encoding,
            } => {
                let bytes = match encoding {
                    Encoding::Plain => content.clone().into_bytes(),
                    Encoding::Base64 => packing::filtered("base64 -d", content.as_bytes())?,
                    Encoding::Archive => packing::archive(&self.path, content)?,
                };
                fs::write(&place, bytes)?;
                *mode
            }
            Kind::Dir { mode } => {
                fs::create_dir_all(&place)?;
                *mode
            }
            Kind::Link { target } => return Ok(symlink(target, &place)?),
            Kind::Gone if place.is_dir() => return Ok(fs::remove_dir_all(&place)?),
            Kind::Gone => return Ok(fs::remove_file(&place)?),
        };
        Ok(fs::set_permissions(
            &place,
            fs::Permissions::from_mode(mode),
        )?)
    }
}

/// Reads a list; names of its entries begin with its own.
///
/// # Errors
///
/// A line is not of the form; the message has its number.
pub(crate) fn parse(list: &str, text: &str) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    let mut names = BTreeSet::new();
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(name) = line.strip_prefix("=== ") {
            if !names.insert(name.to_owned()) {
                bail!("line {number}: {name} is there twice");
            }
            cases.push(Case {
                name: format!("{list}::{name}"),
                builds: vec![Build {
                    members: vec![file("Dockerfile", 0o644, Encoding::Plain)],
                    ..Build::default()
                }],
                ..Case::default()
            });
            continue;
        }
        let Some(case) = cases.last_mut() else {
            // Before the first entry there are words for the reader.
            continue;
        };
        // The engine does not know what is thought of its answer.
        if !line.starts_with("--- differs ") && line != "--- fails" {
            case.text.push_str(line);
            case.text.push('\n');
        }
        match line.strip_prefix("--- ") {
            Some(entry) => {
                begin(case, entry).with_context(|| format!("line {number} of {list}"))?;
            }
            None => {
                more(case, line).with_context(|| format!("line {number} of {list}"))?;
            }
        }
    }
    Ok(cases)
}

/// A line that is no key.
fn more(case: &mut Case, line: &str) -> Result<()> {
    if let Some(expected) = &mut case.expected {
        if !line.is_empty() {
            expected.push(line.to_owned());
        }
        return Ok(());
    }
    let build = case.builds.last_mut().context("there is no build")?;
    match build.members.last_mut().map(|member| &mut member.kind) {
        Some(Kind::File { content, .. }) => {
            content.push_str(line);
            content.push('\n');
        }
        _ if line.is_empty() => {}
        _ => bail!("content of nothing"),
    }
    Ok(())
}

fn file(path: &str, mode: u32, encoding: Encoding) -> Member {
    Member {
        path: path.to_owned(),
        kind: Kind::File {
            mode,
            content: String::new(),
            encoding,
        },
    }
}

fn begin(case: &mut Case, entry: &str) -> Result<()> {
    let (key, rest) = entry.split_once(' ').unwrap_or((entry, ""));
    let words: Vec<&str> = rest.split(' ').filter(|word| !word.is_empty()).collect();
    let mode = |default: u32| match words.get(1) {
        None => Ok(default),
        Some(mode) => u32::from_str_radix(mode, 8).context("a mode in octal digits"),
    };
    let path = || words.first().copied().context("a path");
    let build = case.builds.last_mut().context("there is no build")?;
    match key {
        "file" => {
            let member = file(path()?, mode(0o644)?, Encoding::Plain);
            build.members.push(member);
        }
        "base64" => {
            let member = file(path()?, mode(0o644)?, Encoding::Base64);
            build.members.push(member);
        }
        "archive" => {
            let member = file(path()?, 0o644, Encoding::Archive);
            build.members.push(member);
        }
        "dir" => build.members.push(Member {
            path: path()?.to_owned(),
            kind: Kind::Dir { mode: mode(0o755)? },
        }),
        "link" => build.members.push(Member {
            path: path()?.to_owned(),
            kind: Kind::Link {
                target: (*words.get(1).context("a target")?).to_owned(),
            },
        }),
        "remove" => build.members.push(Member {
            path: path()?.to_owned(),
            kind: Kind::Gone,
        }),
        "crlf" => build.crlf = true,
        "args" => build
            .arguments
            .extend(words.iter().map(ToString::to_string)),
        "variable" => {
            let (name, value) = rest.split_once('=').context("NAME=VALUE")?;
            build.variables.push((name.to_owned(), value.to_owned()));
        }
        "again" => case.builds.push(Build::default()),
        "fails" => case.fails = true,
        "differs" => {
            let (parts, reason) = rest.split_once(" because ").context("a reason")?;
            if reason.is_empty() {
                bail!("an empty reason");
            }
            for part in parts.split(' ') {
                case.differs.push(match part {
                    "code" => Part::Code,
                    "files" => Part::Files,
                    "config" => Part::Config,
                    other => bail!("{other} is none of code, files, config"),
                });
            }
        }
        "expect" => case.expected = Some(Vec::new()),
        other => bail!("{other} is no key"),
    }
    Ok(())
}
