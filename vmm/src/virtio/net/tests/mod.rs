//! The device with a mock driver, and a socket in passt's place.

mod filter;
mod hostile;
mod receive;
mod transmit;

use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;

use super::*;
use crate::virtio::Device;
use crate::virtio::mock::{Buffer, DirectDriver, VERSION_1};

const MRG_RXBUF: u64 = 1 << 15;
const GUEST_CSUM: u64 = 1 << 1;

const MAC: [u8; 6] = [2, 0x42, 172, 17, 0, 2];
const HOST_MAC: [u8; 6] = [2, 0x42, 172, 17, 0, 1];
const GUEST: [u8; 4] = [172, 17, 0, 2];
const GATEWAY: [u8; 4] = [172, 17, 0, 1];
const OUTSIDE: [u8; 4] = [198, 51, 100, 7];

fn endpoint() -> Endpoint {
    Endpoint {
        mac: MAC,
        v4: Ipv4Addr::from(GUEST),
        v4_prefix: 16,
        v6: Some("fd62::2".parse().unwrap()),
        gateway: GatewayAddresses {
            v4: Ipv4Addr::from(GATEWAY),
            v6: "fe80::1".parse().unwrap(),
            dns: true,
        },
    }
}

/// The device, its driver and the other end of its socket.
struct Net {
    driver: DirectDriver<NetDevice>,
    passt: UnixStream,
    /// Another hand on the device's own end.
    own: UnixStream,
}

impl Net {
    fn new(features: u64) -> Self {
        let (ours, passt) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        passt.set_nonblocking(true).unwrap();
        let own = ours.try_clone().unwrap();
        let mut driver =
            DirectDriver::new(|_| NetDevice::new(endpoint(), Some(ours.into())).unwrap());
        driver.activate(VERSION_1 | features).unwrap();
        Self { driver, passt, own }
    }

    /// Reads what waits for the device.
    fn peer_sees(&mut self, bytes: &mut [u8]) {
        self.own.read_exact(bytes).unwrap();
    }

    /// Offers a frame behind an empty header, and kicks.
    fn send(&mut self, frame: &[u8]) {
        self.offer(frame);
        self.driver.run(TX).unwrap();
    }

    /// Sends until the socket has no more room.
    fn fill(&mut self) {
        while self.driver.watched().is_empty() {
            self.send(&some(60_000));
            while self.driver.rings[TX].take_used().is_some() {}
        }
    }

    fn offer(&mut self, frame: &[u8]) {
        self.driver.rings[TX]
            .offer(&[
                Buffer::Readable(&[0; HEADER_BYTES]),
                Buffer::Readable(frame),
            ])
            .unwrap();
    }

    /// Gives `count` buffers of `len` bytes for frames.
    fn give(&mut self, count: usize, len: u32) {
        for _ in 0..count {
            self.driver.rings[RX]
                .offer(&[Buffer::Writable(len)])
                .unwrap();
        }
        self.driver.run(RX).unwrap();
    }

    /// A frame from passt, by one write.
    fn arrive(&mut self, frame: &[u8]) {
        let mut bytes = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(frame);
        self.passt.write_all(&bytes).unwrap();
    }

    fn poll(&mut self) {
        while self.driver.poll(0).unwrap() > 0 {}
    }

    /// All that has come at passt, as frames.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.passt.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let mut rest = bytes.as_slice();
        let mut frames = Vec::new();
        while let Some((length, more)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
            let (frame, more) = more.split_at(length);
            frames.push(frame.to_vec());
            rest = more;
        }
        frames
    }

    /// The next frame that the driver gets: its header, its bytes, the number of buffers.
    fn take(&mut self) -> Option<([u8; HEADER_BYTES], Vec<u8>, usize)> {
        let first = self.driver.rings[RX].take_used()?;
        let mut bytes = first.answer().to_vec();
        let header: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().unwrap();
        let count = usize::from(u16::from_le_bytes([header[10], header[11]]));
        for _ in 1..count {
            bytes.extend(self.driver.rings[RX].take_used().unwrap().answer());
        }
        Some((header, bytes.split_off(HEADER_BYTES), count))
    }
}

fn ethernet(kind: u16) -> Vec<u8> {
    let mut frame = HOST_MAC.to_vec();
    frame.extend(MAC);
    frame.extend(kind.to_be_bytes());
    frame
}

/// A packet of the guest to an address, with this behind its IPv4 header.
fn v4(protocol: u8, to: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(0x0800);
    let length = u16::try_from(20 + rest.len()).unwrap();
    frame.extend([0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend(GUEST);
    frame.extend(to);
    frame.extend(rest);
    frame
}

fn v6(next: u8, from: &str, to: &str, rest: &[u8]) -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut frame = ethernet(0x86dd);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    frame.extend([next, 64]);
    frame.extend(address(from));
    frame.extend(address(to));
    frame.extend(rest);
    frame
}

/// A TCP header with these flags.
fn tcp(flags: u8) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[..4].copy_from_slice(&[0xc0, 0, 0, 80]);
    header[12] = 0x50;
    header[13] = flags;
    header
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    let mut header = from.to_be_bytes().to_vec();
    header.extend(to.to_be_bytes());
    header.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    header
}

/// A frame of the guest of so many bytes that goes out.
fn some(bytes: usize) -> Vec<u8> {
    let mut frame = v4(6, OUTSIDE, &tcp(0x10));
    frame.extend((frame.len()..bytes).map(|at| u8::try_from(at % 251).unwrap()));
    frame
}

#[test]
fn it_is_a_network_card_with_offloads_and_a_large_mtu() {
    let device = NetDevice::new(endpoint(), None).unwrap();
    // CSUM, GUEST_CSUM, MTU, MAC, HOST_TSO4, HOST_TSO6, MRG_RXBUF, INDIRECT_DESC (section 5.1.3).
    assert_eq!(device.features(), 0x1000_982b);
    let mut config = [0; 12];
    device.config().read(0, &mut config);
    assert_eq!(config[..6], MAC);
    assert_eq!(config[10..], 65520_u16.to_le_bytes());
    assert_eq!(device.queue_sizes(), [256, 256]);
}

#[test]
fn without_a_socket_frames_are_dropped_and_none_come() {
    let mut driver = DirectDriver::new(|_| NetDevice::new(endpoint(), None).unwrap());
    driver.activate(VERSION_1 | MRG_RXBUF).unwrap();
    driver.rings[RX].offer(&[Buffer::Writable(2048)]).unwrap();
    driver.run(RX).unwrap();
    driver.rings[TX]
        .offer(&[Buffer::Readable(&[0; 12]), Buffer::Readable(&some(60))])
        .unwrap();
    driver.run(TX).unwrap();
    assert!(driver.rings[TX].take_used().is_some());
    assert!(driver.watched().is_empty());
    assert!(driver.rings[RX].take_used().is_none());
}

#[test]
fn when_passt_is_gone_the_driver_goes_on_alone() {
    let mut net = Net::new(MRG_RXBUF);
    net.give(2, 2048);
    let (_, gone) = UnixStream::pair().unwrap();
    net.passt = gone;
    net.poll();
    assert!(net.driver.watched().is_empty());
    net.send(&some(60));
    assert!(net.driver.rings[TX].take_used().is_some());
    net.driver.reset();
    net.driver.activate(VERSION_1).unwrap();
    net.send(&some(60));
    assert!(net.driver.rings[TX].take_used().is_some());
}

#[test]
fn when_passt_goes_while_its_socket_is_full_frames_are_dropped() {
    let mut net = Net::new(MRG_RXBUF);
    net.fill();
    net.offer(&some(60));
    let (_, gone) = UnixStream::pair().unwrap();
    net.passt = gone;
    // What comes first is a kick of the other queue.
    net.give(1, 2048);
    while net.driver.rings[TX].take_used().is_some() {}
    net.send(&some(60));
    assert!(net.driver.rings[TX].take_used().is_some());
    assert!(net.driver.watched().is_empty());
}

#[test]
fn a_card_of_a_template_goes_on_with_its_socket() {
    use crate::virtio::mock::{EVENT_IDX, MmioDriver};
    let mut driver = MmioDriver::new(|_| Box::new(NetDevice::new(endpoint(), None).unwrap()));
    driver.start(VERSION_1 | EVENT_IDX | MRG_RXBUF);
    let state = driver.save();
    let (ours, mut passt) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let frame = some(100);
    // It waits for the driver's buffers.
    passt.write_all(&[0, 0, 0, 100]).unwrap();
    passt.write_all(&frame).unwrap();
    let device = Box::new(NetDevice::new(endpoint(), Some(ours.into())).unwrap());
    let mut driver = driver.restored(device, &state).unwrap();
    driver.run();
    assert!(driver.rings[RX].take_used().is_none());
    driver.rings[RX].offer(&[Buffer::Writable(2048)]).unwrap();
    driver.kick(0);
    driver.run();
    let used = driver.rings[RX].take_used().unwrap();
    assert_eq!(used.answer()[HEADER_BYTES..], frame);
    driver.rings[TX]
        .offer(&[Buffer::Readable(&[0; 12]), Buffer::Readable(&frame)])
        .unwrap();
    driver.kick(1);
    let mut sent = [0; 104];
    passt.read_exact(&mut sent).unwrap();
    assert_eq!(sent[4..], frame);
}
