//! .dockerignore: which files of a context are as if not there.
//!
//! Syntax and meaning are moby/patternmatcher's: patterns match parents, too, the last one that matches
//! decides, and one with `!` takes back. Used by `select`, also for `--exclude`.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use protocol::pattern::Pattern;

use super::ContextError;
use super::tree::{Kind, Place, Tree, shown};
use crate::limits::{IGNORE_BYTES, IGNORE_PATTERNS};

/// Patterns of a .dockerignore.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<(Pattern, IsException)>,
    /// What patterns that take files back begin with, up to a star at their end; none of one that has
    /// wildcards before that, so that it may match anywhere.
    exceptions: Vec<Option<String>>,
}

/// Whether a pattern takes files back.
type IsException = bool;

/// Which patterns matched a directory.
pub(super) type Matched = Vec<bool>;

impl Ignore {
    /// Reads a .dockerignore's bytes.
    ///
    /// # Errors
    /// A pattern with an error in it, or too many.
    pub fn parse(bytes: &[u8]) -> Result<Self, ContextError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        // A comment begins its line, and may be in any encoding.
        let lines = bytes.split(|byte| *byte == b'\n');
        let texts = lines
            .filter(|line| !line.starts_with(b"#"))
            .map(std::str::from_utf8);
        let texts: Vec<&str> = texts
            .collect::<Result<_, _>>()
            .map_err(|_| ContextError::Ignore(".dockerignore is not UTF-8".to_owned()))?;
        Self::of_patterns(texts.into_iter())
    }

    /// Patterns one by one.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub(super) fn of_patterns<'a>(
        texts: impl Iterator<Item = &'a str>,
    ) -> Result<Self, ContextError> {
        let mut patterns = Vec::new();
        let mut exceptions = Vec::new();
        for text in texts {
            let text = text.trim();
            let (text, is_exception) = match text.strip_prefix('!') {
                Some(rest) => (rest.trim(), true),
                None => (text, false),
            };
            if text.is_empty() && is_exception {
                let message = "illegal exclusion pattern: \"!\"".to_owned();
                return Err(ContextError::Ignore(message));
            }
            if text.is_empty() {
                continue;
            }
            if patterns.len() == IGNORE_PATTERNS {
                return Err(ContextError::Limit {
                    what: "patterns of files that are ignored",
                    limit: IGNORE_PATTERNS as u64,
                });
            }
            let text = clean(text);
            let text = match text.strip_prefix('/') {
                Some(rest) if !rest.is_empty() => rest,
                _ => &text,
            };
            // What is no pattern for Go's function is none here.
            Pattern::shallow(text)?;
            patterns.push((Pattern::deep(text)?, is_exception));
            if is_exception {
                let start = text.strip_suffix("/**").or_else(|| text.strip_suffix("/*"));
                let start = start.unwrap_or(text);
                let is_plain = !Pattern::has_wildcards(start) && !start.contains('\\');
                exceptions.push(is_plain.then(|| start.to_owned()));
            }
        }
        Ok(Self {
            patterns,
            exceptions,
        })
    }

    /// Reads the file that is meant: `<Dockerfile>.dockerignore` next to the Dockerfile, else
    /// `.dockerignore` in the folder; with neither of them nothing is ignored. What is in the folder may be
    /// a stranger's: no link leads out of it, unless the Dockerfile is not in there itself.
    ///
    /// # Errors
    /// As [`Self::parse`], and a file that can't be read.
    pub fn of(folder: &Path, dockerfile: Option<&Path>) -> Result<Self, ContextError> {
        let tree = Tree::open(folder)?;
        let own = match dockerfile {
            Some(dockerfile) => {
                let mut path = dockerfile.as_os_str().to_owned();
                path.push(".dockerignore");
                let path = PathBuf::from(path);
                match within(folder, &path)? {
                    Some(name) => read_within(&tree, &name)?,
                    None => match open_beside(&path)? {
                        Some(file) => Some(read(&file, &path)?),
                        None => None,
                    },
                }
            }
            None => None,
        };
        let bytes = match own {
            Some(bytes) => Some(bytes),
            None => read_within(&tree, Path::new(".dockerignore"))?,
        };
        match bytes {
            Some(bytes) => Self::parse(&bytes),
            None => Ok(Self::default()),
        }
    }

    /// Whether something in a directory may be taken back though the directory is ignored.
    pub(super) fn may_take_back(&self, directory: &[u8]) -> bool {
        let is_in = |start: &String| {
            let rest = start.as_bytes().strip_prefix(directory);
            directory.is_empty()
                || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.exceptions
            .iter()
            .any(|start| start.as_ref().is_none_or(is_in))
    }

    /// Whether a path, relative to the folder and not empty, is ignored; `above` is what this said of the
    /// directory that it is in, and empty in the folder itself.
    pub(super) fn is_ignored(&self, path: &[u8], above: &Matched) -> (bool, Matched) {
        let mut is_ignored = false;
        let mut matched = vec![false; self.patterns.len()];
        for (index, ((pattern, is_exception), matched)) in
            self.patterns.iter().zip(&mut matched).enumerate()
        {
            *matched = above.get(index).copied().unwrap_or(false)
                // Where it would change nothing it is not asked.
                || (is_ignored == *is_exception && pattern.matches(path));
            if *matched {
                is_ignored = !is_exception;
            }
        }
        (is_ignored, matched)
    }
}

/// A file's path in the folder, if that is where the directory of the file is, links followed.
fn within(folder: &Path, path: &Path) -> Result<Option<PathBuf>, ContextError> {
    let real = |path: &Path| {
        let real = path.canonicalize();
        real.map_err(|source| ContextError::Io {
            operation: "find",
            path: shown(path),
            source,
        })
    };
    let Some(name) = path.file_name() else {
        return Ok(None);
    };
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let (folder, parent) = (real(folder)?, real(parent)?);
    let below = parent.strip_prefix(&folder).ok();
    Ok(below.map(|below| below.join(name)))
}

/// Reads a file of the folder that need not be there.
fn read_within(tree: &Tree, name: &Path) -> Result<Option<Vec<u8>>, ContextError> {
    match tree.follow(name.as_os_str().as_bytes(), &|_| false)? {
        Place::Nothing => Ok(None),
        Place::Outside => Err(ContextError::Outside {
            instruction: "the reading of patterns".to_owned(),
            path: shown(name),
        }),
        Place::Path(path, found) if found.kind == Kind::File => {
            let file = tree.file(&path, &found.stamp)?;
            read(&file, name).map(Some)
        }
        Place::Path(..) => Err(ContextError::Kind(shown(name))),
    }
}

/// Opens a file next to a Dockerfile outside of the folder, which need not be there.
fn open_beside(path: &Path) -> Result<Option<File>, ContextError> {
    let failed = |source| ContextError::Io {
        operation: "open",
        path: shown(path),
        source,
    };
    let opened = File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.metadata().map_err(failed)?.is_file() {
        true => Ok(Some(file)),
        false => Err(ContextError::Kind(shown(path))),
    }
}

fn read(file: &File, path: &Path) -> Result<Vec<u8>, ContextError> {
    let mut bytes = Vec::new();
    let mut limited = file.take(IGNORE_BYTES + 1);
    limited
        .read_to_end(&mut bytes)
        .map_err(|source| ContextError::Io {
            operation: "read",
            path: shown(path),
            source,
        })?;
    match bytes.len() as u64 > IGNORE_BYTES {
        true => Err(ContextError::Limit {
            what: "bytes in .dockerignore",
            limit: IGNORE_BYTES,
        }),
        false => Ok(bytes),
    }
}

/// A path as Go's `filepath.Clean` makes it.
#[must_use]
pub fn clean(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => drop(names.pop()),
            ".." if is_absolute => {}
            name => names.push(name),
        }
    }
    match (is_absolute, names.join("/")) {
        (true, names) => format!("/{names}"),
        (false, names) if names.is_empty() => ".".to_owned(),
        (false, names) => names,
    }
}

/// What is said of a path of whose directory it is not known.
pub(super) fn is_ignored_with_parents(ignore: &Ignore, path: &[u8]) -> (bool, Matched) {
    let mut said = (false, Matched::new());
    for (at, byte) in path.iter().enumerate() {
        if *byte == b'/' {
            said = ignore.is_ignored(path.get(..at).unwrap_or_default(), &said.1);
        }
    }
    match path.is_empty() {
        true => said,
        false => ignore.is_ignored(path, &said.1),
    }
}
