//! Drives a [`Device`] by the calls that the worker makes, on the test's own thread.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use event_manager::EventSet;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{EVENT_IDX, Ring, guest_memory, rings};
use crate::GuestMemory;
use crate::virtio::{ConfigSpace, Device, DeviceError, Interrupt, Io, Watch, WatchChange};

/// A device, its queues and the driver's rings.
pub struct DirectDriver<D: Device> {
    /// The device under test.
    pub device: D,
    /// Guest memory.
    pub memory: GuestMemory,
    /// The driver's side of each queue.
    pub rings: Vec<Ring>,
    /// The configuration space as the transport holds it.
    pub config: ConfigSpace,
    queues: Vec<Queue>,
    interrupt: Interrupt,
    interrupt_status: Arc<AtomicU32>,
    irqfd: EventFd,
    watched: BTreeMap<RawFd, (u32, EventSet)>,
    unfinished: BTreeSet<usize>,
}

impl<D: Device> DirectDriver<D> {
    /// The device that `make` returns, on mock memory, with queues of full size.
    pub fn new(make: impl FnOnce(&GuestMemory) -> D) -> Self {
        let memory = guest_memory();
        let device = make(&memory);
        let rings = rings(&memory, device.queue_sizes());
        let irqfd = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let interrupt_status = Arc::new(AtomicU32::new(0));
        Self {
            config: device.config(),
            queues: Vec::new(),
            interrupt: Interrupt::new(
                irqfd.try_clone().expect("an eventfd"),
                interrupt_status.clone(),
            ),
            interrupt_status,
            irqfd,
            watched: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            device,
            memory,
            rings,
        }
    }

    /// Sets up all queues and activates the device with `features`.
    ///
    /// # Errors
    /// The device's own.
    pub fn activate(&mut self, features: u64) -> Result<(), DeviceError> {
        self.activate_with(features, |_| true)
    }

    /// As [`Self::activate`] with only those queues set up that `wanted` says.
    ///
    /// # Errors
    /// The device's own.
    pub fn activate_with(
        &mut self,
        features: u64,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<(), DeviceError> {
        self.queues.clear();
        for (index, ring) in self.rings.iter().enumerate() {
            let mut queue = Queue::new(ring.size()).expect("a power of two");
            let [descriptors, available, used] = ring.addresses().map(|address| {
                Some(u32::try_from(address).expect("rings lie in the first piece of memory"))
            });
            queue.set_desc_table_address(descriptors, None);
            queue.set_avail_ring_address(available, None);
            queue.set_used_ring_address(used, None);
            queue.set_event_idx(features & EVENT_IDX != 0);
            queue.set_ready(wanted(index));
            self.queues.push(queue);
        }
        self.call(|device, io| device.activate(features, io))
    }

    fn call(
        &mut self,
        call: impl FnOnce(&mut D, &mut Io) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let mut watch = Watch::default();
        let mut unfinished = Vec::new();
        let mut io = Io::new(
            &self.memory,
            &mut self.queues,
            &self.interrupt,
            &self.config,
            &mut watch,
            &mut unfinished,
        );
        let result = call(&mut self.device, &mut io);
        self.apply(watch);
        self.unfinished.extend(unfinished);
        result
    }

    fn apply(&mut self, watch: Watch) {
        for change in watch.changes {
            let had = match change {
                WatchChange::Add { fd, token, events } => {
                    assert!(token < 1 << 31, "token {token:#x} is the worker's");
                    self.watched.insert(fd, (token, events)).is_none()
                }
                WatchChange::Modify { fd, token, events } => {
                    self.watched.insert(fd, (token, events)).is_some()
                }
                WatchChange::Remove { fd } => self.watched.remove(&fd).is_some(),
            };
            assert!(had, "{change:?} does not fit what is watched");
        }
    }

    /// Calls [`Device::queue_ready`] once.
    ///
    /// # Errors
    /// The device's own.
    pub fn kick(&mut self, queue: usize) -> Result<(), DeviceError> {
        self.call(|device, io| device.queue_ready(queue, io))
    }

    /// Kicks `queue` and every queue that asked to be called again, until none does.
    ///
    /// # Errors
    /// The device's own.
    pub fn run(&mut self, queue: usize) -> Result<(), DeviceError> {
        self.kick(queue)?;
        while let Some(again) = self.unfinished.pop_first() {
            self.kick(again)?;
        }
        Ok(())
    }

    /// Queues that asked to be called again since the last [`Self::run`].
    #[must_use]
    pub fn unfinished(&self) -> Vec<usize> {
        self.unfinished.iter().copied().collect()
    }

    /// Calls [`Device::fd_ready`] once.
    ///
    /// # Errors
    /// The device's own.
    pub fn fd_ready(&mut self, token: u32, events: EventSet) -> Result<(), DeviceError> {
        self.call(|device, io| device.fd_ready(token, events, io))
    }

    /// What the device watches: descriptor, token, events.
    #[must_use]
    pub fn watched(&self) -> Vec<(RawFd, u32, EventSet)> {
        self.watched
            .iter()
            .map(|(fd, (token, events))| (*fd, *token, *events))
            .collect()
    }

    /// Waits up to `timeout_ms` for watched descriptors and hands over those that are ready;
    /// returns how many there were.
    ///
    /// # Errors
    /// The device's own.
    #[allow(unsafe_code)] // poll(2)
    pub fn poll(&mut self, timeout_ms: i32) -> Result<usize, DeviceError> {
        // The bits of epoll events and of poll events are the same in Linux.
        let mut fds: Vec<libc::pollfd> = self
            .watched
            .iter()
            .map(|(fd, (_, events))| libc::pollfd {
                fd: *fd,
                events: i16::try_from(events.bits() & 0x7fff).expect("masked"),
                revents: 0,
            })
            .collect();
        let count = libc::nfds_t::try_from(fds.len()).expect("few descriptors");
        // SAFETY: `fds` is an array of `count` entries that outlives the call.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), count, timeout_ms) };
        let mut served = 0;
        for entry in fds.iter().filter(|entry| ready > 0 && entry.revents != 0) {
            // An earlier call may have taken this one off the list.
            if let Some((token, _)) = self.watched.get(&entry.fd).copied() {
                let bits = u32::from(u16::try_from(entry.revents).expect("poll bits"));
                self.fd_ready(token, EventSet::from_bits_truncate(bits))?;
                served += 1;
            }
        }
        Ok(served)
    }

    /// Resets the device and clears the rings.
    pub fn reset(&mut self) {
        let mut watch = Watch::default();
        self.device.reset(&mut watch);
        self.apply(watch);
        self.unfinished.clear();
        self.queues.clear();
        self.rings.iter_mut().for_each(Ring::clear);
        self.interrupt_status.store(0, Ordering::Release);
    }

    /// Interrupts raised since the last call.
    pub fn take_interrupts(&mut self) -> u64 {
        self.irqfd.read().unwrap_or(0)
    }

    /// `InterruptStatus`: bit 0 used ring, bit 1 configuration.
    #[must_use]
    pub fn interrupt_status(&self) -> u32 {
        self.interrupt_status.load(Ordering::Acquire)
    }

    /// A queue's state as the device left it.
    #[must_use]
    pub fn queue(&self, queue: usize) -> &Queue {
        &self.queues[queue]
    }
}
