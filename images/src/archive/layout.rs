//! The form of an OCI image layout: index.json leads to manifests, and those to blobs by digest.
//!
//! Used by `archive` for tars and directories alike (image spec, image-layout.md).

use serde::Deserialize;

use super::{ArchiveError, Find, Loaded, require};
use crate::config::{ConfigError, ImageConfig};
use crate::digest::Digest;
use crate::json;
use crate::limits::{ARCHIVE_IMAGES, CONFIG_BYTES, INDEX_DEPTH, MANIFEST_BYTES};
use crate::manifest::{self, BlobRef, Document, EntryKind, IndexEntry, Manifest, ManifestError};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Lease, Spooled, Store, StoreError};

/// The member that lists the images.
pub(super) const INDEX: &str = "index.json";
/// The member that says which version the layout has.
pub(super) const MARKER: &str = "oci-layout";
const LAYOUT_BYTES: u64 = 4096;

/// Annotations that hold a name: containerd's and Docker's whole one, and OCI's, which may be a tag alone.
const FULL_NAME: &str = "io.containerd.image.name";
const NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutDocument {
    image_layout_version: String,
}

/// An image whose blobs are all there and right, ready to be stored.
struct Checked {
    references: Vec<Reference>,
    blobs: Vec<Spooled>,
    manifest: Digest,
    id: Digest,
}

/// Stores every image for `platform`. All are checked before the first is stored.
pub(super) fn import(
    store: &Store,
    lease: &Lease,
    find: &mut Find<'_>,
    platform: &Platform,
) -> Result<Vec<Loaded>, ArchiveError> {
    let layout = find(MARKER, LAYOUT_BYTES)?
        .ok_or(ArchiveError::NotAnImage)?
        .read(LAYOUT_BYTES)?;
    let json_error = |source| ArchiveError::Json {
        name: MARKER,
        source,
    };
    let layout: LayoutDocument = json::parse(&layout, LAYOUT_BYTES).map_err(json_error)?;
    if layout.image_layout_version != "1.0.0" {
        return Err(ArchiveError::LayoutVersion(layout.image_layout_version));
    }
    let index = require(find, INDEX, MANIFEST_BYTES)?.read(MANIFEST_BYTES)?;
    let Document::Index(index) = manifest::parse(&index)? else {
        return Err(ManifestError::Ambiguous.into());
    };
    if index.entries.len() > ARCHIVE_IMAGES {
        return Err(ArchiveError::TooManyImages(index.entries.len()));
    }
    let mut images = Vec::new();
    let (mut other_platform, mut artifact) = (None, None);
    for entry in &index.entries {
        match check(entry, find, platform) {
            Ok(image) => images.push(image),
            Err(
                error @ (ArchiveError::Config(ConfigError::Platform { .. })
                | ArchiveError::Manifest(ManifestError::NoPlatform { .. })
                | ArchiveError::NoPlatform(_)),
            ) => other_platform = Some(error),
            Err(error) if is_artifact(entry, &error) => artifact = Some(error),
            Err(error) => return Err(error),
        }
    }
    if images.is_empty() {
        return Err(other_platform
            .or(artifact)
            .unwrap_or(ArchiveError::NotAnImage));
    }
    let mut loaded: Vec<Loaded> = Vec::new();
    for image in images {
        for blob in &image.blobs {
            store.adopt(blob)?;
        }
        store.record(lease, &image.manifest, &image.references)?;
        // One image with several names has an entry for each.
        match loaded.iter_mut().find(|loaded| loaded.id == image.id) {
            Some(loaded) => loaded.references.extend(image.references),
            None => loaded.push(Loaded {
                id: image.id,
                references: image.references,
            }),
        }
    }
    Ok(loaded)
}

/// Whether an entry leads to something other than an image: signatures and what `oras` keeps lie beside
/// images, some with an image's config.
fn is_artifact(entry: &IndexEntry, error: &ArchiveError) -> bool {
    match error {
        ArchiveError::Manifest(ManifestError::NotAnImage(_)) => true,
        ArchiveError::Manifest(ManifestError::LayerType { .. }) => entry.platform.is_none(),
        _ => false,
    }
}

fn check(
    entry: &IndexEntry,
    find: &mut Find<'_>,
    platform: &Platform,
) -> Result<Checked, ArchiveError> {
    if entry.kind == EntryKind::Manifest
        && entry
            .platform
            .as_ref()
            .is_some_and(|offered| platform.fit(offered).is_none())
    {
        return Err(ArchiveError::NoPlatform(platform.clone()));
    }
    let (manifest, manifest_blob) = descend(&entry.blob, find, platform)?;
    let references = name(entry)?.into_iter().collect();
    let config_blob = blob(&manifest.config, find)?;
    let config = ImageConfig::parse(&config_blob.read(CONFIG_BYTES)?)?;
    config.check_layers(manifest.layers.len())?;
    config.check_platform(platform)?;
    let (id, manifest_digest) = (config_blob.digest, manifest_blob.digest);
    let mut blobs = vec![config_blob, manifest_blob];
    for layer in &manifest.layers {
        blobs.push(blob(&layer.blob, find)?);
    }
    Ok(Checked {
        references,
        blobs,
        manifest: manifest_digest,
        id,
    })
}

/// Follows indexes down to the platform's manifest.
fn descend(
    start: &BlobRef,
    find: &mut Find<'_>,
    platform: &Platform,
) -> Result<(Manifest, Spooled), ArchiveError> {
    let mut next = *start;
    for _ in 0..=INDEX_DEPTH {
        let document = blob(&next, find)?;
        match manifest::parse(&document.read(MANIFEST_BYTES)?)? {
            Document::Manifest(manifest) => return Ok((manifest, document)),
            Document::Index(index) => next = index.select(platform)?.blob,
        }
    }
    Err(ArchiveError::IndexDepth)
}

/// The content of a descriptor, checked against it.
fn blob(wanted: &BlobRef, find: &mut Find<'_>) -> Result<Spooled, ArchiveError> {
    let name = format!("blobs/sha256/{}", wanted.digest.hex());
    let found = require(find, &name, wanted.size)?;
    if found.size != wanted.size {
        return Err(ArchiveError::SizeMismatch {
            name,
            expected: wanted.size,
            actual: found.size,
        });
    }
    if found.digest != wanted.digest {
        return Err(ArchiveError::DigestMismatch {
            name,
            expected: wanted.digest,
            actual: found.digest,
        });
    }
    Ok(found)
}

/// The name that an entry gives its image. OCI's annotation may be a tag alone, which names nothing
/// without a repository. A digest in it has to be the entry's own: by that name a user means that content.
fn name(entry: &IndexEntry) -> Result<Option<Reference>, ArchiveError> {
    let full = entry.annotations.get(FULL_NAME);
    let name = full.or_else(|| {
        entry
            .annotations
            .get(NAME)
            .filter(|name| name.contains(['/', ':', '@']))
    });
    name.map(|name| {
        let reference = Reference::parse(name).map_err(|source| ArchiveError::Name {
            name: name.clone(),
            source,
        })?;
        match reference.digest() {
            Some(digest) if *digest != entry.blob.digest => Err(StoreError::TagWithDigest.into()),
            _ => Ok(reference),
        }
    })
    .transpose()
}
