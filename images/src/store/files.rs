//! The store's files: atomic writes, names and the errors of both.
//!
//! Used by `store` and `layers` only. A file appears under its name whole and on disk, or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::lock;

/// A failed operation on a file of the store.
#[derive(Debug, Error)]
pub enum FileError {
    /// The disk or the user's quota is full.
    #[error("no space left to {operation} {}", path.display())]
    Full {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: io::Error,
    },
}

impl FileError {
    /// Makes an error of an operation on `path`, for `map_err`.
    pub(crate) fn of(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full {
                operation,
                path,
                source,
            },
            _ => Self::Io {
                operation,
                path,
                source,
            },
        }
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether the file isn't there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        self.is_full()
            .then(|| "free some disk space, for example by removing images with rmi".to_owned())
    }
}

/// Makes a directory and its parents, readable by the owner alone.
pub(crate) fn make_dir(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(FileError::of("create the directory", path))
}

/// Replaces the file at `path` by `bytes`. The caller holds the lock that covers the file, so the
/// temporary file has a fixed name and a dead writer leaves at most that one behind.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let write = || -> io::Result<File> {
        let _ = std::fs::remove_file(&temporary);
        let mut file = lock::options()
            .write(true)
            .create_new(true)
            .open(&temporary)?;
        file.write_all(bytes)?;
        Ok(file)
    };
    let written = write()
        .map_err(FileError::of("write", &temporary))
        .and_then(|file| place(&file, &temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Brings a finished temporary file to disk and gives it its name.
pub(crate) fn place(file: &File, from: &Path, to: &Path) -> Result<(), FileError> {
    file.sync_all().map_err(FileError::of("write", from))?;
    std::fs::rename(from, to).map_err(FileError::of("name", to))?;
    sync_parent(to)
}

/// Makes a file that nobody is to write again say so.
pub(crate) fn freeze(file: &File, path: &Path) -> Result<(), FileError> {
    file.set_permissions(Permissions::from_mode(0o444))
        .map_err(FileError::of("write-protect", path))
}

/// Brings a name to disk. Some file systems (9p, some FUSE ones) can't, and say so; there it is as safe as
/// the file system makes it.
pub(crate) fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    match File::open(parent).and_then(|dir| dir.sync_all()) {
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
            Err(FileError::of("write", parent)(error))
        }
        _ => Ok(()),
    }
}

/// Opens a finished file for reading only; it must be a regular file.
pub(crate) fn open_finished(path: &Path) -> Result<File, FileError> {
    let open = || -> io::Result<File> {
        let file = lock::options().read(true).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        Ok(file)
    };
    open().map_err(FileError::of("open", path))
}

/// Removes a file; one that isn't there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::of("remove", path)(error))
        }
        _ => Ok(()),
    }
}
