//! Requests from bytes: what is taken, and what is refused with what.

use super::*;
use crate::reply::Writer;

/// A request of this body, with its length right.
fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer
        .u32(u32::try_from(IN_HEADER_BYTES + body.len()).unwrap())
        .u32(opcode)
        .u64(77)
        .u64(5)
        .u32(1000)
        .u32(100)
        .u64(0)
        .bytes(body);
    writer.into_bytes()
}

fn refusal(bytes: &[u8]) -> Refused {
    parse(bytes, bytes.len()).unwrap_err()
}

#[test]
fn the_header_is_read() {
    let bytes = request(1, b"name\0");
    let (header, operation) = parse(&bytes, bytes.len()).unwrap();
    let wanted = Header {
        opcode: 1,
        unique: 77,
        node: 5,
        uid: 1000,
        gid: 100,
    };
    assert_eq!(header, wanted);
    assert_eq!(operation, Operation::Lookup(Name::check(b"name").unwrap()));
}

#[test]
fn names_that_lead_elsewhere_are_refused_wherever_they_stand() {
    let long = [b'x'; 256];
    let names: [(&[u8], Errno); 8] = [
        (b"..", Errno::INVAL),
        (b".", Errno::INVAL),
        (b"", Errno::INVAL),
        (b"a/b", Errno::INVAL),
        (b"../etc/passwd", Errno::INVAL),
        (b"/etc/passwd", Errno::INVAL),
        (b"a/", Errno::INVAL),
        (&long, Errno::NAMETOOLONG),
    ];
    for (name, errno) in names {
        let with = |fixed: usize, before: &[u8], after: &[u8]| {
            [&vec![0; fixed], before, name, b"\0", after].concat()
        };
        for (opcode, body) in [
            (1, with(0, b"", b"")),
            (6, with(0, b"", b"target\0")),
            (8, with(16, b"", b"")),
            (9, with(8, b"", b"")),
            (10, with(0, b"", b"")),
            (11, with(0, b"", b"")),
            (12, with(8, b"", b"new\0")),
            (12, with(8, b"old\0", b"")),
            (45, with(16, b"", b"new\0")),
            (45, with(16, b"old\0", b"")),
            (13, with(8, b"", b"")),
            (35, with(16, b"", b"")),
        ] {
            let refused = refusal(&request(opcode, &body));
            assert_eq!(refused.errno, errno, "{opcode} {name:?}");
            assert_eq!(refused.unique, Some(77));
        }
    }
}

#[test]
fn names_of_attributes_have_rules_of_their_own() {
    let long = [b'x'; 256];
    let names: [(&[u8], Option<Errno>); 5] = [
        (b"user.a/b", None),
        (b"..", None),
        (&long[..255], None),
        (b"", Some(Errno::RANGE)),
        (&long, Some(Errno::RANGE)),
    ];
    for (name, errno) in names {
        for (opcode, fixed) in [(21, 8), (22, 8), (24, 0)] {
            let body = [&vec![0; fixed], name, b"\0"].concat();
            let bytes = request(opcode, &body);
            let refused = parse(&bytes, bytes.len()).err().map(|it| it.errno);
            assert_eq!(refused, errno, "{opcode} {name:?}");
        }
    }
    assert_eq!(XattrName::check(b"a\0b"), Err(Errno::INVAL));
}

#[test]
fn what_is_cut_off_or_too_long_is_refused() {
    let bytes = request(1, b"name\0");
    for len in 0..IN_HEADER_BYTES {
        assert_eq!(refusal(&bytes[..len]).unique, None, "{len}");
    }
    for len in IN_HEADER_BYTES..bytes.len() {
        assert_eq!(refusal(&bytes[..len]).errno, Errno::INVAL, "{len}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert_eq!(refusal(&longer).errno, Errno::INVAL);
    // A name without its end.
    assert_eq!(refusal(&request(1, b"name")).errno, Errno::INVAL);
    // Fixed parts that are cut off.
    for opcode in [
        2, 3, 4, 8, 9, 12, 13, 14, 15, 16, 18, 20, 21, 22, 23, 26, 28, 35, 42, 43, 46, 47,
    ] {
        assert_eq!(
            refusal(&request(opcode, &[0; 3])).errno,
            Errno::INVAL,
            "{opcode}"
        );
    }
}

#[test]
fn a_write_is_as_long_as_it_says() {
    let mut body = Writer::new();
    body.u64(3)
        .u64(4096)
        .u32(5)
        .u32(1)
        .u64(0)
        .u32(0x400)
        .u32(0)
        .bytes(b"hello");
    let bytes = request(16, &body.into_bytes());
    // Only its front is looked at.
    let (_, operation) = parse(&bytes[..WRITE_DATA_OFFSET], bytes.len()).unwrap();
    let wanted = Operation::Write {
        handle: 3,
        offset: 4096,
        size: 5,
        write_flags: 1,
        flags: 0x400,
    };
    assert_eq!(operation, wanted);
    let mut longer = bytes.clone();
    longer[IN_HEADER_BYTES + 16] = 6;
    assert_eq!(refusal(&longer).errno, Errno::INVAL);
}

#[test]
fn counts_that_are_lies_are_refused() {
    let mut forget = Writer::new();
    forget.u32(u32::MAX).u32(0).bytes(&[0; 32]);
    assert_eq!(
        refusal(&request(42, &forget.into_bytes())).errno,
        Errno::INVAL
    );
    let mut set = Writer::new();
    set.u32(u32::MAX).u32(0).bytes(b"user.x\0value");
    assert_eq!(
        refusal(&request(21, &set.into_bytes())).errno,
        Errno::TOOBIG
    );
    let mut set = Writer::new();
    set.u32(6).u32(0).bytes(b"user.x\0value");
    assert_eq!(refusal(&request(21, &set.into_bytes())).errno, Errno::INVAL);
    let link = [b"name\0".to_vec(), vec![b'x'; 4096], vec![0]].concat();
    assert_eq!(refusal(&request(6, &link)).errno, Errno::NAMETOOLONG);
}

#[test]
fn unknown_requests_are_told_so() {
    // GETLK, SETLK, IOCTL, POLL, SETUPMAPPING, STATX, CUSE_INIT and what there is not.
    for opcode in [0, 7, 31, 32, 39, 40, 48, 52, 4096, u32::MAX] {
        assert_eq!(refusal(&request(opcode, &[0; 64])).errno, Errno::NOSYS);
    }
}
