//! Files of an archive, put on the host's disk: what a guest sent for `cp` out of a container, and the
//! build context on standard input.
//!
//! Called by the verbs, as the user who typed them. The archive is a hostile guest's or stranger's. Every place is
//! opened beneath the destination without following any link (openat2(2), `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`), so that neither names nor links in the archive lead out of it, whatever
//! their order; what is written is always a file that was just made. No device is made, no extended
//! attribute set, and set-user-ID bits are dropped but for root who asked to keep owners.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{
    Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, mkfifoat, symlinkat, unlinkat,
};
use tarball::{Entry, EntryKind, TarError, TarReader, shown};

/// Entries of one archive: more files than any image has.
const ENTRIES_MAX: u64 = 4_000_000;

/// Bytes of all files together, holes included: more than any container's disk has.
const BYTES_MAX: u64 = 1 << 40;

/// Bytes for the attributes of directories, which are set at the end.
const DIRECTORIES_MAX: usize = 256 << 20;

/// Longest path and longest name in bytes (`PATH_MAX`, `NAME_MAX`).
const PATH_MAX: usize = 4095;
const NAME_MAX: usize = 255;

/// Bytes copied at once.
const BUFFER_LEN: usize = 128 << 10;

/// Set-user-ID and set-group-ID.
const SET_IDS: u16 = 0o6000;

/// Why an archive was not received; files that came before it stay.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The archive is damaged.
    #[error("a bad archive: {0}")]
    Tar(#[from] TarError),
    /// A name that no honest guest sends.
    #[error("a bad archive: {0}")]
    Name(String),
    /// A named limit was exceeded.
    #[error("an archive with more than {limit} {what}")]
    Limit {
        /// What is limited, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Something is in its place. The words are Docker's.
    #[error("cannot overwrite {0}")]
    Overwrite(String),
    /// A link in the destination.
    #[error("{0} is below a symbolic link or a file, and nothing is written through it")]
    Link(String),
    /// The host's file system says no.
    #[error("write {path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Its error.
        source: std::io::Error,
    },
}

/// Whose the files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// The user's.
    Own,
    /// As in the archive, with set-user-ID bits: for root alone.
    Kept,
}

/// What was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Devices.
    pub devices: u64,
}

/// Reads `archive` and makes what is in it: everything below its entry `top` goes below `name` in
/// `target`, without a name right into it. Without a `top` that is all there is, and directories that
/// the archive does not have are made.
///
/// # Errors
/// See [`ReceiveError`].
pub fn receive(
    target: &File,
    top: &str,
    name: Option<&OsStr>,
    owners: Owners,
    archive: impl Read,
) -> Result<LeftOut, ReceiveError> {
    receive_at_most(ENTRIES_MAX, target, top, name, owners, archive)
}

fn receive_at_most(
    entries_max: u64,
    target: &File,
    top: &str,
    name: Option<&OsStr>,
    owners: Owners,
    archive: impl Read,
) -> Result<LeftOut, ReceiveError> {
    let mut receiver = Receiver {
        target,
        top: top.as_bytes(),
        name: name.map(OsStr::as_bytes),
        owners,
        directories: Vec::new(),
        directories_bytes: 0,
        bytes: 0,
        left_out: LeftOut::default(),
    };
    let mut tar = TarReader::new(archive);
    let mut entries = 0;
    while let Some(entry) = tar.next_entry()? {
        entries += 1;
        if entries > entries_max {
            return Err(limit("entries", entries_max));
        }
        receiver.put(&entry, &mut tar)?;
    }
    if entries == 0 && !top.is_empty() {
        return Err(ReceiveError::Name("nothing is in it".to_owned()));
    }
    receiver.finish()?;
    Ok(receiver.left_out)
}

fn limit(what: &'static str, limit: u64) -> ReceiveError {
    ReceiveError::Limit { what, limit }
}

/// Attributes of a directory that is still being filled.
struct Made {
    path: Vec<u8>,
    mode: u16,
    mtime: (i64, u32),
    owner: (u32, u32),
}

struct Receiver<'a> {
    target: &'a File,
    top: &'a [u8],
    name: Option<&'a [u8]>,
    owners: Owners,
    directories: Vec<Made>,
    directories_bytes: usize,
    bytes: u64,
    left_out: LeftOut,
}

impl Receiver<'_> {
    fn put(&mut self, entry: &Entry, tar: &mut TarReader<impl Read>) -> Result<(), ReceiveError> {
        let path = self.place(&entry.path)?;
        if self.top.is_empty() {
            self.make_directories(&path)?;
        }
        let Some((name, dir)) = self.open_dir(&path)? else {
            // The target itself is the user's.
            return Ok(());
        };
        let failed = |errno: Errno| ReceiveError::Io {
            path: shown(&path),
            source: errno.into(),
        };
        if matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            self.left_out.devices += 1;
            return Ok(());
        }
        self.make_room(&dir, name, entry.kind, &path)?;
        match entry.kind {
            EntryKind::Directory => {
                match mkdirat(&dir, name, Mode::S_IRWXU) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(failed(errno)),
                }
                self.directories_bytes += path.len() + size_of::<Made>();
                if self.directories_bytes > DIRECTORIES_MAX {
                    return Err(limit("bytes of directories", DIRECTORIES_MAX as u64));
                }
                self.directories.push(Made {
                    path,
                    mode: entry.mode,
                    mtime: entry.mtime,
                    owner: (entry.uid, entry.gid),
                });
            }
            EntryKind::File => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
                let how = how(flags).mode(Mode::S_IRUSR | Mode::S_IWUSR);
                let file = File::from(openat2(&dir, name, how).map_err(failed)?);
                self.copy(entry, tar, &file, &path)?;
                self.set_owner(&file, (entry.uid, entry.gid))
                    .map_err(failed)?;
                fchmod(&file, self.mode(entry.mode)).map_err(failed)?;
                let time = time(entry.mtime);
                futimens(&file, &time, &time).map_err(failed)?;
            }
            EntryKind::HardLink => {
                let target = self.place(&entry.link)?;
                let Some((target_name, target_dir)) = self.open_dir(&target)? else {
                    return Err(ReceiveError::Name("a hard link to a directory".to_owned()));
                };
                let there = look_at(&target_dir, target_name).map_err(failed)?;
                // Devices are not there to be linked to.
                if there.is_none() {
                    self.left_out.devices += 1;
                    return Ok(());
                }
                linkat(&target_dir, target_name, &dir, name, AtFlags::empty()).map_err(failed)?;
            }
            EntryKind::Symlink => {
                let target = OsStr::from_bytes(&entry.link);
                symlinkat(target, &dir, name).map_err(failed)?;
                if self.owners == Owners::Kept {
                    let (uid, gid) = ids((entry.uid, entry.gid));
                    fchownat(&dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed)?;
                }
                set_time(&dir, name, entry.mtime).map_err(failed)?;
            }
            EntryKind::Fifo => {
                let mode = self.mode(entry.mode);
                mkfifoat(&dir, name, mode).map_err(failed)?;
                set_time(&dir, name, entry.mtime).map_err(failed)?;
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {}
        }
        Ok(())
    }

    /// Where an entry belongs below the target.
    fn place(&self, path: &[u8]) -> Result<Vec<u8>, ReceiveError> {
        let bad = |why: &str| Err(ReceiveError::Name(format!("{why}: {}", shown(path))));
        if path.len() > PATH_MAX {
            return bad("a path that is too long");
        }
        let parts: Vec<&[u8]> = path
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
            .collect();
        if path.first() == Some(&b'/') || parts.contains(&&b".."[..]) || path.contains(&0) {
            return bad("a path that leads out");
        }
        if parts.iter().any(|part| part.len() > NAME_MAX) {
            return bad("a name that is too long");
        }
        if self.top.is_empty() {
            let names = parts.into_iter().filter(|part| *part != b".");
            return Ok(names.collect::<Vec<_>>().join(&b'/'));
        }
        let Some((first, rest)) = parts.split_first() else {
            return bad("a path without a name");
        };
        if *first != self.top || rest.contains(&&b"."[..]) {
            return bad("a path that was not asked for");
        }
        Ok([self.name.as_slice(), rest].concat().join(&b'/'))
    }

    /// The last name of a path, and the open directory that it is in; nothing for the target itself.
    fn open_dir<'p>(&self, path: &'p [u8]) -> Result<Option<(&'p OsStr, OwnedFd)>, ReceiveError> {
        if path.is_empty() {
            return Ok(None);
        }
        let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (path.get(..at), path.get(at + 1..)),
            None => (Some(&b"."[..]), Some(path)),
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let dir = OsStr::from_bytes(dir.unwrap_or_default());
        let opened = openat2(self.target, dir, how(flags));
        let opened = opened.map_err(|errno| match errno {
            Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV => ReceiveError::Link(shown(path)),
            Errno::ENOENT => ReceiveError::Name(format!("{} without its directory", shown(path))),
            errno => ReceiveError::Io {
                path: shown(path),
                source: errno.into(),
            },
        })?;
        Ok(Some((OsStr::from_bytes(name.unwrap_or_default()), opened)))
    }

    /// Makes the directories above a path that the archive does not have.
    fn make_directories(&self, path: &[u8]) -> Result<(), ReceiveError> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for (end, _) in ends {
            let above = path.get(..end).unwrap_or_default();
            let Some((name, dir)) = self.open_dir(above)? else {
                continue;
            };
            match mkdirat(&dir, name, Mode::from_bits_truncate(0o755)) {
                // Whatever it is: it is opened without following links.
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => {
                    return Err(ReceiveError::Io {
                        path: shown(above),
                        source: errno.into(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Removes what is in the place of an entry, unless both are directories.
    fn make_room(
        &self,
        dir: &OwnedFd,
        name: &OsStr,
        kind: EntryKind,
        path: &[u8],
    ) -> Result<(), ReceiveError> {
        let failed = |errno: Errno| ReceiveError::Io {
            path: shown(path),
            source: errno.into(),
        };
        let Some(there) = look_at(dir, name).map_err(failed)? else {
            return Ok(());
        };
        let was_dir = is_dir(&there);
        match (was_dir, kind == EntryKind::Directory) {
            (true, true) => Ok(()),
            (true, false) => Err(ReceiveError::Overwrite(format!(
                "directory \"{}\" with non-directory",
                shown(path)
            ))),
            (false, true) => Err(ReceiveError::Overwrite(format!(
                "non-directory \"{}\" with directory",
                shown(path)
            ))),
            (false, false) => unlinkat(dir, name, UnlinkatFlags::NoRemoveDir).map_err(failed),
        }
    }

    fn copy(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<impl Read>,
        to: &File,
        path: &[u8],
    ) -> Result<(), ReceiveError> {
        let failed = |source| ReceiveError::Io {
            path: shown(path),
            source,
        };
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > BYTES_MAX {
            return Err(limit("bytes of files", BYTES_MAX));
        }
        let mut buffer = vec![0; BUFFER_LEN];
        let mut end = 0;
        for piece in &entry.pieces {
            let (mut at, mut left) = (piece.offset, piece.len);
            while left > 0 {
                let want = usize::try_from(left).map_or(BUFFER_LEN, |left| left.min(BUFFER_LEN));
                let chunk = buffer.get_mut(..want).unwrap_or_default();
                let len = tar.read(chunk)?;
                if len == 0 {
                    return Err(TarError::Corrupt("it is truncated".to_owned()).into());
                }
                let data = chunk.get(..len).unwrap_or_default();
                let next = at.saturating_add(len as u64);
                // The file is new: what is all zeros is a hole.
                if data.iter().any(|byte| *byte != 0) {
                    to.write_all_at(data, at).map_err(failed)?;
                    end = next;
                }
                at = next;
                left = left.saturating_sub(len as u64);
            }
        }
        if end < entry.size {
            to.set_len(entry.size).map_err(failed)?;
        }
        Ok(())
    }

    fn mode(&self, mode: u16) -> Mode {
        let kept = match self.owners {
            Owners::Kept => mode,
            Owners::Own => mode & !SET_IDS,
        };
        Mode::from_bits_truncate(kept.into())
    }

    fn set_owner(&self, made: impl AsFd, owner: (u32, u32)) -> Result<(), Errno> {
        if self.owners == Owners::Own {
            return Ok(());
        }
        let (uid, gid) = ids(owner);
        fchown(made, uid, gid)
    }

    /// Modes, owners and times of directories, the deepest first: now nothing is made in them.
    fn finish(&mut self) -> Result<(), ReceiveError> {
        while let Some(made) = self.directories.pop() {
            let failed = |errno: Errno| ReceiveError::Io {
                path: shown(&made.path),
                source: errno.into(),
            };
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            let path = OsStr::from_bytes(&made.path);
            let dir = match openat2(self.target, path, how(flags)) {
                // The archive made it twice, and it has its mode already.
                Err(Errno::EACCES) => continue,
                dir => dir.map_err(failed)?,
            };
            self.set_owner(&dir, made.owner).map_err(failed)?;
            fchmod(&dir, self.mode(made.mode)).map_err(failed)?;
            let time = time(made.mtime);
            futimens(&dir, &time, &time).map_err(failed)?;
        }
        Ok(())
    }
}

fn how(flags: OFlag) -> OpenHow {
    OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        )
}

fn look_at(dir: &OwnedFd, name: &OsStr) -> Result<Option<FileStat>, Errno> {
    match fstatat(dir, Path::new(name), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(there) => Ok(Some(there)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn is_dir(there: &FileStat) -> bool {
    SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

fn ids((uid, gid): (u32, u32)) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

fn time((seconds, nanos): (i64, u32)) -> TimeSpec {
    TimeSpec::new(seconds, nanos.into())
}

fn set_time(dir: &OwnedFd, name: &OsStr, mtime: (i64, u32)) -> Result<(), Errno> {
    let time = time(mtime);
    utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)
}

#[cfg(test)]
#[path = "receive/tests.rs"]
mod tests;
