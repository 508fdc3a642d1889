//! Copies a directory of the image into a new volume: content, owners, modes, times, extended
//! attributes, symbolic and hard links.
//!
//! Called by [`crate::shares`] before the container has processes. Both trees are walked by names
//! below their roots, following no link. A copy that breaks off is the host's to notice, which then
//! asks for [`clear`] and another.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    chmodat, chownat, linkat, mkdirat, mknodat, openat, openat2, readlinkat, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::failure::{Context, Failure};
use crate::init_layer::Attributes;

/// Bytes read and written at once; the file system device carries as many in a request.
const CHUNK: usize = 512 << 10;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory below a root by the names that lead to it.
fn directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() {
        b".".as_slice()
    } else {
        path
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root, path, DIRECTORY, Mode::empty(), resolve)
}

/// Copies what is in `from` into `to`, unless there is something.
///
/// # Errors
/// What the file systems say.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Failure> {
    if !entries(
        directory(to, b"")
            .context(|| "open the volume".into())?
            .as_fd(),
    )?
    .is_empty()
    {
        return Ok(());
    }
    let mut copy = Copy {
        from,
        to,
        links: BTreeMap::new(),
        buffer: vec![0; CHUNK],
    };
    let mut queue = vec![Vec::new()];
    let mut done = Vec::new();
    while let Some(path) = queue.pop() {
        let directories = copy.directory(&path)?;
        queue.extend(directories);
        done.push(path);
    }
    // Making something in a directory changes its times.
    for path in done.iter().rev() {
        copy.finish(path)?;
    }
    Ok(())
}

fn entries(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Failure> {
    let about = || "read a directory".to_owned();
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).context(about)? {
        let name = entry.context(about)?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
    [path, slash, name].concat()
}

struct Copy<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    /// Where the first name of a file with several is in the volume, by device and inode.
    links: BTreeMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl Copy<'_> {
    /// Copies what is in one directory; returns the directories in it, which are made.
    fn directory(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
        let shown = || format!("copy {}", String::from_utf8_lossy(path));
        let from = directory(self.from, path).context(shown)?;
        let to = directory(self.to, path).context(shown)?;
        let mut found = Vec::new();
        for name in entries(from.as_fd())? {
            let name = name.to_bytes();
            let whole = join(path, name);
            let shown = || format!("copy {}", String::from_utf8_lossy(&whole));
            let status = statat(&from, name, AtFlags::SYMLINK_NOFOLLOW).context(shown)?;
            if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
                mkdirat(&to, name, Mode::from_raw_mode(0o700)).context(shown)?;
                found.push(whole);
            } else {
                self.entry(from.as_fd(), to.as_fd(), name, &whole, &status)
                    .context(shown)?;
            }
        }
        Ok(found)
    }

    /// Copies anything that is no directory.
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        status: &Stat,
    ) -> Result<(), Errno> {
        if status.st_nlink > 1 {
            let key = (status.st_dev, status.st_ino);
            if let Some(first) = self.links.get(&key) {
                return linkat(self.to, first, to, name, AtFlags::empty());
            }
            self.links.insert(key, path.to_vec());
        }
        match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = openat(from, name, flags, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = openat(to, name, flags, Mode::from_raw_mode(0o600))?;
                self.content(&source, &target)?;
                let attributes = Attributes::of(source.as_fd())?;
                return tolerant(attributes.apply_to_file(target.as_fd(), to, name));
            }
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new())?;
                symlinkat(target, to, name)?;
            }
            kind @ (FileType::Fifo | FileType::Socket) => {
                mknodat(to, name, kind, Mode::from_raw_mode(0o600), 0)?;
                let mode = Mode::from_raw_mode(status.st_mode & 0o7777);
                chmodat(to, name, mode, AtFlags::empty())?;
            }
            // A device of the image can't lie on the host's disk.
            _ => return Ok(()),
        }
        own(to, name, status)?;
        times(to, name, status)
    }

    fn content(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
        loop {
            let len = match rustix::io::read(from, &mut *self.buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            let mut rest = self.buffer.get(..len).unwrap_or_default();
            while !rest.is_empty() {
                let len = rustix::io::write(to, rest)?;
                rest = rest.get(len..).unwrap_or_default();
            }
        }
    }

    /// Attributes of a directory whose content is there.
    fn finish(&self, path: &[u8]) -> Result<(), Failure> {
        let shown = || format!("copy {}", String::from_utf8_lossy(path));
        let from = directory(self.from, path).context(shown)?;
        let to = directory(self.to, path).context(shown)?;
        let attributes = Attributes::of(from.as_fd()).context(shown)?;
        tolerant(attributes.apply_to_file(to.as_fd(), to.as_fd(), b".")).context(shown)
    }
}

/// An owner that the host's user may not give, or an attribute that its file system does not have, is
/// left out: the volume is as good as it can be there.
fn tolerant(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

fn own(dir: BorrowedFd<'_>, name: &[u8], status: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    tolerant(chownat(
        dir,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    ))
}

fn times(dir: BorrowedFd<'_>, name: &[u8], status: &Stat) -> Result<(), Errno> {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(status.st_atime, status.st_atime_nsec),
        last_modification: time(status.st_mtime, status.st_mtime_nsec),
    };
    utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Removes all that is in a volume.
///
/// # Errors
/// What the file system says.
pub fn clear(volume: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut queue = vec![Vec::new()];
    let mut seen = Vec::new();
    while let Some(path) = queue.pop() {
        let shown = || format!("clear {}", String::from_utf8_lossy(&path));
        let here = directory(volume, &path).context(shown)?;
        for name in entries(here.as_fd())? {
            match unlinkat(&here, name.as_c_str(), AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::ISDIR) => queue.push(join(&path, name.to_bytes())),
                Err(errno) => return Err(errno).context(shown),
            }
        }
        seen.push(path);
    }
    for path in seen.iter().rev().filter(|path| !path.is_empty()) {
        let shown = || format!("clear {}", String::from_utf8_lossy(path));
        unlinkat(volume, path.as_slice(), AtFlags::REMOVEDIR).context(shown)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
