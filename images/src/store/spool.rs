//! Files of an archive whose digests are not known before they have been read.
//!
//! Used by `archive`. Each member is hashed while it is copied into a directory of its own load, under a
//! number; those that turn out to be blobs are renamed into place, the rest goes with the directory. A
//! dead process's directory is known by its free lock.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use sha2::{Digest as _, Sha256};

use super::files::{self, FileError};
use super::{Store, StoreError};
use crate::digest::Digest;
use crate::lock;

const PREFIX: &str = "load-";
/// Bytes copied at once.
const CHUNK: usize = 1 << 18;

/// The directory of one load; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: tempfile::TempDir,
    _lock: Flock<File>,
    count: u64,
}

/// A member that was copied: its content's digest and size are facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spooled {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    path: PathBuf,
}

impl Store {
    /// Makes the directory of a load.
    pub(crate) fn spool(&self) -> Result<Spool, StoreError> {
        let ingest = self.ingest();
        loop {
            let dir = tempfile::Builder::new()
                .prefix(PREFIX)
                .tempdir_in(&ingest)
                .map_err(FileError::of("create a directory in", &ingest))?;
            let lock = File::open(dir.path()).and_then(lock::try_lock);
            // Between its making and its locking, another process may have taken it for a dead one's.
            match lock {
                Ok(Some(lock)) if lock::is_at(&lock, dir.path()).unwrap_or(false) => {
                    return Ok(Spool {
                        dir,
                        _lock: lock,
                        count: 0,
                    });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(FileError::of("lock", dir.path())(error).into()),
            }
        }
    }

    /// Makes a copied member a blob of the store.
    pub(crate) fn adopt(&self, spooled: &Spooled) -> Result<(), StoreError> {
        if self.has_blob(&spooled.digest, spooled.size)? {
            return Ok(());
        }
        let file = files::open_finished(&spooled.path)?;
        files::freeze(&file, &spooled.path)?;
        Ok(files::place(
            &file,
            &spooled.path,
            &self.blob_path(&spooled.digest),
        )?)
    }
}

impl Spool {
    /// Copies all of `source`, which may have at most `limit` bytes. When the disk is full, or the source
    /// fails, the copy is removed.
    pub(crate) fn copy(
        &mut self,
        source: &mut dyn Read,
        limit: u64,
    ) -> Result<Spooled, StoreError> {
        self.count = self.count.saturating_add(1);
        let path = self.dir.path().join(self.count.to_string());
        let copied = copy_to(&path, source, limit);
        if copied.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        let (digest, size) = copied?;
        Ok(Spooled { digest, size, path })
    }
}

fn copy_to(path: &Path, source: &mut dyn Read, limit: u64) -> Result<(Digest, u64), StoreError> {
    let mut file = lock::options()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(FileError::of("write", path))?;
    let mut hasher = Sha256::new();
    let mut size = 0_u64;
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = match source.read(&mut chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(StoreError::Read(error)),
        };
        let Some(read) = chunk.get(..count).filter(|read| !read.is_empty()) else {
            return Ok((Digest::finish(hasher), size));
        };
        size = size.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if size > limit {
            return Err(StoreError::TooLarge { limit });
        }
        file.write_all(read).map_err(FileError::of("write", path))?;
        hasher.update(read);
    }
}

impl Spooled {
    /// Opens a member for reading.
    pub(crate) fn open(&self) -> Result<File, StoreError> {
        Ok(files::open_finished(&self.path)?)
    }

    /// Reads a small member whole.
    pub(crate) fn read(&self, limit: u64) -> Result<Vec<u8>, StoreError> {
        if self.size > limit {
            return Err(StoreError::TooLarge { limit });
        }
        let mut bytes = Vec::new();
        files::open_finished(&self.path)?
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(FileError::of("read", &self.path))?;
        Ok(bytes)
    }

    /// The first bytes of a member, up to four, for telling compressions apart.
    pub(crate) fn magic(&self) -> Result<[u8; 4], StoreError> {
        let mut magic = [0; 4];
        let mut file = files::open_finished(&self.path)?;
        let read = file.seek(SeekFrom::Start(0)).and_then(|_| {
            let mut filled = 0;
            while let Some(rest) = magic.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match file.read(rest)? {
                    0 => break,
                    count => filled += count,
                }
            }
            Ok(())
        });
        read.map_err(FileError::of("read", &self.path))?;
        Ok(magic)
    }
}

/// Removes the directories of loads whose process is dead.
pub(super) fn remove_stale(ingest: &Path) -> Result<(), StoreError> {
    let entries = std::fs::read_dir(ingest).map_err(FileError::of("read the directory", ingest))?;
    for entry in entries {
        let entry = entry.map_err(FileError::of("read the directory", ingest))?;
        let is_load = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX));
        if !is_load || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let held = match File::open(&path).and_then(lock::try_lock) {
            Ok(held) => held,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(FileError::of("lock", &path)(error).into()),
        };
        if held.is_some() {
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(FileError::of("remove", &path)(error).into());
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
