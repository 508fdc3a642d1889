//! The virtio-mmio register block of one device (virtio 1.2 section 4.2.2), run on vCPU threads.
//!
//! Every write is checked against the device's state: features only after DRIVER and before
//! FEATURES_OK, queues only after FEATURES_OK and before DRIVER_OK. What comes at the wrong time is
//! dropped, as a driver that plays by the rules never does it. A reset holds up the vCPU that asks
//! for it until the worker has let go of the queues.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use serde::{Deserialize, Serialize};

use super::device::STATUS_NEEDS_RESET;
use super::worker::WorkerState;
use super::{Device, DeviceKind, DeviceLink};

/// Bytes of a register block; the configuration space begins at 0x100.
pub const REGION_LEN: u64 = 0x1000;

/// Offset of `QueueNotify`; ioeventfds are registered on it.
pub const QUEUE_NOTIFY: u64 = 0x50;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "BLKH": no PCI vendor id fits, drivers ignore it.
const VENDOR: u32 = 0x484b_4c42;
const CONFIG_OFFSET: u64 = 0x100;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const FAILED: u32 = 128;
const STATUS_BITS: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;

/// What negotiation has come to; locked, since any vCPU may write.
#[derive(Debug)]
struct Negotiation {
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    queues: Vec<Queue>,
}

/// What a snapshot keeps of a device: what its driver negotiated, its queues, its registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// Features that the driver took.
    driver_features: u64,
    queue_select: u32,
    /// `Status` register.
    status: u32,
    worker: WorkerState,
}

/// Why a device can't go on from a saved state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The state is of another device, or no device of ours ever was in it.
    #[error("the saved state of {device}: {reason}")]
    State {
        /// Which device.
        device: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// The registers of one device.
pub struct Transport {
    kind: DeviceKind,
    features: u64,
    /// Its worker has a thread of its own.
    waits_for_host: bool,
    queue_sizes: Vec<u16>,
    link: DeviceLink,
    negotiation: Mutex<Negotiation>,
}

fn new_queues(sizes: &[u16]) -> Vec<Queue> {
    sizes
        .iter()
        .map(|size| match Queue::new(*size) {
            Ok(queue) => queue,
            // Our own constants: a device that names a size which is no power of two is a bug.
            Err(error) => panic!("queue of {size} entries: {error}"),
        })
        .collect()
}

impl Transport {
    /// The registers for `device`, whose worker listens on `link`.
    #[must_use]
    pub fn new(device: &dyn Device, link: DeviceLink) -> Self {
        let queue_sizes = device.queue_sizes().to_vec();
        Self {
            kind: device.kind(),
            features: device.features() | 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX,
            waits_for_host: device.waits_for_host(),
            negotiation: Mutex::new(Negotiation {
                device_features_select: 0,
                driver_features_select: 0,
                driver_features: 0,
                queue_select: 0,
                queues: new_queues(&queue_sizes),
            }),
            queue_sizes,
            link,
        }
    }

    /// What a snapshot keeps, with the worker's answer to [`Self::ask_for_state`]. No vCPU may run.
    pub(crate) fn state(&self, worker: WorkerState) -> TransportState {
        let negotiation = self.lock();
        TransportState {
            driver_features: negotiation.driver_features,
            queue_select: negotiation.queue_select,
            status: self.status(),
            worker,
        }
    }

    /// As [`Device::waits_for_host`].
    pub(crate) fn waits_for_host(&self) -> bool {
        self.waits_for_host
    }

    /// Has the worker send its state from its thread.
    pub(crate) fn ask_for_state(&self) -> std::sync::mpsc::Receiver<WorkerState> {
        self.link.ask_for_state()
    }

    /// Has the worker serve the host alone, since the VM has ended; hung up when the host has all.
    pub(crate) fn deliver(&self) -> std::sync::mpsc::Receiver<()> {
        self.link.deliver()
    }

    /// Goes on from a saved state, before any vCPU runs. The worker takes up its queues when its
    /// thread starts.
    pub(crate) fn restore(
        &self,
        state: &TransportState,
        worker: &mut super::Worker,
    ) -> Result<(), RestoreError> {
        let error = |reason| RestoreError::State {
            device: worker.device().name().to_owned(),
            reason,
        };
        if state.driver_features & !self.features != 0 {
            return Err(error("features that it does not offer"));
        }
        if state.status & !(STATUS_BITS | STATUS_NEEDS_RESET) != 0 {
            return Err(error("a status that does not exist"));
        }
        if state.status & (FEATURES_OK | DRIVER_OK | FAILED) == FEATURES_OK {
            // What its driver had said of its queues is not kept.
            return Err(error("a driver that was setting it up"));
        }
        let ready = worker
            .restore(
                &state.worker,
                state.driver_features,
                // One that was stopped waits for its reset.
                state.status & (DRIVER_OK | STATUS_NEEDS_RESET) == DRIVER_OK,
                &self.queue_sizes,
            )
            .map_err(|reason| RestoreError::State {
                device: worker.device().name().to_owned(),
                reason,
            })?;
        let mut negotiation = self.lock();
        negotiation.driver_features = state.driver_features;
        negotiation.queue_select = state.queue_select;
        for (queue, ready) in negotiation.queues.iter_mut().zip(ready) {
            queue.set_ready(ready);
        }
        self.link.status.store(state.status, Ordering::Release);
        Ok(())
    }

    /// The eventfds that kicks of each queue go to.
    #[must_use]
    pub fn queue_events(&self) -> &[EventFd] {
        &self.link.queue_events
    }

    fn status(&self) -> u32 {
        self.link.status.load(Ordering::Acquire)
    }

    /// A read of `data.len()` bytes at `offset` of the block. Registers answer 32-bit reads only,
    /// everything else reads as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_OFFSET) {
            self.link.config.read(offset, data);
            return;
        }
        data.fill(0);
        if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = self.read_register(offset).to_le_bytes();
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        // The two that a driver reads at every interrupt come first and take no lock.
        match offset {
            0x60 => return self.link.interrupt_status.load(Ordering::Acquire),
            0x70 => return self.status(),
            _ => {}
        }
        let negotiation = self.lock();
        let selected = usize::try_from(negotiation.queue_select)
            .ok()
            .and_then(|index| negotiation.queues.get(index));
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.kind as u32,
            0x0c => VENDOR,
            0x10 => match negotiation.device_features_select {
                0 => low(self.features),
                1 => high(self.features),
                _ => 0,
            },
            0x34 => selected.map_or(0, |queue| u32::from(queue.max_size())),
            0x44 => selected.map_or(0, |queue| u32::from(queue.ready())),
            // No shared memory: its length and base read as all ones (section 4.2.2).
            0xb0 | 0xb4 | 0xb8 | 0xbc => u32::MAX,
            0xfc => self.link.config.generation(),
            _ => 0,
        }
    }

    /// A write of `data` at `offset` of the block.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_OFFSET) {
            if self.status() & DRIVER != 0 {
                self.link.config.write_from_driver(offset, data);
            }
            return;
        }
        let Ok(word) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(word);
        match offset {
            0x50 => {
                // Kicks come by ioeventfd; this is for a guest that writes them some other way.
                let index = usize::try_from(value).unwrap_or(usize::MAX);
                if let Some(event) = self.link.queue_events.get(index) {
                    let _ = event.write(1);
                }
            }
            0x64 => {
                self.link
                    .interrupt_status
                    .fetch_and(!value, Ordering::AcqRel);
            }
            0x70 => self.write_status(value),
            _ => self.write_negotiation(offset, value),
        }
    }

    fn write_negotiation(&self, offset: u64, value: u32) {
        let mut negotiation = self.lock();
        let status = self.status();
        let features_open = status & DRIVER != 0 && status & (FEATURES_OK | FAILED) == 0;
        let queues_open =
            status & FEATURES_OK != 0 && status & (DRIVER_OK | FAILED | STATUS_NEEDS_RESET) == 0;
        match offset {
            0x14 => negotiation.device_features_select = value,
            0x24 => negotiation.driver_features_select = value,
            0x30 => negotiation.queue_select = value,
            0x20 if features_open => {
                let (keep, shift) = match negotiation.driver_features_select {
                    0 => (0xffff_ffff_0000_0000, 0),
                    1 => (0x0000_0000_ffff_ffff, 32),
                    _ => return,
                };
                negotiation.driver_features =
                    negotiation.driver_features & keep | u64::from(value) << shift;
            }
            _ if queues_open => {
                let select = negotiation.queue_select;
                let Some(queue) = usize::try_from(select)
                    .ok()
                    .and_then(|index| negotiation.queues.get_mut(index))
                else {
                    return;
                };
                write_queue(queue, offset, value);
            }
            _ => {}
        }
    }

    fn write_status(&self, value: u32) {
        let mut negotiation = self.lock();
        let status = self.status();
        if value == 0 {
            if status != 0 {
                negotiation.driver_features = 0;
                negotiation.queue_select = 0;
                negotiation.queues = new_queues(&self.queue_sizes);
                self.link.reset();
            }
            return;
        }
        // Bits are added one step after the other and never taken back (section 2.1.1).
        let mut added = value & STATUS_BITS & !status;
        if value & status & STATUS_BITS != status & STATUS_BITS {
            return;
        }
        if added & FEATURES_OK != 0 {
            let wanted = negotiation.driver_features;
            let legal = status & DRIVER != 0
                && wanted & !self.features == 0
                && wanted & 1 << VIRTIO_F_VERSION_1 != 0;
            if !legal {
                added &= !FEATURES_OK;
            }
        }
        if added & DRIVER_OK != 0 && (status | added) & FEATURES_OK == 0 {
            added &= !DRIVER_OK;
        }
        self.link.status.fetch_or(added, Ordering::AcqRel);
        if added & DRIVER_OK != 0 {
            let features = negotiation.driver_features;
            let mut queues =
                std::mem::replace(&mut negotiation.queues, new_queues(&self.queue_sizes));
            for (queue, shown) in queues.iter_mut().zip(&mut negotiation.queues) {
                queue.set_event_idx(features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
                shown.set_ready(queue.ready());
            }
            self.link.activate(queues, features);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Negotiation> {
        self.negotiation
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn write_queue(queue: &mut Queue, offset: u64, value: u32) {
    match offset {
        0x44 => queue.set_ready(value == 1),
        // A ready queue does not change (section 4.2.2.2).
        _ if queue.ready() => {}
        // set_size and the address setters refuse what the spec forbids and keep the old value.
        0x38 => queue.set_size(u16::try_from(value).unwrap_or(0)),
        0x80 => queue.set_desc_table_address(Some(value), None),
        0x84 => queue.set_desc_table_address(None, Some(value)),
        0x90 => queue.set_avail_ring_address(Some(value), None),
        0x94 => queue.set_avail_ring_address(None, Some(value)),
        0xa0 => queue.set_used_ring_address(Some(value), None),
        0xa4 => queue.set_used_ring_address(None, Some(value)),
        _ => {}
    }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

fn high(value: u64) -> u32 {
    u32::try_from(value >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests;
