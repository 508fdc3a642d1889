//! A copy of the calling process in namespaces of its own (clone(2), namespaces(7)).
//!
//! ```text
//! starter ── clone ──► the copy: waits for its ids
//!    │ writes uid_map, gid_map
//!    │ announces the copy's id
//!    └ ends                        child of the starter's parent, first process of its namespace
//! ```
#![allow(unsafe_code)] // clone

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::process::{Gid, Pid, Uid, getegid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::{Context, JailError};

/// First of the users that copies of root's processes become; the copy's process id is added, so
/// that no two that live in one pid namespace have the same. At most 2^22 of them (`pid_max`), below
/// 2^31 and beyond what systemd gives to containers (to 0x6fff_ffff) and SSSD to users of a domain by
/// default (to 2,000,200,000).
pub const FIRST_UID: u32 = 0x7800_0000;

/// Which of the two goes on.
#[derive(Debug)]
pub enum Side {
    /// The one that called: the copy's id, and a descriptor that stands for it.
    Starter(Pid, OwnedFd),
    /// The copy.
    Copy,
}

/// Copies the calling process, which has one thread, into new user, mount, pid, net, ipc, uts and
/// cgroup namespaces; the copy's parent is the caller's parent.
///
/// # Errors
/// When this user may create no namespaces.
pub fn clone_into_namespaces() -> Result<Side, JailError> {
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_PARENT
        | libc::CLONE_PIDFD;
    let mut process: RawFd = -1;
    // SAFETY: without CLONE_VM this is a fork, and the process has this thread only; the kernel writes a
    // number to the variable.
    let copy = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut process, 0, 0) };
    if copy == 0 {
        return Ok(Side::Copy);
    }
    let copy = i32::try_from(copy)
        .ok()
        .filter(|id| *id > 0)
        .and_then(Pid::from_raw)
        .ok_or_else(io::Error::last_os_error)
        .context("create namespaces")?;
    // SAFETY: the kernel opened it for this process alone, just now.
    Ok(Side::Starter(copy, unsafe {
        OwnedFd::from_raw_fd(process)
    }))
}

/// User and group of the copy: the caller's own, or for root one that nobody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    uid: u32,
    gid: u32,
    /// Whether it has to become that.
    is_other: bool,
}

impl Ids {
    /// The number to become; none where it is the caller's own already.
    #[must_use]
    pub fn own(self) -> Option<u32> {
        self.is_other.then_some(self.uid)
    }
}

/// The ids of the copy with this process id.
#[must_use]
pub fn ids(copy: Pid) -> Ids {
    ids_for(copy, geteuid(), getegid())
}

fn ids_for(copy: Pid, uid: Uid, gid: Gid) -> Ids {
    if uid.is_root() {
        let own = FIRST_UID.saturating_add(copy.as_raw_nonzero().get().unsigned_abs());
        return Ids {
            uid: own,
            gid: own,
            is_other: true,
        };
    }
    Ids {
        uid: uid.as_raw(),
        gid: gid.as_raw(),
        is_other: false,
    }
}

/// The starter's part: the copy's namespace has these ids and no other.
///
/// # Errors
/// When the copy is gone.
pub fn map(copy: Pid, ids: Ids) -> Result<(), JailError> {
    let folder = format!("/proc/{}", copy.as_raw_nonzero());
    let write = |name: &str, text: String| {
        fs::write(format!("{folder}/{name}"), text).context(format!("write {name}"))
    };
    write("uid_map", format!("{0} {0} 1\n", ids.uid))?;
    if !geteuid().is_root() {
        // Otherwise a group that denies something could be given up.
        write("setgroups", "deny".to_owned())?;
    }
    write("gid_map", format!("{0} {0} 1\n", ids.gid))
}

/// The copy's part, once its ids are mapped: becomes `own` where root started it.
///
/// # Errors
/// When they are not mapped.
pub fn become_own(own: Option<u32>) -> Result<(), JailError> {
    let Some(id) = own else {
        return Ok(());
    };
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| set_thread_res_uid(uid, uid, uid))
        .context("become a user of its own")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_roots_copy_becomes_another() {
        let copy = Pid::from_raw(4_194_303).unwrap();
        let own = |uid| ids_for(copy, Uid::from_raw(uid), Gid::from_raw(uid)).own();
        assert_eq!(own(0), Some(FIRST_UID + 4_194_303));
        assert!(own(0) < Some(1 << 31));
        // A user of a domain may have any number.
        for uid in [1000, FIRST_UID, FIRST_UID + 7, u32::MAX - 1] {
            assert_eq!(own(uid), None, "{uid}");
        }
    }
}
