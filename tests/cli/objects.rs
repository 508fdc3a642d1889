//! Containers of a user who has none.

use crate::{User, assert_refused};

#[test]
fn without_containers_there_is_a_header() {
    let user = User::new();
    for verb in [&["ps"][..], &["ps", "-a"], &["container", "ls", "--all"]] {
        let out = user.stdout(verb);
        assert_eq!(
            out,
            "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n"
        );
    }
    assert_eq!(user.stdout(&["ps", "-aq"]), "");
}

#[test]
fn what_is_not_there_is_not_removed() {
    let user = User::new();
    assert_refused(&user.run(&["rm", "none"]), 1, "No such container: none");
    let out = user.run(&["rm", "one", "two"]);
    assert_eq!(out.code, 1, "{out}");
    let lines: Vec<&str> = out.stderr.lines().collect();
    assert_eq!(
        lines,
        [
            "bulkhead: No such container: one",
            "bulkhead: No such container: two"
        ]
    );
    let out = user.run(&["rm", "-f", "none"]);
    assert_eq!((out.code, out.stdout.as_str()), (0, ""), "{out}");
    assert_eq!(out.stderr, "bulkhead: No such container: none\n");
}

#[test]
fn a_state_root_that_can_not_be_made_is_told() {
    let user = User::new();
    let file = user.work().join("file");
    std::fs::write(&file, "").expect("write");
    let out = user
        .bulkhead(["ps"])
        .env("BULKHEAD_ROOT", file.join("below"))
        .output()
        .expect("run");
    assert_eq!((out.code, out.stdout.as_str()), (1, ""), "{out}");
    assert!(out.stderr.starts_with("bulkhead: create "), "{out}");
}
