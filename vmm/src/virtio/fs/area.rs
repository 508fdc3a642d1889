//! Memory shared with the file server: slots of a request each, and the reply in its place. Used by the
//! device. The server may write to it at any time, as the guest may to its memory, and so it is only
//! ever copied from and to.

use std::fs::File;
use std::io;

use vm_memory::mmap::MmapRegion;
use vm_memory::{FileOffset, VolatileMemory, VolatileSlice};

/// The mapping.
#[derive(Debug)]
pub(super) struct Area {
    region: MmapRegion<()>,
    slot_bytes: usize,
}

/// Why bytes could not be copied: they do not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Area {
    /// Maps `slot_count` slots of `slot_bytes` each of a file that never gets smaller.
    pub(super) fn map(file: File, slot_count: usize, slot_bytes: usize) -> io::Result<Self> {
        let size = slot_count
            .checked_mul(slot_bytes)
            .ok_or(io::ErrorKind::InvalidInput)?;
        if file.metadata()?.len() < u64::try_from(size).unwrap_or(u64::MAX) {
            return Err(io::Error::other("the shared area is too small"));
        }
        let region =
            MmapRegion::from_file(FileOffset::new(file, 0), size).map_err(io::Error::other)?;
        Ok(Self { region, slot_bytes })
    }

    fn part(&self, slot: usize, offset: usize, len: usize) -> Result<VolatileSlice<'_>, NoRoom> {
        if offset
            .checked_add(len)
            .is_none_or(|end| end > self.slot_bytes)
        {
            return Err(NoRoom);
        }
        let start = slot.checked_mul(self.slot_bytes).ok_or(NoRoom)?;
        self.region
            .get_slice(start + offset, len)
            .map_err(|_| NoRoom)
    }

    /// Copies guest memory into a slot; returns how many bytes that were.
    pub(super) fn fill(&self, slot: usize, from: &[VolatileSlice]) -> Result<usize, NoRoom> {
        let mut offset = 0;
        for slice in from {
            slice.copy_to_volatile_slice(self.part(slot, offset, slice.len())?);
            offset += slice.len();
        }
        Ok(offset)
    }

    /// Copies the first `len` bytes of a slot into guest memory.
    pub(super) fn drain(
        &self,
        slot: usize,
        len: usize,
        to: &[VolatileSlice],
    ) -> Result<(), NoRoom> {
        let mut offset = 0;
        for slice in to {
            let count = slice.len().min(len - offset);
            let target = slice.subslice(0, count).map_err(|_| NoRoom)?;
            self.part(slot, offset, count)?
                .copy_to_volatile_slice(target);
            offset += count;
        }
        if offset == len { Ok(()) } else { Err(NoRoom) }
    }
}
