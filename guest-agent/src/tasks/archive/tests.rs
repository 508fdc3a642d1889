//! Archives of trees, read again by our own reader and by GNU tar.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags, XattrFlags, open};
use tarball::TarReader;

use super::*;

fn root(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).unwrap()
}

/// Path, type and target or content of each entry.
fn list(bytes: &[u8]) -> Vec<(String, EntryKind, String)> {
    let mut reader = TarReader::new(bytes);
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut content = vec![0; usize::try_from(entry.size).unwrap()];
        reader.read(&mut content).unwrap();
        content.extend(&entry.link);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        all.push((text(&entry.path), entry.kind, text(&content)));
    }
    all
}

fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("d/e")).unwrap();
    fs::write(path("d/file"), "content").unwrap();
    fs::set_permissions(path("d/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(path("d/file"), path("d/second")).unwrap();
    symlink("../no such file", path("d/e/link")).unwrap();
    rustix::fs::mkfifoat(CWD, path("d/fifo"), Mode::from_raw_mode(0o600)).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(path("d/socket")).unwrap();
    folder
}

fn of_path(folder: &Path, path: &str, follow: bool, name: &str) -> Vec<u8> {
    let root = root(folder);
    let found = place::look_at(root.as_fd(), path, follow).unwrap();
    let mut bytes = Vec::new();
    of_one(found, name.as_bytes(), &mut bytes).unwrap();
    bytes
}

fn wanted(rows: &[(&str, EntryKind, &str)]) -> Vec<(String, EntryKind, String)> {
    rows.iter()
        .map(|(path, kind, text)| ((*path).to_owned(), *kind, (*text).to_owned()))
        .collect()
}

#[test]
fn a_directory_is_archived_under_the_name_that_is_asked_for() {
    let folder = tree();
    let bytes = of_path(folder.path(), "/d", false, "copy");
    assert_eq!(
        list(&bytes),
        wanted(&[
            ("copy/", EntryKind::Directory, ""),
            ("copy/e/", EntryKind::Directory, ""),
            ("copy/e/link", EntryKind::Symlink, "../no such file"),
            ("copy/fifo", EntryKind::Fifo, ""),
            ("copy/file", EntryKind::File, "content"),
            ("copy/second", EntryKind::HardLink, "copy/file"),
        ])
    );
}

#[test]
fn one_file_or_link_is_an_archive_too() {
    let folder = tree();
    symlink("/d/file", folder.path().join("absolute")).unwrap();
    for (path, follow, kind, content) in [
        ("d/file", false, EntryKind::File, "content"),
        ("/absolute", true, EntryKind::File, "content"),
        ("/absolute", false, EntryKind::Symlink, "/d/file"),
        (
            "/../../d/../d/e/link",
            false,
            EntryKind::Symlink,
            "../no such file",
        ),
        ("/d/fifo", true, EntryKind::Fifo, ""),
    ] {
        let bytes = of_path(folder.path(), path, follow, "x");
        assert_eq!(list(&bytes), wanted(&[("x", kind, content)]), "{path}");
    }
    let root = root(folder.path());
    for (path, errno) in [
        ("/d/e/link", Errno::NOENT),
        ("/d/file/x", Errno::NOTDIR),
        ("/none", Errno::NOENT),
    ] {
        assert_eq!(
            place::look_at(root.as_fd(), path, true).unwrap_err(),
            errno,
            "{path}"
        );
    }
}

#[test]
fn gnu_tar_unpacks_what_was_there() {
    let folder = tree();
    let long = format!("d/{}", "n".repeat(200));
    fs::write(folder.path().join(&long), vec![7; 1_000_000]).unwrap();
    let mut bytes = Vec::new();
    of_root(root(folder.path()).as_fd(), &mut bytes).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let archive = copy.path().join("archive.tar");
    fs::write(&archive, &bytes).unwrap();
    let target = copy.path().join("x");
    fs::create_dir(&target).unwrap();
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    };
    run(Command::new("tar")
        .arg("-xpf")
        .arg(&archive)
        .arg("-C")
        .arg(&target));
    // With a socket there is one difference.
    fs::remove_file(folder.path().join("d/socket")).unwrap();
    run(Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([folder.path().join("d/e"), target.join("d/e")]));
    for name in ["d/file", "d/second", &*long, "d", "d/e"] {
        let (was, is) = (folder.path().join(name), target.join(name));
        let (was, is) = (was.metadata().unwrap(), is.metadata().unwrap());
        assert_eq!(was.permissions(), is.permissions(), "{name}");
        if name != "d" {
            assert_eq!(was.modified().unwrap(), is.modified().unwrap(), "{name}");
        }
    }
    assert_eq!(fs::read(target.join(&long)).unwrap(), vec![7; 1_000_000]);
}

#[test]
fn marks_of_an_overlay_become_those_of_a_layer() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("d/opaque")).unwrap();
    fs::write(path("d/opaque/file"), "x").unwrap();
    // Both take privileges that a test may not have.
    let device = rustix::fs::mknodat(
        CWD,
        path("d/gone"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o600),
        0,
    );
    let mark = rustix::fs::setxattr(
        path("d/opaque"),
        "trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    );
    let mut bytes = Vec::new();
    of_changes(root(folder.path()).as_fd(), None, &mut bytes).unwrap();
    let mut rows = vec![("d/", EntryKind::Directory, "")];
    if device.is_ok() {
        rows.push(("d/.wh.gone", EntryKind::File, ""));
    }
    rows.push(("d/opaque/", EntryKind::Directory, ""));
    if mark.is_ok() {
        rows.push(("d/opaque/.wh..wh..opq", EntryKind::File, ""));
    }
    rows.push(("d/opaque/file", EntryKind::File, "x"));
    assert_eq!(list(&bytes), wanted(&rows));

    fs::write(path("d/.wh.x"), "").unwrap();
    let error = of_changes(root(folder.path()).as_fd(), None, Vec::new()).unwrap_err();
    assert!(
        error
            .message
            .starts_with("d/.wh.x can't be part of a layer"),
        "{error}"
    );
}

#[test]
fn a_host_that_goes_away_ends_it() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let folder = tree();
    let error = of_root(root(folder.path()).as_fd(), Gone).unwrap_err();
    assert_eq!(error.message, "write the archive: broken pipe");
}

#[test]
fn a_path_beyond_all_limits_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut dir = root(folder.path());
    let name = "n".repeat(250);
    for _ in 0..20 {
        rustix::fs::mkdirat(&dir, &*name, Mode::from_raw_mode(0o700)).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        dir = rustix::fs::openat(&dir, &*name, flags, Mode::empty()).unwrap();
    }
    let error = of_root(root(folder.path()).as_fd(), Vec::new()).unwrap_err();
    assert!(error.message.contains("the limit is 4095"), "{error}");
}

#[test]
fn a_layer_has_no_times_after_the_latest() {
    let folder = tempfile::tempdir().unwrap();
    let time = |seconds| std::time::UNIX_EPOCH + std::time::Duration::new(seconds, 5);
    for (name, seconds) in [("early", 1000), ("late", 3000)] {
        let file = std::fs::File::create(folder.path().join(name)).unwrap();
        file.set_modified(time(seconds)).unwrap();
    }
    let mut bytes = Vec::new();
    of_changes(root(folder.path()).as_fd(), Some(2000), &mut bytes).unwrap();
    let mut tar = tarball::TarReader::new(bytes.as_slice());
    let mut times = Vec::new();
    while let Some(entry) = tar.next_entry().unwrap() {
        times.push(entry.mtime);
    }
    assert_eq!(times, [(1000, 5), (2000, 0)]);
}
