//! File locks that a dead process can't hold: flock on an open file, released by the kernel.
//!
//! Used by `store` and `layers` wherever two processes could do the same work or undo each other's. It
//! knows nothing of what the files hold.
//!
//! A lock on a temporary file is held together with the file's name: whoever gets the lock checks that
//! the name still leads to the file it locked, since the holder before may have renamed or removed it.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::limits::LOCK_POLL;

/// How a lock file may be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Several holders at once.
    Shared,
    /// One holder alone.
    Exclusive,
}

/// Takes a lock on the file at `path`, which is made if it isn't there and stays for ever. Waits.
pub(crate) fn acquire(path: &Path, mode: Mode) -> io::Result<Flock<File>> {
    let arg = match mode {
        Mode::Shared => FlockArg::LockShared,
        Mode::Exclusive => FlockArg::LockExclusive,
    };
    let mut file = open_lock(path)?;
    loop {
        match Flock::lock(file, arg) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// Like [`acquire`] with [`Mode::Exclusive`], but gives `None` at once where another holds it.
pub(crate) fn try_acquire(path: &Path) -> io::Result<Option<Flock<File>>> {
    try_lock(open_lock(path)?)
}

/// Opens or makes the temporary file at `path` for reading and writing and takes its lock; `None` where
/// another process has it. A fresh file is empty and readable by its owner alone. One that a dead process
/// had write-protected, to give it its final name, is made writable again.
pub(crate) fn try_open_locked(path: &Path) -> io::Result<Option<Flock<File>>> {
    let mut was_denied = false;
    loop {
        let file = match open_lock(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !was_denied => {
                was_denied = true;
                if matches!(thaw(path)?, Named::Busy) {
                    return Ok(None);
                }
                continue;
            }
            file => file?,
        };
        check_regular(&file)?;
        match lock_named(file, path)? {
            Named::Locked(lock) => return Ok(Some(lock)),
            Named::Busy => return Ok(None),
            Named::Gone => {}
        }
    }
}

/// Makes a file that can only be read writable for its owner, if nobody has it. Its lock can be had without
/// writing, so a process that is just about to rename it keeps it as it is.
fn thaw(path: &Path) -> io::Result<Named> {
    let file = match options().read(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Named::Gone),
        file => file?,
    };
    check_regular(&file)?;
    let named = lock_named(file, path)?;
    if let Named::Locked(lock) = &named {
        lock.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(named)
}

fn check_regular(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "not a regular file",
    ))
}

/// What came of locking a file that was opened by its name.
#[derive(Debug)]
enum Named {
    /// It is ours, and still has its name.
    Locked(Flock<File>),
    /// Another process has it.
    Busy,
    /// Between opening and locking its holder renamed or removed it.
    Gone,
}

fn lock_named(file: File, path: &Path) -> io::Result<Named> {
    match try_lock(file)? {
        None => Ok(Named::Busy),
        Some(lock) if is_at(&lock, path)? => Ok(Named::Locked(lock)),
        Some(_) => Ok(Named::Gone),
    }
}

/// Takes the lock of a directory or file that is already open; `None` where another process has it.
pub(crate) fn try_lock(file: File) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// Calls `attempt` until it gives something, with a pause between, for at most `limit`.
pub(crate) fn poll<T>(
    limit: Duration,
    mut attempt: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    let started = Instant::now();
    loop {
        if let Some(value) = attempt()? {
            return Ok(Some(value));
        }
        if started.elapsed() > limit {
            return Ok(None);
        }
        std::thread::sleep(LOCK_POLL);
    }
}

/// Whether `path` still leads to the open `file`.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match path.symlink_metadata() {
        Ok(named) => Ok((open.dev(), open.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Options that never follow a symlink at the last component and never block on a fifo.
pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    options
}

fn open_lock(path: &Path) -> io::Result<File> {
    options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_lock_excludes_and_shared_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = acquire(&path, Mode::Shared).unwrap();
        let second = acquire(&path, Mode::Shared).unwrap();
        assert!(try_acquire(&path).unwrap().is_none());
        drop((first, second));
        let held = try_acquire(&path).unwrap().expect("free");
        assert!(try_acquire(&path).unwrap().is_none());
        drop(held);
        assert!(try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn a_file_that_loses_its_name_before_it_is_locked_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("a"), dir.path().join("b"));
        let first = try_open_locked(&path).unwrap().expect("free");
        let late = [open_lock(&path).unwrap(), open_lock(&path).unwrap()];
        let [while_held, after] = late;
        assert!(matches!(lock_named(while_held, &path), Ok(Named::Busy)));
        std::fs::rename(&path, &target).unwrap();
        drop(first);
        assert!(matches!(lock_named(after, &path), Ok(Named::Gone)));
        let removed = open_lock(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = try_open_locked(&path).unwrap().expect("a new file");
        assert!(matches!(lock_named(removed, &path), Ok(Named::Gone)));
        assert!(is_at(&second, &path).unwrap());
    }

    #[test]
    fn symlinks_and_fifos_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        assert!(try_open_locked(&link).is_err());
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(try_open_locked(&fifo).is_err());
    }

    #[test]
    fn what_a_dead_process_froze_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("partial");
        std::fs::write(&path, "content").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
        let mode = || path.metadata().unwrap().mode() & 0o7777;
        std::thread::scope(|scope| {
            let user = scope.spawn(|| {
                be_bound_by_permissions(&[dir.path(), &path]);
                assert!(open_lock(&path).is_err());
                let writer = try_lock(File::open(&path).unwrap()).unwrap().expect("free");
                assert!(try_open_locked(&path).unwrap().is_none());
                assert_eq!(mode(), 0o444, "its writer still lives");
                drop(writer);
                let opened = try_open_locked(&path).unwrap().expect("free");
                assert_eq!((opened.metadata().unwrap().len(), mode()), (7, 0o600));
                // A folder that can't be written is no file that was frozen.
                drop(opened);
                std::fs::remove_file(&path).unwrap();
                std::fs::set_permissions(dir.path(), Permissions::from_mode(0o500)).unwrap();
                let error = try_open_locked(&path).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            });
            user.join().unwrap();
        });
    }

    /// Where this is root, makes the calling thread another user to the file system, whose `paths` are.
    fn be_bound_by_permissions(paths: &[&Path]) {
        let nobody = nix::unistd::Uid::from_raw(65534);
        if nix::unistd::geteuid().is_root() {
            for path in paths {
                nix::unistd::chown(*path, Some(nobody), None).unwrap();
            }
            nix::unistd::setfsuid(nobody);
        }
    }
}
