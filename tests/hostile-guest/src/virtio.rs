//! Enough of a virtio-mmio driver to bring a device to where it can be misused
//! (virtio 1.2 sections 2.7, 3.1 and 4.2).

use core::sync::atomic::{Ordering, fence};

use crate::machine::{MMIO_START, REGION_LEN, fill, read, write};

/// Slots that are looked at: more than any VM of the tests has.
pub const SLOTS: u64 = 12;

/// Bits of `Status`.
pub const ACKNOWLEDGE: u32 = 1;
pub const DRIVER: u32 = 2;
pub const DRIVER_OK: u32 = 4;
pub const FEATURES_OK: u32 = 8;
pub const NEEDS_RESET: u32 = 64;

/// Device types.
pub const NET: u32 = 1;
pub const BLOCK: u32 = 2;
pub const CONSOLE: u32 = 3;
pub const RNG: u32 = 4;
pub const BALLOON: u32 = 5;
pub const VSOCK: u32 = 19;
pub const FILES: u32 = 26;

/// Flags of a descriptor.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Looks at a used ring for an answer before it is given up: each is an exit, in which the host's
/// event loop has its turn.
const PATIENCE: u32 = 400;

/// The registers of a device.
#[derive(Clone, Copy)]
pub struct Device {
    pub base: u64,
    pub kind: u32,
}

impl Device {
    /// The device in a slot, if there is one.
    pub fn at(slot: u64) -> Option<Self> {
        let base = MMIO_START + slot * REGION_LEN;
        let is_one = read(base, 4) == 0x7472_6976;
        let kind = read(base + 8, 4) as u32;
        (is_one && kind != 0).then_some(Self { base, kind })
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).filter_map(Self::at)
    }

    pub fn get(self, register: u64) -> u32 {
        read(self.base + register, 4) as u32
    }

    pub fn set(self, register: u64, value: u32) {
        write(self.base + register, 4, u64::from(value));
    }

    pub fn status(self) -> u32 {
        self.get(0x70)
    }

    pub fn reset(self) {
        self.set(0x70, 0);
    }

    /// Resets and negotiates, with all that is offered but what `without` has.
    pub fn negotiate(self, without: u64) -> bool {
        self.reset();
        self.set(0x70, ACKNOWLEDGE);
        self.set(0x70, ACKNOWLEDGE | DRIVER);
        for half in 0..2 {
            self.set(0x14, half);
            let offered = self.get(0x10);
            self.set(0x24, half);
            self.set(0x20, offered & !((without >> (32 * half)) as u32));
        }
        self.set(0x70, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.status() & FEATURES_OK != 0
    }

    pub fn start(self) {
        self.set(0x70, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Number of its queues.
    pub fn queues(self) -> u32 {
        (0..16)
            .take_while(|queue| {
                self.set(0x30, *queue);
                self.get(0x34) != 0
            })
            .count() as u32
    }

    /// Sets a queue up at these places.
    pub fn place_queue(self, index: u32, size: u32, places: [u64; 3]) {
        self.set(0x30, index);
        self.set(0x38, size);
        for (register, place) in [0x80, 0x90, 0xa0].into_iter().zip(places) {
            self.set(register, place as u32);
            self.set(register + 4, (place >> 32) as u32);
        }
        self.set(0x44, 1);
    }

    /// Sets a queue up in 64 KiB at `at`, as it should be.
    pub fn queue(self, index: u32, at: u64) -> Queue {
        self.set(0x30, index);
        // Another vCPU may have chosen another queue meanwhile, or none.
        let size = self.get(0x34).clamp(1, 256);
        fill(at, 0x10000, 0);
        let queue = Queue {
            device: self,
            index,
            size: size as u16,
            descriptors: at,
            available: at + 0x4000,
            used: at + 0x8000,
            next: 0,
            seen: 0,
        };
        let places = [queue.descriptors, queue.available, queue.used];
        self.place_queue(index, size, places);
        queue
    }

    /// Negotiates, sets all queues up from `at` on, starts, and returns them. Without event indices:
    /// the driver polls.
    pub fn bring_up(self, at: u64) -> [Option<Queue>; 8] {
        let mut queues = [None; 8];
        if self.negotiate(1 << 29) {
            let count = self.queues();
            for (index, queue) in (0..count).zip(&mut queues) {
                *queue = Some(self.queue(index, at + u64::from(index) * 0x10000));
            }
            self.start();
        }
        queues
    }
}

/// A split virtqueue.
#[derive(Clone, Copy)]
pub struct Queue {
    pub device: Device,
    pub index: u32,
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    next: u16,
    seen: u16,
}

impl Queue {
    /// Writes a descriptor.
    pub fn describe(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = self.descriptors + u64::from(index) * 16;
        write(at, 8, address);
        write(at + 8, 4, u64::from(len));
        write(at + 12, 2, u64::from(flags));
        write(at + 14, 2, u64::from(next));
    }

    /// Writes a chain of buffers from descriptor 0 on: address, length, whether the device writes.
    pub fn chain(&self, buffers: &[(u64, u32, bool)]) {
        self.chain_at(0, buffers);
    }

    /// As [`Self::chain`], from descriptor `first` on.
    pub fn chain_at(&self, first: u16, buffers: &[(u64, u32, bool)]) {
        for (index, (address, len, writes)) in (first..).zip(buffers) {
            let is_last = usize::from(index - first) + 1 == buffers.len();
            let flags = u16::from(!is_last) * NEXT + u16::from(*writes) * WRITE;
            self.describe(index, *address, *len, flags, index + 1);
        }
    }

    /// Makes a chain available.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.next % self.size);
        write(self.available + 4 + slot * 2, 2, u64::from(head));
        self.next = self.next.wrapping_add(1);
        fence(Ordering::SeqCst);
        write(self.available + 2, 2, u64::from(self.next));
    }

    /// Sets the available index to anything.
    pub fn claim(&mut self, index: u16) {
        self.next = index;
        write(self.available + 2, 2, u64::from(index));
    }

    pub fn kick(&self) {
        self.device.set(0x50, self.index);
    }

    /// Waits until the device gave something back or gave up.
    pub fn wait(&mut self) -> bool {
        self.wait_for(PATIENCE)
    }

    /// As [`Self::wait`], for so many looks.
    pub fn wait_for(&mut self, patience: u32) -> bool {
        for _ in 0..patience {
            let used = read(self.used + 2, 2) as u16;
            if used != self.seen {
                self.seen = used;
                return true;
            }
            if self.device.status() & NEEDS_RESET != 0 {
                return false;
            }
        }
        false
    }

    /// Offers the chain at descriptor 0, kicks and waits.
    pub fn send(&mut self) -> bool {
        self.offer(0);
        self.kick();
        self.wait()
    }

    /// Length of the last answer.
    pub fn answered(&self) -> u32 {
        let slot = u64::from(self.seen.wrapping_sub(1) % self.size);
        read(self.used + 4 + slot * 8 + 4, 4) as u32
    }
}
