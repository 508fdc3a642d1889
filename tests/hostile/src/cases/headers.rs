//! e11: headers, numbers and extended headers of which readers of tar make different things.

use super::{Case, Expected, bytes, layer, prints, refused};
use crate::tarball::{GNU, Header, Tar, pax_records};

/// A header and a file's data as they stand in an archive: what hides in another's data.
fn hidden() -> Vec<u8> {
    Tar::new().file("pwned", b"x").0
}

fn sized(size: u64) -> Header {
    let mut header = Header::new(b'0', "f");
    header.size = Some(size);
    header
}

fn cut(name: &'static str, tries: &'static str, len: usize) -> Case {
    let whole = || {
        Tar::new()
            .file("first", b"x")
            .file("second", &[b'x'; 700])
            .end()
    };
    bytes(
        11,
        name,
        tries,
        move || whole()[..len].to_vec(),
        Expected::Unpacking("truncated"),
    )
}

fn unknown(name: &'static str, kind: u8, words: &'static str) -> Case {
    let tries = "an entry of a type that only some know";
    refused(
        11,
        name,
        tries,
        move |tar| tar.header(&Header::new(kind, "odd"), b""),
        words,
    )
}

pub(super) fn cases() -> Vec<Case> {
    [records(), fields(), ends()]
        .into_iter()
        .flatten()
        .collect()
}

fn records() -> Vec<Case> {
    let damaged = "its extended header is damaged";
    let raw = |data: &'static [u8]| {
        move |tar: Tar| tar.header(&Header::new(b'x', "x"), data).file("f", b"x")
    };
    vec![
        layer(
            11,
            "size-by-pax-larger",
            "a size of 0 and a record that says 1024: the data hides an entry",
            |tar| {
                let data = hidden();
                let tar = tar.pax(&[("size", b"1024")]).header(&sized(0), &data);
                tar.file("end", b"x")
            },
            prints("test -e /pwned || stat -c %s /f", "1024\n"),
        ),
        layer(
            11,
            "size-by-pax-smaller",
            "a size of 1024 and a record that says 0: data that becomes an entry",
            |tar| {
                let data = hidden();
                tar.pax(&[("size", b"0")]).header(&sized(1024), &data)
            },
            prints("cat /pwned; stat -c %s /f", "x0\n"),
        ),
        refused(
            11,
            "size-by-pax-negative",
            "a size of -1",
            |tar| tar.pax(&[("size", b"-1")]).file("f", b"x"),
            "its record size is damaged",
        ),
        refused(
            11,
            "size-by-pax-in-hex",
            "a size in hexadecimal",
            |tar| tar.pax(&[("size", b"0x10")]).file("f", b"x"),
            "its record size is damaged",
        ),
        refused(
            11,
            "size-by-pax-of-exabytes",
            "a size of 8 EiB",
            |tar| tar.pax(&[("size", b"9223372036854775807")]).file("f", b"x"),
            "bytes of one file",
        ),
        layer(
            11,
            "record-twice",
            "one key with two values: the last counts",
            |tar| tar.pax(&[("path", b"a"), ("path", b"b")]).file("f", b"x"),
            prints("cat /b", "x"),
        ),
        layer(
            11,
            "record-taken-back",
            "a key that is taken back",
            |tar| tar.pax(&[("path", b"a"), ("path", b"")]).file("f", b"x"),
            prints("cat /f", "x"),
        ),
        refused(
            11,
            "record-without-end",
            "a record longer than its header",
            raw(b"99 path=a\n"),
            damaged,
        ),
        refused(
            11,
            "record-without-a-line",
            "a record without its line's end",
            raw(b"9 path=ab"),
            damaged,
        ),
        refused(
            11,
            "record-of-a-huge-length",
            "a record's length beyond 64 bits",
            raw(b"18446744073709551628 path=a\n"),
            damaged,
        ),
        refused(
            11,
            "record-with-a-space",
            "a record's length behind a space",
            raw(b" 10 path=a\n"),
            damaged,
        ),
        refused(
            11,
            "record-without-a-key",
            "a value of nothing",
            raw(b"6 =ab\n"),
            damaged,
        ),
        refused(
            11,
            "record-with-zeros",
            "zeros behind the records",
            raw(b"10 path=a\n\0\0\0\0"),
            damaged,
        ),
        refused(
            11,
            "two-extended-headers",
            "two extended headers of one entry",
            |tar| {
                tar.pax(&[("path", b"a")])
                    .pax(&[("path", b"b")])
                    .file("f", b"x")
            },
            "two extended headers for one entry",
        ),
        refused(
            11,
            "two-long-names",
            "two long names of one entry",
            |tar| tar.long(b'L', "a").long(b'L', "b").file("f", b"x"),
            "two long names for one entry",
        ),
        refused(
            11,
            "two-long-targets",
            "two long targets of one link",
            |tar| tar.long(b'K', "a").long(b'K', "b").link(b'2', "f", "c"),
            "two long link names for one entry",
        ),
        refused(
            11,
            "names-of-gnu-and-pax",
            "two names in the two ways",
            |tar| tar.long(b'L', "a").pax(&[("path", b"b")]).file("f", b"x"),
            "a GNU and a PAX name that differ",
        ),
        layer(
            11,
            "global-path",
            "a name for all that follow",
            |tar| {
                tar.header(
                    &Header::new(b'g', "g"),
                    &pax_records(&[("path", b"pwned"), ("uid", b"7")]),
                )
                .file("f", b"x")
            },
            prints("cat /f; stat -c %u /f; test -e /pwned", "x0\n"),
        ),
        layer(
            11,
            "global-size",
            "a size for all that follow",
            |tar| {
                tar.header(&Header::new(b'g', "g"), &pax_records(&[("size", b"4096")]))
                    .file("f", b"x")
                    .file("g", b"y")
            },
            prints("cat /f /g", "xy"),
        ),
        refused(
            11,
            "global-between",
            "a global header between an entry's two",
            |tar| {
                tar.pax(&[("uid", b"1")])
                    .header(&Header::new(b'g', "g"), b"")
                    .file("f", b"x")
            },
            "a global header behind an extended header",
        ),
        refused(
            11,
            "extended-header-of-2-mib",
            "an extended header of 2 MiB",
            |tar| {
                tar.header(&Header::new(b'x', "x"), &vec![b'1'; 2 << 20])
                    .file("f", b"x")
            },
            "bytes of one extended tar header",
        ),
        refused(
            11,
            "long-name-of-2-mib",
            "a name of 2 MiB",
            |tar| tar.long(b'L', vec![b'n'; 2 << 20]).file("f", b"x"),
            "bytes of one extended tar header",
        ),
        layer(
            11,
            "long-name-with-more",
            "a long name that ends for C and goes on",
            |tar| {
                tar.header(
                    &Header {
                        magic: GNU,
                        ..Header::new(b'L', "././@LongLink")
                    },
                    b"good\0/../pwned",
                )
                .file("f", b"x")
            },
            prints("cat /good", "x"),
        ),
        layer(
            11,
            "charset",
            "records that say they are no text",
            |tar| {
                tar.pax(&[("hdrcharset", b"BINARY"), ("path", b"\xff")])
                    .file("f", b"x")
            },
            prints("cat /[!a-z]", "x"),
        ),
        layer(
            11,
            "comment-and-unknown",
            "records that nobody knows",
            |tar| {
                tar.pax(&[
                    ("comment", b"\x1b[2J"),
                    ("VENDOR.exec", b"/pwned"),
                    ("GNU.volume.label", b"x"),
                ])
                .file("f", b"x")
            },
            prints("cat /f", "x"),
        ),
    ]
}

fn fields() -> Vec<Case> {
    vec![
        bytes(
            11,
            "checksum",
            "a header that was changed",
            || {
                let mut tar = Tar::new().file("f", b"x").end();
                tar[0] ^= 1;
                tar
            },
            Expected::Unpacking("its checksum is wrong"),
        ),
        refused(
            11,
            "size-beyond-the-end",
            "a file that is longer than the archive",
            |tar| tar.header(&sized(0o777_7777), b"x"),
            "truncated",
        ),
        refused(
            11,
            "size-of-8-gib",
            "the largest size of octal digits",
            |tar| tar.header(&sized(0o77_777_777_777), b"x"),
            "truncated",
        ),
        refused(
            11,
            "size-negative",
            "a size of -1 in base 256",
            |tar| tar.header(&Header::new(b'0', "f").patch(124, [0xff; 12]), b""),
            "its size is no number",
        ),
        refused(
            11,
            "size-beyond-64-bits",
            "a size of 2^94",
            |tar| {
                tar.header(
                    &Header::new(b'0', "f")
                        .patch(124, b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
                    b"",
                )
            },
            "its size is no number",
        ),
        refused(
            11,
            "size-no-number",
            "a size that is a word",
            |tar| tar.header(&Header::new(b'0', "f").patch(124, b"large-size-x"), b""),
            "its size is no number",
        ),
        refused(
            11,
            "size-with-a-minus",
            "a size of -1 in octal digits",
            |tar| tar.header(&Header::new(b'0', "f").patch(124, b"-0000000001\0"), b""),
            "its size is no number",
        ),
        layer(
            11,
            "size-in-base-256",
            "a small size in base 256",
            |tar| {
                tar.header(
                    &Header::new(b'0', "f").patch(124, b"\x80\0\0\0\0\0\0\0\0\0\0\x01"),
                    b"x",
                )
            },
            prints("cat /f", "x"),
        ),
        layer(
            11,
            "magic-of-nobody",
            "a header of no known form, with a prefix",
            |tar| {
                tar.header(
                    &Header {
                        magic: *b"no-magic",
                        prefix: b"../..".to_vec(),
                        ..Header::new(b'0', "f")
                    },
                    b"x",
                )
            },
            prints("cat /f", "x"),
        ),
        refused(
            11,
            "prefix-up",
            "a step up in the prefix",
            |tar| {
                tar.header(
                    &Header {
                        prefix: b"..".to_vec(),
                        ..Header::new(b'0', "pwned")
                    },
                    b"x",
                )
            },
            "leads out of the layer",
        ),
        refused(
            11,
            "prefix-of-old-docker-up",
            "a step up where GNU has a time",
            |tar| {
                tar.header(
                    &Header {
                        magic: GNU,
                        prefix: b"../../x".to_vec(),
                        ..Header::new(b'0', "pwned")
                    },
                    b"x",
                )
            },
            "leads out of the layer",
        ),
        layer(
            11,
            "formats-mixed",
            "entries of three forms",
            |tar| {
                tar.header(
                    &Header {
                        magic: GNU,
                        ..Header::new(b'0', "a")
                    },
                    b"1",
                )
                .header(
                    &Header {
                        magic: [0; 8],
                        ..Header::new(0, "b")
                    },
                    b"2",
                )
                .pax(&[("path", b"c")])
                .file("f", b"3")
            },
            prints("cat /a /b /c", "123"),
        ),
        layer(
            11,
            "name-without-end",
            "a name that fills its field",
            |tar| tar.file([b'n'; 100], b"x"),
            prints("cat /nnn*", "x"),
        ),
        layer(
            11,
            "old-directory",
            "a directory as a file with a slash",
            |tar| {
                tar.header(
                    &Header {
                        magic: [0; 8],
                        mode: 0o755,
                        ..Header::new(0, "d/")
                    },
                    b"",
                )
                .file("d/f", b"x")
            },
            prints("cat /d/f", "x"),
        ),
        layer(
            11,
            "directory-with-data",
            "a directory with a size, and an entry in its data",
            |tar| {
                let mut header = Header::new(b'5', "d");
                header.size = Some(1024);
                tar.header(&header, &hidden())
            },
            prints("cat /pwned", "x"),
        ),
        unknown(
            "type-of-multi-volume",
            b'M',
            "an entry of the unknown type 0x4d",
        ),
        unknown("type-of-a-label", b'V', "an entry of the unknown type 0x56"),
        unknown("type-of-a-dump", b'D', "an entry of the unknown type 0x44"),
        unknown("type-of-solaris", b'X', "an entry of the unknown type 0x58"),
        unknown("type-of-nobody", 0xff, "an entry of the unknown type 0xff"),
    ]
}

fn ends() -> Vec<Case> {
    let after = |mut tar: Vec<u8>, more: &[u8]| {
        tar.extend(more);
        tar
    };
    vec![
        bytes(
            11,
            "second-archive",
            "another archive behind the end",
            move || {
                after(
                    Tar::new().file("f", b"x").end(),
                    &Tar::new().file("pwned", b"x").end(),
                )
            },
            prints("test -e /pwned; cat /f", "x"),
        ),
        bytes(
            11,
            "garbage-behind-the-end",
            "bytes of no kind behind the end",
            move || after(Tar::new().file("f", b"x").end(), &[0xaa; 5000]),
            prints("cat /f", "x"),
        ),
        bytes(
            11,
            "one-record-of-zeros",
            "half an end, and an entry behind it",
            move || {
                let mut tar = Tar::new().file("f", b"x").0;
                tar.extend([0; 512]);
                tar.extend(Tar::new().file("pwned", b"x").end());
                tar
            },
            Expected::Unpacking("goes on behind a record of zeros"),
        ),
        bytes(
            11,
            "no-end",
            "an archive without an end",
            || Tar::new().file("f", b"x").0,
            prints("cat /f", "x"),
        ),
        bytes(
            11,
            "padding-missing",
            "an archive without its last padding",
            || {
                let mut tar = Tar::new().file("f", b"x").0;
                tar.truncate(513);
                tar
            },
            prints("cat /f", "x"),
        ),
        cut("cut-in-a-header", "an end in a header", 1100),
        cut("cut-in-data", "an end in a file", 1600),
        bytes(
            11,
            "cut-behind-an-extended-header",
            "an extended header of nothing",
            || Tar::new().pax(&[("path", b"pwned")]).0,
            Expected::Unpacking("truncated"),
        ),
        bytes(
            11,
            "cut-behind-a-long-name",
            "a long name of nothing",
            || Tar::new().long(b'L', "pwned").end(),
            Expected::Unpacking("truncated"),
        ),
    ]
}
