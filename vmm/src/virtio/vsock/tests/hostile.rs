//! A guest that breaks every rule there is harms nobody but itself.

use super::super::packet::SHUTDOWN_BOTH;
use super::*;
use crate::virtio::mock::{Descriptor, Flags, HIGH_START, REGION_BYTES};

fn refused_with(guest: &mut Guest, header: Header) -> Option<Header> {
    guest.send_bytes(&[&header.to_bytes()]);
    let answer = guest.receive().map(|packet| packet.header);
    assert_eq!(guest.receive(), None);
    answer
}

#[test]
fn a_packet_of_no_connection_is_answered_with_a_reset_unless_it_is_one() {
    let mut guest = Guest::start(Vec::new(), None);
    for operation in [0, 1, 2, 4, 5, 6, 7, 8, 255, u16::MAX] {
        let mut header = guest.header(PORTS, Operation::Request, 0);
        header.operation = operation;
        let expected = Some(header.reset_reply());
        assert_eq!(refused_with(&mut guest, header), expected, "{operation}");
    }
    let header = guest.header(PORTS, Operation::Reset, 0);
    assert_eq!(refused_with(&mut guest, header), None);
}

#[test]
fn an_unknown_type_is_reset_and_connections_live_on() {
    let (mut guest, mut host) = Guest::connected();
    for kind in [0, 2, 3, u16::MAX] {
        for operation in [Operation::Request, Operation::ReadWrite, Operation::Reset] {
            let mut header = guest.header(PORTS, operation, 0);
            header.kind = kind;
            let expected = (operation != Operation::Reset).then(|| header.reset_reply());
            assert_eq!(refused_with(&mut guest, header), expected);
        }
    }
    guest.write(PORTS, b"alive");
    assert_eq!(drain(&mut host).0, b"alive");
}

#[test]
fn a_packet_between_others_is_dropped() {
    let (mut guest, mut host) = Guest::connected();
    for (src_cid, dst_cid) in [(2, 2), (3, 3), (4, 2), (3, 1), (0, 2), (3 | 1 << 32, 2)] {
        for operation in [Operation::Request, Operation::Reset, Operation::Shutdown] {
            let mut header = guest.header(PORTS, operation, 0);
            (header.src_cid, header.dst_cid, header.flags) = (src_cid, dst_cid, SHUTDOWN_BOTH);
            assert_eq!(refused_with(&mut guest, header), None);
        }
    }
    guest.write(PORTS, b"alive");
    assert_eq!(drain(&mut host).0, b"alive");
}

#[test]
fn what_only_the_host_may_send_or_nobody_ends_the_connection() {
    for operation in [0, 1, 2, 8, u16::MAX] {
        let (mut guest, mut host) = Guest::connected();
        let mut header = guest.header(PORTS, Operation::Response, 0);
        header.operation = operation;
        let expected = Some(header.reset_reply());
        assert_eq!(refused_with(&mut guest, header), expected);
        assert_eq!(drain(&mut host).1, HostState::Ended);
    }
}

#[test]
fn a_length_beyond_the_chain_ends_the_connection() {
    for len in [6, 7, 1 << 16, u32::MAX - 43, u32::MAX] {
        let (mut guest, mut host) = Guest::connected();
        let mut header = guest.header(PORTS, Operation::ReadWrite, 0);
        header.len = len;
        guest.send_bytes(&[&header.to_bytes(), b"12345"]);
        assert_eq!(guest.receive().unwrap().operation(), Operation::Reset);
        assert_eq!(drain(&mut host), (Vec::new(), HostState::Ended));
    }
}

#[test]
fn bytes_beyond_the_length_are_nobodys() {
    let (mut guest, mut host) = Guest::connected();
    let mut header = guest.header(PORTS, Operation::ReadWrite, 0);
    for len in [0, 1, 3] {
        header.len = len;
        guest.send_bytes(&[&header.to_bytes(), b"ab", b"cd"]);
    }
    assert_eq!(drain(&mut host), (b"aabc".to_vec(), HostState::Open));
    // A packet that carries no data may have some none the less.
    let mut header = guest.header(PORTS, Operation::CreditUpdate, 4);
    header.len = 4;
    guest.send_bytes(&[&header.to_bytes(), b"data"]);
    assert_eq!(drain(&mut host), (Vec::new(), HostState::Open));
}

/// What the device says of a raw chain on a queue.
fn said_of(queue: usize, descriptors: &[Descriptor]) -> String {
    let (ours, _host) = offer();
    let mut guest = Guest::prepare(vec![(PORT, ours)], None);
    guest.driver.activate(VERSION_1).unwrap();
    guest.refill = false;
    guest.driver.rings[queue].offer_raw(0, descriptors);
    // Something to send, so that the RX queue is looked at.
    let request = guest.header(PORTS, Operation::Request, 0).to_bytes();
    let other = if queue == TX { RX } else { TX };
    guest.driver.rings[other].offer(&[if other == TX {
        Buffer::Readable(&request)
    } else {
        Buffer::Writable(4096)
    }]);
    let outcome = guest.driver.run(TX);
    let error = outcome.expect_err("a chain that cannot be").to_string();
    // Whatever it was, a reset leaves the device usable.
    guest.driver.reset();
    guest.driver.activate(VERSION_1).unwrap();
    error
}

#[test]
fn a_broken_chain_stops_the_device() {
    let place = |address, len, flags| Descriptor {
        address,
        len,
        flags,
        next: 1,
    };
    let (none, next) = (Flags::NONE, Flags::NEXT);
    let top = HIGH_START + REGION_BYTES;
    for (queue, flags) in [(TX, Flags::NONE), (RX, Flags::WRITE)] {
        let other_way = if queue == TX { Flags::WRITE } else { none };
        let good = 0x10_0000;
        for (descriptors, reason) in [
            (
                vec![place(good, 43, flags)],
                "a packet is shorter than its header",
            ),
            (
                vec![place(good, 0, flags)],
                "a packet is shorter than its header",
            ),
            (
                vec![place(good, 100, other_way)],
                "a buffer of a packet faces the wrong way",
            ),
            (
                vec![place(good, 44, flags.and(next)), place(good, 10, other_way)],
                "a buffer of a packet faces the wrong way",
            ),
            (
                vec![place(REGION_BYTES, 100, flags)],
                "a buffer lies outside memory",
            ),
            (
                vec![place(REGION_BYTES - 44, 45, flags)],
                "a buffer lies outside memory",
            ),
            (
                vec![place(top - 10, 100, flags)],
                "a buffer lies outside memory",
            ),
            (
                vec![place(u64::MAX - 20, 100, flags)],
                "a buffer lies outside memory",
            ),
            (
                vec![place(good, u32::MAX, flags)],
                "a buffer lies outside memory",
            ),
            (
                vec![place(good, 44, flags.and(next)), place(top, 1, flags)],
                "a buffer lies outside memory",
            ),
            (
                vec![
                    place(good, 44, flags.and(next)),
                    place(good, 1, flags.and(next)),
                ],
                "a chain loops or leaves its descriptor table",
            ),
            (
                vec![Descriptor {
                    next: 128,
                    ..place(good, 44, flags.and(next))
                }],
                "a chain loops or leaves its descriptor table",
            ),
        ] {
            assert_eq!(
                said_of(queue, &descriptors),
                format!("queue {queue}: {reason}"),
                "{descriptors:?}"
            );
        }
    }
}

#[test]
fn an_endless_indirect_table_stops_the_device() {
    let mut guest = Guest::start(Vec::new(), None);
    let entry = Descriptor {
        address: 0x10_0000,
        len: 0,
        flags: Flags::NEXT,
        next: 0,
    };
    let (address, len) = guest.driver.rings[TX].place_table(&[entry; 1000]);
    let table = Descriptor {
        address,
        len,
        flags: Flags::INDIRECT,
        next: 0,
    };
    guest.driver.rings[TX].offer_raw(0, &[table]);
    assert_eq!(
        guest.driver.run(TX).unwrap_err().to_string(),
        "queue 1: a packet has too many buffers"
    );
}

#[test]
fn a_header_out_of_the_table_stops_the_device() {
    for head in [128, 129, u16::MAX] {
        let mut guest = Guest::start(Vec::new(), None);
        guest.driver.rings[TX].publish(head);
        assert!(guest.driver.run(TX).is_err());
    }
}

#[test]
fn an_rx_buffer_without_room_for_data_stops_the_device() {
    let (ours, mut host) = offer();
    let mut guest = Guest::prepare(vec![(PORT, ours)], None);
    guest.rx_chain = vec![44];
    guest.driver.activate(VERSION_1 | EVENT_IDX).unwrap();
    host.write_all(b"data").unwrap();
    guest.refill();
    let request = guest.header(PORTS, Operation::Request, 0).to_bytes();
    assert_eq!(
        guest.try_send_bytes(&[&request]).unwrap_err().to_string(),
        "queue 0: a buffer has no room for data"
    );
}

#[test]
fn a_ring_that_runs_ahead_or_is_missing_stops_the_device() {
    let mut guest = Guest::start(Vec::new(), None);
    guest.driver.rings[TX].set_available_index(129);
    let said = guest.driver.run(TX).unwrap_err().to_string();
    assert!(said.starts_with("queue 1: "), "{said}");
    for missing in [RX, TX] {
        let mut guest = Guest::prepare(Vec::new(), None);
        let said = guest
            .driver
            .activate_with(VERSION_1, |queue| queue != missing)
            .unwrap_err()
            .to_string();
        assert!(said.starts_with(&format!("queue {missing}: ")), "{said}");
    }
    // The event queue is of no use to us.
    let mut guest = Guest::prepare(Vec::new(), None);
    guest
        .driver
        .activate_with(VERSION_1, |queue| queue != 2)
        .unwrap();
}

#[test]
fn a_flood_of_requests_waits_for_room_for_the_answers() {
    let mut guest = Guest::prepare(Vec::new(), None);
    guest.refill = false;
    guest.driver.activate(VERSION_1 | EVENT_IDX).unwrap();
    let mut sent = 0;
    // Without RX buffers the device takes 64 packets and leaves the rest.
    for guest_port in 0..200 {
        let ports = Ports {
            guest: guest_port,
            host: PORT,
        };
        let packet = guest.header(ports, Operation::Request, 0).to_bytes();
        let before = guest.driver.rings[TX].available_index();
        if guest.driver.rings[TX]
            .offer(&[Buffer::Readable(&packet)])
            .is_none()
        {
            break;
        }
        guest.kick_if_wanted(TX, before).unwrap();
        guest.settle();
        sent += 1;
    }
    assert_eq!(sent, 64 + 128);
    assert_eq!(guest.driver.rings[TX].used_index(), 64);
    // A kick all the same, or many, change nothing.
    for _ in 0..10 {
        guest.driver.run(TX).unwrap();
    }
    assert_eq!(guest.driver.rings[TX].used_index(), 64);
    // One buffer, one answer, one packet more; then all of them, in order.
    guest.post(1).unwrap();
    guest.settle();
    assert_eq!(guest.driver.rings[TX].used_index(), 65);
    guest.refill = true;
    guest.settle();
    let ports: Vec<_> = guest
        .received
        .iter()
        .map(|packet| (packet.operation(), packet.header.dst_port))
        .collect();
    let expected: Vec<_> = (0..sent).map(|port| (Operation::Reset, port)).collect();
    assert_eq!(ports, expected);
}

#[test]
fn a_flood_on_a_connection_owes_one_answer() {
    let (ours, _host) = offer();
    let mut guest = Guest::prepare(vec![(PORT, ours)], None);
    guest.refill = false;
    guest.driver.activate(VERSION_1 | EVENT_IDX).unwrap();
    guest.send(PORTS, Operation::Request);
    for _ in 0..1000 {
        guest.send(PORTS, Operation::CreditRequest);
    }
    guest.refill = true;
    guest.settle();
    let operations: Vec<_> = guest.received.iter().map(Packet::operation).collect();
    assert_eq!(operations, [Operation::Response, Operation::CreditUpdate]);
}

#[test]
fn one_turn_has_an_end() {
    let mut guest = Guest::start(Vec::new(), None);
    let reset = guest.header(PORTS, Operation::Reset, 0).to_bytes();
    for _ in 0..128 {
        guest.driver.rings[TX].offer(&[Buffer::Readable(&reset)]);
    }
    guest.driver.kick(TX).unwrap();
    assert_eq!(guest.driver.rings[TX].used_index(), 128);
    assert_eq!(guest.driver.unfinished(), [TX]);
}

#[test]
fn one_turn_moves_so_many_bytes() {
    let (mut guest, host) = Guest::connected();
    drop(host);
    guest.settle();
    let len = 256 << 10;
    let header = guest.header(PORTS, Operation::ReadWrite, len).to_bytes();
    let ring = &mut guest.driver.rings[TX];
    let (header, data) = (ring.place(&header), ring.place(&vec![0; len]));
    for head in 0..32_u16 {
        ring.set_descriptor(
            2 * head,
            Descriptor {
                address: header,
                len: 44,
                flags: Flags::NEXT,
                next: 2 * head + 1,
            },
        );
        ring.set_descriptor(
            2 * head + 1,
            Descriptor {
                address: data,
                len: u32::try_from(len).unwrap(),
                ..Descriptor::default()
            },
        );
        ring.publish(2 * head);
    }
    let before = ring.used_index();
    guest.driver.kick(TX).unwrap();
    let served = guest.driver.rings[TX].used_index().wrapping_sub(before);
    assert_eq!((served, guest.driver.unfinished()), (16, vec![TX]));
    guest.settle();
    let served = guest.driver.rings[TX].used_index().wrapping_sub(before);
    assert_eq!(served, 32);
}

/// Any packets at all, on a few ports, with hosts that write, read and leave at any time.
#[test]
fn a_storm_of_packets_is_weathered() {
    let mut state = 0x1234_5678_9abc_def0_u64;
    let mut random = move |below: u64| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let (mut accepted, mut resets) = (0, 0);
    for _ in 0..40 {
        let (ports, mut hosts): (Vec<_>, Vec<_>) = (0..6)
            .map(|port| {
                let (ours, theirs) = offer();
                ((port, ours), Some(theirs))
            })
            .unzip();
        let mut guest = Guest::start(ports, None);
        for _ in 0..150 {
            let small = |value: u64| u32::try_from(value).unwrap();
            let ports = Ports {
                guest: small(random(2)),
                host: small(random(7)),
            };
            let data = vec![0; usize::try_from(random(3) * random(20_000)).unwrap()];
            let mut header = guest.header(ports, Operation::Reset, data.len());
            header.operation =
                u16::try_from([5, 5, 5, 1, 1, random(9)][usize::try_from(random(6)).unwrap()])
                    .unwrap();
            header.flags = small(random(5));
            header.fwd_cnt = small(random(1 << 32));
            if random(30) == 0 {
                header.kind = 2;
            }
            if random(30) == 0 {
                header.len = small(random(1 << 32));
            }
            guest.refill = random(5) != 0;
            if guest.driver.rings[TX]
                .offer(&[
                    Buffer::Readable(&header.to_bytes()),
                    Buffer::Readable(&data),
                ])
                .is_some()
            {
                guest.driver.run(TX).unwrap();
            }
            let host = &mut hosts[usize::try_from(random(6)).unwrap()];
            match (random(20), host.as_mut()) {
                (0, Some(_)) => *host = None,
                (1..6, Some(host)) => {
                    let mut buffer = [0; 9000];
                    let _ = host.read(&mut buffer);
                }
                (6..12, Some(host)) => {
                    let _ = host.write(&[1; 5000]);
                }
                _ => {}
            }
            guest.settle();
            for packet in guest.received.drain(..) {
                match packet.operation() {
                    Operation::Response => accepted += 1,
                    Operation::Reset => resets += 1,
                    _ => {}
                }
            }
        }
        guest.driver.reset();
        assert_eq!(guest.driver.watched(), []);
        for host in hosts.iter_mut().flatten() {
            // Connections are over; what was never asked for is still there.
            let _ = drain_any(host);
        }
    }
    assert!(accepted > 40 && resets > 400, "{accepted} {resets}");
}

/// As `drain`, where a reset counts as an end.
fn drain_any(host: &mut UnixStream) -> usize {
    let mut buffer = [0; 9000];
    let mut total = 0;
    while let Ok(count @ 1..) = host.read(&mut buffer) {
        total += count;
    }
    total
}

#[test]
fn packets_that_wait_for_room_go_on_whoever_made_it() {
    let (ours, _host) = offer();
    let mut guest = Guest::prepare(vec![(PORT, ours)], None);
    // Such a driver has one flag for all its kicks, and the device may set it as it likes.
    guest.driver.activate(VERSION_1).unwrap();
    guest.refill = false;
    guest.driver.rings[RX].offer(&[Buffer::Writable(LINUX_RX_BYTES)]);
    let request = guest.header(PORTS, Operation::Request, 0);
    guest.driver.rings[TX].offer(&[Buffer::Readable(&request.to_bytes())]);
    guest.driver.run(TX).unwrap();
    guest.collect();
    let (_, token, _) = guest.driver.watched()[0];
    let nobody = Ports {
        guest: 1,
        host: PORT,
    };
    let stray = guest.header(nobody, Operation::CreditUpdate, 0);
    for _ in 0..100 {
        guest.driver.rings[TX].offer(&[Buffer::Readable(&stray.to_bytes())]);
    }
    guest.driver.run(TX).unwrap();
    assert_eq!(guest.driver.rings[TX].used_index(), 65);
    for buffers in [10, 60] {
        // They come while the device wants no kick, and the host has something to say.
        for _ in 0..buffers {
            guest.driver.rings[RX].offer(&[Buffer::Writable(LINUX_RX_BYTES)]);
        }
        guest.driver.fd_ready(token, EventSet::IN).unwrap();
    }
    for queue in guest.driver.unfinished() {
        guest.driver.run(queue).unwrap();
    }
    assert_eq!(guest.driver.rings[TX].used_index(), 101);
}
