//! Neither end sends what the other has no room for, and a guest that lies gains nothing.

use super::super::credit::BUFFER_BYTES;
use super::*;

/// Bytes of payload among the packets received, and which other operations there were.
fn tally(guest: &mut Guest) -> (usize, Vec<Operation>) {
    guest.settle();
    let mut bytes = 0;
    let mut others = Vec::new();
    for packet in guest.received.drain(..) {
        bytes += packet.payload.len();
        if packet.operation() != Operation::ReadWrite {
            others.push(packet.operation());
        }
    }
    (bytes, others)
}

/// A connection whose guest has this much room, and a host that wrote more.
fn short_of_room(buf_alloc: u32) -> (Guest, UnixStream) {
    let (ours, mut host) = offer();
    let mut guest = Guest::start(vec![(PORT, ours)], None);
    guest.buf_alloc = buf_alloc;
    guest.connect(PORTS);
    fill(&mut host, &pattern(100_000));
    (guest, host)
}

#[test]
fn the_device_sends_no_more_than_the_guest_has_room_for() {
    let (mut guest, _host) = short_of_room(10_001);
    assert_eq!(tally(&mut guest), (10_001, vec![Operation::CreditRequest]));
    assert_eq!(guest.interest(), Some(EventSet::empty()));
    // An answer without news changes nothing, and is not asked for again.
    guest.send(PORTS, Operation::CreditUpdate);
    assert_eq!(tally(&mut guest), (0, vec![]));
    guest.fwd_cnt = 4_000;
    guest.send(PORTS, Operation::CreditUpdate);
    assert_eq!(tally(&mut guest), (4_000, vec![Operation::CreditRequest]));
    // Any packet tells of room.
    guest.fwd_cnt = 14_001;
    guest.write(PORTS, b"x");
    assert_eq!(tally(&mut guest), (10_001, vec![Operation::CreditRequest]));
}

#[test]
fn a_guest_without_room_gets_nothing() {
    let (mut guest, _host) = short_of_room(0);
    assert_eq!(tally(&mut guest), (0, vec![Operation::CreditRequest]));
    assert_eq!(guest.interest(), Some(EventSet::empty()));
}

#[test]
fn a_guest_that_lies_about_its_room_gains_nothing() {
    let (mut guest, _host) = short_of_room(5_000);
    assert_eq!(tally(&mut guest).0, 5_000);
    guest.fwd_cnt = 3_000;
    guest.send(PORTS, Operation::CreditUpdate);
    assert_eq!(tally(&mut guest).0, 3_000);
    // Backwards, more than was ever sent, and far round the circle.
    for lie in [0, 2_999, 8_001, 1 << 31, u32::MAX] {
        guest.fwd_cnt = lie;
        guest.send(PORTS, Operation::CreditUpdate);
        assert_eq!(tally(&mut guest), (0, vec![]), "fwd_cnt {lie}");
    }
    guest.fwd_cnt = 3_000;
    guest.buf_alloc = 1;
    guest.send(PORTS, Operation::CreditUpdate);
    assert_eq!(tally(&mut guest), (0, vec![]));
    // The truth still counts.
    guest.buf_alloc = 5_000;
    guest.fwd_cnt = 8_000;
    guest.send(PORTS, Operation::CreditUpdate);
    assert_eq!(tally(&mut guest).0, 5_000);
}

#[test]
fn a_guest_that_claims_boundless_room_gets_what_it_has_buffers_for() {
    let (ours, mut host) = offer();
    let mut guest = Guest::start(vec![(PORT, ours)], None);
    guest.buf_alloc = u32::MAX;
    guest.connect(PORTS);
    guest.refill = false;
    let mut rest = pattern(2_000_000);
    loop {
        let written = fill(&mut host, &rest);
        rest.drain(..written);
        if written == 0 {
            break;
        }
        guest.settle();
    }
    // The queue's buffers, most of them full; the device itself holds nothing.
    let ring = &guest.driver.rings[RX];
    assert_eq!(ring.used_index(), ring.available_index());
    let (bytes, others) = tally(&mut guest);
    assert_eq!(others, []);
    assert!((100 * 3732..=128 * 3732).contains(&bytes), "{bytes}");
    assert_eq!(guest.driver.watched().len(), 1);
}

#[test]
fn a_credit_request_is_answered() {
    let (mut guest, mut host) = Guest::connected();
    guest.write(PORTS, b"12345");
    drain(&mut host);
    guest.send(PORTS, Operation::CreditRequest);
    let answer = guest.receive().unwrap();
    assert_eq!(answer.operation(), Operation::CreditUpdate);
    assert_eq!(
        (answer.header.buf_alloc, answer.header.fwd_cnt),
        (BUFFER_BYTES, 5)
    );
    assert_eq!(guest.receive(), None);
}

#[test]
fn the_guest_hears_of_room_when_a_quarter_is_free_again() {
    let (mut guest, mut host) = Guest::connected();
    for count in 1..=12 {
        guest.write(PORTS, &pattern(16_384));
        drain(&mut host);
        let updates: Vec<_> = guest.received.drain(..).collect();
        if count % 4 == 0 {
            assert_eq!(updates.len(), 1, "after {count}");
            assert_eq!(updates[0].operation(), Operation::CreditUpdate);
            assert_eq!(updates[0].header.fwd_cnt, count * 16_384);
        } else {
            assert_eq!(updates, [], "after {count}");
        }
    }
}

#[test]
fn data_tells_of_room_as_well() {
    let (mut guest, mut host) = Guest::connected();
    guest.write(PORTS, &pattern(60_000));
    drain(&mut host);
    host.write_all(b"x").unwrap();
    assert_eq!(guest.receive().unwrap().header.fwd_cnt, 60_000);
    guest.write(PORTS, &pattern(60_000));
    assert_eq!(guest.receive(), None);
}

/// Sends until neither the socket nor the backlog has room; returns the bytes.
fn stuff(guest: &mut Guest) -> usize {
    let mut sent = 0;
    let mut free = usize::try_from(BUFFER_BYTES).unwrap();
    while free > 0 {
        let len = free.min(10_000);
        guest.write(PORTS, &pattern(len));
        sent += len;
        guest.send(PORTS, Operation::CreditRequest);
        let said = guest.received.drain(..).next_back().unwrap().header;
        assert_eq!(said.buf_alloc, BUFFER_BYTES);
        let held = sent - usize::try_from(said.fwd_cnt).unwrap();
        free = usize::try_from(BUFFER_BYTES).unwrap() - held;
    }
    sent
}

#[test]
fn a_guest_may_use_all_its_credit_while_the_host_sleeps() {
    let (mut guest, mut host) = Guest::connected();
    let sent = stuff(&mut guest);
    assert_eq!(guest.interest(), Some(EventSet::IN | EventSet::OUT));
    let mut read = 0;
    while read < sent {
        read += drain(&mut host).0.len();
        guest.settle();
    }
    let last = guest.received.pop_back().unwrap();
    assert_eq!(last.operation(), Operation::CreditUpdate);
    assert!(sent - usize::try_from(last.header.fwd_cnt).unwrap() < 65_536);
    assert_eq!(guest.interest(), Some(EventSet::IN));
}

#[test]
fn a_guest_that_sends_beyond_its_credit_is_reset() {
    let (mut guest, mut host) = Guest::connected();
    let sent = stuff(&mut guest);
    guest.write(PORTS, b"x");
    assert_eq!(guest.receive().unwrap().operation(), Operation::Reset);
    assert_eq!(guest.interest(), None);
    // The host gets what the socket held, and the end.
    let (read, state) = drain(&mut host);
    assert_eq!(read.len(), sent - usize::try_from(BUFFER_BYTES).unwrap());
    assert_eq!(state, HostState::Ended);
    // The connection is no more.
    guest.write(PORTS, b"y");
    assert_eq!(guest.receive().unwrap().operation(), Operation::Reset);
}

#[test]
fn a_packet_longer_than_the_whole_credit_is_refused() {
    let (mut guest, mut host) = Guest::connected();
    let data = pattern(usize::try_from(BUFFER_BYTES).unwrap());
    guest.write(PORTS, &data);
    let mut read = drain(&mut host).0;
    guest.settle();
    read.extend(drain(&mut host).0);
    assert!(read == data);
    guest.received.clear();
    guest.write(PORTS, &[data, vec![0]].concat());
    assert_eq!(guest.receive().unwrap().operation(), Operation::Reset);
}
