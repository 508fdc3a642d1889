//! Writes a tree as files of a directory, over those of the layers below.
//!
//! Called by [`super::into_directory`] in a process whose root is that directory, for a plain
//! container. Every folder is opened by names of the tree, beneath that directory and without following
//! links, so that what lower layers left there leads nowhere else.
//!
//! Device nodes are left out and owners that the user namespace does not have become root's, as in a
//! container of an ordinary user; attributes of `trusted.` and those that the file system refuses are
//! dropped.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
    chownat, fchmod, fsetxattr, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::UnpackError;
use super::output::BLOCK;
use super::tree::{Data, Extent, InodeId, Kind, Metadata, ROOT, Tree};

/// Bytes copied at once.
const BUFFER: usize = 256 << 10;

/// Writes the tree, whose file data is on `scratch`; returns how many device nodes were left out.
pub(super) fn write(tree: &Tree, scratch: &File, root: BorrowedFd<'_>) -> Result<u64, UnpackError> {
    let mut writer = Writer {
        tree,
        scratch,
        root,
        linked: BTreeMap::new(),
        left_out: 0,
    };
    let mut directories = vec![(ROOT, PathBuf::from("."), false)];
    let mut next = 0;
    while let Some((id, path, fresh)) = directories.get(next).cloned() {
        next += 1;
        let below = writer.directory(id, &path, fresh)?;
        directories.extend(below);
    }
    // Directories last and from below, since what is made in one changes its time.
    for (id, path, fresh) in directories.iter().rev() {
        let directory = tree.directory(*id)?;
        if !directory.implied || *fresh {
            let fd = writer.open(path)?;
            describe(fd.as_fd(), &tree.inode(*id)?.metadata)?;
        }
    }
    Ok(writer.left_out)
}

struct Writer<'a> {
    tree: &'a Tree,
    scratch: &'a File,
    root: BorrowedFd<'a>,
    /// Where an inode of several names is.
    linked: BTreeMap<InodeId, PathBuf>,
    left_out: u64,
}

impl Writer<'_> {
    /// Opens a directory of the tree.
    fn open(&self, path: &Path) -> Result<OwnedFd, UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(self.root, path, flags, Mode::empty(), resolve).map_err(failed("open a directory"))
    }

    /// Makes the entries of a directory, which is there; returns directories that are to follow.
    fn directory(
        &mut self,
        id: InodeId,
        path: &Path,
        fresh: bool,
    ) -> Result<Vec<(InodeId, PathBuf, bool)>, UnpackError> {
        let tree = self.tree;
        let directory = tree.directory(id)?;
        let fd = self.open(path)?;
        if directory.opaque && !fresh {
            empty(fd.as_fd())?;
        }
        let mut below = Vec::new();
        for (name, child) in &directory.entries {
            let name = OsStr::from_bytes(name);
            let inode = tree.inode(*child)?;
            let at = path.join(name);
            if let Kind::Directory(_) = inode.kind {
                let fresh = make_directory(fd.as_fd(), name)?;
                below.push((*child, at, fresh));
                continue;
            }
            remove(fd.as_fd(), name)?;
            if let Kind::CharDevice { major: 0, minor: 0 } = inode.kind {
                continue;
            }
            if let Some(first) = self.linked.get(child) {
                linkat(self.root, first, &fd, name, AtFlags::empty())
                    .map_err(failed("make a hard link"))?;
                continue;
            }
            if self.make(fd.as_fd(), name, &inode.kind, &inode.metadata)? && inode.links > 1 {
                self.linked.insert(*child, at);
            }
        }
        Ok(below)
    }

    /// Makes anything but a directory; `false` for what is left out.
    fn make(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        kind: &Kind,
        metadata: &Metadata,
    ) -> Result<bool, UnpackError> {
        match kind {
            Kind::File { size, data } => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(failed("make a file"))?;
                let mut file = File::from(file);
                self.fill(&mut file, *size, data)?;
                describe(file.as_fd(), metadata)?;
            }
            Kind::Symlink(target) => {
                symlinkat(OsStr::from_bytes(target), parent, name)
                    .map_err(failed("make a symbolic link"))?;
                own(parent, name, metadata)?;
                utimensat(parent, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(failed("set a time"))?;
            }
            Kind::Fifo => {
                let mode = Mode::from_raw_mode(u32::from(metadata.mode));
                mknodat(parent, name, FileType::Fifo, mode, 0).map_err(failed("make a pipe"))?;
                own(parent, name, metadata)?;
                rustix::fs::chmodat(parent, name, mode, AtFlags::empty())
                    .map_err(failed("set a mode"))?;
            }
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } => {
                self.left_out = self.left_out.saturating_add(1);
                return Ok(false);
            }
            Kind::Directory(_) => return Ok(false),
        }
        Ok(true)
    }

    fn fill(&self, file: &mut File, size: u64, data: &Data) -> Result<(), UnpackError> {
        let block = BLOCK as u64;
        match data {
            Data::Flat { block: first } => self.copy(file, u64::from(*first) * block, 0, size)?,
            Data::Tail { block: first, at } => {
                let tail = size % block;
                self.copy(file, u64::from(*first) * block, 0, size - tail)?;
                let bytes = usize::try_from(*at)
                    .ok()
                    .zip(usize::try_from(tail).ok())
                    .and_then(|(at, len)| self.tree.tails.get(at..at.checked_add(len)?))
                    .ok_or_else(|| UnpackError::corrupt("the layer's tree is inconsistent"))?;
                file.write_all(bytes).map_err(io("write a file"))?;
            }
            Data::Holes(extents) => {
                for Extent {
                    from,
                    block: at,
                    count,
                } in extents
                {
                    let from = u64::from(*from) * block;
                    let len = (u64::from(*count) * block).min(size.saturating_sub(from));
                    self.copy(file, u64::from(*at) * block, from, len)?;
                }
                file.set_len(size).map_err(io("write a file"))?;
            }
        }
        Ok(())
    }

    /// Copies bytes of the scratch file to `to` in the file, and leaves it behind them.
    fn copy(&self, file: &mut File, from: u64, to: u64, len: u64) -> Result<(), UnpackError> {
        let mut scratch = self.scratch;
        scratch
            .seek(SeekFrom::Start(from))
            .map_err(io("read the scratch file"))?;
        file.seek(SeekFrom::Start(to)).map_err(io("write a file"))?;
        let mut buffer = vec![0; BUFFER];
        let mut left = len;
        while left > 0 {
            let want = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
            let piece = buffer.get_mut(..want).unwrap_or_default();
            scratch
                .read_exact(piece)
                .map_err(io("read the scratch file"))?;
            file.write_all(piece).map_err(io("write a file"))?;
            left -= want as u64;
        }
        Ok(())
    }
}

/// Makes a directory, or finds one; whether it is new.
fn make_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool, UnpackError> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) if FileType::from_raw_mode(status.st_mode) == FileType::Directory => {
            return Ok(false);
        }
        Ok(_) => remove(parent, name)?,
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed("look at a name")(errno)),
    }
    mkdirat(parent, name, Mode::RWXU).map_err(failed("make a directory"))?;
    Ok(true)
}

/// Takes a name away, and everything below it.
fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), UnpackError> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(failed("remove a name")(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(parent, name, flags, Mode::empty()).map_err(failed("open a directory"))?;
    empty(fd.as_fd())?;
    unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(failed("remove a directory"))
}

/// Removes everything in a directory; without recursion, since its depth is a stranger's: what is
/// deeper is first moved up into the directory itself.
fn empty(directory: BorrowedFd<'_>) -> Result<(), UnpackError> {
    let mut moved: u64 = 0;
    loop {
        let names = names(directory)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            let name = OsStr::from_bytes(name.as_bytes());
            match unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(errno) => return Err(failed("remove a name")(errno)),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = openat(directory, name, flags, Mode::empty())
                .map_err(failed("open a directory"))?;
            for deeper in self::names(inner.as_fd())? {
                let deeper = OsStr::from_bytes(deeper.as_bytes());
                match unlinkat(&inner, deeper, AtFlags::empty()) {
                    Ok(()) => continue,
                    Err(Errno::ISDIR | Errno::PERM) => {}
                    Err(errno) => return Err(failed("remove a name")(errno)),
                }
                loop {
                    let target = format!(".bulkhead-removed-{moved}");
                    moved = moved.saturating_add(1);
                    let flags = rustix::fs::RenameFlags::NOREPLACE;
                    match rustix::fs::renameat_with(&inner, deeper, directory, &target, flags) {
                        Ok(()) => break,
                        Err(Errno::EXIST) => {}
                        Err(errno) => return Err(failed("remove a name")(errno)),
                    }
                }
            }
            unlinkat(directory, name, AtFlags::REMOVEDIR).map_err(failed("remove a directory"))?;
        }
    }
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, UnpackError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(failed("read a directory"))? {
        let entry = entry.map_err(failed("read a directory"))?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Owner, attributes, mode and time, in this order: a change of owner clears the rest.
fn describe(fd: BorrowedFd<'_>, metadata: &Metadata) -> Result<(), UnpackError> {
    let ids = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
    match rustix::fs::fchown(fd, Some(ids.0), Some(ids.1)) {
        // The user namespace has no such id.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(failed("set an owner")(errno)),
    }
    for xattr in metadata.xattrs.iter().flat_map(|list| list.iter()) {
        let name = OsStr::from_bytes(&xattr.name);
        match fsetxattr(fd, name, &xattr.value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::PERM | Errno::NOTSUP | Errno::INVAL) => {}
            Err(errno) => return Err(failed("set an attribute")(errno)),
        }
    }
    fchmod(fd, Mode::from_raw_mode(u32::from(metadata.mode))).map_err(failed("set a mode"))?;
    rustix::fs::futimens(fd, &times(metadata)).map_err(failed("set a time"))
}

fn own(parent: BorrowedFd<'_>, name: &OsStr, metadata: &Metadata) -> Result<(), UnpackError> {
    let ids = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
    match chownat(
        parent,
        name,
        Some(ids.0),
        Some(ids.1),
        AtFlags::SYMLINK_NOFOLLOW,
    ) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(failed("set an owner")(errno)),
    }
}

fn times(metadata: &Metadata) -> Timestamps {
    let (tv_sec, nanoseconds) = metadata.mtime;
    let time = Timespec {
        tv_sec,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn failed(operation: &'static str) -> impl Fn(Errno) -> UnpackError {
    move |errno| io(operation)(errno.into())
}

fn io(operation: &'static str) -> impl Fn(std::io::Error) -> UnpackError {
    move |source| match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => UnpackError::Full,
        _ => UnpackError::Io { operation, source },
    }
}
