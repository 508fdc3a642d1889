//! The container's processes, as `/proc` has them (proc(5)).
//!
//! Called by [`super`] in a child. It looks from outside of the container's PID namespace, so that
//! no process of it sees or reaches the child that looks; processes are told under their numbers
//! inside.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};

use protocol::frame;
use protocol::task::ProcessInfo;
use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::failure::{Context, Failure};
use crate::mount::Setup;
use crate::paths;
use crate::spawn::boottime_ns;

/// Processes that are told.
const PROCESSES_MAX: usize = 65_536;

/// Bytes that are read of a process's arguments, and of the numbers that are one line.
const FILE_MAX: usize = 4096;

/// Bytes that are read of a process's status. It has a line of all its groups, 65,536 at most, in
/// front of the line without which it is not told.
const STATUS_MAX: usize = 1 << 20;

/// Longest passwd file that names are looked up in, in bytes.
const PASSWD_MAX: usize = 1 << 20;

/// Clock ticks of a second in proc(5), on x86-64.
const TICKS: u64 = 100;

/// First and last major number of pseudoterminals, each with 256 of them.
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// A process as it was read; its relatives are numbers of the agent's namespace.
struct Raw {
    own: u32,
    parent: u32,
    info: ProcessInfo,
}

/// Tells every process of the container, by its number.
///
/// # Errors
/// What reading `/proc` says.
pub fn list(root: BorrowedFd<'_>, to: impl Write) -> Result<(), Failure> {
    let proc = Setup::new("proc", "proc")?.create(MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    let users = users(&paths::read(root, "/etc/passwd", PASSWD_MAX).unwrap_or_default());
    let now_ms = boottime_ns() / 1_000_000;
    let mut found = Vec::new();
    // What a mount is known by can't be read from itself.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let processes =
        openat(proc.as_fd(), ".", flags, Mode::empty()).context(|| "open /proc".into())?;
    for entry in Dir::read_from(&processes).context(|| "read /proc".into())? {
        let entry = entry.context(|| "read /proc".into())?;
        let name = entry.file_name().to_str().unwrap_or_default();
        if name.bytes().all(|byte| byte.is_ascii_digit())
            && found.len() < PROCESSES_MAX
            && let Some(raw) = one(proc.as_fd(), name, now_ms, &users)
        {
            found.push(raw);
        }
    }
    let inside: HashMap<u32, u32> = found.iter().map(|raw| (raw.own, raw.info.pid)).collect();
    found.sort_by_key(|raw| raw.info.pid);
    let mut to = BufWriter::new(to);
    for mut raw in found {
        raw.info.parent = inside.get(&raw.parent).copied().unwrap_or(0);
        let bytes = frame::encode(&raw.info).map_err(|error| Failure::other(error.to_string()))?;
        to.write_all(&bytes).context(|| "tell a process".into())?;
    }
    to.flush().context(|| "tell a process".into())
}

/// A process of the container; `None` for others, and for one that has just ended.
fn one(proc: BorrowedFd<'_>, name: &str, now_ms: u64, users: &HashMap<u32, String>) -> Option<Raw> {
    let text = |file: &str, max: usize| {
        let bytes = read(proc, &format!("{name}/{file}"), max).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let arguments = read(proc, &format!("{name}/cmdline"), FILE_MAX).ok()?;
    let (status, stat) = (text("status", STATUS_MAX)?, text("stat", FILE_MAX)?);
    let mut raw = parse(&status, &stat, &arguments, now_ms)?;
    if let Some(user) = users.get(&raw.info.uid) {
        raw.info.user.clone_from(user);
    }
    Some(raw)
}

/// The first `max` bytes of a file.
fn read(proc: BorrowedFd<'_>, path: &str, max: usize) -> Result<Vec<u8>, Errno> {
    let file = openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    let mut buffer = [0; FILE_MAX];
    while bytes.len() < max {
        match rustix::io::read(&file, &mut buffer)? {
            0 => break,
            len => bytes.extend_from_slice(buffer.get(..len).unwrap_or_default()),
        }
    }
    bytes.truncate(max);
    Ok(bytes)
}

/// Reads the three files of a process. Only one that is in a PID namespace below the agent's has more
/// than one number: the second is the container's, more are of namespaces that it made itself.
fn parse(status: &str, stat: &str, arguments: &[u8], now_ms: u64) -> Option<Raw> {
    let line = |key: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(value.split_ascii_whitespace())
    };
    let numbers: Vec<u32> = line("NSpid:")?
        .map_while(|word| word.parse().ok())
        .collect();
    let (own, pid) = match numbers.as_slice() {
        [own, pid, ..] => (*own, *pid),
        _ => return None,
    };
    let inner = |key: &str| line(key)?.nth(1)?.parse().ok();
    let uid: u32 = line("Uid:")?.nth(1)?.parse().ok()?;
    // The name is in brackets and may hold any character.
    let (front, rest) = stat.rsplit_once(')')?;
    let name = front.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |at: usize| fields.get(at)?.parse::<i64>().ok();
    let count = |at: usize| u64::try_from(field(at)?).ok();
    let ticks_ms = |ticks: u64| ticks.saturating_mul(1000 / TICKS);
    let command = match arguments.split(|byte| *byte == 0).next() {
        None | Some([]) => format!("[{name}]"),
        Some(_) => {
            let text = String::from_utf8_lossy(arguments);
            text.trim_end_matches('\0').replace('\0', " ")
        }
    };
    Some(Raw {
        own,
        parent: u32::try_from(field(1)?).ok()?,
        info: ProcessInfo {
            pid,
            parent: 0,
            group: inner("NSpgid:")?,
            session: inner("NSsid:")?,
            uid,
            user: uid.to_string(),
            state: fields.first()?.chars().next()?,
            terminal: terminal(u32::try_from(field(4)?).ok()?),
            cpu_ms: ticks_ms(count(11)?.saturating_add(count(12)?)),
            age_ms: now_ms.saturating_sub(ticks_ms(count(19)?)),
            virtual_bytes: count(20)?,
            resident_bytes: count(21)?.saturating_mul(4096),
            nice: i32::try_from(field(16)?).ok()?,
            threads: u32::try_from(field(17)?).ok()?,
            name,
            command,
        },
    })
}

/// The number of a pseudoterminal, by its device number.
fn terminal(device: u32) -> Option<u32> {
    let major = device >> 8 & 0xfff;
    let minor = device & 0xff | device >> 12 & 0xfff00;
    let first = PTS_MAJORS.start();
    PTS_MAJORS
        .contains(&major)
        .then(|| (major - first) * 256 + minor)
}

/// User names by number; the first line of a number counts.
fn users(passwd: &[u8]) -> HashMap<u32, String> {
    let mut users = HashMap::new();
    for line in String::from_utf8_lossy(passwd).lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(uid))) = (fields.next(), fields.nth(1).map(str::parse))
            && !name.is_empty()
        {
            users.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tsh\nUid:\t1000\t1001\t1000\t1000\nNSpid:\t200\t7\t1\n\
         NSpgid:\t200\t6\t1\nNSsid:\t200\t5\t0\n";
    const STAT: &str = "200 (a) (b) S 100 6 5 34817 7 4194560 1 2 3 4 150 50 0 0 20 0 3 0 1000 \
         2000000 500 18446744073709551615 1";

    #[test]
    fn a_process_is_read() {
        let raw = parse(STATUS, STAT, b"sh\0-c\0a b\0", 25_000).unwrap();
        assert_eq!((raw.own, raw.parent), (200, 100));
        let info = raw.info;
        assert_eq!((info.pid, info.group, info.session), (7, 6, 5));
        assert_eq!((info.uid, &*info.user), (1001, "1001"));
        assert_eq!((info.state, &*info.name), ('S', "a) (b"));
        assert_eq!((info.cpu_ms, info.age_ms), (2000, 15_000));
        assert_eq!(
            (info.virtual_bytes, info.resident_bytes),
            (2_000_000, 2_048_000)
        );
        assert_eq!((info.nice, info.threads, info.terminal), (0, 3, Some(1)));
        assert_eq!(info.command, "sh -c a b");
        let kernel = parse(STATUS, STAT, b"", 0).unwrap().info;
        assert_eq!((&*kernel.command, kernel.age_ms), ("[a) (b]", 0));
    }

    #[test]
    fn a_process_of_any_number_of_groups_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let groups: String = (0..65_536).map(|_| " 4294967294").collect();
        let status = STATUS.replace("NSpid:", &format!("Groups:\t{groups}\nNSpid:"));
        std::fs::create_dir(folder.path().join("200")).unwrap();
        let files: [(&str, &[u8]); 3] = [
            ("status", status.as_bytes()),
            ("stat", STAT.as_bytes()),
            ("cmdline", &[b'x'; 3 * FILE_MAX]),
        ];
        for (name, text) in files {
            std::fs::write(folder.path().join("200").join(name), text).unwrap();
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open(folder.path(), flags, Mode::empty()).unwrap();
        let raw = one(proc.as_fd(), "200", 0, &HashMap::new()).unwrap();
        assert_eq!((raw.own, raw.info.pid), (200, 7));
        assert_eq!(raw.info.command.len(), FILE_MAX);
    }

    #[test]
    fn processes_of_the_agents_own_are_left_out() {
        let own = STATUS.replace("200\t7\t1", "200");
        assert!(parse(&own, STAT, b"", 0).is_none());
        assert!(parse(STATUS, "200 sh S", b"", 0).is_none());
        assert!(parse("", "", b"", 0).is_none());
    }

    #[test]
    fn terminals_and_users_have_their_names() {
        assert_eq!(terminal(0), None);
        assert_eq!(terminal(136 << 8), Some(0));
        assert_eq!(terminal(137 << 8 | 4), Some(260));
        let users = users(b"root:x:0:0::/:/bin/sh\ntoor:x:0:0\n:x:5:5\nbad\nu:x:x:1\na:x:1:1");
        assert_eq!(users.len(), 2);
        assert_eq!((&*users[&0], &*users[&1]), ("root", "a"));
    }
}
