//! Extended headers of a tar: PAX records and their values.
//!
//! Called by [`crate::TarReader`]. Format: POSIX.1-2001 pax interchange format; the records of star
//! (`SCHILY.`) and GNU tar (`GNU.sparse.`). As strict as Go's archive/tar, which is what Docker
//! reads layers with.

use super::sparse::{PIECES_MAX, SparseRecords};
use crate::error::{TarError, shown};
use crate::reader::Xattr;

/// Extended attributes of one entry: Linux's own file systems hold fewer.
pub const XATTRS_MAX: usize = 128;

/// Bytes of one extended attribute's value. Linux takes one more (`XATTR_SIZE_MAX`), EROFS has 16
/// bits for it.
const XATTR_VALUE_MAX: usize = 65_535;

/// The records that matter here.
#[derive(Debug, Default, Clone)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: SparseRecords,
}

impl Records {
    /// Reads the data of an extended header: `LENGTH KEY=VALUE\n`, again and again.
    pub(super) fn parse(mut rest: &[u8]) -> Result<Self, TarError> {
        let damaged = || TarError::corrupt("its extended header is damaged");
        let mut records = Self::default();
        while !rest.is_empty() {
            let space = rest
                .iter()
                .position(|byte| *byte == b' ')
                .ok_or_else(damaged)?;
            let len = rest.get(..space).and_then(decimal).ok_or_else(damaged)?;
            let len = usize::try_from(len).map_err(|_| damaged())?;
            let record = rest.get(space + 1..len).ok_or_else(damaged)?;
            let record = record.strip_suffix(b"\n").ok_or_else(damaged)?;
            rest = rest.get(len..).unwrap_or_default();
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(damaged)?;
            let (key, value) = record.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            if key.is_empty() || key.contains(&0) {
                return Err(damaged());
            }
            records.add(key, value)?;
        }
        Ok(records)
    }

    /// A key that comes again replaces what was there; one without a value takes it back.
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let damaged = || TarError::corrupt(format!("its record {} is damaged", shown(key)));
        let text = |value: &[u8]| {
            if value.contains(&0) {
                return Err(damaged());
            }
            Ok((!value.is_empty()).then(|| value.to_vec()))
        };
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            return self.add_xattr(name, value);
        }
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link = text(value)?,
            b"size" => self.size = unless_empty(value, decimal, damaged)?,
            b"uid" => self.uid = unless_empty(value, signed, damaged)?,
            b"gid" => self.gid = unless_empty(value, signed, damaged)?,
            b"mtime" => self.mtime = unless_empty(value, seconds, damaged)?,
            b"GNU.sparse.name" => self.sparse.name = text(value)?,
            // 0.0 and 0.1 say size, 1.0 says realsize; Go prefers the former.
            b"GNU.sparse.size" => self.sparse.size = unless_empty(value, decimal, damaged)?,
            b"GNU.sparse.realsize" => {
                self.sparse.real_size = unless_empty(value, decimal, damaged)?;
            }
            b"GNU.sparse.major" => self.sparse.major = unless_empty(value, decimal, damaged)?,
            b"GNU.sparse.minor" => self.sparse.minor = unless_empty(value, decimal, damaged)?,
            b"GNU.sparse.numblocks" => self.sparse.count = unless_empty(value, decimal, damaged)?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                // An offset, its length, the next offset …
                let is_length = key == b"GNU.sparse.numbytes";
                let numbers = self.sparse.numbers.get_or_insert_default();
                if is_length == numbers.len().is_multiple_of(2) || numbers.len() >= 2 * PIECES_MAX {
                    return Err(damaged());
                }
                numbers.push(decimal(value).ok_or_else(damaged)?);
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> = if value.is_empty() {
                    Some(Vec::new())
                } else {
                    value.split(|byte| *byte == b',').map(decimal).collect()
                };
                self.sparse.numbers = Some(numbers.ok_or_else(damaged)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn add_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), TarError> {
        if value.len() > XATTR_VALUE_MAX {
            return Err(TarError::Limit {
                what: "bytes of one extended attribute",
                limit: XATTR_VALUE_MAX as u64,
            });
        }
        self.xattrs.retain(|other| other.name != name);
        if self.xattrs.len() == XATTRS_MAX {
            return Err(TarError::Limit {
                what: "extended attributes of one entry",
                limit: XATTRS_MAX as u64,
            });
        }
        self.xattrs.push(Xattr {
            name: name.to_vec(),
            value: value.to_vec(),
        });
        Ok(())
    }
}

fn unless_empty<T>(
    value: &[u8],
    parse: impl Fn(&[u8]) -> Option<T>,
    damaged: impl Fn() -> TarError,
) -> Result<Option<T>, TarError> {
    if value.is_empty() {
        return Ok(None);
    }
    parse(value).map(Some).ok_or_else(damaged)
}

/// Digits.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Digits, perhaps behind a minus.
fn signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(rest) => 0_i64.checked_sub_unsigned(decimal(rest)?),
        None => i64::try_from(decimal(text)?).ok(),
    }
}

/// `-12.345` as seconds and nanoseconds, the latter counting forward. What is finer than
/// nanoseconds is cut off.
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
    let fraction = text.get(dot..)?.strip_prefix(b".").unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanos = digits.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, _) => (whole, nanos),
        (true, 0) => (-whole, 0),
        (true, _) => (-whole - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, want) in [
            ("0", Some((0, 0))),
            ("1234567890.123456789", Some((1_234_567_890, 123_456_789))),
            ("1.5", Some((1, 500_000_000))),
            ("1.", Some((1, 0))),
            ("1.0000000009", Some((1, 0))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.000000001", Some((-1, 999_999_999))),
            ("9223372036854775807", Some((i64::MAX, 0))),
            ("-9223372036854775807.9", Some((i64::MIN, 100_000_000))),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            (".5", None),
            ("1.5x", None),
            ("1.123456789x", None),
            ("1e9", None),
            ("NaN", None),
            ("+1", None),
        ] {
            assert_eq!(seconds(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn records() {
        let parsed = Records::parse(b"12 path=a/b\n11 uid=123\n8 gid=7\n8 path=\n").unwrap();
        assert_eq!(parsed.path, None, "taken back");
        assert_eq!((parsed.uid, parsed.gid), (Some(123), Some(7)));
        let parsed = Records::parse(b"8 path=\n12 path=a\nb\n").unwrap();
        assert_eq!(parsed.path.unwrap(), b"a\nb");
        let parsed =
            Records::parse(b"28 SCHILY.xattr.user.a=x=y\0\n29 SCHILY.xattr.user.b=12345\n")
                .unwrap();
        let xattr = |name: &[u8], value: &[u8]| Xattr {
            name: name.to_vec(),
            value: value.to_vec(),
        };
        assert_eq!(
            parsed.xattrs,
            [xattr(b"user.a", b"x=y\0"), xattr(b"user.b", b"12345")]
        );
    }

    #[test]
    fn damaged_records_are_refused() {
        for text in [
            &b"x"[..],
            b" path=a\n",
            b"9 path=a",
            b"11 path=ab",
            b"99 path=a\n",
            b"10 path=a\n\0\0",
            b"9 pathab\n",
            b"3 \n",
            b"5 =a\n",
            b"12 pa\0th=ab\n",
            b"11 path=\0b\n",
            b"18446744073709551616 path=a\n",
            b"-9 path=a\n",
            b"8 uid=x\n",
            b"28 uid=18446744073709551616\n",
            b"11 size=-1\n",
            b"15 size=1e1000\n",
            b"11 mtime=.\n",
            b"27 GNU.sparse.numbytes=512\n",
            b"23 GNU.sparse.map=1,,2\n",
        ] {
            assert!(
                Records::parse(text).is_err(),
                "{:?}",
                String::from_utf8_lossy(text)
            );
        }
    }
}
