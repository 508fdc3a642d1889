//! Unpacks a layer: a tar from a stranger becomes an EROFS image, in one pass.
//!
//! Called by [`crate::convert`] in a converter VM, and by [`crate::plain`] for a plain container, where
//! [`directory`] writes the tree as files in place of EROFS. The image's bytes depend on the tar alone.
//!
//! ```text
//! blob ─► compression ─► tar ─► apply ─► tree ──────────► erofs (metadata, superblock)
//!              └─ SHA-256         └─ content ─► output (data area)
//! ```
//!
//! # Security
//!
//! No path of the tar ever reaches a file system. Names are keys of a [`tree`] in memory, symbolic
//! links and hard links are edges in it, modes and owners are numbers to be written down: `..`,
//! links, devices, races between entries and the names of the guest's own files have nothing to act
//! on. Of the guest, a layer gets to use CPU time, memory and one block device, each up to a limit:
//!
//! | what | limit | where |
//! |---|---|---|
//! | uncompressed tar, image, entries and inodes | [`protocol::spec::ConvertLimits`] | [`compression`], [`output`], [`apply`], [`tree`] |
//! | one extended header; pieces of a sparse file; one file | 1 MiB; 2^20; 16 TiB | [`tarball`] |
//! | attributes of an entry | 128 of 65,535 bytes, 262,144 bytes in all | [`tarball`], [`erofs`] |
//! | a name; a path or link target | 255; 4095 bytes | [`path`] |
//! | symbolic links on the way to a name | 40 | [`tree`] |
//! | memory for names and attributes; for small files | 1280 MiB; 256 MiB, then blocks are used | [`tree`], [`content`] |
//! | zstd window | 128 MiB | [`compression`] |
//!
//! Every number in a tar is checked before it is used to allocate, index or compute; there is no
//! recursion. What comes out is an image that only the kernel of a guest ever mounts. The layer's
//! own rules for what overlayfs reads (opaque directories, redirects) are not the stranger's to set.

mod apply;
mod compression;
mod content;
mod directory;
mod erofs;
mod error;
mod output;
mod path;
mod tree;

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use protocol::message::Converted;
use protocol::spec::ConvertSpec;
#[cfg(any(test, feature = "fuzz"))]
use protocol::spec::{Compression, ConvertLimits};

pub use self::apply::is_reserved;
pub use self::error::UnpackError;

use self::compression::Digest;
use self::output::{BLOCK, Output};
use self::tree::Tree;
use tarball::shown;

/// Unpacks the layer in the first `spec.blob_bytes` of `blob` into an EROFS on `out`, a block device
/// or a file. `progress` is told the bytes of the blob read.
///
/// # Errors
/// [`UnpackError`]; what is on `out` has no superblock then.
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

/// Unpacks a layer into the directory `root`, over the layers that are there; returns how many device
/// nodes were left out. File data goes through `scratch`.
///
/// # Errors
/// As [`convert`]; what is in the directory is then a part of the layer.
pub fn into_directory(
    blob: &File,
    scratch: &File,
    root: BorrowedFd<'_>,
    spec: &ConvertSpec,
) -> Result<u64, UnpackError> {
    let io = |operation| move |source| UnpackError::Io { operation, source };
    let blob = blob.try_clone().map_err(io("open the blob"))?;
    scratch.set_len(0).map_err(io("empty the scratch file"))?;
    let mut output = Output::new(scratch, spec.limits.image_bytes);
    let (tree, digest) = read(blob.take(spec.blob_bytes), &mut output, spec, &mut |_| {})?;
    check_diff_id(&digest, spec)?;
    output.finish(&[0; BLOCK])?;
    directory::write(&tree, scratch, root)
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
    let mut output = Output::new(out, spec.limits.image_bytes);
    let (tree, digest) = read(blob, &mut output, spec, progress)?;
    check_diff_id(&digest, spec)?;
    write(&tree, output, &digest)
}

fn check_diff_id(digest: &Digest, spec: &ConvertSpec) -> Result<(), UnpackError> {
    let hex = digest.hex();
    if hex != spec.diff_id {
        return Err(UnpackError::corrupt(format!(
            "the uncompressed layer has the digest sha256:{hex}, its diff_id is sha256:{}",
            shown(spec.diff_id.as_bytes())
        )));
    }
    Ok(())
}

/// Reads all of the blob: data is on `output` then, everything else in the tree.
fn read(
    blob: impl Read + Send,
    output: &mut Output,
    spec: &ConvertSpec,
    progress: &mut dyn FnMut(u64),
) -> Result<(Tree, Digest), UnpackError> {
    compression::with_tar(blob, spec, progress, |stream| {
        apply::read_layer(stream, output, &spec.limits)
    })
}

fn write(tree: &Tree, output: Output, digest: &Digest) -> Result<Converted, UnpackError> {
    let uuid = digest.sha256.first_chunk().copied().unwrap_or_default();
    let image = erofs::write(tree, output, uuid)?;
    Ok(Converted {
        image_bytes: image.bytes,
        inodes: image.inodes,
        tar_bytes: digest.bytes,
    })
}

/// Unpacks any bytes with small limits, whatever their digest: for fuzzing. The image is left on
/// `out`; `None` when the bytes are refused.
#[cfg(any(test, feature = "fuzz"))]
#[must_use]
pub fn fuzz_layer(bytes: &[u8], out: &File) -> Option<Converted> {
    let spec = ConvertSpec {
        blob_bytes: bytes.len() as u64,
        compression: Compression::Sniff,
        diff_id: String::new(),
        limits: ConvertLimits {
            tar_bytes: 1 << 20,
            image_bytes: 4 << 20,
            entries: 1000,
        },
    };
    let mut output = Output::new(out, spec.limits.image_bytes);
    let (tree, digest) = read(bytes, &mut output, &spec, &mut |_| {}).ok()?;
    write(&tree, output, &digest).ok()
}

#[cfg(test)]
mod tests;
