//! Reading what archives are compressed with: gzip, bzip2, xz and zstd, any number of streams after each other,
//! as Docker does.
//!
//! Called by [`crate::tasks`] for what `ADD` and `cp` unpack, and by [`crate::decompress`]. Layers, which know
//! two of these and have a digest, are [`crate::unpack`]'s. It must not know what is in an archive.

use std::io::{ErrorKind, Read};

pub use tarball::{MAGIC_LEN, Packing};

use crate::failure::{Context, Failure};

/// Largest zstd window as a power of two: 128 MiB, what `zstd --long` makes and `zstd -d` takes
/// without being asked twice.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Memory that the xz decoder may take in KiB: xz's largest preset takes 65 MiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;

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
