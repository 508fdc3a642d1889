//! Layer disks that root shares with every user of the host, so that they take space once.
//!
//! ```text
//! /var/lib/bulkhead-layers/           root's, 0755
//!   <diff>-<blob>                     a disk as in a user's own cache, root's, 0444
//!   image-<id>.json                   an image that root shares, and its disks
//!   .new-…                            what is being written, or what nobody finished
//!   .lock                             root's, 0600, while root writes: a lock on what all may open, as the
//!                                     folder, is one that all may hold
//! ```
//! [`super::LayerDisks`] looks here for what a user has not; the verbs `system share` and `system unshare`
//! write it. Whoever could write here would choose what all users run, so nothing is used that somebody
//! else than its owner, root, may have made: neither the folder nor a file, and no link is followed. A
//! disk has the key of its packed layer, so that a user takes here what root's converter made of the very
//! bytes that the user has.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, OFlag, openat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{LayerDisk, LayerKey, check_len, space_of};
use crate::digest::Digest;
use crate::limits::{DISK_BYTES, DISK_WAIT, SHARED_IMAGES, SHARED_RECORD_BYTES};
use crate::lock;
use crate::store::files::{self, FileError};

/// Where it is. No variable leads elsewhere: what lies there is believed.
const FOLDER: &str = "/var/lib/bulkhead-layers";

/// Of a system's own user.
const ROOT: u32 = 0;

const NEW: &str = ".new-";
const LOCK: &str = ".lock";
const RECORD: (&str, &str) = ("image-", ".json");

/// Why nothing of it is used, or an operation that failed.
#[derive(Debug, Error)]
pub enum SharedError {
    /// Somebody else than root may have made it.
    #[error("{} is not used: {why}", path.display())]
    Untrusted {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// No shared image has this name or id.
    #[error("no shared image: {0}")]
    NoSuchImage(String),
    /// A short id that several have.
    #[error("image id {0} is ambiguous: several shared images begin with it")]
    Ambiguous(String),
    /// One more than [`SHARED_IMAGES`].
    #[error("{SHARED_IMAGES} images are shared, the limit: unshare one first")]
    TooMany,
    /// Another process has been writing for [`DISK_WAIT`].
    #[error("another process is still changing what is shared in {}", .0.display())]
    Busy(PathBuf),
}

/// An image that is shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedImage {
    /// The image's id.
    pub id: Digest,
    /// Names that it had when it was shared.
    pub names: Vec<String>,
    /// Its disks, from the base up.
    pub layers: Vec<LayerKey>,
}

/// The right to write the folder.
#[derive(Debug)]
struct Alone {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Alone {
    /// Takes the name away while the lock is held. One that stays is of no account.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The folder.
#[derive(Debug, Clone)]
pub struct SharedDisks {
    folder: PathBuf,
    owner: u32,
}

impl SharedDisks {
    /// That of this host, whether it is there or not.
    pub fn of_host() -> Self {
        Self {
            folder: PathBuf::from(FOLDER),
            owner: ROOT,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    #[cfg(test)]
    pub(super) fn at(folder: &Path, owner: u32) -> Self {
        let folder = folder.to_owned();
        Self { folder, owner }
    }

    /// The disk of `key`, if root shares it.
    ///
    /// # Errors
    /// [`SharedError::Untrusted`] when somebody else may have made it, or it can't be opened.
    pub fn get(&self, key: &LayerKey) -> Result<Option<LayerDisk>, SharedError> {
        let name = key.file_name();
        let Some(file) = self.open(&name)? else {
            return Ok(None);
        };
        let len = self.len(&file, &name)?;
        match check_len(key, len, DISK_BYTES) {
            Ok(()) => Ok(Some(LayerDisk { file, len })),
            Err(_) => self.untrusted(&name, "its length is none that a disk can have"),
        }
    }

    /// All images that are shared, by id, and the bytes that each one's disks take, those that it shares with
    /// others included. However many there are: who is to unshare some has to see them.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn images(&self) -> Result<Vec<(SharedImage, u64)>, SharedError> {
        let mut images = Vec::new();
        for name in self.names()? {
            if !is_record(&name) {
                continue;
            }
            let Some(file) = self.open(&name)? else {
                continue;
            };
            let mut bytes = Vec::new();
            file.take(SHARED_RECORD_BYTES)
                .read_to_end(&mut bytes)
                .map_err(FileError::of("read", &self.folder.join(&name)))?;
            let Ok(image) = serde_json::from_slice::<SharedImage>(&bytes) else {
                return self.untrusted(&name, "it is no record of an image");
            };
            let space = |key: &LayerKey| space_of(&self.folder.join(key.file_name()));
            let bytes = image.layers.iter().map(space).fold(0, u64::saturating_add);
            images.push((image, bytes));
        }
        images.sort_by_key(|(image, _)| image.id);
        Ok(images)
    }

    /// Shares an image with these disks, which this process's user becomes the owner of.
    ///
    /// # Errors
    /// The folder can't be made, is not its user's alone, has [`SHARED_IMAGES`] others, or a file can't be
    /// written.
    pub fn add(&self, image: &SharedImage, disks: &[LayerDisk]) -> Result<(), SharedError> {
        match DirBuilder::new().mode(0o755).create(&self.folder) {
            // Whatever the umask is.
            Ok(()) => std::fs::set_permissions(&self.folder, Permissions::from_mode(0o755))
                .map_err(FileError::of("open to all", &self.folder))?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => Err(FileError::of("create the directory", &self.folder)(error))?,
        }
        let _alone = self.lock()?;
        let own = record(&image.id);
        let mut others = 0_usize;
        for name in self.names()? {
            if name.starts_with(NEW) {
                files::remove(&self.folder.join(name))?;
            } else if is_record(&name) && name != own {
                others = others.saturating_add(1);
            }
        }
        if others >= SHARED_IMAGES {
            return Err(SharedError::TooMany);
        }
        for (key, disk) in image.layers.iter().zip(disks) {
            if !matches!(self.get(key), Ok(Some(_))) {
                self.write(&key.file_name(), |file| copy(disk, file))?;
            }
        }
        let text = serde_json::to_vec(image).unwrap_or_default();
        self.write(&own, |file| file.write_all(&text))
    }

    /// Ends the sharing of what `text` means: a name, an id or the beginning of one. The disks that no other
    /// image has are removed; who has them open goes on. Gives the bytes that were given back.
    ///
    /// # Errors
    /// There is no such image, or a file can't be removed.
    pub fn remove(&self, text: &str) -> Result<u64, SharedError> {
        let Some(_alone) = self.lock()? else {
            return Err(SharedError::NoSuchImage(text.to_owned()));
        };
        let images = self.images()?;
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let has_name = |image: &&SharedImage| image.names.iter().any(|name| name == text);
        let has_id = |image: &&SharedImage| !hex.is_empty() && image.id.hex().starts_with(hex);
        let all = || images.iter().map(|(image, _)| image);
        let meant: Vec<_> = match all().find(has_name) {
            Some(image) => vec![image],
            None => all().filter(has_id).collect(),
        };
        let image = match meant.as_slice() {
            [image] => *image,
            [] => return Err(SharedError::NoSuchImage(text.to_owned())),
            _ => return Err(SharedError::Ambiguous(text.to_owned())),
        };
        files::remove(&self.folder.join(record(&image.id)))?;
        let others = images.iter().filter(|(other, _)| other.id != image.id);
        let used: HashSet<LayerKey> = others.flat_map(|(other, _)| other.layers.clone()).collect();
        let mut freed = 0_u64;
        for name in self.names()? {
            let key = LayerKey::from_file_name(&name);
            if key.is_some_and(|key| !used.contains(&key)) {
                let path = self.folder.join(name);
                freed = freed.saturating_add(space_of(&path));
                files::remove(&path)?;
            }
        }
        Ok(freed)
    }

    /// Keeps others from writing the folder; `None` where it is not.
    fn lock(&self) -> Result<Option<Alone>, SharedError> {
        if self.open_folder()?.is_none() {
            return Ok(None);
        }
        let path = self.folder.join(LOCK);
        let lock = lock::poll(DISK_WAIT, || lock::try_open_locked(&path))
            .map_err(FileError::of("lock", &path))?
            .ok_or_else(|| SharedError::Busy(self.folder.clone()))?;
        Ok(Some(Alone { path, _lock: lock }))
    }

    /// Writes a file that nobody is to write again; under the lock.
    fn write(
        &self,
        name: &str,
        fill: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> Result<(), SharedError> {
        let path = self.folder.join(name);
        let mut new = tempfile::Builder::new()
            .prefix(NEW)
            .tempfile_in(&self.folder)
            .map_err(FileError::of("write", &path))?;
        fill(new.as_file_mut()).map_err(FileError::of("write", &path))?;
        files::freeze(new.as_file(), &path)?;
        files::place(new.as_file(), new.path(), &path)?;
        // It has another name by now.
        let _ = new.into_temp_path().keep();
        Ok(())
    }

    /// Names in the folder; none where it is not.
    fn names(&self) -> Result<Vec<String>, SharedError> {
        if self.open_folder()?.is_none() {
            return Ok(Vec::new());
        }
        let read = || -> std::io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&self.folder)? {
                names.extend(entry?.file_name().into_string().ok());
            }
            Ok(names)
        };
        Ok(read().map_err(FileError::of("read the directory", &self.folder))?)
    }

    fn open_folder(&self) -> Result<Option<File>, SharedError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match nix::fcntl::open(&self.folder, flags, Mode::empty()) {
            Ok(folder) => {
                let folder = File::from(folder);
                self.check_owner(&folder, &self.folder)?;
                Ok(Some(folder))
            }
            Err(nix::errno::Errno::ENOENT) => Ok(None),
            Err(errno) => Err(FileError::of("open", &self.folder)(errno.into()).into()),
        }
    }

    /// Opens a file of it for reading, if there is one; it has to be a regular file that nobody but the owner
    /// may have written.
    fn open(&self, name: &str) -> Result<Option<File>, SharedError> {
        let Some(folder) = self.open_folder()? else {
            return Ok(None);
        };
        let path = self.folder.join(name);
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&folder, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(nix::errno::Errno::ENOENT) => return Ok(None),
            Err(nix::errno::Errno::ELOOP) => return self.untrusted(name, "it is a link"),
            Err(errno) => return Err(FileError::of("open", &path)(errno.into()).into()),
        };
        let metadata = file.metadata().map_err(FileError::of("look at", &path))?;
        if !metadata.is_file() {
            return self.untrusted(name, "it is no regular file");
        }
        self.check_owner(&file, &path)?;
        Ok(Some(file))
    }

    fn check_owner(&self, file: &File, path: &Path) -> Result<(), SharedError> {
        let metadata = file.metadata().map_err(FileError::of("look at", path))?;
        let why = if metadata.uid() != self.owner {
            "it is not root's"
        } else if metadata.mode() & 0o022 != 0 {
            "others than root may write it"
        } else {
            return Ok(());
        };
        Err(SharedError::Untrusted {
            path: path.to_owned(),
            why,
        })
    }

    fn len(&self, file: &File, name: &str) -> Result<u64, SharedError> {
        let path = self.folder.join(name);
        let metadata = file.metadata().map_err(FileError::of("look at", &path))?;
        Ok(metadata.len())
    }

    fn untrusted<T>(&self, name: &str, why: &'static str) -> Result<T, SharedError> {
        let path = self.folder.join(name);
        Err(SharedError::Untrusted { path, why })
    }
}

fn record(id: &Digest) -> String {
    format!("{}{}{}", RECORD.0, id.hex(), RECORD.1)
}

fn is_record(name: &str) -> bool {
    name.starts_with(RECORD.0) && name.ends_with(RECORD.1)
}

/// Copies a whole disk, which has just been opened; the kernel shares its blocks where the file system can.
fn copy(disk: &LayerDisk, target: &mut File) -> std::io::Result<()> {
    let copied = std::io::copy(&mut (&disk.file).take(disk.len), target)?;
    if copied == disk.len {
        Ok(())
    } else {
        Err(ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests;
