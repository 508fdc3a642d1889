//! A guest's lists of pages and reports of free memory, while the host moves the target.
#![no_main]

use bulkhead_fuzz::{Input, play};
use libfuzzer_sys::fuzz_target;
use vmm::virtio::balloon::BalloonDevice;
use vmm::virtio::mock::DirectDriver;

fuzz_target!(|bytes: &[u8]| {
    let (device, handle) = BalloonDevice::new().expect("an eventfd");
    let mut driver = DirectDriver::new(|_| device);
    play(&mut driver, &mut Input::new(bytes), |driver, mib| {
        handle.set_target_mib(u32::from(mib));
        assert_eq!(driver.poll(0).expect("a target"), 1);
        let mut num_pages = [0; 4];
        driver.config.read(0, &mut num_pages);
        assert_eq!(u32::from_le_bytes(num_pages), u32::from(mib.min(16)) * 256);
    });
});
