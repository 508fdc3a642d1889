//! Reads a directory for READDIR and READDIRPLUS. Called by [`crate::files`].

use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::PoisonError;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;

use crate::files::{Files, Reply, VALID_S};
use crate::nodes::{Handle, Node};
use crate::reply::{Attributes, Writer};
use crate::wire::Name;

/// Bytes that the kernel is asked for at once, on the stack; a name takes 280 at most.
const BUFFER_BYTES: usize = 4096;

/// Bytes of `struct fuse_dirent` before the name, and of `struct fuse_entry_out`.
const DIRENT_BYTES: usize = 24;
const ENTRY_BYTES: usize = 128;

/// Entries of `directory` from `offset` on, as many as fit into `size` bytes; with their attributes
/// when it is known of which node.
///
/// # Errors
/// What reading says.
pub fn read(
    files: &Files,
    plus: Option<&Node>,
    directory: &Handle,
    offset: u64,
    size: usize,
) -> Result<Reply, Errno> {
    let lock = directory.directory.as_ref().ok_or(Errno::NOTDIR)?;
    let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
    // An offset is what an entry before said of the next one; others are the file system's to refuse.
    let offset = i64::try_from(offset).map_err(|_| Errno::INVAL)?;
    seek(directory.as_fd(), SeekFrom::Start(offset.cast_unsigned()))?;
    let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
    let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
    let mut writer = Writer::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let fixed = DIRENT_BYTES + if plus.is_some() { ENTRY_BYTES } else { 0 };
        if writer.len() + (fixed + name.len()).next_multiple_of(8) > size {
            break;
        }
        if let Some(parent) = plus {
            let (id, attributes) = look_up(files, parent, name);
            writer.entry(id, VALID_S, &attributes);
        }
        let kind = kind(entry.file_type());
        writer.entry_of_directory(entry.ino(), entry.next_entry_cookie(), kind, name);
    }
    Ok(writer.into())
}

/// Node and attributes of an entry; node 0 where there are none to be told, and the guest asks when
/// it needs them.
fn look_up(files: &Files, parent: &Node, name: &[u8]) -> (u64, Attributes) {
    Name::check(name)
        .and_then(|name| files.find(parent, name))
        .and_then(|found| files.remember(found))
        .unwrap_or_default()
}

/// `DT_*` of `readdir(3)`.
fn kind(of: FileType) -> u32 {
    match of {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}
