//! virtio 1.2 devices over MMIO.
//!
//! ```text
//! vCPU thread                                event loop: the main thread's, or a disk's own
//! ───────────                                ───────────────────────────────────────────
//! MMIO exit -> transport (registers,         worker (one per device): owns the device,
//!   negotiation, queue set-up)                 its queues and descriptors
//!        │ DRIVER_OK: queues move ─────────────► Activate
//!        │ status = 0, waits ──────────────────► Reset, status reads 0
//!  guest kick -> ioeventfd (no exit to us) ────► Device::queue_ready
//!  guest interrupt ◄──── irqfd ───────────────── Interrupt
//! ```
//!
//! Queues belong to one event loop alone from DRIVER_OK on: no lock lies on the data path, and a
//! register write that comes later finds nothing left to change.

pub mod balloon;
pub mod block;
mod chain;
mod config;
pub mod console;
mod device;
#[cfg(test)]
mod exhaustive;
pub mod fs;
pub mod mmio;
#[cfg(any(test, feature = "mock"))]
pub mod mock;
pub mod net;
pub mod rng;
#[cfg(test)]
mod snapshot_tests;
mod stand_in;
pub mod vsock;
mod worker;

pub use chain::{Buffers, DESCRIPTORS_MAX, OutsideMemory, Spans};
pub use config::ConfigSpace;
pub use device::{
    Chain, Device, DeviceError, DeviceKind, Interrupt, Io, Served, Watch, WatchChange,
};
pub use mmio::{RestoreError, TransportState};
pub use stand_in::StandIn;
pub use worker::{DeviceLink, Worker};
