//! e13 and e14: compressed layers that are more, less or other than they say.

use super::{Case, Expected, draft, layer, prints};
use crate::image::{Draft, Layer, digest, gzip, zstd};
use crate::tarball::Tar;

/// A layer whose blob is made of its tar by `pack`.
fn packed(
    class: u8,
    name: &'static str,
    tries: &'static str,
    ending: &'static str,
    pack: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static,
    expected: Expected,
) -> Case {
    let content = draft(move |base| {
        let tar = Tar::new().file("f", &[b'x'; 2000]).end();
        let diff_id = digest(&tar);
        Draft::on(base).layer(Layer::packed(pack(&tar), ending, &diff_id))
    });
    Case::new(class, name, tries, content, expected)
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub(super) fn cases() -> Vec<Case> {
    [streams(), sizes()].into_iter().flatten().collect()
}

fn streams() -> Vec<Case> {
    let there = || prints("wc -c </f", "2000\n");
    let (gz, zst) = ("+gzip", "+zstd");
    let unpacking = Expected::Unpacking;
    vec![
        packed(
            13,
            "gzip-members",
            "gzip in several members",
            gz,
            |tar| joined(&[&gzip(&tar[..700]), &gzip(&tar[700..])]),
            there(),
        ),
        packed(
            13,
            "gzip-empty-members",
            "a thousand empty members before it",
            gz,
            |tar| joined(&[&gzip(b"").repeat(1000), &gzip(tar)]),
            there(),
        ),
        packed(
            13,
            "gzip-cut",
            "half of a gzip",
            gz,
            |tar| {
                let mut bytes = gzip(tar);
                bytes.truncate(bytes.len() / 2);
                bytes
            },
            unpacking("truncated"),
        ),
        packed(
            13,
            "gzip-checksum",
            "a gzip whose checksum is another",
            gz,
            |tar| {
                let mut bytes = gzip(tar);
                let at = bytes.len() - 8;
                bytes[at] ^= 1;
                bytes
            },
            unpacking("corrupt"),
        ),
        packed(
            13,
            "gzip-length",
            "a gzip whose length is another",
            gz,
            |tar| {
                let mut bytes = gzip(tar);
                let at = bytes.len() - 1;
                bytes[at] ^= 1;
                bytes
            },
            unpacking("corrupt"),
        ),
        packed(
            13,
            "gzip-block-of-no-type",
            "a gzip with a block of no type",
            gz,
            |_| joined(&[b"\x1f\x8b\x08\0\0\0\0\0\0\x03", &[0xff; 64]]),
            unpacking("corrupt"),
        ),
        packed(
            13,
            "gzip-with-a-name",
            "a gzip that names a file of the host",
            gz,
            |tar| {
                let bytes = gzip(tar);
                joined(&[b"\x1f\x8b\x08\x08\0\0\0\0\0\x03../../pwned\0", &bytes[10..]])
            },
            there(),
        ),
        packed(
            13,
            "gzip-and-garbage",
            "bytes of no kind behind a gzip",
            gz,
            |tar| joined(&[&gzip(tar), b"neither here nor there"]),
            unpacking("corrupt"),
        ),
        packed(
            13,
            "gzip-twice",
            "a gzip of a gzip",
            gz,
            |tar| gzip(&gzip(tar)),
            unpacking("truncated"),
        ),
        packed(
            13,
            "gzip-of-nothing",
            "no bytes that are called gzip",
            gz,
            |_| Vec::new(),
            unpacking("declared as gzip and its bytes are a plain tar"),
        ),
        packed(
            13,
            "gzip-that-is-zstd",
            "zstd that is called gzip",
            gz,
            zstd,
            unpacking("declared as gzip and its bytes are zstd"),
        ),
        packed(
            13,
            "gzip-that-is-plain",
            "a plain tar that is called gzip",
            gz,
            <[u8]>::to_vec,
            unpacking("declared as gzip and its bytes are a plain tar"),
        ),
        packed(
            13,
            "plain-that-is-gzip",
            "gzip that is called plain",
            "",
            gzip,
            unpacking("declared as a plain tar and its bytes are gzip"),
        ),
        packed(
            13,
            "gzip-that-is-xz",
            "xz that is called gzip",
            gz,
            |tar| joined(&[b"\xfd7zXZ\0", tar]),
            unpacking("compressed with xz"),
        ),
        packed(
            13,
            "plain-that-is-bzip2",
            "bzip2 that is called plain",
            "",
            |tar| joined(&[b"BZh91AY&SY", tar]),
            unpacking("compressed with bzip2"),
        ),
        packed(
            13,
            "zstd-frames",
            "zstd in several frames",
            zst,
            |tar| joined(&[&zstd(&tar[..700]), &zstd(&tar[700..])]),
            there(),
        ),
        packed(
            13,
            "zstd-skippable",
            "zstd with frames that are to be skipped",
            zst,
            |tar| {
                joined(&[
                    b"\x50\x2a\x4d\x18\x05\0\0\0pwned",
                    &zstd(tar),
                    b"\x5f\x2a\x4d\x18\0\0\0\0",
                ])
            },
            there(),
        ),
        packed(
            13,
            "zstd-skippable-huge",
            "a frame of 4 GiB that is to be skipped and is not there",
            zst,
            |_| b"\x50\x2a\x4d\x18\xff\xff\xff\xffpwned".to_vec(),
            unpacking("truncated"),
        ),
        // A frame header without a size whose window descriptor says 2^31 (RFC 8878, 3.1.1.1.2).
        packed(
            13,
            "zstd-window",
            "a window of 2 GiB",
            zst,
            |_| joined(&[b"\x28\xb5\x2f\xfd\x00\xa8", &[0; 64]]),
            unpacking("bytes of zstd window"),
        ),
        packed(
            13,
            "zstd-checksum",
            "a zstd whose bytes were changed",
            zst,
            |tar| {
                let mut bytes = zstd(tar);
                let at = bytes.len() / 2;
                bytes[at] ^= 0x55;
                bytes
            },
            unpacking("layer sha256:"),
        ),
        packed(
            13,
            "xz-by-type",
            "a media type that images do not have",
            "+xz",
            <[u8]>::to_vec,
            super::reading("layer 2 has the media type"),
        ),
    ]
}

fn sizes() -> Vec<Case> {
    vec![
        Case::new(
            13,
            "bomb-of-zeros",
            "64 MiB of zeros in 64 KiB",
            draft(|base| {
                let tar = Tar::new().file("bomb", &vec![0; 64 << 20]).end();
                // One member, again and again: to compress all of it takes long.
                let zeros = gzip(&vec![0; 1 << 20]).repeat(64);
                let blob = joined(&[&gzip(&tar[..512]), &zeros, &gzip(&tar[tar.len() - 1024..])]);
                Draft::on(base).layer(Layer::packed(blob, "+gzip", &digest(&tar)))
            }),
            prints("stat -c %s /bomb", "67108864\n"),
        )
        .large(),
        Case::new(
            13,
            "many-files",
            "5,000 empty files",
            draft(|base| {
                let files = 0..5_000;
                let file = |tar: Tar, number| tar.file(format!("many/{number}"), b"");
                Draft::on(base).tar(files.fold(Tar::new(), file))
            }),
            prints("ls /many | wc -l", "5000\n"),
        )
        .large(),
        layer(
            13,
            "archive-in-an-archive",
            "a layer as a file of a layer",
            |tar| {
                let inner = Tar::new().file("../pwned", b"x").end();
                tar.file("inner.tar", &inner)
                    .file("inner.tar.gz", &gzip(&inner))
            },
            prints("stat -c %s /inner.tar", "2048\n"),
        ),
    ]
}
