//! Has another device's face and serves nothing: what a VM finds in the place of a device that it
//! gets only when it goes on from a snapshot. It tells when its driver first kicks a queue.
//!
//! The builder's caller makes it; the worker calls it. It must not know which device it stands for.

use event_manager::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::{ConfigSpace, Device, DeviceError, DeviceKind, Io, Watch};

/// See the module's page.
pub struct StandIn {
    face: Box<dyn Device>,
    queue: usize,
    kicked: EventFd,
}

impl StandIn {
    /// Stands for `face`; the first kick of `queue`, and any after it, is written to `kicked`.
    #[must_use]
    pub fn new(face: Box<dyn Device>, queue: usize, kicked: EventFd) -> Self {
        Self {
            face,
            queue,
            kicked,
        }
    }
}

impl Device for StandIn {
    fn kind(&self) -> DeviceKind {
        self.face.kind()
    }

    fn name(&self) -> &str {
        self.face.name()
    }

    fn features(&self) -> u64 {
        self.face.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        self.face.queue_sizes()
    }

    fn config(&self) -> ConfigSpace {
        self.face.config()
    }

    fn activate(&mut self, _: u64, _: &mut Io) -> Result<(), DeviceError> {
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, _: &mut Io) -> Result<(), DeviceError> {
        if queue == self.queue {
            // Refused only when it is told already.
            let _ = self.kicked.write(1);
        }
        Ok(())
    }

    fn fd_ready(&mut self, _: u32, _: EventSet, _: &mut Io) -> Result<(), DeviceError> {
        // It watches nothing.
        Ok(())
    }

    fn reset(&mut self, _: &mut Watch) {}
}
