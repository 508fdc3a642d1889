//! Layers made by hand, and the image read back by the few rules of EROFS that matter here.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use protocol::spec::{Compression, ConvertLimits};
use sha2::{Digest as _, Sha256};

use super::*;

const LIMITS: ConvertLimits = ConvertLimits {
    tar_bytes: 64 << 20,
    image_bytes: 64 << 20,
    entries: 10_000,
};

/// Builds a tar record by record.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(self, kind: u8, path: &str, link: &str, data: &[u8]) -> Self {
        self.entry_with(kind, path, link, data, 0o644, 0, 0, 1_000_000_000)
    }

    #[allow(clippy::too_many_arguments)]
    fn entry_with(
        mut self,
        kind: u8,
        path: &str,
        link: &str,
        data: &[u8],
        mode: u32,
        uid: u32,
        gid: u32,
        mtime: u64,
    ) -> Self {
        let mut header = [0_u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        header[108..115].copy_from_slice(format!("{uid:07o}").as_bytes());
        header[116..123].copy_from_slice(format!("{gid:07o}").as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        header[136..147].copy_from_slice(format!("{mtime:011o}").as_bytes());
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..263].copy_from_slice(b"ustar\0");
        header[329..336].copy_from_slice(b"0000001");
        header[337..344].copy_from_slice(b"0000003");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend(header);
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(b'0', path, "", data)
    }

    fn dir(self, path: &str) -> Self {
        self.entry_with(b'5', path, "", b"", 0o755, 0, 0, 1_000_000_000)
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while len != rest + len.to_string().len() {
                len = rest + len.to_string().len();
            }
            data.extend(format!("{len} {key}=").bytes());
            data.extend(*value);
            data.push(b'\n');
        }
        self.entry(b'x', "PaxHeader", "", &data)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn unpack_bytes(
    blob: &[u8],
    tar: &[u8],
    compression: Compression,
) -> Result<(File, Converted), UnpackError> {
    let out = tempfile::tempfile().unwrap();
    out.set_len(LIMITS.image_bytes).unwrap();
    let spec = ConvertSpec {
        blob_bytes: blob.len() as u64,
        compression,
        diff_id: hex(tar),
        limits: LIMITS,
    };
    let converted = unpack(blob, &out, &spec, &mut |_| {})?;
    Ok((out, converted))
}

fn image(tar: Tar) -> Image {
    let tar = tar.end();
    let (out, converted) = unpack_bytes(&tar, &tar, Compression::None).unwrap();
    assert_eq!(converted.image_bytes % 4096, 0);
    assert_eq!(converted.tar_bytes, tar.len() as u64);
    let mut bytes = vec![0; usize::try_from(converted.image_bytes).unwrap()];
    out.read_exact_at(&mut bytes, 0).unwrap();
    Image::read(bytes)
}

fn refused(tar: Tar) -> String {
    let tar = tar.end();
    unpack_bytes(&tar, &tar, Compression::None)
        .unwrap_err()
        .to_string()
}

/// One inode read back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    nid: u64,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    links: u32,
    data: Vec<u8>,
    union: u32,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// An image read back: every path from the root.
struct Image {
    nodes: BTreeMap<String, Node>,
}

fn le<const N: usize>(bytes: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap();
    let mut value = [0; 8];
    value[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(value)
}

impl Image {
    fn read(bytes: Vec<u8>) -> Self {
        assert_eq!(le::<4>(&bytes, 1024), 0xe0f5_e1e2);
        assert_eq!(le::<4>(&bytes, 1024 + 36) * 4096, bytes.len() as u64);
        let meta = le::<4>(&bytes, 1024 + 40) * 4096;
        let root = le::<2>(&bytes, 1024 + 14);
        let mut nodes = BTreeMap::new();
        let mut pending = vec![(String::from("/"), root)];
        while let Some((path, nid)) = pending.pop() {
            let node = Self::node(&bytes, meta, nid);
            if node.mode & 0o170_000 == 0o040_000 {
                for block in node.data.chunks(4096) {
                    let count = le::<2>(block, 8) / 12;
                    let mut before: Option<Vec<u8>> = None;
                    for index in 0..count {
                        let start = usize::try_from(le::<2>(block, index * 12 + 8)).unwrap();
                        let end = if index + 1 < count {
                            usize::try_from(le::<2>(block, index * 12 + 20)).unwrap()
                        } else {
                            block.len() - block.iter().rev().take_while(|b| **b == 0).count()
                        };
                        let name = block[start..end].to_vec();
                        assert!(before.is_none_or(|b| b < name), "{path}: not sorted");
                        before = Some(name.clone());
                        if name != b"." && name != b".." {
                            let child = format!("{path}{}/", name.escape_ascii());
                            pending.push((child, le::<8>(block, index * 12)));
                        }
                    }
                }
            }
            nodes.insert(path, node);
        }
        Self { nodes }
    }

    fn node(bytes: &[u8], meta: u64, nid: u64) -> Node {
        let at = meta + nid * 32;
        let format = le::<2>(bytes, at);
        assert_eq!(format & 1, 1, "extended inode");
        let icount = le::<2>(bytes, at + 2);
        let xattr_len = if icount == 0 {
            0
        } else {
            12 + (icount - 1) * 4
        };
        let mode = u16::try_from(le::<2>(bytes, at + 4)).unwrap();
        let size = le::<8>(bytes, at + 8);
        let union = le::<4>(bytes, at + 16);
        let behind = at + 64 + xattr_len;
        let blocks = size / 4096;
        let range = |from: u64, len: u64| {
            bytes[usize::try_from(from).unwrap()..usize::try_from(from + len).unwrap()].to_vec()
        };
        let data = match format >> 1 {
            0 if size > 0 => range(union * 4096, size),
            0 => Vec::new(),
            2 => {
                assert_eq!(
                    behind / 4096,
                    (behind + size % 4096 - 1) / 4096,
                    "inline tail in one block"
                );
                let mut data = if blocks > 0 {
                    range(union * 4096, blocks * 4096)
                } else {
                    Vec::new()
                };
                data.extend(range(behind, size % 4096));
                data
            }
            4 => {
                let mut data = Vec::new();
                for chunk in 0..size.div_ceil(4096) {
                    let block = le::<4>(bytes, behind + chunk * 4);
                    let len = (size - chunk * 4096).min(4096);
                    if block == 0xffff_ffff {
                        data.resize(data.len() + usize::try_from(len).unwrap(), 0);
                    } else {
                        data.extend(range(block * 4096, len));
                    }
                }
                data
            }
            other => panic!("layout {other}"),
        };
        let mut xattrs = BTreeMap::new();
        let mut pos = at + 64 + 12;
        while xattr_len > 0 && pos < behind {
            let (name_len, index, value_len) = (
                le::<1>(bytes, pos),
                le::<1>(bytes, pos + 1),
                le::<2>(bytes, pos + 2),
            );
            let prefix = [
                "",
                "user.",
                "acl",
                "acl_default",
                "trusted.",
                "",
                "security.",
            ][usize::try_from(index).unwrap()];
            let name = [prefix.as_bytes(), &range(pos + 4, name_len)].concat();
            xattrs.insert(name, range(pos + 4 + name_len, value_len));
            pos += (4 + name_len + value_len).next_multiple_of(4);
        }
        Node {
            nid,
            mode,
            uid: u32::try_from(le::<4>(bytes, at + 24)).unwrap(),
            gid: u32::try_from(le::<4>(bytes, at + 28)).unwrap(),
            mtime: (
                le::<8>(bytes, at + 32).cast_signed(),
                u32::try_from(le::<4>(bytes, at + 40)).unwrap(),
            ),
            links: u32::try_from(le::<4>(bytes, at + 44)).unwrap(),
            data,
            union: u32::try_from(union).unwrap(),
            xattrs,
        }
    }

    fn get(&self, path: &str) -> &Node {
        let key = if path == "/" {
            path.to_owned()
        } else {
            format!("{path}/")
        };
        self.nodes
            .get(&key)
            .unwrap_or_else(|| panic!("{path} among {:?}", self.nodes.keys()))
    }

    fn has(&self, path: &str) -> bool {
        self.nodes.contains_key(&format!("{path}/"))
    }
}

const WHITEOUT: u16 = 0o020_000;

#[test]
fn files_of_every_size_keep_their_content() {
    let sizes = [
        0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 65_536, 65_537, 70_000, 200_000,
    ];
    let data = |size: usize| {
        (0..size)
            .map(|i| u8::try_from(i * 7 % 251 + 1).unwrap())
            .collect::<Vec<_>>()
    };
    let mut tar = Tar::default().dir("d/");
    for size in sizes {
        tar = tar.file(&format!("d/{size}"), &data(size));
    }
    let image = image(tar);
    for size in sizes {
        assert_eq!(image.get(&format!("/d/{size}")).data, data(size), "{size}");
    }
}

#[test]
fn runs_of_zeros_become_holes_and_read_as_zeros() {
    let mut data = vec![0; 10 << 20];
    data[5 << 20] = 1;
    *data.last_mut().unwrap() = 2;
    data.extend([0, 3]);
    let tar = Tar::default().file("sparse", &data).end();
    let (out, converted) = unpack_bytes(&tar, &tar, Compression::None).unwrap();
    assert!(converted.image_bytes < 1 << 20, "{}", converted.image_bytes);
    let mut bytes = vec![0; usize::try_from(converted.image_bytes).unwrap()];
    out.read_exact_at(&mut bytes, 0).unwrap();
    assert!(Image::read(bytes).get("/sparse").data == data);
}

#[test]
fn metadata_is_exact() {
    let tar = Tar::default()
        .pax(&[
            ("mtime", b"-1.25"),
            ("uid", b"4294967294"),
            ("gid", b"70000"),
            ("SCHILY.xattr.user.a", b"1"),
            ("SCHILY.xattr.security.capability", b"\x01\x00"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.nfs4.acl", b"x"),
        ])
        .entry_with(b'0', "f", "", b"x", 0o4755, 1, 1, 5);
    let image = image(tar);
    let node = image.get("/f");
    assert_eq!(node.mode, 0o104_755);
    assert_eq!((node.uid, node.gid), (4_294_967_294, 70_000));
    assert_eq!(node.mtime, (-2, 750_000_000));
    let names: Vec<_> = node
        .xattrs
        .keys()
        .map(|n| String::from_utf8_lossy(n).into_owned())
        .collect();
    assert_eq!(names, ["security.capability", "user.a"]);
}

#[test]
fn special_files_and_links_are_kept() {
    let image = image(
        Tar::default()
            .file("a", b"same")
            .entry(b'1', "b", "a", b"")
            .entry(b'1', "deep/c", "/./a", b"")
            .entry(b'2', "l", "../../etc/passwd", b"")
            .entry(b'1', "l2", "l", b"")
            .entry(b'3', "null", "", b"")
            .entry(b'4', "disk", "", b"")
            .entry(b'6', "fifo", "", b""),
    );
    assert_eq!(image.get("/a").links, 3);
    assert_eq!(image.get("/a").nid, image.get("/deep/c").nid);
    assert_eq!(image.get("/l").data, b"../../etc/passwd");
    assert_eq!(image.get("/l").links, 2);
    assert_eq!(
        (image.get("/null").mode, image.get("/null").union),
        (0o020_644, 0x103)
    );
    assert_eq!(image.get("/disk").mode, 0o060_644);
    assert_eq!(image.get("/fifo").mode, 0o010_644);
    assert_eq!(image.get("/").links, 3);
    let implied = b"trusted.bulkhead.implied".as_slice();
    assert!(image.get("/deep").xattrs.contains_key(implied));
    assert!(image.get("/").xattrs.contains_key(implied));
    let count = b"trusted.bulkhead.implied_count".as_slice();
    assert_eq!(image.get("/").xattrs[count], b"2");
}

#[test]
fn whiteouts_are_overlays() {
    let image = image(
        Tar::default()
            .dir("./")
            .dir("d/")
            .file("d/.wh.gone", b"")
            .file("d/.wh.both", b"")
            .file("d/both", b"new")
            .file("o/.wh..wh..opq", b"")
            .file(".wh..wh.plnk", b"")
            .file(".wh.x", b"")
            .file("x/y", b"1"),
    );
    assert_eq!(
        (
            image.get("/d/gone").mode & 0o170_000,
            image.get("/d/gone").union
        ),
        (WHITEOUT, 0)
    );
    assert_eq!(image.get("/d/both").data, b"new");
    let opaque = b"trusted.overlay.opaque".as_slice();
    assert_eq!(image.get("/o").xattrs.get(opaque).unwrap(), b"y");
    assert!(
        image.get("/x").xattrs.contains_key(opaque),
        "a directory over a whiteout"
    );
    assert!(!image.has("/.wh..wh.plnk"));
    let count = b"trusted.bulkhead.implied_count".to_vec();
    assert!(image.get("/").xattrs.keys().eq([&count]));
}

#[test]
fn a_symbolic_link_on_the_way_is_followed_within_the_layer() {
    let image = image(
        Tar::default()
            .dir("usr/lib/")
            .entry(b'2', "lib", "usr/lib", b"")
            .entry(b'2', "abs", "/usr/lib", b"")
            .entry(b'2', "up", "../../../usr", b"")
            .file("lib/a", b"1")
            .file("abs/b", b"2")
            .file("up/c", b"3"),
    );
    assert_eq!(image.get("/usr/lib/a").data, b"1");
    assert_eq!(image.get("/usr/lib/b").data, b"2");
    assert_eq!(image.get("/usr/c").data, b"3");
    assert_eq!(image.get("/lib").mode & 0o170_000, 0o120_000);
}

#[test]
fn later_entries_win() {
    let image = image(
        Tar::default()
            .file("a", b"1")
            .dir("a/")
            .file("a/b", b"2")
            .file("a", b"3")
            .dir("d/")
            .file("d/keep", b"k")
            .entry_with(b'5', "d/", "", b"", 0o700, 7, 7, 9),
    );
    assert_eq!(image.get("/a").data, b"3");
    assert!(!image.has("/a/b"));
    assert_eq!(image.get("/d/keep").data, b"k");
    assert_eq!((image.get("/d").mode, image.get("/d").uid), (0o040_700, 7));
}

#[test]
fn directories_larger_than_a_block_are_sorted() {
    let mut tar = Tar::default();
    for index in 0..1000 {
        tar = tar.file(&format!("d/{}", index * 7919 % 1000), b"");
    }
    let image = image(tar);
    assert_eq!(image.nodes.len(), 1002);
    assert!(image.get("/d").data.len() > 3 * 4096);
}

#[test]
fn what_leads_out_is_refused() {
    for path in ["../x", "a/../../x", "/.."] {
        let error = refused(Tar::default().file(path, b"x"));
        assert!(
            error.contains("leads out of the layer") || error.contains("no directory"),
            "{path}: {error}"
        );
    }
    for (tar, want) in [
        (
            Tar::default().entry(b'1', "h", "../../etc/shadow", b""),
            "leads out of the layer",
        ),
        (
            Tar::default().entry(b'1', "h", "nothing", b""),
            "which this layer does not have",
        ),
        (
            Tar::default().file("d/.wh...", b""),
            "a whiteout of no name",
        ),
        (
            Tar::default().file("f", b"x").file("f/below", b"y"),
            "is no directory",
        ),
        (
            Tar::default()
                .entry(b'2', "a", "b", b"")
                .entry(b'2', "b", "a", b"")
                .file("a/x", b""),
            "symbolic links",
        ),
        (Tar::default().entry(b'Z', "z", "", b""), "unknown type"),
        (
            Tar::default().pax(&[("path", b"a\0b")]).file("x", b""),
            "damaged",
        ),
        (
            Tar::default().pax(&[("size", b"-1")]).file("x", b""),
            "damaged",
        ),
    ] {
        let error = refused(tar);
        assert!(error.contains(want), "{error:?} has no {want:?}");
    }
}

#[test]
fn a_cut_at_any_byte_is_an_error_or_an_earlier_end_but_never_a_panic() {
    let tar = Tar::default()
        .pax(&[("SCHILY.xattr.user.a", b"1")])
        .file("a", &[7; 700])
        .dir("d/")
        .entry(b'2', "l", "a", b"")
        .end();
    let mut cut_short = 0;
    for len in 0..tar.len() {
        let part = &tar[..len];
        if unpack_bytes(part, part, Compression::None).is_err() {
            cut_short += 1;
        }
    }
    assert!(cut_short > 1500, "{cut_short}");
}

#[test]
fn the_digest_and_the_compression_are_checked() {
    let tar = Tar::default().file("a", b"x").end();
    let gzip = {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(tar.as_slice(), 3).unwrap();
    for (blob, compression) in [
        (&gzip, Compression::Gzip),
        (&gzip, Compression::Sniff),
        (&zstd, Compression::Zstd),
        (&zstd, Compression::Sniff),
        (&tar, Compression::Sniff),
    ] {
        unpack_bytes(blob, &tar, compression).unwrap();
    }
    let error = unpack_bytes(&gzip, &tar, Compression::Zstd)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "the layer is declared as zstd and its bytes are gzip"
    );
    let error = unpack_bytes(&gzip, b"another", Compression::Gzip).unwrap_err();
    assert_eq!(error.kind(), FailureKind::CorruptLayer);
    assert!(
        error
            .to_string()
            .starts_with("the uncompressed layer has the digest sha256:")
    );
    let error = unpack_bytes(&gzip[..gzip.len() - 9], &tar, Compression::Gzip).unwrap_err();
    assert!(
        error.to_string().contains("truncated") || error.to_string().contains("corrupt"),
        "{error}"
    );
    let error = unpack_bytes(b"\xfd7zXZ\0....", &tar, Compression::Sniff).unwrap_err();
    assert!(error.to_string().contains("xz"), "{error}");
}

#[test]
fn limits_are_named() {
    let mut tar = Tar::default();
    for index in 0..10_001 {
        tar = tar.dir(&format!("{index}/"));
    }
    assert_eq!(refused(tar), "the layer exceeds the limit of 10000 entries");
    let bomb = vec![0; 65 << 20];
    let error = unpack_bytes(&bomb, &bomb, Compression::None).unwrap_err();
    assert_eq!(error.kind(), FailureKind::LimitExceeded);
    let pax = Tar::default().entry(b'x', "p", "", &vec![b'1'; (1 << 20) + 1]);
    assert!(refused(pax).contains("extended tar header"));
}

#[test]
fn the_same_layer_gives_the_same_bytes() {
    let make = || {
        let tar = Tar::default()
            .file("b", &[1; 5000])
            .file("a", b"x")
            .dir("d/")
            .end();
        let (out, converted) = unpack_bytes(&tar, &tar, Compression::None).unwrap();
        let mut bytes = vec![0; usize::try_from(converted.image_bytes).unwrap()];
        out.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert!(make() == make());
}

#[test]
fn sparse_files_of_gnu_tar_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let file = File::create(&path).unwrap();
    file.set_len(3 << 20).unwrap();
    file.write_all_at(b"one", 100_000).unwrap();
    file.write_all_at(b"two", 2 << 20).unwrap();
    let data = std::fs::read(&path).unwrap();
    for args in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let output = std::process::Command::new("tar")
            .args(["-c", "--sparse", "-C"])
            .arg(folder.path())
            .args(args)
            .arg("s")
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(
            output.stdout.len() < 1 << 20,
            "{args:?}: tar made it sparse"
        );
        let tar = output.stdout;
        let (out, converted) = unpack_bytes(&tar, &tar, Compression::None).unwrap();
        let mut bytes = vec![0; usize::try_from(converted.image_bytes).unwrap()];
        out.read_exact_at(&mut bytes, 0).unwrap();
        assert!(Image::read(bytes).get("/s").data == data, "{args:?}");
    }
}
