//! How connections end: half, wholly, politely or not.

use super::super::credit::BUFFER_BYTES;
use super::super::packet::{SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::*;

/// More than the socket takes, so that some of it is in the backlog.
fn write_backlog(guest: &mut Guest) -> Vec<u8> {
    let mut data = Vec::new();
    while guest.interest() != Some(EventSet::IN | EventSet::OUT) {
        let part = pattern(65_536);
        guest.write(PORTS, &part);
        data.extend(part);
    }
    guest.received.clear();
    data
}

/// Reads on until the end of the stream.
fn read_to_end(guest: &mut Guest, host: &mut UnixStream) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let (part, state) = drain(host);
        data.extend(&part);
        if state == HostState::Ended {
            return data;
        }
        assert!(!part.is_empty(), "neither bytes nor an end");
        guest.settle();
    }
}

fn write_error(host: &mut UnixStream) -> Option<ErrorKind> {
    host.write(b"x").err().map(|error| error.kind())
}

#[test]
fn a_guest_that_sends_no_more_can_still_read() {
    let (mut guest, mut host) = Guest::connected();
    let data = write_backlog(&mut guest);
    guest.shut_down(SHUTDOWN_SEND);
    assert!(read_to_end(&mut guest, &mut host) == data);
    host.write_all(b"answer").unwrap();
    guest.settle();
    assert_eq!(guest.read(PORTS), b"answer");
    // The host ends its side, and both are done.
    drop(host);
    assert_eq!(
        guest.receive().unwrap().shutdown(),
        (Operation::Shutdown, SHUTDOWN_SEND)
    );
    assert_eq!(guest.interest(), None);
    guest.shut_down(SHUTDOWN_BOTH);
    assert_eq!(guest.receive().unwrap().operation(), Operation::Reset);
}

#[test]
fn an_end_without_a_backlog_is_told_at_once() {
    let (mut guest, mut host) = Guest::connected();
    guest.write(PORTS, b"bye");
    guest.shut_down(SHUTDOWN_SEND);
    assert_eq!(drain(&mut host), (b"bye".to_vec(), HostState::Ended));
    assert_eq!(guest.receive(), None);
}

#[test]
fn a_guest_that_reads_no_more_can_still_send() {
    let (mut guest, mut host) = Guest::connected();
    host.write_all(b"unread").unwrap();
    guest.settle();
    guest.shut_down(SHUTDOWN_RECEIVE);
    assert_eq!(write_error(&mut host), Some(ErrorKind::BrokenPipe));
    guest.write(PORTS, b"more");
    assert_eq!(drain(&mut host), (b"more".to_vec(), HostState::Open));
    assert_eq!(guest.interest(), Some(EventSet::empty()));
}

#[test]
fn shutdown_flags_add_up() {
    let (mut guest, mut host) = Guest::connected();
    guest.shut_down(0);
    guest.shut_down(SHUTDOWN_RECEIVE);
    guest.shut_down(0);
    guest.received.clear();
    guest.shut_down(SHUTDOWN_SEND);
    assert_eq!(guest.receive().unwrap().operation(), Operation::Reset);
    assert_eq!(drain(&mut host).1, HostState::Ended);
    assert_eq!(guest.interest(), None);
}

#[test]
fn a_host_that_sends_no_more_can_still_read() {
    let (mut guest, mut host) = Guest::connected();
    let data = pattern(20_000);
    host.write_all(&data).unwrap();
    host.shutdown(std::net::Shutdown::Write).unwrap();
    guest.settle();
    let end = guest.received.pop_back().unwrap();
    assert_eq!(end.shutdown(), (Operation::Shutdown, SHUTDOWN_SEND));
    assert!(guest.read(PORTS) == data);
    guest.write(PORTS, b"more");
    assert_eq!(drain(&mut host), (b"more".to_vec(), HostState::Open));
    // Only that the host goes away would be news.
    assert_eq!(guest.interest(), Some(EventSet::empty()));
    drop(host);
    assert_eq!(
        guest.receive().unwrap().shutdown(),
        (Operation::Shutdown, SHUTDOWN_BOTH)
    );
    assert_eq!(guest.interest(), None);
}

#[test]
fn a_host_that_closes_is_told_after_its_data() {
    let (mut guest, mut host) = Guest::connected();
    let data = pattern(20_000);
    host.write_all(&data).unwrap();
    drop(host);
    guest.settle();
    let end = guest.received.pop_back().unwrap();
    assert_eq!(end.shutdown(), (Operation::Shutdown, SHUTDOWN_BOTH));
    assert!(guest.read(PORTS) == data);
    assert_eq!(guest.interest(), None);
    // What is under way is counted, and does no harm.
    guest.write(PORTS, &pattern(70_000));
    assert_eq!(guest.receive(), None);
    guest.send(PORTS, Operation::CreditRequest);
    assert_eq!(guest.receive().unwrap().header.fwd_cnt, 70_000);
    // Linux confirms with a reset.
    guest.send(PORTS, Operation::Reset);
    guest.write(PORTS, b"x");
    assert_eq!(guest.receive().unwrap().operation(), Operation::Reset);
}

#[test]
fn a_host_that_closes_while_the_guest_has_no_room_is_noticed_once() {
    let (ours, mut host) = offer();
    let mut guest = Guest::start(vec![(PORT, ours)], None);
    guest.buf_alloc = 10;
    guest.connect(PORTS);
    host.write_all(b"more than ten bytes").unwrap();
    drop(host);
    guest.settle();
    assert_eq!(guest.read(PORTS), b"more than ");
    // `run` came to rest: the hang-up is not reported over and over.
    assert_eq!(guest.interest(), None);
    guest.send(PORTS, Operation::CreditUpdate);
    guest.settle();
    let end = guest.received.pop_back().unwrap();
    assert_eq!(end.shutdown(), (Operation::Shutdown, SHUTDOWN_BOTH));
    assert_eq!(guest.read(PORTS), b"ten bytes");
}

#[test]
fn a_host_that_closes_while_there_are_no_buffers_is_noticed_once() {
    let (ours, mut host) = offer();
    let mut guest = Guest::prepare(vec![(PORT, ours)], None);
    guest.refill = false;
    guest.driver.activate(VERSION_1 | EVENT_IDX).unwrap();
    guest.post(1).unwrap();
    guest.connect(PORTS);
    host.write_all(b"last words").unwrap();
    drop(host);
    assert_eq!(guest.receive(), None);
    assert_eq!(guest.interest(), None);
    guest.post(3).unwrap();
    guest.settle();
    assert_eq!(
        guest.received.pop_back().unwrap().shutdown(),
        (Operation::Shutdown, SHUTDOWN_BOTH)
    );
    assert_eq!(guest.read(PORTS), b"last words");
}

#[test]
fn a_host_that_closes_with_a_backlog_unread() {
    let (mut guest, host) = Guest::connected();
    let data = write_backlog(&mut guest);
    drop(host);
    guest.settle();
    let end = guest.received.pop_back().unwrap();
    assert_eq!(end.shutdown(), (Operation::Shutdown, SHUTDOWN_BOTH));
    assert_eq!(usize::try_from(end.header.fwd_cnt).unwrap(), data.len());
    assert_eq!(guest.interest(), None);
}

#[test]
fn a_host_that_reads_no_more_is_told_when_the_guest_writes() {
    let (mut guest, mut host) = Guest::connected();
    host.shutdown(std::net::Shutdown::Read).unwrap();
    guest.settle();
    guest.write(PORTS, b"into the void");
    assert_eq!(
        guest.receive().unwrap().shutdown(),
        (Operation::Shutdown, SHUTDOWN_RECEIVE)
    );
    host.write_all(b"still talking").unwrap();
    guest.settle();
    assert_eq!(guest.read(PORTS), b"still talking");
    drop(host);
    assert_eq!(
        guest.receive().unwrap().shutdown(),
        (Operation::Shutdown, SHUTDOWN_BOTH)
    );
}

#[test]
fn a_guest_that_closes_is_confirmed_and_its_data_goes_out() {
    let (mut guest, mut host) = Guest::connected();
    let data = write_backlog(&mut guest);
    guest.shut_down(SHUTDOWN_BOTH);
    assert_eq!(guest.receive().unwrap().operation(), Operation::Reset);
    assert_eq!(guest.interest(), Some(EventSet::OUT));
    assert_eq!(write_error(&mut host), Some(ErrorKind::BrokenPipe));
    // The pair of ports is free again, and what comes on it is another connection's.
    guest.write(PORTS, b"x");
    assert_eq!(guest.receive().unwrap().operation(), Operation::Reset);
    assert!(read_to_end(&mut guest, &mut host) == data);
    assert_eq!(guest.interest(), None);
}

#[test]
fn a_reset_after_the_end_of_sending_loses_nothing() {
    let (mut guest, mut host) = Guest::connected();
    let data = write_backlog(&mut guest);
    guest.shut_down(SHUTDOWN_SEND);
    guest.send(PORTS, Operation::Reset);
    assert_eq!(guest.receive(), None);
    assert!(read_to_end(&mut guest, &mut host) == data);
    assert_eq!(guest.interest(), None);
}

#[test]
fn a_host_that_goes_away_before_it_read_all_frees_the_connection() {
    let (mut guest, host) = Guest::connected();
    write_backlog(&mut guest);
    guest.shut_down(SHUTDOWN_BOTH);
    guest.settle();
    assert_eq!(guest.interest(), Some(EventSet::OUT));
    drop(host);
    guest.settle();
    assert_eq!(guest.interest(), None);
}

#[test]
fn a_reset_ends_a_connection_at_once() {
    let (mut guest, mut host) = Guest::connected();
    let sent = write_backlog(&mut guest).len();
    guest.send(PORTS, Operation::Reset);
    assert_eq!(guest.receive(), None);
    assert_eq!(guest.interest(), None);
    let (read, state) = drain(&mut host);
    assert_eq!(state, HostState::Ended);
    assert!(read.len() < sent);
}

#[test]
fn data_after_the_end_of_sending_is_against_the_rules() {
    for backlog in [true, false] {
        let (mut guest, mut host) = Guest::connected();
        if backlog {
            write_backlog(&mut guest);
        }
        guest.shut_down(SHUTDOWN_SEND);
        guest.write(PORTS, b"one more thing");
        assert_eq!(guest.receive().unwrap().operation(), Operation::Reset);
        let (read, state) = drain(&mut host);
        assert_eq!(state, HostState::Ended);
        assert!(!read.ends_with(b"one more thing"));
    }
}

#[test]
fn a_guest_that_never_confirms_keeps_its_connection_and_nothing_else() {
    let (mut guest, host) = Guest::connected();
    drop(host);
    guest.settle();
    for _ in 0..100 {
        guest.write(PORTS, &pattern(65_536));
    }
    guest.received.clear();
    assert_eq!(guest.interest(), None);
    guest.send(PORTS, Operation::CreditRequest);
    let said = guest.receive().unwrap().header;
    assert_eq!((said.buf_alloc, said.fwd_cnt), (BUFFER_BYTES, 100 * 65_536));
}

#[test]
fn a_reset_of_the_device_ends_connections_and_keeps_offers() {
    let ((one, mut connected), (two, mut draining), (three, mut offered)) =
        (offer(), offer(), offer());
    let mut guest = Guest::start(vec![(PORT + 1, two), (PORT, one), (PORT + 2, three)], None);
    let drained = Ports {
        guest: 1,
        host: PORT + 1,
    };
    guest.connect(drained);
    let mut header = guest.header(drained, Operation::Shutdown, 0);
    header.flags = SHUTDOWN_BOTH;
    for _ in 0..6 {
        guest.write(drained, &pattern(65_536));
    }
    guest.send_bytes(&[&header.to_bytes()]);
    guest.received.clear();
    guest.connect(PORTS);
    assert_eq!(guest.driver.watched().len(), 2);

    guest.driver.reset();
    assert_eq!(drain(&mut connected).1, HostState::Ended);
    assert_eq!(drain(&mut offered).1, HostState::Open);
    // What the guest sent is the host's to read, whatever becomes of the device.
    assert_eq!(guest.driver.watched().len(), 1);
    let mut read = 0;
    loop {
        let (part, state) = drain(&mut draining);
        read += part.len();
        if state == HostState::Ended {
            break;
        }
        guest.driver.poll(0).unwrap();
    }
    assert_eq!(read, 6 * 65_536);
    assert_eq!(guest.driver.watched(), []);

    guest.driver.activate(VERSION_1 | EVENT_IDX).unwrap();
    guest.refill();
    guest.send(PORTS, Operation::Request);
    assert_eq!(guest.receive().unwrap().operation(), Operation::Reset);
    guest.connect(Ports {
        guest: 1,
        host: PORT + 2,
    });
}
