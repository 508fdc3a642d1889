//! Limits, each with its name.

use super::tarball::Header;
use super::*;

fn limit_error(tar: &[u8], limits: ConvertLimits) -> String {
    let out = tempfile::tempfile().unwrap();
    let spec = ConvertSpec {
        limits,
        ..spec(tar, tar, Compression::None)
    };
    let error = unpack(tar, &out, &spec, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), FailureKind::LimitExceeded, "{error}");
    error.to_string()
}

#[test]
fn limits_of_a_conversion_are_exact() {
    let tar = Tar::new().dir("./").dir("a").file("b", &[1; 10_000]).end();
    let (_, converted) = unpack_blob(&tar, &tar, Compression::None).unwrap();
    let exact = ConvertLimits {
        tar_bytes: converted.tar_bytes,
        image_bytes: converted.image_bytes,
        entries: 3,
    };
    let out = tempfile::tempfile().unwrap();
    let spec = ConvertSpec {
        limits: exact,
        ..spec(&tar, &tar, Compression::None)
    };
    assert_eq!(
        unpack(tar.as_slice(), &out, &spec, &mut |_| {}).unwrap(),
        converted
    );
    let exceeds = "the layer exceeds the limit of";
    for (limits, want) in [
        (
            ConvertLimits {
                tar_bytes: exact.tar_bytes - 1,
                ..exact
            },
            format!(
                "{exceeds} {} bytes of uncompressed tar",
                exact.tar_bytes - 1
            ),
        ),
        (
            ConvertLimits {
                image_bytes: exact.image_bytes - 1,
                ..exact
            },
            format!("{exceeds} {} bytes of file system", exact.image_bytes - 1),
        ),
        (
            ConvertLimits {
                entries: 2,
                ..exact
            },
            format!("{exceeds} 2 entries"),
        ),
    ] {
        assert_eq!(limit_error(&tar, limits), want);
    }
}

#[test]
fn implied_directories_count_as_entries() {
    let limits = ConvertLimits {
        entries: 100,
        ..LIMITS
    };
    let deep = "d/".repeat(100);
    let tar = Tar::new()
        .long(b'L', format!("{deep}f"))
        .file("", b"")
        .end();
    assert_eq!(
        limit_error(&tar, limits),
        format!("entry {deep}…: the layer exceeds the limit of 100 entries")
    );
}

#[test]
fn extended_headers_are_limited() {
    for kind in [b'x', b'g', b'L', b'K'] {
        let header = Header {
            size: Some((1 << 20) + 1),
            ..Header::new(kind, "p")
        };
        let tar = Tar::new().header(&header, b"").end();
        assert_eq!(
            limit_error(&tar, LIMITS),
            "tar header at byte 0: the layer exceeds the limit of 1048576 bytes of one extended tar header"
        );
    }
}

#[test]
fn a_bomb_ends_at_the_limit() {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let header = Header {
        size: Some(8 << 30),
        ..Header::new(b'0', "bomb")
    };
    encoder
        .write_all(&Tar::new().header(&header, b"").0)
        .unwrap();
    for _ in 0..65 {
        encoder.write_all(&[7; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    let error = unpack_blob(&bomb, b"", Compression::Gzip).unwrap_err();
    assert_eq!(error.kind(), FailureKind::LimitExceeded);
    // Which of the two limits comes first depends on the threads.
    let text = error.to_string();
    assert!(
        text.ends_with("67108864 bytes of uncompressed tar")
            || text.ends_with("67108864 bytes of file system"),
        "{text}"
    );
}

#[test]
fn a_full_disk_is_told_as_such() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    for tar in [
        Tar::new().dir("only-metadata").end(),
        Tar::new().file("data", &vec![7; 3 << 20]).end(),
    ] {
        let spec = spec(&tar, &tar, Compression::None);
        let error = unpack(tar.as_slice(), &full, &spec, &mut |_| {}).unwrap_err();
        assert_eq!(error.kind(), FailureKind::DiskFull);
        assert_eq!(error.to_string(), "the disk is full");
    }
}

#[test]
fn a_device_that_fails_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let read_only = folder.path().join("out");
    std::fs::write(&read_only, "").unwrap();
    let out = File::open(&read_only).unwrap();
    let tar = Tar::new().dir("d").end();
    let spec = spec(&tar, &tar, Compression::None);
    let error = unpack(tar.as_slice(), &out, &spec, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Other);
    assert!(
        error.to_string().starts_with("write the layer disk: "),
        "{error}"
    );
    // A directory opens as a file does, and can't be read.
    let blob = File::open(folder.path()).unwrap();
    let out = tempfile::tempfile().unwrap();
    let error = convert(&blob, &out, &spec, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Other);
    assert!(error.to_string().starts_with("read the layer: "), "{error}");
}

#[test]
fn small_files_beyond_the_budget_of_memory_get_blocks() {
    // 256 MiB of last blocks would take too long here: FileWriter is asked directly.
    let out = tempfile::tempfile().unwrap();
    let mut output = Output::new(&out, LIMITS.image_bytes);
    let tar = Tar::new().file("f", b"content").end();
    let mut reader = ::tarball::TarReader::new(tar.as_slice());
    let entry = reader.next_entry().unwrap().unwrap();
    let mut tails = vec![0; (256 << 20) - 6];
    let data = content::FileWriter::new()
        .write(&entry, &mut reader, &mut output, &mut tails, true)
        .unwrap();
    assert_eq!(data, crate::unpack::tree::Data::Flat { block: 1 });
    assert_eq!(output.block().unwrap(), 2);
}

#[test]
fn fuzzing_uses_small_limits_and_no_digest() {
    let out = tempfile::tempfile().unwrap();
    let tar = Tar::new().dir("./").file("a", b"x").end();
    let converted = fuzz_layer(&tar, &out).unwrap();
    assert_eq!(converted.inodes, 2);
    assert!(fuzz_layer(&Tar::new().file("a", &vec![7; 2 << 20]).end(), &out).is_none());
}
