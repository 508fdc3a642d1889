//! What Landlock takes away, asked of the kernel. It holds for the thread that asks for it.
#![allow(unsafe_code)] // execve, and a question that no crate asks

use std::ffi::CString;
use std::fs::{File, Permissions};
use std::io::{Error, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bulkhead_jail::landlock::{
    Enforcement, Rights, knows_moves, restrict, restrict_files, restrict_to,
};

/// The version of the kernel's Landlock as it tells it itself, 0 where there is none.
fn version() -> i64 {
    const VERSION: libc::c_long = 1;
    // SAFETY: with this flag there is nothing to read, and no descriptor is made.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<()>(),
            0_usize,
            VERSION,
        )
    };
    answer.max(0)
}

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
    assert_eq!(
        enforced == Enforcement::None,
        version() == 0,
        "{enforced:?}"
    );
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
    let names = ["own", "others", "outside", "supervised", "removable"];
    let [own, others, outside, supervised, removable] = names.map(|name| {
        let folder = temp.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("file"), "x").unwrap();
        for name in ["empty", "full/in"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        folder
    });
    let limit = outside.join("limit");
    let listed = outside.join("full");
    std::fs::write(listed.join("file"), "x").unwrap();
    std::fs::write(&limit, "x").unwrap();
    let places = [
        (&own, Rights::All),
        (&others, Rights::Read),
        (&limit, Rights::ReadAndWrite),
        (&listed, Rights::ReadFiles),
        (&supervised, Rights::Own),
        (&removable, Rights::Removal),
    ]
    .map(|(place, rights)| (File::open(place).unwrap(), rights));
    let asked = std::thread::spawn(move || {
        let enforced = restrict_files(&places).unwrap();
        assert_eq!(
            enforced == Enforcement::None,
            version() == 0,
            "{enforced:?}"
        );
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
                false,
            ),
            (
                "rename a folder there",
                std::fs::rename(others.join("full"), others.join("other")),
                false,
            ),
            (
                "remove an empty folder there",
                std::fs::remove_dir(others.join("empty")),
                false,
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
                "make a file of a supervisor's",
                std::fs::write(supervised.join("new"), "y"),
                true,
            ),
            (
                "replace one",
                std::fs::rename(supervised.join("new"), supervised.join("file")),
                true,
            ),
            (
                "list its folder",
                std::fs::read_dir(&supervised).map(drop),
                true,
            ),
            (
                "make a link there",
                std::os::unix::fs::symlink("/", supervised.join("link")),
                false,
            ),
            (
                "make a folder there, too",
                std::fs::create_dir(supervised.join("folder")),
                false,
            ),
            (
                "rename one there",
                std::fs::rename(supervised.join("full"), supervised.join("other")),
                false,
            ),
            (
                "remove an empty one",
                std::fs::remove_dir(supervised.join("empty")),
                false,
            ),
            (
                "move a file to another folder",
                std::fs::rename(supervised.join("file"), supervised.join("full/file")),
                false,
            ),
            (
                "read what is to go",
                std::fs::read(removable.join("file")).map(drop),
                true,
            ),
            (
                "list what is to go",
                std::fs::read_dir(&removable).map(drop),
                false,
            ),
            (
                "write to it",
                std::fs::write(removable.join("file"), "y"),
                false,
            ),
            (
                "remove it",
                std::fs::remove_file(removable.join("file")),
                true,
            ),
            (
                "and a folder",
                std::fs::remove_dir(removable.join("empty")),
                true,
            ),
            (
                "read in a folder",
                std::fs::read(listed.join("file")).map(drop),
                true,
            ),
            (
                "list that folder",
                std::fs::read_dir(&listed).map(drop),
                false,
            ),
            (
                "open a folder in it",
                File::open(listed.join("in")).map(drop),
                false,
            ),
            ("write a file", std::fs::write(&limit, "y"), true),
            (
                "write the one beside it",
                std::fs::write(outside.join("file"), "y"),
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

/// What comes of executing an empty file: that it is no program, where it may be executed.
fn executed(path: &Path) -> ErrorKind {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let arguments = [path.as_ptr(), std::ptr::null()];
    // SAFETY: the list ends with a null pointer, as an empty environment does.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), arguments[1..].as_ptr()) };
    Error::last_os_error().kind()
}

/// What comes of making `/dev/null` again.
fn made_device(path: &Path) -> ErrorKind {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let made = mknodat(
        CWD,
        path,
        FileType::CharacterDevice,
        Mode::RUSR,
        makedev(1, 3),
    );
    made.map_or_else(|errno| Error::from(errno).kind(), |()| ErrorKind::Other)
}

#[test]
fn a_thread_with_a_folder_moves_files_in_it_whatever_the_kernel() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    for name in ["own/a", "own/b", "outside"] {
        std::fs::create_dir_all(path(name)).unwrap();
    }
    std::fs::write(path("own/a/file"), "x").unwrap();
    let program = path("own/program");
    std::fs::write(&program, "").unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
    let before = executed(&program);
    assert_ne!(
        before,
        ErrorKind::PermissionDenied,
        "nothing is executed in {}",
        temp.path().display()
    );
    let own = File::open(path("own")).unwrap();
    let asked = std::thread::scope(|scope| {
        let act = || {
            let enforced = restrict_to(Some(own.as_fd())).unwrap();
            std::fs::rename(path("own/a/file"), path("own/b/file")).unwrap();
            std::fs::hard_link(path("own/b/file"), path("own/a/again")).unwrap();
            let outside = [
                std::fs::read_dir(path("outside")).is_ok(),
                File::create(path("outside/file")).is_ok(),
            ];
            let inside = [executed(&program), made_device(&path("own/device"))];
            (enforced, outside, inside)
        };
        scope.spawn(act).join().unwrap()
    });
    let (enforced, outside, inside) = asked;
    assert_eq!(outside, [enforced == Enforcement::None; 2]);
    if enforced != Enforcement::None {
        assert_eq!(inside, [ErrorKind::PermissionDenied; 2]);
    }
    // Moves are known since the second.
    assert_eq!(knows_moves(), version() >= 2);
    assert_eq!(knows_moves(), enforced != Enforcement::None);
}
