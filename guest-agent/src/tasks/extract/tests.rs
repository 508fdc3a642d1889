//! Archives unpacked into a tree beside a folder that no entry may reach.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use rustix::fs::open;
use tarball::TarWriter;

use super::*;

struct Tree {
    folder: tempfile::TempDir,
    root: OwnedFd,
}

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("root/etc")).unwrap();
        fs::create_dir(folder.path().join("outside")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(folder.path().join("root"), flags, Mode::empty()).unwrap();
        Self { folder, root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path)
    }

    fn extract(&self, target: &str, entries: &[(Entry, &str)]) -> Result<(), String> {
        self.extract_as(target, None, entries)
    }

    fn extract_as(
        &self,
        target: &str,
        owner: Option<&str>,
        entries: &[(Entry, &str)],
    ) -> Result<(), String> {
        let mut writer = TarWriter::new(Vec::new());
        for (entry, data) in entries {
            writer.entry(entry).unwrap();
            writer.data(data.as_bytes()).unwrap();
        }
        let bytes = writer.finish().unwrap();
        into(self.root.as_fd(), target, owner, false, &*bytes).map_err(|failure| failure.message)
    }

    fn nothing_outside(&self) {
        let outside = self.folder.path().join("outside");
        assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    }
}

fn entry(kind: EntryKind, path: &str) -> Entry {
    // A test may not be allowed to give files away.
    Entry {
        path: path.as_bytes().to_vec(),
        link: Vec::new(),
        kind,
        mode: 0o755,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: (1_000_000_000, 5),
        device: (0, 0),
        size: 0,
        pieces: Vec::new(),
        xattrs: Vec::new(),
    }
}

fn file<'a>(path: &str, content: &'a str) -> (Entry, &'a str) {
    let entry = Entry {
        size: content.len() as u64,
        mode: 0o4711,
        ..entry(EntryKind::File, path)
    };
    (entry, content)
}

fn dir(path: &str) -> (Entry, &'static str) {
    (entry(EntryKind::Directory, path), "")
}

fn link(kind: EntryKind, path: &str, target: &str) -> (Entry, &'static str) {
    let entry = Entry {
        link: target.as_bytes().to_vec(),
        ..entry(kind, path)
    };
    (entry, "")
}

#[test]
fn everything_arrives_with_its_attributes() {
    let tree = Tree::new();
    tree.extract(
        "/etc",
        &[
            dir("d"),
            file("d/file", "content"),
            link(EntryKind::HardLink, "d/second", "d/file"),
            link(EntryKind::Symlink, "d/link", "/no/such"),
            (entry(EntryKind::Fifo, "d/fifo"), ""),
            file("not/named/before", "x"),
        ],
    )
    .unwrap();
    let there = tree.path("etc/d/file").metadata().unwrap();
    assert_eq!((there.mode() & 0o7777, there.nlink()), (0o4711, 2));
    assert_eq!((there.mtime(), there.mtime_nsec()), (1_000_000_000, 5));
    assert_eq!(fs::read(tree.path("etc/d/second")).unwrap(), b"content");
    assert_eq!(
        fs::read_link(tree.path("etc/d/link")).unwrap().to_str(),
        Some("/no/such")
    );
    // Also of a directory that was filled behind its entry.
    assert_eq!(
        tree.path("etc/d").metadata().unwrap().mtime(),
        1_000_000_000
    );
    assert!(tree.path("etc/not/named/before").exists());
}

#[test]
fn files_are_replaced_and_directories_are_not() {
    let tree = Tree::new();
    tree.extract("/", &[file("f", "old"), dir("d"), file("d/kept", "x")])
        .unwrap();
    tree.extract("", &[file("./f", "new"), dir("./d/")])
        .unwrap();
    assert_eq!(fs::read(tree.path("f")).unwrap(), b"new");
    assert!(tree.path("d/kept").exists());
    assert_eq!(
        tree.extract("/", &[file("d", "x")]).unwrap_err(),
        "cannot overwrite directory \"/d\" with non-directory \"\""
    );
    assert_eq!(
        tree.extract("/", &[dir("f")]).unwrap_err(),
        "cannot overwrite non-directory \"/f\" with directory \"\""
    );
    let error = tree.extract("/none", &[file("f", "x")]).unwrap_err();
    assert_eq!(error, "open /none: no such file or directory");
}

#[test]
fn no_path_leads_out() {
    let tree = Tree::new();
    let outside = tree.folder.path().join("outside");
    for path in ["../x", "a/../../x", "..", "/etc/../../../outside/x"] {
        let error = tree.extract("/etc", &[file(path, "x")]).unwrap_err();
        assert!(error.contains("leads out"), "{path}: {error}");
    }
    // Links that an image or an archive brings end at the container's root.
    symlink("../../../outside", tree.path("up")).unwrap();
    symlink(&outside, tree.path("absolute")).unwrap();
    fs::create_dir_all(tree.path(outside.strip_prefix("/").unwrap().to_str().unwrap())).unwrap();
    fs::create_dir(tree.path("outside")).unwrap();
    tree.extract("/", &[file("up/x", "x"), file("absolute/x", "x")])
        .unwrap();
    let own = [
        link(EntryKind::Symlink, "own", outside.to_str().unwrap()),
        file("own/y", "y"),
    ];
    tree.extract("/", &own).unwrap();
    assert!(tree.path("outside/x").exists());
    tree.nothing_outside();
    // A file is never written through a link in its place.
    symlink("/etc/target", tree.path("through")).unwrap();
    tree.extract("/", &[file("through", "x")]).unwrap();
    assert!(tree.path("through").symlink_metadata().unwrap().is_file());
    assert!(!tree.path("etc/target").exists());
    // Nor is a hard link made to something outside.
    let secret = tree.folder.path().join("secret");
    fs::write(&secret, "x").unwrap();
    for target in ["../secret", secret.to_str().unwrap()] {
        let made = tree.extract("/", &[link(EntryKind::HardLink, "hard", target)]);
        assert!(made.is_err(), "{target}");
    }
    tree.nothing_outside();
}

#[test]
fn damaged_archives_and_whiteouts_are_refused() {
    let tree = Tree::new();
    let junk = into(tree.root.as_fd(), "/", None, false, &[7; 700][..]).unwrap_err();
    assert!(junk.message.contains("checksum"), "{junk}");
    let mut writer = TarWriter::new(Vec::new());
    writer.entry(&file("f", "content").0).unwrap();
    writer.data(b"content").unwrap();
    let bytes = writer.finish().unwrap();
    let cut = into(tree.root.as_fd(), "/", None, false, &bytes[..515]).unwrap_err();
    assert!(cut.message.contains("truncated"), "{cut}");
    let whiteout = (entry(EntryKind::CharDevice, "gone"), "");
    assert_eq!(
        tree.extract("/", &[whiteout]).unwrap_err(),
        "make gone: invalid argument"
    );
}

#[test]
fn owners_are_the_tars_or_a_users_of_the_container() {
    let tree = Tree::new();
    fs::write(tree.path("etc/passwd"), "user:x:1234:5678:::\n").unwrap();
    let error = tree
        .extract_as("/", Some("nobody"), &[file("f", "x")])
        .unwrap_err();
    assert!(error.starts_with("unable to find user nobody"), "{error}");
    assert!(
        rustix::process::getuid().is_root(),
        "this test needs root, who may give files away"
    );
    let given = Entry {
        uid: 7,
        gid: 8,
        ..file("as-said", "x").0
    };
    let owner = |name: &str| {
        let there = tree.path(name).metadata().unwrap();
        (there.uid(), there.gid())
    };
    tree.extract("/", &[(given.clone(), "x")]).unwrap();
    assert_eq!(owner("as-said"), (7, 8));
    tree.extract_as("/", Some("user"), &[(given, "x"), file("own", "x")])
        .unwrap();
    assert_eq!(
        (owner("as-said"), owner("own")),
        ((1234, 5678), (1234, 5678))
    );
}

#[test]
fn attributes_of_overlays_and_of_the_agent_are_not_set() {
    let tree = Tree::new();
    let xattr = |name: &str| tarball::Xattr {
        name: name.into(),
        value: b"y".to_vec(),
    };
    let names = [
        "trusted.overlay.opaque",
        "trusted.bulkhead.implied",
        "trusted.other",
    ];
    let marked = Entry {
        xattrs: names.map(xattr).to_vec(),
        ..file("marked", "x").0
    };
    let made = tree.extract("/", &[(marked, "x")]);
    // Whoever is not root can't give the file away.
    if rustix::process::getuid().is_root() {
        made.unwrap();
    }
    let mut list = vec![0; 4096];
    let len = rustix::fs::listxattr(tree.path("marked"), &mut *list).unwrap();
    let list = String::from_utf8_lossy(&list[..len]).into_owned();
    let trusted: Vec<&str> = list
        .split('\0')
        .filter(|name| name.starts_with("trusted."))
        .collect();
    let expected: &[&str] = match rustix::process::getuid().is_root() {
        true => &["trusted.other"],
        false => &[],
    };
    assert_eq!(trusted, expected);
}

#[test]
fn holes_stay_holes() {
    const LEN: usize = 8 << 20;
    const END: usize = 4 << 20;
    let tree = Tree::new();
    let folder = tempfile::tempdir().unwrap();
    let sparse = fs::File::create(folder.path().join("sparse")).unwrap();
    sparse.set_len(LEN as u64).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", END as u64 - 3).unwrap();
    // Of this user, who can't give files to others.
    let owners = [
        format!("--owner={}", rustix::process::getuid().as_raw()),
        format!("--group={}", rustix::process::getgid().as_raw()),
    ];
    let tar = std::process::Command::new("tar")
        .args(["--sparse", "--numeric-owner", "-C"])
        .arg(folder.path())
        .args(owners)
        .args(["-cf", "-", "sparse"])
        .output()
        .unwrap();
    // The archive has the map of a sparse file, and not its zeros.
    assert!(tar.status.success() && tar.stdout.len() < 1 << 20);
    into(tree.root.as_fd(), "/", None, false, &*tar.stdout).unwrap();
    let there = tree.path("sparse");
    let bytes = fs::read(&there).unwrap();
    assert_eq!(bytes.len(), LEN);
    assert_eq!(bytes[END - 3..END], *b"end");
    assert!(bytes.iter().filter(|byte| **byte != 0).count() == 3);
    let on_disk = there.metadata().unwrap().blocks() * 512;
    assert!(on_disk < 1 << 20, "{on_disk} bytes");
}
