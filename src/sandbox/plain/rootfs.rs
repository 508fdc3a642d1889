//! The unpacked file systems of images, one per image, that plain containers share as the lower layer
//! of an overlay.
//!
//! ```text
//! <root>/plain/images/<image id>/    locked by who uses it; its name only when it is whole
//!        rootfs/                     the file system, whose owner and mode are the image's
//! <root>/plain/images/.new-<id>/     being unpacked, or left by a command that was killed
//! <root>/plain/run/<id>/             bundles, see bundle.rs
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use images::Image;
use nix::fcntl::{Flock, FlockArg};

use super::{Plain, create_private, folder, jail};
use crate::sandbox::paths::{self, Root};

/// Name of the file system in its image's folder.
const ROOTFS: &str = "rootfs";

/// The file system of an image, which nobody removes as long as this is held.
pub(super) struct Unpacked {
    pub(super) path: PathBuf,
    pub(super) lock: Flock<File>,
}

impl Unpacked {
    /// What is there, if it is.
    fn find(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
        };
        let identity = |status: fs::Metadata| (status.dev(), status.ino());
        let opened = identity(file.metadata().context("look at an unpacked image")?);
        let lock = Flock::lock(file, FlockArg::LockShared)
            .map_err(|(_, error)| error)
            .context("lock an unpacked image")?;
        // It may have been removed meanwhile, and another be there.
        let is_same = fs::metadata(path).is_ok_and(|status| identity(status) == opened);
        let path = path.join(ROOTFS);
        Ok(is_same.then_some(Self { path, lock }))
    }
}

/// The file system of the image; unpacked when it is not there.
///
/// # Errors
/// When a layer is corrupt, or there is no room.
pub(super) fn unpacked(plain: &Plain) -> Result<Unpacked> {
    let images = folder(plain.root).join("images");
    create_private(&images)?;
    let path = images.join(plain.image.id.hex());
    if let Some(found) = Unpacked::find(&path)? {
        return Ok(found);
    }
    // One at a time, so that what is half made is of a command that was killed.
    let _alone = paths::lock(&images)?;
    if let Some(found) = Unpacked::find(&path)? {
        return Ok(found);
    }
    sweep(plain, &images)?;
    (plain.tell)("unpacking the image for plain containers …");
    let new = images.join(format!(".new-{}", plain.image.id.hex()));
    // What could not be removed is not built upon.
    DirBuilder::new()
        .mode(0o700)
        .create(&new)
        .with_context(|| format!("create {}", new.display()))?;
    let rootfs = new.join(ROOTFS);
    fs::create_dir(&rootfs).with_context(|| format!("create {}", rootfs.display()))?;
    let prepared = jail::prepare(plain, &rootfs, &plain.image.layers)?;
    if prepared.devices_left_out > 0 {
        let count = prepared.devices_left_out;
        (plain.tell)(&format!("{count} device nodes of the image are left out"));
    }
    fs::rename(&new, &path).with_context(|| format!("rename to {}", path.display()))?;
    Unpacked::find(&path)?.context("find the image that was unpacked")
}

/// Removes what is left of images that were removed since, and what is unfinished. Whoever unpacks
/// holds the lock of all.
fn sweep(plain: &Plain, images: &Path) -> Result<()> {
    let mut old = Vec::new();
    let mut locks = Vec::new();
    for entry in fs::read_dir(images).context("read the unpacked images")? {
        let entry = entry.context("read the unpacked images")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = plain.store.resolve(&format!("sha256:{name}"));
        let is_gone = known.is_err_and(|error| error.is_no_such_image()) || name.starts_with('.');
        let lock = File::open(entry.path())
            .ok()
            .and_then(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).ok());
        if let (true, Some(lock)) = (is_gone, lock) {
            locks.push(lock);
            old.push(entry.path());
        }
    }
    // What can't be removed is tried again the next time.
    let _ = jail::remove(&old);
    Ok(())
}

/// Bytes of disk of an image's unpacked file system, and of the container's own files.
#[must_use]
pub fn space(root: &Root, image: &Image, id: &str) -> (u64, u64) {
    let folder = folder(root);
    (
        paths::space_below(&folder.join("images").join(image.id.hex())),
        paths::space_below(&folder.join("run").join(id)),
    )
}
