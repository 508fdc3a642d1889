//! FUSE requests of a hostile guest, on a real folder beside one that is not shared: nothing outside
//! changes, and every reply is one.
#![no_main]

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;

use file_server::area::Area;
use file_server::files::Files;
use file_server::server::{SLOT_BYTES, answer};
use file_server::wire::{IN_HEADER_BYTES, OUT_HEADER_BYTES, parse};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, ftruncate, memfd_create, openat};

/// Requests of one input.
const REQUESTS_MAX: usize = 32;

/// Room that is offered for a reply.
const ROOM: usize = 65_536;

fn area() -> &'static Area {
    static AREA: OnceLock<Area> = OnceLock::new();
    AREA.get_or_init(|| {
        let memory = memfd_create("area", MemfdFlags::CLOEXEC).expect("a memory file");
        ftruncate(&memory, SLOT_BYTES as u64).expect("a size");
        Area::map(memory.as_fd(), 1, SLOT_BYTES).expect("a mapping")
    })
}

/// The folder, made anew for each input.
fn make(folder: &Path) -> Files {
    let share = folder.join("share");
    fs::create_dir_all(share.join("d")).expect("a folder");
    fs::create_dir_all(folder.join("outside")).expect("a folder");
    fs::write(folder.join("outside/secret"), "secret").expect("a file");
    fs::write(share.join("f"), "content").expect("a file");
    std::os::unix::fs::symlink("../outside/secret", share.join("l")).expect("a link");
    std::os::unix::fs::symlink("../outside", share.join("m")).expect("a link");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, &share, flags, Mode::empty()).expect("the folder");
    Files::new(root, "/proc/self/fd").expect("a server")
}

// Each piece, after two bytes of its length, is the request behind `len`, which is set right.
fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let files = make(folder.path());
    let slot = area().slot(0).expect("a slot");
    let mut rest = bytes;
    for _ in 0..REQUESTS_MAX {
        let Some((len, more)) = rest.split_first_chunk::<2>() else {
            break;
        };
        let len = usize::from(u16::from_le_bytes(*len)).min(more.len());
        let (piece, more) = more.split_at(len);
        rest = more;
        let total = (piece.len() + 4) as u32;
        let request = [&total.to_le_bytes(), piece].concat();
        let _ = parse(&request, request.len());
        slot.write(0, &request).expect("a request fits");
        let len = answer(&files, slot, request.len(), ROOM);
        assert!(len <= ROOM);
        assert!(len == 0 || (OUT_HEADER_BYTES..=ROOM).contains(&len));
        if len > 0 {
            assert!(request.len() >= IN_HEADER_BYTES);
            let reply = slot.read(len).expect("a reply");
            assert_eq!(reply[..4], (len as u32).to_le_bytes());
            assert_eq!(reply[8..16], request[8..16]);
        }
    }
    let secret = fs::read_to_string(folder.path().join("outside/secret"));
    assert_eq!(secret.expect("it is there"), "secret");
    let count = |path: &Path| fs::read_dir(path).expect("a folder").count();
    assert_eq!(count(folder.path()), 2);
    assert_eq!(count(&folder.path().join("outside")), 1);
});
