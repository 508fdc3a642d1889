//! Build contexts: a folder of the user's, without what .dockerignore takes away, as a step needs it.
//!
//! Called by `bulkhead build`. The folder is the user's, what is in it need not be: everything is
//! opened beneath it (openat2(2), `RESOLVE_BENEATH`) and without following links, which are read here
//! where a source is one; a link that leads out of the folder is an error then, and anywhere else it
//! is copied as it is. It knows no Dockerfile and no VM: it hands out a digest, for a cache's key,
//! and a tar.
//!
//! ```text
//! patterns ── select (tree, ignore) ─> Selected ── content ─> digest, tar
//! ```

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use protocol::pattern::PatternError;
use thiserror::Error;

use crate::digest::Digest;

mod content;
mod ignore;
mod select;
mod tree;

pub use content::sources_text;
pub use ignore::{Ignore, clean};
pub use select::{ContextEntry, Selected, Wanted};

use tree::{Stamp, Tree};

/// Why something of a context can't be had. Paths in it are escaped.
#[derive(Debug, Error)]
pub enum ContextError {
    /// The operating system says so.
    #[error("{operation} {path}")]
    Io {
        /// What was done.
        operation: &'static str,
        /// With which path.
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
        /// The source.
        path: String,
    },
    /// Patterns that no file matches. The words are Docker's.
    #[error("{0} failed: no source files were specified")]
    NoSources(String),
    /// A link, or a path with dots, that leads out. The words are Docker's.
    #[error("{instruction} failed: forbidden path outside the build context: {path}")]
    Outside {
        /// `COPY` or `ADD`.
        instruction: String,
        /// The source.
        path: String,
    },
    /// A file became another one, or went, while it was looked at.
    #[error("{0} changed while it was read")]
    Changed(String),
    /// A device or a socket, which no image has from a context, or a .dockerignore that is no file.
    #[error("{0} is no kind of file that can be taken")]
    Kind(String),
    /// A pattern with an error in it.
    #[error("a pattern of .dockerignore or of a copy")]
    Pattern(#[source] PatternError),
    /// What .dockerignore can't have.
    #[error("{0}")]
    Ignore(String),
    /// A named limit was exceeded.
    #[error("there are more than {limit} {what}")]
    Limit {
        /// What is limited, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

impl From<PatternError> for ContextError {
    fn from(error: PatternError) -> Self {
        Self::Pattern(error)
    }
}

/// A folder whose files are copied into images.
#[derive(Debug)]
pub struct Context {
    /// None of a context without files.
    tree: Option<Tree>,
    ignore: Ignore,
    /// Digests of files that were read already.
    digests: Mutex<BTreeMap<Stamp, Digest>>,
}

impl Context {
    /// Opens a folder.
    ///
    /// # Errors
    /// It is not there, or no folder.
    pub fn open(folder: &Path, ignore: Ignore) -> Result<Self, ContextError> {
        Ok(Self {
            tree: Some(Tree::open(folder)?),
            ignore,
            digests: Mutex::default(),
        })
    }

    /// A context without files: of a Dockerfile from standard input.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            tree: None,
            ignore: Ignore::default(),
            digests: Mutex::default(),
        }
    }

    /// Finds what is to be copied, in the order of the patterns and of names.
    ///
    /// # Errors
    /// See [`ContextError`].
    pub fn resolve(&self, wanted: &Wanted<'_>) -> Result<Vec<Selected>, ContextError> {
        select::select(self.tree.as_ref(), &self.ignore, wanted)
    }

    /// A digest of names, kinds, modes, link targets and content; times and owners don't matter, since
    /// owners are root in the image.
    ///
    /// # Errors
    /// A file can't be read, or is no more what it was.
    pub fn digest(&self, selected: &[Selected]) -> Result<Digest, ContextError> {
        match &self.tree {
            Some(tree) => content::digest(tree, selected, &self.digests),
            None => Ok(Digest::of(b"")),
        }
    }

    /// Writes a tar of it: a directory's content below the root of the archive, any other by its own name
    /// (with `parents` all by their path). Owners are root, times are kept, hard links are files of their own.
    ///
    /// # Errors
    /// A file can't be read, or is no more what it was; or `to` can't be written. What was written until
    /// then is no whole archive.
    pub fn archive(&self, selected: &[Selected], to: &mut dyn Write) -> Result<(), ContextError> {
        content::archive(self.tree.as_ref(), selected, to)
    }
}

#[cfg(test)]
mod tests;
