//! The console device: two queues and a file to print to. The worker calls it.

use std::fs::File;
use std::io;

use event_manager::EventSet;
use vm_memory::io::WriteVolatile;

use crate::GuestMemory;
use crate::virtio::{
    Buffers, Chain, ConfigSpace, Device, DeviceError, DeviceKind, Io, Served, Watch,
};

/// `receiveq` and `transmitq` of port 0 (section 5.3.2): input and output as the guest sees it.
const INPUT: usize = 0;
const OUTPUT: usize = 1;

/// Entries of the queues; Linux gives a page to each of the first.
const QUEUE_SIZES: [u16; 2] = [16, 64];

/// Bytes of output that are kept in the life of a VM: a chatty boot prints some 100 KiB, and a
/// guest that prints for ever must not fill the host's disk.
pub const OUTPUT_BYTES_MAX: u64 = 4 << 20;

/// What stands where the rest is missing.
const CUT: &[u8] = b"\n[console: 4 MiB, the rest is dropped]\n";

/// Bytes of output before the other devices have their turn: well below a millisecond.
const TURN_BYTES: u64 = 256 << 10;

/// The device.
#[derive(Debug)]
pub struct ConsoleDevice {
    output: File,
    /// Bytes that were printed.
    printed: u64,
}

impl ConsoleDevice {
    /// Prints to `output`, which may be no descriptor on which a write blocks for long: the event loop
    /// would wait.
    #[must_use]
    pub fn new(output: File) -> Self {
        Self { output, printed: 0 }
    }

    /// Bytes that were printed, in the life of the VM.
    #[must_use]
    pub fn printed(&self) -> u64 {
        self.printed
    }

    fn print(&mut self, memory: &GuestMemory, chain: Chain) -> Result<Served, DeviceError> {
        let request = |reason| DeviceError::Request {
            queue: OUTPUT,
            reason,
        };
        let Buffers {
            mut readable,
            writable,
        } = Buffers::read(OUTPUT, chain)?;
        if !writable.is_empty() {
            return Err(request("output is writable"));
        }
        let offered = readable.len();
        let left = OUTPUT_BYTES_MAX - self.printed;
        readable.truncate(left);
        let slices = readable
            .slices(memory)
            .map_err(|_| request("output is not in memory"))?;
        self.printed += readable.len();
        // What the host does not take is dropped, and so is what comes after it in this chain.
        let _ = slices
            .iter()
            .try_for_each(|slice| (&self.output).write_all_volatile(slice));
        if left > 0 && offered >= left {
            let _ = io::Write::write_all(&mut &self.output, CUT);
        }
        Ok(Served {
            written: 0,
            moved: readable.len(),
        })
    }
}

impl Device for ConsoleDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Console
    }

    fn name(&self) -> &str {
        "console"
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> ConfigSpace {
        // Columns, rows, ports and the emergency byte all belong to features not offered.
        ConfigSpace::new(Vec::new(), 0..0)
    }

    fn activate(&mut self, _: u64, _: &mut Io) -> Result<(), DeviceError> {
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, io: &mut Io) -> Result<(), DeviceError> {
        match queue {
            // There never is any.
            INPUT => Ok(()),
            _ => io.drain_within(queue, TURN_BYTES, |memory, chain| self.print(memory, chain)),
        }
    }

    fn fd_ready(&mut self, _: u32, _: EventSet, _: &mut Io) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reset(&mut self, _: &mut Watch) {}
}
