//! Serves folders of the host to one VM: FUSE requests in, system calls below these folders out
//! (virtio 1.2 section 5.11 is the device; the requests are those of Linux `uapi/linux/fuse.h`).
//!
//! ```text
//! guest ─► virtio-fs device (vmm) ─► shared slots and a socket ─► server ─► wire ─► files ─► kernel
//!                                                                   └── in a jail that holds these
//!                                                                       folders and nothing else
//! ```
//! Used by the hidden verb `__files` (`src/sandbox/files.rs`). Every byte of a request is a hostile
//! guest's. It knows folders, no VM and no container.

pub mod area;
mod directory;
pub mod files;
mod identity;
pub mod jail;
pub mod nodes;
mod reader;
pub mod reply;
pub mod server;
pub mod wire;
