//! Images read by Debian's erofs-utils, and trees as GNU tar archives them.
//!
//! These tests need the packages erofs-utils and tar.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?} (Debian's packages erofs-utils, tar): {error}")
    });
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Directories, files around the sizes that matter, links, a fifo, names, modes, times.
fn make_tree(root: &Path) {
    let mut state = 7_u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    for folder in 0..12 {
        let folder = root.join(format!("folder-{folder}"));
        std::fs::create_dir(&folder).unwrap();
        for number in 0..40 {
            let size = match number % 4 {
                0 => random() % 300,
                1 => random() % 9000,
                2 => 4096 * (random() % 4),
                _ => random() % 200_000,
            };
            let data: Vec<u8> = (0..size).map(|_| random().to_le_bytes()[1]).collect();
            let path = folder.join(format!("{}-{number}", "n".repeat(number * 6)));
            std::fs::write(&path, data).unwrap();
            let mode = random() & 0o777 | 0o400;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::hard_link(folder.join("-0"), folder.join("hard")).unwrap();
        symlink("../folder-1/hard", folder.join("soft")).unwrap();
        symlink("s".repeat(3000), folder.join("long-soft")).unwrap();
    }
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    sparse.write_at(b"in the middle", 3_000_000).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    for (seconds, entry) in std::fs::read_dir(root).unwrap().enumerate() {
        let entry = entry.unwrap().path();
        if entry.is_dir() || entry.is_file() {
            let time = Duration::new(1_000_000_000 + seconds as u64, 123_456_789);
            File::open(&entry)
                .unwrap()
                .set_modified(UNIX_EPOCH + time)
                .unwrap();
        }
    }
}

/// What can be seen of an entry by anybody: type, mode, time, links, content.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    mtime: (i64, i64),
    links: u64,
    content: Vec<u8>,
}

fn list(root: &Path) -> BTreeMap<String, Seen> {
    let mut seen = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let status = path.symlink_metadata().unwrap();
        let mut content = Vec::new();
        if status.is_dir() {
            pending.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|one| one.unwrap().path()),
            );
        } else if status.is_symlink() {
            content = std::fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes();
        } else if !status.file_type().is_fifo() {
            content = std::fs::read(&path).unwrap();
        }
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        seen.insert(
            name,
            Seen {
                mode: status.mode(),
                mtime: (status.mtime(), status.mtime_nsec()),
                // The number of a directory's links is each file system's own matter.
                links: if status.is_dir() { 0 } else { status.nlink() },
                content,
            },
        );
    }
    seen
}

#[test]
fn fsck_extracts_what_gnu_tar_archived() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    make_tree(&source);
    let tar = run(Command::new("tar")
        .args(["-c", "--format=pax", "--sort=name", "--sparse", "-C"])
        .arg(&source)
        .arg("."));
    let (bytes, _) = unpack_blob(&tar, &tar, Compression::None).unwrap();
    let (path, target) = (folder.path().join("image"), folder.path().join("target"));
    std::fs::write(&path, bytes).unwrap();
    run(Command::new("fsck.erofs")
        .arg(format!("--extract={}", target.display()))
        .args(["--preserve-perms", "--no-preserve-owner"])
        .arg(&path));
    let (mut want, mut got) = (list(&source), list(&target));
    assert!(want.len() > 500);
    // fsck.erofs 1.5 leaves holes out and what is behind them moves up: Linux and our own reader
    // see the file as it was.
    let sparse = want.remove("sparse").unwrap().content;
    assert!(got.remove("sparse").is_some());
    // It copies hard links, too, and sets no times of links and of the root.
    for seen in want.values_mut().chain(got.values_mut()) {
        seen.links = 0;
        if seen.mode & 0o170_000 == 0o120_000 {
            seen.mtime = (0, 0);
        }
    }
    for (name, seen) in &want {
        assert!(got.get(name) == Some(seen), "{name}");
    }
    assert_eq!(want.len(), got.len());
    // The rest is seen by our own reader.
    let image = image_of(&tar);
    assert!(image.data("/sparse") == sparse);
    for folder in 0..12 {
        let hard = image.get(&format!("/folder-{folder}/hard"));
        assert_eq!(hard.links, 2);
        assert_eq!(hard.nid, image.get(&format!("/folder-{folder}/-0")).nid);
    }
    let time = list(&source)["folder-3/soft"].mtime;
    let soft = image.get("/folder-3/soft");
    assert_eq!((soft.mtime.0, i64::from(soft.mtime.1)), time);
}

#[test]
fn fsck_accepts_what_no_file_system_holds() {
    let device = tarball::Header {
        device: (4000, 1_000_000),
        ..tarball::Header::new(b'4', "disk")
    };
    let mut tar = Tar::new()
        .header(&device, b"")
        .file(".wh.gone", b"")
        .file("opaque/.wh..wh..opq", b"")
        .pax(&[
            ("SCHILY.xattr.user.long", &[b'v'; 60_000]),
            ("mtime", b"-5.5"),
        ])
        .file("implied/file", b"x")
        .long(b'K', "t".repeat(4095))
        .link(b'2', "long", "")
        .file("zeros", &vec![0; 1 << 20])
        .file("nothing", b"");
    for number in 0..3000 {
        tar = tar.file(format!("many/{number}"), &[]);
    }
    let tar = tar.end();
    let (bytes, _) = unpack_blob(&tar, &tar, Compression::None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, bytes).unwrap();
    run(Command::new("fsck.erofs").arg("--extract").arg(&path));
    let dump = run(Command::new("dump.erofs").arg("-s").arg(&path));
    let dump = String::from_utf8(dump).unwrap();
    let uuid = spec(&tar, &tar, Compression::None).diff_id;
    let digits: String = dump
        .lines()
        .find(|line| line.contains("UUID"))
        .and_then(|line| line.rsplit(' ').next())
        .unwrap_or_else(|| panic!("a UUID in {dump}"))
        .chars()
        .filter(|digit| *digit != '-')
        .collect();
    assert_eq!(digits, uuid[..32], "{dump}");
}
