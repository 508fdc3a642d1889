//! A guest's queues of the file system device, with a server that answers now and then, lies or ends.
#![no_main]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_fuzz::{Input, play};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use vmm::virtio::fs::{Backend, FsDevice};
use vmm::virtio::mock::DirectDriver;

const SLOT_COUNT: usize = 4;
const SLOT_BYTES: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let (flags, kind) = (SocketFlags::CLOEXEC, SocketType::SEQPACKET);
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None).expect("a socket pair");
    let memory = memfd_create("area", MemfdFlags::CLOEXEC).expect("a memory file");
    ftruncate(memory.as_fd(), (SLOT_COUNT * SLOT_BYTES) as u64).expect("a size");
    let backend = Backend {
        socket: ours,
        area: File::from(memory),
        slot_count: SLOT_COUNT,
        slot_bytes: SLOT_BYTES,
    };
    let mut server: Option<OwnedFd> = Some(theirs);
    let mut driver = DirectDriver::new(|_| FsDevice::new("tag", Some(backend)).expect("a device"));
    play(&mut driver, &mut Input::new(bytes), |driver, text| {
        let mut message = [0; 12];
        match (&server, text) {
            (Some(_), 0) => server = None,
            // A reply to nothing, or a wrong one.
            (Some(server), 1..16) => {
                let lie = [text, 0, 0, 0, text, text, 0, 0];
                let _ = send(server, &lie, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            }
            (Some(server), _) => {
                if let Ok((_, 12)) = recv(server, &mut message, RecvFlags::DONTWAIT) {
                    let room =
                        u32::from_le_bytes([message[8], message[9], message[10], message[11]]);
                    let len = room.min(u32::from(text));
                    let mut reply = [0; 8];
                    reply[..4].copy_from_slice(&message[..4]);
                    reply[4..].copy_from_slice(&len.to_le_bytes());
                    let _ = send(server, &reply, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
                }
            }
            (None, _) => {}
        }
        assert!(driver.device.pending() <= SLOT_COUNT);
        if driver.poll(0).is_err() {
            driver.reset();
            driver
                .activate(vmm::virtio::mock::VERSION_1)
                .expect("the device starts");
        }
    });
});
