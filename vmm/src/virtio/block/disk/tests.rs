//! Disks by offset: files end to end, pieces of any cut, numbers that do not fit.

use super::*;
use crate::virtio::mock::guest_memory;
use std::io::Write;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn segment(bytes: &[u8], capacity: u64) -> Segment {
    Segment {
        file: file(bytes),
        len: bytes.len() as u64,
        capacity,
    }
}

/// Bytes that differ from their neighbours.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from(i % 251).unwrap() ^ seed)
        .collect()
}

/// Reads `len` bytes at `offset` into pieces of `cut` bytes of guest memory.
fn read(disk: &Disk, offset: u64, len: usize, cut: usize) -> io::Result<Vec<u8>> {
    let memory = guest_memory();
    let start = GuestAddress(0x1000);
    memory.write_slice(&vec![0xee; len + 16], start).unwrap();
    let slices: Vec<_> = (0..len)
        .step_by(cut)
        .map(|at| {
            memory
                .get_slice(GuestAddress(0x1000 + at as u64), cut.min(len - at))
                .unwrap()
        })
        .collect();
    disk.read(offset, &slices)?;
    let mut bytes = vec![0; len + 16];
    memory.read_slice(&mut bytes, start).unwrap();
    assert_eq!(bytes.split_off(len), [0xee; 16], "wrote past its end");
    Ok(bytes)
}

#[test]
fn a_read_only_disk_is_its_files_end_to_end_with_zeros_between() {
    let (a, b, c) = (pattern(5000, 1), pattern(4096, 2), pattern(700, 3));
    let mut image = a.clone();
    image.resize(8192, 0);
    image.extend(&b);
    image.extend([0; 4096]); // an empty file
    image.extend(&c);
    image.resize(8192 + 4096 + 4096 + 1024, 0);
    let disk = Disk::read_only(vec![
        segment(&a, 8192),
        segment(&b, 4096),
        segment(&[], 4096),
        segment(&c, 1024),
    ])
    .unwrap();
    assert_eq!(disk.capacity(), image.len() as u64);
    for offset in (0..image.len()).step_by(512) {
        for len in [0, 512, 1024, 4608, 8192, image.len()] {
            let Some(wanted) = image.get(offset..offset + len) else {
                continue;
            };
            for cut in [len.max(1), 512, 700, 97] {
                assert_eq!(
                    read(&disk, offset as u64, len, cut).unwrap(),
                    wanted,
                    "{offset} {len} {cut}"
                );
            }
        }
    }
    assert_eq!(
        read(&disk, 8192, image.len() - 8192 + 512, 512)
            .unwrap_err()
            .kind(),
        io::ErrorKind::UnexpectedEof
    );
}

#[test]
fn more_pieces_than_one_call_takes_are_read_and_written() {
    let bytes = pattern(3 * VECTORS_MAX + 5, 9);
    let disk = Disk::writable(file(&[0; 4096]), 4096, Flush::Durable).unwrap();
    let memory = guest_memory();
    memory.write_slice(&bytes, GuestAddress(0)).unwrap();
    let slices: Vec<_> = (0..bytes.len())
        .map(|at| memory.get_slice(GuestAddress(at as u64), 1).unwrap())
        .collect();
    disk.write(512, &slices).unwrap();
    disk.flush().unwrap();
    assert_eq!(read(&disk, 512, bytes.len(), 1).unwrap(), bytes);
    assert_eq!(read(&disk, 0, 512, 512).unwrap(), [0; 512]);
}

#[test]
fn vectors_advance_over_whole_and_partial_ones() {
    let memory = guest_memory();
    let slices = [10, 20, 30].map(|len| memory.get_slice(GuestAddress(0), len).unwrap());
    for (done, used, left) in [(1, 0, 9), (10, 1, 20), (29, 1, 1), (30, 2, 30), (60, 3, 0)] {
        let mut list = vectors(&slices);
        assert_eq!(advance(&mut list, done), used);
        assert_eq!(list.get(used).map_or(0, |vector| vector.iov_len), left);
    }
}

#[test]
fn a_file_that_shrinks_under_a_disk_is_an_error_not_zeros() {
    let file = file(&pattern(8192, 1));
    let shrink = file.try_clone().unwrap();
    let disk = Disk::read_only(vec![Segment {
        file,
        len: 8192,
        capacity: 8192,
    }])
    .unwrap();
    assert_eq!(
        read(&disk, 4096, 4096, 4096).unwrap(),
        pattern(8192, 1)[4096..]
    );
    shrink.set_len(5000).unwrap();
    assert_eq!(read(&disk, 0, 4096, 4096).unwrap(), pattern(4096, 1));
    let error = read(&disk, 4096, 4096, 4096).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_read_only_disk_takes_no_change() {
    let disk = Disk::read_only(vec![segment(&[1; 512], 512)]).unwrap();
    let memory = guest_memory();
    let slices = [memory.get_slice(GuestAddress(0), 512).unwrap()];
    for result in [
        disk.write(0, &slices),
        disk.punch_hole(0, 512),
        disk.zero(0, 512),
    ] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
    }
    disk.flush().unwrap();
    assert_eq!(disk.flush_mode(), None);
    assert_eq!(read(&disk, 0, 512, 512).unwrap(), [1; 512]);
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    let huge = CAPACITY_MAX / SECTOR * SECTOR;
    let of = |segments: Vec<Segment>| Disk::read_only(segments).unwrap_err().to_string();
    assert_eq!(of(Vec::new()), "disk of 0 files: must be 1 to 128");
    let many = (0..=SEGMENTS_MAX).map(|_| segment(&[], 512)).collect();
    assert_eq!(of(many), "disk of 129 files: must be 1 to 128");
    for (bytes, capacity) in [
        (0, 0),
        (1, 0),
        (513, 512),
        (10, 511),
        (10, CAPACITY_MAX),
        (10, u64::MAX),
    ] {
        assert_eq!(
            of(vec![segment(&vec![0; bytes], capacity)]),
            format!("disk of {capacity} bytes for a file of {bytes}: not possible")
        );
    }
    assert_eq!(
        of(vec![segment(&[], huge), segment(&[], 512)]),
        "disk of 512 bytes for a file of 0: not possible"
    );
    assert_eq!(
        of(vec![Segment {
            file: file(&[0; 10]),
            len: 11,
            capacity: 512
        }]),
        "file of a disk has 10 bytes instead of 11"
    );
    for bytes in [0, 511, huge + 1, u64::MAX] {
        let error = Disk::writable(file(&[0; 4096]), bytes, Flush::Ignore).unwrap_err();
        assert!(matches!(error, DiskError::Capacity { .. }), "{error}");
    }
    let error = Disk::writable(file(&[0; 4096]), 4608, Flush::Ignore).unwrap_err();
    assert!(
        matches!(
            error,
            DiskError::Length {
                expected: 4608,
                found: 4096
            }
        ),
        "{error}"
    );
}
