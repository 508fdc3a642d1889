//! Readers of tar that disagree (e12): the plain layers of the table of hostile images, and the same with a
//! byte of a header changed, as our reader, GNU tar and libarchive's bsdtar list them. Where one of them lists
//! something else, ours refuses, or does as Docker's reader (Go's archive/tar) for a reason in a list.
//!
//! These tests need the packages tar and libarchive-tools.

use hostile_images::listing::{BSD, GNU, Listed, differing, normal, shown};
use hostile_images::{Base, cases};
use tarball::{EntryKind, TarReader};

use super::Tar;

/// Who lists something else than ours, and why ours does as it does. Go's reader is Docker's.
const REVIEWED: [(&str, &str, &str); 30] = [
    (
        "empty-name",
        BSD,
        "refuses names of no bytes; so does what unpacks, here and in Docker",
    ),
    (
        "slash-behind-a-file",
        GNU,
        "Go takes the type `0` for a file whatever its name",
    ),
    (
        "slash-behind-a-file",
        BSD,
        "Go takes the type `0` for a file whatever its name",
    ),
    (
        "empty-target",
        BSD,
        "shows no target that is empty; what unpacks refuses it",
    ),
    (
        "long-target",
        BSD,
        "cuts what it shows; what unpacks refuses it",
    ),
    (
        "hard-link-empty",
        GNU,
        "shows no target as `.`; what unpacks refuses it",
    ),
    (
        "hard-link-empty",
        BSD,
        "shows no kind; what unpacks refuses it",
    ),
    (
        "hard-link-with-a-size",
        BSD,
        "shows the link as a file of no bytes; the entries are the same",
    ),
    (
        "device-with-data",
        GNU,
        "passes over a device's data; for Go only files have data",
    ),
    (
        "time-at-the-end",
        GNU,
        "shows the time in one word, so that the name is cut off here",
    ),
    ("time-at-the-end", BSD, "can't show the time"),
    (
        "time-at-the-beginning",
        GNU,
        "shows the time in one word, so that the name is cut off here",
    ),
    ("time-at-the-beginning", BSD, "can't show the time"),
    (
        "no-bytes",
        GNU,
        "wants a record of zeros; Go takes no bytes for an empty archive",
    ),
    ("blob-missing", GNU, "as before"),
    (
        "record-taken-back",
        GNU,
        "takes an empty name for the name; POSIX and Go for none",
    ),
    (
        "global-path",
        GNU,
        "applies global records; Docker and libarchive do not",
    ),
    (
        "global-size",
        GNU,
        "applies global records; Docker and libarchive do not",
    ),
    (
        "comment-and-unknown",
        GNU,
        "shows its own record of a volume's name as an entry",
    ),
    (
        "prefix-of-old-docker-up",
        GNU,
        "Go reads the prefix that its own versions before 1.8 wrote there",
    ),
    (
        "prefix-of-old-docker-up",
        BSD,
        "Go reads the prefix that its own versions before 1.8 wrote there",
    ),
    (
        "padding-missing",
        GNU,
        "wants the last padding; Go does not",
    ),
    (
        "padding-missing",
        BSD,
        "wants the last padding; Go does not",
    ),
    (
        "sparse-name-up",
        GNU,
        "wants the number of pieces before the map; what unpacks refuses the name",
    ),
    (
        "sparse-of-1-tib",
        GNU,
        "wants a piece in each map; Go does not",
    ),
    (
        "sparse-of-1-tib",
        BSD,
        "wants a piece in each map; Go does not",
    ),
    (
        "sparse-of-1-tib-and-pieces",
        GNU,
        "wants the number of pieces before the map; Go does not",
    ),
    (
        "sparse-of-1-tib-and-pieces",
        BSD,
        "wants the number of pieces before the map; Go does not",
    ),
    ("cut-blob", GNU, "wants the last padding; Go does not"),
    ("cut-blob", BSD, "wants the last padding; Go does not"),
];

/// Our reader's list, or why it refuses.
fn ours(tar: &[u8]) -> Result<Listed, String> {
    let mut reader = TarReader::new(tar);
    let mut listed = Listed::new();
    while let Some(entry) = reader.next_entry().map_err(|error| error.to_string())? {
        let (kind, between) = match entry.kind {
            EntryKind::File => ('-', ""),
            EntryKind::HardLink => ('h', " link to "),
            EntryKind::Symlink => ('l', " -> "),
            EntryKind::CharDevice => ('c', ""),
            EntryKind::BlockDevice => ('b', ""),
            EntryKind::Directory => ('d', ""),
            EntryKind::Fifo => ('p', ""),
        };
        let link: &[u8] = if between.is_empty() { b"" } else { &entry.link };
        let text = [&entry.path, between.as_bytes(), link].concat();
        let size = if kind == '-' { entry.size } else { 0 };
        listed.push((kind, size, shown(&text)));
    }
    Ok(normal(listed))
}

/// A generator of numbers that are the same each time (Knuth's MMIX).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// The archive with one byte of one header changed, and that header's checksum made right.
fn mutated(tar: &[u8], numbers: &mut Numbers) -> (Vec<u8>, usize) {
    let mut tar = tar.to_vec();
    let records = tar.len() / 512;
    let record = (0..records)
        .cycle()
        .skip(numbers.below(records))
        .take(records)
        .find(|record| tar[record * 512 + 257..].starts_with(b"ustar"))
        .unwrap_or_default();
    let header = &mut tar[record * 512..][..512];
    let at = numbers.below(512);
    let values = [
        0, b'/', b'.', b'0', b'1', b'2', b'5', b'7', b' ', b'x', b'L', 0x80, 0xff,
    ];
    header[at] = values[numbers.below(values.len())];
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    (tar, at)
}

/// The plain tars of the table that are not too large to be listed many times.
fn archives(max: usize) -> Vec<(&'static str, Vec<u8>)> {
    let base = Base {
        tar: Tar::new().dir("bin").end(),
    };
    let mut found = Vec::new();
    for case in cases() {
        let layers = case.layers(&base).into_iter().skip(1).take(3);
        let plain = layers.filter(|layer| {
            let media_type = layer.descriptor["mediaType"].as_str().unwrap_or_default();
            !media_type.contains('+') && layer.bytes.len() <= max && sniffed_plain(&layer.bytes)
        });
        found.extend(plain.map(|layer| (case.name, layer.bytes)));
    }
    found
}

fn sniffed_plain(bytes: &[u8]) -> bool {
    let packed: [&[u8]; 4] = [
        &[0x1f, 0x8b],
        &[0x28, 0xb5, 0x2f, 0xfd],
        b"BZh",
        b"\xfd7zXZ",
    ];
    !packed.iter().any(|magic| bytes.starts_with(magic))
}

/// Who lists an archive otherwise than ours does, and what: nobody where ours refuses.
fn different(tar: &[u8]) -> Vec<(&'static str, Result<Listed, String>, Listed)> {
    let Ok(own) = ours(tar) else {
        return Vec::new();
    };
    differing(tar, &own)
        .into_iter()
        .map(|(reader, listed)| (reader, listed, own.clone()))
        .collect()
}

fn is_reviewed(name: &str, reader: &str) -> bool {
    let mut reviewed = REVIEWED.iter();
    reviewed.any(|(case, of, why)| (*case, *of) == (name, reader) && !why.is_empty())
}

#[test]
fn where_readers_disagree_there_is_a_reason() {
    let (mut wrong, mut seen) = (Vec::new(), Vec::new());
    for (name, tar) in archives(4 << 20) {
        for (reader, listed, own) in different(&tar) {
            seen.push((name, reader));
            if !is_reviewed(name, reader) {
                wrong.push(format!("{name}: {own:?} here, {listed:?} with {reader}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, reader, _) in REVIEWED {
        assert!(seen.contains(&(name, reader)), "{name}: {reader} agrees");
    }
}

/// What another refuses is nothing that it takes for something else.
#[test]
fn where_readers_disagree_on_a_changed_byte_there_is_a_reason() {
    let mut numbers = Numbers(1);
    let mut wrong = Vec::new();
    let mut compared = 0;
    for (name, tar) in archives(32 << 10) {
        if tar.len() < 1024 {
            continue;
        }
        for _ in 0..2 {
            let (tar, at) = mutated(&tar, &mut numbers);
            compared += 1;
            for (reader, listed, own) in different(&tar) {
                let Ok(listed) = listed else { continue };
                // A name that got a slash is a directory's for both others, see the list.
                let as_directories = own.iter().zip(&listed).all(|(own, listed)| {
                    own == listed || own.0 == '-' && listed.0 == 'd' && own.2 == listed.2
                });
                let is_known = is_reviewed(name, reader)
                    // It takes bytes behind the end of a name for another format, and lists nothing.
                    || name == "other-bytes" && listed.is_empty();
                if !(is_known || as_directories && own.len() == listed.len()) {
                    wrong.push(format!(
                        "{name}, byte {at}: {own:?} here, {listed:?} with {reader}"
                    ));
                }
            }
        }
    }
    assert!(compared > 300, "{compared} archives");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
