//! Build contexts: a folder of the user's, without what .dockerignore takes away, as a step needs it.
//!
//! Called by `bulkhead build`. The folder is the user's, what is in it need not be: everything is
//! opened beneath it (openat2(2), `RESOLVE_BENEATH`), links stay links, and one that leads out of the
//! folder is an error where its target is asked for. It knows no Dockerfile and no VM; what it
//! hands out is a digest, for a cache's key, and a tar.

use std::io::Write;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::digest::Digest;

/// Why something of a context can't be had.
#[derive(Debug, Error)]
pub enum ContextError {
    /// The operating system says so.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was done.
        operation: &'static str,
        /// With which path, escaped.
        path: String,
        /// Its error.
        #[source]
        source: std::io::Error,
    },
    /// A source is not there. The words are Docker's.
    #[error(
        "{instruction} failed: file not found in build context or excluded by .dockerignore: stat {path}: file does not exist"
    )]
    NotFound {
        /// `COPY` or `ADD`.
        instruction: String,
        /// The source, escaped.
        path: String,
    },
    /// A pattern that no file matches. The words are Docker's.
    #[error("{instruction} failed: no source files were specified")]
    NoSources {
        /// `COPY` or `ADD`.
        instruction: String,
    },
    /// A link, or a path with dots, that leads out. The words are Docker's.
    #[error("forbidden path outside the build context: {path}")]
    Outside {
        /// The source, escaped.
        path: String,
    },
    /// A file became another one while it was read.
    #[error("{path} changed while it was read")]
    Changed {
        /// Which file, escaped.
        path: String,
    },
    /// What is not copied.
    #[error("archive/tar: sockets not supported: {path}")]
    Socket {
        /// Which file, escaped.
        path: String,
    },
    /// A pattern with an error in it.
    #[error("{0}")]
    Pattern(#[from] protocol::pattern::PatternError),
    /// A named limit was exceeded.
    #[error("the build context has more than {limit} {what}")]
    Limit {
        /// What is limited, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// The patterns of a .dockerignore.
#[derive(Debug, Clone, Default)]
pub struct Ignore {}

impl Ignore {
    /// Reads a .dockerignore's bytes.
    ///
    /// # Errors
    /// A pattern with an error in it, or too many.
    pub fn parse(bytes: &[u8]) -> Result<Self, ContextError> {
        let _ = bytes;
        Ok(Self {})
    }

    /// Reads the one that is meant: `<Dockerfile>.dockerignore` next to the Dockerfile, else
    /// `.dockerignore` in the folder; with neither of them nothing is ignored.
    ///
    /// # Errors
    /// As [`Self::parse`], and a file that can't be read.
    pub fn of(folder: &Path, dockerfile: Option<&Path>) -> Result<Self, ContextError> {
        let _ = (folder, dockerfile);
        Ok(Self {})
    }
}

/// A folder whose files are copied into images.
#[derive(Debug)]
pub struct Context {}

/// What a copy takes.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// `COPY` or `ADD`, for errors.
    pub instruction: &'a str,
    /// Patterns of Go's `filepath.Match`, relative to the folder, also with a slash at their beginning.
    pub patterns: &'a [&'a str],
    /// `--parents`: entries keep their folders.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: &'a [String],
}

/// What was found, one for each match of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// Beneath the folder, links followed.
    pub path: PathBuf,
    /// Whether it is a directory, of which the content is copied.
    pub is_directory: bool,
    /// What the archive has of it.
    pub entries: Vec<ContextEntry>,
}

/// A file, link or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextEntry {
    /// Its name in the archive, bytes with slashes.
    pub name: PathBuf,
    /// Beneath the folder.
    pub path: PathBuf,
}

impl Context {
    /// Opens a folder.
    ///
    /// # Errors
    /// It is not there, or no folder.
    pub fn open(folder: &Path, ignore: Ignore) -> Result<Self, ContextError> {
        let _ = (folder, ignore);
        Ok(Self {})
    }

    /// A context without files: of a Dockerfile from standard input.
    #[must_use]
    pub fn empty() -> Self {
        Self {}
    }

    /// Finds what is to be copied, in the order of the patterns and of names.
    ///
    /// # Errors
    /// See [`ContextError`].
    pub fn resolve(&self, wanted: &Wanted<'_>) -> Result<Vec<Selected>, ContextError> {
        let _ = wanted;
        Ok(Vec::new())
    }

    /// A digest of names, kinds, modes, link targets and content; times and owners don't matter, since
    /// owners are root in the image.
    ///
    /// # Errors
    /// See [`ContextError`].
    pub fn digest(&self, selected: &[Selected]) -> Result<Digest, ContextError> {
        let _ = selected;
        Ok(Digest::of(b""))
    }

    /// Writes a tar of it: a directory's content below the root of the archive, any other by its own name
    /// (with `parents` all by their path). Owners are root, times are kept, hard links are files of their own.
    ///
    /// # Errors
    /// See [`ContextError`]; what was written until then is no whole archive.
    pub fn archive(&self, selected: &[Selected], to: &mut dyn Write) -> Result<(), ContextError> {
        let _ = (selected, to);
        Ok(())
    }
}
