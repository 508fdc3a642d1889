//! `import`: a file system in a tar becomes an image of one layer.
//!
//! Called by the command. The tar is opaque: what is looked at is whether its beginning is one, since a
//! converter VM, which unpacks it when the image first runs, would tell that late. A compressed one is
//! refused, as an image's config names its layers' content, which only decompressing tells: the command has
//! a VM decompress it before.

use std::io::Read;

use super::{ArchiveError, compression_of};
use crate::config::{History, ImageConfig};
use crate::image::Image;
use crate::reference::Reference;
use crate::store::Store;

/// Bytes of a tar's block.
const BLOCK: usize = 512;
/// Where a header has its checksum (POSIX ustar).
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Makes an image of a tar and `config`, whose only step of history is `step`, and gives it `names`.
///
/// # Errors
/// The tar is compressed or none, a disk that is full; the store is as it was then.
pub fn import(
    store: &Store,
    mut source: impl Read,
    config: ImageConfig,
    step: History,
    names: &[Reference],
) -> Result<Image, ArchiveError> {
    let mut head = Vec::new();
    let block = u64::try_from(BLOCK).unwrap_or(u64::MAX);
    source
        .by_ref()
        .take(block)
        .read_to_end(&mut head)
        .map_err(ArchiveError::Read)?;
    if let Some(kind) = compression_of(&head) {
        return Err(ArchiveError::CompressedLayer(kind));
    }
    if !begins_a_tar(&head) {
        return Err(ArchiveError::NotATar);
    }
    let lease = store.lease()?;
    let mut whole = head.as_slice().chain(source);
    let layer = store.take_layer(&lease, &mut whole)?;
    let config = ImageConfig {
        history: vec![History {
            empty_layer: layer.is_none(),
            ..step
        }],
        ..config
    };
    let layers: Vec<_> = layer.into_iter().collect();
    Ok(store.compose(&lease, &layers, config, names)?)
}

/// Whether these bytes are a header with the right checksum, or the zeros that end an archive. Nothing at
/// all is an empty archive, too, as for Docker.
fn begins_a_tar(head: &[u8]) -> bool {
    if head.iter().all(|byte| *byte == 0) {
        return head.is_empty() || head.len() == BLOCK;
    }
    let Ok(block) = <&[u8; BLOCK]>::try_from(head) else {
        return false;
    };
    let sum: u32 = (0..)
        .zip(block)
        .map(|(at, byte)| match CHECKSUM.contains(&at) {
            true => u32::from(b' '),
            false => u32::from(*byte),
        })
        .sum();
    tar::Header::from_byte_slice(block)
        .cksum()
        .is_ok_and(|named| named == sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Platform;
    use crate::sample::Tar;
    use crate::timestamp::Timestamp;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        (dir, store)
    }

    fn import_bytes(store: &Store, bytes: &[u8]) -> Result<Image, ArchiveError> {
        let config = ImageConfig {
            cmd: Some(vec!["/f".to_owned()]),
            ..ImageConfig::empty(Platform::host())
        };
        let step = History {
            created: Timestamp::parse("2024-05-01T12:00:00Z"),
            author: String::new(),
            created_by: String::new(),
            comment: "Imported from -".to_owned(),
            empty_layer: false,
        };
        let name = Reference::parse("imported:1").unwrap();
        import(store, bytes, config, step, &[name])
    }

    #[test]
    fn a_tar_becomes_an_image_of_one_layer() {
        let (_dir, store) = store();
        let mut tar = Tar::default();
        tar.file("f", &[7; 2000]);
        let bytes = tar.finish();
        let image = import_bytes(&store, &bytes).unwrap();
        assert_eq!(image.layers.len(), 1);
        assert_eq!(image.layers[0].diff_id, crate::Digest::of(&bytes));
        assert_eq!(image.config.cmd, Some(vec!["/f".to_owned()]));
        assert_eq!(image.config.history.len(), 1);
        assert_eq!(image.config.history[0].comment, "Imported from -");
        assert_eq!(image.tags[0].familiar(), "imported:1");
        assert_eq!(store.resolve("imported:1").unwrap().id, image.id);
    }

    #[test]
    fn an_empty_tar_becomes_an_image_without_layers() {
        let (_dir, store) = store();
        for bytes in [&[][..], &[0; 1024]] {
            let image = import_bytes(&store, bytes).unwrap();
            assert!(image.layers.is_empty());
            assert!(image.config.history[0].empty_layer);
        }
    }

    #[test]
    fn what_is_no_tar_is_refused_and_leaves_nothing() {
        let (_dir, store) = store();
        let mut damaged = {
            let mut tar = Tar::default();
            tar.file("f", b"content");
            tar.finish()
        };
        damaged[0] ^= 1;
        for bytes in [&b"garbage"[..], &[0; 100], &[b'x'; 2000], &damaged] {
            let error = import_bytes(&store, bytes).unwrap_err();
            assert!(matches!(error, ArchiveError::NotATar), "{error}");
        }
        for (magic, kind, command) in [
            (&[0x1f, 0x8b, 8][..], "gzip", "gunzip -c"),
            (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "zstd -dc"),
            (b"BZh91AY&SY", "bzip2", "bunzip2 -c"),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", "xz -dc"),
        ] {
            let error = import_bytes(&store, magic).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("the archive is compressed with {kind}")
            );
            assert_eq!(
                error.hint().unwrap(),
                format!("decompress it on the way: {command} FILE | bulkhead import -")
            );
        }
        assert!(store.list().unwrap().images.is_empty());
    }
}
