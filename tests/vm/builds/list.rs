//! Reads the list of Dockerfiles. `builds` calls it.
//!
//! ```text
//! === NAME                      begins an entry; the Dockerfile follows
//! --- file PATH [MODE]          a file of the context; its content follows
//! --- dir PATH [MODE]           an empty folder
//! --- link PATH TARGET          a symbolic link
//! --- args WORD…                flags of `build`
//! --- variable NAME=VALUE       a variable of the command's own
//! --- differs PART… because …   what differs from Docker: code, files, config
//! --- expect                    not run on Docker: what holds here, a line each: `code N`,
//!                               `stderr TEXT`, `file PATH LINE`, `no PATH`, `config NAME JSON`
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Code,
    Files,
    Config,
}

/// One build.
#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// All of its lines, for what the engine's answer depends on.
    pub(crate) text: String,
    members: Vec<Member>,
    pub(crate) arguments: Vec<String>,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) differs: Vec<Part>,
    pub(crate) expected: Option<Vec<String>>,
}

#[derive(Debug)]
enum Member {
    File {
        path: String,
        mode: u32,
        content: String,
    },
    Dir {
        path: String,
        mode: u32,
    },
    Link {
        path: String,
        target: String,
    },
}

impl Case {
    /// Makes the build context.
    ///
    /// # Errors
    ///
    /// A file can't be made.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).context("create the context")?;
        for member in &self.members {
            let (path, mode) = match member {
                Member::File { path, mode, .. } | Member::Dir { path, mode } => (path, Some(*mode)),
                Member::Link { path, .. } => (path, None),
            };
            let place = folder.join(path);
            if let Some(above) = place.parent() {
                fs::create_dir_all(above).with_context(|| format!("create above {path}"))?;
            }
            match member {
                Member::File { content, .. } => fs::write(&place, content),
                Member::Dir { .. } => fs::create_dir_all(&place),
                Member::Link { target, .. } => symlink(target, &place),
            }
            .with_context(|| format!("create {path}"))?;
            if let Some(mode) = mode {
                fs::set_permissions(&place, fs::Permissions::from_mode(mode))
                    .with_context(|| format!("set the mode of {path}"))?;
            }
        }
        Ok(())
    }
}

/// Reads the list.
///
/// # Errors
///
/// A line is not of the form; the message has its number.
pub(crate) fn parse(text: &str) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    let mut names = BTreeSet::new();
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(name) = line.strip_prefix("=== ") {
            if !names.insert(name.to_owned()) {
                bail!("line {number}: {name} is there twice");
            }
            cases.push(Case {
                name: name.to_owned(),
                members: vec![Member::File {
                    path: "Dockerfile".to_owned(),
                    mode: 0o644,
                    content: String::new(),
                }],
                ..Case::default()
            });
            continue;
        }
        let Some(case) = cases.last_mut() else {
            // Before the first entry there are words for the reader.
            continue;
        };
        case.text.push_str(line);
        case.text.push('\n');
        match line.strip_prefix("--- ") {
            Some(entry) => {
                begin(case, entry).with_context(|| format!("line {number} of the list"))?;
            }
            None => match (&mut case.expected, case.members.last_mut()) {
                (Some(expected), _) => {
                    if !line.is_empty() {
                        expected.push(line.to_owned());
                    }
                }
                (None, Some(Member::File { content, .. })) => {
                    content.push_str(line);
                    content.push('\n');
                }
                _ if line.is_empty() => {}
                _ => bail!("line {number}: content of nothing"),
            },
        }
    }
    Ok(cases)
}

fn begin(case: &mut Case, entry: &str) -> Result<()> {
    let (key, rest) = entry.split_once(' ').unwrap_or((entry, ""));
    let words: Vec<&str> = rest.split(' ').filter(|word| !word.is_empty()).collect();
    let mode = |default: u32| match words.get(1) {
        None => Ok(default),
        Some(mode) => u32::from_str_radix(mode, 8).context("a mode in octal digits"),
    };
    let path = || {
        words
            .first()
            .map(|path| (*path).to_owned())
            .context("a path")
    };
    match key {
        "file" => case.members.push(Member::File {
            path: path()?,
            mode: mode(0o644)?,
            content: String::new(),
        }),
        "dir" => case.members.push(Member::Dir {
            path: path()?,
            mode: mode(0o755)?,
        }),
        "link" => case.members.push(Member::Link {
            path: path()?,
            target: words.get(1).context("a target")?.to_string(),
        }),
        "args" => case.arguments.extend(words.iter().map(ToString::to_string)),
        "variable" => {
            let (name, value) = rest.split_once('=').context("NAME=VALUE")?;
            case.variables.push((name.to_owned(), value.to_owned()));
        }
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
