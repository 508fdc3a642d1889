//! The console device: two queues, a file to print to and one to read from. The worker calls it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use event_manager::EventSet;
use serde::{Deserialize, Serialize};
use vm_memory::io::{ReadVolatile, WriteVolatile};
use vm_memory::{VolatileMemoryError, VolatileSlice};

use crate::GuestMemory;
use crate::virtio::{
    Buffers, Chain, ConfigSpace, Device, DeviceError, DeviceKind, Io, Served, Watch, WatchChange,
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

/// Bytes taken from the input at once.
const INPUT_BYTES_MAX: usize = 4096;

/// The one descriptor it watches.
const TOKEN_INPUT: u32 = 0;

/// What a snapshot keeps of the device, besides its queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    /// Features that the driver took.
    pub features: u64,
    /// Bytes that were printed.
    pub printed: u64,
}

/// ```text
/// Idle ── driver gives a buffer ──► Watched ── no buffer left, reset ──► Idle
///                                      └────── end of file, error ─────► Ended
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InputState {
    /// The driver has no buffer for it.
    Idle,
    /// The event loop waits for it.
    Watched,
    /// There will be no more.
    Ended,
}

/// The device.
#[derive(Debug)]
pub struct ConsoleDevice {
    output: File,
    input: Option<(File, InputState)>,
    state: ConsoleState,
}

impl ConsoleDevice {
    /// Prints to `output` and reads from `input`, a pipe, socket or terminal. Neither may be a
    /// descriptor on which a write blocks for long: the event loop would wait.
    #[must_use]
    pub fn new(output: File, input: Option<File>) -> Self {
        Self {
            output,
            input: input.map(|file| (file, InputState::Idle)),
            state: ConsoleState::default(),
        }
    }

    /// What a snapshot keeps.
    #[must_use]
    pub fn state(&self) -> ConsoleState {
        self.state
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
        let left = OUTPUT_BYTES_MAX - self.state.printed;
        readable.truncate(left);
        let slices = readable
            .slices(memory)
            .map_err(|_| request("output is not in memory"))?;
        self.state.printed += readable.len();
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

    /// The driver gave buffers for input.
    fn watch_input(&mut self, io: &mut Io) -> Result<(), DeviceError> {
        if let Some((file, state @ InputState::Idle)) = &mut self.input {
            *state = InputState::Watched;
            io.disable_kicks(INPUT)?;
            io.watch.changes.push(WatchChange::Add {
                fd: file.as_raw_fd(),
                token: TOKEN_INPUT,
                events: EventSet::IN,
            });
        }
        Ok(())
    }

    /// Reads once, so that a descriptor that blocks does not: there is something to read.
    fn read_input(&mut self, io: &mut Io) -> Result<(), DeviceError> {
        let Some((file, state @ InputState::Watched)) = &mut self.input else {
            return Ok(());
        };
        let chain = loop {
            if let Some(chain) = io.next_chain(INPUT)? {
                break chain;
            }
            if !io.enable_kicks(INPUT)? {
                *state = InputState::Idle;
                io.watch.changes.push(WatchChange::Remove {
                    fd: file.as_raw_fd(),
                });
                return Ok(());
            }
        };
        let head = chain.head_index();
        let slice = input_slice(io.memory, chain)?;
        match read(file, slice) {
            Ok(count) if count > 0 => {
                io.complete(INPUT, head, count)?;
                io.signal(INPUT)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                io.undo_next_chain(INPUT);
                Ok(())
            }
            end => {
                if let Err(error) = end {
                    crate::say(format_args!("console: read input: {error}"));
                }
                io.undo_next_chain(INPUT);
                *state = InputState::Ended;
                io.watch.changes.push(WatchChange::Remove {
                    fd: file.as_raw_fd(),
                });
                Ok(())
            }
        }
    }
}

/// The first piece of a buffer for input, of at most [`INPUT_BYTES_MAX`].
fn input_slice<'m>(
    memory: &'m GuestMemory,
    chain: Chain<'m>,
) -> Result<VolatileSlice<'m>, DeviceError> {
    let request = |reason| DeviceError::Request {
        queue: INPUT,
        reason,
    };
    let Buffers { readable, writable } = Buffers::read(INPUT, chain)?;
    if !readable.is_empty() {
        return Err(request("a buffer for input is not writable"));
    }
    let slices = writable
        .slices(memory)
        .map_err(|_| request("a buffer for input is not in memory"))?;
    let slice = slices
        .first()
        .ok_or_else(|| request("a buffer for input has no room"))?;
    Ok(slice
        .subslice(0, slice.len().min(INPUT_BYTES_MAX))
        .unwrap_or(*slice))
}

/// Reads once into `slice`; 0 at the end.
fn read(file: &File, mut slice: VolatileSlice) -> io::Result<u32> {
    loop {
        match (&*file).read_volatile(&mut slice) {
            Ok(count) => return u32::try_from(count).map_err(io::Error::other),
            Err(VolatileMemoryError::IOError(error)) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            Err(error) => return Err(io::Error::other(error)),
        }
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

    fn activate(&mut self, features: u64, _: &mut Io) -> Result<(), DeviceError> {
        self.state.features = features;
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, io: &mut Io) -> Result<(), DeviceError> {
        match queue {
            INPUT => self.watch_input(io),
            _ => io.drain_within(queue, TURN_BYTES, |memory, chain| self.print(memory, chain)),
        }
    }

    fn fd_ready(&mut self, _: u32, _: EventSet, io: &mut Io) -> Result<(), DeviceError> {
        self.read_input(io)
    }

    fn reset(&mut self, watch: &mut Watch) {
        self.state.features = 0;
        if let Some((file, state @ InputState::Watched)) = &mut self.input {
            *state = InputState::Idle;
            watch.changes.push(WatchChange::Remove {
                fd: file.as_raw_fd(),
            });
        }
    }
}
