//! What archives are compressed with, and reading them: gzip, bzip2, xz and zstd, as Docker does.
//!
//! Called by [`crate::tasks`] for what `ADD` and `cp` unpack, and by [`crate::decompress`]. Layers, which know
//! two of these and have a digest, are [`crate::unpack`]'s. It must not know what is in an archive.

use std::io::{ErrorKind, Read};

use crate::failure::{Context, Failure};

/// Bytes that tell the formats apart.
pub const MAGIC_LEN: u64 = 10;

/// Largest zstd window as a power of two, as for layers.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Memory that the xz decoder may take in KiB: xz's largest preset takes 65 MiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// It is not.
    None,
    /// gzip (RFC 1952), any number of members.
    Gzip,
    /// bzip2, any number of streams.
    Bzip2,
    /// xz, any number of streams.
    Xz,
    /// Zstandard (RFC 8878), any number of frames.
    Zstd,
}

impl Packing {
    /// What the first [`MAGIC_LEN`] bytes say.
    #[must_use]
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            // The level, then the digits of pi that begin a block or those that end an empty stream: a tar may
            // begin with a file named BZh…
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Reads what is packed.
///
/// # Errors
/// What beginning to decode says.
pub fn decoded<'a>(
    packing: Packing,
    from: &'a mut dyn Read,
) -> Result<Box<dyn Read + 'a>, Failure> {
    Ok(match packing {
        Packing::None => Box::new(from),
        Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(from)),
        Packing::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(from)),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
            from,
            true,
            XZ_MEMORY_KIB,
        )),
        Packing::Zstd => {
            let about = || "begin to decompress".to_owned();
            let mut decoder = zstd::stream::read::Decoder::new(from).context(about)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).context(about)?;
            Box::new(decoder)
        }
    })
}

/// A decoder's error, which comes without a number of the system's, as one of the archive.
#[must_use]
pub fn bad(error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::UnexpectedEof => Failure::bad_config("the archive is truncated"),
        _ => Failure::bad_config(format!("the archive is corrupt: {error}")),
    }
}
