//! Copies of plain folders; owners and marks of the overlay need root and are tested in a VM.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, open};

use super::*;

fn folder(path: &Path) -> OwnedFd {
    open(path, DIRECTORY, Mode::empty()).unwrap()
}

/// A source with something of each kind, and an empty volume.
fn tree() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    for name in ["from/d/e", "from/empty", "to"] {
        fs::create_dir_all(path(name)).unwrap();
    }
    fs::write(path("from/file"), vec![7; CHUNK + 5]).unwrap();
    fs::write(path("from/d/e/deep"), "deep").unwrap();
    fs::hard_link(path("from/file"), path("from/d/again")).unwrap();
    symlink("../../etc/passwd", path("from/d/link")).unwrap();
    rustix::fs::mkfifoat(CWD, path("from/pipe"), Mode::from_raw_mode(0o600)).unwrap();
    let mode = |name: &str, mode| {
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("from/d/e/deep", 0o4711);
    mode("from/empty", 0o1777);
    mode("from", 0o751);
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(981_173_106, 5);
    for name in ["from/d/e/deep", "from/d"] {
        fs::File::open(path(name))
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
    temp
}

#[test]
fn everything_is_copied() {
    let temp = tree();
    let path = |name: &str| temp.path().join(name);
    copy(folder(&path("from")).as_fd(), folder(&path("to")).as_fd()).unwrap();
    assert_eq!(fs::read(path("to/file")).unwrap(), vec![7; CHUNK + 5]);
    assert_eq!(fs::read(path("to/d/e/deep")).unwrap(), b"deep");
    let of = |name: &str| fs::symlink_metadata(path(name)).unwrap();
    assert_eq!(of("to/file").ino(), of("to/d/again").ino());
    assert_eq!(of("to/file").nlink(), 2);
    let link = fs::read_link(path("to/d/link")).unwrap();
    assert_eq!(link, Path::new("../../etc/passwd"));
    for name in ["", "/d", "/d/e/deep", "/empty", "/pipe", "/file"] {
        let (from, to) = (of(&format!("from{name}")), of(&format!("to{name}")));
        assert_eq!(from.mode(), to.mode(), "{name}");
        assert_eq!(
            (from.mtime(), from.mtime_nsec()),
            (to.mtime(), to.mtime_nsec()),
            "{name}"
        );
    }
}

#[test]
fn what_has_content_is_left_alone() {
    let temp = tree();
    let path = |name: &str| temp.path().join(name);
    fs::write(path("to/mine"), "").unwrap();
    copy(folder(&path("from")).as_fd(), folder(&path("to")).as_fd()).unwrap();
    assert_eq!(fs::read_dir(path("to")).unwrap().count(), 1);
}

#[test]
fn a_copy_is_cleared_and_what_links_lead_to_is_not() {
    let temp = tree();
    let path = |name: &str| temp.path().join(name);
    fs::create_dir(path("outside")).unwrap();
    fs::write(path("outside/file"), "").unwrap();
    symlink(path("outside"), path("from/outside")).unwrap();
    clear(folder(&path("from")).as_fd()).unwrap();
    assert_eq!(fs::read_dir(path("from")).unwrap().count(), 0);
    assert!(path("outside/file").exists());
}
