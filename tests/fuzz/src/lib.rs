//! What fuzz targets share: inputs, archives, frames; and how a target plays its input against a
//! virtio device, as a driver that does anything.
//!
//! ```text
//! input = operation, operation, …      one byte each, then its own bytes; missing ones are 0
//!   0  offer a well-formed chain         count, then per buffer: direction, length 16 (, bytes)
//!   1  the same through a table
//!   2  write a descriptor                index, place, offset 16, length 32, flags, next
//!   3  write a table of the above's kind count, then each; make it available by descriptor 0
//!   4  make a head available             head 16
//!   5  set the available index           index 16
//!   6  write memory                      place, offset 16, length 8, bytes
//!   7  configuration space               offset 8, four bytes
//!   8  kick a queue
//!   9  what the target does besides      a byte
//!  10  reset, start again                features 8
//! ```
//! Every operation but 7, 9 and 10 begins with the queue's number.

pub mod archive;
pub mod frames;
pub mod words;

use std::fs::File;
use std::os::fd::FromRawFd;

use vm_memory::{Bytes, GuestAddress};
use vmm::virtio::Device;
use vmm::virtio::mock::{
    Buffer, Descriptor, DirectDriver, EVENT_IDX, Flags, HIGH_START, REGION_BYTES, Ring, VERSION_1,
};

/// Operations of one input: with more, libFuzzer only grows inputs.
const OPERATIONS_MAX: usize = 64;

/// Buffers or descriptors of one operation.
const CHAIN_MAX: u8 = 20;

/// The bytes of an input, taken one after the other; zeros when they have run out.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of them.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// The next `len` bytes, or fewer at the end.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (now, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        now
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.bytes(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// 16 bits.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// 32 bits.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// An address, mostly in or next to something.
    fn address(&mut self, ring: &Ring) -> u64 {
        let place = self.byte();
        let offset = u64::from(self.half());
        match place % 8 {
            0 | 1 => ring.addresses()[2] + 0x1_0000 + offset,
            2 => HIGH_START + offset * 64,
            3 => REGION_BYTES.wrapping_sub(0x8000).wrapping_add(offset),
            4 => (HIGH_START - 0x8000) + offset,
            5 => (HIGH_START + REGION_BYTES - 0x8000) + offset,
            6 => ring.addresses()[0] + offset,
            _ => u64::MAX - offset,
        }
    }

    fn descriptor(&mut self, ring: &Ring) -> Descriptor {
        Descriptor {
            address: self.address(ring),
            len: self.word(),
            flags: Flags(u16::from(self.byte())),
            next: u16::from(self.byte()),
        }
    }
}

/// An empty file in memory.
pub fn memory_file() -> File {
    // SAFETY: a valid name; the descriptor that is returned belongs to nobody else.
    unsafe {
        let fd = libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "memfd_create");
        File::from_raw_fd(fd)
    }
}

/// Plays `input`. `besides` does what only this device knows.
pub fn play<D: Device>(
    driver: &mut DirectDriver<D>,
    input: &mut Input,
    mut besides: impl FnMut(&mut DirectDriver<D>, u8),
) {
    start(driver, input.byte());
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            return;
        }
        match input.byte() % 11 {
            7 => {
                let offset = u64::from(input.byte());
                let bytes = input.array::<4>();
                driver.config.write_from_driver(offset, &bytes);
            }
            9 => besides(driver, input.byte()),
            10 => {
                driver.reset();
                start(driver, input.byte());
            }
            operation => {
                let queue = usize::from(input.byte()) % driver.rings.len();
                on_queue(driver, input, queue, operation);
            }
        }
    }
}

fn start<D: Device>(driver: &mut DirectDriver<D>, features: u8) {
    let event_idx = if features & 1 == 0 { 0 } else { EVENT_IDX };
    let own = if features & 2 == 0 {
        0
    } else {
        driver.device.features()
    };
    driver
        .activate(VERSION_1 | event_idx | own)
        .expect("a device starts with any of its features");
}

fn on_queue<D: Device>(
    driver: &mut DirectDriver<D>,
    input: &mut Input,
    queue: usize,
    operation: u8,
) {
    let ring = &mut driver.rings[queue];
    match operation {
        0 | 1 => offer(ring, input, operation == 1),
        2 => {
            let index = u16::from(input.byte()) % ring.size();
            let descriptor = input.descriptor(ring);
            ring.set_descriptor(index, descriptor);
        }
        3 => {
            let count = input.byte() % CHAIN_MAX;
            let table: Vec<_> = (0..count).map(|_| input.descriptor(ring)).collect();
            let (address, len) = ring.place_table(&table);
            let descriptor = Descriptor {
                address,
                len,
                flags: Flags::INDIRECT,
                next: 0,
            };
            ring.offer_raw(0, &[descriptor]);
        }
        4 => ring.publish(input.half()),
        5 => ring.set_available_index(input.half()),
        6 => {
            let address = input.address(ring);
            let len = usize::from(input.byte());
            // Outside of memory a guest's write goes nowhere, either.
            let _ = driver
                .memory
                .write_slice(input.bytes(len), GuestAddress(address));
        }
        _ => {
            if driver.run(queue).is_err() {
                // As the worker does: no service until the driver resets.
                driver.reset();
                start(driver, 0);
            }
        }
    }
}

fn offer(ring: &mut Ring, input: &mut Input, indirect: bool) {
    let count = input.byte() % CHAIN_MAX;
    let mut buffers = Vec::new();
    for _ in 0..count {
        let writable = input.byte() & 1 == 1;
        let len = input.half();
        buffers.push(if writable {
            Buffer::Writable(u32::from(len))
        } else {
            Buffer::Readable(input.bytes(usize::from(len)))
        });
    }
    // A full ring takes no more; the input goes on.
    if indirect {
        ring.offer_indirect(&buffers);
    } else {
        ring.offer(&buffers);
    }
}
