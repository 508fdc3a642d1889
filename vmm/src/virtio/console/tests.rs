//! The console driven by a mock driver.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::virtio::mock::{
    Buffer, Descriptor, DirectDriver, EVENT_IDX, Flags, HIGH_START, MmioDriver, REGION_BYTES,
    VERSION_1,
};

const INPUT: usize = 0;
const OUTPUT: usize = 1;

fn start(output: File, input: Option<File>) -> DirectDriver<ConsoleDevice> {
    let mut driver = DirectDriver::new(|_| ConsoleDevice::new(output, input));
    driver.activate(VERSION_1 | EVENT_IDX).unwrap();
    driver
}

/// A console that prints to a file, and the file.
fn printing() -> (DirectDriver<ConsoleDevice>, File) {
    let file = tempfile::tempfile().unwrap();
    (start(file.try_clone().unwrap(), None), file)
}

/// A console with input, and where the input comes from.
fn reading() -> (DirectDriver<ConsoleDevice>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let input = File::from(OwnedFd::from(theirs));
    (start(tempfile::tempfile().unwrap(), Some(input)), ours)
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
    assert_eq!(
        (driver.take_interrupts(), driver.device.state().printed),
        (1, 18)
    );
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
    assert_eq!(driver.device.state().printed, OUTPUT_BYTES_MAX);
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
        let mut driver = start(File::from(output), None);
        driver.rings[OUTPUT]
            .offer(&[Buffer::Readable(b"lost")])
            .unwrap();
        driver.run(OUTPUT).unwrap();
        assert!(driver.rings[OUTPUT].take_used().is_some());
    }
}

#[test]
fn input_waits_for_buffers_and_buffers_wait_for_input() {
    let (mut driver, mut host) = reading();
    host.write_all(b"early").unwrap();
    assert_eq!(driver.watched(), [], "no buffer yet");
    for _ in 0..2 {
        driver.rings[INPUT].offer(&[Buffer::Writable(3)]).unwrap();
    }
    driver.run(INPUT).unwrap();
    driver.run(INPUT).unwrap();
    assert_eq!(driver.watched().len(), 1);
    for (text, interrupts) in [(&b"ear"[..], 1), (b"ly", 1)] {
        assert_eq!(driver.poll(0).unwrap(), 1);
        let used = driver.rings[INPUT].take_used().unwrap();
        assert_eq!(
            (used.answer(), driver.take_interrupts()),
            (text, interrupts)
        );
    }
    // No more input: nothing is ready. No more buffers: it is no longer watched.
    assert_eq!(driver.poll(0).unwrap(), 0);
    host.write_all(b"late").unwrap();
    assert_eq!((driver.poll(0).unwrap(), driver.watched()), (1, vec![]));
    driver.rings[INPUT]
        .offer(&[Buffer::Writable(0), Buffer::Writable(9)])
        .unwrap();
    assert_eq!(
        driver.rings[INPUT].available_event(),
        2,
        "it asked for a kick"
    );
    driver.run(INPUT).unwrap();
    assert_eq!(driver.poll(0).unwrap(), 1);
    assert_eq!(driver.rings[INPUT].take_used().unwrap().answer(), b"late");
}

#[test]
fn the_end_of_input_is_no_busy_loop_and_keeps_the_buffer() {
    let (mut driver, host) = reading();
    driver.rings[INPUT].offer(&[Buffer::Writable(8)]).unwrap();
    driver.run(INPUT).unwrap();
    drop(host);
    assert_eq!((driver.poll(0).unwrap(), driver.watched()), (1, vec![]));
    driver.rings[INPUT].offer(&[Buffer::Writable(8)]).unwrap();
    driver.run(INPUT).unwrap();
    assert_eq!((driver.poll(0).unwrap(), driver.watched()), (0, vec![]));
    assert!(driver.rings[INPUT].take_used().is_none());
    assert_eq!(driver.queue(INPUT).state().next_avail, 0);
}

#[test]
fn input_goes_on_after_a_reset() {
    let (mut driver, mut host) = reading();
    for text in [b"one", b"two"] {
        driver.rings[INPUT].offer(&[Buffer::Writable(8)]).unwrap();
        driver.run(INPUT).unwrap();
        host.write_all(text).unwrap();
        assert_eq!(driver.poll(0).unwrap(), 1);
        assert_eq!(driver.rings[INPUT].take_used().unwrap().answer(), text);
        driver.reset();
        assert_eq!(driver.watched(), []);
        driver.activate(VERSION_1).unwrap();
    }
}

#[test]
fn a_descriptor_that_has_nothing_after_all_is_asked_again() {
    let (mut driver, mut host) = reading();
    driver.rings[INPUT].offer(&[Buffer::Writable(8)]).unwrap();
    driver.run(INPUT).unwrap();
    // As when another reader took it meanwhile.
    driver.fd_ready(0, event_manager::EventSet::IN).unwrap();
    assert_eq!(driver.watched().len(), 1);
    host.write_all(b"now").unwrap();
    assert_eq!(driver.poll(0).unwrap(), 1);
    assert_eq!(driver.rings[INPUT].take_used().unwrap().answer(), b"now");
}

#[test]
fn broken_chains_stop_the_device() {
    let last = |address, len, flags| Descriptor {
        address,
        len,
        flags,
        next: 0,
    };
    for (queue, descriptor, error) in [
        (
            OUTPUT,
            last(0x9000, 4, Flags::WRITE),
            "queue 1: output is writable",
        ),
        (
            OUTPUT,
            last(REGION_BYTES - 1, 2, Flags::NONE),
            "queue 1: output is not in memory",
        ),
        (
            OUTPUT,
            last(u64::MAX, 2, Flags::NONE),
            "queue 1: output is not in memory",
        ),
        (
            OUTPUT,
            last(0x9000, 2, Flags::NEXT),
            "queue 1: a chain loops, leaves its descriptor table or exceeds 4 GiB",
        ),
        (
            INPUT,
            last(0x9000, 4, Flags::NONE),
            "queue 0: a buffer for input is not writable",
        ),
        (
            INPUT,
            last(0x9000, 0, Flags::WRITE),
            "queue 0: a buffer for input has no room",
        ),
        (
            INPUT,
            last(HIGH_START - 1, 2, Flags::WRITE),
            "queue 0: a buffer for input is not in memory",
        ),
    ] {
        let (mut driver, mut host) = reading();
        host.write_all(b"text").unwrap();
        driver.rings[queue].offer_raw(0, &[descriptor]);
        let result = driver.run(queue).and_then(|()| driver.poll(0).map(|_| ()));
        assert_eq!(result.unwrap_err().to_string(), error);
        assert!(driver.rings[queue].take_used().is_none());
        driver.reset();
        assert_eq!(driver.watched(), []);
    }
}

#[test]
fn input_comes_through_the_event_loop_whatever_happens_between() {
    let (mut host, guest) = UnixStream::pair().unwrap();
    let input = File::from(OwnedFd::from(guest));
    let output = tempfile::tempfile().unwrap();
    let console = ConsoleDevice::new(output.try_clone().unwrap(), Some(input));
    let mut driver = MmioDriver::new(|_| Box::new(console));
    for round in 0..3 {
        driver.start(VERSION_1 | EVENT_IDX);
        // Without buffers, with one, with none left: the event loop comes to rest each time.
        host.write_all(b"abc").unwrap();
        driver.run();
        driver.rings[INPUT].offer(&[Buffer::Writable(2)]).unwrap();
        driver.kick(INPUT);
        assert_eq!(
            driver.rings[INPUT].take_used().unwrap().answer(),
            b"ab",
            "round {round}"
        );
        driver.rings[OUTPUT]
            .offer(&[Buffer::Readable(b"x")])
            .unwrap();
        driver.kick(OUTPUT);
        driver.rings[INPUT].offer(&[Buffer::Writable(2)]).unwrap();
        driver.kick(INPUT);
        assert_eq!(driver.rings[INPUT].take_used().unwrap().answer(), b"c");
        // The device stops while it waits for input.
        driver.rings[INPUT].offer(&[Buffer::Writable(2)]).unwrap();
        driver.kick(INPUT);
        driver.rings[OUTPUT].offer(&[Buffer::Writable(1)]).unwrap();
        driver.kick(OUTPUT);
        assert_eq!(driver.read(crate::virtio::mock::Register::Status), 15 | 64);
    }
    assert_eq!(content(&output), b"xxx");
}
