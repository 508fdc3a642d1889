//! One microVM: KVM, boot, vCPUs and virtio-mmio devices.
//!
//! Used by the `vmm` process of a sandbox (`src/sandbox/vmm_process.rs`) and by tests. It knows
//! no image, no container and no agent; it gets open descriptors and numbers, and it opens
//! nothing but `/dev/kvm`.

pub mod boot;
pub mod builder;
mod bus;
pub mod cpu;
pub mod memory;
pub mod snapshot;
pub mod vcpu;
pub mod virtio;
mod vm;
mod watch;

pub use builder::{BuildError, BuildTimes, DeviceMaker, Start, VmConfig, open_kvm};
pub use snapshot::Snapshot;
pub use vcpu::{ExitCounts, VmEnd};
pub use vm::{Confine, Thread, Vm};
pub use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Guest memory. It is never borrowed as a Rust reference: a guest changes it at any time.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// Says one line to whoever runs the VM (its stderr). Callers bound how often a guest can cause it.
pub(crate) fn say(message: std::fmt::Arguments) {
    use std::io::Write;

    if cfg!(test) {
        // Kept back by the test harness, unlike what follows.
        return eprintln!("vmm: {message}");
    }
    // Not eprintln!, which panics where nobody listens or a pipe is full: that ends the VM.
    let _ = writeln!(std::io::stderr(), "vmm: {message}");
}
