//! What goes out and what does not.

use super::*;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn passes(frame: &[u8]) -> bool {
    Filter::new(endpoint()).outgoing(frame) == Verdict::Pass
}

#[test]
fn the_world_is_open_and_the_hosts_own_is_not() {
    for open in [
        OUTSIDE,
        [10, 0, 2, 15],
        [192, 168, 1, 1],
        [172, 17, 0, 9],
        [100, 64, 0, 1],
    ] {
        assert!(passes(&v4(6, open, &tcp(SYN))), "{open:?}");
        assert!(passes(&v4(17, open, &udp(5, 6))), "{open:?}");
    }
    for closed in [
        [127, 0, 0, 1],
        [127, 255, 255, 254],
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [169, 254, 169, 254],
        [169, 254, 0, 1],
        [224, 0, 0, 251],
        [239, 255, 255, 250],
        [255, 255, 255, 255],
        [240, 0, 0, 1],
        [172, 17, 255, 255],
        [100, 100, 100, 200],
        [168, 63, 129, 16],
        [192, 0, 0, 192],
    ] {
        for frame in [
            v4(6, closed, &tcp(SYN)),
            v4(6, closed, &tcp(ACK)),
            v4(17, closed, &udp(5, 53)),
            v4(1, closed, &[8, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert!(!passes(&frame), "{closed:?}");
        }
    }
}

#[test]
fn ipv6_is_as_ipv4() {
    let own = "fd62::2";
    for open in ["2001:db8::1", "fd62::9", "fec0::3", "64:ff9b::c633:6407"] {
        assert!(passes(&v6(6, own, open, &tcp(SYN))), "{open}");
    }
    for closed in [
        "::1",
        "::",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:198.51.100.7",
        "::ffff:0:127.0.0.1",
        "::d00:0:0",
        "fe80::2",
        "fe80::1234",
        "febf::1",
        "ff02::1",
        "ff05::2",
        "fd00:ec2::254",
        "fd20:ce::254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
    ] {
        assert!(!passes(&v6(6, own, closed, &tcp(SYN))), "{closed}");
        assert!(!passes(&v6(6, own, closed, &tcp(ACK))), "{closed}");
        assert!(!passes(&v6(17, own, closed, &udp(1, 53))), "{closed}");
        assert!(!passes(&v6(58, own, closed, &[128, 0, 0, 0])), "{closed}");
    }
    let mut without = endpoint();
    without.v6 = None;
    let filter = Filter::new(without);
    let frame = v6(6, own, "2001:db8::1", &tcp(SYN));
    assert_eq!(filter.outgoing(&frame), Verdict::Drop);
}

#[test]
fn addresses_that_are_not_the_guests_own_do_not_go_out() {
    let change = |at: usize, frame: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at] ^= 1;
        passes(&frame)
    };
    let packet = v4(6, OUTSIDE, &tcp(SYN));
    assert!(!change(11, &packet), "Ethernet");
    assert!(!change(29, &packet), "IPv4");
    assert!(!change(14, &packet), "no header's length");
    assert!(!change(12, &packet), "another protocol");
    assert!(!passes(&v6(6, "fd62::3", "2001:db8::1", &tcp(SYN))));
    assert!(!passes(&v6(6, "::", "2001:db8::1", &tcp(SYN))));
    // The link-local address that the kernel makes of the Ethernet address.
    let own = "fe80::42:acff:fe11:2";
    assert_eq!(endpoint().link_local().to_string(), own);
    assert!(passes(&v6(6, own, "2001:db8::1", &tcp(SYN))));
}

#[test]
fn the_gateway_gets_answers_only() {
    let from_own = "fe80::42:acff:fe11:2";
    for (flags, want) in [
        (SYN, false),
        (SYN | 0x08, false),
        (SYN | ACK, true),
        (ACK, true),
        (0x04, true),
        (0x11, true),
        (0, true),
    ] {
        assert_eq!(passes(&v4(6, GATEWAY, &tcp(flags))), want, "{flags:#x}");
        assert_eq!(passes(&v6(6, from_own, "fe80::1", &tcp(flags))), want);
    }
    // No fragments, no options in IPv6, nothing cut off.
    for fragment in [[0x20, 0], [0, 1], [0x1f, 0xff]] {
        let mut frame = v4(6, GATEWAY, &tcp(ACK));
        frame[20..22].copy_from_slice(&fragment);
        assert!(!passes(&frame));
    }
    for next in [0, 43, 44, 60, 132] {
        assert!(!passes(&v6(next, from_own, "fe80::1", &tcp(ACK))), "{next}");
    }
    assert!(!passes(&v4(6, GATEWAY, &tcp(ACK)[..13])));
    assert!(!passes(&v4(132, GATEWAY, &tcp(ACK))));
    // IPv4 options move what is behind them.
    let mut frame = v4(6, GATEWAY, &[&[1; 4], &tcp(SYN)[..]].concat());
    frame[14] = 0x46;
    assert!(!passes(&frame));
    assert!(passes(&v4(1, GATEWAY, &[8, 0, 0, 0, 0, 0, 0, 0])), "ping");
}

#[test]
fn questions_of_names_go_to_the_gateway_where_passt_forwards_them() {
    let question = v4(17, GATEWAY, &udp(40_000, 53));
    assert!(passes(&question));
    assert!(!passes(&v4(17, GATEWAY, &udp(40_000, 54))));
    assert!(!passes(&v4(17, GATEWAY, &udp(53, 40_000))));
    assert!(!passes(&v6(17, "fd62::2", "fe80::1", &udp(40_000, 53))));
    let mut without = endpoint();
    without.gateway.dns = false;
    assert_eq!(Filter::new(without).outgoing(&question), Verdict::Drop);
}

/// As it comes from the other side.
fn turned(mut frame: Vec<u8>) -> Vec<u8> {
    let (from, to) = (GATEWAY, GUEST);
    if frame[12..14] == [8, 0] {
        frame[26..30].copy_from_slice(&from);
        frame[30..34].copy_from_slice(&to);
    }
    frame
}

#[test]
fn a_datagram_of_the_host_may_be_answered() {
    let mut filter = Filter::new(endpoint());
    let answer = v4(17, GATEWAY, &udp(5353, 40_000));
    assert_eq!(filter.outgoing(&answer), Verdict::Drop);
    filter.incoming(&turned(v4(17, GUEST, &udp(40_000, 5353))));
    assert_eq!(filter.outgoing(&answer), Verdict::Pass);
    for (from, to) in [(5353, 40_001), (5354, 40_000)] {
        let other = v4(17, GATEWAY, &udp(from, to));
        assert_eq!(filter.outgoing(&other), Verdict::Drop);
    }
    let v6_answer = v6(17, "fd62::2", "fe80::1", &udp(5353, 40_000));
    assert_eq!(filter.outgoing(&v6_answer), Verdict::Drop);
    filter.incoming(&v6(
        17,
        "fe80::1",
        "fe80::42:acff:fe11:2",
        &udp(40_000, 5353),
    ));
    assert_eq!(filter.outgoing(&v6_answer), Verdict::Pass);
    // What comes from elsewhere opens nothing.
    let mut filter = Filter::new(endpoint());
    filter.incoming(&v4(17, GUEST, &udp(40_000, 5353)));
    assert_eq!(filter.outgoing(&answer), Verdict::Drop);
    // And what is long ago is forgotten.
    let mut filter = Filter::new(endpoint());
    for port in 0..=256 {
        filter.incoming(&turned(v4(17, GUEST, &udp(40_000 + port, 5353))));
    }
    assert_eq!(filter.outgoing(&answer), Verdict::Drop);
    let newest = v4(17, GATEWAY, &udp(5353, 40_256));
    assert_eq!(filter.outgoing(&newest), Verdict::Pass);
}

#[test]
fn the_link_itself_works() {
    let mut question = ethernet(0x0806);
    question.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(MAC);
    question.extend(GUEST);
    question.extend([0; 6]);
    question.extend(GATEWAY);
    assert!(passes(&question));
    let mut probe = question.clone();
    probe[28..32].fill(0);
    assert!(passes(&probe));
    for at in [15, 22, 31] {
        let mut wrong = question.clone();
        wrong[at] ^= 1;
        assert!(!passes(&wrong), "{at}");
    }
    assert!(!passes(&question[..30]));
    for (to, want) in [
        ("ff02::1:ff00:1", true),
        ("fe80::1", true),
        ("fe80::9", false),
    ] {
        for kind in [135, 136] {
            let frame = v6(58, "fe80::42:acff:fe11:2", to, &[kind, 0, 0, 0]);
            assert_eq!(passes(&frame), want, "{to}");
        }
    }
    // Router solicitation, an echo to all nodes, membership reports: nobody is there for them.
    for (next, kind) in [(58, 133), (58, 128), (0, 58)] {
        assert!(!passes(&v6(
            next,
            "fe80::42:acff:fe11:2",
            "ff02::1",
            &[kind, 0, 0, 0]
        )));
    }
}

#[test]
fn no_front_of_any_frame_is_too_short_to_be_judged() {
    let whole = v4(6, OUTSIDE, &tcp(SYN));
    for len in 0..34 {
        assert!(!passes(&whole[..len]), "{len}");
    }
    let whole = v6(6, "fd62::2", "2001:db8::1", &tcp(SYN));
    for len in 0..54 {
        assert!(!passes(&whole[..len]), "{len}");
    }
}
