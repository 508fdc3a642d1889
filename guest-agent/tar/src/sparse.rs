//! Files with holes, in GNU tar's four forms: where their data lies, checked.
//!
//! Called by [`crate::TarReader`]. Format: GNU tar manual, "Storing Sparse Files".
//!
//! | form | where the map is |
//! |---|---|
//! | old GNU | four pieces in the header, the others in records behind it |
//! | 0.0 | PAX records `GNU.sparse.offset` and `GNU.sparse.numbytes`, again and again |
//! | 0.1 | one PAX record `GNU.sparse.map` |
//! | 1.0 | at the front of the data, decimal numbers on lines |

use std::io::Read;

use super::header::{Header, RECORD, number};
use super::pax::decimal;
use super::reader::{Piece, TarReader};
use crate::error::TarError;

/// Pieces of one file: more would not fit into the map of 64 KiB units that it becomes unless it
/// were larger than 64 GiB.
pub(super) const PIECES_MAX: usize = 1 << 20;

/// Digits of a number in a map.
const DIGITS_MAX: usize = 20;

/// Fields of the old GNU form, as offsets in the header, and its further records.
const OLD_PIECES: std::ops::Range<usize> = 386..482;
const OLD_IS_EXTENDED: usize = 482;
const OLD_REAL_SIZE: std::ops::Range<usize> = 483..495;
const MORE_PIECES: std::ops::Range<usize> = 0..504;
const MORE_IS_EXTENDED: usize = 504;
/// A piece there: 12 bytes of offset, 12 bytes of length.
const OLD_PIECE_LEN: usize = 24;

/// What PAX records say of a sparse file.
#[derive(Debug, Default, Clone)]
pub(super) struct SparseRecords {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) real_size: Option<u64>,
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    /// Number of pieces.
    pub(super) count: Option<u64>,
    /// Offset, length, offset, length …
    pub(super) numbers: Option<Vec<u64>>,
}

impl SparseRecords {
    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            name,
            size,
            real_size,
            major,
            minor,
            count,
            numbers,
        } = self;
        name.is_none()
            && numbers.is_none()
            && [size, real_size, major, minor, count]
                .iter()
                .all(|number| number.is_none())
    }
}

fn damaged() -> TarError {
    TarError::corrupt("its sparse map is damaged")
}

impl<R: Read> TarReader<R> {
    /// The map and size that PAX records describe; the reader stands at the entry's data.
    pub(super) fn pax_sparse(
        &mut self,
        records: &SparseRecords,
    ) -> Result<(Vec<Piece>, u64), TarError> {
        let size = records
            .size
            .or(records.real_size)
            .ok_or_else(|| TarError::corrupt("a sparse file without a size"))?;
        let map = match (records.major, records.minor, &records.numbers) {
            (Some(1), Some(0), _) => self.map_in_data()?,
            (None, None, Some(numbers)) | (Some(0), Some(0 | 1), Some(numbers)) => {
                let map = pairs(numbers)?;
                let count = u64::try_from(map.len()).map_err(|_| damaged())?;
                if records.count.is_some_and(|given| given != count) {
                    return Err(damaged());
                }
                map
            }
            _ => return Err(TarError::corrupt("a sparse file of an unknown form")),
        };
        Ok((map, size))
    }

    /// The old GNU form.
    pub(super) fn old_gnu_sparse(
        &mut self,
        header: &Header,
    ) -> Result<(Vec<Piece>, u64), TarError> {
        let size = header
            .number(OLD_REAL_SIZE)
            .and_then(|size| u64::try_from(size).ok())
            .ok_or_else(|| TarError::corrupt("its real size is no number"))?;
        let mut map = Vec::new();
        let mut more =
            old_pieces(header.field(OLD_PIECES), &mut map)? && header.byte(OLD_IS_EXTENDED) != 0;
        while more {
            let mut record = [0; RECORD];
            if self.fill(&mut record)? < RECORD {
                return Err(self.truncated());
            }
            let record = Header(record);
            more = old_pieces(record.field(MORE_PIECES), &mut map)?
                && record.byte(MORE_IS_EXTENDED) != 0;
        }
        Ok((map, size))
    }

    /// The number of pieces, then the pieces, then zeros up to the next record.
    fn map_in_data(&mut self) -> Result<Vec<Piece>, TarError> {
        let mut numbers = Vec::new();
        let mut text = Vec::new();
        // A count, and what it counts.
        let mut expected = 1;
        while numbers.len() < expected {
            let mut record = [0; RECORD];
            if self.read(&mut record)? < RECORD {
                return Err(damaged());
            }
            for byte in record {
                if numbers.len() == expected {
                    break;
                }
                if byte != b'\n' {
                    text.push(byte);
                    if text.len() > DIGITS_MAX {
                        return Err(damaged());
                    }
                    continue;
                }
                let number = decimal(&text).ok_or_else(damaged)?;
                text.clear();
                if numbers.is_empty() {
                    let count = usize::try_from(number).map_err(|_| damaged())?;
                    if count > PIECES_MAX {
                        return Err(too_many());
                    }
                    expected = 1 + 2 * count;
                }
                numbers.push(number);
            }
        }
        pairs(numbers.get(1..).unwrap_or_default())
    }
}

fn too_many() -> TarError {
    TarError::Limit {
        what: "pieces of one sparse file",
        limit: PIECES_MAX as u64,
    }
}

/// Pieces of the old GNU form; `false` when the list ended.
fn old_pieces(fields: &[u8], map: &mut Vec<Piece>) -> Result<bool, TarError> {
    for piece in fields.chunks_exact(OLD_PIECE_LEN) {
        let (offset, len) = piece.split_at(OLD_PIECE_LEN / 2);
        if offset.first().is_none_or(|first| *first == 0) {
            return Ok(false);
        }
        if map.len() == PIECES_MAX {
            return Err(too_many());
        }
        let number = |field| {
            number(field)
                .and_then(|number| u64::try_from(number).ok())
                .ok_or_else(damaged)
        };
        map.push(Piece {
            offset: number(offset)?,
            len: number(len)?,
        });
    }
    Ok(true)
}

fn pairs(numbers: &[u64]) -> Result<Vec<Piece>, TarError> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(damaged());
    }
    if pairs.len() > PIECES_MAX {
        return Err(too_many());
    }
    Ok(pairs
        .iter()
        .map(|[offset, len]| Piece {
            offset: *offset,
            len: *len,
        })
        .collect())
}

/// Pieces must come in order, not overlap, end within the file, and be what the archive holds.
pub(super) fn check(map: &[Piece], size: u64, stored: u64) -> Result<(), TarError> {
    let mut at = 0;
    let mut sum: u64 = 0;
    for piece in map {
        at = piece
            .offset
            .checked_add(piece.len)
            .filter(|end| piece.offset >= at && *end <= size)
            .ok_or_else(|| TarError::corrupt("its sparse map is out of order or range"))?;
        sum = sum.saturating_add(piece.len);
    }
    if sum != stored {
        return Err(TarError::corrupt("its sparse map does not fit its data"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pieces: &[(u64, u64)]) -> Vec<Piece> {
        pieces
            .iter()
            .map(|(offset, len)| Piece {
                offset: *offset,
                len: *len,
            })
            .collect()
    }

    #[test]
    fn maps_are_checked() {
        for (pieces, size, stored, ok) in [
            (&[][..], 0, 0, true),
            (&[], 1 << 40, 0, true),
            (&[(0, 5), (5, 5), (20, 0)], 20, 10, true),
            (&[(5, 5), (0, 5)], 20, 10, false),
            (&[(0, 6), (5, 5)], 20, 11, false),
            (&[(0, 21)], 20, 21, false),
            (&[(0, 5)], 20, 6, false),
            (&[(u64::MAX, 1)], u64::MAX, 1, false),
            (&[(1, u64::MAX)], u64::MAX, u64::MAX, false),
        ] {
            let checked = check(&map(pieces), size, stored);
            assert_eq!(checked.is_ok(), ok, "{pieces:?} {checked:?}");
        }
    }

    #[test]
    fn old_maps_end_at_the_first_empty_piece() {
        let mut fields = Vec::new();
        for (offset, len) in [(0o1000, 0o10), (0o2000, 0o20)] {
            fields.extend(format!("{offset:011o}\0{len:011o}\0").bytes());
        }
        let mut found = Vec::new();
        assert!(old_pieces(&fields, &mut found).unwrap());
        assert_eq!(found, map(&[(0o1000, 0o10), (0o2000, 0o20)]));
        fields.extend([0; 24]);
        fields.extend(b"99999999999\099999999999\0");
        assert!(!old_pieces(&fields, &mut Vec::new()).unwrap());
        assert!(old_pieces(fields.get(72..).unwrap(), &mut Vec::new()).is_err());
    }
}
