//! The container's namespaces: new ones for its first process, joining them for others.
//!
//! Called by [`crate::container`] and [`crate::tasks`]. The network namespace is the VM's own, since the VM's network is
//! the container's; but for a step of a build that is to have none.
// unshare(2) is unsafe in general: it can split what other threads hold in common.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use protocol::spec::RunSpec;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::system::{setdomainname, sethostname};
use rustix::thread::{
    ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, unshare_unsafe,
};

use crate::failure::{Context, Failure};
use crate::loopback;

/// What the first process is cloned into. The cgroup namespace is not among them: it would be
/// rooted at the agent's group instead of the container's.
pub const NEW: libc::c_int =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;

/// Completes the first process's new namespaces, from inside: the cgroup one, and the names.
///
/// # Errors
/// What `unshare`, `sethostname` or `setdomainname` say.
pub fn complete(spec: &RunSpec) -> Result<(), Failure> {
    // SAFETY: this process has one thread, and a cgroup namespace holds no memory or descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }
        .context(|| "make a cgroup namespace".into())?;
    if spec.network_none {
        // SAFETY: as above, of a network namespace.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .and_then(|()| loopback::up())
            .context(|| "make a network namespace".into())?;
    }
    sethostname(spec.hostname.as_bytes())
        .config(|| format!("set the host name {:?}", spec.hostname))?;
    if !spec.domainname.is_empty() {
        setdomainname(spec.domainname.as_bytes())
            .config(|| format!("set the domain name {:?}", spec.domainname))?;
    }
    Ok(())
}

/// Runs `clone` so that what it clones is born in the PID namespace of `member`. Only children
/// enter a PID namespace: the agent chooses it for the next one and then takes its own back.
///
/// # Errors
/// `ESRCH` when `member` has ended, or what `clone` says.
pub fn inside<T>(
    member: BorrowedFd<'_>,
    clone: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let own = pidfd_open(Pid::INIT, PidfdFlags::empty())?;
    move_into_thread_name_spaces(member, ThreadNameSpaceType::PROCESS_ID)?;
    let cloned = clone();
    move_into_thread_name_spaces(own.as_fd(), ThreadNameSpaceType::PROCESS_ID)?;
    cloned
}

/// Moves this process into the other namespaces of `member`, and so into the container's root.
///
/// # Errors
/// `ESRCH` when `member` has ended.
pub fn join(member: BorrowedFd<'_>) -> Result<(), Errno> {
    let all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::CONTROL_GROUP;
    move_into_thread_name_spaces(member, all)
}

/// Moves this process into the mount namespace of `member`, and so into the container's root.
///
/// # Errors
/// `ESRCH` when `member` has ended.
pub fn join_mounts(member: BorrowedFd<'_>) -> Result<(), Errno> {
    move_into_thread_name_spaces(member, ThreadNameSpaceType::MOUNT)
}

/// Gives this process a mount namespace of its own, a copy of the agent's.
///
/// # Errors
/// What `unshare` says.
pub fn own_mounts() -> Result<(), Errno> {
    // SAFETY: this process has one thread, and a mount namespace holds no memory or descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
}
