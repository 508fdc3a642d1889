//! virtio-balloon (virtio 1.2 section 5.5): memory that the guest does not use goes back to the
//! host, when the host asks (inflation) and by itself (free page reporting).
//!
//! ```text
//! host: BalloonHandle::set_target_mib ──► num_pages, configuration interrupt
//! guest: takes pages from itself, names them on the inflate queue ──► pages ──► madvise
//! guest: free blocks on the reporting queue ───────────────────────► pages ──► madvise
//! ```
//!
//! Whatever a page held is gone then; when the guest uses it again it is zero. A guest that names
//! pages it still uses harms itself alone.

mod device;
mod pages;
#[cfg(test)]
mod tests;

pub use device::{BalloonDevice, BalloonHandle, BalloonState};
