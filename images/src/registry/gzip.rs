//! Compressing a layer, on several processors at once and the same each time.
//!
//! Used by `push`. The input is cut into pieces of a fixed size, each compressed by itself; put together
//! they are one gzip member (RFC 1952), as pigz makes it. How many threads there are changes nothing of
//! the result. It compresses only: nothing here can undo it.

use std::io::{self, Read};
use std::thread::Builder;

use flate2::{Compress, Compression, Crc, FlushCompress};

/// Bytes of input that are compressed by themselves. Smaller ones lose what they have in common, larger
/// ones are memory; this costs a thousandth.
const PIECE_BYTES: usize = 1 << 20;
/// Threads for one layer; several layers are compressed at once.
const THREADS_MAX: usize = 4;
/// Of 9. Each of the next two saves at most a hundredth of the space and costs a tenth more time.
const LEVEL: u32 = 4;
/// Magic, deflate, no flags, no time, no extra flags, an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty last block (RFC 1951, 3.2.6), from a byte's beginning on, where a flush leaves off.
const END: [u8; 2] = [3, 0];

/// What is left of a source, compressed.
pub(super) struct Gzip<R> {
    source: R,
    threads: usize,
    crc: Crc,
    out: Vec<u8>,
    /// Bytes of `out` that were given.
    given: usize,
    is_done: bool,
}

impl<R: Read> Gzip<R> {
    pub(super) fn new(source: R) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads(source, threads.min(THREADS_MAX))
    }

    fn with_threads(source: R, threads: usize) -> Self {
        Self {
            source,
            threads,
            crc: Crc::new(),
            out: HEADER.to_vec(),
            given: 0,
            is_done: false,
        }
    }

    /// Compresses the next pieces, one for each thread.
    fn fill(&mut self) -> io::Result<()> {
        self.out.clear();
        self.given = 0;
        let mut pieces = Vec::new();
        while pieces.len() < self.threads && !self.is_done {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let limit = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
            self.source.by_ref().take(limit).read_to_end(&mut piece)?;
            self.is_done = piece.len() < PIECE_BYTES;
            pieces.push(piece);
        }
        let compressed: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = pieces
                .iter()
                .map(|piece| Builder::new().spawn_scoped(scope, || compress(piece)))
                .collect();
            let pieces = threads.into_iter().zip(&pieces);
            let done = pieces.map(|(thread, piece)| match thread {
                Ok(thread) => thread
                    .join()
                    .map_err(|_| io::Error::other("a thread ended"))?,
                // The host has no further thread.
                Err(_) => compress(piece),
            });
            done.collect()
        });
        for result in compressed {
            let (bytes, crc) = result?;
            self.out.extend_from_slice(&bytes);
            self.crc.combine(&crc);
        }
        if self.is_done {
            self.out.extend_from_slice(&END);
            self.out.extend_from_slice(&self.crc.sum().to_le_bytes());
            self.out.extend_from_slice(&self.crc.amount().to_le_bytes());
        }
        Ok(())
    }
}

/// A piece's blocks, up to a byte's end, and its check sum.
fn compress(piece: &[u8]) -> io::Result<(Vec<u8>, Crc)> {
    let mut crc = Crc::new();
    crc.update(piece);
    let mut out = Vec::with_capacity(piece.len() / 2 + 1024);
    let mut deflate = Compress::new(Compression::new(LEVEL), false);
    let mut rest = piece;
    loop {
        let before = deflate.total_in();
        deflate.compress_vec(rest, &mut out, FlushCompress::Sync)?;
        let read = usize::try_from(deflate.total_in().saturating_sub(before)).unwrap_or(usize::MAX);
        rest = rest.get(read..).unwrap_or_default();
        // It is flushed when it had room to write more.
        if rest.is_empty() && out.len() < out.capacity() {
            return Ok((out, crc));
        }
        out.reserve(piece.len() / 4 + 1024);
    }
}

impl<R: Read> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given >= self.out.len() {
            if self.is_done {
                return Ok(0);
            }
            self.fill()?;
        }
        let rest = self.out.get(self.given..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.given = self.given.saturating_add(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use flate2::bufread::GzDecoder;

    use super::*;

    /// Bytes that hardly compress (a xorshift generator).
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn packed(source: &[u8], threads: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut gzip = Gzip::with_threads(source, threads);
        gzip.read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn pieces_are_one_member_whatever_the_length_and_the_number_of_threads() {
        let lens = [
            0,
            1,
            PIECE_BYTES - 1,
            PIECE_BYTES,
            PIECE_BYTES + 1,
            3 * PIECE_BYTES,
        ];
        for len in lens {
            for source in [vec![0; len], noise(len)] {
                let alone = packed(&source, 1);
                assert_eq!(packed(&source, THREADS_MAX), alone, "{len} bytes");
                let mut back = Vec::new();
                let mut rest = alone.as_slice();
                GzDecoder::new(&mut rest).read_to_end(&mut back).unwrap();
                assert!(back == source, "{len} bytes");
                assert_eq!(rest, b"", "more than one member for {len} bytes");
            }
        }
    }

    #[test]
    fn a_source_that_fails_is_told() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("a disk that is gone"))
            }
        }
        let whole = vec![1; 2 * PIECE_BYTES];
        let source = whole.as_slice().chain(Broken);
        let error = Gzip::with_threads(source, 2)
            .read_to_end(&mut Vec::new())
            .unwrap_err();
        assert_eq!(error.to_string(), "a disk that is gone");
    }
}
