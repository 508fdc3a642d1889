//! Writing one blob: hashed while it is written, visible only when its digest and size are right.
//!
//! Used by `registry` for layers and documents, and by `store` itself. A writer that dies leaves a
//! partial file, which the next one hashes and goes on from; wrong content in it is found by the digest
//! at the end, as the digest is always over every byte.
//!
//! ```text
//! begin ─ there already ───────────────> Present
//!       ├ another process writes it ───> Busy
//!       └──────> Writer ── write… ── commit ── right ──> blobs/sha256/<hex>
//!                   ├─ dropped, killed: partial stays   ├─ too short: partial stays
//!                   └─ disk full: partial removed       └─ wrong digest: partial removed
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use nix::fcntl::Flock;
use sha2::{Digest as _, Sha256};

use super::files::{self, FileError};
use super::{Store, StoreError};
use crate::digest::Digest;
use crate::limits::{INGEST_WAIT, LOCK_POLL, PARTIAL_AGE};
use crate::lock;

/// Bytes read at once while a partial file is hashed.
const HASH_CHUNK: usize = 1 << 20;

/// What [`Store::begin`] found.
#[derive(Debug)]
pub enum Begin {
    /// The blob is there.
    Present,
    /// Another process is writing it; ask again later.
    Busy,
    /// It is the caller's to write.
    Writer(Box<BlobWriter>),
}

/// The right to write one blob.
#[derive(Debug)]
pub struct BlobWriter {
    file: Flock<File>,
    path: PathBuf,
    target: PathBuf,
    digest: Digest,
    size: u64,
    written: u64,
    is_resumed: bool,
    hasher: Sha256,
}

impl Store {
    /// Starts or resumes writing the blob `digest` of `size` bytes. A blob of another size that is there
    /// already is hashed: if it is whole, `size` is wrong; if it was damaged, it is written anew.
    pub fn begin(&self, digest: &Digest, size: u64) -> Result<Begin, StoreError> {
        match self.has_blob(digest, size) {
            Ok(false) => {}
            Ok(true) => return Ok(Begin::Present),
            Err(StoreError::SizeMismatch { .. }) if self.is_damaged(digest)? => {
                self.remove_damaged(digest)?
            }
            Err(error) => return Err(error),
        }
        let path = self.ingest().join(digest.hex());
        let Some(file) = lock::try_open_locked(&path).map_err(FileError::of("lock", &path))? else {
            return Ok(Begin::Busy);
        };
        if self.has_blob(digest, size)? {
            // The writer before this one finished between our two looks, and we made the file anew.
            files::remove(&path)?;
            return Ok(Begin::Present);
        }
        let mut writer = BlobWriter {
            file,
            path,
            target: self.blob_path(digest),
            digest: *digest,
            size,
            written: 0,
            is_resumed: false,
            hasher: Sha256::new(),
        };
        writer.resume()?;
        Ok(Begin::Writer(Box::new(writer)))
    }

    /// [`Self::begin`], waiting while another process writes the blob; never gives [`Begin::Busy`].
    pub(crate) fn begin_waiting(&self, digest: &Digest, size: u64) -> Result<Begin, StoreError> {
        let started = std::time::Instant::now();
        loop {
            match self.begin(digest, size)? {
                Begin::Busy if started.elapsed() < INGEST_WAIT => std::thread::sleep(LOCK_POLL),
                Begin::Busy => return Err(StoreError::Busy(*digest)),
                found => return Ok(found),
            }
        }
    }

    fn is_damaged(&self, digest: &Digest) -> Result<bool, StoreError> {
        let mut hasher = Sha256::new();
        let mut file = self.blob(digest)?;
        hash_rest(&mut file, &mut hasher)
            .map_err(FileError::of("read", &self.blob_path(digest)))?;
        Ok(Digest::finish(hasher) != *digest)
    }

    /// Removes a blob that is known not to be what its name says.
    pub(crate) fn remove_damaged(&self, digest: &Digest) -> Result<(), StoreError> {
        Ok(files::remove(&self.blob_path(digest))?)
    }

    /// Removes partial downloads that nobody resumed for [`PARTIAL_AGE`].
    pub(super) fn remove_old_partials(&self, now: SystemTime) -> Result<(), StoreError> {
        let ingest = self.ingest();
        let entries =
            std::fs::read_dir(&ingest).map_err(FileError::of("read the directory", &ingest))?;
        for entry in entries {
            let entry = entry.map_err(FileError::of("read the directory", &ingest))?;
            let is_partial = entry
                .file_name()
                .to_str()
                .is_some_and(|name| Digest::from_hex(name).is_some());
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let is_old = modified
                .is_ok_and(|time| now.duration_since(time).is_ok_and(|age| age > PARTIAL_AGE));
            if !is_partial || !is_old {
                continue;
            }
            let path = entry.path();
            if let Some(_held) =
                lock::try_open_locked(&path).map_err(FileError::of("lock", &path))?
            {
                files::remove(&path)?;
            }
        }
        Ok(())
    }
}

impl BlobWriter {
    /// Bytes that are there already; what is written goes after them.
    pub fn offset(&self) -> u64 {
        self.written
    }

    /// Whether some of them are from an earlier writer, so that a wrong digest may be that one's fault.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Bytes that the blob will have.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds `bytes`. More than the blob may have is an error, and nothing of them is taken. When the disk
    /// is full, what was written is removed.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let end = u64::try_from(bytes.len())
            .ok()
            .and_then(|len| self.written.checked_add(len));
        let Some(end) = end.filter(|end| *end <= self.size) else {
            return Err(StoreError::Overlong {
                digest: self.digest,
                expected: self.size,
            });
        };
        if let Err(error) = self
            .file
            .write_all(bytes)
            .map_err(FileError::of("write", &self.path))
        {
            if error.is_full() {
                self.discard();
            }
            return Err(error.into());
        }
        self.hasher.update(bytes);
        self.written = end;
        Ok(())
    }

    /// Forgets what was written and begins anew.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let emptied = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(FileError::of("empty", &self.path))?;
        self.written = 0;
        self.is_resumed = false;
        self.hasher = Sha256::new();
        Ok(())
    }

    /// Checks size and digest and gives the blob its name. Content with a wrong digest is removed; one
    /// that is too short stays, to be resumed.
    pub fn commit(self) -> Result<(), StoreError> {
        if self.written != self.size {
            return Err(StoreError::SizeMismatch {
                digest: self.digest,
                expected: self.size,
                actual: self.written,
            });
        }
        let actual = Digest::finish(self.hasher.clone());
        if actual != self.digest {
            self.discard();
            return Err(StoreError::DigestMismatch {
                expected: self.digest,
                actual,
            });
        }
        files::freeze(&self.file, &self.path)?;
        let placed = files::place(&self.file, &self.path, &self.target);
        if placed.as_ref().is_err_and(FileError::is_full) {
            self.discard();
        }
        Ok(placed?)
    }

    /// Hashes what a writer before this one left. More than the blob may have can't be its beginning.
    fn resume(&mut self) -> Result<(), StoreError> {
        let len = self
            .file
            .metadata()
            .map_err(FileError::of("read", &self.path))?
            .len();
        if len > self.size {
            return self.restart();
        }
        self.written = hash_rest(&mut self.file, &mut self.hasher)
            .map_err(FileError::of("read", &self.path))?;
        self.is_resumed = self.written > 0;
        Ok(())
    }

    /// Gives the space back. The error that led here matters more than one of this.
    fn discard(&self) {
        let _ = self.file.set_len(0);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Hashes what is left of `file` and gives its bytes' count.
fn hash_rest(file: &mut File, hasher: &mut Sha256) -> io::Result<u64> {
    let mut chunk = vec![0; HASH_CHUNK];
    let mut total = 0_u64;
    loop {
        let count = file.read(&mut chunk)?;
        let Some(read) = chunk.get(..count).filter(|read| !read.is_empty()) else {
            return Ok(total);
        };
        hasher.update(read);
        total = total.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests;
