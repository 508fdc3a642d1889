//! Bytes of a stream arrive, all of them, once and in order, however they are cut up.

use super::*;

/// Sends `data` in packets of these sizes, over and over, each cut into buffers at `cuts`;
/// returns what the host read meanwhile.
fn send_all(
    guest: &mut Guest,
    host: &mut UnixStream,
    data: &[u8],
    sizes: &[usize],
    cuts: &[usize],
) -> Vec<u8> {
    let mut read = Vec::new();
    let mut rest = data;
    for size in sizes.iter().cycle() {
        let (now, later) = rest.split_at((*size).min(rest.len()));
        if now.is_empty() {
            break;
        }
        let header = guest.header(PORTS, Operation::ReadWrite, now.len());
        let packet = [header.to_bytes().as_slice(), now].concat();
        let mut buffers = Vec::new();
        let mut left = packet.as_slice();
        for cut in cuts {
            let (front, back) = left.split_at((*cut).min(left.len()));
            buffers.push(front);
            left = back;
        }
        buffers.push(left);
        guest.send_bytes(&buffers);
        read.extend(drain(host).0);
        rest = later;
    }
    guest.settle();
    read.extend(drain(host).0);
    read
}

#[test]
fn the_host_reads_what_the_guest_wrote() {
    let (mut guest, mut host) = Guest::connected();
    let data = pattern(5_000_003);
    let sizes = [65_536, 1, 4096, 3, 60_001, 17];
    assert!(send_all(&mut guest, &mut host, &data, &sizes, &[44]) == data);
}

#[test]
fn a_packet_may_be_cut_anywhere() {
    let (mut guest, mut host) = Guest::connected();
    let data = pattern(300_001);
    let sizes = [1, 100, 9_999, 30_000];
    for cuts in [
        &[][..],
        &[1],
        &[43],
        &[45],
        &[0, 20, 0, 24, 0],
        &[10, 30, 5, 1, 1, 1, 500],
        &[1; 50],
    ] {
        assert!(
            send_all(&mut guest, &mut host, &data, &sizes, cuts) == data,
            "{cuts:?}"
        );
    }
}

#[test]
fn a_slow_host_gets_it_all_the_same() {
    let (mut guest, mut host) = Guest::connected();
    let data = pattern(3_000_000);
    let mut rest = data.as_slice();
    let mut read: Vec<u8> = Vec::new();
    // The guest sends for as long as it has credit, counting as the driver does.
    let (mut sent, mut fwd_cnt) = (0_u32, 0_u32);
    while read.len() < data.len() {
        loop {
            let free = LINUX_BUF_ALLOC - sent.wrapping_sub(fwd_cnt);
            let len = rest.len().min(50_000).min(usize::try_from(free).unwrap());
            if len == 0 {
                break;
            }
            let (now, later) = rest.split_at(len);
            guest.write(PORTS, now);
            sent += u32::try_from(len).unwrap();
            rest = later;
            for packet in guest.received.drain(..) {
                assert_eq!(packet.operation(), Operation::CreditUpdate);
                fwd_cnt = packet.header.fwd_cnt;
            }
        }
        let mut buffer = [0; 7001];
        let count = host.read(&mut buffer).unwrap();
        read.extend(&buffer[..count]);
        guest.settle();
        for packet in guest.received.drain(..) {
            assert_eq!(packet.operation(), Operation::CreditUpdate);
            fwd_cnt = packet.header.fwd_cnt;
        }
    }
    assert!(read == data);
    assert_eq!(guest.interest(), Some(EventSet::IN));
}

/// Lets the host write `data` and the guest read it; returns what it read.
fn receive_all(guest: &mut Guest, host: &mut UnixStream, data: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    let mut rest = data;
    while read.len() < data.len() {
        let before = (rest.len(), read.len());
        rest = &rest[fill(host, rest)..];
        guest.settle();
        read.extend(guest.read(PORTS));
        guest.send(PORTS, Operation::CreditUpdate);
        assert_ne!((rest.len(), read.len()), before, "nothing moves any more");
    }
    read
}

#[test]
fn the_guest_reads_what_the_host_wrote() {
    for chain in [
        &[LINUX_RX_BYTES][..],
        &[44, 4096],
        &[44, 65_536],
        &[45],
        &[1, 1, 42, 1, 0, 30],
        &[10, 20, 3000, 3000],
    ] {
        let (ours, mut host) = offer();
        let mut guest = Guest::prepare(vec![(PORT, ours)], None);
        guest.rx_chain = chain.to_vec();
        guest.driver.activate(VERSION_1 | EVENT_IDX).unwrap();
        guest.refill();
        guest.connect(PORTS);
        let small = chain.iter().sum::<u32>() < 1000;
        let data = pattern(if small { 20_011 } else { 2_000_011 });
        assert!(
            receive_all(&mut guest, &mut host, &data) == data,
            "{chain:?}"
        );
    }
}

#[test]
fn a_driver_without_event_indices_is_served_too() {
    let (ours, mut host) = offer();
    let mut guest = Guest::prepare(vec![(PORT, ours)], None);
    guest.driver.activate(VERSION_1).unwrap();
    // It always kicks: the flag that says not to is a hint.
    guest.driver.rings[RX].offer(&[Buffer::Writable(4096)]);
    guest.driver.run(RX).unwrap();
    let request = guest.header(PORTS, Operation::Request, 0).to_bytes();
    guest.driver.rings[TX].offer(&[Buffer::Readable(&request)]);
    guest.driver.run(TX).unwrap();
    guest.collect();
    // All RX buffers are gone, so that a kick is wanted.
    host.write_all(b"late").unwrap();
    guest.driver.poll(0).unwrap();
    assert!(!guest.driver.rings[RX].kicks_disabled());
    guest.driver.rings[RX].offer(&[Buffer::Writable(4096)]);
    guest.driver.run(RX).unwrap();
    guest.collect();
    assert_eq!(guest.received.len(), 2);
    assert_eq!(guest.received[1].payload, b"late");
}

#[test]
fn a_read_gives_back_the_buffers_it_did_not_fill() {
    let (mut guest, mut host) = Guest::connected();
    // A long read first, after which the device takes many buffers at once.
    let data = pattern(200_000);
    assert!(receive_all(&mut guest, &mut host, &data) == data);
    let before = guest.driver.rings[RX].used_index();
    for text in [&b"one"[..], b"two", b"three"] {
        host.write_all(text).unwrap();
        guest.settle();
        assert_eq!(guest.read(PORTS), text);
    }
    assert_eq!(guest.driver.rings[RX].used_index().wrapping_sub(before), 3);
}

#[test]
fn data_waits_for_buffers_and_the_event_loop_does_not() {
    let (ours, mut host) = offer();
    let mut guest = Guest::prepare(vec![(PORT, ours)], None);
    guest.refill = false;
    guest.driver.activate(VERSION_1 | EVENT_IDX).unwrap();
    guest.post(1).unwrap();
    guest.connect(PORTS);
    guest.driver.take_interrupts();
    let data = pattern(20_000);
    host.write_all(&data).unwrap();
    assert_eq!(guest.receive(), None);
    // Only a hang-up would be news.
    assert_eq!(guest.interest(), Some(EventSet::empty()));
    assert_eq!(guest.driver.take_interrupts(), 0);
    let mut read = Vec::new();
    for _ in 0..6 {
        guest.post(1).unwrap();
        guest.settle();
        read.extend(guest.read(PORTS));
    }
    assert!(read == data);
    assert_eq!(guest.interest(), Some(EventSet::IN));
}

#[test]
fn one_event_is_one_interrupt() {
    let (mut guest, mut host) = Guest::connected();
    let data = pattern(60_000);
    assert!(receive_all(&mut guest, &mut host, &data) == data);
    guest.driver.take_interrupts();
    // Enough for many packets, in one go.
    host.write_all(&data).unwrap();
    guest.driver.poll(0).unwrap();
    assert_eq!(guest.driver.take_interrupts(), 1);
    assert!(guest.collect() > 5);
}

#[test]
fn both_directions_at_once() {
    let (mut guest, mut host) = Guest::connected();
    let data = pattern(1_500_000);
    let (mut to_host, mut to_guest) = (data.as_slice(), data.as_slice());
    let (mut host_read, mut guest_read) = (Vec::new(), Vec::new());
    while host_read.len() < data.len() || guest_read.len() < data.len() {
        let before = (host_read.len(), guest_read.len());
        let (now, later) = to_host.split_at(to_host.len().min(30_011));
        if !now.is_empty() {
            guest.write(PORTS, now);
        }
        to_host = later;
        to_guest = &to_guest[fill(&mut host, to_guest)..];
        guest.settle();
        host_read.extend(drain(&mut host).0);
        guest_read.extend(guest.read(PORTS));
        guest.send(PORTS, Operation::CreditUpdate);
        assert_ne!(
            (host_read.len(), guest_read.len()),
            before,
            "nothing moves any more"
        );
    }
    assert!(host_read == data && guest_read == data);
}

#[test]
fn connections_take_turns() {
    let (ports, mut hosts): (Vec<_>, Vec<_>) = (0..3)
        .map(|port| {
            let (ours, theirs) = offer();
            ((port, ours), theirs)
        })
        .unzip();
    let mut guest = Guest::prepare(ports, None);
    guest.refill = false;
    guest.driver.activate(VERSION_1 | EVENT_IDX).unwrap();
    guest.post(3).unwrap();
    for host in 0..3 {
        guest.connect(Ports { guest: 1, host });
    }
    for host in &mut hosts {
        host.write_all(&pattern(50_000)).unwrap();
    }
    guest.settle();
    let mut served = Vec::new();
    for _ in 0..9 {
        guest.post(1).unwrap();
        guest.settle();
        served.extend(
            guest
                .received
                .drain(..)
                .map(|packet| packet.header.src_port),
        );
    }
    for port in 0..3 {
        assert_eq!(
            served.iter().filter(|from| **from == port).count(),
            3,
            "{served:?}"
        );
    }
}
