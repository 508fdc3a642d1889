//! Kernel parameters of the container: Docker's two defaults and `--sysctl`.
//!
//! Called by [`crate::rootfs`] in the child, since some parameters belong to its namespaces. In a
//! VM every parameter is the container's own, so there is no list of allowed ones; only the name
//! must be one, and not a way out of `/proc/sys`.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::failure::{Context, Failure};

/// What Docker sets in a container with its own network, unless the user sets it.
const DEFAULTS: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// Longest name in bytes; the longest of Linux 6.12 has about 60.
const MAX_NAME: usize = 256;

/// Writes the defaults and `wanted`. `proc` is the root of a procfs.
///
/// # Errors
/// A name that is none, a parameter that does not exist, or a value that the kernel refuses.
pub fn apply(proc: BorrowedFd<'_>, wanted: &BTreeMap<String, String>) -> Result<(), Failure> {
    for (name, value) in DEFAULTS {
        if !wanted.contains_key(name) {
            write(proc, name, value)?;
        }
    }
    wanted
        .iter()
        .try_for_each(|(name, value)| write(proc, name, value))
}

fn write(proc: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), Failure> {
    let path = path(name)
        .ok_or_else(|| Failure::bad_config(format!("sysctl {name:?} is no valid name")))?;
    let file = openat2(
        proc,
        path,
        OFlags::WRONLY | OFlags::CLOEXEC | OFlags::TRUNC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
    .config(|| format!("open sysctl {name:?}"))?;
    rustix::io::write(&file, value.as_bytes())
        .config(|| format!("write {value:?} to sysctl {name:?}"))?;
    Ok(())
}

/// The file of a parameter below the root of a procfs, `None` when the name is none.
fn path(name: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-/.:@".contains(&byte);
    let path = format!("sys/{}", name.replace('.', "/"));
    let whole = path.split('/').all(|part| !part.is_empty());
    (name.len() <= MAX_NAME && name.bytes().all(plain) && whole).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use rustix::fs::open;

    #[test]
    fn names_become_paths_below_sys() {
        let table = [
            ("net.ipv4.ip_forward", "sys/net/ipv4/ip_forward"),
            ("kernel/msgmax", "sys/kernel/msgmax"),
            ("fs.mqueue.msg_max", "sys/fs/mqueue/msg_max"),
        ];
        for (name, want) in table {
            assert_eq!(path(name).as_deref(), Some(want));
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "a".repeat(MAX_NAME + 1);
        for bad in [
            "", ".", "..", "net..x", "/etc", "a b", "a\0", "net.", "é", &long,
        ] {
            assert_eq!(path(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn values_are_written_below_the_given_root_only() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("sys/net/ipv4")).unwrap();
        for (name, _) in DEFAULTS {
            std::fs::write(folder.path().join(path(name).unwrap()), "old").unwrap();
        }
        std::fs::write(folder.path().join("secret"), "old").unwrap();
        std::os::unix::fs::symlink("../../../secret", folder.path().join("sys/net/ipv4/link"))
            .unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(folder.path(), flags, Mode::empty()).unwrap();
        let user = [("net.ipv4.ping_group_range".to_owned(), "1 1".to_owned())].into();
        apply(root.as_fd(), &user).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(path(name).unwrap()));
        assert_eq!(read("net.ipv4.ip_unprivileged_port_start").unwrap(), "0");
        assert_eq!(read("net.ipv4.ping_group_range").unwrap(), "1 1");

        let link = [("net.ipv4.link".to_owned(), "new".to_owned())].into();
        let failure = apply(root.as_fd(), &link).unwrap_err();
        assert!(failure.message.starts_with("open sysctl"), "{failure}");
        assert_eq!(
            std::fs::read_to_string(folder.path().join("secret")).unwrap(),
            "old"
        );
        let missing = [("net.ipv4.nope".to_owned(), "1".to_owned())].into();
        let failure = apply(root.as_fd(), &missing).unwrap_err();
        assert_eq!(failure.kind, protocol::message::FailureKind::BadConfig);
    }
}
