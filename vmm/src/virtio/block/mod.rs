//! virtio-block (virtio 1.2 section 5.2): a disk made of files on the host.
//!
//! ```text
//! device   takes chains off the queue, answers with a status byte
//!   │
//! request  bytes of a chain -> checked request, or the status that refuses it
//!   │
//! disk     preadv, pwritev, fallocate, fdatasync on guest memory itself
//! ```
//!
//! | what goes wrong | what the guest sees | what is logged |
//! |---|---|---|
//! | chain broken off, too long, directions mixed; header or status byte missing or not in memory | device stops, `DEVICE_NEEDS_RESET` | by the worker, 8 times |
//! | data not in memory, no whole sectors, beyond the end, over a limit; write to a read-only disk | `IOERR` | nothing: its own doing |
//! | unknown request or flag; a host file system that can't make holes | `UNSUPP` | nothing |
//! | host's disk is full | `IOERR` | once |
//! | any other error of the host | `IOERR` | 8 times |

mod device;
mod disk;
mod request;
#[cfg(test)]
mod tests;

pub use device::BlockDevice;
pub use disk::{Disk, DiskError, Flush, SEGMENTS_MAX, Segment};
