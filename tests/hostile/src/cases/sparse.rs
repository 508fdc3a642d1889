//! Sparse files (e11), what they claim (e14), and what a file system's image is to a reader of tar (e23).

use super::{Case, Expected, alive, bytes, layer, prints, refused};
use crate::tarball::Tar;

/// The magic of EROFS (Linux fs/erofs/erofs_fs.h).
const EROFS: &[u8] = &0xe0f5_e1e2_u32.to_le_bytes();

pub(super) fn cases() -> Vec<Case> {
    [sparse(), file_systems()].into_iter().flatten().collect()
}

/// A sparse file of the second version of GNU's records.
fn mapped(size: &str, map: &str, data: &[u8]) -> Tar {
    Tar::new()
        .pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
        ])
        .file("f", data)
}

fn sparse() -> Vec<Case> {
    let range = "its sparse map is out of order or range";
    let damaged = "its sparse map is damaged";
    let in_data = |text: &'static str| {
        move |tar: Tar| {
            let mut data = text.as_bytes().to_vec();
            data.resize(512, 0);
            let records: [(&str, &[u8]); 3] = [
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"4096"),
            ];
            tar.pax(&records).file("f", &data)
        }
    };
    vec![
        refused(
            11,
            "sparse-overlap",
            "pieces that lie upon each other",
            |_| mapped("4096", "0,512,256,512", &[b'x'; 1024]),
            range,
        ),
        refused(
            11,
            "sparse-backwards",
            "pieces from the end",
            |_| mapped("4096", "2048,512,0,512", &[b'x'; 1024]),
            range,
        ),
        refused(
            11,
            "sparse-beyond",
            "a piece behind the file's end",
            |_| mapped("100", "0,512", &[b'x'; 512]),
            range,
        ),
        refused(
            11,
            "sparse-wraps",
            "a piece that wraps around 64 bits",
            |_| mapped("4096", "18446744073709551615,2", &[b'x'; 2]),
            range,
        ),
        refused(
            11,
            "sparse-odd",
            "a piece without a length",
            |_| mapped("4096", "0,512,1024", &[b'x'; 512]),
            damaged,
        ),
        refused(
            11,
            "sparse-more-than-data",
            "pieces of more than there is",
            |_| mapped("4096", "0,512,1024,512", &[b'x'; 512]),
            "its sparse map does not fit its data",
        ),
        refused(
            11,
            "sparse-of-10-to-12-pieces",
            "a map of 10^12 pieces",
            in_data("1000000000000\n"),
            "pieces of one sparse file",
        ),
        refused(
            11,
            "sparse-map-without-end",
            "a map's number that never ends",
            in_data("00000000000000000000000000000000000000\n"),
            damaged,
        ),
        refused(
            11,
            "sparse-of-an-unknown-version",
            "a map of version 9",
            |tar| {
                tar.pax(&[
                    ("GNU.sparse.major", b"9"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.size", b"1"),
                ])
                .file("f", b"x")
            },
            "a sparse file of an unknown form",
        ),
        refused(
            11,
            "sparse-link",
            "a map of a link",
            |tar| {
                tar.pax(&[("GNU.sparse.size", b"1"), ("GNU.sparse.map", b"0,1")])
                    .link(b'2', "l", "f")
            },
            "a sparse map where none can be",
        ),
        refused(
            11,
            "sparse-name-up",
            "a name in a map that leads up",
            |_| {
                Tar::new()
                    .pax(&[
                        ("GNU.sparse.name", b"../pwned"),
                        ("GNU.sparse.size", b"1"),
                        ("GNU.sparse.map", b"0,1"),
                    ])
                    .file("f", b"x")
            },
            "leads out of the layer",
        ),
        refused(
            14,
            "sparse-of-8-eib",
            "a file of 8 EiB that is all hole",
            |_| mapped("9223372036854775807", "", b""),
            "bytes of one file",
        ),
        layer(
            14,
            "sparse-of-1-tib",
            "a file of 1 TiB that is all hole",
            |_| mapped("1099511627776", "", b""),
            prints("stat -c %s /f", "1099511627776\n"),
        )
        .large(),
        layer(
            14,
            "sparse-of-1-tib-and-pieces",
            "the same with a byte at its end",
            |_| mapped("1099511627776", "1099511627775,1", b"x"),
            prints("stat -c %s /f; tail -c 1 /f", "1099511627776\nx"),
        )
        .large(),
    ]
}

/// A superblock's magic at its place, which a host that probes would know.
fn superblock(name: &'static str, tries: &'static str, at: usize, magic: &'static [u8]) -> Case {
    let make = move || {
        let mut image = vec![0; 128 << 10];
        image[at..at + magic.len()].copy_from_slice(magic);
        image[0] = b'x';
        image
    };
    bytes(
        23,
        name,
        tries,
        make,
        Expected::Unpacking("its checksum is wrong"),
    )
}

fn file_systems() -> Vec<Case> {
    vec![
        superblock(
            "erofs",
            "a layer that is an EROFS, as its disk will be",
            1024,
            EROFS,
        ),
        superblock("ext4", "a layer that is an ext4", 1080, &[0x53, 0xef]),
        superblock("squashfs", "a layer that is a squashfs", 4096, b"hsqs"),
        superblock("iso9660", "a layer that is a CD", 32_769, b"CD001"),
        superblock(
            "gpt",
            "a layer that is a disk with partitions",
            512,
            b"EFI PART",
        ),
        layer(
            23,
            "file-system-in-a-file",
            "an EROFS as a file, which nobody must mount",
            |tar| {
                let mut image = vec![0; 8192];
                image[1024..1028].copy_from_slice(EROFS);
                tar.file("disk.img", &image)
            },
            alive(),
        ),
    ]
}
