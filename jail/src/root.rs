//! A file tree of a process's own: empty but for what is put into it, and read-only.
//!
//! The process has a mount namespace of its own, and the capability to mount in it.
#![allow(unsafe_code)] // mount_setattr

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::{Context, JailError};

/// Keeps what is mounted from here on to this namespace.
///
/// # Errors
/// When the process may not.
pub fn keep_mounts() -> Result<(), JailError> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("keep mounts to this process")
}

/// A new, empty tree, mounted over the present root.
///
/// # Errors
/// When the process may not mount a tmpfs.
pub fn make() -> Result<OwnedFd, JailError> {
    let root = empty().context("make a root")?;
    let attach = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", CWD, "/", attach).context("make a root")?;
    Ok(root)
}

fn empty() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes the tree of [`make`] read-only and the process's root, and lets go of the host's.
///
/// # Errors
/// When the process may not.
pub fn enter(root: BorrowedFd<'_>) -> Result<(), JailError> {
    set_attributes(root, MountAttrFlags::MOUNT_ATTR_RDONLY, false)
        .context("make the root read-only")?;
    fchdir(root)
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .and_then(|()| chdir("/"))
        .context("leave the host's tree")
}

/// Adds attributes to a mount, or to it and all below it.
///
/// # Errors
/// The kernel's.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    recursive: bool,
) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: attributes.bits().into(),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is open, the path is a C string, and pointer and size are those of a
    // whole `struct mount_attr`; the kernel only reads them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if answer == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}
