//! What the vsock device makes of any packets and chains of a guest, and of a host that reads,
//! writes and leaves at any time. Each byte that arrives is checked against what was sent.
//!
//! The input is records of 12 bytes: what to do, three small parameters, two words.
#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use vmm::virtio::mock::{
    Buffer, Descriptor, DirectDriver, EVENT_IDX, Flags, HIGH_START, REGION_BYTES, VERSION_1,
};
use vmm::virtio::vsock::VsockDevice;

const RX: usize = 0;
const TX: usize = 1;
const RECORD: usize = 12;
/// Records of one input: more find nothing that fewer do not.
const RECORDS_MAX: usize = 200;
/// Offered ports, 0 to 3; the guest also tries port 4.
const PORTS: u32 = 4;
/// Longest payload: what the TX queue holds at a time fits the mock's memory.
const PAYLOAD_MAX: u32 = 20_000;
const REQUEST: u16 = 1;
const READ_WRITE: u16 = 5;

/// The byte at a place of every stream.
fn byte_at(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn bytes_at(position: u64, len: usize) -> Vec<u8> {
    (position..).map(byte_at).take(len).collect()
}

/// The host's end of a port, and how far each stream has come.
struct Host {
    stream: Option<UnixStream>,
    /// Guest port of the connection.
    connected: Option<u32>,
    guest_sent: u64,
    host_read: u64,
    host_sent: u64,
    guest_read: u64,
}

struct Case {
    driver: DirectDriver<VsockDevice>,
    hosts: Vec<Host>,
    /// No raw chain has been placed over what the mock keeps track of.
    orderly: bool,
    features: u64,
}

impl Case {
    fn start() -> Self {
        let mut hosts = Vec::new();
        let mut ports = Vec::<(u32, OwnedFd)>::new();
        for port in 0..PORTS {
            let (ours, theirs) = UnixStream::pair().expect("a socket pair");
            theirs.set_nonblocking(true).expect("non-blocking");
            ports.push((port, ours.into()));
            hosts.push(Host {
                stream: Some(theirs),
                connected: None,
                guest_sent: 0,
                host_read: 0,
                host_sent: 0,
                guest_read: 0,
            });
        }
        let device = VsockDevice::new(3, ports, None).expect("a device");
        let mut case = Self {
            driver: DirectDriver::new(|_| device),
            hosts,
            orderly: true,
            features: VERSION_1 | EVENT_IDX,
        };
        case.driver
            .activate(case.features)
            .expect("queues in memory");
        case.post(128, &[3776]);
        case
    }

    fn post(&mut self, count: usize, chain: &[u32]) {
        let chain: Vec<_> = chain.iter().map(|len| Buffer::Writable(*len)).collect();
        for _ in 0..count {
            if self.driver.rings[RX].offer(&chain).is_none() {
                break;
            }
        }
        self.kick(RX);
    }

    fn kick(&mut self, queue: usize) {
        if self.driver.run(queue).is_err() {
            self.reset();
        }
    }

    /// A device that failed, or whose driver starts anew. Connections are over; offers stay.
    fn reset(&mut self) {
        self.collect();
        self.driver.reset();
        // What the guest sent before is the host's to read.
        loop {
            for port in 0..self.hosts.len() {
                self.read(port);
            }
            if self.driver.poll(0).expect("no queue is looked at") == 0 {
                break;
            }
        }
        for port in 0..self.hosts.len() {
            self.read(port);
            let host = &mut self.hosts[port];
            (host.connected, host.guest_sent, host.host_read) = (None, 0, 0);
        }
        self.orderly = true;
        self.driver
            .activate(self.features)
            .expect("queues in memory");
    }

    /// What the device sent.
    fn collect(&mut self) {
        while let Some(used) = self.driver.rings[RX].take_used() {
            if !self.orderly {
                continue;
            }
            let answer = used.answer();
            assert_eq!(answer.len(), used.written as usize);
            let word = |at: usize| u32::from_le_bytes(answer[at..at + 4].try_into().unwrap());
            let operation = u16::from_le_bytes(answer[30..32].try_into().unwrap());
            let payload = &answer[44..];
            assert_eq!((word(0), word(4), word(8), word(12)), (2, 0, 3, 0));
            assert!((2..=7).contains(&operation), "operation {operation}");
            assert_eq!(word(24) as usize, payload.len());
            assert_eq!(operation == READ_WRITE, !payload.is_empty());
            if operation == READ_WRITE {
                let host = &mut self.hosts[word(16) as usize];
                assert_eq!(host.connected, Some(word(20)));
                assert!(payload == bytes_at(host.guest_read, payload.len()));
                host.guest_read += payload.len() as u64;
                assert!(host.guest_read <= host.host_sent);
            }
        }
        while self.driver.rings[TX].take_used().is_some() {}
    }

    /// Serves all that is ready. The device must come to rest.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let Ok(mut ready) = self.driver.poll(0) else {
                return self.reset();
            };
            if let Some(queue) = self.driver.unfinished().first().copied() {
                self.kick(queue);
                ready += 1;
            }
            self.collect();
            if ready == 0 {
                return;
            }
        }
        panic!("the device does not come to rest");
    }

    fn packet(&mut self, [operation, ports, options]: [u8; 3], first: u32, second: u32) {
        let operation = u16::from(operation % 9);
        let guest_port = u32::from(ports & 1);
        let host_port = u32::from(ports >> 1) % (PORTS + 1);
        let payload_len = first % PAYLOAD_MAX;
        let len = if options & 0x20 == 0 {
            payload_len
        } else {
            second
        };
        let kind = if options & 0x40 == 0 { 1_u16 } else { 2 };
        let buf_alloc = if options & 0x80 == 0 { 262_144 } else { first };
        let mut packet = Vec::with_capacity(44 + payload_len as usize);
        packet.extend(3_u64.to_le_bytes());
        packet.extend(2_u64.to_le_bytes());
        packet.extend(
            [guest_port, host_port, len]
                .into_iter()
                .flat_map(u32::to_le_bytes),
        );
        packet.extend([kind, operation].into_iter().flat_map(u16::to_le_bytes));
        let flags = u32::from(options & 3);
        packet.extend(
            [flags, buf_alloc, second]
                .into_iter()
                .flat_map(u32::to_le_bytes),
        );
        let position = self
            .hosts
            .get(host_port as usize)
            .map_or(0, |host| host.guest_sent);
        packet.extend(bytes_at(position, payload_len as usize));
        let cut = match options >> 2 & 3 {
            0 => 44,
            1 => 20,
            2 => packet.len(),
            _ => packet.len() - 1,
        };
        let (front, back) = packet.split_at(cut);
        let buffers = [Buffer::Readable(front), Buffer::Readable(back)];
        if self.driver.rings[TX].offer(&buffers).is_none() {
            return;
        }
        if kind == 1
            && let Some(host) = self.hosts.get_mut(host_port as usize)
        {
            match (operation, host.connected) {
                // The first request gets the port, now or as soon as the device comes to it.
                (REQUEST, None) => host.connected = Some(guest_port),
                (READ_WRITE, Some(port)) if port == guest_port => {
                    host.guest_sent += u64::from(len.min(payload_len));
                }
                _ => {}
            }
        }
        self.kick(TX);
    }

    fn read(&mut self, port: usize) {
        let host = &mut self.hosts[port];
        let Some(stream) = &mut host.stream else {
            return;
        };
        let mut buffer = [0; 65_536];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if self.orderly {
                assert!(buffer[..count] == bytes_at(host.host_read, count));
                host.host_read += count as u64;
                assert!(host.host_read <= host.guest_sent);
            }
        }
    }

    /// Any chain, valid or not, anywhere but over the rings.
    fn raw_chain(&mut self, [queue, shape, flags]: [u8; 3], len: u32, place: u32) {
        self.orderly = false;
        let place = u64::from(place);
        let address = match shape & 7 {
            0 => REGION_BYTES - place % 100,
            1 => HIGH_START + REGION_BYTES - place % 100,
            2 => HIGH_START - place % 100,
            3 => u64::MAX - place % 100,
            _ => 0x10_0000 + place % REGION_BYTES,
        };
        let first = Descriptor {
            address,
            len: if shape & 8 == 0 { len % 200 } else { len },
            flags: Flags(u16::from(flags & 7)),
            next: u16::from(shape >> 4),
        };
        let second = Descriptor {
            address: 0x10_0000,
            len: 64,
            flags: Flags(u16::from(flags >> 3 & 7)),
            next: u16::from(flags >> 6),
        };
        let queue = usize::from(queue & 1);
        self.driver.rings[queue].offer_raw(u16::from(shape >> 7), &[first, second]);
        self.kick(queue);
    }

    fn step(&mut self, record: &[u8; RECORD]) {
        let [what, a, b, c, first @ .., _, _, _, _] = *record;
        let [.., e, f, g, h] = *record;
        let (first, second) = (u32::from_le_bytes(first), u32::from_le_bytes([e, f, g, h]));
        let port = usize::from(a) % self.hosts.len();
        match what % 8 {
            0 | 1 => self.packet([a, b, c], first, second),
            2 => {
                let host = &mut self.hosts[port];
                let data = bytes_at(host.host_sent, (first % 70_000) as usize);
                if let Some(Ok(count)) = host.stream.as_mut().map(|stream| stream.write(&data)) {
                    host.host_sent += count as u64;
                }
            }
            3 => self.read(port),
            4 => match (b % 3, &self.hosts[port].stream) {
                (0, _) => self.hosts[port].stream = None,
                (1, Some(stream)) => drop(stream.shutdown(Shutdown::Read)),
                (_, Some(stream)) => drop(stream.shutdown(Shutdown::Write)),
                (_, None) => {}
            },
            5 => {
                let header = u32::from(b % 44) + 1;
                let data = u32::from(c) * 16 + 1;
                self.post(usize::from(a), &[header, 44 - header + data]);
            }
            6 => self.raw_chain([a, b, c], first, second),
            _ => {
                self.features = if a & 1 == 0 {
                    VERSION_1
                } else {
                    VERSION_1 | EVENT_IDX
                };
                self.reset();
            }
        }
        self.settle();
    }
}

fuzz_target!(|input: &[u8]| {
    let mut case = Case::start();
    for record in input.as_chunks::<RECORD>().0.iter().take(RECORDS_MAX) {
        case.step(record);
    }
    // With room for them, all answers come out; a reset of our own ends it.
    case.post(128, &[3776]);
    case.settle();
    case.reset();
    assert_eq!(case.driver.watched(), []);
});
