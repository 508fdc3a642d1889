//! Guest physical memory: where it lies and how it is allocated.
//!
//! ```text
//! 0x0000_0000  RAM (first 640 KiB: boot structures, MP table at its end)
//! 0x0010_0000  RAM: kernel, then everything else
//! 0xd000_0000  end of low RAM at most; virtio-mmio blocks, then IO-APIC and local APIC
//! 0x1_0000_0000  RAM beyond 3.25 GiB goes on here
//! ```
#![allow(unsafe_code)] // mmap and madvise of guest memory

use std::fs::File;
use std::os::fd::AsRawFd;

use vm_memory::mmap::MmapRegion;
use vm_memory::{GuestAddress, GuestRegionMmap};

use crate::GuestMemory;

/// First address that is no low RAM; the virtio-mmio register blocks begin here.
pub const MMIO_START: u64 = 0xd000_0000;

/// Where RAM beyond the gap goes on.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// Where the kernel's memory begins.
pub const HIMEM_START: u64 = 1 << 20;

/// Smallest and largest memory of a VM in MiB: below the first the kernel and the agent do not
/// fit with room for an image's process; the second is what one x86 host of our users has.
pub const MEMORY_MIB: std::ops::RangeInclusive<u32> = 64..=1_048_576;

/// Transparent huge pages need this alignment, in bytes.
const HUGE_PAGE: usize = 2 << 20;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Outside [`MEMORY_MIB`].
    #[error("memory of {mib} MiB: must be {} to {} MiB", MEMORY_MIB.start(), MEMORY_MIB.end())]
    Size {
        /// What was asked for.
        mib: u32,
    },
    /// `mmap` refused.
    #[error("map {bytes} bytes of guest memory")]
    Map {
        /// How much.
        bytes: usize,
        /// Why.
        source: std::io::Error,
    },
    /// The file of a snapshot's memory can't be used.
    #[error("use the file of guest memory: {0}")]
    File(#[source] std::io::Error),
    /// It is of another size.
    #[error("the file of guest memory has {found} bytes, not {mib} MiB")]
    FileLength {
        /// Its length.
        found: u64,
        /// What was asked for.
        mib: u32,
    },
    /// vm-memory refused the layout.
    #[error("lay out guest memory: {0}")]
    Layout(String),
}

/// The regions of `bytes` of RAM: `(start, length)`, in order.
fn regions(bytes: u64) -> Vec<(u64, u64)> {
    match bytes.checked_sub(MMIO_START) {
        None | Some(0) => vec![(0, bytes)],
        Some(rest) => vec![(0, MMIO_START), (HIGH_RAM_START, rest)],
    }
}

/// Where the content of guest memory comes from and goes to. A file has the regions end to end.
#[derive(Debug, Clone, Copy)]
pub enum Backing<'a> {
    /// Zeros.
    Fresh,
    /// Zeros; what the guest writes lands in this empty file.
    Into(&'a File),
    /// What is in this file, which stays as it is: a page is copied when the guest writes to it.
    From(&'a File),
}

/// Allocates `mib` MiB. What is fresh is not yet touched, and huge pages are asked for: a boot
/// touches tens of thousands of small pages, each of which would be an exit of its own.
///
/// # Errors
/// [`MemoryError`] when the size is out of range, the host has no address space left, or the file
/// can't be mapped.
pub fn allocate(mib: u32, backing: Backing) -> Result<GuestMemory, MemoryError> {
    if !MEMORY_MIB.contains(&mib) {
        return Err(MemoryError::Size { mib });
    }
    let total = u64::from(mib) << 20;
    match backing {
        Backing::Fresh => {}
        Backing::Into(file) => file.set_len(total).map_err(MemoryError::File)?,
        Backing::From(file) => {
            let found = file.metadata().map_err(MemoryError::File)?.len();
            if found != total {
                return Err(MemoryError::FileLength { found, mib });
            }
        }
    }
    let mut all = Vec::new();
    let mut offset = 0;
    for (start, len) in regions(total) {
        let size = usize::try_from(len).map_err(|e| MemoryError::Layout(e.to_string()))?;
        let mapping = match backing {
            Backing::Fresh => map_anonymous(size)?,
            Backing::Into(file) => {
                let mapping = map_anonymous(size)?;
                map_over(&mapping, 0, size, file, offset, libc::MAP_SHARED)?;
                mapping
            }
            Backing::From(file) => {
                let mapping = map_anonymous(size)?;
                for (at, len) in chunks_with_data(file, offset, len)? {
                    let start = usize::try_from(at - offset)
                        .map_err(|e| MemoryError::Layout(e.to_string()))?;
                    map_over(&mapping, start, len, file, at, libc::MAP_PRIVATE)?;
                }
                mapping
            }
        };
        offset += len;
        let region = GuestRegionMmap::new(mapping, GuestAddress(start))
            .ok_or_else(|| MemoryError::Layout(format!("region at {start:#x} overflows")))?;
        all.push(region);
    }
    GuestMemory::from_regions(all).map_err(|e| MemoryError::Layout(e.to_string()))
}

/// Ranges `(offset, length)` of `offset..offset + len` in which the file has data, in whole huge
/// pages: the holes between them are better off as fresh memory.
fn chunks_with_data(file: &File, offset: u64, len: u64) -> Result<Vec<(u64, usize)>, MemoryError> {
    let huge = HUGE_PAGE as u64;
    let end = offset + len;
    let mut chunks: Vec<(u64, usize)> = Vec::new();
    let mut at = offset;
    while at < end {
        let Some(data) = seek(file, at, libc::SEEK_DATA)?.filter(|data| *data < end) else {
            break;
        };
        let hole = seek(file, data, libc::SEEK_HOLE)?.unwrap_or(end);
        // Regions begin on huge pages of the file.
        let first = data - (data - offset) % huge;
        let last = (offset + (hole.min(end) - offset).next_multiple_of(huge)).min(end);
        let size = usize::try_from(last - first).map_err(|e| MemoryError::Layout(e.to_string()))?;
        match chunks.last_mut() {
            Some((start, size)) if *start + *size as u64 == first => {
                *size += usize::try_from(last - first)
                    .map_err(|e| MemoryError::Layout(e.to_string()))?;
            }
            _ => chunks.push((first, size)),
        }
        at = last;
    }
    Ok(chunks)
}

/// Where the next data or hole begins; `None` when only a hole follows.
fn seek(file: &File, from: u64, whence: libc::c_int) -> Result<Option<u64>, MemoryError> {
    let from = i64::try_from(from).map_err(|e| MemoryError::Layout(e.to_string()))?;
    // SAFETY: the descriptor is open; the call touches no memory.
    let at = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
    match u64::try_from(at) {
        Ok(at) => Ok(Some(at)),
        Err(_) => match std::io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(MemoryError::File(error)),
        },
    }
}

/// Maps `len` bytes of the file over a part of a mapping.
fn map_over(
    mapping: &MmapRegion<()>,
    start: usize,
    len: usize,
    file: &File,
    offset: u64,
    sharing: libc::c_int,
) -> Result<(), MemoryError> {
    assert!(
        start
            .checked_add(len)
            .is_some_and(|end| end <= mapping.size()),
        "a part of the mapping"
    );
    let offset = i64::try_from(offset).map_err(|e| MemoryError::Layout(e.to_string()))?;
    let flags = sharing | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range lies inside a mapping of ours that nothing uses yet (checked above), so
    // that replacing it takes nothing away.
    let address = unsafe {
        let at = mapping.as_ptr().add(start);
        libc::mmap(at.cast(), len, prot, flags, file.as_raw_fd(), offset)
    };
    if address == libc::MAP_FAILED {
        return Err(MemoryError::Map {
            bytes: len,
            source: std::io::Error::last_os_error(),
        });
    }
    // SAFETY: the mapping just made. Advice only: a host that does not take it is as good.
    unsafe { libc::madvise(address, len, libc::MADV_DONTDUMP) };
    Ok(())
}

/// Maps `len` bytes at a multiple of [`HUGE_PAGE`].
fn map_anonymous(len: usize) -> Result<MmapRegion<()>, MemoryError> {
    let map_error = || MemoryError::Map {
        bytes: len,
        source: std::io::Error::last_os_error(),
    };
    let padded = len + HUGE_PAGE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new private mapping at an address the kernel chooses; nothing else uses it.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), padded, prot, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(map_error());
    }
    let skip = address.align_offset(HUGE_PAGE);
    assert!(
        skip < HUGE_PAGE,
        "a byte pointer aligns within one huge page"
    );
    let start = address.wrapping_byte_add(skip);
    // SAFETY: both ranges lie inside the mapping made above (skip + len <= padded), are page
    // aligned (so are HUGE_PAGE, len and the mapping) and hold nothing.
    unsafe {
        if skip > 0 {
            libc::munmap(address, skip);
        }
        if HUGE_PAGE - skip > 0 {
            libc::munmap(start.byte_add(len), HUGE_PAGE - skip);
        }
        // Advice only: a host without huge pages or core dumps is as good.
        libc::madvise(start, len, libc::MADV_HUGEPAGE);
        libc::madvise(start, len, libc::MADV_DONTDUMP);
    }
    // SAFETY: start..start+len is a live mapping with this protection and these flags. vm-memory
    // does not unmap what build_raw gets; guest memory lives as long as the process, which is
    // what KVM's memory slots need.
    unsafe { MmapRegion::build_raw(start.cast(), len, prot, flags) }
        .map_err(|e| MemoryError::Layout(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    #[test]
    fn memory_beyond_the_gap_goes_on_at_four_gib() {
        assert_eq!(regions(64 << 20), [(0, 64 << 20)]);
        assert_eq!(regions(MMIO_START), [(0, MMIO_START)]);
        assert_eq!(
            regions(4 << 30),
            [(0, MMIO_START), (HIGH_RAM_START, (4 << 30) - MMIO_START)]
        );
    }

    #[test]
    fn both_sides_of_the_gap_hold_data_and_the_gap_does_not() {
        let memory = allocate(4096, Backing::Fresh).unwrap();
        for address in [
            0,
            MMIO_START - 8,
            HIGH_RAM_START,
            HIGH_RAM_START + (4 << 30) - MMIO_START - 8,
        ] {
            memory
                .write_obj(0x1122_3344_u64, GuestAddress(address))
                .unwrap();
            assert_eq!(
                memory.read_obj::<u64>(GuestAddress(address)).unwrap(),
                0x1122_3344
            );
        }
        memory
            .write_obj(1_u64, GuestAddress(MMIO_START))
            .unwrap_err();
        memory
            .write_obj(1_u64, GuestAddress(MMIO_START - 4))
            .unwrap_err();
        for region in memory.iter() {
            assert_eq!(region.get_mmap().as_ptr().align_offset(HUGE_PAGE), 0);
            assert!(region.len() > 0);
        }
    }

    #[test]
    fn a_copy_of_a_files_memory_has_what_was_written_and_leaves_the_file_alone() {
        let file = tempfile::tempfile().unwrap();
        let places = [
            GuestAddress(0x1000),
            GuestAddress((40 << 20) - 8),
            GuestAddress((64 << 20) - 8),
        ];
        let written = allocate(64, Backing::Into(&file)).unwrap();
        for (value, place) in (1_u64..).zip(places) {
            written.write_obj(value, place).unwrap();
        }
        let copies = [(); 2].map(|()| allocate(64, Backing::From(&file)).unwrap());
        for copy in &copies {
            for (value, place) in (1_u64..).zip(places) {
                assert_eq!(copy.read_obj::<u64>(place).unwrap(), value);
                copy.write_obj(0_u64, place).unwrap();
            }
            // Between the data, and where it never was.
            for place in [GuestAddress(0x2000), GuestAddress(30 << 20)] {
                assert_eq!(copy.read_obj::<u64>(place).unwrap(), 0);
                copy.write_obj(9_u64, place).unwrap();
            }
        }
        assert_eq!(written.read_obj::<u64>(places[0]).unwrap(), 1);
        assert_eq!(written.read_obj::<u64>(GuestAddress(30 << 20)).unwrap(), 0);
    }

    #[test]
    fn the_chunks_of_a_file_are_whole_huge_pages_without_the_holes() {
        use std::os::unix::fs::FileExt;

        const HUGE: u64 = HUGE_PAGE as u64;
        let file = tempfile::tempfile().unwrap();
        file.set_len(32 * HUGE).unwrap();
        for at in [0, 3 * HUGE + 5, 4 * HUGE, 31 * HUGE + 100] {
            file.write_all_at(b"data", at).unwrap();
        }
        assert_eq!(
            chunks_with_data(&file, 0, 32 * HUGE).unwrap(),
            [
                (0, HUGE_PAGE),
                (3 * HUGE, 2 * HUGE_PAGE),
                (31 * HUGE, HUGE_PAGE)
            ]
        );
        assert_eq!(
            chunks_with_data(&file, 4 * HUGE, 4 * HUGE).unwrap(),
            [(4 * HUGE, HUGE_PAGE)]
        );
    }

    #[test]
    fn a_file_of_another_size_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let error = allocate(64, Backing::From(&file)).unwrap_err().to_string();
        assert_eq!(
            error,
            "the file of guest memory has 1048576 bytes, not 64 MiB"
        );
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        for mib in [0, 63, 1_048_577] {
            let error = allocate(mib, Backing::Fresh).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("memory of {mib} MiB: must be 64 to 1048576 MiB")
            );
        }
    }
}
