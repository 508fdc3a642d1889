//! A driver's side of virtio without a guest and without KVM, for unit tests and fuzz targets.
//!
//! ```text
//! Ring          one split ring in guest memory: well-formed chains, or any bytes at all
//! DirectDriver  Ring ──► Device            calls the trait as the worker does, nothing else runs
//! MmioDriver    Ring ──► Transport ──► Worker ──► Device     registers and a real event loop
//! ```
//!
//! It panics on what only a faulty test or device does. It knows no particular device.

mod direct;
#[cfg(test)]
pub(crate) mod echo;
mod mmio;
mod ring;

pub use direct::DirectDriver;
pub use mmio::{MmioDriver, Register, Status};
pub use ring::{Buffer, Descriptor, Flags, Ring, Used};

use vm_memory::GuestAddress;

use crate::GuestMemory;

/// Bytes of each of the two pieces of memory of a mock guest.
pub const REGION_BYTES: u64 = 8 << 20;

/// Where the second piece begins; between the pieces there is nothing, as below 4 GiB on a PC.
pub const HIGH_START: u64 = 1 << 32;

/// `VIRTIO_F_VERSION_1`, without which no driver comes far.
pub const VERSION_1: u64 = 1 << 32;

/// `VIRTIO_F_EVENT_IDX`.
pub const EVENT_IDX: u64 = 1 << 29;

/// Rings begin here: address 0 means "not set" to virtio-queue.
const RINGS_START: u64 = 0x1000;

/// Two pieces of [`REGION_BYTES`] with a gap between them.
#[must_use]
pub fn guest_memory() -> GuestMemory {
    let bytes = usize::try_from(REGION_BYTES).expect("8 MiB");
    GuestMemory::from_ranges(&[(GuestAddress(0), bytes), (GuestAddress(HIGH_START), bytes)])
        .expect("map 16 MiB")
}

/// One ring for each of `sizes`, in the first piece of memory; buffers share the rest of it.
fn rings(memory: &GuestMemory, sizes: &[u16]) -> Vec<Ring> {
    let mut start = RINGS_START;
    let mut rings = Vec::new();
    let tables: u64 = sizes.iter().map(|size| Ring::table_bytes(*size)).sum();
    let count = u64::try_from(sizes.len()).expect("few queues");
    let share = ((REGION_BYTES - RINGS_START - tables) / count) & !0xfff;
    let mut buffers = RINGS_START + tables;
    for size in sizes {
        rings.push(Ring::new(memory, start, *size, buffers..buffers + share));
        start += Ring::table_bytes(*size);
        buffers += share;
    }
    rings
}

#[cfg(test)]
mod tests {
    use super::echo::{Echo, FEATURE, POISON};
    use super::*;

    #[test]
    fn a_direct_driver_gets_its_chain_back_with_the_answer() {
        let mut driver = DirectDriver::new(|_| Echo::default());
        driver.activate(VERSION_1 | FEATURE).unwrap();
        assert_eq!(driver.device.features, Some(VERSION_1 | FEATURE));
        let parts = [
            Buffer::Readable(b"abc"),
            Buffer::Readable(b"de"),
            Buffer::Writable(2),
            Buffer::Writable(8),
        ];
        let direct = driver.rings[0].offer(&parts).unwrap();
        let indirect = driver.rings[0].offer_indirect(&parts).unwrap();
        driver.run(0).unwrap();
        assert_eq!(driver.take_interrupts(), 1);
        assert_eq!(driver.interrupt_status(), 1);
        for head in [direct, indirect] {
            let used = driver.rings[0].take_used().unwrap();
            assert_eq!((used.head, used.answer()), (head, &b"abcde"[..]));
            assert_eq!(used.data.len(), 10);
        }
        assert_eq!(driver.rings[0].take_used(), None);
    }

    #[test]
    fn a_ring_goes_round_many_times_and_takes_no_more_than_fits() {
        let mut driver = DirectDriver::new(|_| Echo::default());
        driver.activate(VERSION_1 | EVENT_IDX).unwrap();
        for round in 0..33_000_u32 {
            let text = round.to_le_bytes();
            let parts = [Buffer::Readable(&text), Buffer::Writable(4)];
            driver.rings[1].offer(&parts).unwrap();
            driver.rings[1].offer(&parts).unwrap();
            assert_eq!(driver.rings[1].offer(&parts), None);
            driver.run(1).unwrap();
            assert_eq!(driver.take_interrupts(), 1, "round {round}");
            for _ in 0..2 {
                assert_eq!(driver.rings[1].take_used().unwrap().answer(), text);
            }
        }
    }

    #[test]
    fn a_failing_request_is_the_drivers_error() {
        let mut driver = DirectDriver::new(|_| Echo::default());
        driver.activate(VERSION_1).unwrap();
        driver.rings[0].offer(&[Buffer::Readable(&[POISON])]);
        let error = driver.run(0).unwrap_err().to_string();
        assert_eq!(error, "queue 0: poisoned");
        driver.reset();
        driver.activate(VERSION_1).unwrap();
        driver.rings[0].offer(&[Buffer::Readable(b"a"), Buffer::Writable(1)]);
        driver.run(0).unwrap();
        assert_eq!(driver.rings[0].take_used().unwrap().answer(), b"a");
        assert_eq!(driver.device.resets, 1);
    }

    #[test]
    fn an_mmio_driver_does_the_same_through_registers() {
        let mut driver = MmioDriver::new(|_| Box::new(Echo::default()));
        let status = driver.start(VERSION_1 | EVENT_IDX);
        assert_eq!(status, 0b1111);
        for _ in 0..3 {
            driver.rings[1].offer(&[Buffer::Readable(b"xyz"), Buffer::Writable(3)]);
            driver.kick(1);
            assert_eq!(driver.take_interrupts(), 1);
            assert_eq!(driver.read(Register::InterruptStatus), 1);
            driver.write(Register::InterruptAck, 1);
            assert_eq!(driver.rings[1].take_used().unwrap().answer(), b"xyz");
        }
    }
}
