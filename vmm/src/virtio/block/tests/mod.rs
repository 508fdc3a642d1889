//! The block device driven by a mock driver: what it answers when all is well; in `hostile`, when
//! it is not.

mod hostile;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::DESCRIPTORS_MAX;
use crate::virtio::mock::{
    Buffer, Descriptor, DirectDriver, EVENT_IDX, Flags, HIGH_START, MmioDriver, REGION_BYTES,
    Register, Used, VERSION_1,
};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// Feature bits of section 5.2.3.
const F_RO: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const DISK_BYTES: u64 = 64 << 20;

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}

/// A disk with 4 KiB of 0xaa at its start, a driver, and the file behind it.
fn writable(flush: Flush) -> (DirectDriver<BlockDevice>, File) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0xaa; 4096]).unwrap();
    file.set_len(DISK_BYTES).unwrap();
    let disk = Disk::writable(file.try_clone().unwrap(), DISK_BYTES, flush).unwrap();
    (start(disk, F_FLUSH), file)
}

fn read_only() -> DirectDriver<BlockDevice> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0xaa; 5000]).unwrap();
    let segment = Segment {
        file,
        len: 5000,
        capacity: 8192,
    };
    start(Disk::read_only(vec![segment]).unwrap(), F_RO)
}

fn start(disk: Disk, features: u64) -> DirectDriver<BlockDevice> {
    let mut driver = DirectDriver::new(|_| BlockDevice::new(3, disk));
    driver.activate(VERSION_1 | features).unwrap();
    driver
}

/// Sends a request and returns what came back: its last byte is the status.
fn send(
    driver: &mut DirectDriver<BlockDevice>,
    kind: u32,
    sector: u64,
    data: &[Buffer],
) -> (u8, Used) {
    let header = header(kind, sector);
    let mut buffers = vec![Buffer::Readable(&header)];
    buffers.extend(data);
    buffers.push(Buffer::Writable(1));
    let head = driver.rings[0].offer(&buffers).unwrap();
    driver.run(0).unwrap();
    let mut used = driver.rings[0].take_used().unwrap();
    assert_eq!(used.head, head);
    assert!(driver.rings[0].take_used().is_none());
    (used.data.pop().unwrap(), used)
}

fn file_bytes(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn reads_and_writes_reach_the_file() {
    let (mut driver, file) = writable(Flush::Durable);
    let data: Vec<u8> = (0..=255).cycle().take(8192).collect();
    let cut = [
        Buffer::Readable(&data[..512]),
        Buffer::Readable(&data[512..513]),
        Buffer::Readable(&data[513..]),
    ];
    let (status, used) = send(&mut driver, OUT, 7, &cut);
    assert_eq!((status, used.written), (OK, 1));
    assert_eq!(file_bytes(&file, 7 * 512, 8192), data);
    assert_eq!(file_bytes(&file, 0, 7 * 512), [0xaa; 7 * 512]);
    let into = [
        Buffer::Writable(100),
        Buffer::Writable(3996),
        Buffer::Writable(4096),
    ];
    let (status, used) = send(&mut driver, IN, 7, &into);
    assert_eq!((status, used.written), (OK, 8193));
    assert_eq!(used.data, data);
    let (status, used) = send(&mut driver, FLUSH, 0, &[]);
    assert_eq!((status, used.written), (OK, 1));
    assert_eq!(driver.take_interrupts(), 3);
}

#[test]
fn a_whole_request_may_be_two_buffers_or_one_table() {
    let (mut driver, file) = writable(Flush::Ignore);
    let mut write = header(OUT, 1).to_vec();
    write.extend([0x55; 512]);
    driver.rings[0]
        .offer(&[Buffer::Readable(&write), Buffer::Writable(1)])
        .unwrap();
    let read = [Buffer::Readable(&header(IN, 1)), Buffer::Writable(513)];
    driver.rings[0].offer_indirect(&read).unwrap();
    driver.run(0).unwrap();
    assert_eq!(driver.rings[0].take_used().unwrap().data, [OK]);
    let mut expected = vec![0x55; 512];
    expected.push(OK);
    assert_eq!(driver.rings[0].take_used().unwrap().answer(), expected);
    assert_eq!(file_bytes(&file, 512, 512), [0x55; 512]);
    assert_eq!(driver.take_interrupts(), 1);
}

#[test]
fn discard_and_write_zeroes_make_zeros_and_give_space_back() {
    for (kind, flags, keeps_space) in [
        (DISCARD, 0, false),
        (WRITE_ZEROES, 1, false),
        (WRITE_ZEROES, 0, true),
    ] {
        let (mut driver, file) = writable(Flush::Durable);
        let full = [0x33; 65536];
        assert_eq!(send(&mut driver, OUT, 8, &[Buffer::Readable(&full)]).0, OK);
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        let ranges = [range(8, 64, flags), range(80, 48, flags)].concat();
        let status = send(&mut driver, kind, 0, &[Buffer::Readable(&ranges)]).0;
        if status == UNSUPP {
            // tmpfs, where the tests' files may lie, knows no FALLOC_FL_ZERO_RANGE.
            assert!(keeps_space, "punching a hole must work");
            assert_eq!(file_bytes(&file, 8 * 512, full.len()), full);
            continue;
        }
        assert_eq!(status, OK);
        assert_eq!(file_bytes(&file, 8 * 512, 64 * 512), [0; 64 * 512]);
        assert_eq!(file_bytes(&file, 72 * 512, 8 * 512), [0x33; 8 * 512]);
        assert_eq!(file_bytes(&file, 80 * 512, 48 * 512), [0; 48 * 512]);
        assert_eq!(file_bytes(&file, 128 * 512, 8 * 512), [0x33; 8 * 512]);
        assert_eq!(file_bytes(&file, 0, 4096), [0xaa; 4096]);
        file.sync_all().unwrap();
        assert_eq!(
            file.metadata().unwrap().blocks() >= before,
            keeps_space,
            "type {kind}"
        );
        assert_eq!(file.metadata().unwrap().len(), DISK_BYTES);
    }
}

#[test]
fn the_serial_number_is_told_as_far_as_there_is_room() {
    let mut driver = read_only();
    let mut serial = [0; 20];
    serial[..5].copy_from_slice(b"disk3");
    let (status, used) = send(&mut driver, GET_ID, 0, &[Buffer::Writable(20)]);
    assert_eq!((status, used.written, used.data), (OK, 21, serial.to_vec()));
    let (status, used) = send(
        &mut driver,
        GET_ID,
        0,
        &[Buffer::Writable(3), Buffer::Writable(1)],
    );
    assert_eq!((status, used.written, used.data), (OK, 5, b"disk".to_vec()));
}

#[test]
fn features_follow_the_disk() {
    let (durable, _file) = writable(Flush::Durable);
    let (ignore, _file) = writable(Flush::Ignore);
    let changes = F_DISCARD | F_WRITE_ZEROES | F_FLUSH;
    for (driver, offered, absent) in [
        (durable, changes, F_RO),
        (ignore, changes, F_RO),
        (read_only(), F_RO, changes),
    ] {
        let features = crate::virtio::Device::features(&driver.device);
        assert_eq!(features & (offered | absent), offered);
    }
}

#[test]
fn the_configuration_space_has_the_layout_of_the_standard() {
    let (driver, _file) = writable(Flush::Durable);
    let mut bytes = [0; 60];
    driver.config.read(0, &mut bytes);
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(
        u64::from_le_bytes(bytes[..8].try_into().unwrap()),
        DISK_BYTES / 512
    );
    assert_eq!((word(8), word(12)), (128 << 10, 254)); // size_max, seg_max
    assert_eq!((word(20), bytes[24]), (512, 3)); // blk_size, physical_block_exp
    assert_eq!((word(36), word(40), word(44)), (1 << 21, 16, 8)); // discard
    assert_eq!((word(48), word(52), bytes[56]), (1 << 21, 16, 1)); // write zeroes
    let mut beyond = [0xff; 4];
    driver.config.read(60, &mut beyond);
    assert_eq!(beyond, [0; 4]);
}

#[test]
fn memory_above_the_gap_is_as_good() {
    let (mut driver, _file) = writable(Flush::Durable);
    let head = driver.rings[0].place(&header(IN, 0));
    let (data, answer) = (HIGH_START + 0x3000, HIGH_START + REGION_BYTES - 1);
    driver
        .memory
        .write_obj(0xee_u8, GuestAddress(answer))
        .unwrap();
    driver.rings[0].offer_raw(
        0,
        &[
            Descriptor {
                address: head,
                len: 16,
                flags: Flags::NEXT,
                next: 1,
            },
            Descriptor {
                address: data,
                len: 4096,
                flags: Flags::WRITE.and(Flags::NEXT),
                next: 2,
            },
            Descriptor {
                address: answer,
                len: 1,
                flags: Flags::WRITE,
                next: 0,
            },
        ],
    );
    driver.run(0).unwrap();
    assert_eq!(
        driver.memory.read_obj::<u8>(GuestAddress(answer)).unwrap(),
        OK
    );
    let mut bytes = [0; 4097];
    driver
        .memory
        .read_slice(&mut bytes, GuestAddress(data))
        .unwrap();
    assert_eq!((&bytes[..4096], bytes[4096]), (&[0xaa; 4096][..], 0));
}

#[test]
fn a_turn_ends_by_bytes_so_that_others_have_theirs() {
    let (mut driver, _file) = writable(Flush::Ignore);
    let read = [
        Buffer::Readable(&header(IN, 0)),
        Buffer::Writable((1 << 20) + 1),
    ];
    for _ in 0..6 {
        driver.rings[0].offer(&read).unwrap();
    }
    driver.kick(0).unwrap();
    assert_eq!(driver.rings[0].used_index(), 4);
    assert_eq!(
        (driver.unfinished(), driver.take_interrupts()),
        (vec![0], 1)
    );
    driver.run(0).unwrap();
    assert_eq!(driver.rings[0].used_index(), 6);
    assert_eq!(
        (driver.unfinished(), driver.take_interrupts()),
        (Vec::new(), 1)
    );
}

#[test]
fn a_turn_ends_by_chains_too() {
    let (mut driver, _file) = writable(Flush::Ignore);
    let flush = [Buffer::Readable(&header(FLUSH, 0)), Buffer::Writable(1)];
    while driver.rings[0].offer_indirect(&flush).is_some() {}
    driver.kick(0).unwrap();
    assert_eq!(
        (driver.rings[0].used_index(), driver.unfinished()),
        (256, vec![0])
    );
    driver.run(0).unwrap();
    assert_eq!(
        (driver.rings[0].used_index(), driver.unfinished()),
        (256, vec![])
    );
}

#[test]
fn it_works_through_registers_as_linux_does_it() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(DISK_BYTES).unwrap();
    let disk = Disk::writable(file.try_clone().unwrap(), DISK_BYTES, Flush::Durable).unwrap();
    let mut driver = MmioDriver::new(|_| Box::new(BlockDevice::new(0, disk)));
    assert_eq!(driver.read(Register::DeviceId), 2);
    let capacity = u64::from_le_bytes(driver.read_config(0));
    assert_eq!(capacity, DISK_BYTES / 512);
    let features = driver.features();
    assert_eq!(
        driver.start(features),
        15,
        "all that it offers may be taken"
    );
    let write = header(OUT, capacity - 8);
    let data = [0x42; 4096];
    driver.rings[0].offer(&[
        Buffer::Readable(&write),
        Buffer::Readable(&data),
        Buffer::Writable(1),
    ]);
    driver.kick(0);
    assert_eq!(driver.rings[0].take_used().unwrap().data, [OK]);
    assert_eq!(
        (
            driver.read(Register::InterruptStatus),
            driver.take_interrupts()
        ),
        (1, 1)
    );
    assert_eq!(file_bytes(&file, DISK_BYTES - 4096, 4096), data);
    // A broken chain stops it, a new driver starts it again.
    driver.rings[0].offer(&[Buffer::Readable(&write)]);
    driver.kick(0);
    assert_eq!(driver.read(Register::Status), 15 | 64);
    assert_eq!(driver.start(features), 15);
    driver.rings[0].offer(&[Buffer::Readable(&header(IN, 0)), Buffer::Writable(513)]);
    driver.kick(0);
    assert_eq!(driver.rings[0].take_used().unwrap().data, [0; 513]);
}

#[test]
fn with_event_indexes_the_driver_is_interrupted_and_kicks_where_asked() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let mut driver = start(
        Disk::writable(file, 4096, Flush::Ignore).unwrap(),
        EVENT_IDX,
    );
    let read = [Buffer::Readable(&header(IN, 0)), Buffer::Writable(513)];
    driver.rings[0].set_used_event(1);
    driver.rings[0].offer(&read).unwrap();
    driver.run(0).unwrap();
    assert_eq!(
        (driver.take_interrupts(), driver.rings[0].available_event()),
        (0, 1)
    );
    driver.rings[0].offer(&read).unwrap();
    driver.run(0).unwrap();
    assert_eq!(
        (driver.take_interrupts(), driver.rings[0].available_event()),
        (1, 2)
    );
}
