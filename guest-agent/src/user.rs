//! Docker's user lookup: a user specification and the image's own passwd and group files to ids.
//!
//! Called by [`crate::launch`] and [`crate::tasks`] with the files' bytes, which the image chose. Pure: it opens
//! nothing and asks no name service.
//!
//! The rules, and the wording of the errors, are those of the engine: digits always mean a number
//! even when a user is called so, the first matching line wins, a number needs no line, and a group
//! that is named explicitly replaces the user's own groups.

use std::collections::BTreeSet;

/// Largest id, as in the engine.
const MAX_ID: i64 = (1 << 31) - 1;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, the group id first, without repetition.
    pub groups: Vec<u32>,
    /// Home directory of the user id as the passwd file writes it, `/` when it does not.
    pub home: Vec<u8>,
}

/// Why there is no such identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A user name that the passwd file lacks.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// A group name that the group file lacks.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A number that is no id.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
}

/// Looks up `spec` (empty, `user`, `user:group`; names or numbers) and the names or numbers of
/// `group_add` in the files' bytes; a missing file is empty.
///
/// # Errors
/// See [`UserError`].
pub fn resolve(
    spec: &str,
    group_add: &[String],
    passwd: &[u8],
    group: &[u8],
) -> Result<Identity, UserError> {
    let mut words = spec.split(':');
    let user_word = words.next().unwrap_or_default();
    let group_word = words.next().unwrap_or_default();

    let wanted = match user_word {
        "" => Wanted::Number(0),
        word => Wanted::new(word),
    };
    let entry = lines(passwd)
        .map(User::parse)
        .find(|user| wanted.is(user.name, user.uid));
    let (uid, own_gid, name) = match (&entry, &wanted) {
        (Some(user), _) => (user.uid, user.gid, Some(user.name)),
        (None, Wanted::Number(uid)) => (*uid, 0, None),
        (None, Wanted::Name(name)) => return Err(UserError::NoUser((*name).to_owned())),
    };

    let mut groups = Vec::new();
    let gid = if group_word.is_empty() {
        let member_of = lines(group).map(Group::parse).filter(|group| {
            name.is_some_and(|name| !name.is_empty() && group.members().any(|one| one == name))
        });
        groups.extend(member_of.map(|group| group.gid));
        own_gid
    } else {
        group_id(group_word, group)?
    };
    for word in group_add {
        groups.push(added_group_id(word, group)?);
    }

    let gid = id(gid)?;
    let mut unique = vec![gid];
    let mut seen = BTreeSet::from([gid]);
    for one in groups {
        let one = id(one)?;
        if seen.insert(one) {
            unique.push(one);
        }
    }
    Ok(Identity {
        uid: id(uid)?,
        gid,
        groups: unique,
        home: home_of(uid, passwd),
    })
}

fn group_id(word: &str, group: &[u8]) -> Result<i64, UserError> {
    let wanted = Wanted::new(word);
    let entry = lines(group)
        .map(Group::parse)
        .find(|group| wanted.is(group.name, group.gid));
    match (entry, wanted) {
        (Some(group), _) => Ok(group.gid),
        (None, Wanted::Number(gid)) => Ok(gid),
        (None, Wanted::Name(name)) => Err(UserError::NoGroup(name.to_owned())),
    }
}

/// A word of `--group-add`: unlike in a specification, digits may be a name.
fn added_group_id(word: &str, group: &[u8]) -> Result<i64, UserError> {
    let named = lines(group)
        .map(Group::parse)
        .find(|group| group.name == word.as_bytes() || group.gid.to_string() == word);
    match named {
        Some(group) => Ok(group.gid),
        None => group_id(word, group),
    }
}

fn home_of(uid: i64, passwd: &[u8]) -> Vec<u8> {
    lines(passwd)
        .map(User::parse)
        .find(|user| user.uid == uid)
        .map(|user| user.home)
        .filter(|home| !home.is_empty())
        .unwrap_or(b"/")
        .to_vec()
}

fn id(number: i64) -> Result<u32, UserError> {
    match u32::try_from(number) {
        Ok(id) if number <= MAX_ID => Ok(id),
        _ => Err(UserError::Range),
    }
}

/// A word of the specification: digits are always a number.
enum Wanted<'a> {
    Number(i64),
    Name(&'a str),
}

impl<'a> Wanted<'a> {
    fn new(word: &'a str) -> Self {
        word.parse().map_or(Self::Name(word), Self::Number)
    }

    fn is(&self, name: &[u8], number: i64) -> bool {
        match self {
            Self::Number(wanted) => *wanted == number,
            Self::Name(wanted) => wanted.as_bytes() == name,
        }
    }
}

/// `name:password:uid:gid:gecos:home:shell`; missing fields are empty, odd numbers are 0.
struct User<'a> {
    name: &'a [u8],
    uid: i64,
    gid: i64,
    home: &'a [u8],
}

impl<'a> User<'a> {
    fn parse(line: &'a [u8]) -> Self {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().unwrap_or_default();
        let uid = number(fields.nth(1));
        let gid = number(fields.next());
        let home = fields.nth(1).unwrap_or_default();
        Self {
            name,
            uid,
            gid,
            home,
        }
    }
}

/// `name:password:gid:member,member`.
struct Group<'a> {
    name: &'a [u8],
    gid: i64,
    list: &'a [u8],
}

impl<'a> Group<'a> {
    fn parse(line: &'a [u8]) -> Self {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().unwrap_or_default();
        let gid = number(fields.nth(1));
        let list = fields.next().unwrap_or_default();
        Self { name, gid, list }
    }

    fn members(&self) -> impl Iterator<Item = &'a [u8]> {
        self.list.split(|byte| *byte == b',')
    }
}

fn number(field: Option<&[u8]>) -> i64 {
    field
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The lines that say something: no blanks around them, no comments.
fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"# users\n\nroot:x:0:0:root:/root:/bin/sh\n  daemon:x:1:1::/usr/sbin:/x\n\
        joe:x:1000:1000:Joe:/home/joe:/bin/sh\njoe:x:7:7::/second:/bin/sh\n\
        1234:x:55:55::/digits:/bin/sh\nshort:x:8\nodd:x:abc:def::/odd:\nnohome:x:9:9:::\n\
        big:x:4294967296:0::/:\nhi\xff:x:66:66::/h\xff:/bin/sh";
    const GROUP: &[u8] = b"root:x:0:root\nwheel:x:10:root,joe\nextra:x:2000:joe\n#no:x:3:joe\n\
        joe:x:1000:\n77:x:2077:\nempty:x:5:,\nroot:x:99:nobody\n";

    fn who(spec: &str) -> Result<(u32, u32, Vec<u32>, String), UserError> {
        with_groups(spec, &[])
    }

    fn with_groups(spec: &str, add: &[&str]) -> Result<(u32, u32, Vec<u32>, String), UserError> {
        let add: Vec<String> = add.iter().map(ToString::to_string).collect();
        let one = resolve(spec, &add, PASSWD, GROUP)?;
        let home = String::from_utf8_lossy(&one.home).into_owned();
        Ok((one.uid, one.gid, one.groups, home))
    }

    #[test]
    fn names_numbers_and_nothing() {
        let table = [
            ("", (0, 0, vec![0, 10], "/root")),
            ("root", (0, 0, vec![0, 10], "/root")),
            ("0", (0, 0, vec![0, 10], "/root")),
            ("joe", (1000, 1000, vec![1000, 10, 2000], "/home/joe")),
            ("1000", (1000, 1000, vec![1000, 10, 2000], "/home/joe")),
            ("+1000", (1000, 1000, vec![1000, 10, 2000], "/home/joe")),
            ("daemon", (1, 1, vec![1], "/usr/sbin")),
            ("short", (8, 0, vec![0], "/")),
            ("odd", (0, 0, vec![0], "/root")),
            ("nohome", (9, 9, vec![9], "/")),
            (":wheel", (0, 10, vec![10], "/root")),
            ("joe:", (1000, 1000, vec![1000, 10, 2000], "/home/joe")),
        ];
        for (spec, (uid, gid, groups, home)) in table {
            assert_eq!(who(spec), Ok((uid, gid, groups, home.into())), "{spec:?}");
        }
    }

    #[test]
    fn digits_are_a_number_even_when_a_user_is_called_so() {
        assert_eq!(who("1234"), Ok((1234, 0, vec![0], "/".into())));
        assert_eq!(who("1234:77"), Ok((1234, 77, vec![77], "/".into())));
    }

    #[test]
    fn an_explicit_group_replaces_the_users_groups() {
        assert_eq!(who("1234:extra"), Ok((1234, 2000, vec![2000], "/".into())));
        assert_eq!(who("joe:0"), Ok((1000, 0, vec![0], "/home/joe".into())));
        assert_eq!(who("joe:4321").unwrap().1, 4321);
    }

    #[test]
    fn added_groups_come_last_and_once() {
        let got = with_groups("joe", &["extra", "44", "root", "44"]).unwrap();
        assert_eq!(got.2, [1000, 10, 2000, 44, 0]);
        assert_eq!(with_groups("5:5", &["77"]).unwrap().2, [5, 2077]);
    }

    #[test]
    fn a_user_of_very_many_groups_is_found_soon() {
        use std::fmt::Write;
        let mut group = String::new();
        for gid in 1..=300_000 {
            writeln!(group, "::{gid}:r").unwrap();
        }
        // Looking each one up among those before it takes minutes.
        let one = resolve("r", &[], b"r", group.as_bytes()).unwrap();
        assert_eq!(one.groups.len(), 300_001);
    }

    #[test]
    fn the_errors_are_the_engines() {
        let table = [
            (
                "nope",
                "unable to find user nope: no matching entries in passwd file",
            ),
            (
                "root:nope",
                "unable to find group nope: no matching entries in group file",
            ),
            ("2147483648", "uids and gids must be in range 0-2147483647"),
            ("-1", "uids and gids must be in range 0-2147483647"),
            (
                "0:2147483648",
                "uids and gids must be in range 0-2147483647",
            ),
            ("big", "uids and gids must be in range 0-2147483647"),
            (
                "99999999999999999999",
                "unable to find user 99999999999999999999: \
              no matching entries in passwd file",
            ),
            (
                "root:../../",
                "unable to find group ../../: no matching entries in group file",
            ),
        ];
        for (spec, message) in table {
            assert_eq!(who(spec).unwrap_err().to_string(), message, "{spec:?}");
        }
        let error = with_groups("root", &["nope"]).unwrap_err();
        assert_eq!(error, UserError::NoGroup("nope".into()));
    }

    #[test]
    fn without_files_numbers_work_and_names_do_not() {
        let one = resolve("", &[], b"", b"").unwrap();
        assert_eq!((one.uid, one.gid, one.home), (0, 0, b"/".to_vec()));
        assert_eq!(
            resolve("5:6", &["7".into()], b"", b"").unwrap().groups,
            [6, 7]
        );
        assert!(resolve("root", &[], b"", b"").is_err());
    }

    #[test]
    fn bytes_that_are_no_text_harm_nothing() {
        assert_eq!(resolve("66", &[], PASSWD, GROUP).unwrap().home, b"/h\xff");
        for junk in [&b"\xff\xfe\0::::"[..], b":::::::", b"::", b"\n\n#"] {
            assert!(resolve("x", &[], junk, junk).is_err());
            assert!(resolve("3", &[], junk, junk).is_ok());
        }
    }
}
