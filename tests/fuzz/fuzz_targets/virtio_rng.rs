//! A guest's requests for random bytes.
#![no_main]

use bulkhead_fuzz::{Input, play};
use libfuzzer_sys::fuzz_target;
use vmm::virtio::mock::DirectDriver;
use vmm::virtio::rng::RngDevice;

fuzz_target!(|bytes: &[u8]| {
    let mut driver = DirectDriver::new(|_| RngDevice::new());
    play(&mut driver, &mut Input::new(bytes), |_, _| {});
});
