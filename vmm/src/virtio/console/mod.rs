//! virtio-console (virtio 1.2 section 5.3) with its one port, `hvc0`: for the guest kernel's
//! messages and for looking into a guest. A container's own output goes over vsock.
//!
//! Output that the host does not take at once, or that is beyond the limit, is dropped: the
//! guest's kernel spins with locks held until it is rid of it. There is no input.

mod device;
#[cfg(test)]
mod tests;

pub use device::{ConsoleDevice, OUTPUT_BYTES_MAX};
