//! What Landlock takes away, asked of the kernel. It holds for the thread that asks for it.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;

use bulkhead_jail::landlock::{
    Enforcement, Rights, knows_moves, restrict, restrict_files, restrict_to,
};

#[test]
fn a_restricted_thread_opens_nothing_where_the_kernel_can_deny_it() {
    let asked = std::thread::spawn(|| {
        let before = File::open("/dev/null").is_ok();
        let enforced = restrict().unwrap();
        let after = File::open("/dev/null").map_err(|error| error.kind());
        (before, enforced, after.err())
    });
    let (before, enforced, refused) = asked.join().unwrap();
    assert!(before, "it opens before");
    if enforced == Enforcement::None {
        assert_eq!(refused, None, "the kernel has no Landlock");
    } else {
        assert_eq!(refused, Some(ErrorKind::PermissionDenied), "{enforced:?}");
    }
    assert!(File::open("/dev/null").is_ok(), "others are not restricted");
}

#[test]
fn a_thread_with_places_has_these_and_no_other() {
    let temp = tempfile::tempdir().unwrap();
    let [own, others, outside] = ["own", "others", "outside"].map(|name| {
        let folder = temp.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("file"), "x").unwrap();
        folder
    });
    let places = [(&own, Rights::All), (&others, Rights::Folders)]
        .map(|(folder, rights)| (File::open(folder).unwrap(), rights));
    let asked = std::thread::spawn(move || {
        let enforced = restrict_files(&places).unwrap();
        let denied = ErrorKind::PermissionDenied;
        let outcomes = [
            ("write its own", std::fs::write(own.join("file"), "y"), true),
            (
                "rename its own",
                std::fs::rename(own.join("file"), own.join("new")),
                true,
            ),
            (
                "read another's",
                std::fs::read(others.join("file")).map(drop),
                true,
            ),
            (
                "make a folder there",
                std::fs::create_dir(others.join("folder")),
                true,
            ),
            (
                "write another's",
                std::fs::write(others.join("file"), "y"),
                false,
            ),
            (
                "make a file there",
                File::create(others.join("new")).map(drop),
                false,
            ),
            (
                "remove another's",
                std::fs::remove_file(others.join("file")),
                false,
            ),
            (
                "take another's",
                std::fs::rename(others.join("file"), own.join("taken")),
                false,
            ),
            (
                "read what is outside",
                std::fs::read(outside.join("file")).map(drop),
                false,
            ),
            (
                "list what is outside",
                std::fs::read_dir(&outside).map(drop),
                false,
            ),
        ];
        for (what, outcome, may) in outcomes {
            let may = may || enforced == Enforcement::None;
            let kind = outcome.err().map(|error| error.kind());
            let refused = [denied, ErrorKind::CrossesDevices];
            assert_eq!(kind.is_none(), may, "{what}: {kind:?} ({enforced:?})");
            assert!(
                kind.is_none_or(|kind| refused.contains(&kind)),
                "{what}: {kind:?}"
            );
        }
    });
    asked.join().unwrap();
}

#[test]
fn a_thread_with_a_folder_moves_files_in_it_whatever_the_kernel() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    for name in ["own/a", "own/b", "outside"] {
        std::fs::create_dir_all(path(name)).unwrap();
    }
    std::fs::write(path("own/a/file"), "x").unwrap();
    let own = File::open(path("own")).unwrap();
    let asked = std::thread::scope(|scope| {
        let act = || {
            let enforced = restrict_to(Some(own.as_fd())).unwrap();
            std::fs::rename(path("own/a/file"), path("own/b/file")).unwrap();
            std::fs::hard_link(path("own/b/file"), path("own/a/again")).unwrap();
            (enforced, std::fs::read_dir(path("outside")).is_ok())
        };
        scope.spawn(act).join().unwrap()
    });
    assert_eq!(asked.0 == Enforcement::None, asked.1);
    assert!(knows_moves() || asked.0 == Enforcement::None);
}
