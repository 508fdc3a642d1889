//! Users and their groups: of this process as the kernel has them, of others as the host's database does.
//!
//! Called by [`super`] for whoever runs the command, and by [`super::verb`] for all whom a policy names.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist, getgroups};

use super::rules::{Document, Who};
use crate::sandbox::accounts;

/// Who runs this command.
///
/// # Errors
/// When the database can't be asked.
pub fn caller() -> Result<Who> {
    let uid = geteuid();
    let name = known(User::from_uid(uid))?.map(|user| user.name);
    let mut gids = getgroups()?;
    gids.push(getegid());
    who(uid, name, &gids)
}

/// Who a user is that logs in.
///
/// # Errors
/// When the database can't be asked.
pub fn of(uid: u32) -> Result<Who> {
    let uid = Uid::from_raw(uid);
    match known(User::from_uid(uid))? {
        Some(user) => {
            let name = CString::new(user.name.as_str()).context("read a user's name")?;
            who(uid, Some(user.name), &getgrouplist(&name, user.gid)?)
        }
        None => who(uid, None, &[]),
    }
}

fn who(uid: Uid, name: Option<String>, gids: &[Gid]) -> Result<Who> {
    let mut groups = Vec::new();
    for gid in gids {
        groups.push(gid.to_string());
        groups.extend(known(Group::from_gid(*gid))?.map(|group| group.name));
    }
    Ok(Who {
        user: [name.unwrap_or_else(|| uid.to_string()), uid.to_string()],
        groups,
        is_root: uid.is_root(),
    })
}

/// What the database has; nothing where it is not there, as in a container made from scratch: getpwuid(3)
/// says what an answer may be then.
fn known<T>(found: nix::Result<Option<T>>) -> Result<Option<T>> {
    match found {
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        found => found.context("look up users of this host"),
    }
}

/// All whom a policy names.
#[derive(Debug, Default)]
pub struct Named {
    /// By their numbers: users with a section, and members of groups that have one.
    pub users: BTreeMap<u32, Who>,
    /// Sections whose user or group the database does not have.
    pub unknown: Vec<String>,
}

/// Finds them.
///
/// # Errors
/// When the database can't be asked.
pub fn named(document: &Document) -> Result<Named> {
    let mut uids = Vec::new();
    let mut unknown = Vec::new();
    for name in document.users() {
        match User::from_name(name)?.map(|user| user.uid.as_raw()) {
            Some(uid) => uids.push(uid),
            None => match name.parse() {
                Ok(uid) => uids.push(uid),
                Err(_) => unknown.push(format!("user.{name}")),
            },
        }
    }
    let mut gids = Vec::new();
    for name in document.groups() {
        let number = name.parse().ok().map(Gid::from_raw);
        let group = match Group::from_name(name)? {
            Some(group) => Some(group),
            None => number.map(Group::from_gid).transpose()?.flatten(),
        };
        match group.as_ref().map(|group| group.gid).or(number) {
            Some(gid) => gids.push(gid.as_raw()),
            None => unknown.push(format!("group.{name}")),
        }
        for member in group.into_iter().flat_map(|group| group.mem) {
            uids.extend(User::from_name(&member)?.map(|user| user.uid.as_raw()));
        }
    }
    // No list of a group has those whose first one it is.
    if !gids.is_empty() {
        let database = database()?;
        let accounts = accounts::parse(&database);
        let members = accounts.filter(|account| gids.contains(&account.gid));
        uids.extend(members.map(|account| account.uid));
    }
    let users = uids.into_iter().map(|uid| Ok((uid, of(uid)?)));
    let users = users.collect::<Result<_>>()?;
    Ok(Named { users, unknown })
}

/// The host's users, as `passwd(5)` has them: all that getent lists, or else those of the file.
fn database() -> Result<String> {
    let mut list = Command::new("getent");
    match list.arg("passwd").stdin(Stdio::null()).output() {
        Ok(out) if out.status.success() => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        _ => std::fs::read_to_string(accounts::FILE).context("read the accounts"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_calls_has_its_own_number() {
        let own = caller().unwrap();
        let [_, number] = &own.user;
        assert_eq!(*number, geteuid().to_string());
        assert_eq!(own.is_root, geteuid().is_root());
        assert!(own.groups.contains(&getegid().to_string()));
    }

    #[test]
    fn a_number_is_a_user_also_when_the_database_has_none() {
        // Above what systems give away (systemd, "Users, Groups, UIDs and GIDs").
        let text = "[user.4294967000]\nvms = 1\n[user.no-such-user]\n[group.no-such-group]\n";
        let named = named(&Document::parse(text).unwrap()).unwrap();
        let numbers: Vec<u32> = named.users.keys().copied().collect();
        assert_eq!(numbers, [4_294_967_000]);
        assert_eq!(named.unknown, ["user.no-such-user", "group.no-such-group"]);
        let who = &named.users[&4_294_967_000];
        assert!(who.groups.is_empty() && !who.is_root);
    }

    #[test]
    fn root_is_a_member_of_its_own_group() {
        let document = Document::parse("[group.0]\nvms = 1\n").unwrap();
        let named = named(&document).unwrap();
        assert!(named.users[&0].is_root);
        assert_eq!(document.rules(&named.users[&0]).unwrap().vms, None);
    }
}
