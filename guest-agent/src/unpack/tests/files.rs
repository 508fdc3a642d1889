//! Regular files: content, holes, where it is kept.

use super::*;

/// Bytes without a zero, different at every offset near each other.
fn noise(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| u8::try_from(at * 7 % 251 + 1).unwrap())
        .collect()
}

#[test]
fn files_of_every_size_keep_their_content() {
    let sizes = [
        0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 6144, 6145, 65_535, 65_536, 65_537, 67_584,
        67_585, 70_000, 200_000, 1_048_576, 1_050_000,
    ];
    let mut tar = Tar::new().dir("d/");
    for size in sizes {
        tar = tar.file(format!("d/{size}"), &noise(size));
    }
    let image = image(tar);
    for size in sizes {
        let path = format!("/d/{size}");
        assert_eq!(image.get(&path).size, size as u64);
        assert!(image.data(&path) == noise(size), "{size}");
        let tail = size % 4096;
        let layout = if tail > 0 && tail <= 2048 { 2 } else { 0 };
        assert_eq!(image.get(&path).layout, layout, "{size}");
    }
}

#[test]
fn runs_of_zeros_become_holes_and_read_as_zeros() {
    const MIB: usize = 1 << 20;
    let mut sparse = vec![0; 10 * MIB + 2];
    sparse[5 * MIB] = 1;
    sparse[10 * MIB - 1] = 2;
    sparse[10 * MIB + 1] = 3;
    let mut begins = noise(MIB);
    begins.resize(4 * MIB, 0);
    let mut ends = vec![0; 2 * MIB];
    ends.extend(noise(MIB + 1));
    let files = [
        ("sparse", sparse),
        ("begins", begins),
        ("ends", ends),
        ("nothing", vec![0; 3 * MIB]),
        ("nothing-odd", vec![0; 3 * MIB + 5]),
        ("small-zeros", vec![0; 65_535]),
        ("unit", vec![0; 65_536]),
        ("unit-and-byte", vec![0; 65_537]),
    ];
    let mut tar = Tar::new();
    for (name, data) in &files {
        tar = tar.file(name, data);
    }
    let image = image(tar);
    assert!(image.len() < 3 * MIB, "{}", image.len());
    for (name, data) in &files {
        let path = format!("/{name}");
        assert!(image.data(&path) == *data, "{name}");
        let layout = if *name == "small-zeros" { 0 } else { 4 };
        assert_eq!(image.get(&path).layout, layout, "{name}");
    }
    // A file of 64 KiB units has chunks of 64 KiB; one of nothing has as large ones as there are.
    assert_eq!(image.get("/sparse").union, 4);
    assert_eq!(image.get("/begins").union, 8);
    assert_eq!(image.get("/ends").union, 9);
    assert_eq!(image.get("/nothing").union, 31);
}

#[test]
fn a_sparse_file_of_terabytes_costs_little() {
    // A byte behind 15 TiB of nothing: a map of 64 KiB chunks would be 960 MiB, and here it is one
    // of TiB chunks.
    const SIZE: u64 = (15 << 40) + 1;
    let offset = SIZE - 1;
    let map = format!("1\n{offset}\n1\n");
    let mut data = map.into_bytes();
    data.resize(512, 0);
    data.push(b'x');
    let size = SIZE.to_string();
    let tar = Tar::new().pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"huge"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ]);
    let image = image(tar.file("GNUSparseFile.1/huge", &data));
    let node = image.get("/huge");
    assert_eq!((node.size, node.layout), (SIZE, 4));
    assert!(image.len() < 200 << 10, "{}", image.len());
}

#[test]
fn large_maps_of_holes_are_refused_by_the_image_limit() {
    // Data at a place that nothing but 64 KiB chunks reach.
    let offset = (15_u64 << 40) + 65_536;
    let mut data = format!("1\n{offset}\n1\n").into_bytes();
    data.resize(512, 0);
    data.push(b'x');
    let size = (offset + 1).to_string();
    let tar = Tar::new().pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ]);
    let error = error_of(&tar.file("huge", &data).end());
    assert_eq!(error.kind(), FailureKind::LimitExceeded);
    assert_eq!(
        error.to_string(),
        "the layer exceeds the limit of 67108864 bytes of file system"
    );
}

#[test]
fn gnu_tar_is_read_in_every_format_of_sparse_files() {
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir().unwrap();
    let file = File::create(folder.path().join("s")).unwrap();
    file.set_len(3 << 20).unwrap();
    // More pieces than fit into an old header, and into one more record.
    for at in (0..40).map(|number| number * 72_000 + 4096) {
        file.write_all_at(format!("data at {at}").as_bytes(), at)
            .unwrap();
    }
    let hole = File::create(folder.path().join("hole")).unwrap();
    hole.set_len(1 << 20).unwrap();
    let data = std::fs::read(folder.path().join("s")).unwrap();
    for args in [
        &["--format=gnu"][..],
        &["--format=oldgnu"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let output = std::process::Command::new("tar")
            .args(["-c", "--sparse", "-C"])
            .arg(folder.path())
            .args(args)
            .args(["s", "hole"])
            .output()
            .expect("GNU tar (Debian's package tar)");
        assert!(output.status.success());
        assert!(output.stdout.len() < 1 << 20, "{args:?}: tar found holes");
        let image = image_of(&output.stdout);
        assert!(image.data("/s") == data, "{args:?}");
        assert_eq!(image.data("/hole"), vec![0; 1 << 20], "{args:?}");
        assert_eq!(image.paths(), ["/", "/hole", "/s"], "{args:?}");
    }
}

#[test]
fn damaged_sparse_maps_are_refused() {
    let version = |major: &'static str| ("GNU.sparse.major", major.as_bytes());
    let minor = ("GNU.sparse.minor", &b"0"[..]);
    let size = ("GNU.sparse.realsize", &b"1000"[..]);
    let map_1_0 = |map: &str| {
        let mut data = map.as_bytes().to_vec();
        data.resize(512, 0);
        data
    };
    for (records, data, want) in [
        (vec![version("1"), minor], map_1_0("0\n"), "without a size"),
        (
            vec![version("2"), minor, size],
            map_1_0("0\n"),
            "unknown form",
        ),
        (vec![version("1"), size], map_1_0("0\n"), "unknown form"),
        (vec![size], Vec::new(), "unknown form"),
        (
            vec![version("1"), minor, size],
            Vec::new(),
            "map is damaged",
        ),
        (
            vec![version("1"), minor, size],
            map_1_0("x\n"),
            "map is damaged",
        ),
        (
            vec![version("1"), minor, size],
            map_1_0(&"1".repeat(30)),
            "map is damaged",
        ),
        (
            vec![version("1"), minor, size],
            map_1_0("1\n0\n5\n"),
            "does not fit its data",
        ),
        (
            vec![version("1"), minor, size],
            [map_1_0("1\n999\n5\n"), b"abcde".to_vec()].concat(),
            "out of order or range",
        ),
        (
            vec![("GNU.sparse.map", &b"0,3,2,2"[..]), size],
            b"abcde".to_vec(),
            "out of order or range",
        ),
        (
            vec![("GNU.sparse.map", &b"0,5,6"[..]), size],
            b"abcde".to_vec(),
            "map is damaged",
        ),
        (
            vec![
                ("GNU.sparse.map", &b"0,5"[..]),
                ("GNU.sparse.numblocks", b"2"),
                size,
            ],
            b"abcde".to_vec(),
            "map is damaged",
        ),
        (
            vec![("GNU.sparse.numbytes", &b"5"[..]), size],
            b"abcde".to_vec(),
            "is damaged",
        ),
        (
            vec![
                ("GNU.sparse.map", &b"18446744073709551615,1"[..]),
                ("GNU.sparse.size", b"18446744073709551615"),
            ],
            b"a".to_vec(),
            "out of order or range",
        ),
    ] {
        let error = refused(Tar::new().pax(&records).file("s", &data));
        assert!(error.contains(want), "{records:?}: {error}");
    }
    // The number of pieces is limited, not only what they add up to.
    let tar = Tar::new().pax(&[version("1"), minor, size]);
    let error = error_of(&tar.file("s", &map_1_0("99999999999\n")).end());
    assert_eq!(error.kind(), FailureKind::LimitExceeded);
    let directory = Tar::new().pax(&[("GNU.sparse.map", b"0,0"), size]).dir("d");
    assert!(refused(directory).contains("a sparse map where none can be"));
}

#[test]
fn sizes_beyond_any_file_are_refused() {
    for value in [
        "17592186044417",
        "9223372036854775807",
        "18446744073709551615",
    ] {
        let tar = Tar::new().pax(&[("size", value.as_bytes())]).file("f", b"");
        let error = error_of(&tar.end());
        assert_eq!(error.kind(), FailureKind::LimitExceeded, "{value}");
        assert!(error.to_string().contains("bytes of one file"), "{error}");
        let tar = Tar::new()
            .pax(&[
                ("GNU.sparse.map", b"0,1"),
                ("GNU.sparse.size", value.as_bytes()),
            ])
            .file("f", b"x");
        let error = error_of(&tar.end());
        assert_eq!(error.kind(), FailureKind::LimitExceeded, "{value}");
    }
    // 8 EiB and the largest number there is, in base 256.
    for size in [b"\x80\0\0\0\x7f", b"\x80\0\0\0\xff"] {
        let header = tarball::Header::new(b'0', "f")
            .patch(124, size)
            .patch(129, [0xff; 7]);
        let error = error_of(&Tar::new().header(&header, b"").end());
        assert!(
            error.kind() == FailureKind::LimitExceeded
                || error.to_string().contains("its size is no number"),
            "{error}"
        );
    }
}
