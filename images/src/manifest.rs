//! Manifests and indexes, OCI's and Docker's: bytes to checked types.
//!
//! Called by `registry`, `archive` and `store` on bytes whose digest they have checked or will. Pure: it
//! opens nothing. Sizes, counts, digests and media types are checked here, so what comes out can be used
//! without a further look. Never used: `urls` of a descriptor, which would let an image's author choose
//! an address that this machine asks, and `data`, which would be a second content for one digest.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use oci_spec::image as oci;
use serde::Deserialize;
use serde::de::IgnoredAny;
use thiserror::Error;

use crate::digest::{Digest, DigestError};
use crate::escape::quoted;
use crate::json::{self, JsonError};
use crate::limits::{
    ANNOTATIONS, CONFIG_BYTES, IMAGE_BYTES, INDEX_ENTRIES, LAYER_BYTES, LAYERS, MANIFEST_BYTES,
};
use crate::platform::Platform;

/// Media type of an OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of Docker's manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of Docker's schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// An OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// What registries and builders of 2016 called a config by mistake (distribution issue 1621), and Docker
/// takes for one. Artifacts call theirs so, too.
const VAGUE_CONFIGS: [&str; 4] = [
    "application/octet-stream",
    "application/json",
    "text/html",
    "",
];
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";

/// What a registry is asked for, in order of preference.
pub const ACCEPTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// A manifest or index that can't be used, and why.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// The JSON itself is at fault.
    #[error("cannot read the image manifest")]
    Json(#[source] JsonError),
    /// Docker's format of before 2016.
    #[error("the image manifest has schema version 1, which is not supported")]
    Schema1,
    /// Another version, or none.
    #[error("the image manifest has an unknown schema version")]
    SchemaVersion,
    /// It could be read as an index and as a manifest, or as neither, or says it is the other one.
    #[error("the document is not clearly an image manifest or an index")]
    Ambiguous,
    /// It says that it is something else.
    #[error("the document is {}, not an image manifest or an index", quoted(.0))]
    MediaType(String),
    /// A manifest of something other than an image (a chart, a signature …).
    #[error("the manifest is not a container image: its config is {}", quoted(.0))]
    NotAnImage(String),
    /// A digest that is none, or of another algorithm.
    #[error("cannot use the descriptor of {what}")]
    Digest {
        /// Which descriptor.
        what: String,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// More layers than [`LAYERS`].
    #[error("the image has {0} layers, above the limit of {LAYERS}")]
    TooManyLayers(usize),
    /// More entries than [`INDEX_ENTRIES`].
    #[error("the index has {0} entries, above the limit of {INDEX_ENTRIES}")]
    TooManyEntries(usize),
    /// A descriptor with more annotations than [`ANNOTATIONS`].
    #[error("a descriptor has {0} annotations, above the limit of {ANNOTATIONS}")]
    TooManyAnnotations(usize),
    /// A blob above the limit for its kind.
    #[error("{what} has {size} bytes, above the limit of {limit}")]
    TooLarge {
        /// Which blob.
        what: String,
        /// Bytes its descriptor names.
        size: u64,
        /// Bytes it may have.
        limit: u64,
    },
    /// One digest with two sizes.
    #[error("the manifest gives layer {0} two different sizes")]
    Sizes(Digest),
    /// A compression or format that isn't known.
    #[error(
        "layer {index} has the media type {}, which is not supported",
        quoted(media_type)
    )]
    LayerType {
        /// Counted from 1.
        index: usize,
        /// As the manifest has it.
        media_type: String,
    },
    /// A layer that is to be fetched from an address that the image's author chose.
    #[error(
        "layer {index} is not distributable ({media_type}): it would have to come from an address in the image"
    )]
    Foreign {
        /// Counted from 1.
        index: usize,
        /// One of the known types.
        media_type: String,
    },
    /// An index without the wanted platform. The first words are Docker's.
    #[error(
        "no matching manifest for {wanted} in the manifest list entries, which are for {}",
        listed(available)
    )]
    NoPlatform {
        /// The platform asked for.
        wanted: Platform,
        /// Those there are.
        available: Vec<String>,
    },
}

impl ManifestError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Schema1 => {
                Some("push the image again with a current docker, podman or skopeo".to_owned())
            }
            Self::TooManyLayers(_) => {
                Some("rebuild the image with fewer layers, or squash it".to_owned())
            }
            Self::NoPlatform { available, .. } if !available.is_empty() => {
                Some("choose an image that is built for this platform".to_owned())
            }
            Self::NotAnImage(_) => Some("only container images can run".to_owned()),
            Self::Foreign { .. } => {
                Some("push the image again with its layers in the registry".to_owned())
            }
            _ => None,
        }
    }
}

fn listed(available: &[String]) -> String {
    if available.is_empty() {
        "no platform".to_owned()
    } else {
        available.join(", ")
    }
}

/// How a layer's tar is packed. The host passes this on to the converter and never acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
    /// Unknown: whoever unpacks it looks at its first bytes.
    Sniff,
}

/// A blob by digest and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobRef {
    /// Its content's digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

/// A layer of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerRef {
    /// The packed layer.
    pub blob: BlobRef,
    /// How it is packed.
    pub compression: Compression,
}

/// A checked image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image's config; its digest is the image's id.
    pub config: BlobRef,
    /// From the base up; at most [`LAYERS`].
    pub layers: Vec<LayerRef>,
    /// OCI's or Docker's media type of a manifest.
    pub media_type: &'static str,
}

/// What an index entry leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// An image manifest.
    Manifest,
    /// A further index.
    Index,
}

/// An entry of an index that leads to images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The manifest or index.
    pub blob: BlobRef,
    /// Which of the two.
    pub kind: EntryKind,
    /// What it is for, if the index says.
    pub platform: Option<Platform>,
    /// Free text of the author.
    pub annotations: BTreeMap<String, String>,
}

/// A checked index. Entries of other kinds (attestations, signatures, charts) are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// In the document's order.
    pub entries: Vec<IndexEntry>,
}

/// What a manifest request can bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// A list of images by platform.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// The fields that tell the kinds of document apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// An image manifest. Go writes `null` for a list that is empty.
#[derive(Deserialize)]
struct ManifestDocument {
    config: ConfigDescriptor,
    layers: Option<Vec<oci::Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigDescriptor {
    media_type: Option<String>,
    digest: String,
    size: u64,
}

/// Parses a manifest or an index. A document that could be taken for both is refused, whatever its
/// media type says (CVE-2021-41190).
pub fn parse(bytes: &[u8]) -> Result<Document, ManifestError> {
    let shape: Shape = json::parse(bytes, MANIFEST_BYTES).map_err(ManifestError::Json)?;
    let declared = shape.media_type.as_deref();
    if shape.schema_version == Some(1)
        || declared.is_some_and(|media_type| media_type.starts_with(SCHEMA1))
    {
        return Err(ManifestError::Schema1);
    }
    if shape.schema_version != Some(2) {
        return Err(ManifestError::SchemaVersion);
    }
    let is_index = shape.manifests.is_some();
    let is_manifest = shape.config.is_some() || shape.layers.is_some();
    if is_index == is_manifest || shape.fs_layers.is_some() {
        return Err(ManifestError::Ambiguous);
    }
    match declared {
        None => {}
        Some(OCI_INDEX | DOCKER_LIST) if is_index => {}
        Some(OCI_MANIFEST | DOCKER_MANIFEST) if is_manifest => {}
        Some(OCI_INDEX | DOCKER_LIST | OCI_MANIFEST | DOCKER_MANIFEST) => {
            return Err(ManifestError::Ambiguous);
        }
        Some(other) => return Err(ManifestError::MediaType(other.to_owned())),
    }
    if is_index {
        let index = json::parse(bytes, MANIFEST_BYTES).map_err(ManifestError::Json)?;
        check_index(&index).map(Document::Index)
    } else {
        let manifest = json::parse(bytes, MANIFEST_BYTES).map_err(ManifestError::Json)?;
        let media_type = if declared == Some(DOCKER_MANIFEST) {
            DOCKER_MANIFEST
        } else {
            OCI_MANIFEST
        };
        check_manifest(manifest, media_type).map(Document::Manifest)
    }
}

fn check_manifest(
    manifest: ManifestDocument,
    media_type: &'static str,
) -> Result<Manifest, ManifestError> {
    let ConfigDescriptor {
        media_type: config_type,
        digest,
        size,
    } = manifest.config;
    let config_type = config_type.unwrap_or_default();
    let is_vague = VAGUE_CONFIGS.contains(&config_type.as_str());
    if !is_vague && !matches!(config_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
        return Err(ManifestError::NotAnImage(config_type));
    }
    let config = blob("the image config", &digest, size, CONFIG_BYTES)?;
    let descriptors = manifest.layers.unwrap_or_default();
    if descriptors.len() > LAYERS {
        return Err(ManifestError::TooManyLayers(descriptors.len()));
    }
    let mut sizes = HashMap::new();
    let mut total = 0_u64;
    let mut layers = Vec::with_capacity(descriptors.len());
    for (index, descriptor) in (1..).zip(&descriptors) {
        let compression = match compression(index, descriptor.media_type().as_ref()) {
            // Then its layers tell what it is.
            Err(ManifestError::LayerType { .. }) if is_vague => {
                return Err(ManifestError::NotAnImage(config_type));
            }
            compression => compression?,
        };
        let (digest, size) = (descriptor.digest().as_ref(), descriptor.size());
        let blob = blob(&format!("layer {index}"), digest, size, LAYER_BYTES)?;
        match sizes.insert(blob.digest, blob.size) {
            Some(size) if size != blob.size => return Err(ManifestError::Sizes(blob.digest)),
            Some(_) => {}
            None => total = total.saturating_add(blob.size),
        }
        layers.push(LayerRef { blob, compression });
    }
    if total > IMAGE_BYTES {
        return Err(ManifestError::TooLarge {
            what: "the image".to_owned(),
            size: total,
            limit: IMAGE_BYTES,
        });
    }
    Ok(Manifest {
        config,
        layers,
        media_type,
    })
}

fn check_index(index: &oci::ImageIndex) -> Result<Index, ManifestError> {
    if index.manifests().len() > INDEX_ENTRIES {
        return Err(ManifestError::TooManyEntries(index.manifests().len()));
    }
    let mut entries = Vec::new();
    for (number, descriptor) in (1..).zip(index.manifests()) {
        let kind = match descriptor.media_type().as_ref() {
            OCI_MANIFEST | DOCKER_MANIFEST => EntryKind::Manifest,
            OCI_INDEX | DOCKER_LIST => EntryKind::Index,
            // Artifacts share indexes with images; whoever wants an image passes them by.
            _ => continue,
        };
        let annotations = match descriptor.annotations() {
            Some(annotations) if annotations.len() > ANNOTATIONS => {
                return Err(ManifestError::TooManyAnnotations(annotations.len()));
            }
            Some(annotations) => annotations
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            None => BTreeMap::new(),
        };
        let platform = descriptor.platform().as_ref().map(|platform| {
            Platform::new(
                &platform.os().to_string(),
                &platform.architecture().to_string(),
                platform.variant().as_deref(),
            )
        });
        let (digest, size) = (descriptor.digest().as_ref(), descriptor.size());
        let blob = blob(
            &format!("index entry {number}"),
            digest,
            size,
            MANIFEST_BYTES,
        )?;
        entries.push(IndexEntry {
            blob,
            kind,
            platform,
            annotations,
        });
    }
    Ok(Index { entries })
}

fn blob(what: &str, digest: &str, size: u64, limit: u64) -> Result<BlobRef, ManifestError> {
    let digest = Digest::parse(digest).map_err(|source| ManifestError::Digest {
        what: what.to_owned(),
        source,
    })?;
    if size > limit {
        return Err(ManifestError::TooLarge {
            what: what.to_owned(),
            size,
            limit,
        });
    }
    Ok(BlobRef { digest, size })
}

/// OCI's types say how a layer is packed. Docker's don't bind: Docker looks at the bytes, and tools that
/// put zstd or a plain tar under Docker's one type rely on that.
fn compression(index: usize, media_type: &str) -> Result<Compression, ManifestError> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar" => Ok(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip" => Ok(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd" => Ok(Compression::Zstd),
        "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Compression::Sniff),
        "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
            Err(ManifestError::Foreign {
                index,
                media_type: media_type.to_owned(),
            })
        }
        other => Err(ManifestError::LayerType {
            index,
            media_type: other.to_owned(),
        }),
    }
}

impl Index {
    /// The entry that fits `wanted` best: of equal ones the first, and one without a platform only where
    /// none fits, since its config will tell.
    pub fn select(&self, wanted: &Platform) -> Result<&IndexEntry, ManifestError> {
        let fitting = self
            .entries
            .iter()
            .filter_map(|entry| Some((wanted.fit(entry.platform.as_ref()?)?, entry)))
            .min_by_key(|(fit, _)| *fit)
            .map(|(_, entry)| entry);
        fitting
            .or_else(|| self.entries.iter().find(|entry| entry.platform.is_none()))
            .ok_or_else(|| ManifestError::NoPlatform {
                wanted: wanted.clone(),
                available: self.platforms(),
            })
    }

    /// The platforms there are, each once, in alphabetical order and fit for a message. Attestations,
    /// which call themselves `unknown/unknown`, are no platform.
    fn platforms(&self) -> Vec<String> {
        let names: BTreeSet<String> = self
            .entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .filter(|platform| platform.os() != "unknown")
            .map(|platform| crate::escape::printable(&platform.to_string()))
            .collect();
        /// A message lists no more than this many.
        const LISTED: usize = 20;
        let more = names.len() > LISTED;
        let mut names: Vec<String> = names.into_iter().take(LISTED).collect();
        if more {
            names.push("others".to_owned());
        }
        names
    }
}

#[cfg(test)]
mod tests;
