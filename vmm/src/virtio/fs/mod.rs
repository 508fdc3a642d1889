//! virtio-fs (virtio 1.2 section 5.11): carries requests for files from the guest to a file server and
//! replies back. It knows the length of a request and the number to answer it under, and nothing else
//! of FUSE.
//!
//! ```text
//! virtqueue ─► copy into a free slot of the shared area ─► "slot, bytes, room" ─► server
//!           ◄─ copy out of it, used ring ◄───────────────── "slot, bytes" ◄──────┘
//! ```
//! The server never sees guest memory, and what it writes reaches the guest as it is. Both messages
//! are little-endian `u32`s on a sequential-packet socket; at most one of each per slot is under way,
//! so that the socket never fills.

mod area;
mod device;
#[cfg(test)]
mod tests;

pub use device::{Backend, FsDevice, QUEUE_SIZES};
