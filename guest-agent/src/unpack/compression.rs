//! From the blob to the tar: decompression and the digest, on a thread of their own, so that a
//! second vCPU has something to do.

use std::io::{BufReader, ErrorKind, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use flate2::bufread::MultiGzDecoder;
use protocol::spec::{Compression, ConvertSpec};
use sha2::{Digest as _, Sha256};

use super::UnpackError;

/// Bytes handed over at once, and how many such pieces may wait: enough to keep both sides busy.
const PIECE: usize = 512 << 10;
const PIECES: usize = 4;

/// Bytes of the blob read at once.
const READ_LEN: usize = 256 << 10;

/// Largest zstd window as a power of two: 128 MiB, what `zstd --long` makes and `zstd -d` takes
/// without being asked twice.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What the tar as a whole is.
pub(super) struct Digest {
    /// SHA-256 in lower-case hex.
    pub(super) hex: String,
    /// Length in bytes.
    pub(super) bytes: u64,
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
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    count: &'a AtomicU64,
    progress: &'a mut dyn FnMut(u64),
}

impl Read for TarStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => {
                    self.piece = piece;
                    self.at = 0;
                    (self.progress)(self.count.load(Ordering::Relaxed));
                }
                Err(_) => return Ok(0),
            }
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
/// (a tar may be followed by anything) and returns the digest of it all.
pub(super) fn with_tar<T>(
    blob: impl Read + Send,
    spec: &ConvertSpec,
    progress: &mut dyn FnMut(u64),
    consume: impl FnOnce(&mut TarStream) -> Result<T, UnpackError>,
) -> Result<(T, Digest), UnpackError> {
    let count = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (sender, pieces) = sync_channel(PIECES);
        let count = &count;
        let compression = spec.compression;
        let limit = spec.limits.tar_bytes;
        let worker = std::thread::Builder::new()
            .name("decompress".to_owned())
            .spawn_scoped(scope, move || {
                decompress(Counted { inner: blob, count }, compression, limit, &sender)
            })
            .map_err(|source| UnpackError::Io {
                operation: "start a thread",
                source,
            })?;
        let mut stream = TarStream {
            pieces,
            piece: Vec::new(),
            at: 0,
            count,
            progress,
        };
        let consumed = consume(&mut stream);
        if consumed.is_ok() {
            // Dropped pieces were hashed already.
            while stream.pieces.recv().is_ok() {}
        }
        drop(stream);
        let decompressed = match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // A stream that breaks off makes the tar end early: the cause is the one to tell.
        match (consumed, decompressed) {
            (_, Err(error)) => Err(error),
            (Err(error), _) => Err(error),
            (Ok(value), Ok(digest)) => Ok((value, digest)),
        }
    })
}

fn decompress(
    blob: impl Read,
    declared: Compression,
    limit: u64,
    pieces: &SyncSender<Vec<u8>>,
) -> Result<Digest, UnpackError> {
    let mut blob = BufReader::with_capacity(READ_LEN, blob);
    let mut magic = Vec::with_capacity(6);
    Read::by_ref(&mut blob)
        .take(6)
        .read_to_end(&mut magic)
        .map_err(read_error)?;
    let found = sniff(&magic)?;
    let matches = declared == Compression::Sniff || declared == found;
    if !matches {
        return Err(UnpackError::corrupt(format!(
            "the layer is declared as {} and its bytes are {}",
            name(declared),
            name(found)
        )));
    }
    let blob = BufReader::with_capacity(READ_LEN, magic.as_slice().chain(blob));
    match found {
        Compression::Gzip => pump(MultiGzDecoder::new(blob), limit, pieces),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(blob).map_err(read_error)?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(read_error)?;
            pump(decoder, limit, pieces)
        }
        Compression::None | Compression::Sniff => pump(blob, limit, pieces),
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
    match magic {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
        _ if skippable => Ok(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(unsupported("xz")),
        [b'B', b'Z', b'h', ..] => Err(unsupported("bzip2")),
        _ => Ok(Compression::None),
    }
}

fn read_error(source: std::io::Error) -> UnpackError {
    match source.kind() {
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::Other => {
            UnpackError::corrupt(format!("the layer is corrupt: {source}"))
        }
        ErrorKind::UnexpectedEof => UnpackError::corrupt("the layer is truncated"),
        _ => UnpackError::Io {
            operation: "read the layer",
            source,
        },
    }
}

/// Hashes everything and hands it over as long as somebody takes it.
fn pump(
    mut from: impl Read,
    limit: u64,
    pieces: &SyncSender<Vec<u8>>,
) -> Result<Digest, UnpackError> {
    let mut hash = Sha256::new();
    let mut bytes: u64 = 0;
    let mut wanted = true;
    loop {
        let mut piece = vec![0; PIECE];
        let mut filled = 0;
        while let Some(room) = piece.get_mut(filled..).filter(|room| !room.is_empty()) {
            match from.read(room) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
        piece.truncate(filled);
        if piece.is_empty() {
            break;
        }
        bytes = bytes.saturating_add(filled as u64);
        if bytes > limit {
            return Err(UnpackError::Limit {
                what: "bytes of uncompressed tar",
                limit,
            });
        }
        hash.update(&piece);
        if wanted {
            wanted = pieces.send(piece).is_ok();
        }
    }
    let hex = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Digest { hex, bytes })
}
