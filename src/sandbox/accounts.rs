//! The accounts of a host, as passwd(5) has them. Called for whose group it is that may write somewhere, and
//! for the members of groups that a policy names.

/// The accounts of this host's own.
pub const FILE: &str = "/etc/passwd";

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account<'a> {
    /// The user's name.
    pub name: &'a str,
    /// Its number.
    pub uid: u32,
    /// The number of its own group.
    pub gid: u32,
}

/// The accounts of a text; lines that are none are passed over.
pub fn parse(text: &str) -> impl Iterator<Item = Account<'_>> {
    // name:password:uid:gid:…
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some(Account {
            name: fields.next()?,
            uid: fields.nth(1)?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_database_is_a_user_with_a_first_group() {
        let text = "root:x:0:0:root:/root:/bin/sh\nbroken:x:many:1::/:\nnis\nbob:x:1000:100::/:\n";
        let all: Vec<_> = parse(text).collect();
        let account = |name, uid, gid| Account { name, uid, gid };
        assert_eq!(all, [account("root", 0, 0), account("bob", 1000, 100)]);
    }
}
