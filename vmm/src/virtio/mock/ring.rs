//! One split ring as a driver keeps it (virtio 1.2 section 2.7). Used by the mock drivers and by
//! tests that place broken rings; it must not know what the buffers mean.

use std::collections::BTreeMap;
use std::ops::Range;

use vm_memory::{Bytes, GuestAddress};

use crate::GuestMemory;

/// Descriptor flags (section 2.7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u16);

impl Flags {
    /// No flag: the last descriptor of a chain, read by the device.
    pub const NONE: Self = Self(0);
    /// `VIRTQ_DESC_F_NEXT`.
    pub const NEXT: Self = Self(1);
    /// `VIRTQ_DESC_F_WRITE`.
    pub const WRITE: Self = Self(2);
    /// `VIRTQ_DESC_F_INDIRECT`.
    pub const INDIRECT: Self = Self(4);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One descriptor, with any values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// Guest physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// Flags.
    pub flags: Flags,
    /// Index of the next one, when `NEXT` is set.
    pub next: u16,
}

impl Descriptor {
    /// Bytes of a descriptor in its table.
    pub const BYTES: u64 = 16;

    /// As it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.0.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// One buffer of a well-formed chain.
#[derive(Debug, Clone, Copy)]
pub enum Buffer<'a> {
    /// Bytes that the device reads.
    Readable(&'a [u8]),
    /// Room for this many bytes that the device writes; filled with 0xee before.
    Writable(u32),
}

/// What a device gave back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Head of the chain.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub written: u32,
    /// The whole of the chain's writable buffers end to end (empty for a raw chain).
    pub data: Vec<u8>,
}

impl Used {
    /// The part of `data` that the device says it wrote.
    #[must_use]
    pub fn answer(&self) -> &[u8] {
        let written = usize::try_from(self.written).expect("64-bit host");
        &self.data[..written.min(self.data.len())]
    }
}

#[derive(Debug, Default)]
struct InFlight {
    descriptors: Vec<u16>,
    writable: Vec<(u64, u32)>,
}

/// The driver's half of one ring.
#[derive(Debug)]
pub struct Ring {
    memory: GuestMemory,
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    next_available: u16,
    next_used: u16,
    free: Vec<u16>,
    in_flight: BTreeMap<u16, InFlight>,
    buffers: Range<u64>,
    next_buffer: u64,
}

impl Ring {
    /// Bytes of the three tables of a ring, rounded up to pages.
    #[must_use]
    pub fn table_bytes(size: u16) -> u64 {
        let size = u64::from(size);
        // The available ring is at an even address and the used ring at a multiple of four.
        (Descriptor::BYTES * size + (6 + 2 * size).next_multiple_of(4) + 6 + 8 * size)
            .next_multiple_of(4096)
    }

    /// A ring of `size` entries at `start`, whose buffers are allocated from `buffers`.
    #[must_use]
    pub fn new(memory: &GuestMemory, start: u64, size: u16, buffers: Range<u64>) -> Self {
        let available = start + Descriptor::BYTES * u64::from(size);
        Self {
            memory: memory.clone(),
            size,
            descriptors: start,
            available,
            used: available + (6 + 2 * u64::from(size)).next_multiple_of(4),
            next_available: 0,
            next_used: 0,
            free: (0..size).rev().collect(),
            in_flight: BTreeMap::new(),
            next_buffer: buffers.start,
            buffers,
        }
    }

    /// Entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Addresses of the descriptor table, the available and the used ring.
    #[must_use]
    pub fn addresses(&self) -> [u64; 3] {
        [self.descriptors, self.available, self.used]
    }

    /// Forgets all chains, as a driver does after a reset.
    pub fn clear(&mut self) {
        let bytes = usize::try_from(Self::table_bytes(self.size)).expect("64-bit host");
        self.write(self.descriptors, &vec![0; bytes]);
        self.next_available = 0;
        self.next_used = 0;
        self.free = (0..self.size).rev().collect();
        self.in_flight.clear();
        self.next_buffer = self.buffers.start;
    }

    /// Room for `len` bytes at a multiple of 16; when the ring's share of memory is used up it
    /// begins again at the start, over buffers that should long be done.
    pub fn allocate(&mut self, len: u32) -> u64 {
        let mut start = self.next_buffer.next_multiple_of(16);
        if start + u64::from(len) > self.buffers.end {
            start = self.buffers.start;
        }
        assert!(
            start + u64::from(len) <= self.buffers.end,
            "{len} bytes do not fit a mock ring's memory"
        );
        self.next_buffer = start + u64::from(len);
        start
    }

    /// Room for `bytes`, filled with them.
    pub fn place(&mut self, bytes: &[u8]) -> u64 {
        let address = self.allocate(u32::try_from(bytes.len()).expect("a test's buffer"));
        self.write(address, bytes);
        address
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .expect("inside mock memory");
    }

    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("inside mock memory");
        bytes
    }

    fn place_buffer(&mut self, buffer: &Buffer, in_flight: &mut InFlight) -> Descriptor {
        match *buffer {
            Buffer::Readable(bytes) => Descriptor {
                address: self.place(bytes),
                len: u32::try_from(bytes.len()).expect("a test's buffer"),
                ..Descriptor::default()
            },
            Buffer::Writable(len) => {
                let address = self.allocate(len);
                self.write(address, &vec![0xee; usize::try_from(len).expect("64-bit")]);
                in_flight.writable.push((address, len));
                Descriptor {
                    address,
                    len,
                    flags: Flags::WRITE,
                    next: 0,
                }
            }
        }
    }

    /// Makes a chain of `buffers` available and returns its head; `None` when the ring is full.
    pub fn offer(&mut self, buffers: &[Buffer]) -> Option<u16> {
        if buffers.is_empty() || self.free.len() < buffers.len() {
            return None;
        }
        let mut in_flight = InFlight {
            descriptors: self.free.split_off(self.free.len() - buffers.len()),
            writable: Vec::new(),
        };
        in_flight.descriptors.reverse();
        for (position, buffer) in buffers.iter().enumerate() {
            let mut descriptor = self.place_buffer(buffer, &mut in_flight);
            if let Some(next) = in_flight.descriptors.get(position + 1) {
                descriptor.flags = descriptor.flags.and(Flags::NEXT);
                descriptor.next = *next;
            }
            self.set_descriptor(in_flight.descriptors[position], descriptor);
        }
        let head = in_flight.descriptors[0];
        self.in_flight.insert(head, in_flight);
        self.publish(head);
        Some(head)
    }

    /// As [`Self::offer`], through one indirect table.
    pub fn offer_indirect(&mut self, buffers: &[Buffer]) -> Option<u16> {
        let head = self.free.pop()?;
        let mut in_flight = InFlight {
            descriptors: vec![head],
            writable: Vec::new(),
        };
        let mut table = Vec::new();
        for (next, buffer) in (1_u16..).zip(buffers) {
            let mut descriptor = self.place_buffer(buffer, &mut in_flight);
            if usize::from(next) < buffers.len() {
                descriptor.flags = descriptor.flags.and(Flags::NEXT);
                descriptor.next = next;
            }
            table.push(descriptor);
        }
        let (address, len) = self.place_table(&table);
        self.set_descriptor(
            head,
            Descriptor {
                address,
                len,
                flags: Flags::INDIRECT,
                next: 0,
            },
        );
        self.in_flight.insert(head, in_flight);
        self.publish(head);
        Some(head)
    }

    /// Places a table of any descriptors; returns its address and length in bytes.
    pub fn place_table(&mut self, table: &[Descriptor]) -> (u64, u32) {
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_bytes()).collect();
        let len = u32::try_from(bytes.len()).expect("a test's table");
        (self.place(&bytes), len)
    }

    /// Writes the descriptors from index 0 on, whatever they say, and makes `head` available.
    pub fn offer_raw(&mut self, head: u16, descriptors: &[Descriptor]) {
        for (index, descriptor) in (0_u16..).zip(descriptors) {
            self.set_descriptor(index, *descriptor);
        }
        self.publish(head);
    }

    /// Writes one descriptor into the table.
    pub fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        assert!(index < self.size, "descriptor {index} of {}", self.size);
        let address = self.descriptors + Descriptor::BYTES * u64::from(index);
        self.write(address, &descriptor.to_bytes());
    }

    /// Puts `head`, which need not be an index at all, into the available ring.
    pub fn publish(&mut self, head: u16) {
        let slot = u64::from(self.next_available % self.size);
        self.write(self.available + 4 + 2 * slot, &head.to_le_bytes());
        self.set_available_index(self.next_available.wrapping_add(1));
    }

    /// Sets the available ring's index to any value.
    pub fn set_available_index(&mut self, index: u16) {
        self.next_available = index;
        self.write(self.available + 2, &index.to_le_bytes());
    }

    /// Index of the available ring.
    #[must_use]
    pub fn available_index(&self) -> u16 {
        self.next_available
    }

    /// The device's index of the used ring.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        u16::from_le_bytes(self.read(self.used + 2))
    }

    /// Writes `used_event`: interrupt when the used index passes this (with `EVENT_IDX`).
    pub fn set_used_event(&self, index: u16) {
        let address = self.available + 4 + 2 * u64::from(self.size);
        self.write(address, &index.to_le_bytes());
    }

    /// `avail_event`: the device wants a kick when the available index passes this.
    #[must_use]
    pub fn available_event(&self) -> u16 {
        u16::from_le_bytes(self.read(self.used + 4 + 8 * u64::from(self.size)))
    }

    /// Whether the device asked for no kicks (without `EVENT_IDX`).
    #[must_use]
    pub fn kicks_disabled(&self) -> bool {
        u16::from_le_bytes(self.read(self.used)) & 1 != 0
    }

    /// The next chain the device gave back, whose descriptors are free again. Asks for an
    /// interrupt at the next one, as drivers do.
    pub fn take_used(&mut self) -> Option<Used> {
        if self.used_index() == self.next_used {
            return None;
        }
        let slot = u64::from(self.next_used % self.size);
        let entry: [u8; 8] = self.read(self.used + 4 + 8 * slot);
        let [a, b, c, d, e, f, g, h] = entry;
        let head = u16::try_from(u32::from_le_bytes([a, b, c, d])).expect("a head below 2^16");
        let written = u32::from_le_bytes([e, f, g, h]);
        self.next_used = self.next_used.wrapping_add(1);
        self.set_used_event(self.next_used);
        let mut data = Vec::new();
        if let Some(in_flight) = self.in_flight.remove(&head) {
            for (address, len) in in_flight.writable {
                let start = data.len();
                data.resize(start + usize::try_from(len).expect("64-bit"), 0);
                self.memory
                    .read_slice(&mut data[start..], GuestAddress(address))
                    .expect("inside mock memory");
            }
            self.free.extend(in_flight.descriptors.into_iter().rev());
        }
        Some(Used {
            head,
            written,
            data,
        })
    }
}
