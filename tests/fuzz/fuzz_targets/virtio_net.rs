//! A guest's network card with a passt that sends frames of its own, and reads now and then. What
//! arrives at passt are whole frames, and none goes where no guest may.
#![no_main]

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;

use bulkhead_fuzz::{Input, play};
use libfuzzer_sys::fuzz_target;
use vmm::virtio::mock::{DirectDriver, VERSION_1};
use vmm::virtio::net::{Endpoint, GatewayAddresses, NetDevice};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GUEST: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);

/// A datagram of the host, which the guest may answer.
fn datagram(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(GATEWAY.octets());
    frame.extend(GUEST.octets());
    frame.extend([0x9c, 0x40, 0x14, 0xe9]);
    frame.resize(frame.len().max(bytes), 0x55);
    frame
}

/// Judges by other means than the device: destinations that are the host's alone.
fn check(frame: &[u8]) {
    assert!((14..=65535).contains(&frame.len()));
    // The rest of a frame that a reset cut off is zeros; its front is not.
    if frame[12..14] == [8, 0] {
        let destination = &frame[30..34];
        let closed = matches!(destination, [0 | 127 | 224..=255, ..] | [169, 254, ..]);
        assert!(!closed, "{destination:?}");
        assert_eq!(frame[26..30], GUEST.octets());
    } else if frame[12..14] == [0x86, 0xdd] {
        assert_ne!(frame[38..54], [0; 16]);
        assert!(frame[38..48] != [0; 10], "an address of the old forms");
    } else {
        assert_eq!(frame[12..14], [8, 6]);
    }
    assert_eq!(frame[6..12], MAC);
}

fuzz_target!(|bytes: &[u8]| {
    let (ours, mut passt) = UnixStream::pair().expect("a socket pair");
    ours.set_nonblocking(true).expect("set up a socket");
    passt.set_nonblocking(true).expect("set up a socket");
    let endpoint = Endpoint {
        mac: MAC,
        v4: GUEST,
        v4_prefix: 16,
        v6: Some("fd00::2".parse().expect("an address")),
        gateway: GatewayAddresses {
            v4: GATEWAY,
            v6: "fe80::1".parse().expect("an address"),
            dns: true,
        },
    };
    let mut driver = DirectDriver::new(|_| {
        NetDevice::new(endpoint, Some(ours.into())).expect("a descriptor for the card")
    });
    let mut arrived = Vec::new();
    let mut take = |passt: &mut UnixStream| {
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = passt.read(&mut buffer) {
            arrived.extend_from_slice(&buffer[..count]);
        }
        let mut rest = arrived.as_slice();
        while let Some((length, more)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).expect("64-bit host");
            let Some((frame, more)) = more.split_at_checked(length) else {
                break;
            };
            check(frame);
            rest = more;
        }
        let used = arrived.len() - rest.len();
        arrived.drain(..used);
    };
    play(&mut driver, &mut Input::new(bytes), |driver, what| {
        match what % 4 {
            0 => take(&mut passt),
            // Whole frames of any length, or something that is none.
            1 | 2 => {
                let frame = datagram(usize::from(what) * 300);
                let length = u32::try_from(frame.len()).expect("short");
                let _ = passt.write_all(&length.to_be_bytes());
                let _ = passt.write_all(&frame);
            }
            _ if what == 0xff => drop(passt.write(&[what; 16])),
            _ => {}
        }
        if driver.poll(0).is_err() {
            driver.reset();
            driver.activate(VERSION_1).expect("a card starts");
        }
    });
    take(&mut passt);
});
