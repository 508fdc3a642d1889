//! The balloon device: its queues, its configuration space, and the host's handle to it.
//! The worker calls it.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use event_manager::EventSet;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, VolatileSlice};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::pages::{self, PAGE_BYTES};
use crate::GuestMemory;
use crate::virtio::{
    Buffers, Chain, ConfigSpace, Device, DeviceError, DeviceKind, Io, Served, Watch, WatchChange,
};

/// Feature bits (section 5.5.3).
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_REPORTING: u64 = 1 << 5;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
/// Queues 2 and 3 are those of features not offered here. Linux counts only the queues that exist
/// and so has the reporting queue at 2, the standard has it at 4: both places are served.
const REPORTING_OF_LINUX: usize = 2;
const REPORTING: usize = 4;

/// Entries of each queue: Linux has one request under way, with up to 32 blocks in a report.
const QUEUE_SIZES: [u16; 5] = [64; 5];

/// Bytes given back before the other devices have their turn: some tens of milliseconds where
/// every small page was in use.
const TURN_BYTES: u64 = 256 << 20;

/// Offsets in the configuration space (section 5.5.4): `num_pages`, `actual`.
const NUM_PAGES: std::ops::Range<usize> = 0..4;
const ACTUAL: std::ops::Range<usize> = 4..8;

const PAGES_PER_MIB: u32 = 256;

/// The one descriptor it watches.
const TOKEN_TARGET: u32 = 0;

/// The host's side: how large the balloon should be.
#[derive(Debug, Clone)]
pub struct BalloonHandle {
    target: Arc<Target>,
}

#[derive(Debug)]
struct Target {
    mib: AtomicU32,
    changed: EventFd,
}

impl BalloonHandle {
    /// Asks the guest to give up `mib` MiB in all, at most what it has; 0 gives everything back.
    /// The guest follows as it can, with no answer.
    pub fn set_target_mib(&self, mib: u32) {
        self.target.mib.store(mib, Ordering::Release);
        // An eventfd refuses only when its counter would overflow: then it is raised already.
        let _ = self.target.changed.write(1);
    }

    /// What was asked for last.
    #[must_use]
    pub fn target_mib(&self) -> u32 {
        self.target.mib.load(Ordering::Acquire)
    }
}

/// The device.
#[derive(Debug)]
pub struct BalloonDevice {
    target: Arc<Target>,
    /// Pages of 4 KiB that the driver was asked to give up.
    target_pages: u32,
}

impl BalloonDevice {
    /// An empty balloon and its handle.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> std::io::Result<(Self, BalloonHandle)> {
        let changed = EventFd::new(EFD_NONBLOCK)?;
        let target = Arc::new(Target {
            mib: AtomicU32::new(0),
            changed,
        });
        let handle = BalloonHandle {
            target: target.clone(),
        };
        Ok((
            Self {
                target,
                target_pages: 0,
            },
            handle,
        ))
    }

    /// Tells the driver the target where it is news.
    fn tell_target(&mut self, io: &Io) {
        let wanted = self
            .target
            .mib
            .load(Ordering::Acquire)
            .saturating_mul(PAGES_PER_MIB);
        let pages = wanted.min(memory_pages(io.memory));
        if pages != self.target_pages {
            self.target_pages = pages;
            io.config.update(|bytes| set(bytes, NUM_PAGES, pages));
            io.config_changed();
        }
    }
}

fn set(bytes: &mut [u8], field: std::ops::Range<usize>, value: u32) {
    if let Some(field) = bytes.get_mut(field) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}

fn memory_pages(memory: &GuestMemory) -> u32 {
    let bytes: u64 = memory.iter().map(GuestMemoryRegion::len).sum();
    u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX)
}

fn give_back(slices: &[VolatileSlice]) -> Result<(), DeviceError> {
    for slice in slices {
        pages::give_back(slice).map_err(|source| DeviceError::Backend {
            operation: "give memory back",
            source,
        })?;
    }
    Ok(())
}

/// A list of page numbers that the guest does without.
fn inflate(memory: &GuestMemory, chain: Chain) -> Result<Served, DeviceError> {
    let request = |reason| DeviceError::Request {
        queue: INFLATE,
        reason,
    };
    let Buffers { readable, writable } = Buffers::read(INFLATE, chain)?;
    if !writable.is_empty() {
        return Err(request("a list of pages is writable"));
    }
    let mut moved = 0;
    for run in pages::parse_list(memory, readable).map_err(request)? {
        let slices = pages::run_slices(memory, run)
            .map_err(|_| request("a page of the balloon is not in memory"))?;
        give_back(&slices)?;
        moved += run.bytes;
    }
    Ok(Served { written: 0, moved })
}

/// Free blocks of memory, told as buffers that the device might write.
fn report(queue: usize, memory: &GuestMemory, chain: Chain) -> Result<Served, DeviceError> {
    let request = |reason| DeviceError::Request { queue, reason };
    let Buffers { readable, writable } = Buffers::read(queue, chain)?;
    if !readable.is_empty() {
        return Err(request("a report of free pages is not writable"));
    }
    let slices = writable
        .slices(memory)
        .map_err(|_| request("a free page is not in memory"))?;
    give_back(&slices)?;
    Ok(Served {
        written: 0,
        moved: writable.len(),
    })
}

impl Device for BalloonDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn name(&self) -> &str {
        "balloon"
    }

    fn features(&self) -> u64 {
        F_DEFLATE_ON_OOM | F_REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> ConfigSpace {
        ConfigSpace::new(vec![0; ACTUAL.end], ACTUAL)
    }

    fn activate(&mut self, _: u64, io: &mut Io) -> Result<(), DeviceError> {
        io.watch.changes.push(WatchChange::Add {
            fd: self.target.changed.as_raw_fd(),
            token: TOKEN_TARGET,
            events: EventSet::IN,
        });
        // A new driver begins with an empty balloon; it writes this only after its first request.
        io.config.update(|bytes| set(bytes, ACTUAL, 0));
        self.tell_target(io);
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, io: &mut Io) -> Result<(), DeviceError> {
        match queue {
            INFLATE => io.drain_within(queue, TURN_BYTES, inflate),
            // A page comes back when the guest touches it: there is nothing to do.
            DEFLATE => io.drain(queue, |_, _| Ok(0)),
            REPORTING_OF_LINUX | REPORTING => {
                io.drain_within(queue, TURN_BYTES, |memory, chain| {
                    report(queue, memory, chain)
                })
            }
            _ => Err(DeviceError::Request {
                queue,
                reason: "a queue of a feature not offered",
            }),
        }
    }

    fn fd_ready(&mut self, _: u32, _: EventSet, io: &mut Io) -> Result<(), DeviceError> {
        let _ = self.target.changed.read();
        self.tell_target(io);
        Ok(())
    }

    fn reset(&mut self, watch: &mut Watch) {
        watch.changes.push(WatchChange::Remove {
            fd: self.target.changed.as_raw_fd(),
        });
    }
}
