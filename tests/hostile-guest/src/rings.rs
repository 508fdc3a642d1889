//! Rings that break the rules of virtio 1.2 section 2.7, on every queue of every device.

use crate::machine::{MMIO_START, RAM_END, SCRATCH, fill, write};
use crate::say;
use crate::virtio::{Device, INDIRECT, NEXT, Queue, WRITE};

/// Where the rings of a device lie, where buffers do.
const RINGS: u64 = SCRATCH;
const BUFFERS: u64 = SCRATCH + (1 << 20);

/// A buffer of a device that is long, and lies in memory.
const LONG: u32 = 8 << 20;

/// Breaks a rule.
type Spoil = fn(&mut Queue);

/// What is done to a queue that was set up well.
const BAD: &[(&str, Spoil)] = &[
    ("a loop of two", |queue| {
        queue.describe(0, BUFFERS, 16, NEXT, 1);
        queue.describe(1, BUFFERS, 16, NEXT, 0);
        queue.offer(0);
    }),
    ("a loop of one that is written", |queue| {
        queue.describe(0, BUFFERS, 16, NEXT | WRITE, 0);
        queue.offer(0);
    }),
    ("a next one out of range", |queue| {
        queue.describe(0, BUFFERS, 16, NEXT, 0xffff);
        queue.offer(0);
    }),
    ("a head out of range", |queue| queue.offer(queue.size)),
    ("the last head there is", |queue| queue.offer(0xffff)),
    ("an index that runs ahead", |queue| {
        queue.claim(queue.size + 1);
    }),
    ("an index that is far away", |queue| queue.claim(0x8000)),
    ("an index that goes back", |queue| queue.claim(0xffff)),
    ("a buffer at the end of memory", |queue| {
        queue.chain(&[(RAM_END - 8, 8, false), (RAM_END - 8, 8, true)]);
        queue.offer(0);
    }),
    ("a buffer over the end of memory", |queue| {
        queue.chain(&[(RAM_END - 8, 4096, false), (RAM_END - 8, 4096, true)]);
        queue.offer(0);
    }),
    ("a buffer where registers are", |queue| {
        queue.chain(&[(MMIO_START, 4096, false), (MMIO_START, 4096, true)]);
        queue.offer(0);
    }),
    ("a buffer at the end of all addresses", |queue| {
        queue.chain(&[(u64::MAX, 16, false), (u64::MAX - 7, u32::MAX, true)]);
        queue.offer(0);
    }),
    ("empty buffers", |queue| {
        queue.chain(&[(0, 0, false), (BUFFERS, 0, false), (u64::MAX, 0, true)]);
        queue.offer(0);
    }),
    ("a buffer of 4 GiB", |queue| {
        queue.chain(&[(BUFFERS, u32::MAX, false), (BUFFERS, u32::MAX, true)]);
        queue.offer(0);
    }),
    (
        "all of memory, as often as there are descriptors",
        |queue| {
            for index in 0..queue.size {
                queue.describe(index, BUFFERS, LONG, NEXT, (index + 1) % queue.size);
            }
            queue.describe(queue.size - 1, BUFFERS, LONG, 0, 0);
            queue.offer(0);
        },
    ),
    ("the same, to be written", |queue| {
        for index in 0..queue.size {
            queue.describe(index, BUFFERS, LONG, NEXT | WRITE, (index + 1) % queue.size);
        }
        queue.describe(queue.size - 1, BUFFERS, LONG, WRITE, 0);
        queue.offer(0);
    }),
    ("read after written", |queue| {
        queue.chain(&[(BUFFERS, 64, true), (BUFFERS, 64, false)]);
        queue.offer(0);
    }),
    ("an indirect table that was not agreed on", |queue| {
        queue.describe(0, BUFFERS, 4096, INDIRECT, 0);
        queue.offer(0);
    }),
    ("an indirect table of half a descriptor", |queue| {
        queue.describe(0, BUFFERS, 15, INDIRECT, 0);
        queue.offer(0);
    }),
    ("an indirect table in itself", |queue| {
        queue.describe(0, queue.descriptors, 4096, INDIRECT | NEXT, 0);
        queue.offer(0);
    }),
    ("an indirect table of 4 GiB", |queue| {
        queue.describe(0, BUFFERS, 0xffff_fff0, INDIRECT, 0);
        queue.offer(0);
    }),
    ("a buffer over its own rings", |queue| {
        queue.chain(&[(RINGS, 0x10000, false), (RINGS, 0x10000, true)]);
        queue.offer(0);
    }),
    ("the same chain all over the ring", |queue| {
        queue.chain(&[(BUFFERS, 64, false), (BUFFERS, 64, true)]);
        for _ in 0..queue.size {
            queue.offer(0);
        }
    }),
    ("flags that do not exist", |queue| {
        queue.describe(0, BUFFERS, 64, 0xfff8, 0);
        queue.offer(0);
    }),
    ("another size while it runs", |queue| {
        queue.device.set(0x30, queue.index);
        for size in [0, 1, 3, 0x8000, 0xffff, u32::MAX] {
            queue.device.set(0x38, size);
            queue.offer(0);
            queue.kick();
        }
    }),
    ("another place while it runs", |queue| {
        queue.device.set(0x30, queue.index);
        for register in [0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
            queue.device.set(register, u32::MAX << 12);
            queue.offer(0);
            queue.kick();
        }
    }),
    ("not ready while it runs", |queue| {
        queue.device.set(0x30, queue.index);
        queue.device.set(0x44, 0);
        queue.offer(0);
    }),
    ("random flags of the rings", |queue| {
        write(queue.available, 2, 0xffff);
        write(queue.used, 2, 0xffff);
        queue.offer(0);
    }),
];

/// Places of descriptor table, available and used ring that are set before the device starts.
const BAD_PLACES: &[(&str, [u64; 3])] = &[
    ("all the same", [RINGS, RINGS, RINGS]),
    (
        "used over available",
        [RINGS, RINGS + 0x4000, RINGS + 0x4000],
    ),
    ("used over descriptors", [RINGS, RINGS + 0x4000, RINGS]),
    (
        "descriptors end with memory",
        [RAM_END - 4096, RINGS, RINGS + 0x4000],
    ),
    (
        "descriptors over the end",
        [RAM_END - 16, RINGS, RINGS + 0x4000],
    ),
    (
        "available over the end",
        [RINGS, RAM_END - 4, RINGS + 0x4000],
    ),
    ("used over the end", [RINGS, RINGS + 0x4000, RAM_END - 4]),
    (
        "descriptors in registers",
        [MMIO_START, RINGS, RINGS + 0x4000],
    ),
    ("used in registers", [RINGS, RINGS + 0x4000, MMIO_START]),
    ("the end of all addresses", [!0xf, !0x1, !0x3]),
    ("nowhere", [0, 0, 0]),
    ("not aligned", [RINGS + 1, RINGS + 0x4001, RINGS + 0x8001]),
];

/// Each bad ring on each queue of each device; a reset brings the device back each time.
pub fn bad_ones() {
    let mut tried = 0_u32;
    for device in Device::all() {
        let before = tried;
        device.negotiate(0);
        let queues = device.queues();
        for index in 0..queues {
            for (name, spoil) in BAD {
                let brought_up = device.bring_up(RINGS);
                let Some(mut queue) = brought_up[index as usize] else {
                    continue;
                };
                spoil(&mut queue);
                queue.kick();
                queue.wait();
                check(device, name);
                tried += 1;
            }
            for size in [0, 1, 3, 8, 256, 0x8000, 0xffff, u32::MAX] {
                for (name, places) in BAD_PLACES {
                    fill(RINGS, 0x10000, 0);
                    device.negotiate(0);
                    device.place_queue(index, size, *places);
                    device.start();
                    device.set(0x50, index);
                    check(device, name);
                    tried += 1;
                }
            }
        }
        let these = tried - before;
        say!(
            "hostile: device {} had {these} on {queues} queues",
            device.kind
        );
    }
    say!("hostile: {tried} bad rings");
}

fn check(device: Device, name: &str) {
    device.reset();
    let whole = device.status() == 0 && device.get(0) == 0x7472_6976;
    assert!(whole, "device {} after {name}", device.kind);
}
