//! Removes a tree that a guest made: as deep as it likes, with folders that nobody may read.
//!
//! Each folder is emptied by descriptor, and the folders in it are moved to the top of the tree, so
//! that neither stack nor open files grow with its depth, and no link is followed. Whoever owns a
//! folder may read it once it has said so (chmod(2)); a folder of another user that is not empty can
//! only be removed by root. [`check`] tells before anything is lost.
//! Called by [`super::volumes`], and by the command for what builds keep.

use std::ffi::{CStr, CString};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{Uid, UnlinkatFlags, unlinkat};

/// What the owner needs to empty a folder and to move it.
const OWNERS: u32 = 0o700;

/// Why a tree can't be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// It has something in a folder that is somebody else's.
    #[error(
        "a folder in it belongs to user {0} and is not empty: only root or a container can remove that"
    )]
    Foreign(u32),
    /// The file system says no.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for RemovalError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Removes `path` and what is below it.
///
/// # Errors
/// The first thing that could not be removed; what came before it is gone.
pub fn remove_tree(path: &Path) -> Result<(), RemovalError> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)?;
    let top = open(AT_FDCWD, &name)?;
    let mut moved = 0;
    // What is moved to the top while that is read may be seen in this pass or in the next.
    while empty(&top, &top, &mut moved)? > 0 {
        for name in folders(&top)? {
            if unlinkat(&top, name.as_c_str(), UnlinkatFlags::RemoveDir).is_ok() {
                continue;
            }
            let folder = open(top.as_fd(), &name)?;
            while empty(&folder, &top, &mut moved)? > 0 {}
            unlinkat(&top, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
        }
    }
    Ok(unlinkat(
        AT_FDCWD,
        name.as_c_str(),
        UnlinkatFlags::RemoveDir,
    )?)
}

/// Removes the files of a folder and moves the folders in it to the top; how many entries it had. Of
/// the top itself the folders stay.
fn empty(folder: &OwnedFd, top: &OwnedFd, moved: &mut u64) -> Result<u64, RemovalError> {
    let is_top = folder.as_raw_fd() == top.as_raw_fd();
    let mut seen = 0;
    for entry in read(folder)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if is_dots(name) {
            continue;
        }
        seen += 1;
        if !is_folder(folder, &entry)? {
            unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)?;
        } else if !is_top && unlinkat(folder, name, UnlinkatFlags::RemoveDir).is_err() {
            // Who moves a folder writes to it.
            drop(open(folder.as_fd(), name)?);
            move_up(folder, name, top, moved)?;
        }
    }
    Ok(seen)
}

/// Moves a folder to the top under a name that is free.
fn move_up(
    folder: &OwnedFd,
    name: &CStr,
    top: &OwnedFd,
    moved: &mut u64,
) -> Result<(), RemovalError> {
    loop {
        *moved += 1;
        match renameat(folder, name, top, format!("moved-{moved}").as_str()) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
            renamed => return Ok(renamed?),
        }
    }
}

/// Whether all of a tree can be removed by `user`. It is left as it is.
///
/// # Errors
/// [`RemovalError::Foreign`] when not.
pub fn check(path: &Path, user: Uid) -> Result<(), RemovalError> {
    if user.is_root() {
        return Ok(());
    }
    let name = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)?;
    let mut walk = Walk::begin(&name, user)?;
    let mut outcome = Ok(());
    // An error ends the walk, but each folder is left as it was found.
    while let Some(level) = walk.levels.last_mut() {
        let next = level.folders.pop();
        let step = match next.filter(|_| outcome.is_ok()) {
            Some(name) => walk.enter(&name),
            None => walk.leave(),
        };
        outcome = outcome.and(step);
    }
    outcome
}

/// A walk through a tree with one open folder, whatever the depth.
struct Walk {
    user: Uid,
    here: OwnedFd,
    /// From the top to `here`.
    levels: Vec<Level>,
}

struct Level {
    stat: FileStat,
    /// Those that are to be looked at.
    folders: Vec<CString>,
}

impl Walk {
    fn begin(name: &CString, user: Uid) -> Result<Self, RemovalError> {
        let stat = fstatat(AT_FDCWD, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let here = open(AT_FDCWD, name)?;
        let folders = folders(&here)?;
        let levels = vec![Level { stat, folders }];
        Ok(Self { user, here, levels })
    }

    fn enter(&mut self, name: &CString) -> Result<(), RemovalError> {
        let stat = fstatat(&self.here, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if stat.st_uid != self.user.as_raw() {
            let is_empty = open_as_is(self.here.as_fd(), name)
                .and_then(|folder| has_entries(&folder))
                .is_ok_and(|has_entries| !has_entries);
            return match is_empty {
                true => Ok(()),
                false => Err(RemovalError::Foreign(stat.st_uid)),
            };
        }
        let folder = open(self.here.as_fd(), name)?;
        let folders = folders(&folder);
        self.here = folder;
        self.levels.push(Level {
            stat,
            folders: Vec::new(),
        });
        if let Some(level) = self.levels.last_mut() {
            level.folders = folders?;
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), RemovalError> {
        let Some(left) = self.levels.pop() else {
            return Ok(());
        };
        let parent = match self.levels.last() {
            Some(above) => {
                let parent = open_as_is(self.here.as_fd(), c"..")?;
                let stat = fstat(&parent)?;
                if (stat.st_dev, stat.st_ino) != (above.stat.st_dev, above.stat.st_ino) {
                    self.levels.clear();
                    return Err(io::Error::other("somebody moves its folders").into());
                }
                Some(parent)
            }
            None => None,
        };
        if left.stat.st_mode & OWNERS != OWNERS {
            set_mode(&self.here, left.stat.st_mode)?;
        }
        if let Some(parent) = parent {
            self.here = parent;
        }
        Ok(())
    }
}

/// Opens a folder, no link, and makes it readable if it is not.
fn open(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, RemovalError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = openat(parent, name, flags, Mode::empty())?;
    let mode = fstat(&folder)?.st_mode;
    if mode & OWNERS != OWNERS {
        // Fails for one that is somebody else's; opening it tells.
        let _ = set_mode(&folder, mode | OWNERS);
    }
    Ok(open_as_is(parent, name)?)
}

fn open_as_is(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Works on a descriptor that only names a folder, too, which fchmod(2) does not.
fn set_mode(folder: &OwnedFd, mode: u32) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777))
}

/// A reader with a position of its own.
fn read(folder: &OwnedFd) -> nix::Result<Dir> {
    Dir::from_fd(open_as_is(folder.as_fd(), c".")?)
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn is_folder(folder: &OwnedFd, entry: &nix::dir::Entry) -> nix::Result<bool> {
    match entry.file_type() {
        Some(kind) => Ok(kind == Type::Directory),
        // Some file systems don't tell.
        None => {
            let stat = fstatat(folder, entry.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            Ok(SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR)
        }
    }
}

/// Names of the folders in a folder.
fn folders(folder: &OwnedFd) -> Result<Vec<CString>, RemovalError> {
    let mut names = Vec::new();
    for entry in read(folder)?.iter() {
        let entry = entry?;
        if !is_dots(entry.file_name()) && is_folder(folder, &entry)? {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn has_entries(folder: &OwnedFd) -> nix::Result<bool> {
    for entry in read(folder)?.iter() {
        if !is_dots(entry?.file_name()) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    /// A tree with `depth` folders in each other, made as it is removed: from the top.
    fn deep(top: &Path, depth: usize) {
        fs::create_dir(top).unwrap();
        let mut here =
            open_as_is(AT_FDCWD, &CString::new(top.as_os_str().as_bytes()).unwrap()).unwrap();
        for level in 0..depth {
            nix::sys::stat::mkdirat(&here, "deeper", Mode::S_IRWXU).unwrap();
            let flags = OFlag::O_CREAT | OFlag::O_WRONLY;
            drop(
                openat(
                    &here,
                    format!("file-{level}").as_str(),
                    flags,
                    Mode::S_IRUSR,
                )
                .unwrap(),
            );
            here = open_as_is(here.as_fd(), c"deeper").unwrap();
        }
    }

    #[test]
    fn deeper_than_any_path_and_than_any_number_of_open_files() {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().join("top");
        deep(&top, 5000);
        check(&top, Uid::current()).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn names_that_are_taken_and_links_are_no_obstacle() {
        let temp = tempfile::tempdir().unwrap();
        let (top, other) = (temp.path().join("top"), temp.path().join("other"));
        fs::create_dir_all(top.join("a/b/c")).unwrap();
        fs::create_dir_all(top.join("moved-1/x/y")).unwrap();
        fs::write(top.join("moved-2"), "").unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "").unwrap();
        symlink(&other, top.join("a/b/link")).unwrap();
        symlink(&other, top.join("link")).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists() && other.join("kept").exists());
    }

    #[test]
    fn a_folder_of_somebody_else_is_told_before_anything_is_lost() {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().join("top");
        fs::create_dir_all(top.join("a/full/x")).unwrap();
        let me = fs::metadata(&top).unwrap().uid();
        // To anybody else all of it is somebody else's.
        let error = check(&top, Uid::from_raw(me + 1)).unwrap_err();
        assert!(
            matches!(error, RemovalError::Foreign(uid) if uid == me),
            "{error}"
        );
        fs::remove_dir_all(top.join("a/full")).unwrap();
        check(&top, Uid::from_raw(me + 1)).unwrap();
        assert!(top.join("a").exists());
    }

    #[test]
    fn a_check_leaves_modes_as_they_are() {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().join("top");
        fs::create_dir_all(top.join("a/b/c")).unwrap();
        let uid = fs::metadata(&top).unwrap().uid();
        let mode = |name: &str| fs::symlink_metadata(top.join(name)).unwrap().mode() & 0o7777;
        for (name, mode) in [("a/b", 0o555), ("a", 0o1500)] {
            fs::set_permissions(top.join(name), Permissions::from_mode(mode)).unwrap();
        }
        let mut walk = Walk::begin(
            &CString::new(top.as_os_str().as_bytes()).unwrap(),
            Uid::from_raw(uid),
        )
        .unwrap();
        walk.enter(&c"a".to_owned()).unwrap();
        assert_eq!(mode("a"), 0o1700);
        walk.enter(&c"b".to_owned()).unwrap();
        assert_eq!(mode("a/b"), 0o755);
        walk.leave().unwrap();
        walk.leave().unwrap();
        assert_eq!((mode("a"), mode("a/b")), (0o1500, 0o555));
        remove_tree(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn what_is_no_folder_is_not_removed() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        remove_tree(&file).unwrap_err();
        assert!(file.exists());
    }
}
