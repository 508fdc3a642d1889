//! From the blob to the tar: decompression on a thread of its own, the digest on the caller's, so
//! that two vCPUs have something to do.
//!
//! Called by [`super::read`]. It knows nothing of what is in the tar.
//!
//! ```text
//! decompress thread: blob ─► decoder ─► full pieces ─┐
//!                              ▲                     ▼
//!                              └── empty pieces ◄── TarStream: SHA-256, then whoever reads
//! ```

use std::io::{BufReader, ErrorKind, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use flate2::bufread::MultiGzDecoder;
use protocol::spec::{Compression, ConvertSpec};
use sha2::{Digest as _, Sha256};

use super::UnpackError;
use crate::packing::{MAGIC_LEN, Packing, ZSTD_WINDOW_LOG_MAX};

/// Bytes handed over at once: they stay in a CPU's cache from decoder to digest to copy.
const PIECE: usize = 256 << 10;

/// Pieces on their way, which evens out a decoder and a writer that stutter.
const PIECES: usize = 8;

/// Bytes of the blob read at once.
const READ_LEN: usize = 256 << 10;

/// What libzstd says of a larger one (`ZSTD_error_frameParameter_windowTooLarge`).
const ZSTD_WINDOW_MESSAGE: &str = "Frame requires too much memory for decoding";

/// What the tar as a whole is.
#[derive(Debug)]
pub(super) struct Digest {
    pub(super) sha256: [u8; 32],
    /// Length in bytes.
    pub(super) bytes: u64,
}

impl Digest {
    /// In lower-case hex.
    pub(super) fn hex(&self) -> String {
        self.sha256
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Counts what was read of the blob.
struct Counted<'a, R> {
    inner: R,
    count: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.count.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

/// The tar as `consume` reads it.
pub(super) struct TarStream<'a> {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    /// The decoder has nothing more.
    ended: bool,
    hash: Sha256,
    bytes: u64,
    count: &'a AtomicU64,
    progress: &'a mut dyn FnMut(u64),
}

impl TarStream<'_> {
    /// Takes the next piece and adds it to the digest; `false` at the end.
    fn next_piece(&mut self) -> bool {
        let Ok(piece) = self.full.recv() else {
            self.ended = true;
            return false;
        };
        let used = std::mem::replace(&mut self.piece, piece);
        // At the end there is nobody left who wants it.
        let _ = self.empty.send(used);
        self.at = 0;
        self.hash.update(&self.piece);
        self.bytes = self.bytes.saturating_add(self.piece.len() as u64);
        (self.progress)(self.count.load(Ordering::Relaxed));
        true
    }
}

impl Read for TarStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.piece.len() && !self.next_piece() {
            return Ok(0);
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        if let (Some(from), Some(to)) = (rest.get(..len), buffer.get_mut(..len)) {
            to.copy_from_slice(from);
        }
        self.at += len;
        Ok(len)
    }
}

/// Decompresses `blob` on a thread while `consume` reads the tar, then reads what `consume` left
/// (an archive may be followed by anything) and returns the digest of it all.
///
/// # Errors
/// Those of `consume`, unless it failed for want of bytes that the decoder could not give: then
/// the decoder's.
pub(super) fn with_tar<T>(
    blob: impl Read + Send,
    spec: &ConvertSpec,
    progress: &mut dyn FnMut(u64),
    consume: impl FnOnce(&mut TarStream) -> Result<T, UnpackError>,
) -> Result<(T, Digest), UnpackError> {
    let count = AtomicU64::new(0);
    let (compression, limit) = (spec.compression, spec.limits.tar_bytes);
    std::thread::scope(|scope| {
        let (full_sender, full) = sync_channel(PIECES);
        let (empty, empty_receiver) = channel();
        let (count, pieces) = (
            &count,
            Pieces {
                full: full_sender,
                empty: empty_receiver,
                left: limit,
                limit,
            },
        );
        let worker = std::thread::Builder::new()
            .name("decompress".to_owned())
            .spawn_scoped(scope, move || {
                decompress(Counted { inner: blob, count }, compression, pieces)
            })
            .map_err(|source| UnpackError::Io {
                operation: "start a thread",
                source,
            })?;
        let mut stream = TarStream {
            full,
            empty,
            piece: Vec::new(),
            at: 0,
            ended: false,
            hash: Sha256::new(),
            bytes: 0,
            count,
            progress,
        };
        let consumed = consume(&mut stream);
        if consumed.is_ok() {
            while stream.next_piece() {}
        }
        let TarStream {
            full,
            ended,
            hash,
            bytes,
            ..
        } = stream;
        // A decoder that waits for room learns that nobody makes any.
        drop(full);
        let decompressed = match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let value = match (consumed, decompressed) {
            (_, Err(error)) if ended => return Err(error),
            (Err(error), _) | (_, Err(error)) => return Err(error),
            (Ok(value), Ok(())) => value,
        };
        let sha256 = hash.finalize().into();
        Ok((value, Digest { sha256, bytes }))
    })
}

/// Where the decoder puts the tar.
struct Pieces {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    left: u64,
    limit: u64,
}

impl Pieces {
    /// Hands over all of `from`, until nobody takes it.
    fn pump(mut self, mut from: impl Read) -> Result<(), UnpackError> {
        loop {
            let mut piece = self.empty.try_recv().unwrap_or_default();
            piece.resize(PIECE, 0);
            let filled = fill(&mut from, &mut piece)?;
            if filled == 0 {
                return Ok(());
            }
            piece.truncate(filled);
            self.left = self
                .left
                .checked_sub(filled as u64)
                .ok_or(UnpackError::Limit {
                    what: "bytes of uncompressed tar",
                    limit: self.limit,
                })?;
            if self.full.send(piece).is_err() {
                return Ok(());
            }
        }
    }
}

fn fill(from: &mut impl Read, piece: &mut [u8]) -> Result<usize, UnpackError> {
    let mut filled = 0;
    while let Some(room) = piece.get_mut(filled..).filter(|room| !room.is_empty()) {
        match from.read(room) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(read_error(error)),
        }
    }
    Ok(filled)
}

fn decompress(
    mut blob: impl Read,
    declared: Compression,
    pieces: Pieces,
) -> Result<(), UnpackError> {
    let mut magic = Vec::new();
    Read::by_ref(&mut blob)
        .take(MAGIC_LEN)
        .read_to_end(&mut magic)
        .map_err(read_error)?;
    let found = sniff(&magic)?;
    if declared != Compression::Sniff && declared != found {
        return Err(UnpackError::corrupt(format!(
            "the layer is declared as {} and its bytes are {}",
            name(declared),
            name(found)
        )));
    }
    let blob = BufReader::with_capacity(READ_LEN, magic.as_slice().chain(blob));
    match found {
        Compression::Gzip => pieces.pump(MultiGzDecoder::new(blob)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(blob).map_err(read_error)?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(read_error)?;
            pieces.pump(decoder)
        }
        Compression::None | Compression::Sniff => pieces.pump(blob),
    }
}

fn name(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "a plain tar",
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
        Compression::Sniff => "anything",
    }
}

/// What the first bytes say. Formats that no image has are named rather than taken for a tar.
fn sniff(magic: &[u8]) -> Result<Compression, UnpackError> {
    let skippable = magic
        .first_chunk::<4>()
        .is_some_and(|four| u32::from_le_bytes(*four) & 0xffff_fff0 == 0x184d_2a50);
    let unsupported = |name: &str| {
        UnpackError::corrupt(format!(
            "the layer is compressed with {name}, which images do not use"
        ))
    };
    match Packing::of(magic) {
        Packing::Gzip => Ok(Compression::Gzip),
        Packing::Zstd => Ok(Compression::Zstd),
        Packing::Xz => Err(unsupported("xz")),
        Packing::Bzip2 => Err(unsupported("bzip2")),
        Packing::None if skippable => Ok(Compression::Zstd),
        // What is wrong with its method is the decoder's to say.
        Packing::None if magic.starts_with(&[0x1f, 0x8b]) => Ok(Compression::Gzip),
        Packing::None => Ok(Compression::None),
    }
}

/// A decoder's errors come without a number of the system's, a device's with one.
fn read_error(source: std::io::Error) -> UnpackError {
    if source.raw_os_error().is_some() {
        return UnpackError::Io {
            operation: "read the layer",
            source,
        };
    }
    if source.kind() == ErrorKind::UnexpectedEof {
        return UnpackError::corrupt("the layer is truncated");
    }
    let message = source.to_string();
    if message.contains(ZSTD_WINDOW_MESSAGE) {
        return UnpackError::Limit {
            what: "bytes of zstd window",
            limit: 1 << ZSTD_WINDOW_LOG_MAX,
        };
    }
    UnpackError::corrupt(format!("the layer is corrupt: {message}"))
}
