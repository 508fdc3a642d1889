//! Descriptor chains as checked slices of guest memory, split into packet header and payload.
//!
//! Used by the device for both queues. Every descriptor is bounds-checked here and nowhere else;
//! a driver may split a packet over descriptors as it likes (virtio 1.2 section 2.7.4), so
//! nothing here assumes that the header has a descriptor of its own.

use vm_memory::{Bytes, GuestMemory as _, Permissions, VolatileSlice};

use super::packet::{HEADER_BYTES, Header};
use crate::GuestMemory;
use crate::virtio::Chain;

/// Descriptors that one chain may have: no chain is longer than the queues, which have 128
/// entries, since indirect descriptors are not offered.
const MAX_CHAIN_DESCRIPTORS: usize = 128;

/// Slices that one chain may come to: each descriptor may lie across the two memory regions, and
/// one is cut where the header ends.
pub(super) const MAX_CHAIN_SLICES: usize = 2 * MAX_CHAIN_DESCRIPTORS + 1;

/// A piece of guest memory.
pub(super) type Slice<'m> = VolatileSlice<'m, ()>;

/// Who writes to a chain's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// The driver: a chain of the TX queue.
    ToDevice,
    /// The device: a chain of the RX queue.
    ToDriver,
}

/// Slices in order with the sum of their lengths.
#[derive(Debug, Default)]
pub(super) struct Slices<'m> {
    slices: Vec<Slice<'m>>,
    bytes: usize,
}

impl<'m> Slices<'m> {
    pub(super) fn as_slice(&self) -> &[Slice<'m>] {
        &self.slices
    }

    /// Their lengths' sum.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The slices from `start` up to `end`, as [`Self::len`] numbered them.
    pub(super) fn range(&self, range: std::ops::Range<usize>) -> &[Slice<'m>] {
        self.slices.get(range).unwrap_or_default()
    }

    /// How many slices there are.
    pub(super) fn len(&self) -> usize {
        self.slices.len()
    }

    pub(super) fn clear(&mut self) {
        self.slices.clear();
        self.bytes = 0;
    }

    fn push(&mut self, slice: Slice<'m>) {
        // Each length is at most 2^32 and there are at most a few thousand.
        self.bytes += slice.len();
        self.slices.push(slice);
    }

    /// Drops everything after the first `bytes`.
    pub(super) fn truncate(&mut self, bytes: usize) {
        while self.bytes > bytes {
            let Some(last) = self.slices.pop() else {
                return;
            };
            self.bytes -= last.len();
            // Within the slice, as `bytes - self.bytes` is less than its length.
            if let Some(keep) = bytes.checked_sub(self.bytes)
                && keep > 0
                && let Ok(part) = last.subslice(0, keep)
            {
                self.push(part);
            }
        }
    }
}

/// Sorts a chain's buffers into the first 44 bytes, which are the packet's header, and the rest.
/// Both are appended to what `header` and `payload` hold; returns the payload's bytes.
///
/// # Errors
/// What is wrong with the chain: a buffer that lies outside memory or faces the wrong way, too
/// many of them, less than a header in all, or no end.
pub(super) fn split<'m>(
    memory: &'m GuestMemory,
    chain: Chain<'m>,
    direction: Direction,
    header: &mut Slices<'m>,
    payload: &mut Slices<'m>,
) -> Result<usize, &'static str> {
    let access = match direction {
        Direction::ToDevice => Permissions::Read,
        Direction::ToDriver => Permissions::Write,
    };
    let mut header_left = HEADER_BYTES;
    let mut payload_bytes = 0;
    // The iterator ends alike at a chain's end and where it is broken.
    let mut goes_on = true;
    for (index, descriptor) in chain.enumerate() {
        if index == MAX_CHAIN_DESCRIPTORS {
            return Err("a packet has too many buffers");
        }
        goes_on = descriptor.has_next();
        if descriptor.is_write_only() != (direction == Direction::ToDriver) {
            return Err("a buffer of a packet faces the wrong way");
        }
        let len = usize::try_from(descriptor.len()).map_err(|_| "a buffer is too long")?;
        let slices = memory
            .get_slices(descriptor.addr(), len, access)
            .map_err(|_| "a buffer lies outside memory")?;
        for slice in slices {
            let slice = slice.map_err(|_| "a buffer lies outside memory")?;
            let split = slice.len().min(header_left);
            let (front, back) = slice
                .split_at(split)
                .map_err(|_| "a buffer lies outside memory")?;
            if !front.is_empty() {
                header_left -= front.len();
                header.push(front);
            }
            if !back.is_empty() {
                payload_bytes += back.len();
                payload.push(back);
            }
        }
    }
    if goes_on {
        return Err("a chain loops or leaves its descriptor table");
    }
    if header_left > 0 {
        return Err("a packet is shorter than its header");
    }
    Ok(payload_bytes)
}

/// Reads the header once; afterwards the guest may change its memory as it likes.
pub(super) fn read_header(slices: &Slices) -> Header {
    let mut bytes = [0; HEADER_BYTES];
    let mut rest = bytes.as_mut_slice();
    for slice in slices.as_slice() {
        let read = slice.copy_to(rest);
        rest = std::mem::take(&mut rest).split_at_mut(read).1;
    }
    Header::from_bytes(&bytes)
}

/// Writes a header over slices that hold 44 bytes in all.
pub(super) fn write_header(slices: &[Slice], header: Header) {
    let bytes = header.to_bytes();
    let mut rest = bytes.as_slice();
    for slice in slices {
        let len = slice.len().min(rest.len());
        let (now, later) = rest.split_at(len);
        // It cannot fail: `now` is as long as the slice at most.
        let _ = slice.write(now, 0);
        rest = later;
    }
}
