//! Writes a tar: ustar headers, and PAX records for what does not fit one.
//!
//! Formats: POSIX.1-1988 ustar, POSIX.1-2001 pax interchange format, and star's `SCHILY.xattr.`
//! records, which GNU tar and Docker read.

use std::io::{Error, ErrorKind, Result, Write};
use std::ops::Range;

use crate::header::{DEVICE_MAJOR, DEVICE_MINOR, GID, MODE, MTIME, RECORD, SIZE, UID};
use crate::pax::XATTRS_MAX;
use crate::reader::{Entry, EntryKind};

/// Fields of a header that hold names, as offsets.
const NAME: Range<usize> = 0..100;
const LINK_NAME: Range<usize> = 157..257;

/// Where the magic and version are, and what they are.
const MAGIC: Range<usize> = 257..265;
const USTAR: &[u8] = b"ustar\x0000";

/// Sum of all bytes of a header, and its type.
const CHECKSUM: Range<usize> = 148..156;
const TYPE_FLAG: Range<usize> = 156..157;

/// Name of an extended header, which readers that know it pass over.
const PAX_NAME: &[u8] = b"PaxHeaders.0/extended";

/// Zeros for padding.
const ZEROS: [u8; RECORD] = [0; RECORD];

/// Writes entries one after the other.
#[derive(Debug)]
pub struct TarWriter<W> {
    to: W,
    /// Bytes of the current entry's data that have to come, and the padding behind them.
    left: u64,
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    /// Writes to `to`, in pieces as small as a header: it should be buffered.
    pub fn new(to: W) -> Self {
        Self {
            to,
            left: 0,
            padding: 0,
        }
    }

    /// Writes the header of an entry; of a file, `size` bytes of [`Self::data`] have to follow.
    /// [`Entry::pieces`] is not looked at.
    ///
    /// # Errors
    /// What writing says, or that the entry before lacks data.
    pub fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.end_entry()?;
        let mut path = entry.path.clone();
        if entry.kind == EntryKind::Directory && path.last() != Some(&b'/') {
            path.push(b'/');
        }
        let size = match entry.kind {
            EntryKind::File => entry.size,
            _ => 0,
        };
        let mut header = [0; RECORD];
        let mut records = Vec::new();
        put_name(&mut header, NAME, &path, b"path", &mut records);
        put_name(
            &mut header,
            LINK_NAME,
            &entry.link,
            b"linkpath",
            &mut records,
        );
        put_octal(&mut header, MODE, entry.mode.into());
        let numbers = [
            (UID, u64::from(entry.uid), &b"uid"[..]),
            (GID, entry.gid.into(), b"gid"),
            (SIZE, size, b"size"),
        ];
        for (field, number, key) in numbers {
            if !put_octal(&mut header, field, number) {
                record(&mut records, key, number.to_string().as_bytes());
            }
        }
        let (seconds, nanos) = entry.mtime;
        let fits = u64::try_from(seconds).is_ok_and(|at| put_octal(&mut header, MTIME, at));
        if !fits || nanos != 0 {
            record(&mut records, b"mtime", time(seconds, nanos).as_bytes());
        }
        if matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            put_octal(&mut header, DEVICE_MAJOR, entry.device.0.into());
            put_octal(&mut header, DEVICE_MINOR, entry.device.1.into());
        }
        if entry.xattrs.len() > XATTRS_MAX {
            return Err(std::io::Error::other(format!(
                "more than {XATTRS_MAX} extended attributes of one file"
            )));
        }
        for xattr in &entry.xattrs {
            let key = [b"SCHILY.xattr.", &*xattr.name].concat();
            record(&mut records, &key, &xattr.value);
        }
        if !records.is_empty() {
            self.extended(&records)?;
        }
        finish(&mut header, type_flag(entry.kind));
        self.to.write_all(&header)?;
        self.expect(size);
        Ok(())
    }

    /// Writes data of the current entry.
    ///
    /// # Errors
    /// What writing says, or that it is more than its size.
    pub fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "more data than the entry has"))?;
        self.to.write_all(bytes)
    }

    /// Bytes of the current entry's data that have not been written yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Ends the archive and gives back what it was written to, flushed.
    ///
    /// # Errors
    /// As [`Self::entry`].
    pub fn finish(mut self) -> Result<W> {
        self.end_entry()?;
        self.to.write_all(&ZEROS)?;
        self.to.write_all(&ZEROS)?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn extended(&mut self, records: &[u8]) -> Result<()> {
        let mut header = [0; RECORD];
        set(&mut header, NAME, PAX_NAME);
        put_octal(&mut header, MODE, 0o644);
        for field in [UID, GID, MTIME] {
            put_octal(&mut header, field, 0);
        }
        put_octal(&mut header, SIZE, records.len() as u64);
        finish(&mut header, b'x');
        self.to.write_all(&header)?;
        self.expect(records.len() as u64);
        self.data(records)?;
        self.end_entry()
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        let over = usize::try_from(size % RECORD as u64).unwrap_or(0);
        self.padding = (RECORD - over) % RECORD;
    }

    fn end_entry(&mut self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "less data than the entry has",
            ));
        }
        let padding = std::mem::take(&mut self.padding);
        self.to.write_all(ZEROS.get(..padding).unwrap_or_default())
    }
}

fn type_flag(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::CharDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }
}

/// Writes bytes that fit into a field.
fn set(header: &mut [u8; RECORD], field: Range<usize>, bytes: &[u8]) {
    for (place, byte) in header.get_mut(field).into_iter().flatten().zip(bytes) {
        *place = *byte;
    }
}

/// Writes a name, or its beginning and a record with all of it.
fn put_name(
    header: &mut [u8; RECORD],
    field: Range<usize>,
    name: &[u8],
    key: &[u8],
    records: &mut Vec<u8>,
) {
    set(header, field.clone(), name);
    if name.len() > field.len() {
        record(records, key, name);
    }
}

/// Writes octal digits and a NUL; `false`, with zeros in their place, when there are too many.
fn put_octal(header: &mut [u8; RECORD], field: Range<usize>, number: u64) -> bool {
    let width = field.len() - 1;
    let text = format!("{number:0width$o}");
    let fits = text.len() <= width;
    let zeros = "0".repeat(width);
    set(header, field, if fits { &text } else { &zeros }.as_bytes());
    fits
}

/// Writes what every header has, the sum last.
fn finish(header: &mut [u8; RECORD], type_flag: u8) {
    set(header, MAGIC, USTAR);
    set(header, TYPE_FLAG, &[type_flag]);
    set(header, CHECKSUM, &[b' '; 8]);
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    set(header, CHECKSUM, format!("{sum:06o}\0 ").as_bytes());
}

/// Adds `LENGTH KEY=VALUE\n`, where the length counts its own digits, too.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The blank, the equals sign and the end of the line.
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(len.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds with nine decimals; of a time before 1970 the decimals count backward.
fn time(seconds: i64, nanos: u32) -> String {
    if seconds >= 0 || nanos == 0 {
        return format!("{seconds}.{nanos:09}");
    }
    let (seconds, nanos) = (seconds + 1, 1_000_000_000 - nanos.min(999_999_999));
    format!("-{}.{nanos:09}", seconds.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::{Piece, TarReader, Xattr};

    fn entry(kind: EntryKind, path: &[u8]) -> Entry {
        Entry {
            path: path.to_vec(),
            link: Vec::new(),
            kind,
            mode: 0o644,
            uid: 1,
            gid: 2,
            mtime: (1_234_567_890, 0),
            device: (0, 0),
            size: 0,
            pieces: vec![Piece { offset: 0, len: 0 }],
            xattrs: Vec::new(),
        }
    }

    fn file(path: &[u8], size: u64) -> Entry {
        Entry {
            size,
            pieces: vec![Piece {
                offset: 0,
                len: size,
            }],
            ..entry(EntryKind::File, path)
        }
    }

    /// Every kind, and what needs records.
    fn all() -> Vec<(Entry, Vec<u8>)> {
        let xattr = |name: &[u8], value: &[u8]| Xattr {
            name: name.to_vec(),
            value: value.to_vec(),
        };
        let mut all = vec![
            (entry(EntryKind::Directory, b"d/"), Vec::new()),
            (file(b"d/empty", 0), Vec::new()),
            (file(b"d/one", 1), vec![1]),
            (file(b"d/record", 512), vec![7; 512]),
            (file(&[b'n'; 100], 3), b"abc".to_vec()),
            (file(&[b'n'; 101], 3), b"abc".to_vec()),
            (file("d/ünicode".as_bytes(), 3), b"abc".to_vec()),
            (file(b"d/\xff\xfe", 3), b"abc".to_vec()),
            (entry(EntryKind::Fifo, b"fifo"), Vec::new()),
        ];
        for (kind, link) in [
            (EntryKind::HardLink, vec![b'l'; 300]),
            (EntryKind::Symlink, b"../a b".to_vec()),
        ] {
            let entry = Entry {
                link,
                ..entry(kind, b"link")
            };
            all.push((entry, Vec::new()));
        }
        for kind in [EntryKind::CharDevice, EntryKind::BlockDevice] {
            let entry = Entry {
                device: (4095, 1_048_575),
                ..entry(kind, b"device")
            };
            all.push((entry, Vec::new()));
        }
        for mtime in [
            (0, 1),
            (-1, 0),
            (-1, 999_999_999),
            (-2, 250_000_000),
            (1 << 40, 5),
            (i64::MIN + 1, 0),
        ] {
            let entry = Entry {
                mtime,
                mode: 0o7777,
                uid: u32::MAX,
                gid: 0o10_000_000,
                xattrs: vec![
                    xattr(b"user.a", b"=\n\0"),
                    xattr(b"security.capability", &[1; 90]),
                ],
                ..file(b"attributes", 2)
            };
            all.push((entry, b"xy".to_vec()));
        }
        all
    }

    fn archive(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
        let mut writer = TarWriter::new(Vec::new());
        for (entry, data) in entries {
            writer.entry(entry).unwrap();
            writer.data(data).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let all = all();
        let bytes = archive(&all);
        assert_eq!(bytes.len() % RECORD, 0);
        let mut reader = TarReader::new(&*bytes);
        for (entry, data) in &all {
            let read = reader.next_entry().unwrap().unwrap();
            assert_eq!(read, *entry);
            let mut buffer = vec![0; data.len() + 1];
            assert_eq!(reader.read(&mut buffer).unwrap(), data.len());
            assert_eq!(buffer[..data.len()], **data);
        }
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_small_file_takes_a_record_and_the_end_two() {
        assert_eq!(archive(&[(file(b"a", 1), vec![1])]).len(), 2048);
    }

    #[test]
    fn sizes_beyond_eight_gib_are_records() {
        let mut writer = TarWriter::new(Vec::new());
        writer.entry(&file(b"large", 9 << 30)).unwrap();
        assert_eq!(writer.left(), 9 << 30);
        let bytes = std::mem::take(&mut writer.to);
        let read = TarReader::new(&*bytes).next_entry().unwrap().unwrap();
        assert_eq!(read.size, 9 << 30);
    }

    #[test]
    fn too_much_and_too_little_data_are_errors() {
        let mut writer = TarWriter::new(Vec::new());
        writer.entry(&file(b"a", 2)).unwrap();
        assert!(writer.data(b"abc").is_err());
        writer.data(b"a").unwrap();
        assert!(writer.entry(&file(b"b", 0)).is_err());
        assert!(writer.finish().is_err());
    }

    #[test]
    fn lengths_of_records_count_themselves() {
        for len in [1, 4, 5, 6, 90, 91, 92, 93, 985, 986, 987, 988, 989] {
            let mut records = Vec::new();
            record(&mut records, b"k", &vec![b'v'; len]);
            let text = String::from_utf8(records.clone()).unwrap();
            let (digits, _) = text.split_once(' ').unwrap();
            assert_eq!(digits.parse::<usize>().unwrap(), records.len(), "{len}");
        }
    }

    /// GNU tar reads the archive as it was meant.
    #[test]
    fn gnu_tar_agrees() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.tar");
        let mut long = file(&[b"long/".repeat(50), b"name".to_vec()].concat(), 3);
        long.mtime = (1_234_567_890, 123_456_789);
        long.uid = 3_000_000;
        let entries = [
            (entry(EntryKind::Directory, b"d"), Vec::new()),
            (long.clone(), b"abc".to_vec()),
            (
                Entry {
                    link: vec![b't'; 200],
                    ..entry(EntryKind::Symlink, b"d/link")
                },
                Vec::new(),
            ),
        ];
        std::fs::write(&path, archive(&entries)).unwrap();
        let list = std::process::Command::new("tar")
            .args(["--numeric-owner", "--full-time", "--utc", "-tvf"])
            .arg(&path)
            .output()
            .unwrap();
        let text = String::from_utf8(list.stdout).unwrap();
        assert!(list.status.success() && list.stderr.is_empty(), "{text}");
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let name = String::from_utf8(long.path).unwrap();
        assert_eq!(
            lines,
            [
                "drw-r--r-- 1/2 0 2009-02-13 23:31:30 d/".to_owned(),
                format!("-rw-r--r-- 3000000/2 3 2009-02-13 23:31:30.123456789 {name}"),
                format!(
                    "lrw-r--r-- 1/2 0 2009-02-13 23:31:30 d/link -> {}",
                    "t".repeat(200)
                ),
            ]
        );
    }
}
