//! The data of regular files: from the tar to the output, with long runs of zeros left out.
//!
//! Called by [`super::apply`] for each file, while the tar stands at its data.

use std::io::Read;

use super::UnpackError;
use super::output::{BLOCK, Output};
use super::tree::{Data, Extent};
use tarball::{Entry, Piece, TarReader};

/// File data is looked at in units of this many bytes: a unit of zeros becomes a hole. Holes are
/// described unit by unit, so smaller ones are not worth it.
const UNIT: usize = 64 << 10;

/// Largest last block that is kept with the inode; a larger one gets a block of its own, which
/// wastes at most half of it.
const TAIL_MAX: usize = BLOCK / 2;

/// Bytes of last blocks that are kept in memory until the inodes are written; from then on, they
/// get blocks of their own.
const TAILS_MAX: usize = 256 << 20;

/// Writes files.
pub(super) struct FileWriter {
    unit: Vec<u8>,
}

impl FileWriter {
    pub(super) fn new() -> Self {
        Self {
            unit: vec![0; UNIT],
        }
    }

    /// Copies the entry's data from `tar` to `output`; a last block may go to `tails` instead,
    /// unless `tail_fits` says that there is no room for it beside the inode's attributes.
    ///
    /// # Errors
    /// The tar ends early, the output is full.
    pub(super) fn write(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<impl Read>,
        output: &mut Output,
        tails: &mut Vec<u8>,
        tail_fits: bool,
    ) -> Result<Data, UnpackError> {
        let mut source = Source {
            pieces: &entry.pieces,
            used: 0,
        };
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = 0;
        // Where the next data would have to begin for the file to have no hole.
        let mut dense_end = 0;
        while at < entry.size {
            // Units that no data lies in are passed over without looking at each.
            let data_at = source.next_data().unwrap_or(entry.size);
            at += data_at.saturating_sub(at) / UNIT as u64 * UNIT as u64;
            if at >= entry.size {
                break;
            }
            let len = usize::try_from(entry.size - at).map_or(UNIT, |left| left.min(UNIT));
            let unit = self.unit.get_mut(..len).unwrap_or_default();
            source.fill(tar, at, unit)?;
            let dense = at == dense_end;
            // A short unit at the end is only left out of a file that has a map anyway.
            if !is_zero(unit) || (len < UNIT && dense) {
                let tail = len % BLOCK;
                if dense && tail > 0 && tail <= TAIL_MAX && tail_fits {
                    let (blocks, tail) = unit.split_at(len - tail);
                    if tails.len() + tail.len() <= TAILS_MAX {
                        store(at, blocks, output, &mut extents)?;
                        let start = u32::try_from(tails.len()).map_err(|_| too_large())?;
                        tails.extend_from_slice(tail);
                        return Ok(Data::Tail {
                            block: first_block(&extents),
                            at: start,
                        });
                    }
                }
                store(at, unit, output, &mut extents)?;
                if dense {
                    dense_end = at + len as u64;
                }
            }
            at += len as u64;
        }
        Ok(if dense_end == entry.size {
            Data::Flat {
                block: first_block(&extents),
            }
        } else {
            Data::Holes(extents.into())
        })
    }
}

/// Where the only extent of a file without holes begins; any number will do without one.
fn first_block(extents: &[Extent]) -> u32 {
    extents.first().map_or(0, |extent| extent.block)
}

fn too_large() -> UnpackError {
    UnpackError::corrupt("its size is beyond what EROFS addresses")
}

/// Appends `bytes`, the file's at `at`, a multiple of the block size, to the output.
fn store(
    at: u64,
    bytes: &[u8],
    output: &mut Output,
    extents: &mut Vec<Extent>,
) -> Result<(), UnpackError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let from = u32::try_from(at / BLOCK as u64).map_err(|_| too_large())?;
    let count = u32::try_from(bytes.len().div_ceil(BLOCK)).map_err(|_| too_large())?;
    let block = output.block()?;
    output.append(bytes)?;
    output.pad()?;
    match extents.last_mut() {
        // Nothing else is written while a file is, so its blocks follow each other.
        Some(last) if last.end() == from => last.count += count,
        _ => extents.push(Extent { from, block, count }),
    }
    Ok(())
}

/// The data of a file as the archive holds it: piece after piece.
struct Source<'a> {
    pieces: &'a [Piece],
    /// Bytes of the first piece that were read.
    used: u64,
}

impl Source<'_> {
    /// Offset of the next byte of data.
    fn next_data(&mut self) -> Option<u64> {
        loop {
            let (piece, rest) = self.pieces.split_first()?;
            if self.used < piece.len {
                return Some(piece.offset + self.used);
            }
            self.pieces = rest;
            self.used = 0;
        }
    }

    /// Fills `bytes`, the file's at `at`, with data and with zeros where there is none.
    fn fill(
        &mut self,
        tar: &mut TarReader<impl Read>,
        at: u64,
        bytes: &mut [u8],
    ) -> Result<(), UnpackError> {
        let mut filled = 0;
        while let Some(data_at) = self.next_data() {
            let Some(gap) = usize::try_from(data_at.saturating_sub(at))
                .ok()
                .filter(|gap| *gap < bytes.len())
            else {
                break;
            };
            let left = self.pieces.first().map_or(0, |piece| piece.len - self.used);
            let len = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len() - gap));
            let end = (gap + len).min(bytes.len());
            bytes.get_mut(filled..gap).unwrap_or_default().fill(0);
            let room = bytes.get_mut(gap..end).unwrap_or_default();
            let read = tar.read(room)?;
            if read < room.len() {
                return Err(UnpackError::corrupt("its data ends early"));
            }
            self.used += read as u64;
            filled = end;
        }
        bytes.get_mut(filled..).unwrap_or_default().fill(0);
        Ok(())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Data that is not zeros is mostly seen at its first bytes.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}
