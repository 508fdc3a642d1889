//! The device behind its registers on a real event loop, which must come to rest each time.

use std::sync::mpsc::{Receiver, TryRecvError};

use super::super::packet::SHUTDOWN_BOTH;
use super::*;
use crate::virtio::mock::{MmioDriver, Register, Status};

/// Header and payload of what the device sent.
fn packets(driver: &mut MmioDriver) -> Vec<(Header, Vec<u8>)> {
    let mut packets = Vec::new();
    while let Some(used) = driver.rings[RX].take_used() {
        let (header, payload) = used.answer().split_first_chunk::<HEADER_BYTES>().unwrap();
        packets.push((Header::from_bytes(header), payload.to_vec()));
    }
    packets
}

fn send(driver: &mut MmioDriver, operation: Operation, flags: u32, data: &[u8]) {
    offer_packet(driver, operation, flags, data);
    driver.kick(TX);
}

/// As [`send`], without a kick.
fn offer_packet(driver: &mut MmioDriver, operation: Operation, flags: u32, data: &[u8]) {
    let header = Header {
        src_cid: u64::from(GUEST_CID),
        dst_cid: 2,
        src_port: PORTS.guest,
        dst_port: PORTS.host,
        len: u32::try_from(data.len()).unwrap(),
        kind: TYPE_STREAM,
        operation: operation as u16,
        flags,
        buf_alloc: LINUX_BUF_ALLOC,
        fwd_cnt: 0,
    };
    driver.rings[TX]
        .offer(&[Buffer::Readable(&header.to_bytes()), Buffer::Readable(data)])
        .unwrap();
}

fn start() -> (MmioDriver, UnixStream) {
    let (ours, theirs) = offer();
    let device = VsockDevice::new(GUEST_CID, vec![(PORT, ours)], None).unwrap();
    let mut driver = MmioDriver::new(|_| Box::new(device));
    assert_eq!(driver.start(VERSION_1 | EVENT_IDX), 0b1111);
    for _ in 0..64 {
        driver.rings[RX].offer(&[Buffer::Writable(LINUX_RX_BYTES)]);
    }
    driver.kick(RX);
    (driver, theirs)
}

#[test]
fn the_driver_finds_the_device_and_talks_to_the_host() {
    let (mut driver, mut host) = start();
    assert_eq!(driver.read(Register::DeviceId), 19);
    assert_eq!(driver.read_config(0), 3_u64.to_le_bytes());
    send(&mut driver, Operation::Request, 0, b"");
    assert_eq!(
        packets(&mut driver)[0].0.operation,
        Operation::Response as u16
    );
    send(&mut driver, Operation::ReadWrite, 0, b"ping");
    assert_eq!(drain(&mut host).0, b"ping");
    driver.take_interrupts();
    host.write_all(b"pong").unwrap();
    driver.run();
    assert_eq!(packets(&mut driver)[0].1, b"pong");
    assert_eq!(driver.take_interrupts(), 1);
    drop(host);
    driver.run();
    assert_eq!(packets(&mut driver)[0].0.flags, SHUTDOWN_BOTH);
}

/// All that there is for the host, which the device gives as fast as it reads.
fn read_to_end(driver: &mut MmioDriver, host: &mut UnixStream) -> Vec<u8> {
    let mut read = Vec::new();
    loop {
        let (part, state) = drain(host);
        read.extend(part);
        if state == HostState::Ended {
            break;
        }
        driver.run();
    }
    read
}

#[test]
fn a_host_that_reads_later_is_waited_for() {
    let (mut driver, mut host) = start();
    send(&mut driver, Operation::Request, 0, b"");
    let data = pattern(50_000);
    for _ in 0..9 {
        send(&mut driver, Operation::ReadWrite, 0, &data);
    }
    send(&mut driver, Operation::Shutdown, SHUTDOWN_BOTH, b"");
    let last = packets(&mut driver).pop().unwrap().0;
    assert_eq!(last.operation, Operation::Reset as u16);
    let read = read_to_end(&mut driver, &mut host);
    assert!(read == data.repeat(9));
}

/// Whether the device has let go of its host.
fn is_over(delivered: &Receiver<()>) -> bool {
    delivered.try_recv() == Err(TryRecvError::Disconnected)
}

#[test]
fn what_the_guest_sent_outlives_its_vm() {
    let (mut driver, mut host) = start();
    send(&mut driver, Operation::Request, 0, b"");
    let data = pattern(50_000);
    for _ in 0..8 {
        send(&mut driver, Operation::ReadWrite, 0, &data);
    }
    // The guest is gone without a word, and its last packet lies in the queue.
    offer_packet(&mut driver, Operation::ReadWrite, 0, &data);
    let delivered = driver.end();
    assert!(!is_over(&delivered));
    // A vCPU that runs on for a moment changes nothing.
    send(&mut driver, Operation::ReadWrite, 0, b"late");
    driver.reset();
    let read = read_to_end(&mut driver, &mut host);
    assert!(read == data.repeat(9), "{} bytes", read.len());
    assert!(is_over(&delivered));
}

/// Linux resets its devices before it ends, and the host is told of the end after that.
#[test]
fn what_the_guest_sent_outlives_a_reset_of_its_device() {
    let (mut driver, mut host) = start();
    send(&mut driver, Operation::Request, 0, b"");
    let data = pattern(50_000);
    for _ in 0..9 {
        send(&mut driver, Operation::ReadWrite, 0, &data);
    }
    driver.reset();
    let delivered = driver.end();
    assert!(!is_over(&delivered));
    let read = read_to_end(&mut driver, &mut host);
    assert!(read == data.repeat(9), "{} bytes", read.len());
    assert!(is_over(&delivered));
}

#[test]
fn a_vm_whose_host_has_all_or_goes_away_is_over() {
    let (mut driver, mut host) = start();
    send(&mut driver, Operation::Request, 0, b"");
    send(&mut driver, Operation::ReadWrite, 0, b"all");
    assert!(is_over(&driver.end()));
    assert_eq!(drain(&mut host), (b"all".to_vec(), HostState::Ended));

    let (mut driver, host) = start();
    send(&mut driver, Operation::Request, 0, b"");
    for _ in 0..9 {
        send(&mut driver, Operation::ReadWrite, 0, &pattern(50_000));
    }
    let delivered = driver.end();
    assert!(!is_over(&delivered));
    drop(host);
    driver.run();
    assert!(is_over(&delivered));

    // Without a driver there is nothing.
    let device = VsockDevice::new(GUEST_CID, Vec::new(), None).unwrap();
    let mut driver = MmioDriver::new(|_| Box::new(device));
    assert!(is_over(&driver.end()));
}

#[test]
fn a_broken_packet_stops_the_device_until_it_is_reset() {
    let (mut driver, mut host) = start();
    send(&mut driver, Operation::Request, 0, b"");
    driver.rings[TX].offer(&[Buffer::Readable(b"short")]);
    driver.kick(TX);
    assert_ne!(driver.read(Register::Status) & Status::NEEDS_RESET, 0);
    // Its connections are over, and nothing moves any more.
    assert_eq!(drain(&mut host).1, HostState::Ended);
    packets(&mut driver);
    send(&mut driver, Operation::ReadWrite, 0, b"x");
    assert_eq!(packets(&mut driver), []);
    assert_eq!(driver.reset(), 0);
    assert_eq!(driver.start(VERSION_1 | EVENT_IDX), 0b1111);
    driver.rings[RX].offer(&[Buffer::Writable(LINUX_RX_BYTES)]);
    driver.kick(RX);
    send(&mut driver, Operation::Request, 0, b"");
    assert_eq!(packets(&mut driver)[0].0.operation, Operation::Reset as u16);
}
