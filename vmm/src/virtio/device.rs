//! What every virtio device is to its transport and its worker.
//!
//! Implemented by net, block, console, rng, balloon, vsock and fs, and by [`super::StandIn`] in the place of
//! one of them. A device knows its queues and guest memory; it knows neither registers, nor KVM, nor the
//! other devices.

use std::num::Wrapping;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use event_manager::EventSet;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::ConfigSpace;
use crate::GuestMemory;

/// A descriptor chain on this VM's memory.
pub type Chain<'m> = DescriptorChain<&'m GuestMemory>;

/// Chains that one wake-up of a queue may work off before the other devices have their turn.
const CHAINS_PER_TURN: usize = 256;

/// `InterruptStatus` bits and `Status` bits (virtio 1.2 sections 4.2.2 and 2.1).
const INTERRUPT_USED_RING: u32 = 1;
const INTERRUPT_CONFIG: u32 = 2;
/// `DEVICE_NEEDS_RESET`.
pub(super) const STATUS_NEEDS_RESET: u32 = 0x40;

/// Bytes of a used ring's header and of its elements (section 2.7.8).
const USED_RING_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;

/// Device types (virtio 1.2 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceKind {
    /// Section 5.1.
    Net = 1,
    /// Section 5.2.
    Block = 2,
    /// Section 5.3.
    Console = 3,
    /// Section 5.4.
    Rng = 4,
    /// Section 5.5.
    Balloon = 5,
    /// Section 5.10.
    Vsock = 19,
    /// Section 5.11.
    FileSystem = 26,
}

/// Why a device stops serving its driver. The worker tells the driver with `DEVICE_NEEDS_RESET`
/// and says the sentence once; the rest of the VM goes on.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The ring itself is unusable: its index ran ahead, its address is no memory.
    #[error("queue {queue}: {source}")]
    Ring {
        /// Which queue.
        queue: usize,
        /// What virtio-queue found.
        source: virtio_queue::Error,
    },
    /// A request breaks the device's rules so far that no answer can be placed.
    #[error("queue {queue}: {reason}")]
    Request {
        /// Which queue.
        queue: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The host's side of the device failed for good.
    #[error("{operation}: {source}")]
    Backend {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Raises a device's interrupt.
#[derive(Debug)]
pub struct Interrupt {
    irqfd: EventFd,
    /// `InterruptStatus`, shared with the transport, which clears it.
    status: Arc<AtomicU32>,
}

impl Interrupt {
    /// An interrupt on `irqfd` with its status register.
    #[must_use]
    pub fn new(irqfd: EventFd, status: Arc<AtomicU32>) -> Self {
        Self { irqfd, status }
    }

    /// Forgets what was raised, for the next driver.
    pub(super) fn clear(&self) {
        self.status.store(0, Ordering::Release);
    }

    /// What was raised and not acknowledged.
    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// Goes on from a saved status. The driver may not have seen its interrupt, so it comes again.
    pub(super) fn restore_status(&self, status: u32) {
        for bit in [INTERRUPT_USED_RING, INTERRUPT_CONFIG] {
            if status & bit != 0 {
                self.raise(bit);
            }
        }
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::AcqRel);
        // An eventfd refuses only when its counter would overflow: then it is raised already.
        let _ = self.irqfd.write(1);
    }

    /// Tells the driver that the configuration space or the status changed.
    pub fn config_changed(&self) {
        self.raise(INTERRUPT_CONFIG);
    }

    /// Tells the driver that a used ring has news.
    pub fn used_ring(&self) {
        self.raise(INTERRUPT_USED_RING);
    }
}

/// A change to the set of descriptors that the event loop watches for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchChange {
    /// Call [`Device::fd_ready`] with `token` when `fd` has `events` (level-triggered).
    Add {
        /// Descriptor, open until removed.
        fd: RawFd,
        /// Below 2^31, chosen by the device.
        token: u32,
        /// What to wait for.
        events: EventSet,
    },
    /// Wait for other events.
    Modify {
        /// A watched descriptor.
        fd: RawFd,
        /// Its token.
        token: u32,
        /// What to wait for from now on.
        events: EventSet,
    },
    /// Watch no longer.
    Remove {
        /// A watched descriptor, still open.
        fd: RawFd,
    },
}

/// The changes a device asked for in one call; the worker carries them out in order when the
/// call returns, so a device must keep a removed descriptor open until then (it may move it to
/// [`Watch::close`]).
#[derive(Debug, Default)]
pub struct Watch {
    /// In order.
    pub changes: Vec<WatchChange>,
    /// Descriptors to close after the changes were carried out.
    pub close: Vec<std::os::fd::OwnedFd>,
}

/// What became of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Bytes of answer in the chain.
    pub written: u32,
    /// Bytes moved in either direction, counted against the turn's share.
    pub moved: u64,
}

/// What a device works with while it serves its driver.
#[derive(Debug)]
pub struct Io<'a> {
    /// Guest memory; read once, then check.
    pub memory: &'a GuestMemory,
    /// Descriptors to watch.
    pub watch: &'a mut Watch,
    /// The device's configuration space.
    pub config: &'a ConfigSpace,
    queues: &'a mut [Queue],
    interrupt: &'a Interrupt,
    /// Queues that have more work than one turn takes.
    unfinished: &'a mut Vec<usize>,
}

impl<'a> Io<'a> {
    /// Puts together what one call needs. Only the worker and tests do.
    pub fn new(
        memory: &'a GuestMemory,
        queues: &'a mut [Queue],
        interrupt: &'a Interrupt,
        config: &'a ConfigSpace,
        watch: &'a mut Watch,
        unfinished: &'a mut Vec<usize>,
    ) -> Self {
        Self {
            memory,
            watch,
            config,
            queues,
            interrupt,
            unfinished,
        }
    }

    fn queue(&mut self, queue: usize) -> &mut Queue {
        // Devices name their own queues by constants below queue_sizes().len().
        &mut self.queues[queue]
    }

    /// The next chain the driver made available, or `None`.
    ///
    /// # Errors
    /// [`DeviceError::Ring`] when the ring is unusable.
    pub fn next_chain(&mut self, queue: usize) -> Result<Option<Chain<'a>>, DeviceError> {
        let memory = self.memory;
        let mut chains = self
            .queue(queue)
            .iter(memory)
            .map_err(|source| DeviceError::Ring { queue, source })?;
        Ok(chains.next())
    }

    /// Gives back the chain taken last, so that [`Self::next_chain`] returns it again.
    pub fn undo_next_chain(&mut self, queue: usize) {
        self.queue(queue).go_to_previous_position();
    }

    /// Returns a chain to the driver with `written` bytes of answer in it.
    ///
    /// # Errors
    /// [`DeviceError::Ring`] when the used ring is unusable.
    pub fn complete(&mut self, queue: usize, head: u16, written: u32) -> Result<(), DeviceError> {
        let memory = self.memory;
        self.queue(queue)
            .add_used(memory, head, written)
            .map_err(|source| DeviceError::Ring { queue, source })
    }

    /// Returns several chains at once, as a driver must find those of one frame that was spread over
    /// them (virtio 1.2 section 5.1.6.4.1): it sees all of them or none.
    ///
    /// # Errors
    /// [`DeviceError::Ring`] when the used ring is unusable.
    pub fn complete_all(&mut self, queue: usize, chains: &[(u16, u32)]) -> Result<(), DeviceError> {
        let Some(((last_head, last_written), others)) = chains.split_last() else {
            return Ok(());
        };
        let memory = self.memory;
        let used = self.queue(queue);
        let ring = |source| DeviceError::Ring { queue, source };
        let first = Wrapping(used.next_used());
        let mut next = first;
        for (head, written) in others {
            let slot = u64::from(next.0 % used.size());
            let address = GuestAddress(used.used_ring())
                .checked_add(USED_RING_HEADER + slot * USED_ELEMENT)
                .ok_or_else(|| ring(virtio_queue::Error::AddressOverflow))?;
            let [a, b, c, d] = u32::from(*head).to_le_bytes();
            let [e, f, g, h] = written.to_le_bytes();
            memory
                .write_obj([a, b, c, d, e, f, g, h], address)
                .map_err(|error| ring(virtio_queue::Error::GuestMemory(error)))?;
            next += 1;
        }
        // The queue writes the last element and the index behind it. It does so once per chain, with
        // the same result, because it counts its calls to know when the driver wants an interrupt.
        for _ in chains {
            used.set_next_used(next.0);
            used.add_used(memory, *last_head, *last_written)
                .map_err(ring)?;
        }
        Ok(())
    }

    /// Interrupts the driver for the chains completed so far, if it wants to be.
    ///
    /// # Errors
    /// [`DeviceError::Ring`] when the ring is unusable.
    pub fn signal(&mut self, queue: usize) -> Result<(), DeviceError> {
        let memory = self.memory;
        let wanted = self
            .queue(queue)
            .needs_notification(memory)
            .map_err(|source| DeviceError::Ring { queue, source })?;
        if wanted {
            self.interrupt.used_ring();
        }
        Ok(())
    }

    /// Asks the driver to kick again from now on; `true` when chains arrived meanwhile.
    ///
    /// # Errors
    /// [`DeviceError::Ring`] when the ring is unusable.
    pub fn enable_kicks(&mut self, queue: usize) -> Result<bool, DeviceError> {
        let memory = self.memory;
        self.queue(queue)
            .enable_notification(memory)
            .map_err(|source| DeviceError::Ring { queue, source })
    }

    /// Tells the driver that kicks are not needed for now.
    ///
    /// # Errors
    /// [`DeviceError::Ring`] when the ring is unusable.
    pub fn disable_kicks(&mut self, queue: usize) -> Result<(), DeviceError> {
        let memory = self.memory;
        self.queue(queue)
            .disable_notification(memory)
            .map_err(|source| DeviceError::Ring { queue, source })
    }

    /// Serves every available chain of `queue` with `serve`, which returns the bytes it wrote,
    /// and interrupts the driver at most once. After 256 chains the rest waits for the next
    /// turn, so that one busy queue cannot starve the other devices.
    ///
    /// # Errors
    /// What `serve` returns, or [`DeviceError::Ring`].
    pub fn drain(
        &mut self,
        queue: usize,
        mut serve: impl FnMut(&'a GuestMemory, Chain<'a>) -> Result<u32, DeviceError>,
    ) -> Result<(), DeviceError> {
        self.drain_within(queue, u64::MAX, |memory, chain| {
            serve(memory, chain).map(|written| Served { written, moved: 0 })
        })
    }

    /// As [`Self::drain`] for a device whose chains cost more than a glance: the turn also ends
    /// once `moved_max` bytes were moved.
    ///
    /// # Errors
    /// What `serve` returns, or [`DeviceError::Ring`].
    pub fn drain_within(
        &mut self,
        queue: usize,
        moved_max: u64,
        mut serve: impl FnMut(&'a GuestMemory, Chain<'a>) -> Result<Served, DeviceError>,
    ) -> Result<(), DeviceError> {
        let (mut rounds, mut served, mut moved) = (0, 0, 0_u64);
        self.disable_kicks(queue)?;
        let result = loop {
            if rounds == CHAINS_PER_TURN || moved >= moved_max {
                self.unfinished.push(queue);
                break Ok(());
            }
            // A round without a chain counts, too: another vCPU can move the index to and fro.
            rounds += 1;
            let Some(chain) = self.next_chain(queue)? else {
                if self.enable_kicks(queue)? {
                    self.disable_kicks(queue)?;
                    continue;
                }
                break Ok(());
            };
            let head = chain.head_index();
            match serve(self.memory, chain) {
                Ok(done) => {
                    self.complete(queue, head, done.written)?;
                    moved = moved.saturating_add(done.moved);
                }
                Err(error) => break Err(error),
            }
            served += 1;
        };
        if served > 0 {
            self.signal(queue)?;
        }
        result
    }

    /// Has [`Device::queue_ready`] called again for `queue` after the other devices had a turn.
    pub fn call_again(&mut self, queue: usize) {
        self.unfinished.push(queue);
    }

    /// Tells the driver that the configuration space changed.
    pub fn config_changed(&self) {
        self.interrupt.config_changed();
    }
}

/// A virtio device, from construction on the builder's thread to its life on the event loop.
///
/// ```text
/// new ──► [features, queue_sizes, config read by the transport]
///      ──► activate ──► queue_ready / fd_ready … ──► reset ──► activate …
///                              │     └─► end ──► fd_ready … until is_delivered ──► reset
///                              └─► Err: worker sets NEEDS_RESET, calls nothing but reset
/// ```
/// What the host has not taken by a reset is left to `fd_ready`, until `is_delivered`.
pub trait Device: Send {
    /// Its type.
    fn kind(&self) -> DeviceKind;

    /// A short name for messages, such as `block 0`.
    fn name(&self) -> &str;

    /// Feature bits of the device itself; the transport adds `VERSION_1` and `EVENT_IDX`.
    fn features(&self) -> u64;

    /// The most entries of each of its queues: powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Its configuration space.
    fn config(&self) -> ConfigSpace;

    /// Whether its calls may wait for the host, as for a slow disk: it is served by a thread of its own
    /// then. Such a device keeps nothing for the host when the VM ends.
    fn waits_for_host(&self) -> bool {
        false
    }

    /// The driver set DRIVER_OK with these features, a subset of those offered. Queues that it
    /// did not set up are not ready; a device that needs one of those returns an error.
    ///
    /// # Errors
    /// When the device cannot serve this driver.
    fn activate(&mut self, features: u64, io: &mut Io) -> Result<(), DeviceError>;

    /// The driver kicked `queue`.
    ///
    /// # Errors
    /// When the device cannot go on; it is stopped until the driver resets it.
    fn queue_ready(&mut self, queue: usize, io: &mut Io) -> Result<(), DeviceError>;

    /// A watched descriptor is ready.
    ///
    /// # Errors
    /// As [`Self::queue_ready`].
    fn fd_ready(&mut self, token: u32, events: EventSet, io: &mut Io) -> Result<(), DeviceError>;

    /// The driver reset the device: forget the driver, stop watching for it, keep the backend.
    fn reset(&mut self, watch: &mut Watch);

    /// The VM has ended: take what the driver sent before, and from now on only give the host what it
    /// did not take yet. Of the other calls only `fd_ready` and, at last, `reset` come after this one.
    ///
    /// # Errors
    /// As [`Self::queue_ready`].
    fn end(&mut self, _io: &mut Io) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Whether the host has taken all that there is for it.
    fn is_delivered(&self) -> bool {
        true
    }
}
