//! Which connections come about, and how ports are offered.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::super::device::TOKEN_LAST;
use super::super::{MAX_CONNECTIONS, MAX_OFFERED_PORTS};
use super::*;

/// A pair of `SOCK_SEQPACKET` sockets; std knows only the other two kinds.
#[allow(unsafe_code)] // socketpair(2)
fn seqpacket_pair() -> (OwnedFd, UnixDatagram) {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors that the call writes.
    let result =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()) };
    assert_eq!(result, 0);
    // SAFETY: the call just opened both, and nobody else has them.
    unsafe {
        (
            OwnedFd::from_raw_fd(fds[0]),
            UnixDatagram::from(OwnedFd::from_raw_fd(fds[1])),
        )
    }
}

fn send_offer(supervisor: &UnixDatagram, port: u32) -> UnixStream {
    let (ours, theirs) = offer();
    supervisor
        .send_with_fd(port.to_le_bytes().as_slice(), ours.as_raw_fd())
        .unwrap();
    theirs
}

fn is_refused(guest: &mut Guest, ports: Ports) -> bool {
    guest.send(ports, Operation::Request);
    let answer = guest.receive().unwrap();
    assert_eq!(
        (answer.header.src_port, answer.header.dst_port),
        (ports.host, ports.guest)
    );
    answer.operation() == Operation::Reset
}

fn is_closed(host: &mut UnixStream) -> bool {
    drain(host).1 == HostState::Ended
}

#[test]
fn a_request_to_an_offered_port_is_accepted() {
    let (ours, mut host) = offer();
    let mut guest = Guest::start(vec![(PORT, ours)], None);
    guest.send(PORTS, Operation::Request);
    let expected = Header {
        src_cid: 2,
        dst_cid: 3,
        src_port: PORT,
        dst_port: PORTS.guest,
        len: 0,
        kind: 1,
        operation: 2,
        flags: 0,
        buf_alloc: 256 << 10,
        fwd_cnt: 0,
    };
    assert_eq!(guest.receive().unwrap().header, expected);
    assert_eq!(guest.receive(), None);
    assert!(!is_closed(&mut host));
}

#[test]
fn what_the_host_wrote_before_the_request_follows_the_response() {
    let (ours, mut host) = offer();
    host.write_all(b"first").unwrap();
    let mut guest = Guest::start(vec![(PORT, ours)], None);
    guest.send(PORTS, Operation::Request);
    assert_eq!(guest.receive().unwrap().operation(), Operation::Response);
    assert_eq!(guest.receive().unwrap().payload, b"first");
}

#[test]
fn a_port_serves_one_connection() {
    let (mut guest, mut host) = Guest::connected();
    let other = Ports {
        guest: PORTS.guest + 1,
        ..PORTS
    };
    assert!(is_refused(&mut guest, other));
    guest.write(PORTS, b"still here");
    assert_eq!(drain(&mut host), (b"still here".to_vec(), HostState::Open));
}

#[test]
fn a_port_that_nobody_offered_is_refused() {
    let (ours, _host) = offer();
    let mut guest = Guest::start(vec![(PORT, ours)], None);
    for host in [0, PORT - 1, PORT + 1, u32::MAX] {
        assert!(is_refused(&mut guest, Ports { host, ..PORTS }));
    }
    assert!(!is_refused(&mut guest, PORTS));
}

#[test]
fn a_second_request_of_a_connection_ends_it() {
    let (mut guest, mut host) = Guest::connected();
    assert!(is_refused(&mut guest, PORTS));
    assert!(is_closed(&mut host));
    assert_eq!(guest.interest(), None);
}

#[test]
fn connections_are_limited_and_who_offered_one_too_many_is_told() {
    let count = u32::try_from(MAX_CONNECTIONS).unwrap();
    let (ports, mut hosts): (Vec<_>, Vec<_>) = (0..=count)
        .map(|port| {
            let (ours, theirs) = offer();
            ((port, ours), theirs)
        })
        .unzip();
    let mut guest = Guest::start(ports, None);
    let ports = |host| Ports { guest: 9, host };
    for port in 0..count {
        guest.connect(ports(port));
    }
    assert!(is_refused(&mut guest, ports(count)));
    assert!(is_closed(&mut hosts[MAX_CONNECTIONS]));
    guest.send(ports(5), Operation::Reset);
    assert!(is_closed(&mut hosts[5]));
    // There is room again, but not for what nobody offers any more.
    assert!(is_refused(&mut guest, ports(count)));
}

#[test]
fn ports_are_offered_while_the_device_runs() {
    let (ours, supervisor) = seqpacket_pair();
    let mut guest = Guest::start(Vec::new(), Some(ours));
    assert!(is_refused(&mut guest, PORTS));
    let mut host = send_offer(&supervisor, PORT);
    guest.settle();
    guest.connect(PORTS);
    guest.write(PORTS, b"hello");
    assert_eq!(drain(&mut host).0, b"hello");
}

#[test]
fn an_offer_that_the_event_loop_has_not_seen_yet_counts() {
    let (ours, supervisor) = seqpacket_pair();
    let mut guest = Guest::start(Vec::new(), Some(ours));
    let _host = send_offer(&supervisor, PORT);
    // The TX queue is served without a look at the sockets.
    let request = guest.header(PORTS, Operation::Request, 0).to_bytes();
    guest.driver.rings[TX].offer(&[Buffer::Readable(&request)]);
    guest.driver.kick(TX).unwrap();
    assert_eq!(guest.receive().unwrap().operation(), Operation::Response);
}

#[test]
fn a_malformed_offer_is_dropped_with_its_descriptors() {
    let (ours, supervisor) = seqpacket_pair();
    let mut guest = Guest::start(Vec::new(), Some(ours));
    let mut hosts = Vec::new();
    for bytes in [&b"\0\x04\0"[..], b"\0\x04\0\0\0", b"\0"] {
        let (ours, theirs) = offer();
        supervisor.send_with_fd(bytes, ours.as_raw_fd()).unwrap();
        hosts.push(theirs);
    }
    let ((one, first), (two, second)) = (offer(), offer());
    let port = PORT.to_le_bytes();
    supervisor
        .send_with_fds(&[port.as_slice()], &[one.as_raw_fd(), two.as_raw_fd()])
        .unwrap();
    hosts.extend([first, second]);
    let (three, third) = offer();
    let fds = [one.as_raw_fd(), two.as_raw_fd(), three.as_raw_fd()];
    supervisor.send_with_fds(&[port.as_slice()], &fds).unwrap();
    hosts.push(third);
    drop((one, two, three));
    supervisor.send(&port).unwrap();
    guest.settle();
    for host in &mut hosts {
        assert!(is_closed(host));
    }
    assert!(is_refused(&mut guest, PORTS));
    let _host = send_offer(&supervisor, PORT);
    assert!(!is_refused(&mut guest, PORTS));
}

#[test]
fn a_port_is_offered_once_at_a_time() {
    let (ours, supervisor) = seqpacket_pair();
    let mut guest = Guest::start(Vec::new(), Some(ours));
    let mut first = send_offer(&supervisor, PORT);
    let mut second = send_offer(&supervisor, PORT);
    guest.settle();
    assert!(!is_closed(&mut first));
    assert!(is_closed(&mut second));
    guest.connect(PORTS);
    let _third = send_offer(&supervisor, PORT);
    guest.connect(Ports {
        guest: PORTS.guest + 1,
        ..PORTS
    });
}

#[test]
fn offered_ports_are_limited() {
    let (ours, supervisor) = seqpacket_pair();
    let mut guest = Guest::start(Vec::new(), Some(ours));
    let count = u32::try_from(MAX_OFFERED_PORTS).unwrap();
    let mut hosts = Vec::new();
    for port in 0..=count {
        hosts.push(send_offer(&supervisor, port));
        guest.settle();
    }
    assert!(is_closed(&mut hosts[MAX_OFFERED_PORTS]));
    assert!(!is_closed(&mut hosts[MAX_OFFERED_PORTS - 1]));
    // Room again.
    guest.connect(Ports { guest: 1, host: 0 });
    let mut host = send_offer(&supervisor, count);
    guest.settle();
    assert!(!is_closed(&mut host));
}

#[test]
fn a_supervisor_that_is_gone_leaves_its_offers() {
    let (ours, supervisor) = seqpacket_pair();
    let mut guest = Guest::start(Vec::new(), Some(ours));
    assert_eq!(guest.interest(), Some(EventSet::IN));
    let _host = send_offer(&supervisor, PORT);
    drop(supervisor);
    guest.settle();
    assert_eq!(guest.interest(), None);
    guest.connect(PORTS);
}

#[test]
fn a_device_that_cannot_be_is_refused() {
    let said = |cid, ports: Vec<u32>| {
        let ports = ports.into_iter().map(|port| (port, offer().0)).collect();
        VsockDevice::new(cid, ports, None)
            .err()
            .unwrap()
            .to_string()
    };
    for cid in [0, 1, 2, u32::MAX] {
        assert_eq!(
            said(cid, vec![]),
            format!("vsock context id {cid}: reserved")
        );
    }
    assert_eq!(said(3, vec![7, 8, 7]), "vsock port 7: offered already");
    assert_eq!(
        said(3, (0..=256).collect()),
        "vsock port 256: 256 ports are offered already"
    );
}

#[test]
fn events_never_reach_another_connection() {
    let (ports, mut hosts): (Vec<_>, Vec<_>) = (0..3)
        .map(|port| {
            let (ours, theirs) = offer();
            ((port, ours), theirs)
        })
        .unzip();
    let mut guest = Guest::start(ports, None);
    let tokens = |guest: &Guest| -> Vec<u32> {
        let watched = guest.driver.watched();
        watched.iter().map(|(_, token, _)| *token).collect()
    };
    let ports = |host| Ports { guest: 9, host };
    guest.connect(ports(0));
    assert_eq!(tokens(&guest), [1]);
    // When the numbers are used up, those in use are left out.
    guest.driver.device.last_token = TOKEN_LAST;
    guest.connect(ports(1));
    assert_eq!(tokens(&guest), [1, 2]);
    // An event that was under way when its connection ended.
    guest.send(ports(0), Operation::Reset);
    guest.connect(ports(2));
    let late = EventSet::HANG_UP | EventSet::ERROR | EventSet::IN | EventSet::OUT;
    guest.driver.fd_ready(1, late).unwrap();
    assert_eq!(guest.receive(), None);
    guest.write(ports(2), b"x");
    assert_eq!(drain(&mut hosts[2]), (b"x".to_vec(), HostState::Open));
}

#[test]
fn the_configuration_space_is_the_guests_context_id() {
    let guest = Guest::start(Vec::new(), None);
    let mut bytes = [0xff; 12];
    guest.driver.config.read(0, &mut bytes);
    assert_eq!(bytes, [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}
