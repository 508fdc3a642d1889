//! What the host makes of any archive that a guest sends for `cp`: files beneath the destination or
//! nothing. Beside it lies a file that nothing may reach, and in it a link that leads there.
#![no_main]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use bulkhead_fuzz::Input;
use bulkhead_fuzz::archive::archive;
use libfuzzer_sys::fuzz_target;

/// The command is no library, and this part of it needs none of the rest.
#[allow(dead_code)]
#[path = "../../../src/sandbox/receive.rs"]
mod receive;

use receive::Owners;

const NAMES: [&[u8]; 10] = [
    b"top",
    b"top/a",
    b"top/b",
    b"link",
    b"outside",
    b".",
    b"..",
    b"",
    b"/",
    &[b'n'; 255],
];

/// Everything below a folder: no device, and no set-user-ID bit.
fn check(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.metadata().expect("look at a file");
        let kind = found.file_type();
        let device = std::os::unix::fs::FileTypeExt::is_char_device(&kind)
            || std::os::unix::fs::FileTypeExt::is_block_device(&kind);
        assert!(!device);
        assert!(kind.is_symlink() || found.permissions().mode() & 0o6000 == 0);
        if kind.is_dir() {
            check(&entry.path());
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let archive = archive(&mut input, &NAMES);
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let folder = folder.expect("a folder");
    let (target, outside) = (folder.path().join("target"), folder.path().join("outside"));
    for path in [&target, &outside] {
        fs::create_dir(path).expect("make a folder");
    }
    let secret = outside.join("a");
    fs::write(&secret, "secret").expect("write");
    symlink("../outside", target.join("link")).expect("link");
    let place = File::open(&target).expect("open");
    for name in [Some("name"), Some("link"), None] {
        let name = name.map(OsStr::new);
        let _ = receive::receive(&place, "top", name, Owners::Own, &*archive);
    }
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 1);
    assert_eq!(fs::read(&secret).expect("read"), b"secret");
    assert_eq!(fs::metadata(&secret).expect("look").nlink(), 1);
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 2);
    check(&target);
});
