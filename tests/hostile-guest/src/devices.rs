//! Requests that break each device's own rules (virtio 1.2 sections 5.1 to 5.11), on rings that
//! keep theirs.

use crate::machine::{RAM_END, Random, SCRATCH, fill, put, read, write};
use crate::say;
use crate::virtio::{BALLOON, BLOCK, CONSOLE, Device, FILES, NET, NEXT, Queue, RNG, WRITE};

const RINGS: u64 = SCRATCH;
const HEADER: u64 = SCRATCH + (1 << 20);
const DATA: u64 = SCRATCH + (2 << 20);
const STATUS: u64 = SCRATCH + (1 << 20) + 0x1000;

/// Sends the chain that was written; a device that broke is brought up again.
fn send(queue: &mut Queue) {
    if !queue.send() {
        again(queue);
    }
}

fn again(queue: &mut Queue) {
    if let Some(fresh) = queue.device.bring_up(RINGS)[queue.index as usize] {
        *queue = fresh;
    }
}

/// All devices but vsock and files, which have modes of their own.
pub fn bad_requests(random: &Random) {
    for device in Device::all() {
        let queues = device.bring_up(RINGS);
        match (device.kind, queues) {
            (BLOCK, [Some(queue), ..]) => block(queue, random),
            (NET, [_, Some(transmit), ..]) => frames(transmit, random),
            (RNG, [Some(queue), ..]) => entropy(queue),
            (BALLOON, [Some(queue), ..]) => balloon(device, queue, random),
            (CONSOLE, [_, Some(queue), ..]) => console(queue, random),
            _ => {}
        }
        device.reset();
    }
}

/// Bit of a disk that can't be written to (virtio 1.2 section 5.2.3).
const READ_ONLY: u32 = 1 << 5;

/// A disk, and what it answered.
struct Disk {
    queue: Queue,
    sectors: u64,
    read_only: bool,
    done: u32,
    refused: u32,
    /// Of those that would write, where nothing may be.
    writes_refused: u32,
    /// Done though no disk may do it.
    wrong: u32,
}

impl Disk {
    /// Sends a request, which may be done or must not be.
    fn ask(&mut self, chain: &[(u64, u32, bool)], may: bool, would_write: bool) {
        write(STATUS, 1, 0xaa);
        self.queue.chain(chain);
        send(&mut self.queue);
        match read(STATUS, 1) {
            0 => {
                self.done += 1;
                if !may {
                    self.wrong += 1;
                    say!("hostile: done: kind {} of {chain:x?}", read(HEADER, 4));
                }
            }
            // No answer.
            0xaa => {}
            _ => {
                self.refused += 1;
                self.writes_refused += u32::from(would_write && self.read_only);
            }
        }
    }

    /// Whether a request of this kind at this sector with so much data may be done. A request without
    /// data moves none.
    fn may(&self, kind: u32, sector: u64, len: u32, writes: bool) -> bool {
        let end = sector.checked_add(u64::from(len) / 512);
        let is_inside = len.is_multiple_of(512) && end.is_some_and(|end| end <= self.sectors);
        match kind {
            0 => is_inside && (writes || len == 0),
            1 => is_inside && !writes && !self.read_only,
            4 => true,
            8 => writes,
            // What they are about is told by the data.
            11 | 13 => !writes && !self.read_only,
            _ => false,
        }
    }
}

fn block(queue: Queue, random: &Random) {
    let sectors = read(queue.device.base + 0x100, 8);
    queue.device.set(0x14, 0);
    let read_only = queue.device.get(0x10) & READ_ONLY != 0;
    let places = [
        0,
        sectors.wrapping_sub(1),
        sectors,
        sectors + 1,
        1 << 54,
        1 << 55,
        u64::MAX >> 9,
        u64::MAX,
    ];
    let kinds = (0..20).chain([0x7fff_ffff, 0x8000_0000, u32::MAX]);
    let mut disk = Disk {
        queue,
        sectors,
        read_only,
        done: 0,
        refused: 0,
        writes_refused: 0,
        wrong: 0,
    };
    for kind in kinds {
        let would_write = matches!(kind, 1 | 11 | 13);
        for sector in places {
            // What would write where there is a disk is left out where it would be allowed.
            if would_write && sector < sectors && !read_only {
                continue;
            }
            write(HEADER, 4, u64::from(kind));
            write(HEADER + 4, 4, random.next());
            write(HEADER + 8, 8, sector);
            for (len, writes) in [
                (512, true),
                (512, false),
                (511, true),
                (1 << 20, true),
                (0, false),
            ] {
                let chain = [(HEADER, 16, false), (DATA, len, writes), (STATUS, 1, true)];
                let may = disk.may(kind, sector, len, writes);
                disk.ask(&chain, may, would_write);
            }
        }
    }
    // Discard and write zeroes: ranges that wrap, overlap, are too many; flags that do not exist. And one
    // that is as it should be, where there is nothing to lose.
    for kind in [11, 13] {
        write(HEADER, 4, kind);
        write(HEADER + 8, 8, 0);
        for (sector, count, flags) in [
            (u64::MAX, u32::MAX, 0_u32),
            (sectors, 1, 0),
            (u64::MAX - 7, 8, 0),
            (sectors.wrapping_sub(1), u32::MAX, 1),
            (u64::MAX, 0, u32::MAX),
            (0, 8, 0),
        ] {
            if count == 8 && sector == 0 && !read_only {
                continue;
            }
            for range in 0..64 {
                let at = DATA + range * 16;
                write(at, 8, sector);
                write(at + 8, 4, u64::from(count));
                write(at + 12, 4, u64::from(flags));
            }
            for len in [15, 16, 17, 1024] {
                let chain = [(HEADER, 16, false), (DATA, len, false), (STATUS, 1, true)];
                disk.ask(&chain, false, true);
            }
        }
    }
    // No status, a header that is short, cut up, or to be written; and the kind that may be done so. A
    // flush has no use for its data.
    let bad: [(&[_], _); 8] = [
        (&[(HEADER, 16, false)], None),
        (&[(HEADER, 15, false), (STATUS, 1, true)], None),
        (&[(HEADER, 16, true), (STATUS, 1, true)], None),
        (&[(STATUS, 1, true)], None),
        (
            &[(HEADER, 1, false), (HEADER, 15, false), (STATUS, 1, true)],
            Some(0),
        ),
        (&[(HEADER, 16, false), (STATUS, 0, true)], None),
        (
            &[
                (HEADER, 16, false),
                (RAM_END - 256, 512, true),
                (STATUS, 1, true),
            ],
            Some(4),
        ),
        (
            &[(HEADER, 16, false), (DATA, 512, true), (RAM_END, 1, true)],
            None,
        ),
    ];
    for (chain, may) in bad {
        for kind in [0, 4, 8] {
            write(HEADER, 4, kind);
            write(HEADER + 8, 8, 0);
            disk.ask(chain, may == Some(kind), false);
        }
    }
    let kind = if read_only { "read-only" } else { "writable" };
    say!(
        "hostile: {kind} block of {sectors} sectors: {} done, {} refused, {} of them writes, {} wrong",
        disk.done,
        disk.refused,
        disk.writes_refused,
        disk.wrong
    );
}

fn frames(mut queue: Queue, random: &Random) {
    for round in 0..2000_u64 {
        let len = match round % 8 {
            0 => 0,
            1 => 1 + random.below(12) as u32,
            2 => 12 + random.below(16) as u32,
            3 => 65_547 + random.below(8) as u32,
            4 => 1 << 20,
            _ => 12 + random.below(1600) as u32,
        };
        for at in (0..64).step_by(8) {
            write(DATA + at, 8, random.next());
        }
        // A header of offloads that do not fit, or none; ARP, IPv4, IPv6 or anything.
        if random.below(2) == 0 {
            fill(DATA, 12, 0);
        } else {
            write(DATA, 1, random.below(4));
            write(DATA + 1, 1, random.of(&[0, 1, 3, 4, 5, 0x81, 0xff]));
        }
        write(
            DATA + 24,
            2,
            random.of(&[0x0608, 0x0008, 0xdd86, 0x0081, random.next()]),
        );
        if random.below(8) == 0 {
            queue.chain(&[(DATA, len / 2, false), (DATA, len - len / 2, true)]);
        } else {
            queue.chain(&[
                (DATA, len / 3, false),
                (DATA + u64::from(len / 3), len - len / 3, false),
            ]);
        }
        send(&mut queue);
    }
    say!("hostile: 2000 frames");
}

fn entropy(mut queue: Queue) {
    let mut most = 0;
    for len in [0, 1, 4096, 65536, 65537, 16 << 20, u32::MAX] {
        queue.chain(&[(DATA, len, true)]);
        send(&mut queue);
        most = most.max(queue.answered());
    }
    for index in 0..queue.size {
        let is_last = index + 1 == queue.size;
        queue.describe(
            index,
            DATA,
            16 << 20,
            WRITE | (u16::from(!is_last) * NEXT),
            index + 1,
        );
    }
    send(&mut queue);
    most = most.max(queue.answered());
    say!("hostile: at most {most} random bytes at once");
}

fn balloon(device: Device, first: Queue, random: &Random) {
    let mut queues = [None; 8];
    queues[0] = Some(first);
    for round in 0..300_u64 {
        let index = (round % 4) as usize;
        if queues[index].is_none() {
            queues = device.bring_up(RINGS);
        }
        let Some(queue) = &mut queues[index] else {
            continue;
        };
        // Page numbers in scratch memory or none.
        for entry in 0..256 {
            let page = match random.below(4) {
                0 => random.next(),
                1 => RAM_END >> 12,
                _ => (DATA >> 12) + random.below(256),
            };
            let is_program = page & 0xffff_ffff < SCRATCH >> 12;
            write(
                HEADER + entry * 4,
                4,
                if is_program { 0xffff_ffff } else { page },
            );
        }
        let len = random.of(&[0, 3, 4, 1024, 1 << 20]);
        match random.below(3) {
            0 => queue.chain(&[(HEADER, len, false)]),
            1 => queue.chain(&[(DATA, len * 1024, true), (RAM_END - 4096, 8192, true)]),
            _ => queue.chain(&[(DATA + 1, len, true)]),
        }
        if !queue.send() {
            queues = device.bring_up(RINGS);
        }
    }
    for value in [0, 1, u32::MAX] {
        device.set(0x104, value);
    }
    say!("hostile: 300 balloon requests");
}

fn console(mut queue: Queue, random: &Random) {
    fill(DATA, 4096, 0x1b);
    for _ in 0..200 {
        let len = random.below(4096) as u32;
        match random.below(3) {
            0 => queue.chain(&[(DATA, len, true)]),
            1 => queue.chain(&[(RAM_END - 16, len, false)]),
            _ => queue.chain(&[(DATA, len, false), (DATA, 0, false)]),
        }
        send(&mut queue);
    }
    say!("hostile: 200 console requests");
}

/// Output by both consoles, so many MiB each: no driver of an honest guest has so much to say.
pub fn floods(mib: u64) {
    fill(DATA, 1 << 20, b'x');
    write(DATA + 1023, 1, u64::from(b'\n'));
    for device in Device::all().filter(|device| device.kind == CONSOLE) {
        let [_, Some(mut queue), ..] = device.bring_up(RINGS) else {
            continue;
        };
        for _ in 0..mib {
            queue.chain(&[(DATA, 1 << 20, false)]);
            send(&mut queue);
        }
    }
    // More than the 256 KiB that are kept of the serial port.
    for _ in 0..288 {
        crate::machine::port_strings(0x3f8, 1024);
    }
    for _ in 0..2000 {
        crate::machine::port_write(0x3f8, 1, u32::from(b'y'));
    }
}

/// Opcodes of FUSE (Linux include/uapi/linux/fuse.h) with a name after the header, and the bytes of
/// their fixed part.
const NAMED: [(u32, u32); 11] = [
    (1, 0),   // LOOKUP
    (6, 0),   // SYMLINK
    (8, 16),  // MKNOD
    (9, 8),   // MKDIR
    (10, 0),  // UNLINK
    (11, 0),  // RMDIR
    (12, 8),  // RENAME
    (13, 8),  // LINK
    (21, 8),  // SETXATTR
    (35, 16), // CREATE
    (45, 16), // RENAME2
];

/// Names that are none, and some that would lead out of a share.
const NAMES: [&[u8]; 12] = [
    b"..\0",
    b".\0",
    b"/\0",
    b"/etc/passwd\0",
    b"../../../../etc/hostile\0",
    b"a/b\0",
    b"\0",
    b"no-end",
    b"\xff\xfe\0",
    b"x\0/etc/hostile\0",
    b"..\0/etc/hostile\0",
    b"/proc/self/exe\0..\0",
];

/// Requests to the file server: names with slashes, handles and nodes that were never given,
/// lengths that lie, operations that do not exist.
pub fn bad_file_requests(random: &Random, count: u64) {
    let Some(device) = Device::all().find(|device| device.kind == FILES) else {
        say!("hostile: no file system device");
        return;
    };
    let [_, Some(mut queue), ..] = device.bring_up(RINGS) else {
        return;
    };
    // INIT, as it should be or not.
    fill(HEADER, 4096, 0);
    request(
        &mut queue,
        random,
        26,
        0,
        &[7, 0, 0, 0, 38, 0, 0, 0, 0, 0, 2, 0],
        None,
    );
    // The shares are called by their numbers; then two names in them that are there.
    let mut nodes = [1; 4];
    for (at, parent, name) in [
        (0, None, b"0\0".as_slice()),
        (1, None, b"1\0"),
        (2, Some(0), b"file\0"),
        (3, Some(1), b"file\0"),
    ] {
        let parent = parent.map_or(1, |share: usize| nodes[share]);
        // Some have no room for their answer.
        for _ in 0..64 {
            if request(&mut queue, random, 1, parent, name, None) && read(DATA + 4, 4) == 0 {
                nodes[at] = read(DATA + 16, 8);
            }
            if nodes[at] > 1 {
                break;
            }
        }
    }
    let [first, second, one, other] = nodes;
    say!("hostile: nodes {nodes:?}");
    let mut errors = 0_u32;
    for round in 0..count {
        let node = random.of(&[0, 1, first, second, one, other, 1000, u64::MAX]);
        let mut body = [0_u8; 512];
        let mut len = random.below(128) as usize;
        for chunk in body.chunks_exact_mut(8) {
            let value = random.of(&[0, 1, 0xffff_ffff, u64::MAX, random.next()]);
            chunk.copy_from_slice(&value.to_le_bytes());
        }
        let mut code = random.below(52) as u32;
        if round % 2 == 0 {
            let (named, fixed) = random.of(&NAMED);
            let name = random.of(&NAMES);
            let fixed = fixed as usize;
            body[fixed..fixed + name.len()].copy_from_slice(name);
            len = fixed + name.len();
            code = named;
        } else if round % 16 == 1 {
            code = random.next() as u32;
        } else if round % 16 == 3 {
            // A name that is too long.
            body.fill(b'n');
            (code, len) = (1, 512);
        }
        // Its length is told wrong, now and then.
        let lie = (random.below(8) == 0)
            .then(|| random.of(&[0, 1, 39, 40, 41, 4096, 0x7fff_ffff, u32::MAX]));
        if request(&mut queue, random, code, node, &body[..len], lie) {
            errors += u32::from(read(DATA + 4, 4) != 0);
        }
    }
    say!("hostile: {count} file requests, {errors} errors");
}

/// Sends one; whether it was answered.
fn request(
    queue: &mut Queue,
    random: &Random,
    code: u32,
    node: u64,
    body: &[u8],
    lie: Option<u32>,
) -> bool {
    let len = 40 + body.len() as u32;
    write(HEADER, 4, u64::from(lie.unwrap_or(len)));
    write(HEADER + 4, 4, u64::from(code));
    write(HEADER + 8, 8, random.next());
    write(HEADER + 16, 8, node);
    write(HEADER + 24, 8, 0);
    write(HEADER + 32, 8, 0);
    put(HEADER + 40, body);
    fill(DATA, 16, 0);
    let room = random.of(&[16, 4096, 1 << 20, 1 << 20]);
    if random.below(16) == 0 {
        // No room for an answer, as for FORGET.
        queue.chain(&[(HEADER, len, false)]);
    } else {
        queue.chain(&[
            (HEADER, 40, false),
            (HEADER + 40, len - 40, false),
            (DATA, room, true),
        ]);
    }
    let answered = queue.send();
    if !answered {
        again(queue);
    }
    answered
}
