//! A guest's console output, and its buffers for input, of which there is none.
#![no_main]

use std::fs::OpenOptions;

use bulkhead_fuzz::{Input, play};
use libfuzzer_sys::fuzz_target;
use vmm::virtio::console::ConsoleDevice;
use vmm::virtio::mock::DirectDriver;

fuzz_target!(|bytes: &[u8]| {
    let output = OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .expect("open /dev/null");
    let mut driver = DirectDriver::new(|_| ConsoleDevice::new(output));
    play(&mut driver, &mut Input::new(bytes), |driver, _| {
        assert!(driver.watched().is_empty());
    });
});
