//! What is in selected files: a digest of it, and a tar.
//!
//! Used by `Context`. Both read the same, and both look whether a file is still as it was found, so
//! that what goes into an image is what its key was made of.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tarball::{Entry, EntryKind, TarWriter};

use super::ContextError;
use super::select::{ContextEntry, Selected};
use super::tree::{Kind, Stamp, Tree, shown, unchanged};
use crate::digest::Digest;

/// Bytes read at once.
const BUFFER_LEN: usize = 128 << 10;

/// What stands for the sources of a copy in the history, as the classic builder writes it.
#[must_use]
pub fn sources_text(selected: &[Selected], digest: &Digest) -> String {
    let kind = match selected {
        [one] if one.is_directory => "dir",
        [_] => "file",
        _ => "multi",
    };
    format!("{kind}:{}", digest.hex())
}

/// See [`super::Context::digest`].
pub(super) fn digest(
    tree: &Tree,
    selected: &[Selected],
    known: &Mutex<BTreeMap<Stamp, Digest>>,
) -> Result<Digest, ContextError> {
    let mut all = Sha256::new();
    // With its length before it, nothing can pass for something else.
    let mut add = |bytes: &[u8]| {
        all.update((bytes.len() as u64).to_be_bytes());
        all.update(bytes);
    };
    for one in selected {
        add(if one.is_directory {
            b"directory"
        } else {
            b"other"
        });
        let root_mode = one.root.as_ref().map_or(0, |root| root.mode);
        add(&root_mode.to_be_bytes());
        add(&(one.entries.len() as u64).to_be_bytes());
        for entry in &one.entries {
            add(entry.name.as_os_str().as_bytes());
            add(&entry.found.mode.to_be_bytes());
            match &entry.found.kind {
                Kind::File => {
                    add(b"file");
                    add(file_digest(tree, entry, known)?.hex().as_bytes());
                }
                Kind::Directory => add(b"directory"),
                Kind::Link(target) => {
                    add(b"link");
                    add(target);
                }
                Kind::Fifo => add(b"fifo"),
                Kind::Other(_) => return Err(ContextError::Kind(shown(&entry.path))),
            }
        }
    }
    Ok(Digest::finish(all))
}

fn file_digest(
    tree: &Tree,
    entry: &ContextEntry,
    known: &Mutex<BTreeMap<Stamp, Digest>>,
) -> Result<Digest, ContextError> {
    let stamp = &entry.found.stamp;
    let known = || known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(digest) = known().get(stamp) {
        return Ok(*digest);
    }
    let mut hash = Sha256::new();
    read(tree, entry, &mut |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    let digest = Digest::finish(hash);
    known().insert(*stamp, digest);
    Ok(digest)
}

/// Reads a file that has to be as it was found, before and after.
fn read(
    tree: &Tree,
    entry: &ContextEntry,
    take: &mut dyn FnMut(&[u8]) -> Result<(), ContextError>,
) -> Result<(), ContextError> {
    let path = entry.path.as_os_str().as_bytes();
    let stamp = &entry.found.stamp;
    let changed = || ContextError::Changed(shown(&entry.path));
    let mut file = tree.file(path, stamp)?;
    let mut buffer = vec![0; BUFFER_LEN];
    let mut left = stamp.size;
    loop {
        let len = file.read(&mut buffer).map_err(|source| ContextError::Io {
            operation: "read",
            path: shown(&entry.path),
            source,
        })?;
        if len == 0 {
            break;
        }
        left = left.checked_sub(len as u64).ok_or_else(changed)?;
        take(buffer.get(..len).unwrap_or_default())?;
    }
    match left {
        0 => unchanged(&file, path, stamp),
        _ => Err(changed()),
    }
}

/// See [`super::Context::archive`].
pub(super) fn archive(
    tree: Option<&Tree>,
    selected: &[Selected],
    to: &mut dyn Write,
) -> Result<(), ContextError> {
    let failed = |source| ContextError::Io {
        operation: "write",
        path: "the archive of the build context".to_owned(),
        source,
    };
    let mut writer = TarWriter::new(to);
    // A directory begins with itself, so that whoever unpacks it knows what it was.
    let entries = selected.iter().flat_map(|one| {
        let root = one.root.iter().map(|found| ContextEntry {
            name: PathBuf::from("."),
            path: one.path.clone(),
            found: found.clone(),
        });
        root.chain(one.entries.iter().cloned())
    });
    for entry in entries {
        let (kind, link) = match &entry.found.kind {
            Kind::File => (EntryKind::File, Vec::new()),
            Kind::Directory => (EntryKind::Directory, Vec::new()),
            Kind::Link(target) => (EntryKind::Symlink, target.clone()),
            Kind::Fifo => (EntryKind::Fifo, Vec::new()),
            Kind::Other(_) => return Err(ContextError::Kind(shown(&entry.path))),
        };
        let size = entry.found.stamp.size;
        writer
            .entry(&Entry {
                path: entry.name.as_os_str().as_bytes().to_vec(),
                link,
                kind,
                mode: entry.found.mode,
                uid: 0,
                gid: 0,
                mtime: entry.found.stamp.mtime,
                device: (0, 0),
                size,
                pieces: Vec::new(),
                xattrs: Vec::new(),
            })
            .map_err(failed)?;
        if kind == EntryKind::File
            && let Some(tree) = tree
        {
            read(tree, &entry, &mut |bytes| {
                writer.data(bytes).map_err(failed)
            })?;
        }
    }
    writer.finish().map_err(failed)?;
    Ok(())
}
