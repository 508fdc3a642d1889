//! Every case of the arithmetic on numbers that a guest chooses, in place of a model checker: indexes of
//! rings, shapes of descriptor chains, buffers at the borders of guest memory. Each is compared with what
//! the specification says, written down a second time in the plainest way.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use super::mock::{Buffer, Descriptor, Flags, HIGH_START, REGION_BYTES, Ring, guest_memory};
use super::{Buffers, ConfigSpace, Interrupt, Io, Watch};
use crate::GuestMemory;

const RING: u64 = 0x1_0000;
const BUFFERS: std::ops::Range<u64> = 0x20_0000..0x40_0000;

fn ring(memory: &GuestMemory, size: u16) -> (Ring, Queue) {
    let ring = Ring::new(memory, RING, size, BUFFERS);
    let mut queue = Queue::new(size).unwrap();
    let [descriptors, available, used] = ring.addresses().map(|at| u32::try_from(at).ok());
    queue.set_desc_table_address(descriptors, None);
    queue.set_avail_ring_address(available, None);
    queue.set_used_ring_address(used, None);
    queue.set_ready(true);
    (ring, queue)
}

/// Chains that are completed together land in the slots that follow, modulo the size, and the index counts
/// on modulo 2^16 (virtio 1.2 section 2.7.8): each size that a device has, each index, one and two chains.
#[test]
fn used_indexes_of_every_size() {
    let memory = guest_memory();
    let irqfd = EventFd::new(0).unwrap();
    let interrupt = Interrupt::new(irqfd, Arc::new(AtomicU32::new(0)));
    let config = ConfigSpace::new(Vec::new(), 0..0);
    for size in (0..=8).map(|power| 1_u16 << power) {
        let (ring, queue) = ring(&memory, size);
        let [_, _, used] = ring.addresses();
        let mut queues = [queue];
        for index in 0..=u16::MAX {
            for chains in [&[(0, 70)][..], &[(0, 50), (1, 60)]] {
                if chains.len() > usize::from(size) {
                    continue;
                }
                queues[0].set_next_used(index);
                let (mut watch, mut unfinished) = (Watch::default(), Vec::new());
                let mut io = Io::new(
                    &memory,
                    &mut queues,
                    &interrupt,
                    &config,
                    &mut watch,
                    &mut unfinished,
                );
                io.complete_all(0, chains).unwrap();
                let mut expected = index;
                for (head, written) in chains {
                    let slot = u64::from(expected % size);
                    let at = GuestAddress(used + 4 + 8 * slot);
                    let element: [u32; 2] = memory.read_obj(at).unwrap();
                    assert_eq!(element, [u32::from(*head), *written], "{size} {index}");
                    expected = expected.wrapping_add(1);
                }
                let told: u16 = memory.read_obj(GuestAddress(used + 2)).unwrap();
                assert_eq!((told, queues[0].next_used()), (expected, expected));
            }
        }
    }
}

/// What a chain of these descriptors comes to: bytes to read and to write, or how its refusal begins.
fn walk(table: &[Descriptor; 4]) -> Result<(u64, u64), &'static str> {
    const BROKEN: &str = "queue 0: a chain loops";
    let (mut readable, mut writable) = (0, 0);
    let mut index = 0;
    // More steps than there are descriptors are a loop.
    for _ in 0..table.len() {
        let descriptor = table.get(index).ok_or(BROKEN)?;
        let has = |flag: Flags| descriptor.flags.0 & flag.0 != 0;
        // A table of 8 bytes is none.
        if has(Flags::INDIRECT) {
            return Err(BROKEN);
        }
        match has(Flags::WRITE) {
            true => writable += u64::from(descriptor.len),
            false if writable > 0 => return Err("queue 0: a chain has bytes to read after"),
            false => readable += u64::from(descriptor.len),
        }
        if !has(Flags::NEXT) {
            return Ok((readable, writable));
        }
        index = usize::from(descriptor.next);
    }
    Err(BROKEN)
}

/// Three descriptors with each combination of flags, each leading to each entry of a ring of four and
/// beside it.
#[test]
fn chains_of_every_shape() {
    let memory = guest_memory();
    let (mut ring, mut queue) = ring(&memory, 4);
    let choices: Vec<_> = (0..8)
        .flat_map(|flags| (0..=4).map(move |next| (Flags(flags), next)))
        .collect();
    let descriptor = |(flags, next): (Flags, u16)| Descriptor {
        address: BUFFERS.start,
        len: 8,
        flags,
        next,
    };
    let last = descriptor((Flags::NONE, 0));
    let mut good = 0;
    for first in &choices {
        for second in &choices {
            for third in &choices {
                let table = [
                    descriptor(*first),
                    descriptor(*second),
                    descriptor(*third),
                    last,
                ];
                ring.offer_raw(0, &table);
                let chain = queue.iter(&memory).unwrap().next().unwrap();
                let found = Buffers::read(0, chain)
                    .map(|buffers| (buffers.readable.len(), buffers.writable.len()))
                    .map_err(|error| error.to_string());
                match (walk(&table), found) {
                    (Ok(expected), Ok(found)) => {
                        good += 1;
                        assert_eq!(found, expected, "{table:?}");
                    }
                    (Err(expected), Err(found)) => {
                        assert!(found.starts_with(expected), "{found}: {table:?}");
                    }
                    (expected, found) => panic!("{found:?}, not {expected:?}: {table:?}"),
                }
            }
        }
    }
    assert!(good > 0, "each shape is refused");
}

/// Buffers of all lengths around each border of memory, and where the sum of address and length wraps.
#[test]
fn buffers_at_every_border() {
    let memory = guest_memory();
    let (mut ring, mut queue) = ring(&memory, 4);
    let borders = [
        0,
        REGION_BYTES,
        HIGH_START,
        HIGH_START + REGION_BYTES,
        u64::MAX,
    ];
    let regions = [(0, REGION_BYTES), (HIGH_START, HIGH_START + REGION_BYTES)];
    let region = u32::try_from(REGION_BYTES).unwrap();
    let lengths = (1..=9)
        .chain(region - 4..=region + 4)
        .chain(u32::MAX - 4..=u32::MAX);
    for len in lengths {
        for border in borders {
            for address in border.saturating_sub(9)..=border.saturating_add(9) {
                let span = Descriptor {
                    address,
                    len,
                    ..Descriptor::default()
                };
                ring.offer_raw(0, &[span]);
                let chain = queue.iter(&memory).unwrap().next().unwrap();
                let mut spans = Buffers::read(0, chain).unwrap().readable;
                let end = u128::from(address) + u128::from(len);
                let is_inside =
                    |(from, to): &(u64, u64)| *from <= address && end <= u128::from(*to);
                let inside = regions.iter().any(is_inside);
                let what = format!("{address:#x} + {len}");
                match spans.slices(&memory) {
                    Ok(slices) => {
                        assert!(inside, "{what}");
                        let sum: usize = slices.iter().map(VolatileSlice::len).sum();
                        assert_eq!(u32::try_from(sum).unwrap(), len, "{what}");
                    }
                    Err(_) => assert!(!inside, "{what}"),
                }
                // Nothing is done to memory here, so no number may overflow.
                let byte = spans.take_last_byte().unwrap();
                assert_eq!(
                    u128::from(byte.0),
                    (end - 1).min(u128::from(u64::MAX)),
                    "{what}"
                );
                spans.advance(u64::from(len / 2));
                assert_eq!(spans.len(), u64::from(len - 1 - len / 2), "{what}");
            }
        }
    }
}

/// Every way to cut up to three buffers of up to four bytes: off the front, to a length, both.
#[test]
fn cuts_of_every_length() {
    let memory = guest_memory();
    let (mut ring, mut queue) = ring(&memory, 4);
    let bytes = b"abcdefghijkl";
    for cut in 0..5_usize.pow(3) {
        let lengths = [cut % 5, cut / 5 % 5, cut / 25];
        let mut rest = bytes.as_slice();
        let parts = lengths.map(|len| {
            let (now, later) = rest.split_at(len);
            rest = later;
            Buffer::Readable(now)
        });
        let all: usize = lengths.iter().sum();
        ring.offer(&parts).unwrap();
        let chain = queue.iter(&memory).unwrap().next().unwrap();
        let whole = Buffers::read(0, chain).unwrap().readable;
        for front in 0..=all + 1 {
            for length in 0..=all + 1 {
                let mut spans = whole.clone();
                spans.advance(u64::try_from(front).unwrap());
                spans.truncate(u64::try_from(length).unwrap());
                let from = front.min(all);
                let expected = &bytes[from..(from + length).min(all)];
                assert_eq!(spans.len(), u64::try_from(expected.len()).unwrap());
                for byte in expected {
                    assert_eq!(spans.take_front::<1>(&memory).unwrap(), Some([*byte]));
                }
                assert_eq!(spans.take_front::<1>(&memory).unwrap(), None);
                assert!(spans.is_empty());
            }
        }
        ring.clear();
        queue.set_next_avail(0);
    }
}
