//! An OCI layout in a directory.
//!
//! Used by `archive`. The directory is the user's, but what is in it may come from a stranger: names are
//! opened below it only, links out of it are not followed, and fifos and devices are not read.

use std::collections::HashMap;
use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::ArchiveError;
use crate::limits::ARCHIVE_BYTES;
use crate::store::{Spool, Spooled, StoreError};

#[derive(Debug)]
pub(super) struct Directory {
    root: File,
    /// What was copied, by name: a file is copied once, however often it is referred to.
    copied: HashMap<String, Spooled>,
    /// Bytes that may still be copied.
    left: u64,
}

impl Directory {
    pub(super) fn new(root: File) -> Self {
        Self {
            root,
            copied: HashMap::new(),
            left: ARCHIVE_BYTES,
        }
    }

    /// Copies the file `name` into the spool, if it is not there; `None` where there is none.
    pub(super) fn copy(
        &mut self,
        name: &str,
        limit: u64,
        spool: &mut Spool,
    ) -> Result<Option<Spooled>, ArchiveError> {
        if let Some(copied) = self.copied.get(name) {
            return Ok(Some(copied.clone()));
        }
        let failed = |source| ArchiveError::Member {
            name: name.to_owned(),
            source: Box::new(source),
        };
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut file = match openat2(&self.root, name, how) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(failed(StoreError::Read(errno.into()))),
        };
        let metadata = file
            .metadata()
            .map_err(|error| failed(StoreError::Read(error)))?;
        if !metadata.is_file() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(failed(StoreError::Read(error)));
        }
        // Before it is copied, so that the disk is not filled for nothing.
        if metadata.len().min(limit) > self.left {
            return Err(ArchiveError::TooMuch);
        }
        let copied = spool.copy(&mut file, limit).map_err(failed)?;
        self.left = self
            .left
            .checked_sub(copied.size)
            .ok_or(ArchiveError::TooMuch)?;
        self.copied.insert(name.to_owned(), copied.clone());
        Ok(Some(copied))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn a_file_is_copied_once_and_all_have_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut spool = store.spool().unwrap();
        for name in ["one", "two"] {
            std::fs::write(dir.path().join(name), "12345").unwrap();
        }
        let mut directory = Directory {
            left: 9,
            ..Directory::new(File::open(dir.path()).unwrap())
        };
        let mut copy = |name: &str| directory.copy(name, 100, &mut spool);
        let first = copy("one").unwrap().unwrap();
        assert_eq!(copy("one").unwrap().unwrap(), first);
        let error = copy("two").unwrap_err();
        assert!(matches!(error, ArchiveError::TooMuch), "{error}");
        assert!(copy("three").unwrap().is_none());
    }
}
