//! An image in the store: its config, its layers, its names.
//!
//! Made by `store` from checked documents; used by the command (`images`, `inspect`, `history`) and by
//! `sandbox`, which turns the layers into disks. It opens nothing.

use crate::config::{ConfigError, ImageConfig};
use crate::digest::Digest;
use crate::layers::LayerKey;
use crate::manifest::{Compression, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::timestamp::Timestamp;

/// One layer: opaque bytes, and what they claim to unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layer {
    /// Digest of the bytes as stored.
    pub blob: Digest,
    /// Digest that the uncompressed tar must have. A claim of the image until a converter has checked it.
    pub diff_id: Digest,
    /// How the bytes are packed. A claim too.
    pub compression: Compression,
    /// Bytes as stored.
    pub size: u64,
}

impl Layer {
    /// Under which its disk is cached.
    pub fn key(&self) -> LayerKey {
        LayerKey {
            diff_id: self.diff_id,
            blob: self.blob,
        }
    }
}

/// An image whose blobs are all in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of the config, as in Docker.
    pub id: Digest,
    /// Digest of the manifest in the store.
    pub manifest_digest: Digest,
    /// The checked config.
    pub config: ImageConfig,
    /// From the base up.
    pub layers: Vec<Layer>,
    /// Names with a tag, in alphabetical order; empty for a dangling image.
    pub tags: Vec<Reference>,
    /// Names with the digest that a registry gave, in alphabetical order.
    pub repo_digests: Vec<Reference>,
    /// Bytes of manifest, config and layers as stored. Docker shows the unpacked size, which only a guest
    /// could tell here.
    pub size: u64,
}

impl Image {
    /// Puts an image together from its documents; the names are added by the store.
    ///
    /// Fails where manifest and config disagree on the number of layers.
    pub(crate) fn assemble(
        manifest_digest: Digest,
        manifest_size: u64,
        manifest: &Manifest,
        config: ImageConfig,
    ) -> Result<Self, ConfigError> {
        config.check_layers(manifest.layers.len())?;
        let layers: Vec<Layer> = manifest
            .layers
            .iter()
            .zip(&config.diff_ids)
            .map(|(layer, diff_id)| Layer {
                blob: layer.blob.digest,
                diff_id: *diff_id,
                compression: layer.compression,
                size: layer.blob.size,
            })
            .collect();
        let documents = manifest_size.saturating_add(manifest.config.size);
        let size = layers
            .iter()
            .fold(documents, |sum, layer| sum.saturating_add(layer.size));
        Ok(Self {
            id: manifest.config.digest,
            manifest_digest,
            config,
            layers,
            tags: Vec::new(),
            repo_digests: Vec::new(),
            size,
        })
    }

    /// Operating system and architecture.
    pub fn platform(&self) -> &Platform {
        &self.config.platform
    }

    /// For example `amd64`.
    pub fn architecture(&self) -> &str {
        self.config.platform.architecture()
    }

    /// When the image was made, if it says.
    pub fn created(&self) -> Option<&Timestamp> {
        self.config.created.as_ref()
    }
}
