//! Unpacks a layer: a tar from a stranger becomes an EROFS image, in one pass.
//!
//! Called by [`crate::convert`] in a converter VM. No path of the tar ever reaches a file system:
//! names are keys of a tree in memory ([`tree`]), so `..`, symbolic links and races have nothing to
//! act on. File data goes to the output while the tar is being read, the tree is written behind it.
//!
//! ```text
//! blob ─► compression ─► tar ─► apply ─► tree ──────────► erofs (metadata, superblock)
//!              └─ SHA-256         └─ file data ─► output (data area)
//! ```
//!
//! The rules are those of Docker's overlay2 driver: a layer is unpacked on its own, without the
//! layers below; whiteouts become character devices 0:0 and opaque directories an extended
//! attribute, which is what overlayfs reads.

mod apply;
mod compression;
mod erofs;
mod output;
mod tar;
mod tree;

use std::fs::File;
use std::io::Read;

use protocol::message::{Converted, FailureKind};
use protocol::spec::ConvertSpec;

use crate::failure::Failure;

/// Why a layer can't be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The bytes are not what they should be.
    #[error("{0}")]
    Corrupt(String),
    /// A named limit was exceeded.
    #[error("the layer exceeds the limit of {limit} {what}")]
    Limit {
        /// What is limited, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The output takes no more.
    #[error("the disk is full")]
    Full,
    /// A device failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl UnpackError {
    /// What decides the exit code.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Corrupt(_) => FailureKind::CorruptLayer,
            Self::Limit { .. } => FailureKind::LimitExceeded,
            Self::Full => FailureKind::DiskFull,
            Self::Io { .. } => FailureKind::Other,
        }
    }

    fn corrupt(message: impl Into<String>) -> Self {
        Self::Corrupt(message.into())
    }
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

/// Unpacks the layer in the first `spec.blob_bytes` of `blob` into an EROFS on `out`, which reads
/// as zero so far. `progress` is told the bytes of the blob read.
///
/// # Errors
/// [`UnpackError`]; what is on `out` is of no use then.
pub fn convert(
    blob: &File,
    out: &File,
    spec: &ConvertSpec,
    progress: &mut dyn FnMut(u64),
) -> Result<Converted, UnpackError> {
    let blob = blob.try_clone().map_err(|source| UnpackError::Io {
        operation: "open the blob",
        source,
    })?;
    unpack(blob.take(spec.blob_bytes), out, spec, progress)
}

/// As [`convert`], from any source.
///
/// # Errors
/// As [`convert`].
pub fn unpack(
    blob: impl Read + Send,
    out: &File,
    spec: &ConvertSpec,
    progress: &mut dyn FnMut(u64),
) -> Result<Converted, UnpackError> {
    let mut output = output::Output::new(out, spec.limits.image_bytes);
    let (tree, digest) = compression::with_tar(blob, spec, progress, |stream| {
        apply::read_layer(stream, &mut output, &spec.limits)
    })?;
    if digest.hex != spec.diff_id {
        return Err(UnpackError::corrupt(format!(
            "the uncompressed layer has the digest sha256:{}, the image says sha256:{}",
            digest.hex,
            shown(spec.diff_id.as_bytes())
        )));
    }
    let inodes = tree.inode_count();
    let image_bytes = erofs::write(tree, output, &spec.diff_id)?;
    Ok(Converted {
        image_bytes,
        inodes,
        tar_bytes: digest.bytes,
    })
}

/// Longest name in a message, in characters.
const SHOWN_MAX: usize = 200;

/// A name of a stranger, fit for a message: printable ASCII, the rest escaped.
fn shown(name: &[u8]) -> String {
    let text: String = name
        .escape_ascii()
        .map(char::from)
        .take(SHOWN_MAX + 1)
        .collect();
    match text.get(..SHOWN_MAX) {
        Some(short) if text.len() > SHOWN_MAX => format!("{short}…"),
        _ => text,
    }
}

#[cfg(test)]
mod tests;
