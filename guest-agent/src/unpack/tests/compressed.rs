//! Blobs: compression, what it is declared as, damage, the digest.

use std::io::Write;

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// Of some length, and hard to compress.
fn tar() -> Vec<u8> {
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(700_000)
    .collect();
    Tar::new()
        .dir("./")
        .file("noise", &noise)
        .file("z", b"last")
        .end()
}

#[test]
fn every_compression_gives_the_same_image() {
    let tar = tar();
    let (plain, _) = unpack_blob(&tar, &tar, Compression::None).unwrap();
    let (front, back) = tar.split_at(300_000);
    let members = [gzip(front), gzip(b""), gzip(back)].concat();
    let skippable = b"\x5a\x2a\x4d\x18\x05\0\0\0hello";
    let frames = [
        &skippable[..],
        &zstd(front),
        skippable,
        &zstd(back),
        skippable,
    ]
    .concat();
    for (blob, compression) in [
        (&gzip(&tar), Compression::Gzip),
        (&gzip(&tar), Compression::Sniff),
        (&members, Compression::Gzip),
        (&zstd(&tar), Compression::Zstd),
        (&zstd(&tar), Compression::Sniff),
        (&frames, Compression::Zstd),
        (&frames, Compression::Sniff),
        (&tar, Compression::Sniff),
    ] {
        let (image, _) = unpack_blob(blob, &tar, compression).unwrap();
        assert!(image == plain, "{compression:?}");
    }
}

#[test]
fn a_declared_compression_must_be_that_of_the_bytes() {
    let tar = tar();
    for (blob, compression, want) in [
        (
            &gzip(&tar),
            Compression::Zstd,
            "declared as zstd and its bytes are gzip",
        ),
        (
            &zstd(&tar),
            Compression::Gzip,
            "declared as gzip and its bytes are zstd",
        ),
        (
            &gzip(&tar),
            Compression::None,
            "declared as a plain tar and its bytes are gzip",
        ),
        (
            &tar,
            Compression::Gzip,
            "declared as gzip and its bytes are a plain tar",
        ),
        (
            &Vec::new(),
            Compression::Gzip,
            "declared as gzip and its bytes are a plain tar",
        ),
    ] {
        let error = unpack_blob(blob, &tar, compression).unwrap_err();
        assert_eq!(error.kind(), FailureKind::CorruptLayer);
        assert_eq!(error.to_string(), format!("the layer is {want}"));
    }
    for (blob, want) in [
        (&b"\xfd7zXZ\0...."[..], "compressed with xz"),
        (b"BZh91AY&SY....", "compressed with bzip2"),
        (b"BZh9\x17\x72\x45\x38\x50\x90", "compressed with bzip2"),
    ] {
        for compression in [Compression::Sniff, Compression::None, Compression::Gzip] {
            let error = unpack_blob(blob, blob, compression).unwrap_err();
            assert_eq!(error.kind(), FailureKind::CorruptLayer);
            assert!(error.to_string().contains(want), "{error}");
        }
    }
    let named = Tar::new().file("BZh1-is-a-name", b"").end();
    assert!(image_of(&named).has("/BZh1-is-a-name"));
}

#[test]
fn the_digest_is_that_of_everything_to_the_end() {
    let mut tar = tar();
    // More than is under way between the threads.
    tar.extend(vec![7; 5 << 20]);
    unpack_blob(&tar, &tar, Compression::None).unwrap();
    unpack_blob(&zstd(&tar), &tar, Compression::Zstd).unwrap();
    let mut other = tar.clone();
    *other.last_mut().unwrap() = 8;
    let error = unpack_blob(&tar, &other, Compression::None).unwrap_err();
    assert_eq!(error.kind(), FailureKind::CorruptLayer);
    let hex = |bytes: &[u8]| spec(bytes, bytes, Compression::None).diff_id;
    assert_eq!(
        error.to_string(),
        format!(
            "the uncompressed layer has the digest sha256:{}, its diff_id is sha256:{}",
            hex(&tar),
            hex(&other)
        )
    );
}

#[test]
fn a_refused_layer_leaves_no_superblock() {
    let out = tempfile::tempfile().unwrap();
    let tar = tar();
    let spec = spec(&tar, b"another", Compression::None);
    unpack(tar.as_slice(), &out, &spec, &mut |_| {}).unwrap_err();
    let mut block = [1; 4096];
    let read = out.read_at(&mut block, 0).unwrap();
    assert!(block[..read].iter().all(|byte| *byte == 0));
}

#[test]
fn damage_is_told() {
    let tar = tar();
    for (blob, name) in [(gzip(&tar), "gzip"), (zstd(&tar), "zstd")] {
        for cut in [1, 4, 9, 100, blob.len() / 2, blob.len() - 20] {
            let error = unpack_blob(&blob[..blob.len() - cut], &tar, Compression::Sniff);
            let error = error.unwrap_err();
            assert_eq!(error.kind(), FailureKind::CorruptLayer);
            assert_eq!(error.to_string(), "the layer is truncated", "{name} {cut}");
        }
        let mut changed = blob.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 0x55;
        let error = unpack_blob(&changed, &tar, Compression::Sniff).unwrap_err();
        assert_eq!(error.kind(), FailureKind::CorruptLayer, "{name} {error}");
        let garbage = [&blob[..], b"garbage behind it"].concat();
        let error = unpack_blob(&garbage, &tar, Compression::Sniff).unwrap_err();
        assert!(
            error.to_string().starts_with("the layer is corrupt: "),
            "{name} {error}"
        );
    }
    // The sum at the end of a member.
    let mut blob = gzip(&tar);
    let at = blob.len() - 6;
    blob[at] ^= 1;
    let error = unpack_blob(&blob, &tar, Compression::Gzip).unwrap_err();
    assert!(
        error.to_string().starts_with("the layer is corrupt: "),
        "{error}"
    );
}

#[test]
fn a_tar_s_own_fault_is_told_before_what_the_decoder_finds_later() {
    let mut bad = tar();
    bad[0] ^= 1;
    bad.extend(vec![0; 8 << 20]);
    let mut blob = gzip(&bad);
    let at = blob.len() - 6;
    blob[at] ^= 1;
    for _ in 0..20 {
        let error = unpack_blob(&blob, &bad, Compression::Gzip).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tar header at byte 0: its checksum is wrong"
        );
    }
}

#[test]
fn zstd_windows_are_limited() {
    let compress = |window_log: u32| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&tar()).unwrap();
        encoder.finish().unwrap()
    };
    unpack_blob(&compress(27), &tar(), Compression::Zstd).unwrap();
    let error = unpack_blob(&compress(28), &tar(), Compression::Zstd).unwrap_err();
    assert_eq!(error.kind(), FailureKind::LimitExceeded);
    assert_eq!(
        error.to_string(),
        "the layer exceeds the limit of 134217728 bytes of zstd window"
    );
}
