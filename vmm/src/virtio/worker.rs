//! Runs one device on an event loop, the main thread's or a disk's own: takes its queues at DRIVER_OK,
//! hands kicks and descriptor events to it, and stops it when it fails.
//!
//! Created by the builder; the transport talks to it through a [`DeviceLink`]. It knows no
//! registers.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueState, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::STATUS_NEEDS_RESET;
use super::{ConfigSpace, Device, DeviceError, Interrupt, Io, Watch, WatchChange};
use crate::GuestMemory;

/// Tokens of the worker's own descriptors; a device's own are below 2^31.
const TOKEN_CONTROL: u32 = u32::MAX;
const TOKEN_QUEUE: u32 = 1 << 31;

/// Sentences that one device may say in the life of a VM: a guest that breaks it, resets it and
/// breaks it again must not fill the log.
const COMPLAINTS_MAX: u32 = 8;

/// What the transport asks of the worker. At most one of each is under way, because a reset holds
/// up the vCPU that asks for it.
enum Control {
    Activate {
        queues: Vec<Queue>,
        features: u64,
    },
    /// Dropped when the reset is done.
    Reset {
        done: Sender<()>,
    },
    /// Tell what a snapshot keeps.
    Save {
        to: Sender<WorkerState>,
    },
    /// The VM has ended. Dropped when the host has taken all that the device has for it.
    Deliver {
        done: Sender<()>,
    },
}

/// What a snapshot keeps of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerState {
    /// Empty unless a driver is at work.
    queues: Vec<SavedQueue>,
    /// `InterruptStatus` register.
    interrupt_status: u32,
    /// The configuration space as the driver knows it.
    config: Vec<u8>,
}

/// A queue's part; the sizes are the device's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct SavedQueue {
    next_avail: u16,
    next_used: u16,
    size: u16,
    ready: bool,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
}

impl SavedQueue {
    fn of(queue: &Queue) -> Self {
        let state = queue.state();
        Self {
            next_avail: state.next_avail,
            next_used: state.next_used,
            size: state.size,
            ready: state.ready,
            desc_table: state.desc_table,
            avail_ring: state.avail_ring,
            used_ring: state.used_ring,
        }
    }

    fn restored(self, max_size: u16, event_idx_enabled: bool) -> Option<Queue> {
        Queue::try_from(QueueState {
            max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled,
            size: self.size,
            ready: self.ready,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        })
        .ok()
    }
}

/// The transport's end.
pub struct DeviceLink {
    control: Sender<Control>,
    control_event: EventFd,
    /// `Status` register; the worker clears it after a reset and sets `DEVICE_NEEDS_RESET`.
    pub(super) status: Arc<AtomicU32>,
    /// `InterruptStatus` register.
    pub(super) interrupt_status: Arc<AtomicU32>,
    pub(super) config: Arc<ConfigSpace>,
    /// One per queue; the builder registers them as ioeventfds.
    pub(super) queue_events: Vec<EventFd>,
}

impl DeviceLink {
    fn send(&self, message: Control) {
        // The worker lives as long as the VM; when it is gone the VM is ending.
        if self.control.send(message).is_ok() {
            let _ = self.control_event.write(1);
        }
    }

    pub(super) fn activate(&self, queues: Vec<Queue>, features: u64) {
        self.send(Control::Activate { queues, features });
    }

    /// Has the worker tell its state from the event loop.
    pub(super) fn ask_for_state(&self) -> Receiver<WorkerState> {
        let (to, state) = channel();
        self.send(Control::Save { to });
        state
    }

    /// Has the worker serve the host and no driver any more; hung up when the host has all.
    pub(super) fn deliver(&self) -> Receiver<()> {
        let (done, finished) = channel();
        self.send(Control::Deliver { done });
        finished
    }

    /// Returns when the device is reset and touches guest memory no more, or the VM is ending.
    ///
    /// Linux 6.12 writes 0 to `Status` and goes on without reading it back: it frees the rings,
    /// or starts the next driver.
    pub(super) fn reset(&self) {
        let (done, finished) = channel();
        self.send(Control::Reset { done });
        // An error is the good case: nothing is sent, the worker lets go of its end.
        let _ = finished.recv();
    }
}

/// A device with what it needs on the event loop.
pub struct Worker {
    device: Box<dyn Device>,
    memory: GuestMemory,
    queues: Vec<Queue>,
    interrupt: Interrupt,
    config: Arc<ConfigSpace>,
    status: Arc<AtomicU32>,
    queue_events: Vec<EventFd>,
    control: Receiver<Control>,
    control_event: EventFd,
    active: bool,
    /// Features of the driver that a restored device goes on with.
    resume: Option<u64>,
    /// The VM has ended, and no driver is heard any more.
    ended: bool,
    /// Who waits for the host to take what there is for it.
    delivering: Option<Sender<()>>,
    complaints: u32,
}

impl Worker {
    /// Ties `device` to a new link; `irqfd` is what its interrupts are written to.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(
        device: Box<dyn Device>,
        memory: GuestMemory,
        irqfd: EventFd,
    ) -> std::io::Result<(Self, DeviceLink)> {
        let (sender, receiver) = channel();
        let control_event = EventFd::new(EFD_NONBLOCK)?;
        let queue_events = device
            .queue_sizes()
            .iter()
            .map(|_| EventFd::new(EFD_NONBLOCK))
            .collect::<Result<Vec<_>, _>>()?;
        let status = Arc::new(AtomicU32::new(0));
        let interrupt_status = Arc::new(AtomicU32::new(0));
        let config = Arc::new(device.config());
        let link = DeviceLink {
            control: sender,
            control_event: control_event.try_clone()?,
            status: status.clone(),
            interrupt_status: interrupt_status.clone(),
            config: config.clone(),
            queue_events: queue_events
                .iter()
                .map(EventFd::try_clone)
                .collect::<Result<_, _>>()?,
        };
        let worker = Self {
            device,
            memory,
            queues: Vec::new(),
            interrupt: Interrupt::new(irqfd, interrupt_status),
            config,
            status,
            queue_events,
            control: receiver,
            control_event,
            active: false,
            resume: None,
            ended: false,
            delivering: None,
            complaints: 0,
        };
        Ok((worker, link))
    }

    /// The device, for its transport to read what it offers.
    #[must_use]
    pub fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    fn state(&self) -> WorkerState {
        WorkerState {
            queues: self.queues.iter().map(SavedQueue::of).collect(),
            interrupt_status: self.interrupt.status(),
            config: self.config.bytes(),
        }
    }

    /// Takes a saved state over, to go on from it when the event loop starts; returns which queues
    /// are ready.
    pub(super) fn restore(
        &mut self,
        state: &WorkerState,
        features: u64,
        has_driver: bool,
        sizes: &[u16],
    ) -> Result<Vec<bool>, &'static str> {
        if state.config.len() != self.config.bytes().len() {
            return Err("a configuration space of another length");
        }
        if !has_driver {
            return Ok(Vec::new());
        }
        if state.queues.len() != sizes.len() {
            return Err("another number of queues");
        }
        let event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        self.queues = sizes
            .iter()
            .zip(&state.queues)
            .map(|(size, queue)| queue.restored(*size, event_idx))
            .collect::<Option<_>>()
            .ok_or("a queue that can't be")?;
        if !self
            .queues
            .iter()
            .all(|queue| !queue.ready() || queue.is_valid(&self.memory))
        {
            return Err("a queue outside of memory");
        }
        self.interrupt.restore_status(state.interrupt_status);
        if state.config != self.config.bytes() {
            // The driver knows another configuration, so that it must be told.
            self.config.update(|_| {});
            self.interrupt.config_changed();
        }
        self.resume = Some(features);
        Ok(self.queues.iter().map(QueueT::ready).collect())
    }

    fn with_device(
        &mut self,
        ops: &mut EventOps,
        call: impl FnOnce(&mut dyn Device, &mut Io) -> Result<(), DeviceError>,
    ) {
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
        let result = call(self.device.as_mut(), &mut io);
        apply(watch, ops);
        match result {
            Ok(()) => {
                for queue in unfinished {
                    if let Some(event) = self.queue_events.get(queue) {
                        let _ = event.write(1);
                    }
                }
            }
            Err(error) => self.stop(&error, ops),
        }
    }

    /// The device failed its driver or the driver its device: no more service until a reset.
    fn stop(&mut self, error: &DeviceError, ops: &mut EventOps) {
        self.detach(ops);
        self.status.fetch_or(STATUS_NEEDS_RESET, Ordering::AcqRel);
        self.interrupt.config_changed();
        if self.complaints < COMPLAINTS_MAX {
            self.complaints += 1;
            crate::say(format_args!("{}: stopped: {error}", self.device.name()));
        }
    }

    fn detach(&mut self, ops: &mut EventOps) {
        if self.active {
            self.active = false;
            self.hear_no_driver(ops);
            let mut watch = Watch::default();
            self.device.reset(&mut watch);
            apply(watch, ops);
        }
    }

    fn hear_no_driver(&self, ops: &mut EventOps) {
        for (index, event) in (0_u32..).zip(&self.queue_events) {
            let _ = ops.remove(Events::with_data(event, TOKEN_QUEUE | index, EventSet::IN));
        }
    }

    fn deliver(&mut self, done: Sender<()>, ops: &mut EventOps) {
        self.ended = true;
        self.delivering = Some(done);
        if self.active {
            self.with_device(ops, |device, io| device.end(io));
            self.hear_no_driver(ops);
        }
    }

    /// Lets go of a device that has ended when the host has taken all.
    fn let_go(&mut self, ops: &mut EventOps) {
        if self.delivering.is_some() && self.device.is_delivered() {
            self.detach(ops);
            self.delivering = None;
        }
    }

    fn activate(&mut self, queues: Vec<Queue>, features: u64, ops: &mut EventOps) {
        self.queues = queues;
        if let Some(index) = self
            .queues
            .iter()
            .position(|queue| queue.ready() && !queue.is_valid(&self.memory))
        {
            let error = DeviceError::Request {
                queue: index,
                reason: "its rings are not in memory",
            };
            self.stop(&error, ops);
            return;
        }
        for (index, event) in (0_u32..).zip(&self.queue_events) {
            if let Err(error) = ops.add(Events::with_data(event, TOKEN_QUEUE | index, EventSet::IN))
            {
                // It would be deaf, and its driver wait for ever.
                let error = DeviceError::Backend {
                    operation: "watch a queue",
                    source: std::io::Error::other(error),
                };
                self.hear_no_driver(ops);
                self.stop(&error, ops);
                return;
            }
        }
        self.active = true;
        self.with_device(ops, |device, io| device.activate(features, io));
    }

    /// Goes on with the queues of a saved state. Each is looked at once: a kick that nobody had
    /// seen when it was saved is in no eventfd.
    fn resume(&mut self, features: u64, ops: &mut EventOps) {
        let queues = std::mem::take(&mut self.queues);
        self.activate(queues, features, ops);
        for event in &self.queue_events {
            let _ = event.write(1);
        }
    }

    fn control(&mut self, ops: &mut EventOps) {
        let _ = self.control_event.read();
        if let Some(features) = self.resume.take() {
            self.resume(features, ops);
        }
        while let Ok(message) = self.control.try_recv() {
            match message {
                // vCPUs may run on for a moment; one that waits for a reset goes on.
                Control::Activate { .. } | Control::Reset { .. } if self.ended => {}
                Control::Activate { queues, features } => self.activate(queues, features, ops),
                Control::Reset { done } => {
                    self.detach(ops);
                    self.queues.clear();
                    for event in &self.queue_events {
                        let _ = event.read();
                    }
                    self.interrupt.clear();
                    self.status.store(0, Ordering::Release);
                    drop(done);
                }
                // Nobody to tell is a snapshot given up.
                Control::Save { to } => drop(to.send(self.state())),
                Control::Deliver { done } => self.deliver(done, ops),
            }
        }
    }
}

fn apply(watch: Watch, ops: &mut EventOps) {
    for change in watch.changes {
        let result = match change {
            WatchChange::Add { fd, token, events } => {
                ops.add(Events::with_data_raw(fd, token, events))
            }
            WatchChange::Modify { fd, token, events } => {
                ops.modify(Events::with_data_raw(fd, token, events))
            }
            WatchChange::Remove { fd } => ops.remove(Events::empty_raw(fd)),
        };
        if let Err(error) = result {
            crate::say(format_args!("event loop: {change:?}: {error}"));
        }
    }
    drop(watch.close);
}

impl MutEventSubscriber for Worker {
    fn init(&mut self, ops: &mut EventOps) {
        let events = Events::with_data(&self.control_event, TOKEN_CONTROL, EventSet::IN);
        if let Err(error) = ops.add(events) {
            crate::say(format_args!(
                "{}: watch control: {error}",
                self.device.name()
            ));
        }
        if self.resume.is_some() {
            // Not before the event loop runs, and its thread is confined.
            let _ = self.control_event.write(1);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            TOKEN_CONTROL => self.control(ops),
            // A device that was reset may have something for the host yet, and no queue.
            token if !self.active && (token & TOKEN_QUEUE != 0 || self.device.is_delivered()) => {}
            token if token & TOKEN_QUEUE != 0 => {
                let Ok(index) = usize::try_from(token & !TOKEN_QUEUE) else {
                    return;
                };
                let Some(event) = self.queue_events.get(index) else {
                    return;
                };
                debug_assert_eq!(event.as_raw_fd(), events.fd());
                let _ = event.read();
                if self.queues.get(index).is_some_and(QueueT::ready) {
                    self.with_device(ops, |device, io| device.queue_ready(index, io));
                }
            }
            token => {
                let set = events.event_set();
                self.with_device(ops, |device, io| device.fd_ready(token, set, io));
            }
        }
        self.let_go(ops);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::RawFd;

    use event_manager::{EventManager, SubscriberOps};

    use super::*;
    use crate::virtio::mock::echo::Echo;
    use crate::virtio::mock::guest_memory;

    /// Has a descriptor in the event loop before its owner.
    struct Holder(RawFd);

    impl MutEventSubscriber for Holder {
        fn init(&mut self, ops: &mut EventOps) {
            ops.add(Events::with_data_raw(self.0, 0, EventSet::IN))
                .unwrap();
        }

        fn process(&mut self, _: Events, _: &mut EventOps) {}
    }

    #[test]
    fn a_device_whose_queue_is_not_watched_is_stopped() {
        let irqfd = EventFd::new(EFD_NONBLOCK).unwrap();
        let interrupts = irqfd.try_clone().unwrap();
        let (worker, link) = Worker::new(Box::new(Echo::default()), guest_memory(), irqfd).unwrap();
        let mut events: EventManager<Box<dyn MutEventSubscriber>> = EventManager::new().unwrap();
        events.add_subscriber(Box::new(Holder(worker.queue_events[0].as_raw_fd())));
        events.add_subscriber(Box::new(worker));
        link.activate(Vec::new(), 0);
        events.run_with_timeout(0).unwrap();
        let status = link.status.load(Ordering::Acquire);
        assert_ne!(status & STATUS_NEEDS_RESET, 0);
        assert_eq!(interrupts.read().unwrap(), 1);
    }
}
