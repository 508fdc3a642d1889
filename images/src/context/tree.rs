//! A folder's files, opened beneath it and nowhere else.
//!
//! Used by `select` and `content`. No link is ever followed by the kernel here: one that has to be
//! is read and walked name by name, so that it is known where it leads.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat};

use super::ContextError;
use crate::escape::printable;
use crate::limits::CONTEXT_LINKS;

/// A path fit for a terminal.
pub(super) fn shown(path: impl AsRef<OsStr>) -> String {
    printable(&path.as_ref().to_string_lossy())
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// With its target.
    Link(Vec<u8>),
    Fifo,
    /// A device or a socket.
    Other(IsSocket),
}

type IsSocket = bool;

/// What tells a file from another one, or from itself when it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    pub(super) mtime: (i64, u32),
    ctime: (i64, u32),
}

/// A file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) kind: Kind,
    /// The lower twelve bits.
    pub(super) mode: u16,
    pub(super) stamp: Stamp,
}

/// Where following links led.
#[derive(Debug)]
pub(super) enum Place {
    /// To this path, which has no links, dots or doubled slashes in it; empty is the folder itself.
    Path(Vec<u8>, Found),
    /// To nothing.
    Nothing,
    /// Out of the folder.
    Outside,
}

/// An open folder.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

impl Tree {
    pub(super) fn open(folder: &Path) -> Result<Self, ContextError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(folder, flags, nix::sys::stat::Mode::empty());
        let root = root.map_err(|errno| failed("open the build context", folder, errno))?;
        Ok(Self { root })
    }

    /// Opens a path beneath the folder; a link at its end is opened itself, with `O_PATH`.
    fn open_at(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
            .resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_SYMLINKS
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS,
            );
        openat2(&self.root, OsStr::from_bytes(path), how)
    }

    /// What is at a path without links; nothing where there is none.
    pub(super) fn find(&self, path: &[u8]) -> Result<Option<Found>, ContextError> {
        let name = OsStr::from_bytes(path);
        let opened = match self.open_at(path, OFlag::O_PATH) {
            Ok(opened) => opened,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG) => {
                return Ok(None);
            }
            Err(errno) => return Err(failed("open", name, errno)),
        };
        let stat = fstat(&opened).map_err(|errno| failed("stat", name, errno))?;
        let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFDIR => Kind::Directory,
            SFlag::S_IFLNK => {
                let target = readlinkat(&opened, "");
                Kind::Link(
                    target
                        .map_err(|errno| failed("readlink", name, errno))?
                        .into_vec(),
                )
            }
            SFlag::S_IFIFO => Kind::Fifo,
            other => Kind::Other(other == SFlag::S_IFSOCK),
        };
        Ok(Some(Found {
            kind,
            mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
            stamp: stamp(&stat),
        }))
    }

    /// Follows a path with all of its links, beneath the folder. A link that `is_gone` holds of is not there.
    pub(super) fn follow(
        &self,
        path: &[u8],
        is_gone: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Place, ContextError> {
        let mut names: VecDeque<Vec<u8>> = split(path).collect();
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = names.pop_front() {
            if name == b".." {
                if at.pop().is_none() {
                    return Ok(Place::Outside);
                }
                continue;
            }
            at.push(name);
            let here = at.join(&b'/');
            match self.find(&here)?.map(|found| found.kind) {
                None => return Ok(Place::Nothing),
                Some(Kind::Link(_)) if is_gone(&here) => return Ok(Place::Nothing),
                Some(Kind::Link(target)) => {
                    links += 1;
                    if target.first() == Some(&b'/') {
                        return Ok(Place::Outside);
                    }
                    if links > CONTEXT_LINKS {
                        return Err(failed("follow", OsStr::from_bytes(path), Errno::ELOOP));
                    }
                    at.pop();
                    for name in split(&target).collect::<Vec<_>>().into_iter().rev() {
                        names.push_front(name);
                    }
                }
                Some(Kind::Directory) => {}
                Some(_) if names.is_empty() => {}
                Some(_) => return Ok(Place::Nothing),
            }
        }
        let path = at.join(&b'/');
        Ok(match self.find(&path)? {
            Some(found) => Place::Path(path, found),
            None => Place::Nothing,
        })
    }

    /// Names in a directory, sorted.
    pub(super) fn names(&self, path: &[u8]) -> Result<Vec<OsString>, ContextError> {
        let name = OsStr::from_bytes(path);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let read = |errno| failed("read directory", name, errno);
        let mut dir = self
            .open_at(path, flags)
            .and_then(Dir::from_fd)
            .map_err(read)?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(read)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Opens a file that was found, to be read.
    pub(super) fn file(&self, path: &[u8], stamp: &Stamp) -> Result<File, ContextError> {
        let name = OsStr::from_bytes(path);
        // What became a pipe must not hold this up.
        let opened = match self.open_at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        {
            Ok(opened) => opened,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO) => {
                return Err(ContextError::Changed(shown(name)));
            }
            Err(errno) => return Err(failed("open", name, errno)),
        };
        unchanged(&opened, path, stamp)?;
        Ok(File::from(opened))
    }
}

/// Checks that an open file is as it was found.
pub(super) fn unchanged(file: impl AsFd, path: &[u8], was: &Stamp) -> Result<(), ContextError> {
    let name = OsStr::from_bytes(path);
    let stat = fstat(file).map_err(|errno| failed("stat", name, errno))?;
    match stamp(&stat) == *was {
        true => Ok(()),
        false => Err(ContextError::Changed(shown(name))),
    }
}

fn stamp(stat: &FileStat) -> Stamp {
    let nanos = |nanos: i64| u32::try_from(nanos).unwrap_or(0);
    Stamp {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: (stat.st_mtime, nanos(stat.st_mtime_nsec)),
        ctime: (stat.st_ctime, nanos(stat.st_ctime_nsec)),
    }
}

/// Names of a path, without dots.
pub(super) fn split(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
        .map(<[u8]>::to_vec)
}

pub(super) fn failed(
    operation: &'static str,
    path: impl AsRef<OsStr>,
    errno: Errno,
) -> ContextError {
    ContextError::Io {
        operation,
        path: shown(path),
        source: errno.into(),
    }
}
