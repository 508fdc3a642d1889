//! The device nodes of a container: Docker's fixed set, `--device`, and all of them when privileged.
//!
//! Called by [`crate::container`], which looks nodes up in the guest's own `/dev` before the
//! container exists, and by [`crate::rootfs`], which makes them. Knows numbers and modes; what a
//! process may open is [`crate::device_filter`]'s.

use std::os::fd::{AsFd, BorrowedFd};

use protocol::spec::DeviceNode;
use rustix::fs::{
    AtFlags, Dev, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags, makedev, mknodat, openat,
    openat2, statx,
};
use rustix::io::Errno;

use crate::device_filter::{DeviceAccess, DeviceKind, DeviceRule};
use crate::failure::{Context, Failure};
use crate::paths::{self, Want};

/// Name in `/dev`, major and minor number of the nodes that every container has.
const DEFAULT_NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Nodes that the kernel makes for root alone and that every distribution opens to all.
const FOR_ALL: [&str; 2] = ["fuse", "net/tun"];

/// Folders and files of `/dev` that are the container's own affair.
const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", "ptmx"];

/// Most nodes below one `--device`; the guest's `/dev` has some hundred at most.
const MAX_NODES: usize = 1024;

/// A node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where, as a path in the container.
    pub path: String,
    kind: DeviceKind,
    device: Dev,
    mode: u32,
}

impl Node {
    /// What of its device `access` allows.
    fn rule(&self, access: DeviceAccess) -> DeviceRule {
        DeviceRule {
            kind: self.kind,
            major: Some(rustix::fs::major(self.device)),
            minor: Some(rustix::fs::minor(self.device)),
            access,
        }
    }

    /// Makes it in the container whose root is `root`. A node that is there stays.
    ///
    /// # Errors
    /// What the path leads to, or what `mknod(2)` says.
    pub fn make(&self, root: BorrowedFd<'_>) -> Result<(), Failure> {
        let (parent, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let parent = paths::open(root, parent, Want::NewDirectory)
            .config(|| format!("make the folder of device {:?}", self.path))?;
        self.make_in(parent.as_fd(), name)
            .config(|| format!("make device {:?}", self.path))
    }

    fn make_in(&self, dir: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
        let kind = match self.kind {
            DeviceKind::Block => FileType::BlockDevice,
            DeviceKind::Char => FileType::CharacterDevice,
        };
        let mode = Mode::from_raw_mode(self.mode);
        match mknodat(dir, name, kind, mode, self.device) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }
}

/// Makes the fixed nodes in the container's `/dev`.
///
/// # Errors
/// What `mknod(2)` says.
pub fn make_defaults(dev: BorrowedFd<'_>) -> Result<(), Errno> {
    DEFAULT_NODES.iter().try_for_each(|(name, major, minor)| {
        let node = Node {
            path: String::new(),
            kind: DeviceKind::Char,
            device: makedev(*major, *minor),
            mode: 0o666,
        };
        node.make_in(dev, name)
    })
}

/// Looks up what `--device` names in the guest's `/dev`, of which `dev` is the root: the nodes to
/// make and what may be done with them. A folder stands for all nodes in it.
///
/// # Errors
/// A path that is no device of the guest's, or letters that are no access.
pub fn requested(
    dev: BorrowedFd<'_>,
    wanted: &[DeviceNode],
) -> Result<(Vec<Node>, Vec<DeviceRule>), Failure> {
    let mut nodes = Vec::new();
    let mut rules = Vec::new();
    for one in wanted {
        let about = || {
            format!(
                "error gathering device information while adding custom device {:?}",
                one.source
            )
        };
        let bad = |what: &str| Failure::bad_config(format!("{}: {what}", about()));
        let access = DeviceAccess::parse(&one.access)
            .ok_or_else(|| bad(&format!("invalid access {:?}", one.access)))?;
        let path = one
            .source
            .strip_prefix("/dev/")
            .map(|path| path.trim_end_matches('/'))
            .filter(|path| !path.is_empty())
            .ok_or_else(|| bad("not a path below /dev of the virtual machine"))?;
        let first = nodes.len();
        if let Some(node) = node(dev, path, &one.target).config(about)? {
            nodes.push(node);
        } else {
            match collect(dev, path, one.target.trim_end_matches('/'), &mut nodes) {
                Ok(()) | Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno).config(about),
            }
        }
        let added = nodes.get(first..).unwrap_or_default();
        if added.is_empty() {
            return Err(bad("not a device node"));
        }
        rules.extend(added.iter().map(|node| node.rule(access)));
    }
    Ok((nodes, rules))
}

/// All nodes of the guest's `/dev`.
///
/// # Errors
/// What reading it says.
pub fn all(dev: BorrowedFd<'_>) -> Result<Vec<Node>, Failure> {
    let mut nodes = Vec::new();
    collect(dev, "", "/dev", &mut nodes).context(|| "read /dev".into())?;
    Ok(nodes)
}

/// Adds the nodes of the folder `path` and below, to be made below `target`.
fn collect(
    dev: BorrowedFd<'_>,
    path: &str,
    target: &str,
    nodes: &mut Vec<Node>,
) -> Result<(), Errno> {
    let mut folders = vec![(path.to_owned(), target.to_owned())];
    while let Some((path, target)) = folders.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = if path.is_empty() { "." } else { &path };
        let folder = openat(dev, name, flags, Mode::empty())?;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_str().map_err(|_| Errno::ILSEQ)?;
            let top = path.is_empty();
            if name == "." || name == ".." || (top && OWN.contains(&name)) {
                continue;
            }
            let below = if top {
                name.to_owned()
            } else {
                format!("{path}/{name}")
            };
            let target = format!("{target}/{name}");
            if entry.file_type() == FileType::Directory {
                folders.push((below, target));
            } else if let Some(node) = node(dev, &below, &target)? {
                nodes.push(node);
            }
            if nodes.len() > MAX_NODES || folders.len() > MAX_NODES {
                return Err(Errno::TOOBIG);
            }
        }
    }
    Ok(())
}

/// The node at `path` below `dev`, `None` when something else is there.
fn node(dev: BorrowedFd<'_>, path: &str, target: &str) -> Result<Option<Node>, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat2(dev, path, flags, Mode::empty(), ResolveFlags::BENEATH)?;
    let status = statx(
        &file,
        "",
        AtFlags::EMPTY_PATH,
        StatxFlags::TYPE | StatxFlags::MODE,
    )?;
    let mode = u32::from(status.stx_mode);
    let kind = match FileType::from_raw_mode(mode) {
        FileType::CharacterDevice => DeviceKind::Char,
        FileType::BlockDevice => DeviceKind::Block,
        _ => return Ok(None),
    };
    Ok(Some(Node {
        path: target.to_owned(),
        kind,
        device: makedev(status.stx_rdev_major, status.stx_rdev_minor),
        mode: if FOR_ALL.contains(&path) {
            0o666
        } else {
            mode & 0o777
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    fn open(path: &std::path::Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).unwrap()
    }

    fn wanted(source: &str, target: &str, access: &str) -> Vec<DeviceNode> {
        vec![DeviceNode {
            source: source.into(),
            target: target.into(),
            access: access.into(),
        }]
    }

    #[test]
    fn a_requested_device_has_its_numbers_and_its_rule() {
        let dev = open(std::path::Path::new("/dev"));
        let (nodes, rules) =
            requested(dev.as_fd(), &wanted("/dev/null", "/dev/nothing", "rw")).unwrap();
        assert_eq!(nodes[0].path, "/dev/nothing");
        assert_eq!(nodes[0].device, makedev(1, 3));
        assert_eq!(rules[0].access, DeviceAccess::parse("rw").unwrap());
        assert_eq!((rules[0].major, rules[0].minor), (Some(1), Some(3)));
    }

    #[test]
    fn what_is_no_device_of_the_guest_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        std::os::unix::fs::symlink("/dev/null", folder.path().join("link")).unwrap();
        let dev = open(folder.path());
        let table = [
            ("/dev/nope", "no such file or directory"),
            ("/dev/file", "not a device node"),
            ("/dev/empty", "not a device node"),
            ("/dev/link", "not a device node"),
            ("/dev/../etc/passwd", "invalid cross-device link"),
            (
                "/etc/passwd",
                "not a path below /dev of the virtual machine",
            ),
            ("/dev/", "not a path below /dev of the virtual machine"),
        ];
        for (source, text) in table {
            let failure = requested(dev.as_fd(), &wanted(source, "/x", "rwm")).unwrap_err();
            assert_eq!(
                failure.message,
                format!(
                    "error gathering device information while adding custom device \
                     {source:?}: {text}"
                )
            );
        }
        assert!(requested(dev.as_fd(), &wanted("/dev/file", "/x", "rx")).is_err());
    }

    #[test]
    fn a_folder_stands_for_the_nodes_in_it() {
        let dev = open(std::path::Path::new("/dev"));
        let nodes = all(dev.as_fd()).unwrap();
        let paths: Vec<&str> = nodes.iter().map(|node| node.path.as_str()).collect();
        assert!(paths.contains(&"/dev/null") && paths.contains(&"/dev/zero"));
        assert!(!paths.iter().any(|path| path.starts_with("/dev/pts")));
        assert!(!paths.contains(&"/dev/console"));
    }
}
