//! Headers in all their forms, and where readers of tar disagree.

use super::tarball::{GNU, Header};
use super::*;

#[test]
fn long_names_in_every_form() {
    let prefix = |magic, prefix: &str| Header {
        magic,
        prefix: prefix.into(),
        ..Header::new(b'0', "name")
    };
    let star = prefix(tarball::USTAR, "star/dir").patch(508, b"tar\0");
    let image = image(
        Tar::new()
            .header(&prefix(tarball::USTAR, "ustar/dir"), b"1")
            .header(&star.patch(476, "11111111111\x0022222222222\0"), b"2")
            // Two times, which GNU has there, and the name that Docker once wrote in their place.
            .header(&prefix(GNU, "14001234567\x0014001234567\0"), b"3")
            .header(&prefix(GNU, "docker/before/go/1.8"), b"4")
            .header(&prefix(*b"no-magic", "not there"), b"5")
            .long(b'L', format!("{}/gnu", "l".repeat(200)))
            .file("cut", b"6")
            .pax(&[("path", format!("{}/pax", "p".repeat(200)).as_bytes())])
            .file("cut", b"7"),
    );
    for (path, data) in [
        ("/ustar/dir/name", b"1"),
        ("/star/dir/name", b"2"),
        ("/docker/before/go/1.8/name", b"4"),
        // Written thrice: by the second of GNU's and by the one that is older than all.
        ("/name", b"5"),
        (&format!("/{}/gnu", "l".repeat(200)), b"6"),
        (&format!("/{}/pax", "p".repeat(200)), b"7"),
    ] {
        assert_eq!(image.data(path), data, "{path}");
    }
}

#[test]
fn where_readers_would_disagree_the_archive_is_refused() {
    let global = |tar: Tar, records: &[(&str, &[u8])]| {
        tar.header(&Header::new(b'g', "g"), &tarball::pax_records(records))
    };
    let mut zeros = Tar::new().file("a", b"");
    zeros.0.extend([0; 512]);
    for (tar, want) in [
        (
            Tar::new()
                .pax(&[("path", b"a")])
                .pax(&[("uid", b"1")])
                .file("f", b""),
            "two extended headers for one entry",
        ),
        (
            Tar::new().long(b'L', "a").long(b'L', "b").file("f", b""),
            "two long names",
        ),
        (
            Tar::new().long(b'K', "a").long(b'K', "b").file("f", b""),
            "two long link names",
        ),
        (
            Tar::new()
                .long(b'L', "a")
                .pax(&[("path", b"b")])
                .file("f", b""),
            "a GNU and a PAX name that differ",
        ),
        (
            global(Tar::new().pax(&[("uid", b"1")]), &[]).file("f", b""),
            "a global header behind an extended header",
        ),
        (zeros.file("b", b""), "goes on behind a record of zeros"),
    ] {
        let error = refused(tar);
        assert!(error.contains(want), "{error:?} has no {want:?}");
    }
    let same = Tar::new()
        .long(b'L', "a")
        .pax(&[("path", b"a")])
        .file("f", b"1");
    assert_eq!(image(same).data("/a"), b"1");
    // What a global header says is ignored, as Docker does.
    let ignored = global(Tar::new(), &[("path", b"b"), ("uid", b"7")]).file("a", b"1");
    let image = image(ignored);
    assert_eq!((image.data("/a"), image.get("/a").uid), (b"1".to_vec(), 0));
}

#[test]
fn types() {
    let mut file = Header::new(0, "old-file");
    file.size = None;
    let image = image(
        Tar::new()
            .header(&file, b"1")
            .header(&Header::new(0, "old-dir/"), b"")
            .header(&Header::new(b'7', "contiguous"), b"2")
            .header(&Header::new(b'0', "slash/"), b"3")
            .header(&Header::new(b'6', "fifo"), b""),
    );
    assert_eq!(image.data("/old-file"), b"1");
    assert_eq!(image.get("/old-dir").mode, 0o040_644);
    assert_eq!(image.data("/contiguous"), b"2");
    assert_eq!(image.data("/slash"), b"3");
    assert_eq!(image.get("/fifo").mode, 0o010_644);
    for kind in [b'8', b'A', b'D', b'M', b'N', b'V', b'X', b's', 0xff] {
        let error = refused(Tar::new().header(&Header::new(kind, "odd"), b""));
        assert_eq!(
            error,
            format!("entry odd: an entry of the unknown type {kind:#04x}")
        );
    }
}

#[test]
fn damaged_headers_are_refused() {
    let mut wrong_sum = Tar::new().dir("d").file("a", b"x").end();
    wrong_sum[512] ^= 1;
    let error = error_of(&wrong_sum).to_string();
    assert_eq!(error, "tar header at byte 512: its checksum is wrong");
    assert_eq!(
        error_of(&b"neither here nor there ".repeat(100)).to_string(),
        "tar header at byte 0: its checksum is wrong"
    );
    for data in [&b"x"[..], b"30 path=short\n", b"12 path=a/b\0"] {
        let tar = Tar::new()
            .header(&Header::new(b'x', "x"), data)
            .file("f", b"");
        assert_eq!(
            refused(tar),
            "tar header at byte 0: its extended header is damaged"
        );
    }
    let nul = Tar::new().pax(&[("path", b"a\0b")]).file("f", b"");
    assert!(refused(nul).contains("its record path is damaged"));
    let nul = Tar::new()
        .pax(&[("GNU.sparse.name", b"a\0b")])
        .file("f", b"");
    assert!(refused(nul).contains("its record GNU.sparse.name is damaged"));
}

#[test]
fn signed_checksums_of_old_archivers_are_taken() {
    let header = Header::new(b'0', b"\xff\xfe");
    let mut tar = Tar::new().header(&header, b"").end();
    let sum: i32 = tar[..512]
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            }
        })
        .map(|byte| i32::from(byte.cast_signed()))
        .sum();
    tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    assert!(image_of(&tar).has("/\\xff\\xfe"));
}

#[test]
fn archives_end_where_they_end() {
    assert_eq!(image_of(b"").paths(), ["/"]);
    assert_eq!(image_of(&[0; 512]).paths(), ["/"]);
    assert_eq!(image_of(&[0; 10_240]).paths(), ["/"]);
    let without_end = Tar::new().file("a", b"x").0;
    assert_eq!(image_of(&without_end).paths(), ["/", "/a"]);
    // GNU tar and Go read archives whose last padding is missing.
    assert_eq!(image_of(&without_end[..513]).data("/a"), b"x");
    let mut second = Tar::new().file("a", b"x").end();
    second.extend(Tar::new().file("b", b"y").end());
    second.extend(b"and more");
    assert_eq!(image_of(&second).paths(), ["/", "/a"]);
    assert!(refused(Tar::new().pax(&[("uid", b"1")])).contains("truncated"));
    let mut half = Tar::new().file("a", b"x").0;
    half.extend([0; 100]);
    assert!(error_of(&half).to_string().contains("truncated"));
}

#[test]
fn a_cut_at_any_byte_is_an_error_or_an_earlier_end_but_never_a_panic() {
    let mut sparse = b"1\n4096\n700\n".to_vec();
    sparse.resize(512, 0);
    sparse.extend([7; 700]);
    let tar = Tar::new()
        .pax(&[("SCHILY.xattr.user.a", b"1")])
        .file("a", &[7; 700])
        .long(b'L', "long/name")
        .dir("d/")
        .link(b'2', "l", "a")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"9000"),
        ])
        .file("s", &sparse)
        .end();
    let mut good = Vec::new();
    for len in 0..tar.len() {
        match unpack_blob(&tar[..len], &tar[..len], Compression::None) {
            Ok((bytes, _)) => {
                Image::read(bytes);
                good.push(len);
            }
            Err(error) => assert!(error.to_string().contains("truncated"), "{len}: {error}"),
        }
    }
    // Before each entry, from the end of the last data on, and between the records of zeros.
    assert!(good.contains(&0) && good.contains(&2560));
    assert!(!good.contains(&512) && !good.contains(&1535) && !good.contains(&(tar.len() - 513)));
    assert_eq!(good.last(), Some(&(tar.len() - 512)));
}
