//! The unpacked file systems of images, one per image, that plain containers share as the lower layer
//! of an overlay.
//!
//! ```text
//! <root>/plain/images/<image id>/    the file system; its name only when it is whole
//! <root>/plain/images/.new-<id>/     being unpacked, or left by a command that was killed
//! <root>/plain/run/<id>/             bundles, see bundle.rs
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use images::Image;

use super::{Plain, folder, jail};
use crate::sandbox::paths::{self, Root};

/// The file system of the image; unpacked when it is not there.
///
/// # Errors
/// When a layer is corrupt, or there is no room.
pub(super) fn unpacked(plain: &Plain) -> Result<PathBuf> {
    let images = folder(plain.root).join("images");
    fs::create_dir_all(&images).with_context(|| format!("create {}", images.display()))?;
    let path = images.join(plain.image.id.hex());
    if path.is_dir() {
        return Ok(path);
    }
    // One at a time, so that what is half made is of a command that was killed.
    let _alone = paths::lock(&images)?;
    if path.is_dir() {
        return Ok(path);
    }
    let mut old: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&images).context("read the unpacked images")? {
        let entry = entry.context("read the unpacked images")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = plain.store.resolve(&format!("sha256:{name}")).is_ok();
        // Of an image that was removed since, or unfinished.
        if !known {
            old.push(entry.path());
        }
    }
    jail::remove(&old)?;
    (plain.unpacking)();
    let new = images.join(format!(".new-{}", plain.image.id.hex()));
    fs::create_dir(&new).with_context(|| format!("create {}", new.display()))?;
    jail::prepare(plain, &new, &plain.image.layers)?;
    fs::rename(&new, &path).with_context(|| format!("rename to {}", path.display()))?;
    Ok(path)
}

/// Bytes of disk of an image's unpacked file system, and of the container's own files.
#[must_use]
pub fn space(root: &Root, image: &Image, id: &str) -> (u64, u64) {
    let folder = folder(root);
    (
        space_once(&folder.join("images").join(image.id.hex())),
        space_once(&folder.join("run").join(id)),
    )
}

/// Bytes that the files below a folder take, each once however many names it has.
fn space_once(folder: &Path) -> u64 {
    let mut files: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(status) = entry.path().symlink_metadata() else {
                continue;
            };
            if status.is_dir() {
                folders.push(entry.path());
            }
            let bytes = status.blocks().saturating_mul(512);
            files.insert((status.dev(), status.ino()), bytes);
        }
    }
    files
        .values()
        .fold(0, |sum, bytes| sum.saturating_add(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_two_names_takes_its_space_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, vec![1; 64 << 10]).unwrap();
        let once = space_once(folder.path());
        fs::hard_link(&path, folder.path().join("b")).unwrap();
        assert_eq!(space_once(folder.path()), once);
        assert!(once >= 64 << 10);
    }
}
