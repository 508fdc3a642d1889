//! Reads a directory for READDIR and READDIRPLUS. Called by [`crate::files`].

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;

use rustix::fs::{FileType, RawDir, RawDirEntry, SeekFrom, seek};
use rustix::io::Errno;

use crate::files::{Files, Reply, VALID_S};
use crate::nodes::{Handle, Node};
use crate::reply::{Attributes, Writer};
use crate::wire::Name;

/// Bytes that the kernel is asked for at once, at least: a longest name and what is around it. Never many
/// more than fit into the reply, as what does not is kept with the handle.
const BUFFER_BYTES_MIN: usize = 280;

/// Bytes that it is asked for at once, at most, on the stack.
const BUFFER_BYTES: usize = 4096;

/// The shortest `struct linux_dirent64`.
const LINUX_DIRENT_BYTES: usize = 24;

/// Bytes of `struct fuse_dirent` before the name, and of `struct fuse_entry_out`.
const DIRENT_BYTES: usize = 24;
const ENTRY_BYTES: usize = 128;

/// How far an open directory is read.
///
/// A request that begins where the last one ended goes on from there without a seek: tmpfs before Linux
/// 6.6 counts its way to a place, so that entries that were removed meanwhile would make it pass over
/// others.
#[derive(Debug, Default)]
pub struct Reading {
    /// The place in the directory behind the last entry that was given.
    next: i64,
    /// Entries behind that which the kernel gave already: what [`BUFFER_BYTES_MIN`] holds.
    unread: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    ino: u64,
    /// Where the next one is.
    next: u64,
    kind: u32,
    name: Vec<u8>,
}

impl From<RawDirEntry<'_>> for Entry {
    fn from(entry: RawDirEntry<'_>) -> Self {
        Self {
            ino: entry.ino(),
            next: entry.next_entry_cookie(),
            kind: kind(entry.file_type()),
            name: entry.file_name().to_bytes().to_vec(),
        }
    }
}

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
    let mut reading = lock.lock().unwrap_or_else(PoisonError::into_inner);
    // An offset is what an entry before said of the next one; others are the file system's to refuse.
    let offset = i64::try_from(offset).map_err(|_| Errno::INVAL)?;
    if reading.next != offset {
        seek(directory.as_fd(), SeekFrom::Start(offset.cast_unsigned()))?;
        reading.unread.clear();
        reading.next = offset;
    }
    let fixed = DIRENT_BYTES + if plus.is_some() { ENTRY_BYTES } else { 0 };
    let room_of = |entry: &Entry| (fixed + entry.name.len()).next_multiple_of(8);
    let mut writer = Writer::new();
    loop {
        if reading.unread.is_empty() {
            // Each entry takes more room in the reply than here, by so much at most.
            let left = size.saturating_sub(writer.len());
            let fits = left / (fixed + LINUX_DIRENT_BYTES) * LINUX_DIRENT_BYTES;
            let ask = fits.clamp(BUFFER_BYTES_MIN, BUFFER_BYTES);
            match entries(directory.as_fd(), ask) {
                Ok(entries) => reading.unread = entries,
                // What was found before is given, and the error with the next request.
                Err(_) if !writer.is_empty() => break,
                Err(errno) => return Err(errno),
            }
        }
        let Some(entry) = reading.unread.pop_front() else {
            break;
        };
        if writer.len() + room_of(&entry) > size {
            reading.unread.push_front(entry);
            break;
        }
        if let Some(parent) = plus {
            let (id, attributes) = look_up(files, parent, &entry.name);
            writer.entry(id, VALID_S, &attributes);
        }
        writer.entry_of_directory(entry.ino, entry.next, entry.kind, &entry.name);
        reading.next = entry.next.cast_signed();
    }
    Ok(writer.into())
}

/// The next entries, as many as the kernel puts into so many bytes; none at the end.
fn entries(directory: BorrowedFd<'_>, bytes: usize) -> Result<VecDeque<Entry>, Errno> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
    let buffer = buffer.get_mut(..bytes).ok_or(Errno::INVAL)?;
    let mut raw = RawDir::new(directory, buffer);
    let mut entries = VecDeque::new();
    while let Some(entry) = raw.next() {
        entries.push_back(entry?.into());
        if raw.is_buffer_empty() {
            break;
        }
    }
    Ok(entries)
}

/// All names in a directory that was just opened, but `.` and `..`.
///
/// # Errors
/// What reading says.
pub fn names(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    loop {
        let entries = entries(directory.as_fd(), BUFFER_BYTES)?;
        if entries.is_empty() {
            return Ok(names);
        }
        let all = entries.into_iter().map(|entry| entry.name);
        names.extend(all.filter(|name| !matches!(name.as_slice(), b"." | b"..")));
    }
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
