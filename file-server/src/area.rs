//! Memory that the VM's process and the file server share: slots of one request each, and the reply
//! in its place.
//!
//! [`crate::server`] maps it. The other side may write to a slot at any time, so nothing here is ever
//! borrowed as a Rust reference: what is to be checked is copied out first, and file data goes between
//! slot and file by the kernel alone.
#![allow(unsafe_code)] // maps memory; pread and pwrite on it

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The mapping.
#[derive(Debug)]
pub struct Area {
    base: *mut u8,
    slot_bytes: usize,
    slot_count: usize,
}

// SAFETY: the pointer is to a shared mapping that lives as long as the value, and all access to it
// is by raw copies and system calls that assume nothing about who else writes there.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    /// Maps `slot_count` slots of `slot_bytes` each. The file must have that size for ever: it is
    /// a memory file sealed against shrinking.
    ///
    /// # Errors
    /// What `mmap(2)` says; `EINVAL` for a size that is none.
    pub fn map(file: impl AsFd, slot_count: usize, slot_bytes: usize) -> Result<Self, Errno> {
        let len = slot_count
            .checked_mul(slot_bytes)
            .filter(|len| *len > 0)
            .ok_or(Errno::INVAL)?;
        let flags = MapFlags::SHARED;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the place, so nothing that exists is touched.
        let base = unsafe { mmap(std::ptr::null_mut(), len, access, flags, file, 0) }?;
        Ok(Self {
            base: base.cast(),
            slot_bytes,
            slot_count,
        })
    }

    /// One slot.
    #[must_use]
    pub fn slot(&self, index: usize) -> Option<Slot<'_>> {
        (index < self.slot_count).then_some(Slot { area: self, index })
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: this is the whole mapping, made by `map`, and no slot outlives it.
        let _ = unsafe { munmap(self.base.cast(), self.slot_bytes * self.slot_count) };
    }
}

/// One slot.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a> {
    area: &'a Area,
    index: usize,
}

impl Slot<'_> {
    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.area.slot_bytes
    }

    /// Never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where `len` bytes from `offset` lie.
    fn range(&self, offset: usize, len: usize) -> Result<*mut u8, Errno> {
        let end = offset.checked_add(len).ok_or(Errno::INVAL)?;
        if end > self.len() {
            return Err(Errno::INVAL);
        }
        // SAFETY: `Area::slot` checked the index, so this stays inside the mapping.
        Ok(unsafe { self.area.base.add(self.index * self.len() + offset) })
    }

    /// Copies the first `len` bytes out.
    ///
    /// # Errors
    /// `EINVAL` when the slot is smaller.
    pub fn read(&self, len: usize) -> Result<Vec<u8>, Errno> {
        let from = self.range(0, len)?;
        let mut bytes = vec![0; len];
        // SAFETY: `from` has `len` bytes inside the mapping, and the vector is nobody else's.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
        Ok(bytes)
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// `EINVAL` when they do not fit.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
        let to = self.range(offset, bytes.len())?;
        // SAFETY: `to` has as many bytes inside the mapping, which no Rust reference is to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Reads a file into the slot; returns how many bytes there were, fewer at its end.
    ///
    /// # Errors
    /// What `pread(2)` says.
    pub fn read_file(
        &self,
        file: BorrowedFd<'_>,
        offset: usize,
        len: usize,
        at: u64,
    ) -> Result<usize, Errno> {
        let at = libc::off_t::try_from(at).map_err(|_| Errno::INVAL)?;
        let to = self.range(offset, len)?;
        // SAFETY: `to` has `len` bytes inside the mapping.
        let count = unsafe { libc::pread(file.as_raw_fd(), to.cast(), len, at) };
        usize::try_from(count).map_err(|_| last_error())
    }

    /// Writes from the slot to a file, at its end if `append`; returns how many bytes were.
    ///
    /// # Errors
    /// What `pwritev2(2)` says.
    pub fn write_file(
        &self,
        file: BorrowedFd<'_>,
        offset: usize,
        len: usize,
        at: u64,
        append: bool,
    ) -> Result<usize, Errno> {
        let at = libc::off_t::try_from(at).map_err(|_| Errno::INVAL)?;
        let part = libc::iovec {
            iov_base: self.range(offset, len)?.cast(),
            iov_len: len,
        };
        let flags = if append { libc::RWF_APPEND } else { 0 };
        // SAFETY: the one part has `len` bytes inside the mapping, which the kernel only reads.
        let count = unsafe { libc::pwritev2(file.as_raw_fd(), &raw const part, 1, at, flags) };
        usize::try_from(count).map_err(|_| last_error())
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
