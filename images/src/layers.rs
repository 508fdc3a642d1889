//! The cache of layer disks: one read-only file for each unpacked layer, made in a converter VM.
//!
//! `sandbox` asks here for a layer's disk, and fills one that is missing by a converter. Nothing here
//! looks into a disk: the host never mounts, walks or probes what a guest wrote.
//!
//! ```text
//! begin(key) ── waits for the key's lock ──> Begin::Ready(disk)       someone else made it meanwhile
//!                                       └──> Begin::Pending(pending)  ── commit(len) ──> <diff>-<blob>, 0444
//!                                                                     └─ dropped or killed ──> nothing
//! ```
//!
//! A disk's key is the diff_id **and** the digest of the packed layer. The diff_id alone would name the
//! content, but it is the converter that says whether the content has it, and a converter may be taken
//! over by the very bytes it unpacks. Keyed by both, such a converter can only spoil the disk of its own
//! packed layer: every image that uses this disk lists the same hostile bytes. Keyed by diff_id alone,
//! anyone could push a hostile blob under the diff_id of a popular base layer and poison it for all.

mod shared;

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use thiserror::Error;

use crate::digest::Digest;
use crate::image::Layer;
use crate::limits::{DISK_BLOCK, DISK_BYTES, DISK_WAIT};
use crate::lock;
use crate::store::files::{self, FileError};

pub use shared::{SharedDisks, SharedError, SharedImage};

const TEMPORARY: &str = ".tmp";

/// A failed operation on the cache.
#[derive(Debug, Error)]
pub enum LayerError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has been converting the layer for [`DISK_WAIT`].
    #[error("another process is still unpacking layer {0}")]
    Busy(Digest),
    /// A length that no disk can have.
    #[error(
        "the disk of layer {blob} cannot have {len} bytes: want a multiple of {DISK_BLOCK} up to {max}"
    )]
    Length {
        /// The packed layer.
        blob: Digest,
        /// The length asked for.
        len: u64,
        /// The most that it may be.
        max: u64,
    },
}

impl LayerError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            _ => None,
        }
    }
}

/// Which disk: see the module's doc for why it takes both digests.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct LayerKey {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of the packed layer.
    pub blob: Digest,
}

impl LayerKey {
    fn file_name(&self) -> String {
        format!("{}-{}", self.diff_id.hex(), self.blob.hex())
    }

    fn from_file_name(name: &str) -> Option<Self> {
        let (diff_id, blob) = name.split_once('-')?;
        Some(Self {
            diff_id: Digest::from_hex(diff_id)?,
            blob: Digest::from_hex(blob)?,
        })
    }
}

/// A finished disk, open for reading only. It stays usable if its name is removed.
#[derive(Debug)]
pub struct LayerDisk {
    /// Opened O_RDONLY.
    pub file: File,
    /// Bytes: a multiple of [`DISK_BLOCK`], not 0.
    pub len: u64,
}

/// What [`LayerDisks::begin`] found.
#[derive(Debug)]
pub enum Begin {
    /// The disk is there already.
    Ready(LayerDisk),
    /// It is the caller's to make.
    Pending(PendingDisk),
}

/// The cache at one directory. Cheap to open; any number of processes may have it open.
#[derive(Debug, Clone)]
pub struct LayerDisks {
    root: PathBuf,
    shared: SharedDisks,
}

impl LayerDisks {
    /// Opens the cache at `root`, which is made if it isn't there. What dead converters left is removed.
    pub fn open(root: &Path) -> Result<Self, LayerError> {
        files::make_dir(root)?;
        let disks = Self::at(root);
        for name in disks.names()? {
            if name.ends_with(TEMPORARY) {
                disks.remove_stale(&root.join(name))?;
            }
        }
        Ok(disks)
    }

    /// The cache at `root` as it is, for who takes disks from it and makes none.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            shared: SharedDisks::of_host(),
        }
    }

    /// The disk of `key`, this user's or one that root shares, or `None` where it has not been made. One of
    /// an impossible length counts as not made, so that it is made again, and so does a shared one that is
    /// not to be trusted: [`SharedDisks::get`] tells why.
    pub fn get(&self, key: &LayerKey) -> Result<Option<LayerDisk>, LayerError> {
        Ok(match self.own(key)? {
            Some(disk) => Some(disk),
            None => self.shared.get(key).unwrap_or(None),
        })
    }

    /// Why something that root shares of these layers, which this user has not, is not used.
    pub fn shared_trouble(&self, layers: &[Layer]) -> Result<Option<SharedError>, LayerError> {
        for layer in layers {
            let key = layer.key();
            if self.own(&key)?.is_none()
                && let Err(trouble) = self.shared.get(&key)
            {
                return Ok(Some(trouble));
            }
        }
        Ok(None)
    }

    /// The disk of `key` that is this user's own.
    fn own(&self, key: &LayerKey) -> Result<Option<LayerDisk>, LayerError> {
        let file = match files::open_finished(&self.path(key)) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let len = file
            .metadata()
            .map_err(FileError::of("open", &self.path(key)))?
            .len();
        Ok(check_len(key, len, DISK_BYTES)
            .is_ok()
            .then_some(LayerDisk { file, len }))
    }

    /// Takes the right to make the disk of `key`. While another process has it, this waits, up to
    /// [`DISK_WAIT`]; what that one finished is then given back as [`Begin::Ready`].
    pub fn begin(&self, key: &LayerKey) -> Result<Begin, LayerError> {
        let path = self.temporary(key);
        let locked = lock::poll(DISK_WAIT, || lock::try_open_locked(&path))
            .map_err(FileError::of("lock", &path))?
            .ok_or(LayerError::Busy(key.blob))?;
        let pending = PendingDisk {
            key: *key,
            lock: locked,
            path,
            target: self.path(key),
        };
        if let Some(disk) = self.get(key)? {
            return Ok(Begin::Ready(disk));
        }
        // What a converter that died had written is not to be seen by this one's guest.
        pending
            .lock
            .set_len(0)
            .map_err(FileError::of("empty", &pending.path))?;
        Ok(Begin::Pending(pending))
    }

    /// Every disk, and the bytes that it takes.
    pub fn list(&self) -> Result<Vec<(LayerKey, u64)>, LayerError> {
        let keys = self.names()?.into_iter();
        let keys = keys.filter_map(|name| LayerKey::from_file_name(&name));
        Ok(keys.map(|key| (key, space_of(&self.path(&key)))).collect())
    }

    /// Removes every disk whose key is not among `used`. The caller makes sure that nobody is between
    /// choosing a disk and being listed in `used`; disks that are open stay usable.
    pub fn remove_unused(&self, used: &HashSet<LayerKey>) -> Result<u64, LayerError> {
        let mut freed = 0_u64;
        for name in self.names()? {
            let Some(key) = LayerKey::from_file_name(&name) else {
                continue;
            };
            if !used.contains(&key) {
                let path = self.path(&key);
                freed = freed.saturating_add(space_of(&path));
                files::remove(&path)?;
            }
        }
        Ok(freed)
    }

    fn path(&self, key: &LayerKey) -> PathBuf {
        self.root.join(key.file_name())
    }

    fn temporary(&self, key: &LayerKey) -> PathBuf {
        self.root.join(key.file_name() + TEMPORARY)
    }

    /// Names in the directory; ours are ASCII, and others are none of our business.
    fn names(&self) -> Result<Vec<String>, LayerError> {
        let read = || -> std::io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&self.root)? {
                names.extend(entry?.file_name().into_string().ok());
            }
            Ok(names)
        };
        Ok(read().map_err(FileError::of("read the directory", &self.root))?)
    }

    fn remove_stale(&self, path: &Path) -> Result<(), LayerError> {
        let Ok(file) = lock::options().read(true).open(path) else {
            return Ok(());
        };
        let held = lock::try_lock(file).map_err(FileError::of("lock", path))?;
        if let Some(held) = held
            && lock::is_at(&held, path).map_err(FileError::of("lock", path))?
        {
            files::remove(path)?;
        }
        Ok(())
    }
}

/// Bytes that a sparse file takes on disk.
pub(crate) fn space_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    path.symlink_metadata()
        .map_or(0, |metadata| metadata.blocks().saturating_mul(512))
}

fn check_len(key: &LayerKey, len: u64, max: u64) -> Result<(), LayerError> {
    if len == 0 || len > max || !len.is_multiple_of(DISK_BLOCK) {
        return Err(LayerError::Length {
            blob: key.blob,
            len,
            max,
        });
    }
    Ok(())
}

/// A disk being made. Dropped without [`Self::commit`], it is gone.
#[derive(Debug)]
pub struct PendingDisk {
    key: LayerKey,
    lock: Flock<File>,
    path: PathBuf,
    target: PathBuf,
}

impl PendingDisk {
    /// The file that the converter writes: empty, to be made as long as the caller likes with `set_len`.
    /// Holes take no space.
    pub fn file(&self) -> &File {
        &self.lock
    }

    /// Makes the first `len` bytes the layer's disk. By now the converter must be gone, so that nobody
    /// can write the file any more.
    pub fn commit(self, len: u64) -> Result<LayerDisk, LayerError> {
        let written = self
            .lock
            .metadata()
            .map_err(FileError::of("open", &self.path))?
            .len();
        check_len(&self.key, len, written.min(DISK_BYTES))?;
        self.lock
            .set_len(len)
            .map_err(FileError::of("cut", &self.path))?;
        files::freeze(&self.lock, &self.path)?;
        files::place(&self.lock, &self.path, &self.target)?;
        let file = files::open_finished(&self.target)?;
        Ok(LayerDisk { file, len })
    }
}

impl Drop for PendingDisk {
    /// Removes the temporary name if it still is this one's; the lock is released after it.
    fn drop(&mut self) {
        if lock::is_at(&self.lock, &self.path).unwrap_or(false) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
