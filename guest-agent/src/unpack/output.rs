//! The output device: append blocks, then write the metadata behind them. Large sequential writes.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use super::UnpackError;

/// EROFS block size in bytes.
pub(super) const BLOCK: usize = 4096;

/// Bytes written at once.
const BUFFER: usize = 1 << 20;

/// Bytes after which the device is asked whether it has really taken everything: a host whose disk
/// is full says so then, and a bomb is not decompressed to its end.
const SYNC_BYTES: u64 = 64 << 20;

/// Appends blocks from block 1 on; block 0 is the superblock's.
pub(super) struct Output<'a> {
    file: &'a File,
    buffer: Vec<u8>,
    /// Offset of the buffer's first byte.
    start: u64,
    limit: u64,
    /// Offset up to which the device has taken everything.
    synced: u64,
}

impl<'a> Output<'a> {
    /// Writes to `file`, no more than `limit` bytes.
    pub(super) fn new(file: &'a File, limit: u64) -> Self {
        Self {
            file,
            buffer: Vec::with_capacity(BUFFER + BLOCK),
            start: BLOCK as u64,
            limit,
            synced: 0,
        }
    }

    /// Offset of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// Number of the next block; only between whole blocks.
    pub(super) fn block(&self) -> Result<u32, UnpackError> {
        debug_assert_eq!(self.position() % BLOCK as u64, 0);
        u32::try_from(self.position() / BLOCK as u64).map_err(|_| self.too_large())
    }

    fn too_large(&self) -> UnpackError {
        UnpackError::Limit {
            what: "bytes of file system",
            limit: self.limit,
        }
    }

    /// Appends bytes.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        if self.position().saturating_add(bytes.len() as u64) > self.limit {
            return Err(self.too_large());
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    /// Fills the last block up with zeros.
    pub(super) fn pad(&mut self) -> Result<(), UnpackError> {
        let used = self.buffer.len() % BLOCK;
        // The buffer always begins at a block: it is flushed whole blocks at a time.
        if used > 0 {
            let zeros = [0; BLOCK];
            self.append(zeros.get(used..).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Writes whole blocks of the buffer out.
    fn flush(&mut self) -> Result<(), UnpackError> {
        let whole = self.buffer.len() / BLOCK * BLOCK;
        write_at(
            self.file,
            self.buffer.get(..whole).unwrap_or_default(),
            self.start,
        )?;
        self.buffer.drain(..whole);
        self.start += whole as u64;
        if self.start - self.synced >= SYNC_BYTES {
            self.file.sync_data().map_err(error)?;
            self.synced = self.start;
        }
        Ok(())
    }

    /// Writes the rest, padded to a block, and `superblock` to block 0; returns the length.
    pub(super) fn finish(mut self, superblock: &[u8; BLOCK]) -> Result<u64, UnpackError> {
        self.pad()?;
        self.flush()?;
        write_at(self.file, superblock, 0)?;
        Ok(self.start)
    }
}

fn write_at(file: &File, bytes: &[u8], offset: u64) -> Result<(), UnpackError> {
    file.write_all_at(bytes, offset).map_err(error)
}

fn error(source: std::io::Error) -> UnpackError {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::WriteZero => {
            UnpackError::Full
        }
        _ => UnpackError::Io {
            operation: "write the layer disk",
            source,
        },
    }
}
