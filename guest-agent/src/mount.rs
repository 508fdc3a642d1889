//! Mounts as descriptors: the kernel's mount API of 5.2 and later.
//!
//! Called by [`crate::layers`], [`crate::rootfs`] and [`crate::cgroup`]. A mount is made without a
//! place in the tree and attached where a descriptor points, so no path of an image is ever walked
//! by a `mount` call. Knows no container.
// mount_setattr(2) has no safe wrapper in rustix.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, fspick, move_mount, open_tree, unmount,
};

use crate::failure::{Context, Failure};

/// A file system being set up.
#[derive(Debug)]
pub struct Setup {
    context: OwnedFd,
    name: &'static str,
}

impl Setup {
    /// Begins to set up a file system of type `name` from `source`, which is a device's path or
    /// what the mount table is to show.
    ///
    /// # Errors
    /// An unknown type.
    pub fn new(name: &'static str, source: &str) -> Result<Self, Failure> {
        let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)
            .context(|| format!("open a {name} context"))?;
        let setup = Self { context, name };
        setup.value("source", source)?;
        Ok(setup)
    }

    /// Sets an option that has no value.
    ///
    /// # Errors
    /// What the file system says.
    pub fn flag(&self, key: &str) -> Result<(), Failure> {
        fsconfig_set_flag(self.context.as_fd(), key).map_err(|errno| self.explain(errno, key))
    }

    /// Sets an option.
    ///
    /// # Errors
    /// What the file system says.
    pub fn value(&self, key: &str, value: &str) -> Result<(), Failure> {
        fsconfig_set_string(self.context.as_fd(), key, value)
            .map_err(|errno| self.explain(errno, &format!("{key}={value}")))
    }

    /// Makes the file system and a mount of it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(&self, attributes: MountAttrFlags) -> Result<Detached, Failure> {
        fsconfig_create(self.context.as_fd()).map_err(|errno| self.explain(errno, "mount"))?;
        fsmount(
            self.context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            attributes,
        )
        .map(Detached)
        .map_err(|errno| self.explain(errno, "mount"))
    }

    /// The error with the file system's own explanation, if it left one.
    fn explain(&self, errno: Errno, what: &str) -> Failure {
        let mut buffer = [0; 512];
        let len = rustix::io::read(&self.context, &mut buffer).unwrap_or(0);
        let told = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default());
        let told = told.get(2..).unwrap_or_default().trim();
        let result: Result<(), Errno> = Err(errno);
        let name = self.name;
        let failure = result.context(|| match told {
            "" => format!("{name}: {what}"),
            told => format!("{name}: {what}: {told}"),
        });
        failure
            .err()
            .unwrap_or_else(|| Failure::other(format!("{name}: {what}")))
    }
}

/// A mount that is known by its descriptor, attached or not. Unless it was attached, it goes with
/// the descriptor.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// A mount whose root is open as this.
    #[must_use]
    pub fn from_mount(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// A second mount of what `path` below `dir` shows, without what is mounted further down.
    ///
    /// # Errors
    /// What `open_tree(2)` says.
    pub fn clone_of(dir: BorrowedFd<'_>, path: &str) -> Result<Self, Errno> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(dir, path, flags).map(Self)
    }

    /// Attaches the mount to the very place that `target` is open at.
    ///
    /// # Errors
    /// What `move_mount(2)` says.
    pub fn attach(&self, target: BorrowedFd<'_>) -> Result<(), Errno> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(self, "", target, "", flags)
    }

    /// Attaches the mount to a path of the agent's own, never one of an image.
    ///
    /// # Errors
    /// What `move_mount(2)` says.
    pub fn attach_at(&self, path: &str) -> Result<(), Errno> {
        move_mount(self, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }

    /// Makes this one mount read-only.
    ///
    /// # Errors
    /// What `mount_setattr(2)` says.
    pub fn make_read_only(&self) -> Result<(), Errno> {
        make_read_only(self.as_fd())
    }

    /// Makes the whole file system read-only, which writes everything back and marks it clean.
    ///
    /// # Errors
    /// `EBUSY` while a file is open for writing.
    pub fn freeze_file_system(&self) -> Result<(), Errno> {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let context = fspick(self, "", flags)?;
        fsconfig_set_flag(context.as_fd(), "ro")?;
        fsconfig_reconfigure(context.as_fd())
    }
}

impl From<Detached> for OwnedFd {
    fn from(mount: Detached) -> Self {
        mount.0
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes away what is mounted on a path of the agent's own, and all below it.
///
/// # Errors
/// What `umount2(2)` says.
pub fn detach(path: &str) -> Result<(), Errno> {
    unmount(path, UnmountFlags::DETACH)
}

/// Makes the one mount whose root `mount` is open at read-only.
///
/// # Errors
/// What `mount_setattr(2)` says.
pub fn make_read_only(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is open, the path is a C string, and pointer and size are those of a
    // whole `struct mount_attr`; the kernel only reads them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if answer != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}
