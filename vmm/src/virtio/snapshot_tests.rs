//! Devices that go on from a saved state, with the driver that another device of their kind had.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use event_manager::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::mock::echo::{Echo, FEATURE};
use super::mock::{Buffer, EVENT_IDX, MmioDriver, Register, Status, VERSION_1};
use super::{ConfigSpace, Device, DeviceError, DeviceKind, Io, StandIn, TransportState, Watch};
use super::{block, vsock};

const RUNNING: u32 = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK | Status::DRIVER_OK;

fn echo() -> MmioDriver {
    let mut driver = MmioDriver::new(|_| Box::new(Echo::default()));
    assert_eq!(driver.start(VERSION_1 | EVENT_IDX | FEATURE), RUNNING);
    driver
}

fn offer(driver: &mut MmioDriver, text: &[u8]) {
    driver.rings[0]
        .offer(&[Buffer::Readable(text), Buffer::Writable(16)])
        .unwrap();
}

fn answer(driver: &mut MmioDriver) -> Vec<u8> {
    driver.rings[0].take_used().unwrap().answer().to_vec()
}

/// Through the text in which a state is kept.
fn kept(state: &TransportState) -> TransportState {
    serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap()
}

#[test]
fn a_device_goes_on_where_the_other_stopped() {
    let mut driver = echo();
    offer(&mut driver, b"before");
    driver.kick(0);
    let before = answer(&mut driver);
    // Offered, and the kick was seen by nobody.
    offer(&mut driver, b"before");
    let state = kept(&driver.save());
    let mut driver = driver.restored(Box::new(Echo::default()), &state).unwrap();
    // Not before the event loop runs: its thread is not confined yet.
    assert!(driver.rings[0].take_used().is_none());
    driver.run();
    assert_eq!(answer(&mut driver), before);
    assert_eq!(driver.read(Register::Status), RUNNING);
    driver.write(Register::QueueSel, 0);
    assert_eq!(driver.read(Register::QueueReady), 1);
    assert!(driver.take_interrupts() > 0);
    offer(&mut driver, b"before");
    driver.kick(0);
    assert_eq!(answer(&mut driver), before);
    // It can be reset and started as any other.
    assert_eq!(driver.reset(), 0);
    assert_eq!(driver.start(VERSION_1), RUNNING);
}

#[test]
fn a_device_without_a_driver_waits_for_one() {
    let mut driver = MmioDriver::new(|_| Box::new(Echo::default()));
    let state = kept(&driver.save());
    let mut driver = driver.restored(Box::new(Echo::default()), &state).unwrap();
    assert_eq!(driver.read(Register::Status), 0);
    assert_eq!(driver.start(VERSION_1 | EVENT_IDX), RUNNING);
}

/// Each answer that the device writes is an index of the available ring then, and so another request.
#[test]
fn rings_that_feed_themselves_go_on_in_turns_until_a_reset() {
    let mut driver = echo();
    let mut state = serde_json::to_value(driver.save()).unwrap();
    let queue = state.pointer_mut("/worker/queues/0").unwrap();
    queue["used_ring"] = queue["avail_ring"].clone();
    queue["next_used"] = 5.into();
    let state = serde_json::from_value(state).unwrap();
    let mut driver = driver.restored(Box::new(Echo::default()), &state).unwrap();
    offer(&mut driver, b"again");
    driver.notify(0);
    assert!(!driver.rests_within(100));
    // Nothing is behind it that waits for it: registers are there, and the reset is done when it returns.
    assert_eq!(driver.read(Register::Status), RUNNING);
    assert_eq!(driver.reset(), 0);
    assert_eq!(driver.start(VERSION_1), RUNNING);
    offer(&mut driver, b"once");
    driver.kick(0);
    assert_eq!(answer(&mut driver), b"once");
    assert!(driver.rests_within(100));
}

#[test]
fn a_state_that_can_not_be_is_refused() {
    let mut driver = echo();
    let text = serde_json::to_value(driver.save()).unwrap();
    let wrong = |pointer: &str, value: serde_json::Value| {
        let mut state = text.clone();
        *state.pointer_mut(pointer).unwrap() = value;
        let state: TransportState = serde_json::from_value(state).unwrap();
        let error = echo()
            .restored(Box::new(Echo::default()), &state)
            .err()
            .unwrap();
        error.to_string()
    };
    for (pointer, value, expected) in [
        ("/driver_features", (1_u64 << 63).into(), "features"),
        ("/status", 0x100.into(), "status"),
        (
            "/status",
            (RUNNING & !Status::DRIVER_OK).into(),
            "setting it up",
        ),
        ("/worker/queues", serde_json::json!([]), "number of queues"),
        ("/worker/queues/0/size", 3.into(), "a queue that can't be"),
        (
            "/worker/queues/0/size",
            4096.into(),
            "a queue that can't be",
        ),
        (
            "/worker/queues/0/desc_table",
            (!0xf_u64).into(),
            "outside of memory",
        ),
        ("/worker/config", serde_json::json!([1, 2]), "configuration"),
    ] {
        let error = wrong(pointer, value);
        assert!(error.contains(expected), "{pointer}: {error}");
    }
}

#[test]
fn a_disk_that_comes_later_is_told_to_the_driver() {
    let device = || block::BlockDevice::new(0, block::Disk::absent(None));
    let mut driver = MmioDriver::new(|_| Box::new(device()));
    driver.start(VERSION_1 | EVENT_IDX);
    assert_eq!(driver.read_config::<8>(0), [0; 8]);
    let generation = driver.read(Register::ConfigGeneration);
    let state = kept(&driver.save());

    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let segment = block::Segment {
        file,
        len: 4096,
        capacity: 4096,
    };
    let disk = block::Disk::read_only(vec![segment]).unwrap();
    let mut driver = driver
        .restored(Box::new(block::BlockDevice::new(0, disk)), &state)
        .unwrap();
    assert_eq!(driver.read(Register::InterruptStatus), 2);
    assert_eq!(driver.take_interrupts(), 1);
    assert_eq!(u64::from_le_bytes(driver.read_config(0)), 8);
    assert_ne!(driver.read(Register::ConfigGeneration), generation);
}

#[test]
fn a_disk_of_no_size_answers_no_request() {
    let disk = block::Disk::absent(None);
    let mut driver = MmioDriver::new(|_| Box::new(block::BlockDevice::new(0, disk)));
    driver.start(VERSION_1);
    // Sixteen zeros: read sector 0 (VIRTIO_BLK_T_IN).
    driver.rings[0]
        .offer(&[
            Buffer::Readable(&[0; 16]),
            Buffer::Writable(512),
            Buffer::Writable(1),
        ])
        .unwrap();
    driver.kick(0);
    let used = driver.rings[0].take_used().unwrap();
    assert_eq!(used.written, 1, "the status only");
    assert_eq!(used.data.last(), Some(&1), "an I/O error");
}

#[test]
fn a_call_to_a_stand_in_is_answered_by_the_device_that_comes_later() {
    let kicked = EventFd::new(EFD_NONBLOCK).unwrap();
    let device = |ports| Box::new(vsock::VsockDevice::new(3, ports, None).unwrap());
    let stand_in = StandIn::new(device(vec![]), vsock::TX, kicked.try_clone().unwrap());
    let mut driver = MmioDriver::new(|_| Box::new(stand_in));
    driver.start(VERSION_1 | EVENT_IDX);
    for _ in 0..4 {
        driver.rings[0].offer(&[Buffer::Writable(4096)]).unwrap();
    }
    driver.kick(0);
    assert!(kicked.read().is_err(), "buffers are no call");
    // A REQUEST from port 9 of the guest to port 1024 of the host (section 5.10.6).
    let mut request = Vec::new();
    request.extend(3_u64.to_le_bytes());
    request.extend(2_u64.to_le_bytes());
    request.extend(9_u32.to_le_bytes());
    request.extend(1024_u32.to_le_bytes());
    request.extend([0; 4]);
    request.extend(1_u16.to_le_bytes());
    request.extend(1_u16.to_le_bytes());
    request.extend([0; 4]);
    request.extend((256_u32 << 10).to_le_bytes());
    request.extend([0; 4]);
    driver.rings[1]
        .offer(&[Buffer::Readable(&request)])
        .unwrap();
    driver.kick(1);
    assert_eq!(kicked.read().unwrap(), 1);
    assert!(driver.rings[1].take_used().is_none());

    let state = kept(&driver.save());
    let (mut host, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut driver = driver
        .restored(device(vec![(1024, theirs.into())]), &state)
        .unwrap();
    driver.run();
    assert!(driver.rings[1].take_used().is_some());
    let response = driver.rings[0].take_used().unwrap();
    assert_eq!(response.answer()[30..32], 2_u16.to_le_bytes(), "a RESPONSE");
    host.write_all(b"hello").unwrap();
    driver.run();
    let data = driver.rings[0].take_used().unwrap();
    assert_eq!(data.answer()[44..49], *b"hello");
    drop(driver);
    assert_eq!(host.read(&mut [0; 1]).unwrap(), 0);
}

/// A device that fails as soon as it goes on.
struct Fails;

impl Device for Fails {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }
    fn name(&self) -> &str {
        "fails"
    }
    fn features(&self) -> u64 {
        FEATURE
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16, 4]
    }
    fn config(&self) -> ConfigSpace {
        Echo::default().config()
    }
    fn activate(&mut self, _: u64, _: &mut Io) -> Result<(), DeviceError> {
        Err(DeviceError::Request {
            queue: 0,
            reason: "a test",
        })
    }
    fn queue_ready(&mut self, _: usize, _: &mut Io) -> Result<(), DeviceError> {
        panic!("a stopped device is not called");
    }
    fn fd_ready(&mut self, _: u32, _: EventSet, _: &mut Io) -> Result<(), DeviceError> {
        panic!("a stopped device is not called");
    }
    fn reset(&mut self, _: &mut Watch) {}
}

#[test]
fn a_device_that_fails_at_once_is_stopped_as_any_other() {
    let mut driver = echo();
    let state = driver.save();
    let mut driver = driver.restored(Box::new(Fails), &state).unwrap();
    driver.run();
    assert_eq!(driver.read(Register::Status), RUNNING | Status::NEEDS_RESET);
    // It stays so, wherever it goes on.
    let state = driver.save();
    offer(&mut driver, b"before");
    let mut driver = driver.restored(Box::new(Echo::default()), &state).unwrap();
    driver.run();
    driver.kick(0);
    assert!(driver.rings[0].take_used().is_none());
    assert_eq!(driver.read(Register::Status), RUNNING | Status::NEEDS_RESET);
    assert_eq!(driver.reset(), 0);
    assert_eq!(driver.start(VERSION_1), RUNNING);
}
