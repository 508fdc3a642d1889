//! What a block device reads and writes: files on the host, by offset, straight from and to guest
//! memory. The device calls it with requests that were checked; it knows no queue.
#![allow(unsafe_code)] // preadv and pwritev on guest memory, which is never a Rust slice

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::VolatileSlice;
use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use super::request::SECTOR;

/// Files of one read-only disk: the 127 layers an image may have and one file system more.
pub const SEGMENTS_MAX: usize = 128;

/// Bytes of a disk: what a file offset can express.
const CAPACITY_MAX: u64 = i64::MAX.cast_unsigned();

/// Vectors of one system call (`IOV_MAX`).
const VECTORS_MAX: usize = 1024;

/// Zeros for what lies beyond a file's end.
const ZEROS: [u8; 4096] = [0; 4096];

/// One file of a read-only disk.
#[derive(Debug)]
pub struct Segment {
    /// A regular file, opened read-only.
    pub file: File,
    /// Its length in bytes.
    pub len: u64,
    /// Bytes it takes on the disk, a multiple of 512; what lies beyond `len` reads as zero.
    pub capacity: u64,
}

/// What a flush of a writable disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// The data is on the host's disk when the flush is done.
    Durable,
    /// Nothing: for a disk that is thrown away when its VM or the host ends.
    Ignore,
}

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Outside 1 to [`SEGMENTS_MAX`].
    #[error("disk of {0} files: must be 1 to {SEGMENTS_MAX}")]
    SegmentCount(usize),
    /// No multiple of 512, zero, smaller than the file, or too large in all.
    #[error("disk of {capacity} bytes for a file of {len}: not possible")]
    Capacity {
        /// Bytes asked for.
        capacity: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// The file is shorter than it should be.
    #[error("file of a disk has {found} bytes instead of {expected}")]
    Length {
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// The file can't be asked.
    #[error("read the length of a disk's file: {0}")]
    Metadata(#[source] io::Error),
}

/// A [`Segment`] at its place.
#[derive(Debug)]
struct Placed {
    start: u64,
    segment: Segment,
}

/// A disk.
#[derive(Debug)]
pub struct Disk {
    backend: Backend,
    capacity: u64,
}

#[derive(Debug)]
enum Backend {
    ReadOnly(Vec<Placed>),
    Writable { file: File, flush: Flush },
}

fn check_length(file: &File, expected: u64) -> Result<(), DiskError> {
    let found = file.metadata().map_err(DiskError::Metadata)?.len();
    if found < expected {
        return Err(DiskError::Length { expected, found });
    }
    Ok(())
}

impl Disk {
    /// Files end to end, as one read-only disk.
    ///
    /// # Errors
    /// [`DiskError`] when a number does not fit.
    pub fn read_only(segments: Vec<Segment>) -> Result<Self, DiskError> {
        if !(1..=SEGMENTS_MAX).contains(&segments.len()) {
            return Err(DiskError::SegmentCount(segments.len()));
        }
        let mut placed = Vec::with_capacity(segments.len());
        let mut start = 0_u64;
        for segment in segments {
            let (len, capacity) = (segment.len, segment.capacity);
            let fits = capacity > 0 && capacity.is_multiple_of(SECTOR) && len <= capacity;
            let end = start
                .checked_add(capacity)
                .filter(|end| fits && *end <= CAPACITY_MAX);
            let end = end.ok_or(DiskError::Capacity { capacity, len })?;
            check_length(&segment.file, len)?;
            placed.push(Placed { start, segment });
            start = end;
        }
        Ok(Self {
            backend: Backend::ReadOnly(placed),
            capacity: start,
        })
    }

    /// One file of at least `bytes` bytes, opened for reading and writing, of which the guest gets
    /// the first `bytes` (a multiple of 512).
    ///
    /// # Errors
    /// [`DiskError`] when a number does not fit.
    pub fn writable(file: File, bytes: u64, flush: Flush) -> Result<Self, DiskError> {
        if bytes == 0 || !bytes.is_multiple_of(SECTOR) || bytes > CAPACITY_MAX {
            return Err(DiskError::Capacity {
                capacity: bytes,
                len: bytes,
            });
        }
        check_length(&file, bytes)?;
        Ok(Self {
            backend: Backend::Writable { file, flush },
            capacity: bytes,
        })
    }

    /// A disk without room, in the place of one that comes when the VM goes on from a snapshot.
    /// `writable` is what it would be written to.
    #[must_use]
    pub fn absent(writable: Option<File>) -> Self {
        Self {
            backend: match writable {
                Some(file) => Backend::Writable {
                    file,
                    flush: Flush::Ignore,
                },
                None => Backend::ReadOnly(Vec::new()),
            },
            capacity: 0,
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// What a flush does; `None` for a read-only disk.
    #[must_use]
    pub fn flush_mode(&self) -> Option<Flush> {
        match &self.backend {
            Backend::ReadOnly(_) => None,
            Backend::Writable { flush, .. } => Some(*flush),
        }
    }

    /// Fills `into` with what lies from `offset` on; the range is inside the disk.
    ///
    /// # Errors
    /// The host's. What was read until then stays.
    pub(super) fn read(&self, offset: u64, into: &[VolatileSlice]) -> io::Result<()> {
        match &self.backend {
            Backend::ReadOnly(segments) => read_segments(segments, offset, into),
            Backend::Writable { file, .. } => read_at(file, offset, into),
        }
    }

    /// Writes `from` at `offset`; the range is inside the disk.
    ///
    /// # Errors
    /// The host's, or `EROFS`. What was written until then stays.
    pub(super) fn write(&self, offset: u64, from: &[VolatileSlice]) -> io::Result<()> {
        write_at(self.writable_file()?, offset, from)
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// The host's. Written data may be lost then.
    pub(super) fn flush(&self) -> io::Result<()> {
        match &self.backend {
            Backend::Writable {
                file,
                flush: Flush::Durable,
            } => file.sync_data(),
            Backend::Writable {
                flush: Flush::Ignore,
                ..
            }
            | Backend::ReadOnly(_) => Ok(()),
        }
    }

    /// Gives a range back to the host's file system; it reads as zero then.
    ///
    /// # Errors
    /// The host's, such as `EOPNOTSUPP`, or `EROFS`.
    pub(super) fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(fallocate(
            self.writable_file()?,
            FallocateMode::PunchHole,
            true,
            offset,
            len,
        )?)
    }

    /// Makes a range read as zero and keeps its space.
    ///
    /// # Errors
    /// As [`Self::punch_hole`].
    pub(super) fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(fallocate(
            self.writable_file()?,
            FallocateMode::ZeroRange,
            true,
            offset,
            len,
        )?)
    }

    fn writable_file(&self) -> io::Result<&File> {
        match &self.backend {
            Backend::Writable { file, .. } => Ok(file),
            Backend::ReadOnly(_) => Err(io::Error::from_raw_os_error(libc::EROFS)),
        }
    }
}

fn read_segments(segments: &[Placed], offset: u64, into: &[VolatileSlice]) -> io::Result<()> {
    let first = segments
        .partition_point(|placed| placed.start <= offset)
        .saturating_sub(1);
    let mut at = offset;
    let mut buffers = Cursor::new(into);
    for Placed { start, segment } in segments.get(first..).unwrap_or_default() {
        if buffers.left() == 0 {
            return Ok(());
        }
        let inside = at - start;
        let data = buffers.left().min(segment.len.saturating_sub(inside));
        if data > 0 {
            read_at(&segment.file, inside, &buffers.take(data))?;
        }
        let padding = buffers.left().min(segment.capacity - inside - data);
        buffers.take(padding).iter().for_each(fill_with_zeros);
        at += data + padding;
    }
    if buffers.left() > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Cuts a list of slices into pieces of wanted lengths.
struct Cursor<'s, 'm> {
    slices: std::slice::Iter<'s, VolatileSlice<'m>>,
    /// Rest of the slice taken last.
    rest: Option<VolatileSlice<'m>>,
    left: u64,
}

impl<'s, 'm> Cursor<'s, 'm> {
    fn new(slices: &'s [VolatileSlice<'m>]) -> Self {
        Self {
            left: slices.iter().map(|slice| slice.len() as u64).sum(),
            slices: slices.iter(),
            rest: None,
        }
    }

    /// Bytes not yet taken.
    fn left(&self) -> u64 {
        self.left
    }

    /// The next `bytes` bytes, or all that are left.
    fn take(&mut self, bytes: u64) -> Vec<VolatileSlice<'m>> {
        let mut taken = Vec::new();
        let mut wanted = usize::try_from(bytes).unwrap_or(usize::MAX);
        while wanted > 0 {
            let Some(slice) = self.rest.take().or_else(|| self.slices.next().copied()) else {
                break;
            };
            let slice = match slice.split_at(wanted) {
                Ok((now, later)) => {
                    self.rest = Some(later).filter(|later| !later.is_empty());
                    now
                }
                // The slice is shorter than that.
                Err(_) => slice,
            };
            wanted -= slice.len();
            self.left -= slice.len() as u64;
            taken.push(slice);
        }
        taken
    }
}

fn fill_with_zeros(slice: &VolatileSlice) {
    let mut rest = *slice;
    while !rest.is_empty() {
        rest.copy_from(&ZEROS);
        match rest.offset(ZEROS.len()) {
            Ok(later) => rest = later,
            // Shorter than a block of zeros: all of it is zero now.
            Err(_) => return,
        }
    }
}

fn vectors(slices: &[VolatileSlice]) -> Vec<libc::iovec> {
    slices
        .iter()
        .map(|slice| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        })
        .collect()
}

/// Takes `done` bytes off the front of `vectors`; returns how many of them are used up.
fn advance(vectors: &mut [libc::iovec], mut done: usize) -> usize {
    for (index, vector) in vectors.iter_mut().enumerate() {
        if done < vector.iov_len {
            vector.iov_base = vector.iov_base.wrapping_byte_add(done);
            vector.iov_len -= done;
            return index;
        }
        done -= vector.iov_len;
    }
    vectors.len()
}

/// Repeats `call`, which moves some bytes at an offset, until all of `slices` was moved.
fn transfer(
    offset: u64,
    slices: &[VolatileSlice],
    call: impl Fn(&[libc::iovec], libc::c_int, libc::off_t) -> libc::ssize_t,
) -> io::Result<()> {
    let mut list = vectors(slices);
    let mut rest = list.as_mut_slice();
    let mut at = offset;
    while !rest.is_empty() {
        let now = rest.get(..VECTORS_MAX).unwrap_or(rest);
        let count = libc::c_int::try_from(now.len()).map_err(io::Error::other)?;
        let start = libc::off_t::try_from(at).map_err(io::Error::other)?;
        match usize::try_from(call(now, count, start)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(done) => {
                at = at.saturating_add(done as u64);
                let used = advance(rest, done);
                rest = rest.get_mut(used..).unwrap_or_default();
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

fn read_at(file: &File, offset: u64, into: &[VolatileSlice]) -> io::Result<()> {
    transfer(offset, into, |list, count, start| {
        // SAFETY: each of the `count` vectors is made of a VolatileSlice (or its tail), which
        // vm-memory checked to lie in mapped, writable guest memory that outlives `into`. No Rust
        // reference to that memory exists, so the kernel may write there at any time.
        unsafe { libc::preadv(file.as_raw_fd(), list.as_ptr(), count, start) }
    })
}

fn write_at(file: &File, offset: u64, from: &[VolatileSlice]) -> io::Result<()> {
    transfer(offset, from, |list, count, start| {
        // SAFETY: as in read_at; the kernel only reads there.
        unsafe { libc::pwritev(file.as_raw_fd(), list.as_ptr(), count, start) }
    })
}

#[cfg(test)]
mod tests;
