//! virtio-rng (virtio 1.2 section 5.4): fills the driver's buffers with random bytes of the host's
//! kernel. The worker calls it; it keeps no state.
#![allow(unsafe_code)] // getrandom into guest memory, which is never a Rust slice

use event_manager::EventSet;
use vm_memory::VolatileSlice;

use super::{Buffers, Chain, ConfigSpace, Device, DeviceError, DeviceKind, Io, Served, Watch};
use crate::GuestMemory;

const QUEUE: usize = 0;

/// Entries of the queue; Linux keeps one request under way.
const QUEUE_SIZE: u16 = 16;

/// Bytes that one request gets at most; Linux asks for 64 or so, and a device may give fewer than
/// there is room for.
pub const REQUEST_BYTES_MAX: u64 = 64 << 10;

/// Bytes before the other devices have their turn: about a millisecond of the host's generator.
const TURN_BYTES: u64 = 256 << 10;

/// The device.
#[derive(Debug, Default)]
pub struct RngDevice;

impl RngDevice {
    /// A device that draws from `getrandom`.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

fn serve(memory: &GuestMemory, chain: Chain) -> Result<Served, DeviceError> {
    let request = |reason| DeviceError::Request {
        queue: QUEUE,
        reason,
    };
    let Buffers {
        readable,
        mut writable,
    } = Buffers::read(QUEUE, chain)?;
    if !readable.is_empty() {
        return Err(request(
            "a request for random bytes brings bytes of its own",
        ));
    }
    writable.truncate(REQUEST_BYTES_MAX);
    let slices = writable
        .slices(memory)
        .map_err(|_| request("a buffer is not in memory"))?;
    for slice in &slices {
        fill(slice).map_err(|source| DeviceError::Backend {
            operation: "getrandom",
            source,
        })?;
    }
    let moved = writable.len();
    Ok(Served {
        written: u32::try_from(moved).unwrap_or(0),
        moved,
    })
}

/// Fills these bytes from `getrandom`.
///
/// # Errors
/// The kernel's.
pub(crate) fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    fill(&VolatileSlice::from(bytes))
}

fn fill(slice: &VolatileSlice) -> std::io::Result<()> {
    let target = slice.ptr_guard_mut();
    let mut done = 0;
    while done < target.len() {
        // SAFETY: `done..target.len()` lies inside the slice, which vm-memory checked to be mapped
        // and writable; no Rust reference to guest memory exists.
        let result =
            unsafe { libc::getrandom(target.as_ptr().add(done).cast(), target.len() - done, 0) };
        match usize::try_from(result) {
            Ok(count) => done += count,
            Err(_) => {
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

impl Device for RngDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn name(&self) -> &str {
        "rng"
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn config(&self) -> ConfigSpace {
        ConfigSpace::new(Vec::new(), 0..0)
    }

    fn activate(&mut self, _: u64, _: &mut Io) -> Result<(), DeviceError> {
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, io: &mut Io) -> Result<(), DeviceError> {
        io.drain_within(queue, TURN_BYTES, serve)
    }

    fn fd_ready(&mut self, _: u32, _: EventSet, _: &mut Io) -> Result<(), DeviceError> {
        // It watches nothing.
        Ok(())
    }

    fn reset(&mut self, _: &mut Watch) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::mock::{
        Buffer, Descriptor, DirectDriver, Flags, HIGH_START, REGION_BYTES, VERSION_1,
    };

    fn start() -> DirectDriver<RngDevice> {
        let mut driver = DirectDriver::new(|_| RngDevice::new());
        driver.activate(VERSION_1).unwrap();
        driver
    }

    #[test]
    fn every_buffer_is_filled_and_no_two_are_alike() {
        let mut driver = start();
        let request = [
            Buffer::Writable(64),
            Buffer::Writable(5),
            Buffer::Writable(1024),
        ];
        driver.rings[0].offer(&request).unwrap();
        driver.rings[0].offer_indirect(&request).unwrap();
        driver.run(0).unwrap();
        assert_eq!(driver.take_interrupts(), 1);
        let first = driver.rings[0].take_used().unwrap();
        let second = driver.rings[0].take_used().unwrap();
        assert_eq!((first.written, second.written), (1093, 1093));
        assert_ne!(first.data, second.data);
        // The mock fills buffers with 0xee: 64 bytes of it in a row are no chance.
        for data in [&first.data, &second.data] {
            assert!(!data.windows(64).any(|window| window == [0xee; 64]));
        }
    }

    #[test]
    fn a_request_has_a_limit_and_so_has_a_turn() {
        let mut driver = start();
        for _ in 0..5 {
            driver.rings[0].offer(&[Buffer::Writable(60 << 10), Buffer::Writable(60 << 10)]);
        }
        driver.kick(0).unwrap();
        assert_eq!(
            (driver.rings[0].used_index(), driver.unfinished()),
            (4, vec![0])
        );
        driver.run(0).unwrap();
        for _ in 0..5 {
            let used = driver.rings[0].take_used().unwrap();
            assert_eq!(used.written, 64 << 10);
            assert!(used.data[64 << 10..].iter().all(|byte| *byte == 0xee));
            assert!(!used.answer().ends_with(&[0xee; 64]));
        }
    }

    #[test]
    fn an_empty_request_gets_nothing() {
        let mut driver = start();
        driver.rings[0].offer(&[Buffer::Writable(0)]).unwrap();
        driver.run(0).unwrap();
        assert_eq!(driver.rings[0].take_used().unwrap().written, 0);
    }

    #[test]
    fn broken_requests_stop_the_device() {
        let outside = |address, len| Descriptor {
            address,
            len,
            flags: Flags::WRITE,
            next: 0,
        };
        let no_memory = "queue 0: a buffer is not in memory";
        for (descriptor, error) in [
            (outside(REGION_BYTES, 1), no_memory),
            (outside(REGION_BYTES - 8, 16), no_memory),
            (outside(HIGH_START - 1, 2), no_memory),
            (outside(HIGH_START + REGION_BYTES - 1, 2), no_memory),
            (outside(u64::MAX, 2), no_memory),
            (
                Descriptor {
                    flags: Flags::NONE,
                    ..outside(0x9000, 8)
                },
                "queue 0: a request for random bytes brings bytes of its own",
            ),
            (
                Descriptor {
                    flags: Flags::WRITE.and(Flags::NEXT),
                    ..outside(0x9000, 8)
                },
                "queue 0: a chain loops, leaves its descriptor table or exceeds 4 GiB",
            ),
        ] {
            let mut driver = start();
            driver.rings[0].offer_raw(0, &[descriptor]);
            assert_eq!(
                driver.run(0).unwrap_err().to_string(),
                error,
                "{descriptor:?}"
            );
            assert!(driver.rings[0].take_used().is_none());
            driver.reset();
        }
    }
}
