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

/// User and group of the copy: the caller's own, or for root one that nobody has. Root of a user
/// namespace that lacks such users is an ordinary user outside of it, and its copy stays that.
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
    let own = FIRST_UID.saturating_add(copy.as_raw_nonzero().get().unsigned_abs());
    let has = |map| fs::read_to_string(map).is_ok_and(|map| has_number(&map, own));
    let may_be_other = has("/proc/self/uid_map") && has("/proc/self/gid_map");
    ids_for(own, may_be_other, geteuid(), getegid())
}

/// Whether a user namespace has this number, by its map.
fn has_number(map: &str, number: u32) -> bool {
    let offset = |(first, count)| Some(number.checked_sub(first)? < count);
    numbers(map).filter_map(offset).any(|has| has)
}

/// First numbers, and how many, of a map (user_namespaces(7)): lines of the first number inside, the
/// first outside, and the count.
fn numbers(map: &str) -> impl Iterator<Item = (u32, u32)> {
    map.lines().filter_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        let (first, _, count) = (next()?, next()?, next()?);
        Some((first, count))
    })
}

fn ids_for(own: u32, may_be_other: bool, uid: Uid, gid: Gid) -> Ids {
    if uid.is_root() && may_be_other {
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
    if !ids.is_other {
        // Otherwise a group that denies something could be given up.
        write("setgroups", "deny".to_owned())?;
    }
    write("gid_map", format!("{0} {0} 1\n", ids.gid))
}

/// The part of a starter that is root: the namespace of `child` has all ids that the starter's has, each
/// as it is.
///
/// # Errors
/// When the child is gone, or the starter may not.
pub fn map_all(child: Pid) -> Result<(), JailError> {
    for name in ["uid_map", "gid_map"] {
        let own =
            fs::read_to_string(format!("/proc/self/{name}")).context(format!("read {name}"))?;
        let path = format!("/proc/{}/{name}", child.as_raw_nonzero());
        fs::write(path, same(&own)).context(format!("write {name}"))?;
    }
    Ok(())
}

/// A map of all ids that another map has, each to itself.
fn same(map: &str) -> String {
    let same = numbers(map).map(|(first, count)| format!("{first} {first} {count}\n"));
    same.collect()
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
        let number = FIRST_UID + 4_194_303;
        assert!(number < 1 << 31);
        let of = |uid, has| ids_for(number, has, Uid::from_raw(uid), Gid::from_raw(uid));
        let own = |uid| of(uid, true).own();
        assert_eq!(own(0), Some(number));
        // Where the namespace has no such number, root is an ordinary user.
        assert_eq!(of(0, false).own(), None);
        // A user of a domain may have any number.
        for uid in [1000, FIRST_UID, FIRST_UID + 7, u32::MAX - 1] {
            assert_eq!(own(uid), None, "{uid}");
        }
    }

    #[test]
    fn the_map_of_a_namespace_says_which_numbers_it_has() {
        let whole = "         0          0 4294967295\n";
        let alone = "0 1000 1\n";
        let subordinate = "0 1000 1\n1 100000 65536\n";
        for (map, number, has) in [
            (whole, 0, true),
            (whole, FIRST_UID, true),
            (whole, u32::MAX, false),
            (alone, 0, true),
            (alone, 1000, false),
            (subordinate, 65_536, true),
            (subordinate, 65_537, false),
            (subordinate, FIRST_UID, false),
            ("", 0, false),
            ("0 0\nx 0 9\n", 0, false),
        ] {
            assert_eq!(has_number(map, number), has, "{map} {number}");
        }
        assert_eq!(same(whole), "0 0 4294967295\n");
        assert_eq!(same(subordinate), "0 0 1\n1 1 65536\n");
    }
}
