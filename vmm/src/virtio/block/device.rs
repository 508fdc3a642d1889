//! The block device itself: its queue, its configuration space and the answers to requests.
//! The worker calls it.

use event_manager::EventSet;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use vm_memory::{Bytes, VolatileSlice};

use super::disk::Disk;
use super::request::{
    Access, DATA_SEGMENTS_MAX, Limits, Parsed, RANGE_SECTORS_MAX, RANGES_MAX, Range, Request,
    SECTOR, SEGMENT_BYTES_MAX, SERIAL_BYTES, Status, parse,
};
use crate::GuestMemory;
use crate::virtio::{Chain, ConfigSpace, Device, DeviceError, DeviceKind, Io, Served, Watch};

/// The one queue.
const QUEUE: usize = 0;

/// Entries of the queue: a chain of the greatest length fits even without an indirect table.
const QUEUE_SIZE: u16 = 256;

/// Bytes moved before a reset is looked for: about a millisecond.
const TURN_BYTES: u64 = 4 << 20;

/// Errors of the host that one disk reports, so that a dying disk does not fill the log.
const COMPLAINTS_MAX: u32 = 8;

/// log2 of the host's blocks (4 KiB) in logical blocks, which are sectors so that a file system
/// with smaller blocks works, too.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;
const PHYSICAL_BLOCK_SECTORS: u8 = 1 << PHYSICAL_BLOCK_EXPONENT;

/// Which errors were already reported.
#[derive(Debug, Default)]
struct Complaints {
    disk_full: bool,
    others: u32,
}

/// A block device on a [`Disk`].
#[derive(Debug)]
pub struct BlockDevice {
    name: String,
    serial: [u8; SERIAL_BYTES],
    disk: Disk,
    /// Features that the driver took.
    features: u64,
    complaints: Complaints,
}

impl BlockDevice {
    /// The VM's block device number `index`, whose serial number is `disk<index>`.
    #[must_use]
    pub fn new(index: usize, disk: Disk) -> Self {
        let mut serial = [0; SERIAL_BYTES];
        for (slot, byte) in serial.iter_mut().zip(format!("disk{index}").bytes()) {
            *slot = byte;
        }
        Self {
            name: format!("block {index}"),
            serial,
            disk,
            features: 0,
            complaints: Complaints::default(),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            capacity: self.disk.capacity(),
            access: match self.disk.flush_mode() {
                None => Access::ReadOnly,
                Some(_) => Access::ReadWrite,
            },
        }
    }

    fn serve(&mut self, memory: &GuestMemory, chain: Chain) -> Result<Served, DeviceError> {
        let Parsed {
            request,
            status,
            data_bytes,
        } = parse(memory, QUEUE, chain, self.limits())?;
        let (answer, written) = match request.and_then(|request| self.carry_out(&request)) {
            Ok(written) => (Status::Ok, written),
            Err(answer) => (answer, 0),
        };
        memory
            .write_obj(answer as u8, status)
            .map_err(|_| DeviceError::Request {
                queue: QUEUE,
                reason: "a request's status byte is not in memory",
            })?;
        Ok(Served {
            written: written.saturating_add(1),
            moved: data_bytes,
        })
    }

    /// Returns the bytes of data written to guest memory.
    fn carry_out(&mut self, request: &Request) -> Result<u32, Status> {
        let mut written = 0;
        let result = match request {
            Request::Read { offset, into } => {
                written = total(into);
                self.disk.read(*offset, into)
            }
            Request::Write { offset, from } => self
                .disk
                .write(*offset, from)
                .and_then(|()| self.write_through()),
            Request::Flush => self.disk.flush(),
            Request::Discard(ranges) => ranges
                .iter()
                .try_for_each(|range| self.disk.punch_hole(range.offset, range.len))
                .and_then(|()| self.write_through()),
            Request::WriteZeroes(ranges) => ranges
                .iter()
                .try_for_each(|range| self.write_zeroes(range))
                .and_then(|()| self.write_through()),
            Request::GetId { into } => {
                written = copy(&self.serial, into);
                Ok(())
            }
        };
        match result {
            Ok(()) => Ok(written),
            Err(error) => Err(self.host_error(request.name(), &error)),
        }
    }

    fn write_zeroes(&self, range: &Range) -> std::io::Result<()> {
        if range.unmap {
            self.disk.punch_hole(range.offset, range.len)
        } else {
            self.disk.zero(range.offset, range.len)
        }
    }

    /// A driver that knows no flush counts on every write being durable (section 5.2.6.2).
    fn write_through(&self) -> std::io::Result<()> {
        if self.features & 1 << VIRTIO_BLK_F_FLUSH == 0 {
            self.disk.flush()
        } else {
            Ok(())
        }
    }

    fn host_error(&mut self, operation: &str, error: &std::io::Error) -> Status {
        match error.kind() {
            _ if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Status::Unsupported,
            std::io::ErrorKind::StorageFull => {
                if !std::mem::replace(&mut self.complaints.disk_full, true) {
                    crate::say(format_args!(
                        "{}: {operation}: the host's disk is full",
                        self.name
                    ));
                }
            }
            _ => {
                if self.complaints.others < COMPLAINTS_MAX {
                    self.complaints.others += 1;
                    crate::say(format_args!("{}: {operation}: {error}", self.name));
                }
            }
        }
        Status::IoError
    }
}

fn total(slices: &[VolatileSlice]) -> u32 {
    let bytes: usize = slices.iter().map(VolatileSlice::len).sum();
    // At most REQUEST_BYTES_MAX.
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Copies as much of `bytes` as there is room for.
fn copy(bytes: &[u8], into: &[VolatileSlice]) -> u32 {
    let mut rest = bytes;
    for slice in into {
        let len = rest.len().min(slice.len());
        let (now, later) = rest.split_at(len);
        slice.copy_from(now);
        rest = later;
    }
    u32::try_from(bytes.len() - rest.len()).unwrap_or(u32::MAX)
}

impl Device for BlockDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_BLK_F_SIZE_MAX,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_RING_F_INDIRECT_DESC,
        ];
        match self.disk.flush_mode() {
            None => bits.push(VIRTIO_BLK_F_RO),
            // Flushes are offered even where they do nothing, so that a VM that goes on from a
            // snapshot may get either kind of disk.
            Some(_) => bits.extend([
                VIRTIO_BLK_F_DISCARD,
                VIRTIO_BLK_F_WRITE_ZEROES,
                VIRTIO_BLK_F_FLUSH,
            ]),
        }
        bits.into_iter()
            .fold(0, |features, bit| features | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    /// `struct virtio_blk_config` (section 5.2.4).
    fn config(&self) -> ConfigSpace {
        let sector = u32::try_from(SECTOR).unwrap_or(0);
        let mut bytes = Vec::new();
        bytes.extend((self.disk.capacity() / SECTOR).to_le_bytes());
        bytes.extend(SEGMENT_BYTES_MAX.to_le_bytes());
        bytes.extend(DATA_SEGMENTS_MAX.to_le_bytes());
        bytes.extend([0; 4]); // geometry: no such feature
        bytes.extend(sector.to_le_bytes());
        bytes.extend([PHYSICAL_BLOCK_EXPONENT, 0]); // and the alignment's offset
        bytes.extend(u16::from(PHYSICAL_BLOCK_SECTORS).to_le_bytes()); // smallest good transfer
        bytes.extend(0_u32.to_le_bytes()); // best transfer: none in particular
        bytes.extend([0; 4]); // writeback, num_queues: no such features
        bytes.extend(RANGE_SECTORS_MAX.to_le_bytes()); // discard
        bytes.extend(RANGES_MAX.to_le_bytes());
        bytes.extend(u32::from(PHYSICAL_BLOCK_SECTORS).to_le_bytes());
        bytes.extend(RANGE_SECTORS_MAX.to_le_bytes()); // write zeroes
        bytes.extend(RANGES_MAX.to_le_bytes());
        bytes.extend([1, 0, 0, 0]); // which may give space back
        ConfigSpace::new(bytes, 0..0)
    }

    fn waits_for_host(&self) -> bool {
        true
    }

    fn activate(&mut self, features: u64, _: &mut Io) -> Result<(), DeviceError> {
        self.features = features;
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, io: &mut Io) -> Result<(), DeviceError> {
        io.drain_within(queue, TURN_BYTES, |memory, chain| self.serve(memory, chain))
    }

    fn fd_ready(&mut self, _: u32, _: EventSet, _: &mut Io) -> Result<(), DeviceError> {
        // It watches nothing.
        Ok(())
    }

    fn reset(&mut self, _: &mut Watch) {
        self.features = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::block::Flush;

    #[test]
    fn errors_of_the_host_have_their_status_and_are_reported_a_few_times() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let disk = Disk::writable(file, 4096, Flush::Ignore).unwrap();
        let mut device = BlockDevice::new(0, disk);
        let error = std::io::Error::from_raw_os_error;
        for _ in 0..20 {
            assert_eq!(
                device.host_error("write", &error(libc::ENOSPC)),
                Status::IoError
            );
            assert_eq!(
                device.host_error("write", &error(libc::EIO)),
                Status::IoError
            );
            assert_eq!(
                device.host_error("write", &error(libc::EOPNOTSUPP)),
                Status::Unsupported
            );
        }
        assert!(device.complaints.disk_full);
        assert_eq!(device.complaints.others, COMPLAINTS_MAX);
    }
}
