//! The form of `docker save`: manifest.json lists images, each a config and layers by member name.
//!
//! Used by `archive`. There is no OCI manifest in it to take over (or, in newer archives, one for each
//! platform that may lack its blobs), so one is made: always the same for the same image.

use oci_spec::image as oci;
use serde::Deserialize;

use super::{ArchiveError, Find, Loaded, require};
use crate::config::{ConfigError, ImageConfig};
use crate::digest::Digest;
use crate::json::{self, JsonError};
use crate::limits::{ARCHIVE_IMAGES, CONFIG_BYTES, LAYER_BYTES, LAYERS, MANIFEST_BYTES};
use crate::manifest::{Compression, ManifestError};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Lease, Spooled, Store, StoreError};

/// The member that lists the images.
pub(super) const MANIFEST: &str = "manifest.json";

/// An image of manifest.json (moby's image/tarexport).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// An image whose members are all there and right, ready to be stored.
struct Checked {
    references: Vec<Reference>,
    blobs: Vec<Spooled>,
    manifest: Vec<u8>,
    id: Digest,
}

/// Stores every image for `platform`. All are checked before the first is stored.
pub(super) fn import(
    store: &Store,
    lease: &Lease,
    find: &mut Find<'_>,
    platform: &Platform,
) -> Result<Vec<Loaded>, ArchiveError> {
    let bytes = require(find, MANIFEST, MANIFEST_BYTES)?.read(MANIFEST_BYTES)?;
    let json_error = |source| ArchiveError::Json {
        name: MANIFEST,
        source,
    };
    let entries: Vec<ImageEntry> = json::parse(&bytes, MANIFEST_BYTES).map_err(json_error)?;
    if entries.len() > ARCHIVE_IMAGES {
        return Err(ArchiveError::TooManyImages(entries.len()));
    }
    let mut images = Vec::new();
    let mut other_platform = None;
    for entry in &entries {
        match check(entry, find, platform) {
            Ok(image) => images.push(image),
            Err(error @ ArchiveError::Config(ConfigError::Platform { .. })) => {
                other_platform = Some(error)
            }
            Err(error) => return Err(error),
        }
    }
    if images.is_empty() {
        return Err(other_platform.unwrap_or(ArchiveError::NotAnImage));
    }
    let mut loaded = Vec::new();
    for image in images {
        for blob in &image.blobs {
            store.adopt(blob)?;
        }
        let digest = store.put(&image.manifest)?;
        store.record(lease, &digest, &image.references)?;
        loaded.push(Loaded {
            id: image.id,
            references: image.references,
        });
    }
    Ok(loaded)
}

fn check(
    entry: &ImageEntry,
    find: &mut Find<'_>,
    platform: &Platform,
) -> Result<Checked, ArchiveError> {
    let references: Result<Vec<Reference>, ArchiveError> = entry
        .repo_tags
        .iter()
        .flatten()
        .map(|name| {
            let reference = Reference::parse(name).map_err(|source| ArchiveError::Name {
                name: name.clone(),
                source,
            })?;
            // The manifest is made here: no digest that somebody asks a registry for can be its own.
            if reference.digest().is_some() {
                return Err(StoreError::TagWithDigest.into());
            }
            Ok(reference)
        })
        .collect();
    let names = entry.layers.as_deref().unwrap_or_default();
    if names.len() > LAYERS {
        return Err(ManifestError::TooManyLayers(names.len()).into());
    }
    let config_blob = require(find, &entry.config, CONFIG_BYTES)?;
    check_name(&entry.config, &config_blob)?;
    let config = ImageConfig::parse(&config_blob.read(CONFIG_BYTES)?)?;
    config.check_layers(names.len())?;
    config.check_platform(platform)?;

    let mut blobs = vec![config_blob.clone()];
    let mut layers = Vec::with_capacity(names.len());
    for (name, diff_id) in names.iter().zip(&config.diff_ids) {
        let blob = require(find, name, LAYER_BYTES)?;
        check_name(name, &blob)?;
        let media_type = match compression(name, &blob, diff_id)? {
            Compression::Gzip => oci::MediaType::ImageLayerGzip,
            Compression::Zstd => oci::MediaType::ImageLayerZstd,
            Compression::None | Compression::Sniff => oci::MediaType::ImageLayer,
        };
        layers.push(descriptor(media_type, &blob)?);
        blobs.push(blob);
    }
    let manifest = oci::ImageManifestBuilder::default()
        .schema_version(oci::SCHEMA_VERSION)
        .media_type(oci::MediaType::ImageManifest)
        .config(descriptor(oci::MediaType::ImageConfig, &config_blob)?)
        .layers(layers)
        .build()
        .map_err(|error| internal(&error))?;
    let manifest = serde_json::to_vec(&manifest).map_err(|error| internal(&error))?;
    Ok(Checked {
        references: references?,
        blobs,
        manifest,
        id: config_blob.digest,
    })
}

/// A name that is a digest has to be that of the content: `<hex>.json`, `blobs/sha256/<hex>`. (The
/// directories of old archives, `<hex>/layer.tar`, are named by something else.)
fn check_name(name: &str, blob: &Spooled) -> Result<(), ArchiveError> {
    let last = name.rsplit('/').next().unwrap_or_default();
    let stem = last.strip_suffix(".json").unwrap_or(last);
    match Digest::from_hex(stem) {
        Some(expected) if expected != blob.digest => Err(ArchiveError::DigestMismatch {
            name: name.to_owned(),
            expected,
            actual: blob.digest,
        }),
        _ => Ok(()),
    }
}

/// A layer with the diff_id's digest is a plain tar. Another may be compressed, which its first bytes
/// tell; whether it then unpacks to the diff_id is for the converter to find out.
fn compression(name: &str, blob: &Spooled, diff_id: &Digest) -> Result<Compression, ArchiveError> {
    if blob.digest == *diff_id {
        return Ok(Compression::None);
    }
    match blob.magic()? {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd] => Ok(Compression::Zstd),
        _ => Err(ArchiveError::Layer(name.to_owned())),
    }
}

fn descriptor(media_type: oci::MediaType, blob: &Spooled) -> Result<oci::Descriptor, ArchiveError> {
    let digest: oci::Digest = blob
        .digest
        .to_string()
        .parse()
        .map_err(|error| internal(&error))?;
    Ok(oci::Descriptor::new(media_type, blob.size, digest))
}

/// The manifest we make ourselves always has a JSON form; should it not, that is an error, not a crash.
fn internal(error: &dyn std::error::Error) -> ArchiveError {
    ArchiveError::Json {
        name: "the manifest made for the image",
        source: JsonError::Invalid(error.to_string()),
    }
}
