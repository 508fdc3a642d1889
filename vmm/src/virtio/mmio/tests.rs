//! The registers in every state of the driver's start, in the right order and in wrong ones, and
//! at random.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use event_manager::EventSet;
use vm_memory::{Bytes, GuestAddress};

use crate::virtio::mock::echo::{Echo, FEATURE, POISON};
use crate::virtio::mock::{
    Buffer, EVENT_IDX, HIGH_START, MmioDriver, REGION_BYTES, Register, Status, VERSION_1,
};
use crate::virtio::{ConfigSpace, Device, DeviceError, DeviceKind, Io, Watch};

const READY: u32 = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK;
const RUNNING: u32 = READY | Status::DRIVER_OK;

fn echo() -> MmioDriver {
    MmioDriver::new(|_| Box::new(Echo::default()))
}

/// Sends one request and returns the answer, if there is one.
fn ask(driver: &mut MmioDriver, text: &[u8]) -> Option<Vec<u8>> {
    driver.rings[0]
        .offer(&[Buffer::Readable(text), Buffer::Writable(16)])
        .unwrap();
    driver.kick(0);
    driver.rings[0]
        .take_used()
        .map(|used| used.answer().to_vec())
}

fn write_driver_features(driver: &MmioDriver, features: u64) {
    for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
        driver.write(Register::DriverFeaturesSel, select);
        driver.write(Register::DriverFeatures, u32::try_from(half).unwrap());
    }
}

#[test]
fn the_identity_of_a_device_is_readable_at_once() {
    let driver = echo();
    assert_eq!(driver.read(Register::MagicValue).to_le_bytes(), *b"virt");
    assert_eq!(driver.read(Register::Version), 2);
    assert_eq!(driver.read(Register::DeviceId), 4);
    assert_eq!(driver.read(Register::Status), 0);
    assert_eq!(driver.features(), VERSION_1 | EVENT_IDX | FEATURE);
    driver.write(Register::DeviceFeaturesSel, 2);
    assert_eq!(driver.read(Register::DeviceFeatures), 0);
    for (queue, size) in [(0, 16), (1, 4), (2, 0), (u32::MAX, 0)] {
        driver.write(Register::QueueSel, queue);
        assert_eq!(driver.read(Register::QueueNumMax), size);
        assert_eq!(driver.read(Register::QueueReady), 0);
    }
}

#[test]
fn there_is_no_shared_memory() {
    // All ones say so (section 4.2.2); a length of zero would be a region.
    let driver = echo();
    for id in [0, 1, u32::MAX] {
        driver.write(Register::ShmSel, id);
        for register in [
            Register::ShmLenLow,
            Register::ShmLenHigh,
            Register::ShmBaseLow,
            Register::ShmBaseHigh,
        ] {
            assert_eq!(driver.read(register), u32::MAX);
        }
    }
}

#[test]
fn registers_are_32_bits_wide_and_the_configuration_space_is_not() {
    let mut driver = echo();
    for len in [0, 1, 2, 3, 8] {
        let mut bytes = vec![0xaa; len];
        driver.read_raw(0, &mut bytes);
        assert_eq!(bytes, vec![0; len]);
        driver.write_raw(Register::Status as u64, &vec![1; len]);
        assert_eq!(driver.read(Register::Status), 0);
    }
    let mut bytes = [0; 4];
    driver.read_raw(1, &mut bytes);
    assert_eq!(bytes, [0; 4], "no register begins at 1");
    assert_eq!(driver.read_config::<1>(3), [3]);
    assert_eq!(driver.read_config::<2>(3), [3, 4]);
    assert_eq!(driver.read_config::<8>(1), [1, 2, 3, 4, 5, 6, 7, 0]);
    assert_eq!(driver.read_config::<4>(u64::MAX - 0x100), [0; 4]);
}

#[test]
fn the_configuration_space_takes_a_drivers_write_only_where_it_is_writable() {
    let driver = echo();
    driver.write_config(4, &[9]);
    assert_eq!(driver.read_config::<1>(4), [4], "no driver yet");
    driver.add_status(Status::ACKNOWLEDGE);
    driver.add_status(Status::DRIVER);
    driver.write_config(0, &[9; 8]);
    driver.write_config(7, &[8; 4]);
    driver.write_config(u64::MAX - 0x100, &[7; 4]);
    assert_eq!(driver.read_config::<8>(0), [0, 1, 2, 3, 9, 9, 9, 8]);
}

#[test]
fn features_count_between_driver_and_features_ok_alone() {
    let mut driver = echo();
    write_driver_features(&driver, VERSION_1);
    driver.add_status(Status::ACKNOWLEDGE);
    let early = driver.add_status(Status::DRIVER | Status::FEATURES_OK);
    assert_eq!(
        early,
        Status::ACKNOWLEDGE | Status::DRIVER,
        "two steps at once"
    );
    assert_eq!(
        driver.add_status(Status::FEATURES_OK) & Status::FEATURES_OK,
        0,
        "written too early"
    );
    // Bits that are not offered, in the first, the second and no word; and no VERSION_1.
    for features in [VERSION_1 | 1, VERSION_1 | 1 << 63, FEATURE, 0] {
        write_driver_features(&driver, features);
        assert_eq!(
            driver.add_status(Status::FEATURES_OK) & Status::FEATURES_OK,
            0
        );
    }
    write_driver_features(&driver, VERSION_1);
    driver.write(Register::DriverFeaturesSel, 2);
    driver.write(Register::DriverFeatures, u32::MAX);
    assert_eq!(driver.add_status(Status::FEATURES_OK), READY);
    // Too late now: what was agreed on stays.
    write_driver_features(&driver, VERSION_1 | EVENT_IDX);
    driver.set_up_queue(0);
    driver.add_status(Status::DRIVER_OK);
    driver.run();
    assert_eq!(ask(&mut driver, b"x").as_deref(), Some(&b"x"[..]));
    assert_eq!(
        driver.rings[0].available_event(),
        0,
        "EVENT_IDX was not agreed on"
    );
}

#[test]
fn driver_ok_needs_features_ok_and_failed_ends_it() {
    let mut driver = echo();
    let status = driver.add_status(RUNNING);
    assert_eq!(status, Status::ACKNOWLEDGE | Status::DRIVER);
    assert_eq!(driver.add_status(Status::DRIVER_OK), status);
    assert_eq!(
        driver.add_status(0x30 | Status::NEEDS_RESET),
        status,
        "not for a driver to set"
    );
    driver.write(Register::Status, Status::ACKNOWLEDGE);
    assert_eq!(
        driver.read(Register::Status),
        status,
        "bits are never taken back"
    );
    driver.add_status(Status::FAILED);
    write_driver_features(&driver, VERSION_1);
    assert_eq!(
        driver.add_status(Status::FEATURES_OK) & Status::FEATURES_OK,
        0
    );
    assert_eq!(driver.reset(), 0);
    assert_eq!(driver.start(VERSION_1), RUNNING);
    assert_eq!(ask(&mut driver, b"on").as_deref(), Some(&b"on"[..]));
}

#[test]
fn a_queue_is_set_up_between_features_ok_and_driver_ok_alone() {
    let mut driver = echo();
    driver.reset();
    driver.add_status(Status::ACKNOWLEDGE);
    driver.add_status(Status::DRIVER);
    driver.set_up_queue(0);
    assert_eq!(driver.read(Register::QueueReady), 0, "before FEATURES_OK");
    driver.negotiate(VERSION_1);
    driver.set_up_queue(0);
    assert_eq!(driver.read(Register::QueueReady), 1);
    // A ready queue does not change.
    driver.write(Register::QueueDescLow, 0x5_0000);
    driver.write(Register::QueueNum, 2);
    // A queue that is not there.
    driver.write(Register::QueueSel, 2);
    driver.write(Register::QueueReady, 1);
    assert_eq!(driver.read(Register::QueueReady), 0);
    driver.add_status(Status::DRIVER_OK);
    // Nothing changes any more: neither this queue nor one that was not ready.
    for queue in [0, 1] {
        driver.write(Register::QueueSel, queue);
        let ready = driver.read(Register::QueueReady);
        assert_eq!(ready, 1 - queue);
        driver.write(Register::QueueReady, queue);
        driver.write(Register::QueueNum, 2);
        driver.write(Register::QueueDescLow, 0x5_0000);
        driver.write(Register::QueueDriverLow, 0x5_0000);
        driver.write(Register::QueueDeviceLow, 0x5_0000);
        assert_eq!(driver.read(Register::QueueReady), ready);
    }
    driver.run();
    for round in 0..40_u8 {
        assert_eq!(ask(&mut driver, &[round]).as_deref(), Some(&[round][..]));
    }
    // The one that was not ready is not served.
    driver.rings[1]
        .offer(&[Buffer::Readable(b"a"), Buffer::Writable(1)])
        .unwrap();
    driver.kick(1);
    assert!(driver.rings[1].take_used().is_none());
    assert_eq!(driver.read(Register::Status), RUNNING);
}

#[test]
fn sizes_and_addresses_that_the_standard_forbids_are_not_taken() {
    let mut driver = echo();
    driver.negotiate(VERSION_1);
    driver.write(Register::QueueSel, 0);
    for size in [0, 3, 17, 32, 0x1_0010, u32::MAX] {
        driver.write(Register::QueueNum, size);
    }
    let [descriptors, available, used] = driver.rings[0]
        .addresses()
        .map(|address| u32::try_from(address).unwrap());
    driver.write(Register::QueueDescLow, descriptors);
    driver.write(Register::QueueDriverLow, available);
    driver.write(Register::QueueDeviceLow, used);
    driver.write(Register::QueueDescLow, descriptors + 8);
    driver.write(Register::QueueDriverLow, available + 1);
    driver.write(Register::QueueDeviceLow, used + 2);
    driver.write(Register::QueueReady, 1);
    driver.add_status(Status::DRIVER_OK);
    driver.run();
    for round in 0..20_u8 {
        assert_eq!(ask(&mut driver, &[round]).as_deref(), Some(&[round][..]));
    }
}

#[test]
fn rings_outside_memory_stop_the_device_before_it_begins() {
    let below_gap = REGION_BYTES - 16;
    for address in [
        REGION_BYTES,
        below_gap,
        HIGH_START - 16,
        HIGH_START + REGION_BYTES,
        !0xf,
    ] {
        for (low, high) in [
            (Register::QueueDescLow, Register::QueueDescHigh),
            (Register::QueueDriverLow, Register::QueueDriverHigh),
            (Register::QueueDeviceLow, Register::QueueDeviceHigh),
        ] {
            let mut driver = echo();
            driver.negotiate(VERSION_1);
            driver.set_up_queue(0);
            driver.write(Register::QueueReady, 0);
            driver.write(low, u32::try_from(address & 0xffff_ffff).unwrap());
            driver.write(high, u32::try_from(address >> 32).unwrap());
            driver.write(Register::QueueReady, 1);
            driver.add_status(Status::DRIVER_OK);
            driver.run();
            assert_eq!(
                driver.read(Register::Status),
                RUNNING | Status::NEEDS_RESET,
                "{address:#x}"
            );
            assert_eq!(driver.read(Register::InterruptStatus), 2);
            assert_eq!(driver.start(VERSION_1), RUNNING);
            assert_eq!(ask(&mut driver, b"on").as_deref(), Some(&b"on"[..]));
        }
    }
}

#[test]
fn interrupts_are_acknowledged_bit_by_bit() {
    let mut driver = echo();
    driver.start(VERSION_1);
    ask(&mut driver, b"a");
    assert_eq!(
        (
            driver.read(Register::InterruptStatus),
            driver.take_interrupts()
        ),
        (1, 1)
    );
    driver.write(Register::InterruptAck, 2);
    assert_eq!(driver.read(Register::InterruptStatus), 1);
    ask(&mut driver, &[POISON]);
    assert_eq!(
        (
            driver.read(Register::InterruptStatus),
            driver.take_interrupts()
        ),
        (3, 1)
    );
    driver.write(Register::InterruptAck, 1);
    assert_eq!(driver.read(Register::InterruptStatus), 2);
    driver.write(Register::InterruptAck, u32::MAX);
    assert_eq!(driver.read(Register::InterruptStatus), 0);
}

#[test]
fn a_failing_device_is_silent_until_it_is_reset() {
    let mut driver = echo();
    driver.start(VERSION_1);
    assert_eq!(ask(&mut driver, &[POISON]), None);
    assert_eq!(driver.read(Register::Status), RUNNING | Status::NEEDS_RESET);
    assert_eq!(ask(&mut driver, b"a"), None);
    driver.set_up_queue(1);
    assert_eq!(driver.reset(), 0);
    assert_eq!(driver.start(VERSION_1), RUNNING);
    assert_eq!(ask(&mut driver, b"a").as_deref(), Some(&b"a"[..]));
}

#[test]
fn a_reset_is_done_when_its_write_returns() {
    // Linux writes 0 and goes on at once, with the next driver's first bits or by freeing the
    // rings; it reads nothing in between.
    let mut driver = echo();
    for round in 0..3_u8 {
        assert_eq!(driver.start(VERSION_1), RUNNING);
        assert_eq!(ask(&mut driver, &[round]).as_deref(), Some(&[round][..]));
        // A chain that is kicked but not served yet must not be served after the reset.
        driver.rings[0]
            .offer(&[Buffer::Readable(b"late"), Buffer::Writable(4)])
            .unwrap();
        driver.write_raw(Register::QueueNotify as u64, &[0; 4]);
        driver.write_raw(Register::Status as u64, &[0; 4]);
        assert_eq!(driver.read(Register::Status), 0);
        assert_eq!(driver.read(Register::InterruptStatus), 0);
        assert_eq!(driver.add_status(Status::ACKNOWLEDGE), Status::ACKNOWLEDGE);
        let served = driver.rings[0].used_index();
        driver.run();
        assert_eq!(driver.rings[0].used_index(), served);
    }
}

#[test]
fn a_reset_in_every_state_brings_back_a_working_device() {
    for steps in 0..8 {
        let mut driver = echo();
        let take = |wanted: usize| steps >= wanted;
        if take(1) {
            driver.add_status(Status::ACKNOWLEDGE);
        }
        if take(2) {
            driver.add_status(Status::DRIVER);
        }
        if take(3) {
            write_driver_features(&driver, VERSION_1 | FEATURE);
        }
        if take(4) {
            driver.add_status(Status::FEATURES_OK);
        }
        if take(5) {
            driver.set_up_queue(0);
        }
        if take(6) {
            driver.add_status(Status::DRIVER_OK);
        }
        if take(7) {
            driver.run();
        }
        assert_eq!(driver.reset(), 0, "after {steps} steps");
        driver.write(Register::QueueSel, 0);
        assert_eq!(driver.read(Register::QueueReady), 0);
        assert_eq!(driver.start(VERSION_1), RUNNING);
        assert_eq!(ask(&mut driver, b"a").as_deref(), Some(&b"a"[..]));
    }
}

/// Counts what the worker does with it, and raises a configuration interrupt when it is reset.
struct Counter {
    calls: Arc<[AtomicU32; 3]>,
}

impl Device for Counter {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn name(&self) -> &str {
        "counter"
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8]
    }

    fn config(&self) -> ConfigSpace {
        ConfigSpace::new(vec![0; 4], 0..0)
    }

    fn activate(&mut self, _: u64, io: &mut Io) -> Result<(), DeviceError> {
        self.calls[0].fetch_add(1, Ordering::Relaxed);
        io.config.update(|bytes| bytes[0] += 1);
        io.config_changed();
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, io: &mut Io) -> Result<(), DeviceError> {
        // Asks for turn after turn, up to the hundredth.
        if self.calls[1].fetch_add(1, Ordering::Relaxed) % 100 != 99 {
            io.call_again(queue);
        }
        Ok(())
    }

    fn fd_ready(&mut self, _: u32, _: EventSet, _: &mut Io) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reset(&mut self, _: &mut Watch) {
        self.calls[2].fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_worker_calls_activate_and_reset_in_pairs_and_again_when_asked() {
    let calls = Arc::new([const { AtomicU32::new(0) }; 3]);
    let counted = calls.clone();
    let mut driver = MmioDriver::new(|_| Box::new(Counter { calls: counted }));
    let count = |index: usize| calls[index].load(Ordering::Relaxed);
    for round in 1..=5 {
        let generation = driver.read(Register::ConfigGeneration);
        driver.start(VERSION_1);
        assert_ne!(driver.read(Register::ConfigGeneration), generation);
        assert_eq!(driver.read_config::<1>(0), [u8::try_from(round).unwrap()]);
        assert_eq!(driver.read(Register::InterruptStatus), 2);
        driver.kick(0);
        assert_eq!(
            (count(0), count(1), count(2)),
            (round, round * 100, round - 1)
        );
        driver.reset();
        driver.reset();
        assert_eq!(count(2), round);
    }
    // Kicks without a driver reach nobody.
    driver.kick(0);
    assert_eq!(count(1), 500);
}

/// xorshift64*, so that a failing run can be had again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// One random access. Values are often ones that mean something.
fn random_access(random: &mut Random, driver: &mut MmioDriver, forbidden_status: u32) {
    let offset = match random.below(8) {
        0 => random.below(0x1000),
        1 => Register::Status as u64,
        _ => random.below(0x44) * 4,
    };
    let address = driver.rings[0].addresses()[usize::try_from(random.below(3)).unwrap()];
    let mut value = match random.below(6) {
        0 => u32::try_from(random.next() >> 32).unwrap(),
        1 => u32::try_from(address).unwrap(),
        2 => 1 << random.below(32),
        3 => RUNNING,
        _ => u32::try_from(random.below(18)).unwrap(),
    };
    if offset == Register::Status as u64 {
        value &= !forbidden_status;
    }
    if random.below(4) == 0 {
        let mut bytes = vec![0; usize::try_from(random.below(9)).unwrap()];
        driver.read_raw(offset, &mut bytes);
    } else {
        driver.write_raw(offset, &value.to_le_bytes());
    }
}

fn all_memory(driver: &MmioDriver) -> Vec<u8> {
    let len = usize::try_from(REGION_BYTES).unwrap();
    let mut bytes = vec![0; 2 * len];
    let (low, high) = bytes.split_at_mut(len);
    driver.memory.read_slice(low, GuestAddress(0)).unwrap();
    driver
        .memory
        .read_slice(high, GuestAddress(HIGH_START))
        .unwrap();
    bytes
}

#[test]
fn random_accesses_do_no_harm() {
    for seed in [1, 0xdead_beef, 0x1234_5678_9abc_def0] {
        println!("seed {seed:#x}");
        let mut random = Random(seed);
        let mut driver = echo();
        // As long as the driver is not ready, no byte of memory changes.
        for _ in 0..20_000 {
            random_access(&mut random, &mut driver, Status::DRIVER_OK);
        }
        driver.run();
        assert!(
            all_memory(&driver).iter().all(|byte| *byte == 0),
            "memory changed"
        );
        // Then anything may happen to the guest's memory, but not to the device.
        for step in 0..20_000 {
            random_access(&mut random, &mut driver, 0);
            if step % 16 == 0 {
                driver.run();
            }
        }
        driver.run();
        assert_eq!(driver.start(VERSION_1), RUNNING);
        assert_eq!(ask(&mut driver, b"alive").as_deref(), Some(&b"alive"[..]));
    }
}
