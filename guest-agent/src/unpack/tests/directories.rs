//! Layers as files of a directory, one over the other.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::process::{getgid, getuid};

use super::tarball::Header;
use super::*;

/// Puts layers into a directory; how many device nodes were left out.
fn put(root: &Path, layers: Vec<Tar>) -> Result<u64, UnpackError> {
    let directory = fs::File::open(root).unwrap();
    let scratch = tempfile::tempfile().unwrap();
    let mut left_out = 0;
    for layer in layers {
        let tar = layer.end();
        let blob = tempfile::tempfile().unwrap();
        blob.write_all_at(&tar, 0).unwrap();
        let spec = spec(&tar, &tar, Compression::None);
        left_out += into_directory(&blob, &scratch, directory.as_fd(), &spec)?;
    }
    Ok(left_out)
}

/// An entry of whoever runs the tests: another owner takes root.
fn own(kind: u8, path: &str, link: &str, mode: u32) -> Header {
    Header {
        link: link.into(),
        mode,
        uid: getuid().as_raw(),
        gid: getgid().as_raw(),
        mtime: 1_000_000_000,
        ..Header::new(kind, path)
    }
}

trait Owned {
    fn own_file(self, path: &str, data: &[u8]) -> Self;
    fn own_dir(self, path: &str) -> Self;
    fn own_link(self, kind: u8, path: &str, target: &str) -> Self;
}

impl Owned for Tar {
    fn own_file(self, path: &str, data: &[u8]) -> Self {
        self.header(&own(b'0', path, "", 0o640), data)
    }
    fn own_dir(self, path: &str) -> Self {
        self.header(&own(b'5', path, "", 0o755), b"")
    }
    fn own_link(self, kind: u8, path: &str, target: &str) -> Self {
        self.header(&own(kind, path, target, 0o777), b"")
    }
}

#[test]
fn files_are_as_the_layer_says() {
    let root = tempfile::tempdir().unwrap();
    let mut big = vec![7; 200_000];
    big.extend([0; 300_000]);
    let layer = Tar::new()
        .own_dir("./")
        .own_dir("d/")
        .own_file("d/small", b"some text")
        .own_file("d/empty", b"")
        .own_file("d/big", &big)
        .own_link(b'1', "d/same", "d/small")
        .own_link(b'2', "d/link", "/etc/passwd")
        .own_link(b'6', "d/pipe", "");
    assert_eq!(put(root.path(), vec![layer]).unwrap(), 0);
    let at = |name: &str| root.path().join("d").join(name);
    assert_eq!(fs::read(at("small")).unwrap(), b"some text");
    assert_eq!(fs::read(at("big")).unwrap(), big);
    assert_eq!(fs::read(at("empty")).unwrap(), b"");
    let (small, same) = (
        fs::metadata(at("small")).unwrap(),
        fs::metadata(at("same")).unwrap(),
    );
    assert_eq!((small.ino(), small.nlink()), (same.ino(), 2));
    assert_eq!(small.permissions().mode() & 0o7777, 0o640);
    assert_eq!(small.mtime(), 1_000_000_000);
    assert_eq!(
        fs::metadata(root.path().join("d")).unwrap().mtime(),
        1_000_000_000
    );
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("/etc/passwd"));
}

#[test]
fn a_layer_removes_and_replaces_what_lies_below() {
    let root = tempfile::tempdir().unwrap();
    let lower = Tar::new()
        .own_dir("./")
        .own_dir("gone/")
        .own_dir("gone/a/")
        .own_file("gone/a/b", b"1")
        .own_dir("hidden/")
        .own_file("hidden/old", b"1")
        .own_dir("kept/")
        .own_file("kept/old", b"1")
        .own_dir("becomes-file/")
        .own_file("becomes-file/x", b"1")
        .own_file("becomes-dir", b"1");
    let upper = Tar::new()
        .own_file(".wh.gone", b"")
        .own_dir("hidden/")
        .own_file("hidden/.wh..wh..opq", b"")
        .own_file("hidden/new", b"2")
        .own_file("kept/new", b"2")
        .own_file("becomes-file", b"2")
        .own_dir("becomes-dir/");
    put(root.path(), vec![lower, upper]).unwrap();
    let at = |name: &str| root.path().join(name);
    assert!(!at("gone").exists());
    let names = |name: &str| {
        let entries = fs::read_dir(at(name)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("hidden"), ["new"]);
    assert_eq!(names("kept"), ["new", "old"]);
    assert_eq!(fs::read(at("becomes-file")).unwrap(), b"2");
    assert!(at("becomes-dir").is_dir());
}

#[test]
fn no_link_of_a_lower_layer_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    let root = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    fs::write(outside.path().join("old"), b"1").unwrap();
    let lower =
        Tar::new()
            .own_link(b'2', "way", target)
            .own_link(b'2', "file", &format!("{target}/old"));
    let upper = Tar::new()
        .own_dir("way/")
        .own_file("way/new", b"2")
        .own_file("way/.wh..wh..opq", b"")
        .own_file("file", b"2");
    put(root.path(), vec![lower, upper]).unwrap();
    assert_eq!(fs::read(outside.path().join("old")).unwrap(), b"1");
    assert!(!outside.path().join("new").exists());
    assert_eq!(fs::read(root.path().join("way/new")).unwrap(), b"2");
}

#[test]
fn trees_of_any_depth_are_removed() {
    let root = tempfile::tempdir().unwrap();
    let mut lower = Tar::new().own_dir("top/");
    for depth in 1..500 {
        let path = format!("top/{}", "d/".repeat(depth));
        lower = lower.long(b'L', path).own_dir("x/");
    }
    let upper = Tar::new().own_file(".wh.top", b"");
    put(root.path(), vec![lower, upper]).unwrap();
    assert!(!root.path().join("top").exists());
}

#[test]
fn devices_are_left_out_and_counted() {
    let root = tempfile::tempdir().unwrap();
    let device = Header {
        device: (1, 3),
        ..own(b'3', "null", "", 0o666)
    };
    let layer = Tar::new().header(&device, b"").own_file("a", b"1");
    assert_eq!(put(root.path(), vec![layer]).unwrap(), 1);
    assert!(!root.path().join("null").exists() && root.path().join("a").exists());
}
