//! Archives of honest and of hostile guests, received beside a folder that no entry may reach.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use tarball::TarWriter;

use super::*;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["target", "outside"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("outside/secret"), "secret").unwrap();
        Self { folder }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("target").join(path)
    }

    fn receive(&self, name: Option<&str>, entries: &[(Entry, &str)]) -> Result<LeftOut, String> {
        self.receive_as(Owners::Own, name, entries)
    }

    fn receive_as(
        &self,
        owners: Owners,
        name: Option<&str>,
        entries: &[(Entry, &str)],
    ) -> Result<LeftOut, String> {
        self.receive_top("top", owners, name, entries)
    }

    fn receive_top(
        &self,
        top: &str,
        owners: Owners,
        name: Option<&str>,
        entries: &[(Entry, &str)],
    ) -> Result<LeftOut, String> {
        let mut writer = TarWriter::new(Vec::new());
        for (entry, data) in entries {
            writer.entry(entry).unwrap();
            writer.data(data.as_bytes()).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let target = File::open(self.path("")).unwrap();
        receive(&target, top, name.map(OsStr::new), owners, &*bytes)
            .map_err(|error| error.to_string())
    }

    fn nothing_outside(&self) {
        let outside = self.folder.path().join("outside");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        let secret = outside.join("secret");
        assert_eq!(fs::read(&secret).unwrap(), b"secret");
        assert_eq!(secret.metadata().unwrap().nlink(), 1);
    }
}

fn entry(kind: EntryKind, path: &str) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        link: Vec::new(),
        kind,
        mode: 0o6751,
        uid: 1234,
        gid: 5678,
        mtime: (1_000_000_000, 5),
        device: (1, 3),
        size: 0,
        pieces: Vec::new(),
        xattrs: Vec::new(),
    }
}

fn file<'a>(path: &str, content: &'a str) -> (Entry, &'a str) {
    let entry = Entry {
        size: content.len() as u64,
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
fn a_tree_arrives_under_its_name_as_the_users() {
    let place = Place::new();
    let closed = Entry {
        mode: 0o500,
        ..dir("top/closed").0
    };
    place
        .receive(
            Some("name"),
            &[
                dir("top/"),
                file("top/file", "content"),
                link(EntryKind::HardLink, "top/hard", "top/file"),
                link(EntryKind::Symlink, "top/link", "/etc/passwd"),
                (closed, ""),
                file("top/closed/below", "x"),
                (entry(EntryKind::Fifo, "top/fifo"), ""),
            ],
        )
        .unwrap();
    let file = place.path("name/file").metadata().unwrap();
    assert_eq!((file.mode() & 0o7777, file.nlink()), (0o751, 2));
    assert_eq!((file.mtime(), file.mtime_nsec()), (1_000_000_000, 5));
    assert_eq!(file.uid(), nix::unistd::geteuid().as_raw());
    assert_eq!(fs::read(place.path("name/closed/below")).unwrap(), b"x");
    let closed = place.path("name/closed").metadata().unwrap();
    assert_eq!(
        (closed.mode() & 0o7777, closed.mtime()),
        (0o500, 1_000_000_000)
    );
    assert_eq!(
        fs::read_link(place.path("name/link")).unwrap().to_str(),
        Some("/etc/passwd")
    );
}

#[test]
fn content_alone_goes_right_into_the_target() {
    let place = Place::new();
    fs::write(place.path("file"), "old").unwrap();
    place
        .receive(None, &[dir("top"), file("top/file", "new")])
        .unwrap();
    assert_eq!(fs::read(place.path("file")).unwrap(), b"new");
    // The target itself is as it was.
    let mode = place.path("").metadata().unwrap().mode() & 0o7777;
    assert_ne!(mode, 0o6751);
}

#[test]
fn root_may_keep_owners() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test needs root, who may give files away"
    );
    let place = Place::new();
    place
        .receive_as(Owners::Kept, Some("f"), &[file("top", "x")])
        .unwrap();
    let there = place.path("f").metadata().unwrap();
    assert_eq!((there.uid(), there.gid()), (1234, 5678));
    assert_eq!(there.mode() & 0o7777, 0o6751);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let place = Place::new();
    let absolute = place.folder.path().join("outside/secret");
    let absolute = absolute.to_str().unwrap();
    let long = format!("top/{}", "n".repeat(256));
    let (out, other) = ("a path that leads out: ", "a path that was not asked for: ");
    for (path, sentence) in [
        ("../outside/x", out),
        ("../outside/secret", out),
        ("top/../../outside/secret", out),
        (absolute, out),
        (&absolute[1..], other),
        ("/etc/x", out),
        ("top/../../outside/x", out),
        ("top/./x", other),
        ("other", other),
        ("other/x", other),
        ("..", out),
        (".", other),
        (&long, "a name that is too long: "),
        (&"top/d".repeat(1000), "a path that is too long: "),
    ] {
        let hard = link(EntryKind::HardLink, "top/x", path);
        for entry in [file(path, "x"), hard] {
            let kind = entry.0.kind;
            let error = place
                .receive(Some("name"), &[dir("top"), entry])
                .unwrap_err();
            assert!(error.contains(sentence), "{path} {kind:?}: {error}");
        }
    }
    place.nothing_outside();
}

#[test]
fn a_whole_archive_has_no_top() {
    let place = Place::new();
    let whole = |entries: &[(Entry, &str)]| place.receive_top("", Owners::Own, None, entries);
    whole(&[
        dir("./"),
        file("./a", "a"),
        file("deep/er/b", "b"),
        dir("deep"),
        link(EntryKind::HardLink, "c", "./a"),
    ])
    .unwrap();
    for (path, content) in [("a", "a"), ("deep/er/b", "b"), ("c", "a")] {
        assert_eq!(fs::read_to_string(place.path(path)).unwrap(), content);
    }
    for path in ["../outside/x", "/etc/x", "a/../../outside/x", ".."] {
        assert!(whole(&[file(path, "x")]).is_err(), "{path}");
    }
    let out = link(EntryKind::Symlink, "out", "../outside");
    for path in ["out/x", "out/deep/x"] {
        assert!(whole(&[out.clone(), file(path, "x")]).is_err(), "{path}");
    }
    place.nothing_outside();
}

#[test]
fn nothing_is_written_through_a_link() {
    let place = Place::new();
    let outside = place.folder.path().join("outside");
    let target = outside.to_str().unwrap();
    for way in [target, "../../outside", "../outside", "."] {
        let entries = [
            dir("top"),
            link(EntryKind::Symlink, "top/link", way),
            file("top/link/x", "x"),
        ];
        let error = place.receive(Some("name"), &entries).unwrap_err();
        assert!(error.contains("symbolic link"), "{way}: {error}");
    }
    // A link in the place of a file is replaced, not followed.
    let secret = outside.join("secret");
    place
        .receive(
            Some("name"),
            &[
                dir("top"),
                link(EntryKind::Symlink, "top/file", secret.to_str().unwrap()),
                file("top/file", "mine"),
                link(EntryKind::Symlink, "top/again", secret.to_str().unwrap()),
                link(EntryKind::HardLink, "top/hard", "top/again"),
                file("top/hard", "mine"),
            ],
        )
        .unwrap();
    // Nor is one that the user has, or that takes a directory's place.
    symlink(&outside, place.path("users")).unwrap();
    let error = place.receive(Some("users"), &[dir("top"), file("top/x", "x")]);
    assert!(error.is_err());
    let entries = [
        dir("top"),
        dir("top/d"),
        link(EntryKind::Symlink, "top/d", target),
    ];
    assert!(place.receive(Some("name"), &entries).is_err());
    place.nothing_outside();
}

#[test]
fn devices_are_left_out_and_counted() {
    let place = Place::new();
    let left_out = place
        .receive(
            Some("name"),
            &[
                dir("top"),
                (entry(EntryKind::CharDevice, "top/null"), ""),
                (entry(EntryKind::BlockDevice, "top/disk"), ""),
                link(EntryKind::HardLink, "top/hard", "top/null"),
                file("top/file", "x"),
            ],
        )
        .unwrap();
    assert_eq!(left_out.devices, 3);
    assert_eq!(fs::read_dir(place.path("name")).unwrap().count(), 1);
}

#[test]
fn directories_and_files_do_not_take_each_others_place() {
    let place = Place::new();
    fs::create_dir(place.path("name")).unwrap();
    let error = place
        .receive(Some("name"), &[file("top", "x")])
        .unwrap_err();
    assert_eq!(
        error,
        "cannot overwrite directory \"name\" with non-directory"
    );
    fs::write(place.path("file"), "x").unwrap();
    let error = place.receive(Some("file"), &[dir("top")]).unwrap_err();
    assert_eq!(
        error,
        "cannot overwrite non-directory \"file\" with directory"
    );
}

#[test]
fn endless_files_and_damaged_archives_end() {
    let place = Place::new();
    let huge = Entry {
        size: BYTES_MAX + 1,
        ..entry(EntryKind::File, "top")
    };
    let mut writer = TarWriter::new(Vec::new());
    writer.entry(&huge).unwrap();
    assert!(writer.finish().is_err());
    let receive = |bytes: &[u8]| {
        let target = File::open(place.path("")).unwrap();
        receive(&target, "top", Some(OsStr::new("f")), Owners::Own, bytes)
            .unwrap_err()
            .to_string()
    };
    let mut bytes = Vec::new();
    let _ = TarWriter::new(&mut bytes).entry(&huge);
    assert_eq!(
        receive(&bytes),
        "an archive with more than 1099511627776 bytes of files"
    );
    let cut = Entry {
        size: 1000,
        ..entry(EntryKind::File, "top")
    };
    let mut bytes = Vec::new();
    let _ = TarWriter::new(&mut bytes).entry(&cut);
    assert!(receive(&bytes).contains("truncated"));
    assert!(receive(&[b'x'; 512]).contains("checksum"));
}

#[test]
fn an_archive_without_an_end_is_given_up() {
    /// The same entry again and again.
    struct Endless {
        record: Vec<u8>,
        at: usize,
    }
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let rest = self.record.get(self.at..).unwrap_or_default();
            let len = rest.len().min(buffer.len());
            buffer[..len].copy_from_slice(&rest[..len]);
            self.at = (self.at + len) % self.record.len();
            Ok(len)
        }
    }
    let mut record = Vec::new();
    TarWriter::new(&mut record)
        .entry(&entry(EntryKind::Directory, "top"))
        .unwrap();
    let place = Place::new();
    let target = File::open(place.path("")).unwrap();
    let endless = Endless { record, at: 0 };
    let name = Some(OsStr::new("f"));
    let error = receive_at_most(10_000, &target, "top", name, Owners::Own, endless);
    assert_eq!(
        error.unwrap_err().to_string(),
        "an archive with more than 10000 entries"
    );
}

#[test]
fn zeros_become_holes() {
    const LEN: usize = 4 << 20;
    let place = Place::new();
    let content = format!("begin{}end", "\0".repeat(LEN));
    place
        .receive(Some("name"), &[dir("top/"), file("top/file", &content)])
        .unwrap();
    let file = place.path("name/file");
    assert_eq!(fs::read(&file).unwrap(), content.as_bytes());
    let on_disk = file.metadata().unwrap().blocks() * 512;
    assert!(on_disk < LEN as u64 / 2, "{on_disk} bytes");
    let zeros = "\0".repeat(LEN);
    place
        .receive(
            Some("zeros"),
            &[dir("top/"), self::file("top/file", &zeros)],
        )
        .unwrap();
    let file = place.path("zeros/file").metadata().unwrap();
    assert_eq!((file.len(), file.blocks()), (LEN as u64, 0));
}

#[test]
fn an_archive_of_nothing_is_not_what_was_asked_for() {
    let place = Place::new();
    let error = place.receive(Some("name"), &[]).unwrap_err();
    assert_eq!(error, "a bad archive: nothing is in it");
    assert!(place.receive_top("", Owners::Own, None, &[]).is_ok());
}
