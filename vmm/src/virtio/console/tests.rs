//! The console driven by a mock driver.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::virtio::mock::{
    Buffer, Descriptor, DirectDriver, EVENT_IDX, Flags, REGION_BYTES, VERSION_1,
};

const INPUT: usize = 0;
const OUTPUT: usize = 1;

fn start(output: File) -> DirectDriver<ConsoleDevice> {
    let mut driver = DirectDriver::new(|_| ConsoleDevice::new(output));
    driver.activate(VERSION_1 | EVENT_IDX).unwrap();
    driver
}

/// A console that prints to a file, and the file.
fn printing() -> (DirectDriver<ConsoleDevice>, File) {
    let file = tempfile::tempfile().unwrap();
    (start(file.try_clone().unwrap()), file)
}

fn content(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn output_is_printed_in_order() {
    let (mut driver, file) = printing();
    driver.rings[OUTPUT].offer(&[Buffer::Readable(b"Linux "), Buffer::Readable(b"6.12\n")]);
    driver.rings[OUTPUT].offer_indirect(&[Buffer::Readable(b"booted\n"), Buffer::Readable(b"")]);
    driver.run(OUTPUT).unwrap();
    assert_eq!(content(&file), b"Linux 6.12\nbooted\n");
    assert_eq!(driver.rings[OUTPUT].take_used().unwrap().written, 0);
    assert!(driver.rings[OUTPUT].take_used().is_some());
    assert_eq!((driver.take_interrupts(), driver.device.printed()), (1, 18));
}

#[test]
fn output_ends_at_the_limit_and_says_so_once() {
    let (mut driver, file) = printing();
    let block = vec![b'x'; 300 << 10];
    for _ in 0..30 {
        driver.rings[OUTPUT]
            .offer(&[Buffer::Readable(&block)])
            .unwrap();
        driver.run(OUTPUT).unwrap();
        assert!(driver.rings[OUTPUT].take_used().is_some());
        // A new driver gets no new limit.
        driver.reset();
        driver.activate(VERSION_1).unwrap();
    }
    let printed = content(&file);
    let limit = usize::try_from(OUTPUT_BYTES_MAX).unwrap();
    assert!(printed[..limit].iter().all(|byte| *byte == b'x'));
    assert_eq!(
        &printed[limit..],
        b"\n[console: 4 MiB, the rest is dropped]\n"
    );
    assert_eq!(driver.device.printed(), OUTPUT_BYTES_MAX);
}

#[test]
fn a_turn_of_output_has_an_end() {
    let (mut driver, _file) = printing();
    let block = vec![b'x'; 100 << 10];
    for _ in 0..5 {
        driver.rings[OUTPUT]
            .offer(&[Buffer::Readable(&block)])
            .unwrap();
    }
    driver.kick(OUTPUT).unwrap();
    assert_eq!(
        (driver.rings[OUTPUT].used_index(), driver.unfinished()),
        (3, vec![OUTPUT])
    );
    driver.run(OUTPUT).unwrap();
    assert_eq!(driver.rings[OUTPUT].used_index(), 5);
}

#[test]
fn output_that_nobody_takes_is_dropped() {
    // A full socket, a closed one, and a file that can't be written.
    let (full, _peer) = UnixStream::pair().unwrap();
    full.set_nonblocking(true).unwrap();
    while (&full).write(&[0; 4096]).is_ok() {}
    let (closed, _) = UnixStream::pair().unwrap();
    let unwritable = File::open("/dev/null").unwrap();
    for output in [
        OwnedFd::from(full),
        OwnedFd::from(closed),
        OwnedFd::from(unwritable),
    ] {
        let mut driver = start(File::from(output));
        driver.rings[OUTPUT]
            .offer(&[Buffer::Readable(b"lost")])
            .unwrap();
        driver.run(OUTPUT).unwrap();
        assert!(driver.rings[OUTPUT].take_used().is_some());
    }
}

#[test]
fn buffers_for_input_stay_the_drivers() {
    let (mut driver, file) = printing();
    driver.rings[INPUT].offer(&[Buffer::Writable(8)]).unwrap();
    driver.run(INPUT).unwrap();
    assert!(driver.rings[INPUT].take_used().is_none());
    driver.rings[OUTPUT]
        .offer(&[Buffer::Readable(b"x")])
        .unwrap();
    driver.run(OUTPUT).unwrap();
    assert_eq!(content(&file), b"x");
}

#[test]
fn broken_chains_stop_the_device() {
    let last = |address, len, flags| Descriptor {
        address,
        len,
        flags,
        next: 0,
    };
    for (descriptor, error) in [
        (last(0x9000, 4, Flags::WRITE), "queue 1: output is writable"),
        (
            last(REGION_BYTES - 1, 2, Flags::NONE),
            "queue 1: output is not in memory",
        ),
        (
            last(u64::MAX, 2, Flags::NONE),
            "queue 1: output is not in memory",
        ),
        (
            last(0x9000, 2, Flags::NEXT),
            "queue 1: a chain loops, leaves its descriptor table or exceeds 4 GiB",
        ),
    ] {
        let (mut driver, _) = printing();
        driver.rings[OUTPUT].offer_raw(0, &[descriptor]);
        assert_eq!(driver.run(OUTPUT).unwrap_err().to_string(), error);
        assert!(driver.rings[OUTPUT].take_used().is_none());
    }
}
