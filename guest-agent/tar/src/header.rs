//! The 512-byte header of a tar's entry: fields and the numbers in them.
//!
//! Called by [`crate::TarReader`]. Formats: POSIX.1-1988 ustar, GNU, and the ones before; what they
//! leave open is read as Go's archive/tar does, which is what Docker reads layers with.

use std::ops::Range;

/// Size of a header, and unit of data, in bytes.
pub(super) const RECORD: usize = 512;

/// Fields, as offsets in the header.
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
pub(super) const DEVICE_MAJOR: Range<usize> = 329..337;
pub(super) const DEVICE_MINOR: Range<usize> = 337..345;
const NAME: Range<usize> = 0..100;
const CHECKSUM: Range<usize> = 148..156;
const TYPE_FLAG: usize = 156;
const LINK_NAME: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
const PREFIX: Range<usize> = 345..500;
/// star keeps two times behind a shorter prefix, and its name at the very end.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;
const GNU_ATIME: Range<usize> = 345..357;
const GNU_CTIME: Range<usize> = 357..369;

/// Which fields there are behind the first 257 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// None.
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header.
pub(super) struct Header(pub(super) [u8; RECORD]);

impl Header {
    pub(super) fn field(&self, range: Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    pub(super) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or_default()
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.byte(TYPE_FLAG)
    }

    /// The sum of all bytes with the sum's own field taken as spaces. Old archivers took bytes as
    /// signed.
    pub(super) fn checksum_holds(&self) -> bool {
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, byte) in self.0.iter().enumerate() {
            let byte = if CHECKSUM.contains(&at) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        octal(self.field(CHECKSUM)).is_some_and(|sum| sum == unsigned || sum == signed)
    }

    fn format(&self) -> Format {
        match self.field(MAGIC) {
            b"ustar\0" if self.field(STAR_TRAILER) == b"tar\0" => Format::Star,
            b"ustar\0" => Format::Ustar,
            b"ustar " => Format::Gnu,
            _ => Format::V7,
        }
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(self.field(NAME));
        let prefix = match self.format() {
            Format::Ustar => until_nul(self.field(PREFIX)),
            Format::Star => until_nul(self.field(STAR_PREFIX)),
            Format::Gnu if self.has_prefix_for_times() => until_nul(self.field(PREFIX)),
            Format::Gnu | Format::V7 => &[],
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, name].join(&b'/')
        }
    }

    /// Before Go 1.8, Docker wrote ustar's prefix into GNU headers, in the place of two times that
    /// are hardly ever there: old images have it.
    fn has_prefix_for_times(&self) -> bool {
        let is_time =
            |field: &[u8]| field.first().is_none_or(|first| *first == 0) || number(field).is_some();
        let times = is_time(self.field(GNU_ATIME)) && is_time(self.field(GNU_CTIME));
        !times && until_nul(self.field(PREFIX)).is_ascii()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        until_nul(self.field(LINK_NAME)).to_vec()
    }

    /// Whether there are device numbers.
    pub(super) fn has_device(&self) -> bool {
        self.format() != Format::V7
    }

    pub(super) fn number(&self, range: Range<usize>) -> Option<i64> {
        number(self.field(range))
    }
}

/// Octal digits, or two's complement in the rest of the field when its first bit is set (GNU).
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let Some(first) = field.first().filter(|first| **first & 0x80 != 0) else {
        return octal(field);
    };
    // The second bit is the sign. A field has 12 bytes at most, of which 95 bits count.
    let start: i128 = if first & 0x40 == 0 { 0 } else { -1 };
    let mut value = start << 6 | i128::from(first & 0x3f);
    for byte in field.get(1..)? {
        value = value.checked_mul(256)?.checked_add(i128::from(*byte))?;
    }
    i64::try_from(value).ok()
}

/// Octal digits among spaces and NULs; nothing at all is 0.
fn octal(field: &[u8]) -> Option<i64> {
    let padding = |byte: &u8| matches!(byte, 0 | b' ');
    let start = field.iter().position(|byte| !padding(byte));
    let Some(text) = start.and_then(|start| field.get(start..)) else {
        return Some(0);
    };
    let end = text.iter().rposition(|byte| !padding(byte))? + 1;
    let mut value: i64 = 0;
    for byte in until_nul(text.get(..end)?) {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value = value.checked_mul(8)?.checked_add(i64::from(digit))?;
    }
    Some(value)
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_numbers() {
        for (field, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b" 644 \0\0", Some(0o644)),
            (b"\0\x30644", Some(0o644)),
            (b"644\0junk", Some(0o644)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"", Some(0)),
            (b" \0\0 ", Some(0)),
            (b"64 4", None),
            (b"648", None),
            (b"-1", None),
            (b"0x1f", None),
        ] {
            assert_eq!(number(field), want, "{:?}", field.escape_ascii());
        }
    }

    #[test]
    fn base_256_numbers() {
        for (field, want) in [
            (&b"\x80\x00\x00\x01"[..], Some(1)),
            (b"\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xfe", Some(-2)),
            (b"\xbf\xff", Some(0x3fff)),
            (b"\xc0\x00", Some(-0x4000)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
            (b"\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xc0\0\0\0\0\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field), want, "{:?}", field.escape_ascii());
        }
    }
}
