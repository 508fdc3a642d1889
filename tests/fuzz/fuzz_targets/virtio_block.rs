//! A guest's block requests, on a writable and on a read-only disk: nothing but the disk's own
//! bytes changes, and a read-only one does not change at all.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

use bulkhead_fuzz::{Input, memory_file, play};
use libfuzzer_sys::fuzz_target;
use vmm::virtio::block::{BlockDevice, Disk, Flush, Segment};
use vmm::virtio::mock::DirectDriver;

const DISK_BYTES: u64 = 64 << 10;

fn disk_file() -> File {
    let file = memory_file();
    file.set_len(DISK_BYTES).expect("size a disk");
    file.write_all_at(b"disk", 0).expect("fill a disk");
    file
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let file = disk_file();
    let shared = file.try_clone().expect("a descriptor");
    let read_only = input.byte() & 1 == 1;
    let disk = if read_only {
        let (len, capacity) = (5000, 8192);
        let file = file.try_clone().expect("a descriptor");
        let first = Segment {
            file,
            len,
            capacity,
        };
        Disk::read_only(vec![
            first,
            Segment {
                file: shared,
                len: DISK_BYTES,
                capacity: DISK_BYTES,
            },
        ])
    } else {
        Disk::writable(shared, DISK_BYTES, Flush::Durable)
    };
    let device = BlockDevice::new(0, disk.expect("a disk"));
    play(&mut DirectDriver::new(|_| device), &mut input, |_, _| {});

    assert_eq!(file.metadata().expect("ask a disk").len(), DISK_BYTES);
    if read_only {
        let mut content = vec![0; DISK_BYTES as usize];
        file.read_exact_at(&mut content, 0).expect("read a disk");
        assert_eq!(&content[..4], b"disk");
        assert!(content[4..].iter().all(|byte| *byte == 0));
    }
});
