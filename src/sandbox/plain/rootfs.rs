//! The unpacked file systems of images that plain containers share as the lower layer of an overlay.
//!
//! ```text
//! <root>/plain/images/<key>/         locked by who uses it; its name only when it is whole
//!        rootfs/                     the file system, whose owner and mode are the image's
//! <root>/plain/images/.new-<key>/    being unpacked, or left by a command that was killed
//! ```
//! The key is of the layers as they are packed, not the image's id: another image can have the id by layers
//! of its own (docs/adr/0002). One is there as long as the store has its image, or a container is on record
//! as its user.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use images::{Digest, Image, Layer, LayerKey, Store};
use nix::fcntl::{Flock, FlockArg};

use super::{agent_program, jail};
use crate::sandbox::containers;
use crate::sandbox::launch::Isolation;
use crate::sandbox::paths::{self, GuestFiles, Root};

/// Name of the file system in its image's folder.
const ROOTFS: &str = "rootfs";

/// The file system of an image, which nobody removes as long as this is held.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) path: PathBuf,
    _lock: Flock<File>,
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
        Ok(is_same.then_some(Self { path, _lock: lock }))
    }
}

/// The file system of the image of this id in these layers; unpacked when it is not there. `tell` is told
/// what takes time, and what is left out.
///
/// # Errors
/// When the image is gone, a layer is corrupt, or there is no room.
pub(super) fn unpacked(
    root: &Root,
    guest: &GuestFiles,
    (id, layers): (&Digest, &[LayerKey]),
    tell: &dyn Fn(&str),
) -> Result<Unpacked> {
    let images = folder(root);
    // Its user's alone: images have programs that take their owner's rights.
    paths::create_private(&images)?;
    let key = key(layers);
    let path = images.join(&key);
    if let Some(found) = Unpacked::find(&path)? {
        return Ok(found);
    }
    // One at a time, so that what is half made is of a command that was killed.
    let _alone = paths::lock(&images)?;
    if let Some(found) = Unpacked::find(&path)? {
        return Ok(found);
    }
    let store = Store::open(&root.images())?;
    let layers = store.find_made_of(id, layers)?.layers;
    sweep(root, &store, &images)?;
    tell("unpacking the image for plain containers …");
    let new = images.join(format!(".new-{key}"));
    // What could not be removed is not built upon.
    DirBuilder::new()
        .mode(0o700)
        .create(&new)
        .with_context(|| format!("create {}", new.display()))?;
    let rootfs = new.join(ROOTFS);
    fs::create_dir(&rootfs).with_context(|| format!("create {}", rootfs.display()))?;
    let layers = jail::open_layers(&store, &layers)?;
    let left_out = jail::unpack(&agent_program(guest)?, &rootfs, root.path(), layers)?;
    if left_out > 0 {
        tell(&format!(
            "{left_out} device nodes of the image are left out"
        ));
    }
    fs::rename(&new, &path).with_context(|| format!("rename to {}", path.display()))?;
    Unpacked::find(&path)?.context("find the image that was unpacked")
}

/// Removes what is left of images that no store and no plain container has any more, and what is
/// unfinished. Whoever unpacks holds the lock of all.
fn sweep(root: &Root, store: &Store, images: &Path) -> Result<()> {
    let containers = containers::list(root)?.into_iter();
    let mut used: BTreeSet<String> = containers
        .filter(|(_, config)| config.launch.isolation == Isolation::Container)
        .map(|(_, config)| key(&config.launch.layers))
        .collect();
    for image in store.list()?.images {
        used.insert(key(&keys(&image)));
        for name in image.tags.iter().chain(&image.repo_digests) {
            // One that is damaged has to be unpacked anew.
            let named = store.find(name).unwrap_or(None);
            used.extend(named.map(|image| key(&keys(&image))));
        }
    }
    let mut old = Vec::new();
    let mut locks = Vec::new();
    for entry in fs::read_dir(images).context("read the unpacked images")? {
        let entry = entry.context("read the unpacked images")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let lock = File::open(entry.path())
            .ok()
            .and_then(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).ok());
        if let (false, Some(lock)) = (used.contains(&name), lock) {
            locks.push(lock);
            old.push(entry.path());
        }
    }
    // What can't be removed is tried again the next time.
    let _ = jail::remove(&old);
    Ok(())
}

/// Folder of all unpacked images of this user.
fn folder(root: &Root) -> PathBuf {
    root.path().join("plain").join("images")
}

/// The layers of an image.
pub(super) fn keys(image: &Image) -> Vec<LayerKey> {
    image.layers.iter().map(Layer::key).collect()
}

/// Name of the folder of what these layers unpack to.
fn key(layers: &[LayerKey]) -> String {
    let layers = layers.iter();
    let lines = layers.map(|layer| format!("{} {}\n", layer.diff_id, layer.blob));
    Digest::of(lines.collect::<String>().as_bytes()).hex()
}

/// Bytes of disk of an image's unpacked file system.
#[must_use]
pub fn space(root: &Root, image: &Image) -> u64 {
    paths::space_below(&folder(root).join(key(&keys(image))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_otherwise_is_unpacked_for_itself() {
        let layer = |blob: &[u8]| LayerKey {
            diff_id: Digest::of(b"content"),
            blob: Digest::of(blob),
        };
        let (good, evil) = (layer(b"good"), layer(b"evil"));
        let all = [&[good][..], &[evil], &[good, evil], &[evil, good], &[]];
        let names: BTreeSet<String> = all.into_iter().map(key).collect();
        assert_eq!(names.len(), all.len());
        assert!(names.iter().all(|name| name.len() == 64));
    }
}
