//! A tar of the user's own files, for `cp` into a container.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::stat::{major, minor};
use tarball::{Entry, EntryKind, TarWriter};

/// Bytes copied at once.
const BUFFER_LEN: usize = 128 << 10;

/// Writes what is at `path`, called `name` in the archive. Sockets are left out, as by Docker.
///
/// # Errors
/// What reading says; errors of writing come as they are.
pub fn write(path: &Path, name: &[u8], to: impl Write) -> Result<()> {
    let mut archive = Archive {
        tar: TarWriter::new(to),
        links: HashMap::new(),
    };
    archive.put(path, name)?;
    archive.tar.finish()?;
    Ok(())
}

struct Archive<W: Write> {
    tar: TarWriter<W>,
    /// Names of files that have several, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Archive<W> {
    fn put(&mut self, path: &Path, name: &[u8]) -> Result<()> {
        let about = || format!("read {}", path.display());
        let found = path.symlink_metadata().with_context(about)?;
        let Some(kind) = kind(&found) else {
            return Ok(());
        };
        let mut entry = entry(&found, kind, name);
        if kind == EntryKind::Symlink {
            let target = std::fs::read_link(path).with_context(about)?;
            entry.link = target.into_os_string().into_vec();
        }
        if kind != EntryKind::Directory && found.nlink() > 1 {
            let key = (found.dev(), found.ino());
            if let Some(first) = self.links.get(&key) {
                entry.kind = EntryKind::HardLink;
                entry.link.clone_from(first);
                return Ok(self.tar.entry(&entry)?);
            }
            self.links.insert(key, name.to_vec());
        }
        if kind == EntryKind::File {
            // One that was replaced by a fifo meanwhile must not be waited for.
            let mut file = File::options()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(path)
                .with_context(about)?;
            self.tar.entry(&entry)?;
            return self.copy(&mut file).with_context(about);
        }
        self.tar.entry(&entry)?;
        if kind == EntryKind::Directory {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(path).with_context(about)? {
                names.push(entry.with_context(about)?.file_name());
            }
            names.sort();
            for below in names {
                let name = [name, below.as_bytes()].join(&b'/');
                self.put(&path.join(below), &name)?;
            }
        }
        Ok(())
    }

    /// As much as the header says: the rest of a file that was cut meanwhile is zeros.
    fn copy(&mut self, from: &mut File) -> std::io::Result<()> {
        let mut buffer = vec![0; BUFFER_LEN];
        while self.tar.left() > 0 {
            let want =
                usize::try_from(self.tar.left()).map_or(BUFFER_LEN, |left| left.min(BUFFER_LEN));
            let chunk = buffer.get_mut(..want).unwrap_or_default();
            match from.read(chunk)? {
                0 => {
                    chunk.fill(0);
                    self.tar.data(chunk)?;
                }
                len => self.tar.data(chunk.get(..len).unwrap_or_default())?,
            }
        }
        Ok(())
    }
}

fn kind(found: &Metadata) -> Option<EntryKind> {
    let kind = found.file_type();
    Some(if kind.is_dir() {
        EntryKind::Directory
    } else if kind.is_file() {
        EntryKind::File
    } else if kind.is_symlink() {
        EntryKind::Symlink
    } else if kind.is_fifo() {
        EntryKind::Fifo
    } else if kind.is_char_device() {
        EntryKind::CharDevice
    } else if kind.is_block_device() {
        EntryKind::BlockDevice
    } else {
        return None;
    })
}

fn entry(found: &Metadata, kind: EntryKind, name: &[u8]) -> Entry {
    let number = |number: u64| u32::try_from(number).unwrap_or(0);
    Entry {
        path: name.to_vec(),
        link: Vec::new(),
        kind,
        mode: u16::try_from(found.mode() & 0o7777).unwrap_or(0),
        uid: found.uid(),
        gid: found.gid(),
        mtime: (
            found.mtime(),
            u32::try_from(found.mtime_nsec()).unwrap_or(0),
        ),
        device: (number(major(found.rdev())), number(minor(found.rdev()))),
        size: match kind {
            EntryKind::File => found.size(),
            _ => 0,
        },
        pieces: Vec::new(),
        xattrs: Vec::new(),
    }
}
