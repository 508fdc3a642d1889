//! What the agent makes of a user's words and of an image's passwd and group files. Ids are in
//! range, groups are there once with the group id first, and an identity named by its own numbers
//! is found again whatever the files say.
//!
//! ```text
//! input: user, 0, words of --group-add with blanks between, 0, passwd, 0, group
//! ```
#![no_main]

use std::collections::BTreeSet;

use guest_agent::user::resolve;
use libfuzzer_sys::fuzz_target;

const MAX_ID: u32 = i32::MAX as u32;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(4, |byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (user, add, passwd, group) = (next(), next(), next(), next());
    let (Ok(user), Ok(add)) = (std::str::from_utf8(user), std::str::from_utf8(add)) else {
        return;
    };
    let add: Vec<String> = add.split(' ').map(str::to_owned).collect();
    let add = if add == [""] { &[] } else { add.as_slice() };

    let Ok(found) = resolve(user, add, passwd, group) else {
        return;
    };
    assert!(found.uid <= MAX_ID && found.groups.iter().all(|gid| *gid <= MAX_ID));
    assert_eq!(found.groups.first(), Some(&found.gid));
    let unique: BTreeSet<_> = found.groups.iter().collect();
    assert_eq!(unique.len(), found.groups.len());
    assert!(!found.home.is_empty() && !found.home.contains(&b'\n'));

    let numbers = format!("{}:{}", found.uid, found.gid);
    let again = resolve(&numbers, &[], passwd, group).expect("numbers need no line");
    assert_eq!((again.uid, again.gid), (found.uid, found.gid));
    assert_eq!((again.groups, again.home), (vec![found.gid], found.home));
});
