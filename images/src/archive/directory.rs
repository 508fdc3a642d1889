//! An OCI layout in a directory.
//!
//! Used by `archive`. The directory is the user's, but what is in it may come from a stranger: names are
//! opened below it only, links out of it are not followed, and fifos and devices are not read.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::ArchiveError;
use crate::store::{Spool, Spooled, StoreError};

#[derive(Debug)]
pub(super) struct Directory {
    root: File,
}

impl Directory {
    pub(super) fn new(root: File) -> Self {
        Self { root }
    }

    /// Copies the file `name` into the spool; `None` where there is none.
    pub(super) fn copy(
        &self,
        name: &str,
        limit: u64,
        spool: &mut Spool,
    ) -> Result<Option<Spooled>, ArchiveError> {
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
        spool.copy(&mut file, limit).map(Some).map_err(failed)
    }
}
