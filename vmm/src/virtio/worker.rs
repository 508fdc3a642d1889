//! Runs one device on the event loop: takes its queues at DRIVER_OK, hands kicks and descriptor
//! events to it, and stops it when it fails.
//!
//! Created by the builder; the transport talks to it through a [`DeviceLink`]. It knows no
//! registers.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_queue::{Queue, QueueT};
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
            complaints: 0,
        };
        Ok((worker, link))
    }

    /// The device, for its transport to read what it offers.
    #[must_use]
    pub fn device(&self) -> &dyn Device {
        self.device.as_ref()
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
            for (index, event) in (0_u32..).zip(&self.queue_events) {
                let _ = ops.remove(Events::with_data(event, TOKEN_QUEUE | index, EventSet::IN));
            }
            let mut watch = Watch::default();
            self.device.reset(&mut watch);
            apply(watch, ops);
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
                crate::say(format_args!(
                    "{}: watch queue {index}: {error}",
                    self.device.name()
                ));
            }
        }
        self.active = true;
        self.with_device(ops, |device, io| device.activate(features, io));
    }

    fn control(&mut self, ops: &mut EventOps) {
        let _ = self.control_event.read();
        while let Ok(message) = self.control.try_recv() {
            match message {
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
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            TOKEN_CONTROL => self.control(ops),
            _ if !self.active => {}
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
    }
}
