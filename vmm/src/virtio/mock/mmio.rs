//! Drives a device through its registers and an event loop, step by step as Linux's
//! `virtio_mmio` does; or writes any register at any time.

use std::sync::mpsc::Receiver;

use event_manager::{EventManager, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Ring, guest_memory, rings};
use crate::GuestMemory;
use crate::virtio::mmio::Transport;
use crate::virtio::{Device, RestoreError, TransportState, Worker};

/// Offsets of registers (virtio 1.2 section 4.2.2).
#[allow(missing_docs)] // the standard's names
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Register {
    MagicValue = 0x00,
    Version = 0x04,
    DeviceId = 0x08,
    VendorId = 0x0c,
    DeviceFeatures = 0x10,
    DeviceFeaturesSel = 0x14,
    DriverFeatures = 0x20,
    DriverFeaturesSel = 0x24,
    QueueSel = 0x30,
    QueueNumMax = 0x34,
    QueueNum = 0x38,
    QueueReady = 0x44,
    QueueNotify = 0x50,
    InterruptStatus = 0x60,
    InterruptAck = 0x64,
    Status = 0x70,
    QueueDescLow = 0x80,
    QueueDescHigh = 0x84,
    QueueDriverLow = 0x90,
    QueueDriverHigh = 0x94,
    QueueDeviceLow = 0xa0,
    QueueDeviceHigh = 0xa4,
    ShmSel = 0xac,
    ShmLenLow = 0xb0,
    ShmLenHigh = 0xb4,
    ShmBaseLow = 0xb8,
    ShmBaseHigh = 0xbc,
    ConfigGeneration = 0xfc,
    Config = 0x100,
}

/// Values of the `Status` register (section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status;

#[allow(missing_docs)] // the standard's names
impl Status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
}

/// Transport, worker and event loop of one device, with the driver's rings.
pub struct MmioDriver {
    /// Guest memory.
    pub memory: GuestMemory,
    /// The driver's side of each queue.
    pub rings: Vec<Ring>,
    transport: Transport,
    events: EventManager<Worker>,
    irqfd: EventFd,
}

impl MmioDriver {
    /// The device that `make` returns, on mock memory.
    pub fn new(make: impl FnOnce(&GuestMemory) -> Box<dyn Device>) -> Self {
        let memory = guest_memory();
        let device = make(&memory);
        let rings = rings(&memory, device.queue_sizes());
        let irqfd = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let (worker, link) = Worker::new(
            device,
            memory.clone(),
            irqfd.try_clone().expect("an eventfd"),
        )
        .expect("eventfds");
        let transport = Transport::new(worker.device(), link);
        let mut events = EventManager::new().expect("an epoll descriptor");
        events.add_subscriber(worker);
        Self {
            memory,
            rings,
            transport,
            events,
            irqfd,
        }
    }

    /// Saves the device's state, as a snapshot does.
    #[must_use]
    pub fn save(&mut self) -> TransportState {
        let answer = self.transport.ask_for_state();
        self.run();
        self.transport
            .state(answer.try_recv().expect("the worker has run"))
    }

    /// The same driver with another device, which goes on from a saved state.
    ///
    /// # Errors
    /// What the device finds wrong with the state.
    pub fn restored(
        self,
        device: Box<dyn Device>,
        state: &TransportState,
    ) -> Result<Self, RestoreError> {
        let irqfd = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let (mut worker, link) = Worker::new(
            device,
            self.memory.clone(),
            irqfd.try_clone().expect("an eventfd"),
        )
        .expect("eventfds");
        let transport = Transport::new(worker.device(), link);
        transport.restore(state, &mut worker)?;
        let mut events = EventManager::new().expect("an epoll descriptor");
        events.add_subscriber(worker);
        Ok(Self {
            transport,
            events,
            irqfd,
            ..self
        })
    }

    /// Reads a register.
    #[must_use]
    pub fn read(&self, register: Register) -> u32 {
        let mut bytes = [0; 4];
        self.transport.read(register as u64, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Writes a register; for 0 to the status there is [`Self::reset`].
    pub fn write(&self, register: Register, value: u32) {
        assert!(
            register != Register::Status || value != 0,
            "waits for the event loop"
        );
        self.transport.write(register as u64, &value.to_le_bytes());
    }

    /// Reads any bytes anywhere in the block.
    pub fn read_raw(&self, offset: u64, bytes: &mut [u8]) {
        self.transport.read(offset, bytes);
    }

    /// Writes any bytes anywhere in the block, as a vCPU thread while the event loop runs.
    pub fn write_raw(&mut self, offset: u64, bytes: &[u8]) {
        let Self {
            transport, events, ..
        } = self;
        if offset != Register::Status as u64 || bytes != [0; 4] {
            transport.write(offset, bytes);
            return;
        }
        std::thread::scope(|scope| {
            let vcpu = scope.spawn(|| transport.write(offset, bytes));
            while !vcpu.is_finished() {
                events.run_with_timeout(0).expect("epoll");
                std::thread::yield_now();
            }
        });
    }

    /// Reads the configuration space.
    #[must_use]
    pub fn read_config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.transport
            .read(Register::Config as u64 + offset, &mut bytes);
        bytes
    }

    /// Writes the configuration space.
    pub fn write_config(&self, offset: u64, bytes: &[u8]) {
        self.transport
            .write(Register::Config as u64 + offset, bytes);
    }

    /// Adds `bits` to the status and returns what it then is.
    pub fn add_status(&self, bits: u32) -> u32 {
        self.write(Register::Status, self.read(Register::Status) | bits);
        self.read(Register::Status)
    }

    /// The device's features.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.write(Register::DeviceFeaturesSel, 0);
        let low = self.read(Register::DeviceFeatures);
        self.write(Register::DeviceFeaturesSel, 1);
        u64::from(self.read(Register::DeviceFeatures)) << 32 | u64::from(low)
    }

    /// Ends the VM; what it returns is hung up when the host has all that the device has for it.
    pub fn end(&mut self) -> Receiver<()> {
        let delivered = self.transport.deliver();
        self.run();
        delivered
    }

    /// Lets the event loop work off all that is ready.
    pub fn run(&mut self) {
        // A device that never comes to rest is a bug that this turns into a failure.
        assert!(
            self.rests_within(10_000),
            "the event loop does not come to rest"
        );
    }

    /// As [`Self::run`], for rings that may feed themselves: whether there was an end within so many turns.
    pub fn rests_within(&mut self, turns: u32) -> bool {
        (0..turns).any(|_| self.events.run_with_timeout(0).expect("epoll") == 0)
    }

    /// Writes 0 to the status, clears the rings and returns the status.
    pub fn reset(&mut self) -> u32 {
        self.write_raw(Register::Status as u64, &[0; 4]);
        self.rings.iter_mut().for_each(Ring::clear);
        self.read(Register::Status)
    }

    /// Up to FEATURES_OK with `features`; returns the status.
    pub fn negotiate(&mut self, features: u64) -> u32 {
        self.reset();
        self.add_status(Status::ACKNOWLEDGE);
        self.add_status(Status::DRIVER);
        let halves = [features & 0xffff_ffff, features >> 32];
        for (select, half) in (0_u32..).zip(halves) {
            self.write(Register::DriverFeaturesSel, select);
            let half = u32::try_from(half).expect("half of 64 bits");
            self.write(Register::DriverFeatures, half);
        }
        self.add_status(Status::FEATURES_OK)
    }

    /// Hands over the addresses of a queue.
    pub fn set_up_queue(&self, index: usize) {
        let select = u32::try_from(index).expect("few queues");
        self.write(Register::QueueSel, select);
        let ring = &self.rings[index];
        self.write(Register::QueueNum, u32::from(ring.size()));
        let registers = [
            (Register::QueueDescLow, Register::QueueDescHigh),
            (Register::QueueDriverLow, Register::QueueDriverHigh),
            (Register::QueueDeviceLow, Register::QueueDeviceHigh),
        ];
        for ((low, high), address) in registers.into_iter().zip(ring.addresses()) {
            self.write(low, u32::try_from(address & 0xffff_ffff).expect("masked"));
            self.write(high, u32::try_from(address >> 32).expect("shifted"));
        }
        self.write(Register::QueueReady, 1);
    }

    /// All of it: reset, features, queues, DRIVER_OK; the worker has run. Returns the status.
    pub fn start(&mut self, features: u64) -> u32 {
        self.negotiate(features);
        for index in 0..self.rings.len() {
            self.set_up_queue(index);
        }
        self.add_status(Status::DRIVER_OK);
        self.run();
        self.read(Register::Status)
    }

    /// Kicks a queue and lets the worker run.
    pub fn kick(&mut self, queue: usize) {
        self.notify(queue);
        self.run();
    }

    /// Kicks a queue.
    pub fn notify(&self, queue: usize) {
        let index = u32::try_from(queue).expect("few queues");
        self.write(Register::QueueNotify, index);
    }

    /// Interrupts raised since the last call.
    pub fn take_interrupts(&mut self) -> u64 {
        self.irqfd.read().unwrap_or(0)
    }
}
