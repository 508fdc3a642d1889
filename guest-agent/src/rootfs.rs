//! The container's file system tree as its processes see it: Docker's mounts, nodes, masks.
//!
//! Called by [`crate::container`] in the child that becomes the container's first process, inside
//! its new namespaces. Everything is mounted through descriptors: of mounts just made, or of places
//! found inside the root by [`crate::paths`]. Whatever links an image brings, nothing is mounted
//! outside its root, and what is left of the agent's own tree is gone before anything is looked up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::spec::RunSpec;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, mkdirat, openat, statx, symlinkat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::{chroot, fchdir};

use crate::devices::{self, Node};
use crate::failure::{Context, Failure};
use crate::init_layer::InitLayer;
use crate::mount::{self, Detached, Setup};
use crate::paths::{self, Want};
use crate::shares::{self, Share};
use crate::stdio::Terminals;
use crate::sysctl;
use crate::tmpfs;

/// Below `/proc`: what a container may not look into, as on Docker.
const MASKED_IN_PROC: [&str; 10] = [
    "asound",
    "acpi",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "scsi",
];

/// The same below `/sys`. Docker also masks each CPU's `thermal_throttle`, which the guest's kernel
/// is built without.
const MASKED_IN_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];

/// Below `/proc`: what a container may look at and not change.
const READ_ONLY_IN_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Links in `/dev`.
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
    // Masked, or not there at all; the engine's `/dev` has the link.
    ("/proc/kcore", "core"),
];

const QUIET: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// What the tree is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What was asked for.
    pub spec: &'a RunSpec,
    /// The image under its writable layer.
    pub root: &'a Detached,
    /// Files to mount over the image's.
    pub init_layer: &'a InitLayer,
    /// Folders and files of the host.
    pub shares: &'a [Share],
    /// The container's terminals.
    pub terminals: &'a Terminals,
    /// Device nodes beyond the fixed ones.
    pub nodes: &'a [Node],
}

/// The finished tree.
#[derive(Debug)]
pub struct Tree {
    /// The root of the container's procfs.
    pub proc: Detached,
    /// The working directory of the process, made when it was missing.
    pub cwd: OwnedFd,
}

/// Makes the tree and moves this process into it.
///
/// # Errors
/// A mount point that an image made unusable, options or devices that the user got wrong, or what
/// mounting says.
pub fn enter(parts: &Parts<'_>) -> Result<Tree, Failure> {
    let spec = parts.spec;
    let root = parts.root.as_fd();
    mount::detach("/dev").context(|| "detach the agent's /dev".into())?;
    parts
        .root
        .attach_at("/")
        .and_then(|()| fchdir(root))
        .and_then(|()| chroot("."))
        .context(|| "enter the container's root".into())?;

    let proc = Setup::new("proc", "proc")?.create(QUIET)?;
    if own_tmpfs(spec, "/proc").is_none() {
        attach_below(root, "proc", &proc)?;
    }
    let dev = mount_dev(parts)?;
    let sys = mount_sys(spec, root)?;
    mount_for_user(parts)?;
    for node in parts.nodes {
        node.make(root)?;
    }
    sysctl::apply(proc.as_fd(), &spec.sysctls)?;
    if !spec.privileged && !spec.system_paths_unconfined {
        // A --tmpfs in their place leaves nothing to hide.
        let proc = own_tmpfs(spec, "/proc").is_none().then_some(&proc);
        let sys = own_tmpfs(spec, "/sys").is_none().then_some(&sys);
        confine_system_paths(proc, sys, &dev)?;
    }
    let cwd = paths::open(root, &spec.process.cwd, Want::NewDirectory)
        .config(|| format!("mkdir {}", spec.process.cwd))?;
    if spec.read_only_root {
        parts
            .root
            .make_read_only()
            .context(|| "make the root read-only".into())?;
    }
    Ok(Tree { proc, cwd })
}

/// The options of the `--tmpfs` for `path`, which replaces what would be mounted there.
fn own_tmpfs<'a>(spec: &'a RunSpec, path: &str) -> Option<&'a str> {
    spec.tmpfs
        .iter()
        .find(|(target, _)| names(target).eq(names(path)))
        .map(|(_, options)| options.as_str())
}

fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

/// Mounts on a directory right below the root, which must not be a link.
fn attach_below(root: BorrowedFd<'_>, name: &str, mount: &Detached) -> Result<(), Failure> {
    paths::plain_directory(root, name)
        .and_then(|target| mount.attach(target.as_fd()))
        .context(|| format!("mount /{name} on an ordinary directory"))
}

/// Mounts on a directory of a file system of ours.
fn attach_in(parent: BorrowedFd<'_>, name: &str, mount: &Detached) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
        .and_then(|target| mount.attach(target.as_fd()))
        .context(|| format!("mount on {name}"))
}

/// `/dev` with its nodes, links, terminals, shared memory and message queues.
fn mount_dev(parts: &Parts<'_>) -> Result<Detached, Failure> {
    let spec = parts.spec;
    let dev = if let Some(options) = own_tmpfs(spec, "/dev") {
        make_tmpfs(options, Some(0o755))?
    } else {
        let tmpfs = Setup::new("tmpfs", "tmpfs")?;
        tmpfs.value("mode", "755")?;
        tmpfs.value("size", "65536k")?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
        tmpfs.create(attributes)?
    };
    attach_below(parts.root.as_fd(), "dev", &dev)?;
    devices::make_defaults(dev.as_fd()).context(|| "make the nodes of /dev".into())?;
    for (target, name) in LINKS {
        symlinkat(target, &dev, name).context(|| format!("make /dev/{name}"))?;
    }
    let folder = |name: &str| {
        mkdirat(&dev, name, Mode::from_raw_mode(0o755)).context(|| format!("make /dev/{name}"))
    };
    folder("pts")?;
    attach_in(dev.as_fd(), "pts", parts.terminals.mount())?;
    if spec.process.terminal.is_some() {
        mount_console(dev.as_fd(), parts.terminals)?;
    }
    if !spec.ipc_none && own_tmpfs(spec, "/dev/mqueue").is_none() {
        folder("mqueue")?;
        attach_in(
            dev.as_fd(),
            "mqueue",
            &Setup::new("mqueue", "mqueue")?.create(QUIET)?,
        )?;
    }
    if !spec.ipc_none && own_tmpfs(spec, "/dev/shm").is_none() {
        folder("shm")?;
        let tmpfs = Setup::new("tmpfs", "shm")?;
        tmpfs.value("mode", "1777")?;
        tmpfs.value("size", &spec.shm_bytes.to_string())?;
        attach_in(dev.as_fd(), "shm", &tmpfs.create(QUIET)?)?;
    }
    Ok(dev)
}

/// The first terminal, which is the main process's, as `/dev/console`.
fn mount_console(dev: BorrowedFd<'_>, terminals: &Terminals) -> Result<(), Failure> {
    let about = || "mount /dev/console".to_owned();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    openat(dev, "console", flags, Mode::from_raw_mode(0o600)).context(about)?;
    let terminal = Detached::clone_of(terminals.mount().as_fd(), "0").context(about)?;
    attach_in(dev, "console", &terminal)
}

/// `/sys` and the container's view of its control group.
fn mount_sys(spec: &RunSpec, root: BorrowedFd<'_>) -> Result<Detached, Failure> {
    let unless = |writable: bool| {
        if writable {
            QUIET
        } else {
            QUIET | MountAttrFlags::MOUNT_ATTR_RDONLY
        }
    };
    let sys = Setup::new("sysfs", "sysfs")?.create(unless(spec.privileged))?;
    if own_tmpfs(spec, "/sys").is_none() {
        attach_below(root, "sys", &sys)?;
        if own_tmpfs(spec, "/sys/fs/cgroup").is_none() {
            let writable = spec.privileged || spec.writable_cgroups;
            let cgroup = Setup::new("cgroup2", "cgroup")?.create(unless(writable))?;
            attach_in(sys.as_fd(), "fs/cgroup", &cgroup)?;
        }
    }
    Ok(sys)
}

/// `--tmpfs`, shares and the three files, the shallower targets first.
fn mount_for_user(parts: &Parts<'_>) -> Result<(), Failure> {
    enum Source<'a> {
        Tmpfs(&'a str),
        File(&'a Detached),
        Share(&'a Share),
    }
    let spec = parts.spec;
    let root = parts.root.as_fd();
    let tmpfs = spec.tmpfs.iter().filter(|(target, _)| {
        // Those are made in their order by mount_dev.
        !names(target).eq(["dev"])
    });
    let mut mounts: Vec<(&str, Source<'_>)> = tmpfs
        .map(|(target, options)| (target.as_str(), Source::Tmpfs(options)))
        .collect();
    let shares = parts.shares.iter();
    mounts.extend(shares.map(|share| (share.target.as_str(), Source::Share(share))));
    // A file of the user's own is in the place of ours.
    let files = parts.init_layer.files.iter();
    let files = files.filter(|(path, _)| {
        let mut shares = parts.shares.iter();
        shares.all(|share| !names(&share.target).eq(names(path)))
    });
    mounts.extend(files.map(|(path, mount)| (*path, Source::File(mount))));
    mounts.sort_by_key(|(target, _)| names(target).count());
    for (target, source) in mounts {
        match source {
            Source::Tmpfs(options) => mount_tmpfs(root, target, options)?,
            Source::Share(share) => shares::attach(share, root)?,
            Source::File(file) => {
                paths::open(root, target, Want::NewFile)
                    .and_then(|place| file.attach(place.as_fd()))
                    .context(|| format!("mount {target}"))?;
                if spec.read_only_root {
                    file.make_read_only()
                        .context(|| format!("make {target} read-only"))?;
                }
            }
        }
    }
    Ok(())
}

/// Mounts a tmpfs for the user. Over a directory of the image it takes that one's mode.
fn mount_tmpfs(root: BorrowedFd<'_>, target: &str, options: &str) -> Result<(), Failure> {
    if names(target).all(|name| name == "." || name == "..") {
        return Err(Failure::bad_config(format!(
            "invalid --tmpfs target {target:?}: it is the root"
        )));
    }
    let about = || format!("mount tmpfs on {target}");
    let (place, mode) = match paths::open(root, target, Want::Directory) {
        Ok(place) => {
            let status = statx(&place, "", AtFlags::EMPTY_PATH, StatxFlags::MODE).context(about)?;
            (place, Some(u32::from(status.stx_mode) & 0o7777))
        }
        Err(Errno::NOENT) => {
            let place = paths::open(root, target, Want::NewDirectory).config(about)?;
            (place, None)
        }
        Err(errno) => return Err(errno).config(about),
    };
    make_tmpfs(options, mode)?
        .attach(place.as_fd())
        .context(about)
}

/// A tmpfs with a user's options; `mode` unless they name one.
fn make_tmpfs(options: &str, mode: Option<u32>) -> Result<Detached, Failure> {
    let options = tmpfs::parse(options).map_err(|error| Failure::bad_config(error.to_string()))?;
    let bad = |failure: Failure| Failure::bad_config(failure.message);
    let tmpfs = Setup::new("tmpfs", "tmpfs")?;
    if let Some(mode) = mode.filter(|_| !options.values.iter().any(|(key, _)| key == "mode")) {
        tmpfs.value("mode", &format!("{mode:o}"))?;
    }
    for flag in &options.flags {
        tmpfs.flag(flag).map_err(bad)?;
    }
    for (key, value) in &options.values {
        tmpfs.value(key, value).map_err(bad)?;
    }
    tmpfs.create(options.attributes).map_err(bad)
}

/// Masks and write protection. The places are found below the file systems' own roots, not by
/// their paths in the container.
fn confine_system_paths(
    proc: Option<&Detached>,
    sys: Option<&Detached>,
    dev: &Detached,
) -> Result<(), Failure> {
    for (proc, name) in proc
        .into_iter()
        .flat_map(|proc| READ_ONLY_IN_PROC.map(|name| (proc, name)))
    {
        let about = || format!("make /proc/{name} read-only");
        match Detached::clone_of(proc.as_fd(), name) {
            Ok(view) => {
                view.make_read_only().context(about)?;
                attach_in(proc.as_fd(), name, &view)?;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).context(about),
        }
    }
    let in_proc = proc
        .into_iter()
        .flat_map(|proc| MASKED_IN_PROC.map(|name| (proc, name)));
    let in_sys = sys
        .into_iter()
        .flat_map(|sys| MASKED_IN_SYS.map(|name| (sys, name)));
    let mut empty = None;
    for (parent, name) in in_proc.chain(in_sys) {
        mask(parent, name, dev, &mut empty).map_err(|failure| Failure {
            message: format!("mask {name}: {failure}"),
            ..failure
        })?;
    }
    Ok(())
}

/// Hides a directory behind `empty`, which is made when it is first needed, and anything else
/// behind the null device.
fn mask(
    parent: &Detached,
    name: &str,
    dev: &Detached,
    empty: &mut Option<Detached>,
) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = match openat(parent, name, flags, Mode::empty()) {
        Ok(place) => place,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno).context(|| "look it up".into()),
    };
    let status =
        statx(&place, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE).context(|| "look at it".into())?;
    let attach = |mount: &Detached| mount.attach(place.as_fd()).context(|| "attach".into());
    if FileType::from_raw_mode(status.stx_mode.into()) != FileType::Directory {
        return attach(&Detached::clone_of(dev.as_fd(), "null").context(|| "clone null".into())?);
    }
    if let Some(empty) = empty {
        return attach(&Detached::clone_of(empty.as_fd(), "").context(|| "clone".into())?);
    }
    let tmpfs = Setup::new("tmpfs", "tmpfs")?;
    tmpfs.value("nr_blocks", "1")?;
    tmpfs.value("nr_inodes", "1")?;
    attach(empty.insert(tmpfs.create(MountAttrFlags::MOUNT_ATTR_RDONLY)?))
}
