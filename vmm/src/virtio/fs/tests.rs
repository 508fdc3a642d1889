//! The device driven by a mock driver, with a server that the test plays.
#![allow(unsafe_code)] // a socket of packets and a memory file, for which std has no types

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use super::*;
use crate::virtio::mock::{Buffer, DirectDriver, VERSION_1};

const HIPRIO: usize = 0;
const REQUESTS: usize = 1;
const SLOTS: usize = 2;
const SLOT_BYTES: usize = 8192;

/// The server's end.
struct Server {
    socket: OwnedFd,
    area: File,
}

fn start() -> (DirectDriver<FsDevice>, Server) {
    let mut ends = [0; 2];
    // SAFETY: the call fills two descriptors, which nobody else has.
    let (ours, theirs, area) = unsafe {
        let flags = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        assert_eq!(
            libc::socketpair(libc::AF_UNIX, flags, 0, ends.as_mut_ptr()),
            0
        );
        let area = libc::memfd_create(c"area".as_ptr(), 0);
        assert!(area >= 0);
        (
            OwnedFd::from_raw_fd(ends[0]),
            OwnedFd::from_raw_fd(ends[1]),
            File::from_raw_fd(area),
        )
    };
    area.set_len((SLOTS * SLOT_BYTES) as u64).unwrap();
    let backend = Backend {
        socket: ours,
        area: area.try_clone().unwrap(),
        slot_count: SLOTS,
        slot_bytes: SLOT_BYTES,
    };
    let mut driver = DirectDriver::new(|_| FsDevice::new("tag", Some(backend)).unwrap());
    driver.activate(VERSION_1).unwrap();
    let server = Server {
        socket: theirs,
        area,
    };
    (driver, server)
}

impl Server {
    /// The next request: its slot, the room for the reply, and its bytes.
    fn take(&self) -> Option<(u32, u32, Vec<u8>)> {
        let mut message = [0_u32; 3];
        // SAFETY: the kernel writes at most 12 bytes to the array.
        let len = unsafe {
            let to = message.as_mut_ptr().cast();
            libc::recv(self.socket.as_raw_fd(), to, 12, libc::MSG_DONTWAIT)
        };
        if len != 12 {
            return None;
        }
        let [slot, len, room] = message.map(u32::from_le);
        let mut bytes = vec![0; len as usize];
        let at = u64::from(slot) * SLOT_BYTES as u64;
        self.area.read_exact_at(&mut bytes, at).unwrap();
        Some((slot, room, bytes))
    }

    fn reply(&self, slot: u32, bytes: &[u8]) {
        let at = u64::from(slot) * SLOT_BYTES as u64;
        self.area.write_all_at(bytes, at).unwrap();
        self.say(&[slot, u32::try_from(bytes.len()).unwrap()]);
    }

    fn say(&self, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // SAFETY: the kernel reads as many bytes as the vector has.
        let sent = unsafe {
            let from = bytes.as_ptr().cast();
            libc::send(
                self.socket.as_raw_fd(),
                from,
                bytes.len(),
                libc::MSG_NOSIGNAL,
            )
        };
        assert_eq!(usize::try_from(sent), Ok(bytes.len()));
    }
}

/// A request with its number, as long as its header at least.
fn request(unique: u8) -> Vec<u8> {
    let mut bytes = vec![0; 48];
    bytes[0] = 48;
    bytes[8] = unique;
    bytes
}

#[test]
fn the_tag_and_one_request_queue_are_announced() {
    let device = FsDevice::new("bulkhead", None).unwrap();
    let mut bytes = [0; 40];
    crate::virtio::Device::config(&device).read(0, &mut bytes);
    assert_eq!(&bytes[..9], b"bulkhead\0");
    assert_eq!(bytes[36..], [1, 0, 0, 0]);
}

#[test]
fn a_request_goes_to_the_server_and_its_reply_to_the_driver() {
    let (mut driver, server) = start();
    let bytes = request(7);
    let (front, back) = bytes.split_at(41);
    driver.rings[REQUESTS]
        .offer(&[
            Buffer::Readable(front),
            Buffer::Readable(back),
            Buffer::Writable(16),
            Buffer::Writable(100),
        ])
        .unwrap();
    driver.run(REQUESTS).unwrap();
    assert_eq!(driver.device.pending(), 1);
    let (slot, room, seen) = server.take().unwrap();
    assert_eq!((room, seen), (116, bytes));
    assert!(driver.rings[REQUESTS].take_used().is_none());
    server.reply(slot, &[0x55; 50]);
    assert_eq!(driver.poll(1000).unwrap(), 1);
    let used = driver.rings[REQUESTS].take_used().unwrap();
    assert_eq!((used.written, used.answer()), (50, [0x55; 50].as_slice()));
    assert_eq!((driver.take_interrupts(), driver.device.pending()), (1, 0));
}

#[test]
fn one_without_a_reply_is_completed_when_the_server_has_it() {
    let (mut driver, server) = start();
    driver.rings[HIPRIO]
        .offer(&[Buffer::Readable(&request(1))])
        .unwrap();
    driver.run(HIPRIO).unwrap();
    let (slot, room, _) = server.take().unwrap();
    assert_eq!(room, 0);
    assert!(driver.rings[HIPRIO].take_used().is_none());
    server.reply(slot, b"");
    driver.poll(1000).unwrap();
    assert_eq!(driver.rings[HIPRIO].take_used().unwrap().written, 0);
}

#[test]
fn more_requests_than_slots_wait_for_their_turn() {
    let (mut driver, server) = start();
    for unique in 0..5 {
        driver.rings[REQUESTS]
            .offer(&[Buffer::Readable(&request(unique)), Buffer::Writable(16)])
            .unwrap();
    }
    driver.run(REQUESTS).unwrap();
    assert_eq!(driver.device.pending(), SLOTS);
    let mut seen = Vec::new();
    while let Some((slot, _, bytes)) = server.take() {
        seen.push(bytes[8]);
        server.reply(slot, &[0; 16]);
        driver.poll(1000).unwrap();
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
    assert_eq!(driver.rings[REQUESTS].used_index(), 5);
}

#[test]
fn a_server_that_lies_stops_the_device() {
    type Lie = fn(&Server, u32);
    let lies: [Lie; 4] = [
        |server, _| server.say(&[9, 16]),
        |server, slot| server.say(&[slot + 1, 16]),
        |server, slot| server.say(&[slot, 17]),
        |server, slot| server.say(&[slot, u32::MAX]),
    ];
    for lie in lies {
        let (mut driver, server) = start();
        driver.rings[REQUESTS]
            .offer(&[Buffer::Readable(&request(1)), Buffer::Writable(16)])
            .unwrap();
        driver.run(REQUESTS).unwrap();
        let (slot, ..) = server.take().unwrap();
        lie(&server, slot);
        driver.poll(1000).unwrap_err();
        assert!(driver.rings[REQUESTS].take_used().is_none());
    }
}

#[test]
fn without_a_server_every_request_is_an_error() {
    let (mut driver, server) = start();
    let offer = |driver: &mut DirectDriver<FsDevice>, unique| {
        driver.rings[REQUESTS]
            .offer(&[
                Buffer::Readable(&request(unique)),
                Buffer::Writable(7),
                Buffer::Writable(90),
            ])
            .unwrap();
    };
    let error = |unique: u8| {
        let mut header = vec![16, 0, 0, 0, 0xfb, 0xff, 0xff, 0xff, unique];
        header.resize(16, 0);
        header
    };
    for unique in 1..4 {
        offer(&mut driver, unique);
    }
    driver.run(REQUESTS).unwrap();
    drop(server);
    // What it had, what waited for it, and what comes later.
    driver.poll(1000).unwrap();
    offer(&mut driver, 4);
    driver.run(REQUESTS).unwrap();
    for unique in 1..5 {
        let used = driver.rings[REQUESTS].take_used().unwrap();
        assert_eq!(used.answer(), error(unique));
    }
    assert!(driver.watched().is_empty());
}

#[test]
fn after_a_reset_a_late_reply_reaches_nobody() {
    let (mut driver, server) = start();
    driver.rings[REQUESTS]
        .offer(&[Buffer::Readable(&request(1)), Buffer::Writable(16)])
        .unwrap();
    driver.run(REQUESTS).unwrap();
    let (slot, ..) = server.take().unwrap();
    driver.reset();
    driver.activate(VERSION_1).unwrap();
    driver.rings[REQUESTS]
        .offer(&[Buffer::Readable(&request(2)), Buffer::Writable(16)])
        .unwrap();
    driver.run(REQUESTS).unwrap();
    let (other, ..) = server.take().unwrap();
    assert_ne!(slot, other);
    server.reply(slot, &[1; 16]);
    server.reply(other, &[2; 16]);
    driver.poll(1000).unwrap();
    let used = driver.rings[REQUESTS].take_used().unwrap();
    assert_eq!(used.answer(), [2; 16]);
    assert!(driver.rings[REQUESTS].take_used().is_none());
}

#[test]
fn requests_that_are_none_stop_the_device() {
    let large = vec![0; SLOT_BYTES + 1];
    let short = [0; 39];
    for (bytes, reason) in [
        (large.as_slice(), "a request is larger than a slot"),
        (short.as_slice(), "a request has no header"),
    ] {
        let (mut driver, _server) = start();
        driver.rings[REQUESTS]
            .offer(&[Buffer::Readable(bytes), Buffer::Writable(16)])
            .unwrap();
        let error = driver.run(REQUESTS).unwrap_err().to_string();
        assert_eq!(error, format!("queue 1: {reason}"));
    }
}
