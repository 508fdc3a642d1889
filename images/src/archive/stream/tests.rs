//! The outer tar: good ones, and every way to be bad.

use super::*;
use crate::sample::Tar as Writer;

type Members = Vec<(MemberKind, String, Vec<u8>)>;

fn members(bytes: &[u8]) -> Result<Members, ArchiveError> {
    let mut members = Vec::new();
    read(bytes, |member, content| {
        let mut read = Vec::new();
        content.read_to_end(&mut read).map_err(reason)?;
        members.push((member.kind, member.name().unwrap_or("?").to_owned(), read));
        Ok(())
    })?;
    Ok(members)
}

fn tar_error(bytes: &[u8]) -> TarError {
    match members(bytes) {
        Err(ArchiveError::Tar(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn header(kind: EntryType, name: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let length = (1..4)
            .map(|digits| rest.len() + digits)
            .find(|length| length.to_string().len() + rest.len() == *length);
        out.extend_from_slice(format!("{}{rest}", length.unwrap()).as_bytes());
    }
    out
}

fn extended(records: &[u8], name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = Writer::default();
    tar.member(EntryType::XHeader, "pax", "", records);
    tar.file(name, content);
    tar.finish()
}

#[test]
fn members_come_in_order_with_their_contents() {
    let mut tar = Writer::default();
    tar.member(EntryType::Directory, "dir/", "", b"");
    tar.file("dir/a", b"content");
    tar.file("empty", b"");
    tar.file("block", &[7; 512]);
    tar.member(EntryType::Symlink, "link", "dir/a", b"");
    tar.member(EntryType::Link, "hard", "dir/a", b"");
    let members = members(&tar.finish()).unwrap();
    let kinds: Vec<MemberKind> = members.iter().map(|(kind, ..)| *kind).collect();
    use MemberKind::*;
    assert_eq!(kinds, [Other, File, File, File, Symlink, Hardlink]);
    assert_eq!(members[1], (File, "dir/a".to_owned(), b"content".to_vec()));
    assert_eq!(members[3].2.len(), 512);
}

#[test]
fn unread_content_is_skipped() {
    let mut tar = Writer::default();
    tar.file("a", &[1; 5000]);
    tar.file("b", b"2");
    let mut names = Vec::new();
    read(tar.finish().as_slice(), |member, _| {
        names.push(member.name().unwrap().to_owned());
        Ok(())
    })
    .unwrap();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn long_names_of_both_kinds_are_read() {
    let long = "d/".repeat(200) + "f";
    let mut tar = Writer::default();
    tar.member(
        EntryType::GNULongName,
        "././@LongLink",
        "",
        format!("{long}\0").as_bytes(),
    );
    tar.file("short", b"1");
    assert_eq!(members(&tar.finish()).unwrap()[0].1, long);
    let tar = extended(&pax(&[("mtime", "1.5"), ("path", &long)]), "short", b"2");
    assert_eq!(members(&tar).unwrap()[0].1, long);
}

#[test]
fn a_size_of_the_extended_header_counts() {
    let mut tar = Writer::default();
    tar.member(EntryType::XHeader, "pax", "", &pax(&[("size", "3")]));
    tar.raw(&header(EntryType::Regular, "a", 0), b"abc");
    tar.file("b", b"d");
    let members = members(&tar.finish()).unwrap();
    assert_eq!(
        (members[0].2.as_slice(), members[1].2.as_slice()),
        (&b"abc"[..], &b"d"[..])
    );
}

#[test]
fn binary_values_and_global_headers_do_no_harm() {
    let mut records = b"22 SCHILY.xattr.a=\n\n\n\n".to_vec();
    records[18..21].copy_from_slice(&[b'\n', 0xff, 0]);
    let mut tar = Writer::default();
    tar.member(
        EntryType::XGlobalHeader,
        "pax",
        "",
        &pax(&[("path", "poison"), ("size", "9")]),
    );
    tar.member(EntryType::XHeader, "pax", "", &records);
    tar.file("a", b"1");
    tar.file("b", b"2");
    let members = members(&tar.finish()).unwrap();
    let names: Vec<&str> = members.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn an_archive_cut_anywhere_is_an_error_or_shorter() {
    let mut tar = Writer::default();
    tar.file("a", &[1; 700]);
    tar.file("b", &[2; 10]);
    let bytes = tar.finish();
    let whole = members(&bytes).unwrap();
    for end in 0..bytes.len() {
        match members(&bytes[..end]) {
            // Between two members a cut can't be seen.
            Ok(found) => {
                let is_between = end % 512 == 0 || end > bytes.len() - 1024;
                assert!(is_between && whole.starts_with(&found), "{end}");
            }
            Err(ArchiveError::Tar(TarError::Truncated)) => {}
            Err(other) => panic!("{end}: {other:?}"),
        }
    }
}

#[test]
fn every_damaged_header_byte_is_seen() {
    let mut tar = Writer::default();
    tar.file("a", b"content");
    let bytes = tar.finish();
    // A digit of the checksum itself can be written in two ways, with a zero or a blank.
    for at in (0..148).chain(156..512) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(members(&damaged).is_err(), "{at}");
    }
    assert!(matches!(tar_error(&[b'x'; 1024]), TarError::Checksum(0)));
}

#[test]
fn malformed_numbers_are_refused() {
    let mut not_octal = header(EntryType::Regular, "a", 0);
    not_octal.as_old_mut().size = *b"9999999999x\0";
    let mut negative = header(EntryType::Regular, "a", 0);
    negative.as_old_mut().size = [0xff; 12];
    for header in [not_octal, negative] {
        let mut tar = Writer::default();
        tar.raw(&header, b"");
        let error = tar_error(&tar.finish());
        assert!(
            matches!(error, TarError::Number(0) | TarError::TooLarge { .. }),
            "{error}"
        );
    }
    let sizes = ["-1", "1e3", "", "99999999999999999999999"];
    for size in sizes {
        assert!(
            matches!(
                tar_error(&extended(&pax(&[("size", size)]), "a", b"")),
                TarError::Number(0)
            ),
            "{size}"
        );
    }
}

#[test]
fn malformed_extended_headers_are_refused() {
    for records in [
        &b"x"[..],
        b"5 a=b",
        b"6 a=b",
        b"0 a=b\n",
        b"7 a=b\n",
        b"5 a=b\n",
        b"-6 a=b\n",
        b"6 aab\n",
        b" a=b\n",
        b"99999999999999999999 a=b\n",
        b"2 ",
    ] {
        let error = tar_error(&extended(records, "a", b""));
        assert!(matches!(error, TarError::Pax(0)), "{records:?}: {error}");
    }
    let long = "x".repeat(5000);
    for value in ["a\0b", &long] {
        let rest = format!(" path={value}\n");
        let digits = if rest.len() > 1000 { 4 } else { 2 };
        let record = format!("{}{rest}", rest.len() + digits);
        assert!(matches!(
            tar_error(&extended(record.as_bytes(), "a", b"")),
            TarError::Pax(0)
        ));
    }
}

#[test]
fn sparse_members_are_refused() {
    let mut tar = Writer::default();
    tar.member(EntryType::GNUSparse, "a", "", b"");
    assert!(matches!(tar_error(&tar.finish()), TarError::Sparse(0)));
    let tar = extended(
        &pax(&[("GNU.sparse.realsize", "9000000000000000000")]),
        "a",
        b"",
    );
    assert!(matches!(tar_error(&tar), TarError::Sparse(0)));
}

#[test]
fn sizes_and_counts_are_limited() {
    let huge = |kind, size| {
        let mut tar = Writer::default();
        tar.raw(&header(kind, "a", size), b"");
        tar_error(&tar.finish()).to_string()
    };
    assert_eq!(
        huge(EntryType::Regular, LAYER_BYTES + 1),
        "the member at byte 0 has 68719476737 bytes, above the limit of 68719476736"
    );
    huge(EntryType::Regular, u64::MAX >> 1);
    assert_eq!(
        huge(EntryType::GNULongName, 1 << 40),
        "the long name at byte 0 has 1099511627776 bytes, above the limit of 4096"
    );
    assert!(huge(EntryType::XHeader, 1 << 20).contains("extended header"));
    assert!(huge(EntryType::XGlobalHeader, 1 << 20).contains("global extended header"));

    let mut tar = Writer::default();
    for _ in 0..=ARCHIVE_EXTENSIONS {
        tar.member(EntryType::GNULongName, "x", "", b"name");
    }
    tar.file("a", b"");
    assert!(matches!(
        tar_error(&tar.finish()),
        TarError::TooManyExtensions(_)
    ));

    let mut tar = Writer::default();
    for _ in 0..=ARCHIVE_MEMBERS {
        tar.file("a", b"");
    }
    assert!(matches!(tar_error(&tar.finish()), TarError::TooManyMembers));
}

#[test]
fn what_follows_the_end_mark_is_ignored() {
    let mut tar = Writer::default();
    tar.file("a", b"1");
    let mut bytes = tar.finish();
    let mut second = Writer::default();
    second.file("b", b"2");
    bytes.extend_from_slice(&second.finish());
    assert_eq!(members(&bytes).unwrap().len(), 1);
}

#[test]
fn links_and_directories_have_no_content() {
    let mut tar = Writer::default();
    let mut link = header(EntryType::Symlink, "l", 4096);
    link.set_link_name("target").unwrap();
    tar.raw(&link, b"");
    tar.file("a", b"1");
    let members = members(&tar.finish()).unwrap();
    assert_eq!((members.len(), members[1].2.as_slice()), (2, &b"1"[..]));
}

#[test]
fn a_failing_source_is_no_damaged_archive() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("cable pulled"))
        }
    }
    let result = read(Failing, |_, _| Ok(()));
    assert!(matches!(result, Err(ArchiveError::Read(_))));
}
