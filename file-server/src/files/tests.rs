//! Requests on real folders: what a guest can do, and what it can't reach.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create, openat};

use super::*;
use crate::area::Area;
use crate::nodes::ROOT;
use crate::server::{SLOT_BYTES, answer};

/// A folder that is shared, beside one that is not.
struct Guest {
    folder: tempfile::TempDir,
    files: Files,
    area: Area,
}

/// What a request was answered with.
type Answer = Result<Vec<u8>, Errno>;

const LOOKUP: u32 = 1;
const READLINK: u32 = 5;
const SYMLINK: u32 = 6;
const MKNOD: u32 = 8;
const UNLINK: u32 = 10;
const RENAME: u32 = 12;
const LINK: u32 = 13;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const SETXATTR: u32 = 21;
const GETXATTR: u32 = 22;
const LISTXATTR: u32 = 23;
const REMOVEXATTR: u32 = 24;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const CREATE: u32 = 35;
const FALLOCATE: u32 = 43;
const READDIRPLUS: u32 = 44;
const COPY_FILE_RANGE: u32 = 47;
const SYNCFS: u32 = 50;
const TMPFILE: u32 = 51;

impl Guest {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["share", "outside"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("outside/secret"), "secret").unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, folder.path().join("share"), flags, Mode::empty()).unwrap();
        let area = File::from(memfd_create("area", MemfdFlags::CLOEXEC).unwrap());
        area.set_len(SLOT_BYTES as u64).unwrap();
        Self {
            files: Files::new(root, "/proc/self/fd").unwrap(),
            area: Area::map(&area, 1, SLOT_BYTES).unwrap(),
            folder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("share").join(name)
    }

    fn ask(&self, opcode: u32, node: u64, body: &[u8]) -> Answer {
        let mut writer = Writer::new();
        let len = wire::IN_HEADER_BYTES + body.len();
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        writer
            .u32(u32::try_from(len).unwrap())
            .u32(opcode)
            .u64(9)
            .u64(node)
            .u32(uid.as_raw())
            .u32(gid.as_raw())
            .u64(0)
            .bytes(body);
        let slot = self.area.slot(0).unwrap();
        slot.write(0, &writer.into_bytes()).unwrap();
        let len = answer(&self.files, slot, len, SLOT_BYTES);
        let reply = slot.read(len).unwrap();
        if reply.is_empty() {
            return Ok(reply);
        }
        let (header, body) = reply.split_at(OUT_HEADER_BYTES);
        assert_eq!(header[..4], u32::try_from(len).unwrap().to_le_bytes());
        assert_eq!(header[8..], 9_u64.to_le_bytes());
        match i32::from_le_bytes(header[4..8].try_into().unwrap()) {
            0 => Ok(body.to_vec()),
            errno => Err(Errno::from_raw_os_error(-errno)),
        }
    }

    /// Looks a name up; its node.
    fn look(&self, node: u64, name: &str) -> Result<u64, Errno> {
        self.ask(LOOKUP, node, &text(name))
            .map(|entry| number(&entry))
    }

    fn open(&self, node: u64, flags: OFlags) -> Result<u64, Errno> {
        let mut body = Writer::new();
        body.u32(flags.bits()).u32(0);
        self.ask(OPEN, node, &body.into_bytes())
            .map(|out| number(&out))
    }

    fn read(&self, handle: u64, offset: u64, size: u32) -> Answer {
        let mut body = Writer::new();
        body.u64(handle).u64(offset).u32(size).bytes(&[0; 20]);
        self.ask(READ, ROOT, &body.into_bytes())
    }

    fn write(&self, handle: u64, offset: u64, flags: OFlags, data: &[u8]) -> Answer {
        let mut body = Writer::new();
        let len = u32::try_from(data.len()).unwrap();
        body.u64(handle).u64(offset).u32(len).u32(0).u64(0);
        body.u32(flags.bits()).u32(0).bytes(data);
        self.ask(WRITE, ROOT, &body.into_bytes())
    }

    /// One piece of a directory, of so many bytes: names, and where the next one begins.
    fn piece(&self, opcode: u32, handle: u64, offset: u64, size: u32) -> (Vec<String>, u64) {
        let mut body = Writer::new();
        body.u64(handle).u64(offset).u32(size).bytes(&[0; 20]);
        let reply = self.ask(opcode, ROOT, &body.into_bytes()).unwrap();
        assert!(reply.len() <= size as usize);
        let (mut names, mut next) = (Vec::new(), offset);
        let mut rest = reply.as_slice();
        while !rest.is_empty() {
            let entry = if opcode == READDIRPLUS {
                &rest[128..]
            } else {
                rest
            };
            next = number(&entry[8..]);
            let len = u32::from_le_bytes(entry[16..20].try_into().unwrap()) as usize;
            names.push(String::from_utf8(entry[24..24 + len].to_vec()).unwrap());
            let whole = rest.len() - entry.len() + (24 + len).next_multiple_of(8);
            rest = &rest[whole..];
        }
        (names, next)
    }

    /// Names in the root, read in pieces of so many bytes.
    fn list(&self, opcode: u32, size: u32) -> Vec<String> {
        let handle = number(&self.ask(OPENDIR, ROOT, &[0; 8]).unwrap());
        let (mut names, mut offset) = (Vec::<String>::new(), 0);
        loop {
            let (found, next) = self.piece(opcode, handle, offset, size);
            if found.is_empty() {
                names.retain(|name| !matches!(name.as_str(), "." | ".."));
                names.sort();
                return names;
            }
            names.extend(found);
            offset = next;
        }
    }
}

fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

fn content(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_file_is_created_written_and_read() {
    let guest = Guest::new();
    let mut body = Writer::new();
    body.u32((OFlags::RDWR | OFlags::CREATE).bits())
        .u32(0o100_640)
        .u32(0)
        .u32(0);
    let body = [body.into_bytes(), text("new")].concat();
    let made = guest.ask(CREATE, ROOT, &body).unwrap();
    let handle = number(&made[128..]);
    assert_eq!(
        guest.write(handle, 3, OFlags::empty(), b"data").unwrap()[0],
        4
    );
    assert_eq!(guest.read(handle, 0, 100).unwrap(), b"\0\0\0data");
    assert_eq!(
        guest.write(handle, 0, OFlags::APPEND, b"end").unwrap()[0],
        3
    );
    assert_eq!(content(&guest.path("new")), "\0\0\0dataend");
    let mode = fs::metadata(guest.path("new"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o640);
    // Once more, without O_EXCL: the file that is there.
    let again = guest.ask(CREATE, ROOT, &body).unwrap();
    assert_eq!(number(&again), number(&made));
}

#[test]
fn attributes_are_kept_and_acls_are_none_here() {
    let guest = Guest::new();
    fs::write(guest.path("file"), "").unwrap();
    let file = guest.look(ROOT, "file").unwrap();
    let sized = |size: u32, name: &str, value: &[u8]| {
        let name = if name.is_empty() {
            Vec::new()
        } else {
            text(name)
        };
        [&size.to_le_bytes(), &[0; 4], &*name, value].concat()
    };
    // One that the host has.
    let acl = "system.posix_acl_access";
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [(1_u16, 6_u16, u32::MAX), (2, 4, 7), (4, 4, u32::MAX)] {
        bytes.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    for (tag, permissions) in [(0x10_u16, 4_u16), (0x20, 4)] {
        bytes.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        bytes.extend(u32::MAX.to_le_bytes());
    }
    setxattr(guest.path("file"), acl, &bytes, XattrFlags::empty())
        .expect("this test needs a file system with ACLs");
    let len = u32::try_from(bytes.len()).unwrap();
    for (opcode, body) in [
        (SETXATTR, sized(len, acl, &bytes)),
        (GETXATTR, sized(100, acl, b"")),
        (REMOVEXATTR, text("system.posix_acl_default")),
    ] {
        let answer = guest.ask(opcode, file, &body);
        assert_eq!(answer, Err(Errno::OPNOTSUPP), "{opcode}");
    }
    guest
        .ask(SETXATTR, file, &sized(1, "user.a/b", b"x"))
        .expect("this test needs a file system with attributes of users");
    let get = sized(100, "user.a/b", b"");
    assert_eq!(guest.ask(GETXATTR, file, &get).unwrap(), b"x");
    let list = |size: u32| guest.ask(LISTXATTR, file, &sized(size, "", b""));
    assert_eq!(list(100).unwrap(), b"user.a/b\0");
    assert_eq!(list(0).unwrap()[..4], 9_u32.to_le_bytes());
    assert_eq!(list(8), Err(Errno::RANGE));
    guest.ask(REMOVEXATTR, file, &text("user.a/b")).unwrap();
    assert_eq!(list(100).unwrap(), b"");
}

#[test]
fn links_are_text_and_lead_nowhere() {
    let guest = Guest::new();
    let outside = guest.folder.path().join("outside/secret");
    symlink(&outside, guest.path("absolute")).unwrap();
    symlink("../outside/secret", guest.path("relative")).unwrap();
    symlink("../outside", guest.path("folder")).unwrap();
    symlink("/proc/self/fd/0", guest.path("magic")).unwrap();
    for name in ["absolute", "relative", "folder", "magic"] {
        let node = guest.look(ROOT, name).unwrap();
        assert_eq!(guest.open(node, OFlags::RDONLY), Err(Errno::LOOP), "{name}");
        assert_eq!(guest.look(node, "secret"), Err(Errno::NOTDIR), "{name}");
        assert_eq!(guest.ask(OPENDIR, node, &[0; 8]), Err(Errno::NOTDIR));
        let mut body = Writer::new();
        body.u32((OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC).bits());
        body.u32(0o644).u32(0).u32(0);
        let body = [body.into_bytes(), text(name)].concat();
        assert_eq!(guest.ask(CREATE, ROOT, &body), Err(Errno::LOOP), "{name}");
    }
    let node = guest.look(ROOT, "relative").unwrap();
    assert_eq!(
        guest.ask(READLINK, node, b"").unwrap(),
        b"../outside/secret"
    );
    assert_eq!(content(&outside), "secret");
}

#[test]
fn names_do_not_lead_out_of_their_folder() {
    let guest = Guest::new();
    fs::write(guest.path("file"), "").unwrap();
    for name in [
        "..",
        ".",
        "../outside",
        "../outside/secret",
        "/etc/passwd",
        "",
    ] {
        assert_eq!(guest.look(ROOT, name), Err(Errno::INVAL), "{name}");
        assert_eq!(guest.ask(UNLINK, ROOT, &text(name)), Err(Errno::INVAL));
        let link = [text(name), text("target")].concat();
        assert_eq!(guest.ask(SYMLINK, ROOT, &link), Err(Errno::INVAL), "{name}");
        let rename = [ROOT.to_le_bytes().to_vec(), text("file"), text(name)].concat();
        assert_eq!(
            guest.ask(RENAME, ROOT, &rename),
            Err(Errno::INVAL),
            "{name}"
        );
    }
    assert_eq!(fs::read_dir(guest.folder.path()).unwrap().count(), 2);
    assert_eq!(
        fs::read_dir(guest.folder.path().join("outside"))
            .unwrap()
            .count(),
        1
    );
}

#[test]
fn a_folder_that_becomes_a_link_is_still_the_folder() {
    let guest = Guest::new();
    fs::create_dir(guest.path("folder")).unwrap();
    let node = guest.look(ROOT, "folder").unwrap();
    fs::rename(guest.path("folder"), guest.path("moved")).unwrap();
    symlink("../outside", guest.path("folder")).unwrap();
    assert_eq!(guest.look(node, "secret"), Err(Errno::NOENT));
    let mut body = Writer::new();
    body.u32((OFlags::WRONLY | OFlags::CREATE).bits())
        .u32(0o644)
        .u32(0)
        .u32(0);
    let body = [body.into_bytes(), text("made")].concat();
    guest.ask(CREATE, node, &body).unwrap();
    assert!(guest.path("moved/made").exists());
    assert!(!guest.folder.path().join("outside/made").exists());
}

#[test]
fn devices_are_not_made_and_pipes_are_not_opened() {
    let guest = Guest::new();
    for (mode, wanted) in [
        (0o020_666, Err(Errno::PERM)),
        (0o060_666, Err(Errno::PERM)),
        (0o040_755, Err(Errno::PERM)),
        (0o120_777, Err(Errno::PERM)),
        (0o010_644, Ok(())),
        (0o140_644, Ok(())),
        (0o100_644, Ok(())),
    ] {
        let mut body = Writer::new();
        body.u32(mode).u32(0x103).u32(0).u32(0);
        let body = [body.into_bytes(), text(&format!("n{mode:o}"))].concat();
        assert_eq!(guest.ask(MKNOD, ROOT, &body).map(drop), wanted, "{mode:o}");
    }
    for name in ["n10644", "n140644"] {
        let node = guest.look(ROOT, name).unwrap();
        assert_eq!(guest.open(node, OFlags::RDONLY), Err(Errno::NXIO), "{name}");
    }
}

#[test]
fn a_node_is_one_for_all_its_names_until_it_is_forgotten() {
    let guest = Guest::new();
    fs::write(guest.path("a"), "").unwrap();
    fs::hard_link(guest.path("a"), guest.path("b")).unwrap();
    let node = guest.look(ROOT, "a").unwrap();
    assert_eq!(guest.look(ROOT, "b").unwrap(), node);
    assert_eq!(guest.files.node_count(), 2);
    assert_eq!(guest.ask(2, node, &1_u64.to_le_bytes()), Ok(Vec::new()));
    assert_eq!(guest.files.node_count(), 2);
    guest.ask(2, node, &u64::MAX.to_le_bytes()).unwrap();
    assert_eq!(guest.files.node_count(), 1);
    assert_eq!(guest.open(node, OFlags::RDONLY), Err(Errno::STALE));
    // The root stays whatever is said of it.
    guest.ask(2, ROOT, &u64::MAX.to_le_bytes()).unwrap();
    assert!(guest.look(ROOT, "a").is_ok());
}

#[test]
fn handles_are_of_their_kind_and_end() {
    let guest = Guest::new();
    fs::write(guest.path("file"), "data").unwrap();
    let node = guest.look(ROOT, "file").unwrap();
    let file = guest.open(node, OFlags::RDONLY).unwrap();
    let directory = number(&guest.ask(OPENDIR, ROOT, &[0; 8]).unwrap());
    assert_eq!(guest.read(directory, 0, 10), Err(Errno::BADF));
    let mut body = Writer::new();
    body.u64(file).u64(0).u32(4096).bytes(&[0; 20]);
    assert_eq!(
        guest.ask(READDIR, ROOT, &body.into_bytes()),
        Err(Errno::BADF)
    );
    assert_eq!(
        guest.write(file, 0, OFlags::empty(), b"x"),
        Err(Errno::BADF)
    );
    let release = [file.to_le_bytes().to_vec(), vec![0; 16]].concat();
    guest.ask(18, node, &release).unwrap();
    assert_eq!(guest.read(file, 0, 10), Err(Errno::BADF));
    assert_eq!(guest.read(u64::MAX, 0, 10), Err(Errno::BADF));
}

#[test]
fn a_directory_is_read_in_pieces() {
    let guest = Guest::new();
    let mut names: Vec<String> = (0..500).map(|number| format!("file{number}")).collect();
    for name in &names {
        fs::write(guest.path(name), "").unwrap();
    }
    names.sort();
    assert_eq!(guest.list(READDIR, 300), names);
    assert_eq!(guest.list(READDIR, 65_536), names);
    assert_eq!(guest.files.node_count(), 1);
    assert_eq!(guest.list(READDIRPLUS, 4096), names);
    assert_eq!(guest.files.node_count(), 501);
}

#[test]
fn reads_and_offsets_beyond_all_bounds_are_bounded() {
    let guest = Guest::new();
    fs::write(guest.path("file"), "data").unwrap();
    let node = guest.look(ROOT, "file").unwrap();
    let file = guest.open(node, OFlags::RDWR).unwrap();
    assert_eq!(guest.read(file, 0, u32::MAX).unwrap(), b"data");
    assert_eq!(guest.read(file, u64::MAX, 1), Err(Errno::INVAL));
    assert_eq!(guest.read(file, 4, 10).unwrap(), b"");
    assert_eq!(
        guest.write(file, u64::MAX, OFlags::empty(), b"x"),
        Err(Errno::INVAL)
    );
}

#[test]
fn a_reply_without_room_is_an_error() {
    let guest = Guest::new();
    fs::write(guest.path("file"), "data").unwrap();
    let mut writer = Writer::new();
    writer
        .u32(45)
        .u32(LOOKUP)
        .u64(9)
        .u64(ROOT)
        .u64(0)
        .u64(0)
        .bytes(b"file\0");
    let bytes = writer.into_bytes();
    let slot = guest.area.slot(0).unwrap();
    for (room, len) in [(0, 0), (15, 0), (16, 16), (100, 16)] {
        slot.write(0, &bytes).unwrap();
        assert_eq!(answer(&guest.files, slot, 45, room), len, "{room}");
    }
}

#[test]
fn attributes_are_set() {
    let guest = Guest::new();
    fs::write(guest.path("file"), "0123456789").unwrap();
    let node = guest.look(ROOT, "file").unwrap();
    let mut body = Writer::new();
    let valid = valid::MODE | valid::SIZE | valid::MTIME;
    body.u32(valid)
        .u32(0)
        .u64(0)
        .u64(4)
        .u64(0)
        .u64(0)
        .u64(981_173_106)
        .u64(0);
    body.u32(0)
        .u32(5)
        .u32(0)
        .u32(0o100_604)
        .u32(0)
        .u32(0)
        .u32(0)
        .u32(0);
    let reply = guest.ask(4, node, &body.into_bytes()).unwrap();
    assert_eq!(reply.len(), 104);
    let metadata = fs::metadata(guest.path("file")).unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o7777), (4, 0o604));
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (981_173_106, 5));
}

#[test]
fn entries_that_go_meanwhile_hide_no_others() {
    let guest = Guest::new();
    let names: Vec<String> = (0..400)
        .map(|n| format!("a-name-of-some-length-{n:03}"))
        .collect();
    for name in &names {
        fs::write(guest.path(name), "").unwrap();
    }
    let handle = number(&guest.ask(OPENDIR, ROOT, &[0; 8]).unwrap());
    let mut seen = Vec::new();
    let mut offset = 0;
    loop {
        let (found, next) = guest.piece(READDIRPLUS, handle, offset, 4096);
        if found.is_empty() {
            break;
        }
        for name in found.iter().filter(|name| name.starts_with('a')) {
            fs::remove_file(guest.path(name)).unwrap();
        }
        seen.extend(found);
        offset = next;
    }
    seen.retain(|name| name.starts_with('a'));
    seen.sort();
    assert_eq!(seen, names);
}

#[test]
fn a_directory_is_read_again_from_any_place() {
    let guest = Guest::new();
    for number in 0..100 {
        fs::write(guest.path(&format!("file{number}")), "").unwrap();
    }
    let handle = number(&guest.ask(OPENDIR, ROOT, &[0; 8]).unwrap());
    let (first, place) = guest.piece(READDIR, handle, 0, 1000);
    let (second, _) = guest.piece(READDIR, handle, place, 1000);
    assert!(first.iter().all(|name| !second.contains(name)));
    // As rewinddir(3) and seekdir(3) do.
    assert_eq!(guest.piece(READDIR, handle, 0, 1000).0, first);
    assert_eq!(guest.piece(READDIR, handle, 0, 1000).0, first);
    assert_eq!(guest.piece(READDIR, handle, place, 1000).0, second);
}

#[test]
fn a_name_that_was_taken_away_is_looked_up_again_by_who_writes() {
    let guest = Guest::new();
    fs::write(guest.path("a"), "old").unwrap();
    let node = guest.look(ROOT, "a").unwrap();
    fs::remove_file(guest.path("a")).unwrap();
    assert_eq!(guest.open(node, OFlags::WRONLY), Err(Errno::STALE));
    // Reading is what a name that is remembered is good for, and a descriptor has no name.
    guest.open(node, OFlags::RDONLY).unwrap();
    guest.open(node, OFlags::WRONLY).unwrap();
    assert_eq!(guest.open(node, OFlags::RDWR), Err(Errno::STALE));
}

#[test]
fn a_file_without_a_name_gets_one() {
    let guest = Guest::new();
    let mut body = Writer::new();
    body.u32((OFlags::TMPFILE | OFlags::RDWR).bits())
        .u32(0o100_640);
    body.u32(0).u32(0).bytes(&text("/"));
    let reply = guest.ask(TMPFILE, ROOT, &body.into_bytes()).unwrap();
    let (node, handle) = (number(&reply), number(&reply[128..]));
    guest.write(handle, 0, OFlags::RDWR, b"data").unwrap();
    assert_eq!(fs::read_dir(guest.path("")).unwrap().count(), 0);
    let mut body = Writer::new();
    body.u64(node).bytes(&text("named"));
    guest.ask(LINK, ROOT, &body.into_bytes()).unwrap();
    assert_eq!(content(&guest.path("named")), "data");
    let mode = fs::metadata(guest.path("named")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o640);
}

/// `FUSE_FALLOCATE` and `FUSE_COPY_FILE_RANGE` say nothing of it. For root, who could keep the bits.
#[test]
fn what_changes_a_content_takes_set_user_id_away() {
    let guest = Guest::new();
    for name in ["allocated", "copied"] {
        fs::write(guest.path(name), "data").unwrap();
        let mode = fs::Permissions::from_mode(0o4775);
        fs::set_permissions(guest.path(name), mode).unwrap();
    }
    fs::write(guest.path("from"), "other").unwrap();
    let open = |name: &str, flags| {
        let node = guest.look(ROOT, name).unwrap();
        guest.open(node, flags).unwrap()
    };
    let (allocated, copied) = (
        open("allocated", OFlags::RDWR),
        open("copied", OFlags::RDWR),
    );
    let from = open("from", OFlags::RDONLY);
    let mut body = Writer::new();
    body.u64(allocated).u64(0).u64(100).u32(0).u32(0);
    guest.ask(FALLOCATE, ROOT, &body.into_bytes()).unwrap();
    let mut body = Writer::new();
    body.u64(from)
        .u64(0)
        .u64(0)
        .u64(copied)
        .u64(0)
        .u64(5)
        .u64(0);
    guest
        .ask(COPY_FILE_RANGE, ROOT, &body.into_bytes())
        .unwrap();
    for name in ["allocated", "copied"] {
        let mode = fs::metadata(guest.path(name)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o775, "{name}");
    }
    assert_eq!(content(&guest.path("copied")), "other");
}

#[test]
fn files_of_the_root_are_flushed_and_nothing_else_is_opened() {
    let guest = Guest::new();
    fs::write(guest.path("file"), "data").unwrap();
    fs::create_dir(guest.path("folder")).unwrap();
    symlink("nowhere", guest.path("link")).unwrap();
    // Opening it would wait for a writer.
    let (fifo, mode) = (guest.path("fifo"), Mode::from_raw_mode(0o600));
    mknodat(CWD, fifo, FileType::Fifo, mode, 0).unwrap();
    assert_eq!(guest.ask(SYNCFS, ROOT, &[0; 8]), Ok(Vec::new()));
}
