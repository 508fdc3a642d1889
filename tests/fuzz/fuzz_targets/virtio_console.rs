//! A guest's console output, and its buffers for input that arrives now and then.
#![no_main]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use bulkhead_fuzz::{Input, play};
use libfuzzer_sys::fuzz_target;
use vmm::virtio::console::ConsoleDevice;
use vmm::virtio::mock::DirectDriver;

fuzz_target!(|bytes: &[u8]| {
    let output = OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .expect("open /dev/null");
    let (host, guest) = UnixStream::pair().expect("a socket pair");
    guest.set_nonblocking(true).expect("set up a socket");
    host.set_nonblocking(true).expect("set up a socket");
    let mut host = Some(host);
    let input = File::from(OwnedFd::from(guest));
    let mut driver = DirectDriver::new(|_| ConsoleDevice::new(output, Some(input)));
    play(&mut driver, &mut Input::new(bytes), |driver, text| {
        match &mut host {
            // The end of the input.
            Some(_) if text == 0 => host = None,
            Some(host) => {
                let _ = host.write(&[text; 16]);
            }
            None => {}
        }
        let was_watched = !driver.watched().is_empty();
        match driver.poll(0) {
            Ok(served) => assert!(served == 0 || was_watched),
            Err(_) => {
                driver.reset();
                driver
                    .activate(vmm::virtio::mock::VERSION_1)
                    .expect("a console starts");
            }
        }
    });
});
