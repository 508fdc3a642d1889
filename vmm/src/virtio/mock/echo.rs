//! A device for tests of the mock, the transport and the worker: it copies what a chain lets it
//! read into what it lets it write.

use event_manager::EventSet;
use vm_memory::Bytes;

use crate::GuestMemory;
use crate::virtio::{Chain, ConfigSpace, Device, DeviceError, DeviceKind, Io, Watch};

/// A request of this one byte makes the device fail.
pub(crate) const POISON: u8 = 0xff;

/// A feature bit of its own.
pub(crate) const FEATURE: u64 = 1 << 3;

#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) features: Option<u64>,
    pub(crate) resets: u32,
}

fn echo(memory: &GuestMemory, chain: Chain) -> Result<u32, DeviceError> {
    let failed = |reason| DeviceError::Request { queue: 0, reason };
    let mut bytes = Vec::new();
    let mut written = 0;
    for descriptor in chain {
        let len = usize::try_from(descriptor.len()).unwrap();
        if descriptor.is_write_only() {
            let len = len.min(bytes.len());
            memory
                .write_slice(&bytes[..len], descriptor.addr())
                .map_err(|_| failed("not in memory"))?;
            bytes.drain(..len);
            written += u32::try_from(len).unwrap();
        } else {
            let start = bytes.len();
            bytes.resize(start + len, 0);
            memory
                .read_slice(&mut bytes[start..], descriptor.addr())
                .map_err(|_| failed("not in memory"))?;
            if bytes == [POISON] {
                return Err(failed("poisoned"));
            }
        }
    }
    Ok(written)
}

impl Device for Echo {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn name(&self) -> &str {
        "echo"
    }

    fn features(&self) -> u64 {
        FEATURE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 4]
    }

    fn config(&self) -> ConfigSpace {
        ConfigSpace::new((0..8).collect(), 4..8)
    }

    fn activate(&mut self, features: u64, _: &mut Io) -> Result<(), DeviceError> {
        self.features = Some(features);
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, io: &mut Io) -> Result<(), DeviceError> {
        io.drain(queue, echo)
    }

    fn fd_ready(&mut self, _: u32, _: EventSet, _: &mut Io) -> Result<(), DeviceError> {
        unreachable!("watches nothing")
    }

    fn reset(&mut self, _: &mut Watch) {
        self.features = None;
        self.resets += 1;
    }
}
