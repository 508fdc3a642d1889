//! Whether nobody but this user, and root, chooses what a path of the host leads to: whoever may make and
//! remove names in a folder on the way can put another in the place of the next.
//! Called for the state root and the folder of templates. It makes nothing.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Group, Uid, User, geteuid};

use super::accounts;

/// Links on the way, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// Modes: who may write a folder, and that none but its owner takes away another's names in it.
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;
const STICKY: u32 = 0o1000;

/// Checks that nobody but this user, root included, makes and removes names in a folder, and that nobody
/// but this user and root chooses which folder it is.
///
/// # Errors
/// It is another user's, or others may write it; so for each folder above it, and each link on the way.
pub fn check_own(folder: &Path) -> Result<()> {
    let user = geteuid();
    let found = follow(folder, user)?;
    let metadata = look_at(&found)?;
    if metadata.uid() != user.as_raw() {
        bail!("{} is another user's", found.display());
    }
    if metadata.mode() & (GROUP_WRITES | OTHERS_WRITE) != 0 {
        let found = found.display();
        bail!("others may write {found}\nhint: take that away (chmod 700 {found})");
    }
    Ok(())
}

/// Where a path leads, each folder and link on the way checked before it is used.
fn follow(path: &Path, user: Uid) -> Result<PathBuf> {
    let about = || format!("look at {}", path.display());
    let path = std::path::absolute(path).with_context(about)?;
    let mut here = PathBuf::from("/");
    let mut left = names(&path);
    let mut links = 0;
    while let Some(name) = left.pop() {
        check_above(&here, user)?;
        let next = match name.to_str() {
            // There are no links in it by now.
            Some("..") => here.parent().unwrap_or(&here).to_owned(),
            _ => here.join(name),
        };
        let metadata = look_at(&next)?;
        if !metadata.is_symlink() {
            here = next;
            continue;
        }
        check_owner(&next, &metadata, user)?;
        links += 1;
        if links > LINKS_MAX {
            bail!("{}: more than {LINKS_MAX} links", about());
        }
        let target = fs::read_link(&next).with_context(|| format!("read {}", next.display()))?;
        if target.is_absolute() {
            here = PathBuf::from("/");
        }
        left.extend(names(&target));
    }
    Ok(here)
}

/// The names of a path, the last first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path
        .components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
    names.collect()
}

/// No link is followed.
fn look_at(path: &Path) -> Result<Metadata> {
    path.symlink_metadata()
        .with_context(|| format!("look at {}", path.display()))
}

fn check_owner(path: &Path, metadata: &Metadata, user: Uid) -> Result<()> {
    if ![0, user.as_raw()].contains(&metadata.uid()) {
        bail!("{} is another user's", path.display());
    }
    Ok(())
}

/// A folder on the way: in one with the sticky bit, as /tmp, nobody takes away a name that is not theirs.
fn check_above(folder: &Path, user: Uid) -> Result<()> {
    let metadata = look_at(folder)?;
    let mode = metadata.mode();
    if mode & (GROUP_WRITES | OTHERS_WRITE) == 0 && is_nobodys(metadata.uid()) {
        return Ok(());
    }
    check_owner(folder, &metadata, user)?;
    // With an access list the group's bits are what any name in the list may have at most.
    let is_users_alone =
        || !has_access_list(folder) && is_private(Gid::from_raw(metadata.gid()), user);
    let is_safe = mode & (GROUP_WRITES | OTHERS_WRITE) == 0
        || mode & STICKY != 0
        || (mode & OTHERS_WRITE == 0 && is_users_alone());
    if !is_safe {
        let folder = folder.display();
        bail!("others may write {folder}\nhint: take that away (chmod go-w {folder})");
    }
    Ok(())
}

/// Whether an owner is one that this user namespace has no number for, as the host's root in a container
/// without root. It may be another user of that host, too: who made the container chose its folders.
fn is_nobodys(owner: u32) -> bool {
    let number = |path| fs::read_to_string(path).ok()?.trim().parse::<u32>().ok();
    let is_initial = fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    !is_initial && number("/proc/sys/kernel/overflowuid") == Some(owner)
}

/// Whether a group has nobody but this user, as where each user has a group of the same name and what
/// they make may be written by it.
fn is_private(group: Gid, user: Uid) -> bool {
    let (Ok(Some(group)), Ok(Some(user))) = (Group::from_gid(group), User::from_uid(user)) else {
        return false;
    };
    let accounts = fs::read_to_string(accounts::FILE).unwrap_or_default();
    has_nobody_else(&group, &user, &accounts)
}

/// By its members, and by the accounts of this host whose own group it is.
fn has_nobody_else(group: &Group, user: &User, accounts: &str) -> bool {
    let accounts = accounts::parse(accounts).filter(|account| account.gid == group.gid.as_raw());
    let members = group.mem.iter().map(String::as_str);
    let mut members = members.chain(accounts.map(|account| account.name));
    group.gid == user.gid && group.name == user.name && members.all(|name| name == user.name)
}

fn has_access_list(folder: &Path) -> bool {
    let mut value = [0; 0];
    // ENODATA where there is none; what can't be told counts as one but where the file system has none.
    !matches!(
        rustix::fs::lgetxattr(folder, "system.posix_acl_access", &mut value),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP)
    )
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    use super::*;

    /// A folder `own` in a folder `above`, with these modes.
    fn folders(above: u32, own: u32) -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("above/own");
        fs::create_dir_all(&folder).unwrap();
        for (path, mode) in [(temp.path().join("above"), above), (folder.clone(), own)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        // Wherever temporary files are, there may be links.
        (temp, folder.canonicalize().unwrap())
    }

    fn refusal(folder: &Path) -> Option<String> {
        check_own(folder).err().map(|error| format!("{error:#}"))
    }

    #[test]
    fn a_folder_is_its_users_alone_and_one_above_nobody_elses() {
        for (above, own, refused) in [
            (0o755, 0o700, None),
            (0o700, 0o755, None),
            (0o1777, 0o700, None),
            (0o777, 0o700, Some(("above", "go-w"))),
            (0o757, 0o700, Some(("above", "go-w"))),
            (0o755, 0o720, Some(("above/own", "700"))),
            (0o755, 0o702, Some(("above/own", "700"))),
            (0o755, 0o1777, Some(("above/own", "700"))),
        ] {
            let (temp, folder) = folders(above, own);
            let words = refused.map(|(name, mode)| {
                let path = temp.path().canonicalize().unwrap().join(name);
                let path = path.display();
                format!("others may write {path}\nhint: take that away (chmod {mode} {path})")
            });
            assert_eq!(refusal(&folder), words, "{above:o} {own:o}");
        }
    }

    #[test]
    fn a_group_of_more_than_its_user_writes_nowhere_above() {
        let (_temp, folder) = folders(0o775, 0o700);
        let above = folder.parent().unwrap();
        let group = Gid::from_raw(above.symlink_metadata().unwrap().gid());
        assert_eq!(refusal(&folder).is_none(), is_private(group, geteuid()));
        // No group has this number.
        assert!(!is_private(Gid::from_raw(0x7fff_fff0), geteuid()));
    }

    #[test]
    fn a_group_is_private_that_has_nobody_but_its_user() {
        let user = User {
            name: "alice".to_owned(),
            uid: Uid::from_raw(1000),
            gid: Gid::from_raw(100),
            ..User::from_uid(geteuid()).unwrap().unwrap()
        };
        let of = |name: &str, gid: u32, members: &[&str]| Group {
            name: name.to_owned(),
            passwd: Default::default(),
            gid: Gid::from_raw(gid),
            mem: members.iter().map(|name| (*name).to_owned()).collect(),
        };
        let own = "root:x:0:0::/root:/bin/sh\nalice:x:1000:100::/home/alice:/bin/sh\n";
        let with_bob = format!("{own}bob:x:1001:100::/home/bob:/bin/sh\n");
        for (group, accounts, expected) in [
            (of("alice", 100, &[]), own, true),
            (of("alice", 100, &["alice"]), own, true),
            (of("alice", 100, &["alice", "bob"]), own, false),
            (of("alice", 100, &[]), with_bob.as_str(), false),
            (of("staff", 100, &[]), own, false),
            (of("alice", 101, &[]), own, false),
        ] {
            let is = has_nobody_else(&group, &user, accounts);
            assert_eq!(is, expected, "{group:?} {accounts}");
        }
    }

    #[test]
    fn what_a_link_leads_to_is_checked() {
        let (temp, folder) = folders(0o755, 0o700);
        let path = |name: &str| temp.path().join(name);
        symlink(&folder, path("absolute")).unwrap();
        symlink("above/../absolute", path("relative")).unwrap();
        symlink("round", path("round")).unwrap();
        assert_eq!(refusal(&path("relative")), None);
        assert_eq!(refusal(&path("absolute/../own/.")), None);
        let error = refusal(&path("round")).unwrap();
        assert!(error.ends_with("more than 40 links"), "{error}");
        let error = refusal(&path("none")).unwrap();
        assert!(error.starts_with("look at "), "{error}");
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        let error = refusal(&path("relative")).unwrap();
        let words = format!("others may write {}\n", folder.display());
        assert!(error.starts_with(&words), "{error}");
    }

    #[test]
    fn what_is_another_users_is_not_used() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root gives files away");
            return;
        }
        let (temp, folder) = folders(0o755, 0o700);
        let link = temp.path().canonicalize().unwrap().join("link");
        symlink(&folder, &link).unwrap();
        assert_eq!(refusal(&link), None);
        for path in [&link, folder.parent().unwrap(), &folder] {
            lchown(path, Some(7), None).unwrap();
            let words = format!("{} is another user's", path.display());
            assert_eq!(refusal(&link), Some(words));
            lchown(path, Some(0), None).unwrap();
        }
    }
}
