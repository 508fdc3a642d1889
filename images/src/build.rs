//! What a build leaves in the store: the layers of its steps, the cache that knows them by what made
//! them, and the image at the end.
//!
//! Called by `sandbox::build`. A layer is opaque bytes here as everywhere, an uncompressed tar that a
//! guest wrote. Which key a step has is the caller's to say; a record that can't be read is none.

use std::collections::HashSet;
use std::io::Read;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::image::{Image, Layer};
use crate::json;
use crate::limits::{
    BUILD_CACHE_BYTES, BUILD_STEP_BYTES, BUILD_STEPS, IMAGE_BYTES, LAYER_BYTES, LAYERS,
};
use crate::manifest::{Compression, ManifestError, OCI_CONFIG, OCI_MANIFEST};
use crate::reference::Reference;
use crate::store::files::{self, FileError};
use crate::store::{Lease, Store, StoreError};

/// Bytes of a tar without entries: no layer is made of it, as in Docker.
pub(crate) const EMPTY_TAR_BYTES: u64 = 1024;

/// What begins the name of a record that is being written.
const NEW: &str = ".new-";

/// What a step of a build made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedStep {
    /// Its layer; `None` when it changed nothing.
    pub layer: Option<Layer>,
    /// The instruction, for people.
    pub text: String,
    /// When it was made, as RFC 3339 has it.
    pub created: String,
}

/// A record of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRecord {
    /// What made the step.
    pub key: Digest,
    /// What it made.
    pub step: CachedStep,
    /// When it was last of use.
    pub last_used: SystemTime,
}

/// A record as it is on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    layer: Option<LayerDocument>,
    text: String,
    created: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct LayerDocument {
    digest: Digest,
    size: u64,
}

impl Store {
    /// Takes the layer of a step, an uncompressed tar. `None` when nothing is in it.
    ///
    /// # Errors
    /// A layer above [`LAYER_BYTES`], a disk that is full; nothing is left then.
    pub fn take_layer(
        &self,
        _lease: &Lease,
        from: &mut dyn Read,
    ) -> Result<Option<Layer>, StoreError> {
        let mut spool = self.spool()?;
        let spooled = spool.copy(from, LAYER_BYTES)?;
        if spooled.size <= EMPTY_TAR_BYTES {
            return Ok(None);
        }
        self.adopt(&spooled)?;
        Ok(Some(plain(spooled.digest, spooled.size)))
    }

    /// What the step of this key made when it was run last, if its layer is still there.
    ///
    /// # Errors
    /// When the cache can't be read.
    pub fn cached_step(&self, key: &Digest) -> Result<Option<CachedStep>, StoreError> {
        let path = self.step_path(key);
        let Some(step) = self.read_step(key)? else {
            return Ok(None);
        };
        if let Some(layer) = &step.layer
            && !matches!(self.has_blob(&layer.blob, layer.size), Ok(true))
        {
            return Ok(None);
        }
        // When it can't be noted the step may be forgotten a little early.
        let _ = std::fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Some(step))
    }

    /// Keeps what a step made.
    ///
    /// # Errors
    /// A disk that is full.
    pub fn cache_step(&self, key: &Digest, step: &CachedStep) -> Result<(), StoreError> {
        let folder = self.build_cache();
        files::make_dir(&folder)?;
        let document = Document {
            layer: step.layer.map(|layer| LayerDocument {
                digest: layer.blob,
                size: layer.size,
            }),
            text: step.text.clone(),
            created: step.created.clone(),
        };
        let bytes = json!(document).to_string();
        let path = self.step_path(key);
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(NEW).tempfile_in(&folder)?;
            std::io::Write::write_all(&mut file, bytes.as_bytes())?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(FileError::of("write", &path))?;
        Ok(())
    }

    /// All records, those of use longest ago first.
    ///
    /// # Errors
    /// When the cache can't be read.
    pub fn cached_steps(&self) -> Result<Vec<CacheRecord>, StoreError> {
        let folder = self.build_cache();
        let mut records = Vec::new();
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(records),
            entries => entries.map_err(FileError::of("read the directory", &folder))?,
        };
        for entry in entries.flatten() {
            let key = entry.file_name().to_str().and_then(Digest::from_hex);
            let (Some(key), Ok(metadata)) = (key, entry.metadata()) else {
                continue;
            };
            if let Some(step) = self.read_step(&key)? {
                records.push(CacheRecord {
                    key,
                    step,
                    last_used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                });
            }
        }
        records.sort_by_key(|record| (record.last_used, record.key));
        Ok(records)
    }

    /// Forgets what these steps made. Layers that nobody else needs go with the next collection.
    ///
    /// # Errors
    /// When a record can't be removed.
    pub fn forget_steps<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Digest>,
    ) -> Result<(), StoreError> {
        for key in keys {
            files::remove(&self.step_path(key))?;
        }
        Ok(())
    }

    /// Forgets the steps beyond [`BUILD_STEPS`] and [`BUILD_CACHE_BYTES`] that were of use longest ago; whether
    /// there were any, so that there is something to collect.
    ///
    /// # Errors
    /// As [`Self::forget_steps`].
    pub fn limit_steps(&self) -> Result<bool, StoreError> {
        self.limit_steps_to(BUILD_CACHE_BYTES)
    }

    fn limit_steps_to(&self, bytes: u64) -> Result<bool, StoreError> {
        let records = self.cached_steps()?;
        // What an image has costs nothing.
        let images = self.list()?.images;
        let layers = images.iter().flat_map(|image| &image.layers);
        let mut seen: HashSet<Digest> = layers.map(|layer| layer.blob).collect();
        // Those of use last stay, as far as they fit; one that does not leaves room for others.
        let (mut kept, mut size) = (0_usize, 0_u64);
        let mut surplus = Vec::new();
        for record in records.iter().rev() {
            let layer = record.step.layer;
            let own = layer.filter(|layer| !seen.contains(&layer.blob));
            let together = size.saturating_add(own.map_or(0, |layer| layer.size));
            if kept == BUILD_STEPS || together > bytes {
                surplus.push(&record.key);
                continue;
            }
            seen.extend(own.map(|layer| layer.blob));
            (kept, size) = (kept + 1, together);
        }
        let is_any = !surplus.is_empty();
        self.forget_steps(surplus)?;
        Ok(is_any)
    }

    /// Removes records that a killed build was writing. Nobody may be writing one.
    pub(crate) fn remove_unfinished_steps(&self) -> Result<(), StoreError> {
        let entries = std::fs::read_dir(self.build_cache()).into_iter().flatten();
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(NEW) {
                files::remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Makes an image of layers that are in the store. Of `config`, the list of layers is not looked at.
    ///
    /// # Errors
    /// More than [`LAYERS`] layers, a disk that is full.
    pub fn compose(
        &self,
        lease: &Lease,
        layers: &[Layer],
        mut config: ImageConfig,
        names: &[Reference],
    ) -> Result<Image, StoreError> {
        if layers.len() > LAYERS {
            return Err(ManifestError::TooManyLayers(layers.len()).into());
        }
        let bytes = layers
            .iter()
            .fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        if bytes > IMAGE_BYTES {
            return Err(StoreError::TooLarge { limit: IMAGE_BYTES });
        }
        config.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
        let config = config.to_json();
        // What can't be read again must not be stored.
        ImageConfig::parse(&config)?;
        let config_digest = self.put(&config)?;
        let mut descriptors = Vec::with_capacity(layers.len());
        for layer in layers {
            descriptors.push(json!({
                "mediaType": self.media_type(layer)?,
                "digest": layer.blob.to_string(),
                "size": layer.size,
            }));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": OCI_CONFIG,
                "digest": config_digest.to_string(),
                "size": config.len(),
            },
            "layers": descriptors,
        });
        let digest = self.put(manifest.to_string().as_bytes())?;
        self.record(lease, &digest, names)
    }

    /// OCI's name of how a layer is packed; where its image did not say, its first bytes do.
    fn media_type(&self, layer: &Layer) -> Result<&'static str, StoreError> {
        let compression = match layer.compression {
            Compression::Sniff => {
                let mut magic = Vec::new();
                let blob = self.blob(&layer.blob)?;
                blob.take(4)
                    .read_to_end(&mut magic)
                    .map_err(StoreError::Read)?;
                match magic.as_slice() {
                    [0x1f, 0x8b, ..] => Compression::Gzip,
                    [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
                    _ => Compression::None,
                }
            }
            told => told,
        };
        Ok(match compression {
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            Compression::None | Compression::Sniff => "application/vnd.oci.image.layer.v1.tar",
        })
    }

    /// Blobs that the cache needs.
    pub(crate) fn cached_layers(&self) -> Result<HashSet<Layer>, StoreError> {
        let records = self.cached_steps()?;
        Ok(records
            .into_iter()
            .filter_map(|record| record.step.layer)
            .collect())
    }

    fn read_step(&self, key: &Digest) -> Result<Option<CachedStep>, StoreError> {
        let path = self.step_path(key);
        let mut bytes = Vec::new();
        let file = match files::open_finished(&path) {
            Err(error) if error.is_not_found() => return Ok(None),
            file => file?,
        };
        file.take(BUILD_STEP_BYTES.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(FileError::of("read", &path))?;
        let Ok(document) = json::parse::<Document>(&bytes, BUILD_STEP_BYTES) else {
            return Ok(None);
        };
        Ok(Some(CachedStep {
            layer: document.layer.map(|layer| plain(layer.digest, layer.size)),
            text: document.text,
            created: document.created,
        }))
    }

    fn build_cache(&self) -> PathBuf {
        self.root().join("build-cache")
    }

    fn step_path(&self, key: &Digest) -> PathBuf {
        self.build_cache().join(key.hex())
    }
}

/// An uncompressed layer: what is stored is what it unpacks to.
fn plain(digest: Digest, size: u64) -> Layer {
    Layer {
        blob: digest,
        diff_id: digest,
        compression: Compression::None,
        size,
    }
}

#[cfg(test)]
mod tests;
