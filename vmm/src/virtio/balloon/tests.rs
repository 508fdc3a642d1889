//! The balloon driven by a mock driver.

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::Device;
use crate::virtio::mock::{
    Buffer, Descriptor, DirectDriver, Flags, HIGH_START, MmioDriver, REGION_BYTES, Register,
    VERSION_1,
};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const REPORTING: u64 = 1 << 5;

/// Far from the mock's rings and buffers.
const HIGH_PAGE: u32 = 1 << (32 - 12);
const _: () = assert!((HIGH_PAGE as u64) << 12 == HIGH_START);

fn start() -> (DirectDriver<BalloonDevice>, BalloonHandle) {
    let (device, handle) = BalloonDevice::new().unwrap();
    let mut driver = DirectDriver::new(|_| device);
    driver.activate(VERSION_1 | REPORTING).unwrap();
    (driver, handle)
}

fn list(pages: &[u32]) -> Vec<u8> {
    pages.iter().flat_map(|page| page.to_le_bytes()).collect()
}

fn fill_high(driver: &DirectDriver<BalloonDevice>) {
    let bytes = vec![7; usize::try_from(REGION_BYTES).unwrap()];
    driver
        .memory
        .write_slice(&bytes, GuestAddress(HIGH_START))
        .unwrap();
}

/// Numbers of the pages in high memory that hold nothing but zeros.
fn given_back(driver: &DirectDriver<BalloonDevice>) -> Vec<u32> {
    (HIGH_PAGE..HIGH_PAGE + 2048)
        .filter(|page| {
            let mut bytes = [0; 4096];
            driver
                .memory
                .read_slice(&mut bytes, GuestAddress(u64::from(*page) << 12))
                .unwrap();
            assert!(
                bytes == [0; 4096] || bytes == [7; 4096],
                "page {page} is half gone"
            );
            bytes == [0; 4096]
        })
        .collect()
}

#[test]
fn inflation_gives_exactly_the_named_pages_back() {
    let (mut driver, _handle) = start();
    fill_high(&driver);
    // Any order, neighbours and one twice.
    let pages = [5, 3, 4, 9, 2047, 4, 0].map(|page| HIGH_PAGE + page);
    let bytes = list(&pages);
    // A number may be cut in two.
    let parts = [Buffer::Readable(&bytes[..6]), Buffer::Readable(&bytes[6..])];
    driver.rings[INFLATE].offer(&parts).unwrap();
    driver.rings[INFLATE]
        .offer(&[Buffer::Readable(&[])])
        .unwrap();
    driver.run(INFLATE).unwrap();
    assert_eq!(
        given_back(&driver),
        [0, 3, 4, 5, 9, 2047].map(|page| HIGH_PAGE + page)
    );
    assert_eq!(driver.rings[INFLATE].take_used().unwrap().written, 0);
    assert_eq!(driver.rings[INFLATE].take_used().unwrap().written, 0);
    assert_eq!(driver.take_interrupts(), 1);
}

#[test]
fn deflation_changes_nothing() {
    let (mut driver, _handle) = start();
    fill_high(&driver);
    driver.rings[DEFLATE]
        .offer(&[Buffer::Readable(&list(&[HIGH_PAGE, u32::MAX]))])
        .unwrap();
    driver.run(DEFLATE).unwrap();
    assert!(driver.rings[DEFLATE].take_used().is_some());
    assert_eq!(given_back(&driver), [0; 0]);
}

#[test]
fn a_report_gives_its_blocks_back_at_linuxs_place_and_at_the_standards() {
    for queue in [2, 4] {
        let (mut driver, _handle) = start();
        fill_high(&driver);
        let block = |page: u64, len, next| Descriptor {
            address: HIGH_START + page * 4096,
            len,
            flags: if next == 0 {
                Flags::WRITE
            } else {
                Flags::WRITE.and(Flags::NEXT)
            },
            next,
        };
        // The last one holds one whole page only.
        let blocks = [block(0, 8192, 1), block(100, 4096, 2), block(200, 8191, 0)];
        driver.rings[queue].offer_raw(0, &blocks);
        driver.run(queue).unwrap();
        assert_eq!(
            given_back(&driver),
            [0, 1, 100, 200].map(|page| HIGH_PAGE + page)
        );
        assert_eq!(driver.rings[queue].take_used().unwrap().written, 0);
    }
}

#[test]
fn broken_lists_and_reports_stop_the_device_and_take_no_memory() {
    let too_many = vec![0; 1025 * 4];
    let low_end = u32::try_from(REGION_BYTES / 4096).unwrap();
    let lists = [
        (
            vec![1, 2, 3],
            "queue 0: a list of pages is no list of 32-bit numbers",
        ),
        (too_many, "queue 0: a list names more than 1024 pages"),
        (
            list(&[low_end]),
            "queue 0: a page of the balloon is not in memory",
        ),
        (
            list(&[HIGH_PAGE - 1]),
            "queue 0: a page of the balloon is not in memory",
        ),
        (
            list(&[HIGH_PAGE + 2048]),
            "queue 0: a page of the balloon is not in memory",
        ),
        (
            list(&[HIGH_PAGE + 2047, HIGH_PAGE + 2048]),
            "queue 0: a page of the balloon is not in memory",
        ),
        (
            list(&[u32::MAX]),
            "queue 0: a page of the balloon is not in memory",
        ),
    ];
    for (bytes, error) in lists {
        let (mut driver, _handle) = start();
        fill_high(&driver);
        driver.rings[INFLATE]
            .offer(&[Buffer::Readable(&bytes)])
            .unwrap();
        assert_eq!(driver.run(INFLATE).unwrap_err().to_string(), error);
        assert_eq!(given_back(&driver), [0; 0]);
        assert!(driver.rings[INFLATE].take_used().is_none());
    }
    let last = |address, len, flags| Descriptor {
        address,
        len,
        flags,
        next: 0,
    };
    let chains = [
        (
            0,
            last(HIGH_START, 4, Flags::WRITE),
            "queue 0: a list of pages is writable",
        ),
        (
            0,
            last(REGION_BYTES - 2, 4, Flags::NONE),
            "queue 0: a list of pages is not in memory",
        ),
        (
            2,
            last(HIGH_START, 4096, Flags::NONE),
            "queue 2: a report of free pages is not writable",
        ),
        (
            2,
            last(HIGH_START - 4096, 8192, Flags::WRITE),
            "queue 2: a free page is not in memory",
        ),
        (
            4,
            last(u64::MAX - 4095, 8192, Flags::WRITE),
            "queue 4: a free page is not in memory",
        ),
        (
            4,
            last(HIGH_START, u32::MAX, Flags::WRITE),
            "queue 4: a free page is not in memory",
        ),
        (
            2,
            last(HIGH_START, 4096, Flags::WRITE.and(Flags::NEXT)),
            "queue 2: a chain loops, leaves its descriptor table or exceeds 4 GiB",
        ),
        (
            3,
            last(HIGH_START, 4096, Flags::NONE),
            "queue 3: a queue of a feature not offered",
        ),
    ];
    for (queue, descriptor, error) in chains {
        let (mut driver, _handle) = start();
        fill_high(&driver);
        driver.rings[queue].offer_raw(0, &[descriptor]);
        assert_eq!(driver.run(queue).unwrap_err().to_string(), error);
        assert_eq!(given_back(&driver), [0; 0]);
    }
}

#[test]
fn the_target_is_told_by_the_configuration_space() {
    let (mut driver, handle) = start();
    let num_pages = |driver: &DirectDriver<BalloonDevice>| {
        let mut bytes = [0; 4];
        driver.config.read(0, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    assert_eq!(
        (
            num_pages(&driver),
            driver.take_interrupts(),
            driver.poll(0).unwrap()
        ),
        (0, 0, 0)
    );
    handle.set_target_mib(3);
    assert_eq!((handle.target_mib(), driver.poll(0).unwrap()), (3, 1));
    assert_eq!((num_pages(&driver), driver.interrupt_status()), (768, 2));
    assert_eq!(driver.take_interrupts(), 1);
    // The same again is no news; more than there is, is all there is.
    handle.set_target_mib(3);
    assert_eq!((driver.poll(0).unwrap(), driver.take_interrupts()), (1, 0));
    for mib in [17, 1 << 24, u32::MAX] {
        handle.set_target_mib(mib);
        driver.poll(0).unwrap();
        assert_eq!(num_pages(&driver), 4096, "{mib} MiB of 16");
    }
    assert_eq!(driver.poll(0).unwrap(), 0);
}

#[test]
fn a_target_set_between_drivers_reaches_the_next_one() {
    let (mut driver, handle) = start();
    driver.config.write_from_driver(4, &[1, 2, 3, 4]);
    driver.config.write_from_driver(0, &[9, 9, 9, 9]);
    let mut bytes = [0; 8];
    driver.config.read(0, &mut bytes);
    assert_eq!(
        bytes,
        [0, 0, 0, 0, 1, 2, 3, 4],
        "the driver writes `actual` alone"
    );
    driver.reset();
    assert_eq!(driver.watched(), []);
    handle.set_target_mib(1);
    driver.activate(VERSION_1).unwrap();
    driver.config.read(0, &mut bytes);
    assert_eq!(bytes, [0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(driver.interrupt_status(), 2);
}

#[test]
fn it_offers_what_it_does() {
    let (driver, _handle) = start();
    assert_eq!(driver.device.features(), DEFLATE_ON_OOM | REPORTING);
}

#[test]
fn a_target_comes_through_the_event_loop() {
    let (device, handle) = BalloonDevice::new().unwrap();
    let mut driver = MmioDriver::new(|_| Box::new(device));
    let features = driver.features();
    assert_eq!(driver.start(features), 15);
    for mib in [5_u32, 1, 0] {
        let generation = driver.read(Register::ConfigGeneration);
        handle.set_target_mib(mib);
        driver.run();
        assert_eq!(u32::from_le_bytes(driver.read_config(0)), mib * 256);
        assert_ne!(driver.read(Register::ConfigGeneration), generation);
        assert_eq!(
            (
                driver.read(Register::InterruptStatus),
                driver.take_interrupts()
            ),
            (2, 1)
        );
        driver.write(Register::InterruptAck, 2);
    }
    driver.write_config(4, &77_u32.to_le_bytes());
    assert_eq!(driver.read_config::<8>(0), [0, 0, 0, 0, 77, 0, 0, 0]);
}
