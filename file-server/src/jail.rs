//! The process that serves files: in namespaces of its own, with a root that holds the shared
//! folders and nothing else, and the capabilities that a file server needs.
//!
//! ```text
//! __files ── clone ──► child: waits for its ids ─► mounts ─► pivot ─► drops ─► serves
//!    │ maps ids (ordinary user)                      /shares/0, /shares/1 …   what was asked for
//!    └ waits, dies with the supervisor               /fd                      its own descriptors
//! ```
//! For root the child keeps root's user and gives up what it does not need; for any other user it has
//! a user namespace, in which that user is root, and for root in a container of another engine one with
//! all the ids of that. A folder that is read-only is so by its mount, which
//! the guest has no way to. Called by the hidden verb `__files`.
#![allow(unsafe_code)] // clone

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use ::jail::filter::Filter;
use ::jail::table::Thread;
use ::jail::{Context, JailError, root};
use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, mkdirat, openat, openat2, statx,
};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getegid, geteuid, getrlimit,
    set_parent_process_death_signal, setrlimit, umask, waitpid,
};
use rustix::thread::{CapabilitySet, capabilities, set_thread_groups};

/// Where the shared folders are, by number.
const SHARES: &str = "/shares";

/// Where the process finds its own descriptors.
pub const DESCRIPTORS: &str = "/fd";

/// Shares of one VM: far more than a command line has.
pub const SHARES_MAX: usize = 1024;

/// What a server does on behalf of the guest's root. Not `DAC_READ_SEARCH`, which opens any file of a
/// file system by its handle, not `MKNOD`.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETFCAP);

/// A folder or file of the host.
#[derive(Debug, Clone)]
pub struct Share {
    /// Absolute; links in it are followed.
    pub source: PathBuf,
    /// Whether nothing below may be changed.
    pub read_only: bool,
}

/// Users of the host that stand for those of the guest beyond its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subordinate {
    /// First one, for number 1 of the guest.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// Subordinate users and groups of an ordinary user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ids {
    /// From `/etc/subuid`.
    pub users: Option<Subordinate>,
    /// From `/etc/subgid`.
    pub groups: Option<Subordinate>,
}

/// Runs `serve` in a jailed child, with the directory of the shares, and waits for its end. The
/// process has one thread.
///
/// # Errors
/// When there can be no child or its ids can't be mapped; what happens in the child is `serve`'s to
/// tell, which gets the jail's error instead of the shares.
pub fn run(
    shares: &[Share],
    ids: &Ids,
    serve: impl FnOnce(Result<OwnedFd, JailError>) -> i32,
) -> Result<i32, JailError> {
    let is_root = geteuid().is_root();
    let (go, ready) = io::pipe().context("create a pipe")?;
    let mut flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::SIGCHLD;
    let has_own_users = !is_root || !may_mount()?;
    if has_own_users {
        flags |= libc::CLONE_NEWUSER;
    }
    // SAFETY: without CLONE_VM this is a fork, and the process has this thread only.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        drop(ready);
        std::process::exit(serve(enter(shares, go)));
    }
    let pid = i32::try_from(child)
        .ok()
        .filter(|id| *id > 0)
        .and_then(Pid::from_raw)
        .ok_or_else(io::Error::last_os_error)
        .context("create namespaces for the file server")?;
    drop(go);
    if !is_root {
        map_ids(pid.as_raw_nonzero().get(), ids)?;
    } else if has_own_users {
        ::jail::clone::map_all(pid)?;
    }
    (&ready).write_all(b"g").context("start the file server")?;
    drop(ready);
    wait_under_filter(pid)
}

/// Whether this process may have namespaces without a user namespace around them: root may, unless it is
/// in a container of another engine.
fn may_mount() -> Result<bool, JailError> {
    let own = capabilities(None).context("read capabilities")?;
    Ok(own.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// The waiting process reads nothing of a guest; whoever took the server over finds nothing in it
/// either.
fn wait_under_filter(pid: Pid) -> Result<i32, JailError> {
    if geteuid().is_root() {
        ::jail::privileges::drop_all_but(CapabilitySet::empty())?;
    }
    Filter::new(Thread::Waiter)
        .and_then(|filter| filter.install())
        .map_err(io::Error::other)
        .context("shut the file server in")?;
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status.exit_status().unwrap_or(1)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("wait for the file server"),
        }
    }
}

/// In the child: waits for its ids, then shuts itself in. Returns the directory of the shares.
fn enter(shares: &[Share], mut go: io::PipeReader) -> Result<OwnedFd, JailError> {
    let mut byte = [0];
    go.read_exact(&mut byte).context("wait for a start")?;
    drop(go);
    // Before the host's /proc is out of reach.
    raise_limit().context("raise the limit of open files")?;
    let root = build(shares)?;
    umask(Mode::empty());
    drop_privileges()?;
    ::jail::privileges::hide()?;
    // None where it would deny moves between folders: the root has nothing but the shares anyway.
    ::jail::landlock::restrict_to(Some(root.as_fd()))
        .map_err(io::Error::other)
        .context("shut the file server in by Landlock")?;
    // After the last change of credentials, which clears it.
    set_parent_process_death_signal(Some(Signal::KILL)).context("tie to the supervisor")?;
    Ok(root)
}

/// Makes the tree and moves into it.
fn build(shares: &[Share]) -> Result<OwnedFd, JailError> {
    root::keep_mounts()?;
    let mut trees = Vec::new();
    for share in shares {
        let tree = clone_tree(share).context(format!("share {}", share.source.display()))?;
        trees.push(tree);
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let descriptors =
        open_tree(CWD, "/proc/self/fd", flags).context("find this process's descriptors")?;

    let root = root::make()?;
    let mode = Mode::from_raw_mode(0o755);
    for path in [SHARES, DESCRIPTORS] {
        mkdirat(&root, below(path), mode).context("make a root")?;
    }
    for (index, tree) in trees.iter().enumerate() {
        let target = format!("{}/{index}", below(SHARES));
        put(root.as_fd(), tree.as_fd(), &target).context(format!("mount share {index}"))?;
    }
    place(root.as_fd(), below(DESCRIPTORS))
        .and_then(|target| onto(descriptors.as_fd(), target.as_fd()))
        .context("mount this process's descriptors")?;
    root::enter(root.as_fd())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, SHARES, flags, Mode::empty()).context("open the shares")
}

fn below(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// A second tree of what is at a share's source, mounts below it included, that executes nothing
/// and opens no device. The source is a path without links: a guest that may write above it could have
/// put one there since the container was made.
fn clone_tree(share: &Share) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let place = openat2(
        CWD,
        &share.source,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )?;
    let tree = open_tree(place, "", flags | OpenTreeFlags::AT_EMPTY_PATH)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    if share.read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    root::set_attributes(tree.as_fd(), attributes, true)?;
    Ok(tree)
}

/// Attaches a tree to a new folder or file of the root.
fn put(root: BorrowedFd<'_>, tree: BorrowedFd<'_>, target: &str) -> Result<(), Errno> {
    let status = statx(tree, "", rustix::fs::AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    if FileType::from_raw_mode(status.stx_mode.into()) == FileType::Directory {
        mkdirat(root, target, Mode::from_raw_mode(0o755))?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(root, target, flags, Mode::from_raw_mode(0o644))?;
    }
    let target = place(root, target)?;
    onto(tree, target.as_fd())
}

fn place(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(root, path, flags, Mode::empty())
}

fn onto(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// Each file that a guest has looked up is a descriptor here.
fn raise_limit() -> Result<(), Errno> {
    use crate::nodes::{HANDLES_MAX, NODES_MAX, RESERVE};
    let limit = getrlimit(Resource::Nofile);
    let most = u64::try_from(NODES_MAX + HANDLES_MAX + RESERVE).unwrap_or(u64::MAX);
    // Root may raise it as far as the kernel's own limit lets it.
    let wanted = Some(kernels_limit().map_or(most, |kernels| most.min(kernels)));
    let more = Rlimit {
        current: wanted,
        maximum: wanted,
    };
    if limit.maximum.is_some() && limit.maximum >= wanted
        || setrlimit(Resource::Nofile, more).is_err()
    {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        )?;
    }
    Ok(())
}

/// Descriptors that the kernel lets a process have, whoever's it is; `None` when it does not say.
fn kernels_limit() -> Option<u64> {
    let text = fs::read_to_string("/proc/sys/fs/nr_open").ok()?;
    text.trim().parse().ok()
}

fn drop_privileges() -> Result<(), JailError> {
    // What an ordinary user belongs to can't be given up in a user namespace, and is what it has.
    let _ = set_thread_groups(&[]);
    ::jail::privileges::drop_all_but(KEPT)
}

/// Makes the user root in the user namespace of process `pid`, and its subordinate ids the others.
///
/// # Errors
/// When the kernel refuses a map.
pub fn map_ids(pid: i32, ids: &Ids) -> Result<(), JailError> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let users = ids
        .users
        .is_some_and(|more| helper("newuidmap", pid, uid, more));
    if !users {
        write_map(pid, "uid_map", uid)?;
    }
    let groups = ids
        .groups
        .is_some_and(|more| helper("newgidmap", pid, gid, more));
    if !groups {
        // Otherwise a group that denies something could be given up.
        fs::write(format!("/proc/{pid}/setgroups"), "deny").context("map the user's group")?;
        write_map(pid, "gid_map", gid)?;
    }
    Ok(())
}

fn write_map(pid: i32, name: &str, id: u32) -> Result<(), JailError> {
    let path = format!("/proc/{pid}/{name}");
    File::options()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(format!("0 {id} 1\n").as_bytes()))
        .context(format!("write {name}"))
}

/// Asks the set-user-id program of the shadow package; whether it did it.
fn helper(program: &str, pid: i32, id: u32, more: Subordinate) -> bool {
    let folders = ["/usr/bin", "/bin", "/usr/local/bin"];
    let Some(path) = folders
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
    else {
        return false;
    };
    let numbers = [0, id, 1, 1, more.start, more.count];
    Command::new(path)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .env_clear()
        .output()
        .is_ok_and(|output| output.status.success())
}
