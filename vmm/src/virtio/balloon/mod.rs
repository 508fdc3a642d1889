//! virtio-balloon (virtio 1.2 section 5.5): memory that the guest does not use goes back to the
//! host, when the host asks (inflation) and by itself (free page reporting).
//!
//! ```text
//! host: BalloonHandle::set_target_mib ──► num_pages, configuration interrupt
//! guest: takes pages from itself, names them on the inflate queue ──► pages ──► madvise
//! guest: free blocks on the reporting queue ───────────────────────► pages ──► madvise
//! ```
//!
//! What the VM wrote to a page is gone then. When the guest uses it again, it is zero, or in a VM that
//! goes on from a template what the template has there. In the VM of which a template is made nothing
//! is gone: its memory is the template's file, and stays. A driver may expect none of the three: one
//! that clears or poisons pages as it frees them (`init_on_free`, `page_poison`) reports none to a
//! device without `PAGE_POISON`, as this one is, and no other looks at what a free page holds. A guest
//! that names pages it still uses harms itself alone.

mod device;
mod pages;
#[cfg(test)]
mod tests;

pub use device::{BalloonDevice, BalloonHandle};
