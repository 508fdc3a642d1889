//! Directories, metadata, names, attributes.

use super::tarball::Header;
use super::*;

#[test]
fn directories_that_no_entry_describes_are_marked() {
    let image = image(
        Tar::new()
            .file("a/b/c", b"")
            .dir("a/b")
            .dir("x/y/z")
            // Gone again, and so not counted.
            .file("gone/by/file", b"")
            .file("gone", b""),
    );
    for (path, implied) in [
        ("/", true),
        ("/a", true),
        ("/a/b", false),
        ("/x", true),
        ("/x/y", true),
        ("/x/y/z", false),
    ] {
        assert_eq!(image.is_implied(path), implied, "{path}");
    }
    assert_eq!(image.implied_count(), Some("4"));
    let implied = image.get("/x/y");
    assert_eq!(
        (implied.mode, implied.uid, implied.mtime),
        (0o040_755, 0, (0, 0))
    );
}

#[test]
fn the_root_is_described_by_any_of_its_names() {
    for name in ["./", "/", ".", "", "a/.."] {
        let mut header = Header::new(b'5', name);
        header.mode = 0o1711;
        header.gid = 8;
        let image = image(Tar::new().header(&header, b""));
        let root = image.get("/");
        assert_eq!((root.mode, root.gid), (0o041_711, 8), "{name:?}");
        assert_eq!(image.implied_count(), None);
        assert_ne!(root.nid, 0);
        assert!(refused(Tar::new().file(name, b"x")).contains("the root is no directory"));
    }
}

#[test]
fn later_entries_win() {
    let image = image(
        Tar::new()
            .file("a", b"1")
            .dir("a/")
            .file("a/b", b"2")
            .file("a", b"3")
            .dir("d/")
            .file("d/keep", b"k")
            .header(
                &Header {
                    mode: 0o700,
                    uid: 7,
                    mtime: 9,
                    ..Header::new(b'5', "d/")
                },
                b"",
            )
            .file("f", b"1")
            .link(b'2', "f", "a")
            .link(b'2', "l", "a")
            .dir("l"),
    );
    assert_eq!(image.data("/a"), b"3");
    assert!(!image.has("/a/b"));
    assert_eq!(image.data("/d/keep"), b"k");
    let d = image.get("/d");
    assert_eq!((d.mode, d.uid, d.mtime), (0o040_700, 7, (9, 0)));
    assert_eq!(image.get("/f").mode, 0o120_777);
    assert_eq!(image.get("/l").mode, 0o040_755);
    assert!(!image.is_opaque("/a") && !image.is_opaque("/l"));
}

#[test]
fn an_entry_below_what_is_no_directory_is_refused() {
    let fifo = || Tar::new().header(&Header::new(b'6', "f"), b"");
    for tar in [
        Tar::new().file("f", b"x").file("f/below", b"y"),
        fifo().file("f/below/deeper", b"y"),
        fifo().link(b'2', "l", "f").file("l/below", b"y"),
    ] {
        let error = refused(tar);
        assert!(
            error.contains("f is no directory, and an entry lies below it"),
            "{error}"
        );
    }
}

#[test]
fn metadata_is_exact() {
    let image = image(
        Tar::new()
            .pax(&[
                ("mtime", b"-1.25"),
                ("uid", b"4294967294"),
                ("gid", b"70000"),
            ])
            .header(
                &Header {
                    mode: 0o4755,
                    ..Header::new(b'0', "pax")
                },
                b"x",
            )
            .pax(&[("mtime", b"253402300799.999999999"), ("uid", b"4294967295")])
            .header(
                &Header {
                    mode: 0o6111,
                    gid: 5,
                    ..Header::new(b'0', "far")
                },
                b"",
            )
            // 2^31 as owner and -7 as time, in base 256; bits of the type in the mode.
            .header(
                &Header::new(b'0', "base-256")
                    .patch(100, "0100600\0")
                    .patch(108, b"\x80\0\0\0\x80\0\0\0")
                    .patch(136, [0xff; 12])
                    .patch(147, [0xf9]),
                b"",
            )
            .header(
                &Header {
                    mode: 0o1777,
                    ..Header::new(b'5', "sticky")
                },
                b"",
            )
            .header(
                &Header {
                    device: (4000, 1_000_000),
                    ..Header::new(b'3', "odd")
                },
                b"",
            )
            .header(
                &Header {
                    device: (259, 70_000),
                    ..Header::new(b'4', "disk")
                },
                b"",
            ),
    );
    let pax = image.get("/pax");
    assert_eq!(pax.mode, 0o104_755);
    assert_eq!((pax.uid, pax.gid), (4_294_967_294, 70_000));
    assert_eq!(pax.mtime, (-2, 750_000_000));
    let far = image.get("/far");
    assert_eq!(far.mode, 0o106_111);
    // To chown(2), the largest number means: leave it.
    assert_eq!((far.uid, far.gid), (0, 5));
    assert_eq!(far.mtime, (253_402_300_799, 999_999_999));
    let base = image.get("/base-256");
    assert_eq!(
        (base.mode, base.uid, base.mtime),
        (0o100_600, 1 << 31, (-7, 0))
    );
    assert_eq!(image.get("/sticky").mode, 0o041_777);
    assert_eq!(image.get("/odd").union, 0xf42f_a040);
    assert_eq!(image.get("/disk").union, 0x1111_0370);
}

#[test]
fn numbers_out_of_range_are_refused() {
    let file = || Header::new(b'0', "f");
    let device = |device| Header {
        device,
        ..Header::new(b'4', "f")
    };
    for (header, want) in [
        (file().patch(108, [0xff; 8]), "its uid -1 is out of range"),
        (
            file().patch(116, b"\x80\0\0\x01\0\0\0\0"),
            "its gid 4294967296 is out of range",
        ),
        (file().patch(124, [0xff; 12]), "its size is no number"),
        (file().patch(136, b"12x"), "its mtime is no number"),
        (file().patch(100, b"rw-r--r"), "its mode is no number"),
        (device((4096, 0)), "a device 4096:0"),
        (device((0, 1 << 20)), "a device 0:1048576"),
        (device((0, 0)).patch(329, [0xff; 8]), "its device major -1"),
    ] {
        let error = refused(Tar::new().header(&header, b""));
        assert!(error.contains(want), "{error:?} has no {want:?}");
    }
    for (record, want) in [
        (("uid", "-1"), "its uid -1 is out of range"),
        (("gid", "4294967296"), "its gid 4294967296 is out of range"),
        (("uid", "99999999999999999999"), "its record uid is damaged"),
        (("mtime", "NaN"), "its record mtime is damaged"),
    ] {
        let tar = Tar::new().pax(&[(record.0, record.1.as_bytes())]);
        let error = refused(tar.file("f", b""));
        assert!(error.contains(want), "{error:?} has no {want:?}");
    }
}

#[test]
fn the_short_form_of_inodes_is_used_where_it_is_exact() {
    let old = Header {
        mtime: 5,
        ..Header::new(b'0', "old")
    };
    let owned = Header {
        uid: 65_536,
        ..Header::new(b'0', "owned")
    };
    let image = image(
        Tar::new()
            .dir("./")
            .file("a", b"1")
            .file("b", b"2")
            .dir("d")
            .link(b'2', "l", "a")
            .header(&old, b"")
            .header(&owned, b""),
    );
    for path in ["/", "/a", "/b", "/d", "/l"] {
        assert!(image.get(path).compact, "{path}");
        assert_eq!(image.get(path).mtime, (1_000_000_000, 0));
    }
    assert!(!image.get("/old").compact && !image.get("/owned").compact);
    assert_eq!(image.get("/old").mtime, (5, 0));
    assert_eq!(image.get("/owned").uid, 65_536);
}

#[test]
fn directories_larger_than_a_block_are_sorted() {
    let mut tar = Tar::new().dir("./");
    for index in 0..1000 {
        tar = tar.file(format!("d/{}", index * 7919 % 1000), b"");
    }
    // Names before `.` and `..`, and such as fill a block alone.
    for name in ["!", "-", "-a", "...", "a", "\x01"] {
        tar = tar.file(format!("e/{name}"), b"");
    }
    for first in b'A'..=b'Z' {
        let name = [&[first][..], &[b'n'; 254]].concat();
        tar = tar
            .long(b'L', [b"e/", name.as_slice()].concat())
            .file("", b"");
    }
    let image = image(tar);
    assert_eq!(image.paths().len(), 1 + 1 + 1000 + 1 + 6 + 26);
    assert!(image.get("/d").size > 3 * 4096);
    assert!(image.get("/e").size > 4096);
}

#[test]
fn names_are_bytes() {
    let names: [&[u8]; 7] = [
        b"not utf-8 \xff\xfe",
        b"new\nline",
        b"esc\x1b[2J",
        b" ",
        b"back\\slash",
        b"...",
        &[b'n'; 255],
    ];
    let mut tar = Tar::new();
    for name in names {
        tar = tar.pax(&[("path", name)]).file("short", b"x");
    }
    let image = image(tar);
    for name in names {
        assert_eq!(image.data(&format!("/{}", name.escape_ascii())), b"x");
    }
    let long = [b'n'; 256];
    let error = refused(Tar::new().pax(&[("path", &long)]).file("short", b"x"));
    assert!(error.contains("a name of 256 bytes"), "{error}");
    let error = refused(
        Tar::new()
            .pax(&[("path", b"\x1b[2J/..\xff/../../../x")])
            .file("s", b"x"),
    );
    assert_eq!(
        error,
        "entry \\x1b[2J/..\\xff/../../../x: \\x1b[2J/..\\xff/../../../x leads out of the layer"
    );
}

#[test]
fn attributes_are_kept_but_for_those_that_are_not_a_layer_s_to_set() {
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    let records: Vec<(&str, &[u8])> = vec![
        ("SCHILY.xattr.user.a", b"1"),
        ("SCHILY.xattr.user.empty", b""),
        ("SCHILY.xattr.user.binary", b"\0\xff=\n"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
        ("SCHILY.xattr.security.selinux", b"system_u"),
        ("SCHILY.xattr.trusted.mine", b"t"),
        ("SCHILY.xattr.system.posix_acl_access", acl),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.bulkhead.implied_count", b"9"),
        ("SCHILY.xattr.nfs4.acl", b"x"),
        ("SCHILY.xattr.user.", b"x"),
        ("SCHILY.xattr.system.posix_acl_accessory", b"x"),
        ("LIBARCHIVE.xattr.user.b", b"MQ=="),
    ];
    let image = image(
        Tar::new()
            .pax(&records)
            .dir("./")
            .pax(&records)
            .file("f", b"content"),
    );
    for path in ["/", "/f"] {
        let names: Vec<&str> = image.get(path).xattrs.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "security.capability",
                "security.selinux",
                "system.posix_acl_access",
                "trusted.mine",
                "user.a",
                "user.binary",
                "user.empty",
                "user.overlay.opaque",
            ],
            "{path}"
        );
        let xattrs = &image.get(path).xattrs;
        assert_eq!(xattrs["user.binary"], b"\0\xff=\n");
        assert_eq!(xattrs["system.posix_acl_access"], acl);
    }
    assert_eq!(image.data("/f"), b"content");
}

#[test]
fn attributes_of_every_size() {
    // Such as fill the rest of an inode's block, and such as need many.
    let sizes = [1, 1800, 1900, 2000, 3900, 4000, 4100, 20_000, 65_535];
    let mut tar = Tar::new();
    for size in sizes {
        let value = vec![b'v'; size];
        for (kind, data) in [("tail", &b"x"[..]), ("block", &[b'y'; 5000]), ("none", b"")] {
            tar = tar
                .pax(&[("SCHILY.xattr.user.v", &value)])
                .file(format!("{size}/{kind}"), data);
        }
        tar = tar
            .pax(&[("SCHILY.xattr.user.v", &value)])
            .dir(format!("{size}"));
    }
    let image = image(tar);
    for size in sizes {
        for (kind, data) in [("tail", &b"x"[..]), ("block", &[b'y'; 5000]), ("none", b"")] {
            let path = format!("/{size}/{kind}");
            assert_eq!(
                image.get(&path).xattrs["user.v"],
                vec![b'v'; size],
                "{path}"
            );
            assert_eq!(image.data(&path), data, "{path}");
        }
        assert_eq!(image.get(&format!("/{size}")).xattrs["user.v"].len(), size);
    }
}

#[test]
fn attributes_that_nothing_could_read_are_refused() {
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(251));
    let error = refused(Tar::new().pax(&[(&name, b"1")]).file("f", b""));
    assert!(error.contains("a name of 256 bytes"), "{error}");
    for acl in [
        &b""[..],
        b"\x01\0\0\0",
        b"\x02\0\0\0\x01\0\x06\0",
        b"\x02\0\0\0\x03\0\x06\0\xff\xff\xff\xff",
    ] {
        let tar = Tar::new().pax(&[("SCHILY.xattr.system.posix_acl_default", acl)]);
        let error = refused(tar.dir("d"));
        assert!(
            error.contains("its attribute system.posix_acl_default is damaged"),
            "{error}"
        );
    }
    let too_many: Vec<(String, &[u8])> = (0..129)
        .map(|number| (format!("SCHILY.xattr.user.{number}"), &b"1"[..]))
        .collect();
    let records: Vec<(&str, &[u8])> = too_many.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    let long = vec![b'v'; 65_536];
    let many_long: Vec<(String, &[u8])> = (0..5)
        .map(|number| (format!("SCHILY.xattr.user.{number}"), &long[..60_000]))
        .collect();
    let many_long: Vec<(&str, &[u8])> = many_long.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    for (records, want) in [
        (&records[..], "extended attributes of one entry"),
        (
            &[("SCHILY.xattr.user.a", &long[..])],
            "bytes of one extended attribute",
        ),
        (&many_long, "bytes of extended attributes of one entry"),
    ] {
        let error = error_of(&Tar::new().pax(records).file("f", b"").end());
        assert_eq!(error.kind(), FailureKind::LimitExceeded);
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[test]
fn the_same_layer_gives_the_same_bytes() {
    let make = || {
        let tar = Tar::new()
            .file("b", &[1; 5000])
            .file("a", b"x")
            .dir("d/")
            .pax(&[("SCHILY.xattr.user.b", b"1"), ("SCHILY.xattr.user.a", b"2")])
            .link(b'2', "l", "a")
            .end();
        unpack_blob(&tar, &tar, Compression::None).unwrap().0
    };
    assert!(make() == make());
}
