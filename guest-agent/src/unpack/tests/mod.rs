//! Layers made by hand, and what becomes of them.

mod compressed;
mod directories;
mod files;
mod headers;
mod hostile;
mod image;
mod limits;
mod links;
mod readers;
mod tools;
mod tree;
mod whiteouts;

use std::os::unix::fs::FileExt;

use protocol::message::FailureKind;
use sha2::{Digest as _, Sha256};

use super::*;
use hostile_images::tarball::{self, Tar};
use image::Image;

const LIMITS: ConvertLimits = ConvertLimits {
    tar_bytes: 64 << 20,
    image_bytes: 64 << 20,
    entries: 10_000,
};

fn spec(blob: &[u8], tar: &[u8], compression: Compression) -> ConvertSpec {
    ConvertSpec {
        blob_bytes: blob.len() as u64,
        compression,
        diff_id: Sha256::digest(tar)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        limits: LIMITS,
    }
}

/// The image of a blob that holds `tar`.
fn unpack_blob(
    blob: &[u8],
    tar: &[u8],
    compression: Compression,
) -> Result<(Vec<u8>, Converted), UnpackError> {
    let out = tempfile::tempfile().unwrap();
    let spec = spec(blob, tar, compression);
    let mut last = 0;
    let converted = unpack(blob, &out, &spec, &mut |bytes| {
        assert!(bytes >= last && bytes <= spec.blob_bytes);
        last = bytes;
    })?;
    let len = out.metadata().unwrap().len();
    assert_eq!(converted.image_bytes, len);
    assert_eq!(len % 4096, 0);
    assert_eq!(converted.tar_bytes, tar.len() as u64);
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    out.read_exact_at(&mut bytes, 0).unwrap();
    Ok((bytes, converted))
}

fn image_of(tar: &[u8]) -> Image {
    let (bytes, converted) = unpack_blob(tar, tar, Compression::None).unwrap();
    let image = Image::read(bytes);
    assert_eq!(image.inode_count(), converted.inodes);
    image
}

fn image(tar: Tar) -> Image {
    image_of(&tar.end())
}

fn error_of(tar: &[u8]) -> UnpackError {
    let done = unpack_blob(tar, tar, Compression::None);
    done.map(|(_, converted)| converted).unwrap_err()
}

/// What is said of a tar that is refused as corrupt.
fn refused(tar: Tar) -> String {
    let error = error_of(&tar.end());
    assert_eq!(error.kind(), FailureKind::CorruptLayer, "{error}");
    error.to_string()
}
