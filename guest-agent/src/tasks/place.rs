//! Looking at what lies in the container's root, and opening it to be read.
//!
//! Called by the other tasks. A name is opened as a place first (`O_PATH`), which has no effect
//! whatever lies there; only files and directories are then opened, and must still be the same.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use protocol::task::PathStat;
use rustix::fs::{
    Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, flistxattr, fstat, open, openat,
    openat2, readlinkat,
};
use rustix::io::Errno;
use rustix::path::Arg;
use tarball::{XATTRS_MAX, Xattr};

use crate::unpack::is_reserved;

/// Longest xattr value that a tar can hold, and longest list of names (`XATTR_LIST_MAX`), in bytes.
const MAX_XATTR: usize = 65_535;
const MAX_XATTR_LIST: usize = 64 << 10;

/// overlayfs's mark of a directory that hides what is below it in lower layers.
const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// How often a name is looked at which somebody replaces each time: nobody wins a race by chance so often.
const LOOKS_MAX: usize = 1000;

/// How long whoever has to give way first is left to it, each time.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// Something that was found, and how it is open: files and directories for reading, anything else
/// as a place.
#[derive(Debug)]
pub struct Found {
    /// Open.
    pub fd: OwnedFd,
    /// Of what is open.
    pub stat: Stat,
}

const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// What `path` in the container leads to; a link at its end is followed or not.
///
/// # Errors
/// `ENOENT`, `EBUSY` when it is another thing whenever it is looked at, and whatever else looking it up
/// says.
pub fn look_at(root: BorrowedFd<'_>, path: &str, follow: bool) -> Result<Found, Errno> {
    look_in_root(root, path.as_bytes(), follow)
}

/// As [`look_at`], of a path of any bytes.
///
/// # Errors
/// As [`look_at`].
pub fn look_in_root(root: BorrowedFd<'_>, path: &[u8], follow: bool) -> Result<Found, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let last = if follow {
        OFlags::empty()
    } else {
        OFlags::NOFOLLOW
    };
    let path = if path.is_empty() { b"/" } else { path };
    look(|flags| openat2(root, path, flags | last, Mode::empty(), resolve))
}

/// What lies in an open directory under a name.
///
/// # Errors
/// `ENOENT` when there is nothing, `EBUSY` when it is another thing whenever it is looked at.
pub fn look_in(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Found, Errno> {
    look(|flags| openat(dir, name, flags | OFlags::NOFOLLOW, Mode::empty()))
}

/// Looks until what was opened is what was found: a name that is replaced meanwhile is not gone.
fn look(open: impl Fn(OFlags) -> Result<OwnedFd, Errno>) -> Result<Found, Errno> {
    let mut trouble = Errno::BUSY;
    for _ in 0..LOOKS_MAX {
        let place = match open(PLACE) {
            // A directory on the way was moved.
            Err(Errno::AGAIN) => continue,
            place => place?,
        };
        let stat = fstat(&place)?;
        let kind = match kind(&stat) {
            FileType::Directory => OFlags::DIRECTORY,
            FileType::RegularFile => OFlags::NONBLOCK | OFlags::NOCTTY,
            _ => return Ok(Found { fd: place, stat }),
        };
        trouble = Errno::BUSY;
        let fd = match open(OFlags::RDONLY | OFlags::CLOEXEC | kind) {
            // Somebody has a lease on it, and was just asked to give it back (fcntl(2)).
            Err(Errno::AGAIN) => {
                std::thread::sleep(LOOK_PAUSE);
                continue;
            }
            // Gone, which looking again says, unless a share's files are remembered for longer.
            Err(Errno::NOENT) => {
                trouble = Errno::NOENT;
                continue;
            }
            // Another kind of file by now.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => continue,
            fd => fd?,
        };
        let opened = fstat(&fd)?;
        let same = |stat: &Stat| (stat.st_dev, stat.st_ino, stat.st_mode);
        if same(&opened) == same(&stat) {
            return Ok(Found { fd, stat: opened });
        }
    }
    Err(trouble)
}

/// What kind of file a stat is of.
#[must_use]
pub fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether it is overlayfs's mark for a name that is gone.
#[must_use]
pub fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a directory of an overlay's layer hides what is below it.
///
/// # Errors
/// What reading the mark says.
pub fn is_opaque(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut value = [0; 2];
    match fgetxattr(dir, OPAQUE, &mut value[..]) {
        Ok(1) => Ok(value.first() == Some(&b'y')),
        Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The names in a directory but `.` and `..`, in order.
///
/// # Errors
/// What reading it says.
pub fn names(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&*name, b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The target of a link that is open as a place.
///
/// # Errors
/// What reading it says.
pub fn link(place: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    Ok(readlinkat(place, "", Vec::new())?.into_bytes())
}

/// Extended attributes of what is open for reading, but for those that only this VM understands.
///
/// # Errors
/// What reading them says; `E2BIG` for more than an archive can hold.
pub fn xattrs(fd: BorrowedFd<'_>) -> Result<Vec<Xattr>, Errno> {
    let mut none: [u8; 0] = [];
    let len = match flistxattr(fd, &mut none) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(len) => len.min(MAX_XATTR_LIST),
        Err(errno) => return Err(errno),
    };
    let mut list = vec![0; len];
    let len = flistxattr(fd, &mut *list)?;
    list.truncate(len);
    let mut xattrs = Vec::new();
    for name in list.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        if is_reserved(name.to_bytes()) {
            continue;
        }
        if xattrs.len() == XATTRS_MAX {
            return Err(Errno::TOOBIG);
        }
        let mut value = vec![0; MAX_XATTR];
        match fgetxattr(fd, name, &mut *value) {
            Ok(len) => {
                value.truncate(len);
                xattrs.push(Xattr {
                    name: name.to_bytes().to_vec(),
                    value,
                });
            }
            // Taken away meanwhile, or one byte too long for a tar.
            Err(Errno::NODATA | Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(xattrs)
}

/// A directory of this process's own namespace.
///
/// # Errors
/// What opening it says.
pub fn directory(path: impl Arg) -> Result<OwnedFd, Errno> {
    open(path, PLACE | OFlags::DIRECTORY, Mode::empty())
}

impl Found {
    /// What the host is told of it.
    #[must_use]
    pub fn path_stat(&self) -> PathStat {
        let link = match kind(&self.stat) {
            FileType::Symlink => link(self.fd.as_fd()).unwrap_or_default(),
            _ => Vec::new(),
        };
        PathStat {
            mode: self.stat.st_mode,
            size: u64::try_from(self.stat.st_size).unwrap_or(0),
            link: String::from_utf8_lossy(&link).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_name_that_is_replaced_all_the_time_is_always_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("name"), "").unwrap();
        let dir = directory(folder.path()).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    fs::write(path("new"), "").unwrap();
                    fs::rename(path("new"), path("name")).unwrap();
                    // Another kind of file, too.
                    std::os::unix::fs::symlink("x", path("new")).unwrap();
                    fs::rename(path("new"), path("name")).unwrap();
                }
            });
            let looks = || {
                for _ in 0..5000 {
                    look_in(dir.as_fd(), b"name")?;
                    look_at(dir.as_fd(), "name", false)?;
                }
                Ok::<(), Errno>(())
            };
            let outcome = looks();
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(outcome, Ok(()));
        });
    }

    /// Opens another file each time but those that are `gone`, by number.
    fn look_at_two(gone: impl Fn(usize) -> bool) -> (Errno, usize) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("0"), "").unwrap();
        fs::write(folder.path().join("1"), "").unwrap();
        let dir = directory(folder.path()).unwrap();
        let opened = std::cell::Cell::new(0);
        let found = look(|flags| {
            let number = opened.replace(opened.get() + 1);
            if gone(number) {
                return Err(Errno::NOENT);
            }
            openat(&dir, (number % 2).to_string(), flags, Mode::empty())
        });
        (found.unwrap_err(), opened.get())
    }

    #[test]
    fn looking_ends_and_only_what_is_not_there_is_gone() {
        let all = 2 * LOOKS_MAX;
        assert_eq!(look_at_two(|_| false), (Errno::BUSY, all));
        assert_eq!(look_at_two(|number| number == 4), (Errno::NOENT, 5));
        assert_eq!(look_at_two(|number| number == 5), (Errno::BUSY, all));
        // Only ever found, never opened.
        assert_eq!(look_at_two(|number| number % 2 == 1), (Errno::NOENT, all));
    }
}
