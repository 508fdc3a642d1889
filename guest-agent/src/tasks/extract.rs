//! Unpacking a tar into the container, by Docker's rules for `cp`.
//!
//! Called by [`super`] in a child that has every privilege, while the container's processes may
//! change what lies where at any moment. So no path is ever given to the kernel: each directory on
//! the way is opened inside the container's root by [`paths`], and the last name is made, changed or
//! removed in that open directory without following links.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::message::FailureKind;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, fstat, futimens, linkat, makedev, mkdirat, mknodat, openat, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tarball::{Entry, EntryKind, TarReader, shown};

use super::place;
use crate::failure::{Context, Failure};
use crate::packing::{self, Packing};
use crate::paths::{self, Want};
use crate::unpack::is_reserved;
use crate::user;

/// Entries of one archive.
const ENTRIES_MAX: u64 = 4_000_000;

/// Bytes for directories whose times are set at the end; those beyond keep the present.
const TIMES_MAX: usize = 32 << 20;

/// Bytes copied at once.
const BUFFER_LEN: usize = 128 << 10;

/// Longest passwd or group file that is read in bytes.
const USERS_MAX: usize = 8 << 20;

/// Directories in each other that make room for something else: each is an open descriptor.
const DEPTH_MAX: usize = 256;

/// Unpacks `from` into the directory `path` of the container; everything in it belongs to `owner`,
/// if there is one. It may be compressed where it is to be decompressed.
///
/// # Errors
/// What is wrong with the archive, or what making a file says.
pub fn into(
    root: BorrowedFd<'_>,
    path: &str,
    owner: Option<&str>,
    decompress: bool,
    mut from: impl Read,
) -> Result<(), Failure> {
    // So that a path that is none is told before anything else.
    paths::open(root, path, Want::Directory).config(|| format!("open {path}"))?;
    let owner = owner.map(|owner| identity(root, owner)).transpose()?;
    let mut extraction = Extraction::new(root, path.as_bytes(), owner);
    let mut head = Vec::new();
    if decompress {
        Read::by_ref(&mut from)
            .take(packing::MAGIC_LEN)
            .read_to_end(&mut head)
            .context(|| "read the archive".into())?;
    }
    let packing = Packing::of(&head);
    let mut whole = head.as_slice().chain(from);
    extraction.all(TarReader::new(packing::decoded(packing, &mut whole)?))?;
    extraction.set_times();
    Ok(())
}

pub(super) fn bad(error: tarball::TarError) -> Failure {
    Failure::bad_config(error.to_string())
}

/// What an archive has of its current entry.
pub(super) struct Data<'a, R>(pub(super) &'a mut TarReader<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer).map_err(std::io::Error::other)
    }
}

/// Whom Docker's `-a` and `--chown` give the files to.
///
/// # Errors
/// A name that the container's files don't have.
pub(super) fn identity(root: BorrowedFd<'_>, owner: &str) -> Result<(u32, u32), Failure> {
    let read = |path| match paths::read(root, path, USERS_MAX) {
        Ok(bytes) => Ok(bytes),
        Err(paths::ReadError::Io(Errno::NOENT | Errno::NOTDIR)) => Ok(Vec::new()),
        Err(error) => Err(Failure::bad_config(format!("read {path}: {error}"))),
    };
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    let identity = user::resolve(owner, &[], &passwd, &group)
        .map_err(|error| Failure::bad_config(error.to_string()))?;
    Ok((identity.uid, identity.gid))
}

pub(super) struct Extraction<'a> {
    root: BorrowedFd<'a>,
    /// The directory, without a slash at its end.
    target: &'a [u8],
    owner: Option<(u32, u32)>,
    /// What becomes of the archive's permissions.
    pub(super) mode: Option<&'a protocol::mode::Mode>,
    /// Whether a link makes room for a directory.
    pub(super) replace_links: bool,
    /// Whether a directory makes room for what is none, and the other way round.
    pub(super) replace_kinds: bool,
    entries: u64,
    /// Directories and the times that they are to have when everything is in them.
    times: Vec<(Vec<u8>, (i64, u32))>,
    times_bytes: usize,
}

/// Removes a file, or a directory with all in it.
fn remove(
    dir: BorrowedFd<'_>,
    name: &[u8],
    is_directory: bool,
    depth_left: usize,
) -> Result<(), Errno> {
    if !is_directory {
        return unlinkat(dir, name, AtFlags::empty());
    }
    let depth_left = depth_left.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(dir, name, flags, Mode::empty())?;
    for name in place::names(inner.as_fd())? {
        let found = statat(&inner, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        remove(inner.as_fd(), &name, is_directory, depth_left)?;
    }
    unlinkat(dir, name, AtFlags::REMOVEDIR)
}

impl<'a> Extraction<'a> {
    /// An extraction into the directory `target`, which exists.
    pub(super) fn new(root: BorrowedFd<'a>, target: &'a [u8], owner: Option<(u32, u32)>) -> Self {
        let end = target.iter().rposition(|byte| *byte != b'/');
        Self {
            root,
            target: end.and_then(|end| target.get(..=end)).unwrap_or_default(),
            owner,
            mode: None,
            replace_links: false,
            replace_kinds: false,
            entries: 0,
            times: Vec::new(),
            times_bytes: 0,
        }
    }

    /// Unpacks a whole archive.
    pub(super) fn all(&mut self, mut tar: TarReader<impl Read>) -> Result<(), Failure> {
        while let Some(entry) = tar.next_entry().map_err(bad)? {
            self.put(&entry, &mut Data(&mut tar))?;
        }
        Ok(())
    }

    /// Unpacks one entry, whose content is `data`.
    pub(super) fn put(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), Failure> {
        self.entries = self.entries.saturating_add(1);
        if self.entries > ENTRIES_MAX {
            return Err(Failure::new(
                FailureKind::LimitExceeded,
                format!("the archive has more than {ENTRIES_MAX} entries"),
            ));
        }
        let names = clean(&entry.path)?;
        let Some((name, above)) = names.split_last() else {
            // The target itself, whose attributes are its own.
            return Ok(());
        };
        let path = names.join(&b'/');
        let about = || format!("make {}", shown(&path));
        let dir = self.open(above, Want::NewDirectory).config(about)?;
        let dir = dir.as_fd();
        self.make_room(dir, name, entry.kind, &path)?;
        match entry.kind {
            EntryKind::Directory => {
                match mkdirat(dir, *name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno).config(about),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = openat(dir, *name, flags, Mode::empty()).config(about)?;
                self.set_attributes(made.as_fd(), entry).config(about)?;
                self.times_bytes += path.len() + 64;
                if self.times_bytes <= TIMES_MAX {
                    self.times.push((path, entry.mtime));
                }
            }
            EntryKind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let made = openat(dir, *name, flags, Mode::from_raw_mode(0o600)).config(about)?;
                let mut made = File::from(made);
                copy(entry, data, &mut made, &path)?;
                self.set_attributes(made.as_fd(), entry).config(about)?;
                futimens(&made, &times(entry.mtime)).config(about)?;
            }
            EntryKind::HardLink => {
                let target = clean(&entry.link)?;
                let Some((target_name, above)) = target.split_last() else {
                    return Err(Failure::bad_config(format!(
                        "{} is a hard link to a directory",
                        shown(&path)
                    )));
                };
                let above = self.open(above, Want::Directory).config(about)?;
                linkat(&above, *target_name, dir, *name, AtFlags::empty()).config(about)?;
            }
            EntryKind::Symlink => {
                symlinkat(&*entry.link, dir, *name).config(about)?;
                self.set_owner(dir, name, entry).config(about)?;
                let at = AtFlags::SYMLINK_NOFOLLOW;
                utimensat(dir, *name, &times(entry.mtime), at).config(about)?;
            }
            EntryKind::Fifo | EntryKind::CharDevice | EntryKind::BlockDevice => {
                self.make_node(dir, name, entry).config(about)?;
            }
        }
        Ok(())
    }

    /// A directory below the target. Links on the way are followed as in the container.
    fn open(&self, names: &[&[u8]], want: Want) -> Result<OwnedFd, Errno> {
        let mut path = self.target.to_vec();
        for name in names {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        paths::open(self.root, path, want)
    }

    /// Removes what is in the place of an entry, unless both are directories.
    fn make_room(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        kind: EntryKind,
        path: &[u8],
    ) -> Result<(), Failure> {
        let there = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            there => there.config(|| format!("look at {}", shown(path)))?,
        };
        let is_link = FileType::from_raw_mode(there.st_mode) == FileType::Symlink;
        if is_link && self.replace_links {
            return unlinkat(dir, name, AtFlags::empty())
                .config(|| format!("replace {}", shown(path)));
        }
        let was_dir = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
        let is_dir = kind == EntryKind::Directory;
        if self.replace_kinds && was_dir != is_dir {
            return remove(dir, name, was_dir, DEPTH_MAX)
                .config(|| format!("replace {}", shown(path)));
        }
        let (path, target) = (shown(path), shown(self.target));
        match (was_dir, is_dir) {
            (true, true) => Ok(()),
            (true, false) => Err(Failure::bad_config(format!(
                "cannot overwrite directory \"{target}/{path}\" with non-directory \"{target}\""
            ))),
            (false, true) => Err(Failure::bad_config(format!(
                "cannot overwrite non-directory \"{target}/{path}\" with directory \"{target}\""
            ))),
            (false, false) => {
                unlinkat(dir, name, AtFlags::empty()).config(|| format!("replace {path}"))
            }
        }
    }

    fn owner(&self, entry: &Entry) -> (Option<Uid>, Option<Gid>) {
        let (uid, gid) = self.owner.unwrap_or((entry.uid, entry.gid));
        // All bits set would mean to leave it as it is: root's.
        let uid = (uid != u32::MAX).then(|| Uid::from_raw(uid));
        let gid = (gid != u32::MAX).then(|| Gid::from_raw(gid));
        (uid, gid)
    }

    fn set_owner(&self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), Errno> {
        let (uid, gid) = self.owner(entry);
        chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Owner, attributes and mode of what was just made, in the order in which they survive.
    fn set_attributes(&self, made: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
        let (uid, gid) = self.owner(entry);
        fchown(made, uid, gid)?;
        // Those that overlayfs or the agent would take for their own are nobody else's to set.
        let xattrs = entry.xattrs.iter();
        for xattr in xattrs.filter(|xattr| !is_reserved(&xattr.name)) {
            match fsetxattr(made, &*xattr.name, &xattr.value, XattrFlags::empty()) {
                // As Docker: what the file system does not know is left out.
                Ok(()) | Err(Errno::NOTSUP | Errno::PERM | Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            }
        }
        fchmod(made, self.mode(entry))
    }

    fn mode(&self, entry: &Entry) -> Mode {
        let is_directory = entry.kind == EntryKind::Directory;
        let mode = self.mode.map(|mode| mode.apply(entry.mode, is_directory));
        Mode::from_raw_mode(mode.unwrap_or(entry.mode).into())
    }

    fn make_node(&self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), Errno> {
        let (major, minor) = entry.device;
        let kind = match entry.kind {
            EntryKind::CharDevice => FileType::CharacterDevice,
            EntryKind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        // To overlayfs it means that something is gone.
        if kind == FileType::CharacterDevice && (major, minor) == (0, 0) {
            return Err(Errno::INVAL);
        }
        // The agent's mask is empty, and nobody else has the name open: no chmod that follows.
        let mode = self.mode(entry);
        mknodat(dir, name, kind, mode, makedev(major, minor))?;
        self.set_owner(dir, name, entry)?;
        utimensat(dir, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Times of directories, which change whenever something is made in them. One that is gone, or
    /// replaced, has none.
    pub(super) fn set_times(&self) {
        for (path, mtime) in self.times.iter().rev() {
            let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
            if let Some((name, above)) = names.split_last()
                && let Ok(dir) = self.open(above, Want::Directory)
            {
                let at = AtFlags::SYMLINK_NOFOLLOW;
                let _ = utimensat(&dir, *name, &times(*mtime), at);
            }
        }
    }
}

/// Copies a file's data; what a sparse map leaves out stays a hole.
fn copy(entry: &Entry, data: &mut dyn Read, to: &mut File, path: &[u8]) -> Result<(), Failure> {
    use std::os::unix::fs::FileExt;
    let about = || format!("write {}", shown(path));
    let mut buffer = vec![0; BUFFER_LEN];
    for piece in &entry.pieces {
        let (mut at, mut left) = (piece.offset, piece.len);
        while left > 0 {
            let want = usize::try_from(left).map_or(BUFFER_LEN, |left| left.min(BUFFER_LEN));
            let chunk = buffer.get_mut(..want).unwrap_or_default();
            let len = data
                .read(chunk)
                .map_err(|error| Failure::bad_config(error.to_string()))?;
            if len == 0 {
                return Err(Failure::bad_config("the archive is truncated"));
            }
            to.write_all_at(chunk.get(..len).unwrap_or_default(), at)
                .context(about)?;
            at = at.saturating_add(len as u64);
            left = left.saturating_sub(len as u64);
        }
    }
    if fstat(&*to).context(about)?.st_size.unsigned_abs() < entry.size {
        to.set_len(entry.size).context(about)?;
    }
    Ok(())
}

fn times(mtime: (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.0,
        tv_nsec: mtime.1.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// The names of a path in an archive. One that leads out of the target is refused.
pub(super) fn clean(path: &[u8]) -> Result<Vec<&[u8]>, Failure> {
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                if names.pop().is_none() {
                    return Err(Failure::bad_config(format!(
                        "{} leads out of the directory",
                        shown(path)
                    )));
                }
            }
            name if name.contains(&0) => {
                return Err(Failure::bad_config("a NUL byte in a name"));
            }
            name => names.push(name),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
