//! The bytes of a request (virtio 1.2 section 5.2.6) -> a checked [`Request`], or the status that
//! refuses it. Called by the device and by the fuzz target; it touches no disk and no queue.
//!
//! ```text
//! device reads: type 4, reserved 4, sector 8 | data of a write, or ranges
//! device writes:                               data of a read, or the serial | status 1
//! ```

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::{GuestAddress, VolatileSlice};

use crate::GuestMemory;
use crate::virtio::{Buffers, Chain, DESCRIPTORS_MAX, DeviceError, OutsideMemory, Spans};

/// Bytes of a sector, the unit of every position and size in requests.
pub(super) const SECTOR: u64 = 512;

/// Data segments of one request: what a chain holds besides header and status.
pub(super) const DATA_SEGMENTS_MAX: u32 = 254;
const _: () = assert!(DATA_SEGMENTS_MAX as usize + 2 == DESCRIPTORS_MAX);

/// Bytes of one data segment as drivers are told; Linux merges neighbouring pages up to this.
pub(super) const SEGMENT_BYTES_MAX: u32 = 128 << 10;

/// Bytes of one request, just below 32 MiB: some ten milliseconds of copying, in which no other
/// device is served.
pub(super) const REQUEST_BYTES_MAX: u64 = DATA_SEGMENTS_MAX as u64 * SEGMENT_BYTES_MAX as u64;

/// Sectors (1 GiB) and ranges of one discard or write-zeroes request: the host's file system works
/// extent by extent, so the time a request takes must have a bound.
pub(super) const RANGE_SECTORS_MAX: u32 = 1 << 21;
pub(super) const RANGES_MAX: u32 = 16;

/// Bytes of a serial number.
pub(super) const SERIAL_BYTES: usize = 20;

/// Bytes of a range in a discard or write-zeroes request: sector 8, sectors 4, flags 4.
const RANGE_BYTES: u64 = 16;

/// Flag of a write-zeroes range: the device may give the space back.
const FLAG_UNMAP: u32 = 1;

/// The status byte (`VIRTIO_BLK_S_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// A range of bytes inside the disk, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Whether its space may be given back.
    pub(super) unmap: bool,
}

/// What the driver wants, checked: every range lies inside the disk, every slice in guest memory.
#[derive(Debug)]
pub(super) enum Request<'m> {
    Read {
        offset: u64,
        into: Vec<VolatileSlice<'m>>,
    },
    Write {
        offset: u64,
        from: Vec<VolatileSlice<'m>>,
    },
    Flush,
    Discard(Vec<Range>),
    WriteZeroes(Vec<Range>),
    GetId {
        into: Vec<VolatileSlice<'m>>,
    },
}

impl Request<'_> {
    /// For messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Flush => "flush",
            Self::Discard(_) => "discard",
            Self::WriteZeroes(_) => "write zeroes",
            Self::GetId { .. } => "get id",
        }
    }
}

/// A request and where its answer goes.
#[derive(Debug)]
pub(super) struct Parsed<'m> {
    pub(super) request: Result<Request<'m>, Status>,
    /// Of the status byte; not yet known to lie in memory.
    pub(super) status: GuestAddress,
    /// Bytes of data either way.
    pub(super) data_bytes: u64,
}

/// What requests are checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of the disk.
    pub(super) capacity: u64,
    pub(super) access: Access,
}

/// Whether the guest may change the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    ReadOnly,
    ReadWrite,
}

impl From<OutsideMemory> for Status {
    fn from(_: OutsideMemory) -> Self {
        Self::IoError
    }
}

/// Reads the request of `chain`.
///
/// # Errors
/// [`DeviceError::Request`] when the chain is broken, or there is no whole header or no byte for
/// the status: then nothing can be answered.
pub(super) fn parse<'m>(
    memory: &'m GuestMemory,
    queue: usize,
    chain: Chain<'m>,
    limits: Limits,
) -> Result<Parsed<'m>, DeviceError> {
    let broken = |reason| DeviceError::Request { queue, reason };
    let Buffers {
        mut readable,
        mut writable,
    } = Buffers::read(queue, chain)?;
    let status = writable
        .take_last_byte()
        .ok_or_else(|| broken("a request has no status byte to write"))?;
    let header = readable
        .take_front::<16>(memory)
        .map_err(|_| broken("a request's header is not in memory"))?
        .ok_or_else(|| broken("a request's header is shorter than 16 bytes"))?;
    let data_bytes = readable.len().saturating_add(writable.len());
    let data = Data {
        memory,
        readable,
        writable,
        limits,
    };
    Ok(Parsed {
        request: data.request(header),
        status,
        data_bytes,
    })
}

struct Data<'m> {
    memory: &'m GuestMemory,
    readable: Spans,
    writable: Spans,
    limits: Limits,
}

impl<'m> Data<'m> {
    fn request(self, header: [u8; 16]) -> Result<Request<'m>, Status> {
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => {
                let offset = self.data_range(sector, &self.writable, &self.readable)?;
                Ok(Request::Read {
                    offset,
                    into: self.writable.slices(self.memory)?,
                })
            }
            VIRTIO_BLK_T_OUT => {
                self.check_writable()?;
                let offset = self.data_range(sector, &self.readable, &self.writable)?;
                Ok(Request::Write {
                    offset,
                    from: self.readable.slices(self.memory)?,
                })
            }
            VIRTIO_BLK_T_FLUSH => Ok(Request::Flush),
            VIRTIO_BLK_T_GET_ID => {
                if self.writable.is_empty() || self.writable.len() > REQUEST_BYTES_MAX {
                    return Err(Status::IoError);
                }
                Ok(Request::GetId {
                    into: self.writable.slices(self.memory)?,
                })
            }
            // A range of a discard has no flags at all (section 5.2.6.2).
            VIRTIO_BLK_T_DISCARD => Ok(Request::Discard(self.ranges(0)?)),
            VIRTIO_BLK_T_WRITE_ZEROES => Ok(Request::WriteZeroes(self.ranges(FLAG_UNMAP)?)),
            _ => Err(Status::Unsupported),
        }
    }

    fn check_writable(&self) -> Result<(), Status> {
        match self.limits.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(Status::IoError),
        }
    }

    /// Where the transfer of `data` begins on the disk; nothing goes the `other` way.
    fn data_range(&self, sector: u64, data: &Spans, other: &Spans) -> Result<u64, Status> {
        let len = data.len();
        if len > REQUEST_BYTES_MAX || !len.is_multiple_of(SECTOR) || !other.is_empty() {
            return Err(Status::IoError);
        }
        self.inside(sector, len)
    }

    /// The byte offset of `sector`, when `len` bytes from there on lie inside the disk.
    fn inside(&self, sector: u64, len: u64) -> Result<u64, Status> {
        sector
            .checked_mul(SECTOR)
            .filter(|start| {
                start
                    .checked_add(len)
                    .is_some_and(|end| end <= self.limits.capacity)
            })
            .ok_or(Status::IoError)
    }

    /// The ranges of a discard or write-zeroes request.
    fn ranges(mut self, known_flags: u32) -> Result<Vec<Range>, Status> {
        self.check_writable()?;
        let (bytes, max) = (self.readable.len(), u64::from(RANGES_MAX) * RANGE_BYTES);
        if bytes == 0 || bytes > max || !self.writable.is_empty() {
            return Err(Status::IoError);
        }
        let mut ranges = Vec::new();
        while !self.readable.is_empty() {
            let range = self
                .readable
                .take_front::<16>(self.memory)?
                .ok_or(Status::IoError)?;
            let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = range;
            let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
            let flags = u32::from_le_bytes(flags);
            if flags & !known_flags != 0 {
                return Err(Status::Unsupported);
            }
            if !(1..=RANGE_SECTORS_MAX).contains(&sectors) {
                return Err(Status::IoError);
            }
            let len = u64::from(sectors) * SECTOR;
            let offset = self.inside(sector, len)?;
            ranges.push(Range {
                offset,
                len,
                unmap: flags & FLAG_UNMAP != 0,
            });
        }
        Ok(ranges)
    }
}
