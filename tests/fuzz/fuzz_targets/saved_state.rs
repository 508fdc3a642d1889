//! The saved state of a device, as a template has it, with other values in it: it is refused, or the
//! device goes on, whatever its rings are then, and a reset brings back one that works and comes to rest.
//!
//! ```text
//! input: device, features of the driver that was saved, how many values are replaced (% 16), then each:
//!   which value 8, what it becomes 8: itself + 16 bits, any 16 or 64 bits, a ring's address + 16 bits
//! then operations as long as there are bytes:
//!   0 request and kick   1 kick   2 let the event loop run   3 write any register   4 reset, start again
//! ```
#![no_main]

use bulkhead_fuzz::{Input, memory_file};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use vmm::virtio::block::{BlockDevice, Disk, Flush};
use vmm::virtio::mock::{Buffer, EVENT_IDX, MmioDriver, Status, VERSION_1};
use vmm::virtio::rng::RngDevice;
use vmm::virtio::{Device, TransportState};

const OPERATIONS_MAX: usize = 64;

/// Turns of the event loop after an operation: rings that feed themselves have no end.
const TURNS_MAX: u32 = 100;

const DISK_BYTES: u64 = 64 << 10;

const RUNNING: u32 = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK | Status::DRIVER_OK;

fn device(kind: u8) -> Box<dyn Device> {
    if kind.is_multiple_of(2) {
        return Box::new(RngDevice::new());
    }
    let file = memory_file();
    file.set_len(DISK_BYTES).expect("size a disk");
    let disk = Disk::writable(file, DISK_BYTES, Flush::Ignore).expect("a disk");
    Box::new(BlockDevice::new(0, disk))
}

/// The numbers of a state, in order: also those of a configuration space.
fn numbers(value: &mut Value) -> Vec<&mut Value> {
    match value {
        Value::Array(values) => values.iter_mut().flat_map(numbers).collect(),
        Value::Object(fields) => fields.values_mut().flat_map(numbers).collect(),
        Value::Number(_) => vec![value],
        Value::Bool(_) => vec![value],
        Value::Null | Value::String(_) => Vec::new(),
    }
}

fn replace(value: &mut Value, input: &mut Input, rings: [u64; 3]) {
    if let Value::Bool(is) = value {
        *is = !*is;
        return;
    }
    let old = value.as_u64().expect("a state has whole numbers");
    let how = input.byte();
    let small = u64::from(input.half());
    *value = match how % 4 {
        0 => old.wrapping_add(small),
        1 => small,
        2 => u64::from(input.word()) << 32 | u64::from(input.word()),
        _ => rings[usize::from(how / 4) % 3].wrapping_add(small),
    }
    .into();
}

/// Random bytes, or the first sector of the disk (virtio 1.2 section 5.2.6: type 0 reads).
fn request(driver: &mut MmioDriver, kind: u8) {
    const READ: [u8; 16] = [0; 16];
    driver.rings[0].offer(if kind.is_multiple_of(2) {
        &[Buffer::Writable(32)]
    } else {
        &[
            Buffer::Readable(&READ),
            Buffer::Writable(512),
            Buffer::Writable(1),
        ]
    });
    driver.notify(0);
    driver.rests_within(TURNS_MAX);
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let kind = input.byte();
    let mut driver = MmioDriver::new(|_| device(kind));
    let features = if input.byte() & 1 == 0 {
        VERSION_1
    } else {
        VERSION_1 | EVENT_IDX
    };
    assert_eq!(driver.start(features), RUNNING);
    let rings = driver.rings[0].addresses();
    let mut state = serde_json::to_value(driver.save()).expect("write a state");
    for _ in 0..input.byte() % 16 {
        let mut values = numbers(&mut state);
        let which = usize::from(input.byte()) % values.len();
        replace(values[which], &mut input, rings);
    }
    // A number that its field can't hold is no state.
    let Ok(state) = serde_json::from_value::<TransportState>(state) else {
        return;
    };
    let Ok(mut driver) = driver.restored(device(kind), &state) else {
        return;
    };
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        match input.byte() % 5 {
            0 => request(&mut driver, kind),
            1 => {
                driver.notify(0);
                driver.rests_within(TURNS_MAX);
            }
            2 => _ = driver.rests_within(TURNS_MAX),
            3 => {
                let offset = u64::from(input.byte()) * 4;
                driver.write_raw(offset, &input.word().to_le_bytes());
            }
            _ => {
                assert_eq!(driver.reset(), 0);
                driver.start(VERSION_1);
            }
        }
    }
    // A used ring that lies over the available one has a request for ever; each has its turn.
    driver.rests_within(TURNS_MAX);
    assert_eq!(driver.reset(), 0);
    assert_eq!(driver.start(VERSION_1), RUNNING);
    request(&mut driver, kind);
    driver.run();
    assert!(driver.rings[0].take_used().is_some(), "no answer");
});
