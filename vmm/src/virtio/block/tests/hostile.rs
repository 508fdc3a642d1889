//! Requests that are refused, and chains that stop the device; neither changes the disk.

use super::*;

#[test]
fn the_largest_request_is_served_and_one_more_sector_refused() {
    let (mut driver, file) = writable(Flush::Ignore);
    // All segments lie on the same memory: the device must not mind.
    let bytes = 128 << 10;
    let place = driver.rings[0].place(&vec![0x77; bytes]);
    let segment = |next| Descriptor {
        address: place,
        len: 128 << 10,
        flags: Flags::NEXT,
        next,
    };
    for (extra, status) in [(0, OK), (512, IOERR)] {
        let head = driver.rings[0].place(&header(OUT, 0));
        let answer = driver.rings[0].place(&[0xee]);
        let mut chain = vec![Descriptor {
            address: head,
            len: 16,
            flags: Flags::NEXT,
            next: 1,
        }];
        chain.extend((2..256).map(segment));
        chain[254].len += extra;
        chain.push(Descriptor {
            address: answer,
            len: 1,
            flags: Flags::WRITE,
            next: 0,
        });
        assert_eq!(chain.len(), DESCRIPTORS_MAX);
        driver.rings[0].offer_raw(0, &chain);
        driver.run(0).unwrap();
        let answer: u8 = driver.memory.read_obj(GuestAddress(answer)).unwrap();
        assert_eq!(answer, status, "{extra} bytes more");
    }
    let end = 254 * (128 << 10);
    assert_eq!(
        file_bytes(&file, end - 512, 1024),
        [[0x77; 512], [0; 512]].concat()
    );
}

#[test]
fn requests_that_make_no_sense_are_refused_and_change_nothing() {
    let last = DISK_BYTES / 512 - 1;
    let sector = [0x11; 512];
    let (readable, writable_512) = (Buffer::Readable(&sector), Buffer::Writable(512));
    let fine = range(1, 1, 0);
    let cases: Vec<(u32, u64, Vec<Buffer>, u8)> = vec![
        // Beyond the end, by a little and by overflow.
        (IN, last + 1, vec![writable_512], IOERR),
        (IN, last, vec![writable_512, writable_512], IOERR),
        (IN, u64::MAX, vec![writable_512], IOERR),
        (IN, u64::MAX / 512, vec![writable_512], IOERR),
        (IN, u64::MAX / 512 + 1, vec![writable_512], IOERR),
        (OUT, last + 1, vec![readable], IOERR),
        (OUT, 1 << 55, vec![readable], IOERR),
        // No whole sectors, or the wrong way.
        (IN, 0, vec![Buffer::Writable(511)], IOERR),
        (IN, 0, vec![Buffer::Writable(513)], IOERR),
        (OUT, 0, vec![Buffer::Readable(&sector[1..])], IOERR),
        (IN, 0, vec![readable], IOERR),
        (IN, 0, vec![readable, writable_512], IOERR),
        (OUT, 0, vec![writable_512], IOERR),
        (OUT, 0, vec![readable, writable_512], IOERR),
        (GET_ID, 0, vec![], IOERR),
        // Unknown requests; 2, 3, 10, 14 are SCSI, lifetime and secure erase.
        (2, 0, vec![readable], UNSUPP),
        (3, 0, vec![readable], UNSUPP),
        (10, 0, vec![writable_512], UNSUPP),
        (14, 0, vec![Buffer::Readable(&fine)], UNSUPP),
        (u32::MAX, 0, vec![], UNSUPP),
        // No ranges, or half a one.
        (DISCARD, 0, vec![], IOERR),
        (DISCARD, 0, vec![Buffer::Readable(&fine[1..])], IOERR),
        (
            DISCARD,
            0,
            vec![Buffer::Readable(&fine), Buffer::Readable(&fine[..3])],
            IOERR,
        ),
        (
            DISCARD,
            0,
            vec![Buffer::Readable(&fine), writable_512],
            IOERR,
        ),
        (WRITE_ZEROES, 0, vec![], IOERR),
    ];
    let (mut driver, file) = writable(Flush::Durable);
    for (kind, sector, data, expected) in &cases {
        let (status, used) = send(&mut driver, *kind, *sector, data);
        assert_eq!(
            (status, used.written),
            (*expected, 1),
            "type {kind} sector {sector} {data:?}"
        );
        assert!(
            used.data.iter().all(|byte| *byte == 0xee),
            "type {kind} wrote to its data"
        );
    }
    for (range, expected) in [
        (range(last + 1, 1, 0), IOERR),
        (range(last, 2, 0), IOERR),
        (range(u64::MAX, 1, 0), IOERR),
        (range(1 << 55, 1, 0), IOERR),
        (range(0, 0, 0), IOERR),
        (range(0, u32::MAX, 0), IOERR),
        (range(0, (1 << 21) + 1, 0), IOERR),
        (range(0, 1, 2), UNSUPP),
        (range(0, 1, u32::MAX), UNSUPP),
    ] {
        for kind in [DISCARD, WRITE_ZEROES] {
            let both = [Buffer::Readable(&range), Buffer::Readable(&fine)];
            assert_eq!(
                send(&mut driver, kind, 0, &both).0,
                expected,
                "type {kind} {range:?}"
            );
        }
    }
    // A discard has no flags; a write-zeroes has this one.
    let unmap = range(100, 1, 1);
    assert_eq!(
        send(&mut driver, DISCARD, 0, &[Buffer::Readable(&unmap)]).0,
        UNSUPP
    );
    assert_eq!(
        send(&mut driver, WRITE_ZEROES, 0, &[Buffer::Readable(&unmap)]).0,
        OK
    );
    let too_many = range(100, 1, 0).repeat(17);
    assert_eq!(
        send(&mut driver, DISCARD, 0, &[Buffer::Readable(&too_many)]).0,
        IOERR
    );
    assert_eq!(
        file_bytes(&file, 0, 8192),
        [[0xaa; 4096], [0; 4096]].concat()
    );
    assert_eq!(file.metadata().unwrap().len(), DISK_BYTES);
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let mut driver = read_only();
    let one = range(0, 1, 0);
    assert_eq!(
        send(&mut driver, OUT, 0, &[Buffer::Readable(&[1; 512])]).0,
        IOERR
    );
    assert_eq!(
        send(&mut driver, DISCARD, 0, &[Buffer::Readable(&one)]).0,
        IOERR
    );
    assert_eq!(
        send(&mut driver, WRITE_ZEROES, 0, &[Buffer::Readable(&one)]).0,
        IOERR
    );
    assert_eq!(send(&mut driver, FLUSH, 0, &[]).0, OK);
    let (status, used) = send(&mut driver, IN, 8, &[Buffer::Writable(4096)]);
    assert_eq!(status, OK);
    assert_eq!(
        used.data,
        [vec![0xaa; 5000 - 4096], vec![0; 8192 - 5000]].concat()
    );
    assert_eq!(send(&mut driver, IN, 16, &[Buffer::Writable(512)]).0, IOERR);
}

#[test]
fn data_outside_memory_is_an_io_error() {
    let (mut driver, file) = writable(Flush::Durable);
    for address in [
        REGION_BYTES,
        REGION_BYTES - 256,
        HIGH_START - 256,
        HIGH_START + REGION_BYTES - 256,
        u64::MAX - 511,
        u64::MAX,
    ] {
        for (kind, direction) in [
            (IN, Flags::WRITE),
            (OUT, Flags::NONE),
            (GET_ID, Flags::WRITE),
        ] {
            let head = driver.rings[0].place(&header(kind, 0));
            let answer = driver.rings[0].place(&[0xee]);
            let chain = [
                Descriptor {
                    address: head,
                    len: 16,
                    flags: Flags::NEXT,
                    next: 1,
                },
                Descriptor {
                    address,
                    len: 512,
                    flags: direction.and(Flags::NEXT),
                    next: 2,
                },
                Descriptor {
                    address: answer,
                    len: 1,
                    flags: Flags::WRITE,
                    next: 0,
                },
            ];
            driver.rings[0].offer_raw(0, &chain);
            driver.run(0).unwrap();
            let answer: u8 = driver.memory.read_obj(GuestAddress(answer)).unwrap();
            assert_eq!(answer, IOERR, "type {kind} at {address:#x}");
        }
    }
    assert_eq!(file_bytes(&file, 0, 4096), [0xaa; 4096]);
}

#[test]
fn a_request_that_cannot_be_answered_stops_the_device() {
    let head = |address, len, flags| Descriptor {
        address,
        len,
        flags,
        next: 1,
    };
    let end = |address, len, flags| Descriptor {
        address,
        len,
        flags,
        next: 0,
    };
    let loops = "queue 0: a chain loops, leaves its descriptor table or exceeds 4 GiB";
    let mixed = "queue 0: a chain has bytes to read after bytes to write";
    let no_status = "queue 0: a request has no status byte to write";
    for (chain, error) in [
        // No status, a status that may only be read, a status of no length.
        (vec![end(0x9000, 16, Flags::NONE)], no_status),
        (
            vec![head(0x9000, 16, Flags::NEXT), end(0x9100, 1, Flags::NONE)],
            no_status,
        ),
        (
            vec![head(0x9000, 16, Flags::NEXT), end(0x9100, 0, Flags::WRITE)],
            no_status,
        ),
        // A header that is to be written, or missing, short, or nowhere.
        (
            vec![
                head(0x9000, 16, Flags::NEXT.and(Flags::WRITE)),
                end(0x9100, 1, Flags::NONE),
            ],
            mixed,
        ),
        (
            vec![end(0x9100, 17, Flags::WRITE)],
            "queue 0: a request's header is shorter than 16 bytes",
        ),
        (
            vec![head(0x9000, 15, Flags::NEXT), end(0x9100, 1, Flags::WRITE)],
            "queue 0: a request's header is shorter than 16 bytes",
        ),
        (
            vec![
                head(REGION_BYTES - 8, 16, Flags::NEXT),
                end(0x9100, 1, Flags::WRITE),
            ],
            "queue 0: a request's header is not in memory",
        ),
        (
            vec![
                head(0x9000, 16, Flags::NEXT),
                end(REGION_BYTES, 1, Flags::WRITE),
            ],
            "queue 0: a request's status byte is not in memory",
        ),
        (
            vec![
                head(0x9000, 16, Flags::NEXT),
                end(u64::MAX, 1, Flags::WRITE),
            ],
            "queue 0: a request's status byte is not in memory",
        ),
        (
            vec![
                head(0x9000, 16, Flags::NEXT),
                end(u64::MAX, u32::MAX - 16, Flags::WRITE),
            ],
            "queue 0: a request's status byte is not in memory",
        ),
        (
            vec![head(0x9000, 16, Flags::NEXT), head(0x9100, 1, Flags::NEXT)],
            loops,
        ),
    ] {
        let (mut driver, file) = writable(Flush::Durable);
        driver
            .memory
            .write_slice(&header(OUT, 0), GuestAddress(0x9000))
            .unwrap();
        driver.rings[0].offer_raw(0, &chain);
        assert_eq!(driver.run(0).unwrap_err().to_string(), error, "{chain:?}");
        assert!(driver.rings[0].take_used().is_none());
        assert_eq!(file_bytes(&file, 0, 4096), [0xaa; 4096]);
        // A reset brings it back.
        driver.reset();
        driver.activate(VERSION_1).unwrap();
        assert_eq!(send(&mut driver, IN, 0, &[Buffer::Writable(512)]).0, OK);
    }
}

#[test]
fn a_ring_that_ran_ahead_stops_the_device() {
    let (mut driver, _file) = writable(Flush::Durable);
    driver.rings[0].set_available_index(257);
    let error = driver.run(0).unwrap_err().to_string();
    assert_eq!(
        error,
        "queue 0: invalid available ring index (more descriptors to process than queue size)"
    );
}

#[test]
fn requests_before_a_broken_one_are_answered_and_told() {
    let (mut driver, _file) = writable(Flush::Durable);
    let read = [Buffer::Readable(&header(IN, 0)), Buffer::Writable(513)];
    driver.rings[0].offer(&read).unwrap();
    driver.rings[0].offer(&[Buffer::Writable(1)]).unwrap();
    driver.rings[0].offer(&read).unwrap();
    driver.run(0).unwrap_err();
    assert_eq!(driver.rings[0].take_used().unwrap().data[512], OK);
    assert!(driver.rings[0].take_used().is_none());
    assert_eq!(driver.take_interrupts(), 1);
}

#[test]
fn errors_of_the_host_are_io_errors() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(8192).unwrap();
    // Not opened for writing: every write fails.
    let disk = Disk::writable(File::open(file.path()).unwrap(), 8192, Flush::Durable).unwrap();
    let mut driver = start(disk, F_FLUSH);
    assert_eq!(
        send(&mut driver, OUT, 0, &[Buffer::Readable(&[1; 512])]).0,
        IOERR
    );
    assert_eq!(
        send(
            &mut driver,
            DISCARD,
            0,
            &[Buffer::Readable(&range(0, 1, 0))]
        )
        .0,
        IOERR
    );
    assert_eq!(send(&mut driver, IN, 0, &[Buffer::Writable(512)]).0, OK);
    // Cut short under the device.
    file.as_file().set_len(512).unwrap();
    assert_eq!(send(&mut driver, IN, 0, &[Buffer::Writable(512)]).0, OK);
    assert_eq!(send(&mut driver, IN, 0, &[Buffer::Writable(1024)]).0, IOERR);
}
