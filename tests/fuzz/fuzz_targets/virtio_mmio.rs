//! A guest's accesses to a device's registers in any order and width, with the worker and its
//! event loop behind them; whatever happened, a reset brings back a working device.
//!
//! ```text
//! input: operation, then  0 read    offset 16, length 8
//!                         1 write   offset 16, length 8, bytes
//!                         2 write   register / 4, value 32
//!                         3 write   register / 4, value 8
//!                         4 set up a queue   5 negotiate   6 start   7 request and kick
//!                         8 let the event loop run         9 reset
//! ```
#![no_main]

use bulkhead_fuzz::Input;
use libfuzzer_sys::fuzz_target;
use vmm::virtio::mock::{Buffer, MmioDriver, Status, VERSION_1};
use vmm::virtio::rng::RngDevice;

const OPERATIONS_MAX: usize = 128;

const RUNNING: u32 = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK | Status::DRIVER_OK;

fn request(driver: &mut MmioDriver) {
    driver.rings[0].offer(&[Buffer::Writable(32)]);
    driver.kick(0);
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mut driver = MmioDriver::new(|_| Box::new(RngDevice::new()));
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        match input.byte() % 10 {
            0 => {
                let offset = u64::from(input.half());
                let mut bytes = vec![0; usize::from(input.byte() % 16)];
                driver.read_raw(offset, &mut bytes);
            }
            1 => {
                let offset = u64::from(input.half());
                let len = usize::from(input.byte() % 16);
                driver.write_raw(offset, input.bytes(len));
            }
            2 => {
                let offset = u64::from(input.byte()) * 4;
                driver.write_raw(offset, &input.word().to_le_bytes());
            }
            3 => {
                let offset = u64::from(input.byte()) * 4;
                driver.write_raw(offset, &u32::from(input.byte()).to_le_bytes());
            }
            4 => driver.set_up_queue(0),
            5 => {
                driver.negotiate(VERSION_1 | u64::from(input.word()));
            }
            6 => {
                driver.start(VERSION_1);
            }
            7 => request(&mut driver),
            8 => driver.run(),
            _ => {
                assert_eq!(driver.reset(), 0);
            }
        }
    }
    driver.run();
    assert_eq!(driver.start(VERSION_1), RUNNING);
    request(&mut driver);
    assert_eq!(driver.rings[0].take_used().expect("an answer").written, 32);
});
