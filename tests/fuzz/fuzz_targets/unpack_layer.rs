//! What the agent makes of any layer: a tar, perhaps compressed, becomes an EROFS image or nothing.
//! An image keeps to its limits, has all that a reader relies on, and depends on the layer alone; a
//! layer that is refused leaves no superblock.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

use bulkhead_fuzz::archive::archive;
use bulkhead_fuzz::{Input, memory_file};
use guest_agent::unpack::fuzz_layer;
use libfuzzer_sys::fuzz_target;

/// The reader of images that the agent's own tests have.
#[allow(dead_code)]
#[path = "../../../guest-agent/src/unpack/tests/image.rs"]
mod image;

use image::Image;

const BLOCK: u64 = 4096;

// Those of `fuzz_layer`.
const TAR_BYTES: u64 = 1 << 20;
const IMAGE_BYTES: u64 = 4 << 20;
const ENTRIES: u64 = 1000;

const NAMES: [&[u8]; 12] = [
    b"a",
    b"b",
    b"c",
    b".wh.a",
    b".wh.b",
    b".wh.",
    b".wh..wh..opq",
    b".wh..wh.plnk",
    b".",
    b"..",
    b"",
    &[b'n'; 255],
];

fn start_of(file: &File, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).expect("a small image")];
    file.read_exact_at(&mut bytes, 0).expect("read an image");
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let layer = archive(&mut Input::new(bytes), &NAMES);
    let out = memory_file();
    let Some(converted) = fuzz_layer(&layer, &out) else {
        let len = out.metadata().expect("ask a file").len();
        let start = start_of(&out, len.min(BLOCK));
        assert!(start.iter().all(|byte| *byte == 0), "a superblock");
        return;
    };
    let len = converted.image_bytes;
    assert_eq!(len, out.metadata().expect("ask a file").len());
    assert!(len <= IMAGE_BYTES && len.is_multiple_of(BLOCK));
    assert!(converted.tar_bytes <= TAR_BYTES && converted.inodes <= ENTRIES);

    let first = start_of(&out, len);
    let dirty = memory_file();
    dirty
        .write_all_at(&vec![0xa5; first.len()], 0)
        .expect("fill a file");
    assert_eq!(fuzz_layer(&layer, &dirty), Some(converted));
    assert!(start_of(&dirty, len) == first, "two images of one layer");

    let image = Image::read(first);
    assert_eq!(image.inode_count(), converted.inodes);
    for path in image.paths() {
        let node = image.get(path);
        // Holes can be of any size.
        if node.size <= IMAGE_BYTES {
            image.content(node);
        }
    }
});
