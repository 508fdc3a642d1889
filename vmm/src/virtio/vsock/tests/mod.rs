//! The device against a mock driver that keeps to the rules of Linux's: it kicks only when the
//! device asked for it, so that a wake-up the device forgot shows as a test that stops.

mod close;
mod connect;
mod credit;
mod data;
mod event_loop;
mod hostile;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use event_manager::EventSet;

use super::VsockDevice;
use super::device::{RX, TX};
use super::packet::{HEADER_BYTES, Header, Operation, Ports, TYPE_STREAM};
use crate::virtio::DeviceError;
use crate::virtio::mock::{Buffer, DirectDriver, EVENT_IDX, VERSION_1};

const GUEST_CID: u32 = 3;

/// What Linux 6.12 posts: a page less the overhead of a socket buffer.
const LINUX_RX_BYTES: u32 = 3776;

/// The receive buffer that Linux gives a socket.
const LINUX_BUF_ALLOC: u32 = 256 << 10;

/// The port that most tests use, and the guest's own.
const PORT: u32 = 1024;
const PORTS: Ports = Ports {
    guest: 50_000,
    host: PORT,
};

/// A packet that the device sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    header: Header,
    payload: Vec<u8>,
}

impl Packet {
    fn operation(&self) -> Operation {
        Operation::from_wire(self.header.operation).expect("the device sends what is known")
    }

    /// Operation and flags.
    fn shutdown(&self) -> (Operation, u32) {
        (self.operation(), self.header.flags)
    }
}

/// The driver.
struct Guest {
    driver: DirectDriver<VsockDevice>,
    /// Packets of the device, in order.
    received: VecDeque<Packet>,
    /// Buffers of each RX chain: what a test wants split.
    rx_chain: Vec<u32>,
    /// Whether RX buffers are replaced as they are used.
    refill: bool,
    /// What the guest says of its buffer in every packet.
    buf_alloc: u32,
    fwd_cnt: u32,
}

/// The host's end of an offered port, which never blocks.
fn offer() -> (OwnedFd, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours.into(), theirs)
}

impl Guest {
    /// A driver of a device with these ports, started, with RX buffers.
    fn start(ports: Vec<(u32, OwnedFd)>, offers: Option<OwnedFd>) -> Self {
        let mut guest = Self::prepare(ports, offers);
        guest.driver.activate(VERSION_1 | EVENT_IDX).unwrap();
        guest.refill();
        guest
    }

    /// As [`Self::start`], before DRIVER_OK.
    fn prepare(ports: Vec<(u32, OwnedFd)>, offers: Option<OwnedFd>) -> Self {
        let device = VsockDevice::new(GUEST_CID, ports, offers).unwrap();
        Self {
            driver: DirectDriver::new(|_| device),
            received: VecDeque::new(),
            rx_chain: vec![LINUX_RX_BYTES],
            refill: true,
            buf_alloc: LINUX_BUF_ALLOC,
            fwd_cnt: 0,
        }
    }

    /// A started driver with a connection on [`PORTS`], and the host's end.
    fn connected() -> (Self, UnixStream) {
        let (ours, theirs) = offer();
        let mut guest = Self::start(vec![(PORT, ours)], None);
        guest.connect(PORTS);
        (guest, theirs)
    }

    fn connect(&mut self, ports: Ports) {
        self.send(ports, Operation::Request);
        assert_eq!(self.receive().unwrap().operation(), Operation::Response);
    }

    fn header(&self, ports: Ports, operation: Operation, len: usize) -> Header {
        Header {
            src_cid: u64::from(GUEST_CID),
            dst_cid: 2,
            src_port: ports.guest,
            dst_port: ports.host,
            len: u32::try_from(len).unwrap(),
            kind: TYPE_STREAM,
            operation: operation as u16,
            flags: 0,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    /// Sends a packet without payload.
    fn send(&mut self, ports: Ports, operation: Operation) {
        let header = self.header(ports, operation, 0);
        self.send_bytes(&[&header.to_bytes()]);
    }

    fn shut_down(&mut self, flags: u32) {
        let mut header = self.header(PORTS, Operation::Shutdown, 0);
        header.flags = flags;
        self.send_bytes(&[&header.to_bytes()]);
    }

    /// Sends data as Linux does: the header in a buffer of its own.
    fn write(&mut self, ports: Ports, data: &[u8]) {
        let header = self.header(ports, Operation::ReadWrite, data.len());
        self.send_bytes(&[&header.to_bytes(), data]);
    }

    /// Sends whatever bytes, a buffer each; waits for nothing but the queue.
    fn send_bytes(&mut self, buffers: &[&[u8]]) {
        self.try_send_bytes(buffers).unwrap();
    }

    fn try_send_bytes(&mut self, buffers: &[&[u8]]) -> Result<(), DeviceError> {
        let buffers: Vec<_> = buffers
            .iter()
            .map(|bytes| Buffer::Readable(bytes))
            .collect();
        let before = self.driver.rings[TX].available_index();
        self.driver.rings[TX]
            .offer(&buffers)
            .expect("room on the TX queue");
        self.kick_if_wanted(TX, before)?;
        self.run()
    }

    /// Kicks when the device wants to hear of what was added since `before` (section 2.7.10).
    fn kick_if_wanted(&mut self, queue: usize, before: u16) -> Result<(), DeviceError> {
        let ring = &self.driver.rings[queue];
        let now = ring.available_index();
        let passed = now.wrapping_sub(ring.available_event()).wrapping_sub(1);
        if passed < now.wrapping_sub(before) {
            self.driver.run(queue)?;
        }
        Ok(())
    }

    /// Posts as many RX chains as there is room for.
    fn refill(&mut self) {
        self.post(usize::MAX).unwrap();
    }

    /// Posts at most `count` RX chains.
    fn post(&mut self, count: usize) -> Result<(), DeviceError> {
        let chain: Vec<_> = self
            .rx_chain
            .iter()
            .map(|len| Buffer::Writable(*len))
            .collect();
        let before = self.driver.rings[RX].available_index();
        for _ in 0..count {
            if self.driver.rings[RX].offer(&chain).is_none() {
                break;
            }
        }
        self.kick_if_wanted(RX, before)
    }

    /// Takes what the device sent off the RX queue; returns how many packets there were.
    fn collect(&mut self) -> usize {
        let mut count = 0;
        while let Some(used) = self.driver.rings[RX].take_used() {
            let answer = used.answer();
            assert_eq!(answer.len(), usize::try_from(used.written).unwrap());
            let (header, payload) = answer.split_first_chunk::<HEADER_BYTES>().unwrap();
            let header = Header::from_bytes(header);
            assert_eq!(usize::try_from(header.len).unwrap(), payload.len());
            assert_eq!((header.src_cid, header.dst_cid), (2, u64::from(GUEST_CID)));
            self.received.push_back(Packet {
                header,
                payload: payload.to_vec(),
            });
            count += 1;
        }
        while self.driver.rings[TX].take_used().is_some() {}
        count
    }

    /// Lets the device work off all that is ready. That it comes to rest is part of every test:
    /// an interest it cannot serve would keep the event loop busy.
    fn run(&mut self) -> Result<(), DeviceError> {
        for _ in 0..10_000 {
            let mut quiet = self.driver.poll(0)? == 0;
            if let Some(queue) = self.driver.unfinished().first().copied() {
                self.driver.run(queue)?;
                quiet = false;
            }
            if self.refill {
                self.post(usize::MAX)?;
            }
            quiet &= self.collect() == 0;
            if quiet {
                return Ok(());
            }
        }
        panic!("the device does not come to rest");
    }

    fn settle(&mut self) {
        self.run().unwrap();
    }

    /// The next packet, after the device came to rest.
    fn receive(&mut self) -> Option<Packet> {
        self.settle();
        self.received.pop_front()
    }

    /// All data received so far on a connection; other packets are dropped. The guest's
    /// application reads it, so that there is new credit.
    fn read(&mut self, ports: Ports) -> Vec<u8> {
        let mut data = Vec::new();
        for packet in self.received.drain(..) {
            if packet.operation() == Operation::ReadWrite {
                assert_eq!(
                    (packet.header.src_port, packet.header.dst_port),
                    (ports.host, ports.guest)
                );
                data.extend(packet.payload);
            }
        }
        let read = u32::try_from(data.len()).unwrap();
        self.fwd_cnt = self.fwd_cnt.wrapping_add(read);
        data
    }

    /// What the device watches the one descriptor of its one connection for.
    fn interest(&self) -> Option<EventSet> {
        let watched = self.driver.watched();
        assert!(watched.len() < 2, "{watched:?}");
        watched.first().map(|(_, _, events)| *events)
    }
}

/// Reads what is there, to the end of the stream if `to_end`.
fn drain(host: &mut UnixStream) -> (Vec<u8>, HostState) {
    let mut data = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        match host.read(&mut buffer) {
            Ok(0) => return (data, HostState::Ended),
            Ok(count) => data.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (data, HostState::Open),
            Err(error) => panic!("read from the device: {error}"),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum HostState {
    Open,
    Ended,
}

/// Writes what the socket takes; returns how much that was.
fn fill(host: &mut UnixStream, data: &[u8]) -> usize {
    let mut written = 0;
    while let Some(rest) = data.get(written..)
        && !rest.is_empty()
    {
        match host.write(rest) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("write to the device: {error}"),
        }
    }
    written
}

/// Bytes that repeat only after a long while, so that a hole or a swap shows.
fn pattern(len: usize) -> Vec<u8> {
    (0_u64..)
        .flat_map(|index| index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
        .take(len)
        .collect()
}
