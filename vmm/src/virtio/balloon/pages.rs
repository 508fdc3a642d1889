//! Lists of pages that a driver names -> runs of guest memory -> back to the host.
//! The device calls it; it knows no queue.
#![allow(unsafe_code)] // madvise of guest memory

use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::GuestMemory;
use crate::virtio::{OutsideMemory, Spans};

/// Bytes of a balloon page, whatever the guest's own are (section 5.5.6), and of the host's on x86.
pub(super) const PAGE_BYTES: u64 = 4096;

/// Pages that one request may name; Linux names 256.
pub(super) const PAGES_MAX: u64 = 1024;

/// Bytes of a page number.
const PAGE_NUMBER_BYTES: u64 = 4;

/// Neighbouring pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: GuestAddress,
    pub(super) bytes: u64,
}

/// Reads a list of page numbers and joins neighbours, in whatever order they come.
///
/// # Errors
/// What is wrong with the list.
pub(super) fn parse_list(memory: &GuestMemory, mut list: Spans) -> Result<Vec<Run>, &'static str> {
    if list.len() > PAGES_MAX * PAGE_NUMBER_BYTES {
        return Err("a list names more than 1024 pages");
    }
    let mut pages = Vec::new();
    while !list.is_empty() {
        let number = list
            .take_front::<4>(memory)
            .map_err(|_| "a list of pages is not in memory")?;
        let number = number.ok_or("a list of pages is no list of 32-bit numbers")?;
        pages.push(u32::from_le_bytes(number));
    }
    pages.sort_unstable();
    pages.dedup();
    let mut runs: Vec<Run> = Vec::new();
    for page in pages {
        // 2^32 pages are 2^44 bytes.
        let start = u64::from(page) * PAGE_BYTES;
        match runs.last_mut() {
            Some(run) if run.start.0 + run.bytes == start => run.bytes += PAGE_BYTES,
            _ => runs.push(Run {
                start: GuestAddress(start),
                bytes: PAGE_BYTES,
            }),
        }
    }
    Ok(runs)
}

/// The memory of a run.
///
/// # Errors
/// [`OutsideMemory`] when any page of it is none.
pub(super) fn run_slices(
    memory: &GuestMemory,
    run: Run,
) -> Result<Vec<VolatileSlice<'_>>, OutsideMemory> {
    let bytes = usize::try_from(run.bytes).map_err(|_| OutsideMemory)?;
    memory
        .get_slices(run.start, bytes)
        .map(|slice| slice.map_err(|_| OutsideMemory))
        .collect()
}

/// Gives the whole pages inside `slice` back to the host; returns their bytes.
///
/// # Errors
/// The host's.
pub(super) fn give_back(slice: &VolatileSlice) -> std::io::Result<usize> {
    let page = usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX);
    let memory = slice.ptr_guard_mut();
    let skip = memory.as_ptr().align_offset(page).min(memory.len());
    let bytes = (memory.len() - skip) / page * page;
    if bytes == 0 {
        return Ok(0);
    }
    // SAFETY: skip + bytes <= len, so the range lies inside the slice, which vm-memory checked to
    // be guest memory: mapped as long as the VM lives, anonymous or of a file that keeps its length
    // (crate::memory). No Rust reference to it exists, and everything that reads it expects it to
    // change at any time.
    let result =
        unsafe { libc::madvise(memory.as_ptr().add(skip).cast(), bytes, libc::MADV_DONTNEED) };
    if result == 0 {
        Ok(bytes)
    } else {
        Err(std::io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::mock::{HIGH_START, REGION_BYTES, guest_memory};
    use vm_memory::Bytes;

    #[test]
    fn only_whole_pages_inside_a_slice_are_given_back() {
        let memory = guest_memory();
        for (start, len, from, to) in [
            (0x10_0000, 0x3000, 0, 0x3000),
            (0x10_0001, 0x2fff, 0x1000, 0x3000),
            (0x10_0000, 0x2fff, 0, 0x2000),
            (0x10_0fff, 0x1001, 0x1000, 0x2000),
            (0x10_0001, 0x1000, 0, 0),
            (0x10_0001, 0x1ffe, 0, 0),
            (0x10_0000, 1, 0, 0),
        ] {
            memory
                .write_slice(&[7; 0x5000], GuestAddress(0x0f_f000))
                .unwrap();
            let slice = memory.get_slice(GuestAddress(start), len).unwrap();
            assert_eq!(give_back(&slice).unwrap(), to - from, "{start:#x} {len:#x}");
            let mut bytes = [0; 0x5000];
            memory
                .read_slice(&mut bytes, GuestAddress(0x0f_f000))
                .unwrap();
            let (from, to) = (from + 0x1000, to + 0x1000);
            for (at, byte) in bytes.iter().enumerate() {
                let given = (from..to).contains(&at) && from < to;
                assert_eq!(
                    *byte,
                    if given { 0 } else { 7 },
                    "{start:#x} {len:#x} at {at:#x}"
                );
            }
        }
    }

    #[test]
    fn a_run_lies_in_memory_as_a_whole_or_not_at_all() {
        let memory = guest_memory();
        let run = |start, pages| Run {
            start: GuestAddress(start),
            bytes: pages * PAGE_BYTES,
        };
        for (start, pages, fine) in [
            (0, 1, true),
            (0, REGION_BYTES / PAGE_BYTES, true),
            (0, REGION_BYTES / PAGE_BYTES + 1, false),
            (REGION_BYTES, 1, false),
            (HIGH_START - PAGE_BYTES, 2, false),
            (HIGH_START, 2048, true),
            (HIGH_START, 2049, false),
            (u64::from(u32::MAX) * PAGE_BYTES, 1, false),
        ] {
            let slices = run_slices(&memory, run(start, pages));
            assert_eq!(slices.is_ok(), fine, "{start:#x} {pages}");
        }
    }
}
