//! Reads a tar: ustar, PAX and GNU headers, GNU's four sparse forms. Every field is a stranger's.
//!
//! Called by [`super::apply`]. It knows no tree and writes nothing. Format: POSIX.1-2001 pax
//! interchange format; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".

use std::io::{ErrorKind, Read};

use super::{UnpackError, shown};

/// Size of a header and unit of data.
const RECORD: usize = 512;

/// Bytes of one extended header or long name: paths end at 4096 bytes, extended attributes at
/// 64 KiB each.
const EXTENDED_MAX: u64 = 1 << 20;

/// Pieces of one sparse file.
const SPARSE_PIECES_MAX: usize = 1 << 20;

/// Largest file: what EROFS addresses with 32-bit block numbers of 4 KiB.
const FILE_BYTES_MAX: u64 = 1 << 44;

/// Extended attributes of one entry, and bytes of one value (`XATTR_SIZE_MAX`).
const XATTRS_MAX: usize = 128;
const XATTR_VALUE_MAX: usize = 65_536;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// Data of a sparse file: offset and length of each piece, in order.
pub(super) type SparseMap = Vec<(u64, u64)>;

/// One entry; its data is read by [`TarReader::read`].
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) device: (u32, u32),
    /// Size of the file; without a sparse map also what the archive holds of it.
    pub(super) size: u64,
    pub(super) sparse: Option<SparseMap>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Records of PAX extended headers that matter here.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Sparse,
}

/// GNU.sparse.* records.
#[derive(Debug, Default)]
struct Sparse {
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    major: Option<u64>,
    /// 0.0: alternating offsets and lengths; 0.1: the same from one list.
    numbers: Vec<u64>,
}

/// A tar being read.
pub(super) struct TarReader<R> {
    from: R,
    /// Bytes of the current entry's data that were not read yet, and the padding behind them.
    left: u64,
    padding: u64,
    /// Offset in the tar, for messages.
    offset: u64,
}

impl<R: Read> TarReader<R> {
    /// Reads `from`.
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            left: 0,
            padding: 0,
            offset: 0,
        }
    }

    /// Fills `buffer` with as much as there is; fewer bytes mean the end.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.from.read(room) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(UnpackError::Io {
                        operation: "read the layer",
                        source,
                    });
                }
            }
        }
        self.offset = self.offset.saturating_add(filled as u64);
        Ok(filled)
    }

    fn truncated(&self) -> UnpackError {
        UnpackError::corrupt(format!("the tar is truncated at byte {}", self.offset))
    }

    fn bad(&self, what: &str) -> UnpackError {
        UnpackError::corrupt(format!("tar header before byte {}: {what}", self.offset))
    }

    /// Reads data of the current entry; 0 at its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let want = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let Some(room) = buffer.get_mut(..want) else {
            return Ok(0);
        };
        let len = self.fill(room)?;
        if len < want {
            return Err(self.truncated());
        }
        self.left -= len as u64;
        Ok(len)
    }

    /// Passes over what is left of the current entry.
    fn skip(&mut self) -> Result<(), UnpackError> {
        let mut buffer = [0; 16 << 10];
        while self.left > 0 {
            self.read(&mut buffer)?;
        }
        self.left = std::mem::take(&mut self.padding);
        while self.left > 0 {
            // GNU tar itself reads archives whose last padding is missing.
            let want = usize::try_from(self.left).map_or(buffer.len(), |n| n.min(buffer.len()));
            let Some(room) = buffer.get_mut(..want) else {
                break;
            };
            let len = self.fill(room)?;
            if len < want {
                self.left = 0;
            } else {
                self.left -= len as u64;
            }
        }
        Ok(())
    }

    fn set_data(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(RECORD as u64) - size;
    }

    /// The next entry, or `None` at the end of the archive.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut extended = Extended::default();
        let mut pending = false;
        loop {
            self.skip()?;
            let mut header = [0; RECORD];
            let filled = self.fill(&mut header)?;
            if filled == 0 || header.iter().all(|byte| *byte == 0) {
                // One zero record or the end of the file: both are taken for the end.
                return if pending || (filled > 0 && filled < RECORD) {
                    Err(self.truncated())
                } else {
                    Ok(None)
                };
            }
            if filled < RECORD {
                return Err(self.truncated());
            }
            let header = Header(&header);
            if !header.checksum_holds() {
                return Err(self.bad("its checksum is wrong"));
            }
            let size = header
                .number(124..136)
                .ok_or_else(|| self.bad("its size is no number"))?;
            let size = u64::try_from(size).map_err(|_| self.bad("its size is negative"))?;
            match header.byte(156) {
                b'x' => {
                    let records = self.small(size)?;
                    self.read_pax(&records, &mut extended)?;
                    pending = true;
                }
                b'g' => self.small(size).map(drop)?,
                b'L' => {
                    extended.path = Some(until_nul(&self.small(size)?));
                    pending = true;
                }
                b'K' => {
                    extended.link = Some(until_nul(&self.small(size)?));
                    pending = true;
                }
                _ => return self.entry(&header, size, extended).map(Some),
            }
        }
    }

    /// The data of an extended header.
    fn small(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > EXTENDED_MAX {
            return Err(UnpackError::Limit {
                what: "bytes of one extended tar header",
                limit: EXTENDED_MAX,
            });
        }
        self.set_data(size);
        let mut data = vec![0; usize::try_from(size).map_err(|_| self.truncated())?];
        self.read(&mut data)?;
        Ok(data)
    }

    fn entry(
        &mut self,
        header: &Header,
        mut size: u64,
        extended: Extended,
    ) -> Result<Entry, UnpackError> {
        let type_flag = header.byte(156);
        size = extended.size.unwrap_or(size);
        let mut path = extended.path.unwrap_or_else(|| header.path());
        let kind = match type_flag {
            // Old archives have no type for a directory, only a slash.
            0 | b'0' | b'7' if path.last() == Some(&b'/') && type_flag == 0 => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let what = format!("{} has the unknown type {other:#04x}", shown(&path));
                return Err(self.bad(&what));
            }
        };
        if kind == EntryKind::File {
            self.set_data(size);
        } else {
            // Some archivers give hard links the size of their target, without its data.
            size = 0;
            self.set_data(0);
        }
        let mut sparse = None;
        if kind == EntryKind::File {
            if type_flag == b'S' {
                let (map, real) = self.old_gnu_sparse(header)?;
                size = real;
                sparse = Some(map);
            } else if extended.sparse.real_size.is_some() || extended.sparse.major.is_some() {
                let real = extended
                    .sparse
                    .real_size
                    .ok_or_else(|| self.bad("a sparse file without a size"))?;
                let map = match extended.sparse.major {
                    Some(1) => self.sparse_map_in_data()?,
                    _ => pairs(&extended.sparse.numbers),
                };
                if let Some(name) = extended.sparse.name {
                    path = name;
                }
                sparse = Some(map.ok_or_else(|| self.bad("its sparse map is damaged"))?);
                size = real;
            }
            self.check_sparse(sparse.as_deref(), size)?;
        }
        let number = |range, what: &str| {
            header
                .number(range)
                .ok_or_else(|| self.bad(&format!("its {what} is no number")))
        };
        let id = |given: Option<u32>, range, what: &str| match given {
            Some(id) => Ok(id),
            None => u32::try_from(number(range, what)?)
                .map_err(|_| self.bad(&format!("its {what} is out of range"))),
        };
        let device = if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            (
                id(None, 329..337, "device major")?,
                id(None, 337..345, "device minor")?,
            )
        } else {
            (0, 0)
        };
        let mode = number(100..108, "mode")?;
        Ok(Entry {
            link: extended
                .link
                .unwrap_or_else(|| until_nul(header.field(157..257))),
            kind,
            // Type bits in the mode are the archiver's business.
            mode: u16::try_from(mode & 0o7777).unwrap_or(0),
            uid: id(extended.uid, 108..116, "uid")?,
            gid: id(extended.gid, 116..124, "gid")?,
            mtime: match extended.mtime {
                Some(mtime) => mtime,
                None => (
                    i64::try_from(number(136..148, "mtime")?)
                        .map_err(|_| self.bad("its mtime is out of range"))?,
                    0,
                ),
            },
            device,
            size,
            sparse,
            xattrs: extended.xattrs,
            path,
        })
    }

    fn read_pax(&self, records: &[u8], out: &mut Extended) -> Result<(), UnpackError> {
        let bad = || self.bad("its extended header is damaged");
        let mut rest = records;
        // Behind the last record there may be padding.
        while rest.first().is_some_and(|byte| *byte != 0) {
            let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let len = decimal(rest.get(..space).unwrap_or_default()).ok_or_else(bad)?;
            let len = usize::try_from(len).map_err(|_| bad())?;
            let record = rest.get(space + 1..len).ok_or_else(bad)?;
            let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
            rest = rest.get(len..).unwrap_or_default();
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(bad)?;
            let (key, value) = record.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            self.pax_record(key, value, out)?;
        }
        Ok(())
    }

    fn pax_record(&self, key: &[u8], value: &[u8], out: &mut Extended) -> Result<(), UnpackError> {
        let bad = || self.bad(&format!("its record {} is damaged", shown(key)));
        let id = |value| {
            decimal(value)
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(bad)
        };
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if out.xattrs.len() == XATTRS_MAX {
                return Err(UnpackError::Limit {
                    what: "extended attributes of one entry",
                    limit: XATTRS_MAX as u64,
                });
            }
            if value.len() > XATTR_VALUE_MAX {
                return Err(UnpackError::Limit {
                    what: "bytes of one extended attribute",
                    limit: XATTR_VALUE_MAX as u64,
                });
            }
            out.xattrs.retain(|(other, _)| other != name);
            out.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        match key {
            b"path" | b"linkpath" if value.contains(&0) => return Err(bad()),
            // An empty value takes a record back (pax).
            b"path" => out.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => out.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => out.size = Some(decimal(value).ok_or_else(bad)?),
            b"uid" => out.uid = Some(id(value)?),
            b"gid" => out.gid = Some(id(value)?),
            b"mtime" => out.mtime = Some(seconds(value).ok_or_else(bad)?),
            b"GNU.sparse.name" => out.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                out.sparse.real_size = Some(decimal(value).ok_or_else(bad)?);
            }
            b"GNU.sparse.major" => out.sparse.major = Some(decimal(value).ok_or_else(bad)?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                out.sparse.numbers.push(decimal(value).ok_or_else(bad)?);
            }
            b"GNU.sparse.map" => {
                out.sparse.numbers = value
                    .split(|byte| *byte == b',')
                    .filter(|text| !text.is_empty())
                    .map(|text| decimal(text).ok_or_else(bad))
                    .collect::<Result<_, _>>()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The old GNU form: four pieces in the header, more in records behind it.
    fn old_gnu_sparse(&mut self, header: &Header) -> Result<(SparseMap, u64), UnpackError> {
        let real = header.number(483..495).and_then(|n| u64::try_from(n).ok());
        let real = real.ok_or_else(|| self.bad("its real size is no number"))?;
        let mut map = SparseMap::new();
        let mut more =
            self.sparse_pieces(header.field(386..482), &mut map)? && header.byte(482) != 0;
        let (left, padding) = (self.left, self.padding);
        while more {
            let mut record = [0; RECORD];
            if self.fill(&mut record)? < RECORD {
                return Err(self.truncated());
            }
            let record = Header(&record);
            more = self.sparse_pieces(record.field(0..504), &mut map)? && record.byte(504) != 0;
        }
        (self.left, self.padding) = (left, padding);
        Ok((map, real))
    }

    /// Pieces of 12 + 12 digits; `false` when the list ended.
    fn sparse_pieces(&self, fields: &[u8], map: &mut SparseMap) -> Result<bool, UnpackError> {
        for piece in fields.chunks_exact(24) {
            let (offset, len) = piece.split_at(12);
            if offset.iter().all(|byte| *byte == 0) {
                return Ok(false);
            }
            let number = |field| number(field).and_then(|n| u64::try_from(n).ok());
            match (number(offset), number(len)) {
                (Some(offset), Some(len)) if map.len() < SPARSE_PIECES_MAX => {
                    map.push((offset, len))
                }
                _ => return Err(self.bad("its sparse map is damaged")),
            }
        }
        Ok(true)
    }

    /// GNU 1.0: the map is at the front of the data, decimal numbers on lines, padded to a record.
    fn sparse_map_in_data(&mut self) -> Result<Option<SparseMap>, UnpackError> {
        let mut numbers = Vec::new();
        let mut text = Vec::new();
        let mut expected = 1;
        while numbers.len() < expected {
            let mut record = [0; RECORD];
            if self.read(&mut record)? < RECORD {
                return Ok(None);
            }
            for byte in record {
                if numbers.len() == expected {
                    break;
                }
                match byte {
                    b'\n' => {
                        let Some(number) = decimal(&std::mem::take(&mut text)) else {
                            return Ok(None);
                        };
                        numbers.push(number);
                        if numbers.len() == 1 {
                            let Some(count) = usize::try_from(number)
                                .ok()
                                .filter(|n| *n <= SPARSE_PIECES_MAX)
                            else {
                                return Ok(None);
                            };
                            expected = 1 + 2 * count;
                        }
                    }
                    _ if text.len() < 20 => text.push(byte),
                    _ => return Ok(None),
                }
            }
        }
        Ok(pairs(numbers.get(1..).unwrap_or_default()))
    }

    fn check_sparse(&self, map: Option<&[(u64, u64)]>, size: u64) -> Result<(), UnpackError> {
        if size > FILE_BYTES_MAX {
            return Err(UnpackError::Limit {
                what: "bytes of one file",
                limit: FILE_BYTES_MAX,
            });
        }
        let Some(map) = map else { return Ok(()) };
        let (mut at, mut stored) = (0, 0_u64);
        for (offset, len) in map {
            let end = offset
                .checked_add(*len)
                .filter(|end| *offset >= at && *end <= size);
            at = end.ok_or_else(|| self.bad("its sparse map is out of order or range"))?;
            stored = stored.saturating_add(*len);
        }
        if stored != self.left {
            return Err(self.bad("its sparse map does not fit its data"));
        }
        Ok(())
    }
}

fn pairs(numbers: &[u64]) -> Option<SparseMap> {
    let pairs = numbers.chunks_exact(2);
    if !pairs.remainder().is_empty() || numbers.len() > 2 * SPARSE_PIECES_MAX {
        return None;
    }
    pairs
        .map(|pair| Some((*pair.first()?, *pair.get(1)?)))
        .collect()
}

/// A header record.
struct Header<'a>(&'a [u8; RECORD]);

impl Header<'_> {
    fn field(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn number(&self, range: std::ops::Range<usize>) -> Option<i128> {
        number(self.field(range))
    }

    /// Sum of all bytes with the checksum itself taken for spaces; old archivers summed up signed
    /// bytes.
    fn checksum_holds(&self) -> bool {
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        let Some(wanted) = octal(self.field(148..156)) else {
            return false;
        };
        wanted == i128::from(unsigned) || wanted == i128::from(signed)
    }

    fn path(&self) -> Vec<u8> {
        let name = until_nul(self.field(0..100));
        // Only POSIX's ustar has a prefix there; GNU has other fields in its place.
        if self.field(257..263) != b"ustar\0" {
            return name;
        }
        let prefix = until_nul(self.field(345..500));
        if prefix.is_empty() {
            name
        } else {
            [prefix, name].join(&b'/')
        }
    }
}

/// Octal digits, or base 256 when the first bit is set (GNU).
fn number(field: &[u8]) -> Option<i128> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => {
            // Two's complement over the rest of the field; the second bit is the sign.
            let mut value: i128 = if first & 0x40 == 0 { 0 } else { -1 };
            value = value << 6 | i128::from(first & 0x3f);
            for byte in field.get(1..)? {
                value = value.checked_mul(256)?.checked_add(i128::from(*byte))?;
            }
            Some(value)
        }
        _ => octal(field),
    }
}

/// Spaces, octal digits, then a space or NUL; nothing at all is 0.
fn octal(field: &[u8]) -> Option<i128> {
    let text = field.trim_ascii_start();
    let end = text
        .iter()
        .position(|byte| matches!(byte, 0 | b' '))
        .unwrap_or(text.len());
    let mut value = 0;
    for byte in text.get(..end)? {
        if !(b'0'..=b'7').contains(byte) {
            return None;
        }
        value = value * 8 + i128::from(byte - b'0');
    }
    Some(value)
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `-12.345` as seconds and nanoseconds, the latter counting forward.
fn seconds(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text
        .iter()
        .position(|byte| *byte == b'.')
        .unwrap_or(text.len());
    let whole = i64::try_from(decimal(text.get(..dot)?)?).ok()?;
    let mut nanos: u32 = 0;
    let fraction = text.get(dot..)?.strip_prefix(b".").unwrap_or_default();
    for place in 0..9 {
        let digit = match fraction.get(place) {
            Some(byte) if byte.is_ascii_digit() => u32::from(byte - b'0'),
            Some(_) => return None,
            None => 0,
        };
        nanos = nanos * 10 + digit;
    }
    Some(match (negative, nanos) {
        (false, _) => (whole, nanos),
        (true, 0) => (-whole, 0),
        (true, _) => (-whole - 1, 1_000_000_000 - nanos),
    })
}

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .to_vec()
}
