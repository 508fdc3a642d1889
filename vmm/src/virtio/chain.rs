//! Reads a whole descriptor chain and checks its shape, so that a device only ever sees the bytes
//! it may read and the bytes it may write, in order and no matter how the driver cut them up
//! (virtio 1.2 section 2.7.4.1). Every device but vsock calls it, which has a parser of its own.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::{Chain, DeviceError};
use crate::GuestMemory;

/// Descriptors of one chain. Linux's drivers make chains of 256 at most, where that many are
/// announced (block: 254 segments, a header and a status byte).
pub const DESCRIPTORS_MAX: usize = 256;

/// One buffer in guest memory, not yet known to lie in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    address: GuestAddress,
    len: u32,
}

/// Bytes of guest memory, end to end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spans {
    spans: Vec<Span>,
    /// Spans taken off the front.
    taken: usize,
}

/// Something lies, at least in part, outside of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a buffer is not in guest memory")]
pub struct OutsideMemory;

impl Spans {
    fn rest(&self) -> &[Span] {
        self.spans.get(self.taken..).unwrap_or_default()
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        // 256 lengths of 32 bits are far below 2^64.
        self.rest().iter().map(|span| u64::from(span.len)).sum()
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// Takes `N` bytes off the front and reads them once.
    ///
    /// # Errors
    /// [`OutsideMemory`]; `Ok(None)` when there are fewer.
    pub fn take_front<const N: usize>(
        &mut self,
        memory: &GuestMemory,
    ) -> Result<Option<[u8; N]>, OutsideMemory> {
        let mut bytes = [0; N];
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let Some(span) = self.spans.get_mut(self.taken) else {
                return Ok(None);
            };
            let len = usize::try_from(span.len).map_or(rest.len(), |len| len.min(rest.len()));
            let (now, later) = rest.split_at_mut(len);
            memory
                .read_slice(now, span.address)
                .map_err(|_| OutsideMemory)?;
            rest = later;
            span.drop_front(len);
            if span.len == 0 {
                self.taken += 1;
            }
        }
        Ok(Some(bytes))
    }

    /// Takes `bytes` bytes off the front, or what there is.
    pub fn advance(&mut self, bytes: u64) {
        let mut left = bytes;
        while let Some(span) = self.spans.get_mut(self.taken) {
            if left < u64::from(span.len) {
                span.drop_front(usize::try_from(left).unwrap_or(0));
                return;
            }
            left -= u64::from(span.len);
            self.taken += 1;
        }
    }

    /// Puts others behind these.
    pub fn append(&mut self, mut others: Self) {
        others.spans.drain(..others.taken);
        self.spans.append(&mut others.spans);
    }

    /// Takes the last byte off and returns its address.
    pub fn take_last_byte(&mut self) -> Option<GuestAddress> {
        if self.is_empty() {
            return None;
        }
        let span = self.spans.last_mut()?;
        span.len -= 1;
        // Where the sum overflows there is no memory: what uses the address then finds that out.
        let address = GuestAddress(span.address.0.saturating_add(u64::from(span.len)));
        if span.len == 0 {
            self.spans.pop();
        }
        Some(address)
    }

    /// Leaves `bytes` bytes at the front, or what there is.
    pub fn truncate(&mut self, bytes: u64) {
        let mut left = bytes;
        self.spans.drain(..self.taken);
        self.taken = 0;
        for span in &mut self.spans {
            span.len = u32::try_from(left).map_or(span.len, |left| span.len.min(left));
            left -= u64::from(span.len);
        }
        self.spans.retain(|span| span.len > 0);
    }

    /// The memory itself.
    ///
    /// # Errors
    /// [`OutsideMemory`].
    pub fn slices<'m>(
        &self,
        memory: &'m GuestMemory,
    ) -> Result<Vec<VolatileSlice<'m>>, OutsideMemory> {
        let mut slices = Vec::with_capacity(self.rest().len());
        for span in self.rest() {
            let len = usize::try_from(span.len).map_err(|_| OutsideMemory)?;
            for slice in memory.get_slices(span.address, len) {
                slices.push(slice.map_err(|_| OutsideMemory)?);
            }
        }
        Ok(slices)
    }
}

impl Span {
    fn drop_front(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(self.len).min(self.len);
        self.len -= bytes;
        // Saturates only where there is no memory, and then nothing was read from here.
        self.address = GuestAddress(self.address.0.saturating_add(u64::from(bytes)));
    }
}

/// A chain of the right shape.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Buffers {
    /// What the device may read.
    pub readable: Spans,
    /// What the device may write; comes after all of the first (section 2.7.4.2).
    pub writable: Spans,
}

impl Buffers {
    /// Reads `chain` of `queue` to its end.
    ///
    /// # Errors
    /// [`DeviceError::Request`] when it is broken off (a loop, an index outside the table, a table
    /// outside memory, tables within tables), too long, or mixes the two directions up.
    pub fn read(queue: usize, chain: Chain) -> Result<Self, DeviceError> {
        let broken = |reason| DeviceError::Request { queue, reason };
        let mut buffers = Self::default();
        let mut writing = false;
        // The iterator says "no more" both at the end of a chain and where it is broken; what was
        // announced before tells them apart.
        let mut more = true;
        for (count, descriptor) in chain.enumerate() {
            if count == DESCRIPTORS_MAX {
                return Err(broken("a chain has more than 256 descriptors"));
            }
            more = descriptor.has_next();
            let span = Span {
                address: descriptor.addr(),
                len: descriptor.len(),
            };
            let list = if descriptor.is_write_only() {
                writing = true;
                &mut buffers.writable
            } else if writing {
                return Err(broken("a chain has bytes to read after bytes to write"));
            } else {
                &mut buffers.readable
            };
            if span.len > 0 {
                list.spans.push(span);
            }
        }
        if more {
            return Err(broken(
                "a chain loops, leaves its descriptor table or exceeds 4 GiB",
            ));
        }
        Ok(buffers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::mock::{
        Buffer, Descriptor, Flags, HIGH_START, REGION_BYTES, Ring, guest_memory,
    };
    use virtio_queue::{Queue, QueueOwnedT, QueueT};

    const RING: u64 = 0x1000;

    fn ring(memory: &GuestMemory) -> (Ring, Queue) {
        let ring = Ring::new(memory, RING, 16, 0x1_0000..0x20_0000);
        let mut queue = Queue::new(16).unwrap();
        let [descriptors, available, used] = ring.addresses().map(|a| u32::try_from(a).ok());
        queue.set_desc_table_address(descriptors, None);
        queue.set_avail_ring_address(available, None);
        queue.set_used_ring_address(used, None);
        queue.set_ready(true);
        (ring, queue)
    }

    fn read(memory: &GuestMemory, queue: &mut Queue) -> Result<Buffers, DeviceError> {
        Buffers::read(0, queue.iter(memory).unwrap().next().unwrap())
    }

    fn raw(descriptors: &[Descriptor]) -> Result<Buffers, DeviceError> {
        let memory = guest_memory();
        let (mut ring, mut queue) = ring(&memory);
        ring.offer_raw(0, descriptors);
        read(&memory, &mut queue)
    }

    fn descriptor(flags: Flags, next: u16) -> Descriptor {
        Descriptor {
            address: 0x1_0000,
            len: 8,
            flags,
            next,
        }
    }

    const BROKEN: &str = "queue 0: a chain loops, leaves its descriptor table or exceeds 4 GiB";

    #[test]
    fn the_cut_of_the_buffers_does_not_matter() {
        let memory = guest_memory();
        let (mut ring, mut queue) = ring(&memory);
        let whole = [Buffer::Readable(b"headerdata"), Buffer::Writable(9)];
        let cut = [
            Buffer::Readable(b"he"),
            Buffer::Readable(b""),
            Buffer::Readable(b"aderd"),
            Buffer::Readable(b"ata"),
            Buffer::Writable(8),
            Buffer::Writable(1),
            Buffer::Writable(0),
        ];
        ring.offer(&whole).unwrap();
        ring.offer(&cut).unwrap();
        ring.offer_indirect(&cut).unwrap();
        for _ in 0..3 {
            let mut buffers = read(&memory, &mut queue).unwrap();
            assert_eq!((buffers.readable.len(), buffers.writable.len()), (10, 9));
            let header = buffers.readable.take_front::<6>(&memory).unwrap();
            assert_eq!(header, Some(*b"header"));
            let slices = buffers.readable.slices(&memory).unwrap();
            assert_eq!(slices.iter().map(VolatileSlice::len).sum::<usize>(), 4);
            let data = buffers.readable.take_front::<4>(&memory).unwrap();
            assert_eq!(data, Some(*b"data"));
            assert!(buffers.readable.is_empty());
            assert_eq!(buffers.readable.take_front::<1>(&memory).unwrap(), None);
            for left in (0..9).rev() {
                buffers.writable.take_last_byte().unwrap();
                assert_eq!(buffers.writable.len(), left);
            }
            assert_eq!(buffers.writable.take_last_byte(), None);
        }
    }

    #[test]
    fn spans_are_cut_to_a_length() {
        let memory = guest_memory();
        let (mut ring, mut queue) = ring(&memory);
        let cut = [b"abc".as_slice(), b"de", b"fgh"].map(Buffer::Readable);
        for (bytes, left) in [
            (0, 0),
            (2, 2),
            (3, 3),
            (4, 4),
            (7, 7),
            (100, 7),
            (u64::MAX, 7),
        ] {
            ring.offer(&cut).unwrap();
            let mut spans = read(&memory, &mut queue).unwrap().readable;
            assert_eq!(spans.take_front::<1>(&memory).unwrap(), Some(*b"a"));
            spans.truncate(bytes);
            assert_eq!(spans.len(), left);
            if left > 3 {
                assert_eq!(spans.take_front::<4>(&memory).unwrap(), Some(*b"bcde"));
            }
            assert!(ring.take_used().is_none());
            ring.clear();
            queue.set_next_avail(0);
        }
    }

    #[test]
    fn broken_chains_are_told_from_short_ones() {
        let fine = raw(&[descriptor(Flags::NEXT, 1), descriptor(Flags::WRITE, 0)]).unwrap();
        assert_eq!((fine.readable.len(), fine.writable.len()), (8, 8));
        for chain in [
            // A loop, a loop of one, an index outside the ring.
            vec![descriptor(Flags::NEXT, 1), descriptor(Flags::NEXT, 0)],
            vec![descriptor(Flags::NEXT, 0)],
            vec![descriptor(Flags::NEXT, 16)],
            vec![descriptor(Flags::NEXT, u16::MAX)],
            // 4 GiB in all.
            vec![
                Descriptor {
                    len: u32::MAX,
                    ..descriptor(Flags::NEXT, 1)
                },
                Descriptor {
                    len: u32::MAX,
                    ..descriptor(Flags::NONE, 0)
                },
            ],
            // Tables: empty, cut off, outside memory, with a loop.
            vec![Descriptor {
                len: 0,
                ..descriptor(Flags::INDIRECT, 0)
            }],
            vec![Descriptor {
                len: 24,
                ..descriptor(Flags::INDIRECT, 0)
            }],
            vec![Descriptor {
                address: REGION_BYTES,
                len: 16,
                ..descriptor(Flags::INDIRECT, 0)
            }],
            vec![Descriptor {
                address: u64::MAX,
                len: 16,
                ..descriptor(Flags::INDIRECT, 0)
            }],
            vec![
                Descriptor {
                    address: RING,
                    len: 32,
                    ..descriptor(Flags::INDIRECT, 0)
                },
                descriptor(Flags::NEXT, 1),
            ],
        ] {
            assert_eq!(raw(&chain).unwrap_err().to_string(), BROKEN, "{chain:?}");
        }
    }

    #[test]
    fn a_head_outside_the_ring_is_broken() {
        let memory = guest_memory();
        let (mut ring, mut queue) = ring(&memory);
        ring.publish(16);
        assert_eq!(read(&memory, &mut queue).unwrap_err().to_string(), BROKEN);
    }

    #[test]
    fn a_table_in_a_table_is_broken() {
        let memory = guest_memory();
        let (mut ring, mut queue) = ring(&memory);
        let (inner, _) = ring.place_table(&[descriptor(Flags::NONE, 0)]);
        let (outer, len) = ring.place_table(&[
            descriptor(Flags::NEXT, 1),
            Descriptor {
                address: inner,
                len: 16,
                flags: Flags::INDIRECT,
                next: 0,
            },
        ]);
        ring.offer_raw(
            0,
            &[Descriptor {
                address: outer,
                len,
                flags: Flags::INDIRECT,
                next: 0,
            }],
        );
        assert_eq!(read(&memory, &mut queue).unwrap_err().to_string(), BROKEN);
    }

    #[test]
    fn a_chain_has_a_limit_and_one_direction_change() {
        let memory = guest_memory();
        let (mut ring, mut queue) = ring(&memory);
        let long = vec![Buffer::Readable(b"x"); DESCRIPTORS_MAX];
        ring.offer_indirect(&long).unwrap();
        let buffers = read(&memory, &mut queue).unwrap();
        assert_eq!(buffers.readable.len(), 256);
        let longer = vec![Buffer::Readable(b"x"); DESCRIPTORS_MAX + 1];
        ring.offer_indirect(&longer).unwrap();
        assert_eq!(
            read(&memory, &mut queue).unwrap_err().to_string(),
            "queue 0: a chain has more than 256 descriptors"
        );
        for len in [0, 1] {
            let mixed = [
                Buffer::Readable(b"x"),
                Buffer::Writable(len),
                Buffer::Readable(b"y"),
            ];
            ring.offer(&mixed).unwrap();
            assert_eq!(
                read(&memory, &mut queue).unwrap_err().to_string(),
                "queue 0: a chain has bytes to read after bytes to write"
            );
        }
    }

    #[test]
    fn spans_outside_memory_are_found_when_they_are_used() {
        for (address, len) in [
            (REGION_BYTES, 4),
            (REGION_BYTES - 2, 4),
            (HIGH_START - 1, 4),
            (HIGH_START + REGION_BYTES - 3, 4),
            (u64::MAX, 4),
            (u64::MAX - 3, 4),
            (0, u32::MAX),
        ] {
            let chain = [Descriptor {
                address,
                len,
                ..descriptor(Flags::NONE, 0)
            }];
            let memory = guest_memory();
            let mut buffers = raw(&chain).unwrap();
            assert_eq!(
                buffers.readable.slices(&memory).unwrap_err(),
                OutsideMemory,
                "{chain:?}"
            );
            assert!(buffers.readable.take_last_byte().is_some());
            if len == 4 {
                let front = buffers.readable.take_front::<3>(&memory);
                let inside = memory.check_range(GuestAddress(address), 3);
                assert_eq!(front.is_ok(), inside, "{chain:?}");
            }
        }
    }
}
