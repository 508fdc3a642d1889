//! A new image: another one with a layer on top and a config of its own.
//!
//! Called by the command for `commit`. The layer is opaque bytes here as everywhere, an uncompressed
//! tar that is hashed while it is written; what a guest put into it is looked at by the converter VM
//! that unpacks it, like any other layer.

use std::io::Read;

use serde_json::{Map, Value, json};

use crate::build::EMPTY_TAR_BYTES;
use crate::config::{History, ImageConfig};
use crate::digest::Digest;
use crate::image::Image;
use crate::limits::{LAYER_BYTES, LAYERS, MANIFEST_BYTES};
use crate::manifest::{DOCKER_MANIFEST, ManifestError};
use crate::reference::Reference;
use crate::store::{Store, StoreError};

/// Makes an image of `base` and a layer, with `config` in place of its config, and gives it `names`.
/// Of `config`, the list of layers is not looked at; `step` becomes the last of its history. The base is an
/// image and no id: others can have the id by layers of their own.
///
/// # Errors
/// Too many layers, a layer above [`LAYER_BYTES`], a disk that is full; the store is as it was then.
pub fn commit(
    store: &Store,
    base: &Image,
    layer: &mut dyn Read,
    config: ImageConfig,
    step: History,
    names: &[Reference],
) -> Result<Image, StoreError> {
    if names.iter().any(|name| name.digest().is_some()) {
        return Err(StoreError::TagWithDigest);
    }
    let lease = store.lease()?;
    let mut spool = store.spool()?;
    let layer = spool.copy(layer, LAYER_BYTES)?;
    let is_empty = layer.size <= EMPTY_TAR_BYTES;
    let mut config = config;
    config.diff_ids.clone_from(&base.config.diff_ids);
    config.created.clone_from(&step.created);
    config.history.push(History {
        empty_layer: is_empty,
        ..step
    });
    if !is_empty {
        if base.layers.len() >= LAYERS {
            return Err(ManifestError::TooManyLayers(base.layers.len() + 1).into());
        }
        config.diff_ids.push(layer.digest);
        store.adopt(&layer)?;
    }
    let config = config.to_json();
    // What can't be read again must not be stored.
    ImageConfig::parse(&config)?;
    let config_digest = store.put(&config)?;
    let manifest = store.document(&base.manifest_digest, MANIFEST_BYTES)?;
    let mut manifest: Map<String, Value> = match serde_json::from_slice(&manifest) {
        Ok(Value::Object(manifest)) => manifest,
        _ => return Err(ManifestError::Ambiguous.into()),
    };
    let is_docker = manifest.get("mediaType").and_then(Value::as_str) == Some(DOCKER_MANIFEST);
    if let Some(Value::Object(descriptor)) = manifest.get_mut("config") {
        *descriptor = replaced(descriptor, &config_digest, config.len() as u64);
    }
    if !is_empty && let Some(Value::Array(layers)) = manifest.get_mut("layers") {
        let media_type = match is_docker {
            true => "application/vnd.docker.image.rootfs.diff.tar",
            false => "application/vnd.oci.image.layer.v1.tar",
        };
        layers.push(json!({
            "mediaType": media_type,
            "digest": layer.digest.to_string(),
            "size": layer.size,
        }));
    }
    // They are about the other image.
    for key in ["annotations", "subject"] {
        manifest.remove(key);
    }
    let digest = store.put(Value::Object(manifest).to_string().as_bytes())?;
    store.record(&lease, &digest, names)
}

/// The descriptor of another blob of the same kind.
fn replaced(descriptor: &Map<String, Value>, digest: &Digest, size: u64) -> Map<String, Value> {
    let media_type = descriptor.get("mediaType").cloned().unwrap_or_default();
    let fields = [
        ("mediaType", media_type),
        ("digest", json!(digest.to_string())),
        ("size", json!(size)),
    ];
    fields
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

impl ImageConfig {
    /// The config as a document, in Docker's form of OCI's. Read again it is the same.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let set = |names: &[String]| {
            let entries = names.iter().map(|name| (name.clone(), json!({})));
            Value::Object(entries.collect())
        };
        let mut config = Map::new();
        let mut add = |key: &str, value: Value| {
            let is_nothing = match &value {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Object(entries) => entries.is_empty(),
                _ => false,
            };
            if !is_nothing {
                config.insert(key.to_owned(), value);
            }
        };
        add("User", json!(self.user));
        add("ExposedPorts", set(&self.exposed_ports));
        add("Env", json!(self.env));
        add("Entrypoint", json!(self.entrypoint));
        add("Cmd", json!(self.cmd));
        add("Volumes", set(&self.volumes));
        add("WorkingDir", json!(self.working_dir));
        add("Labels", json!(self.labels));
        add("StopSignal", json!(self.stop_signal));
        add("Healthcheck", json!(self.healthcheck));
        add("Shell", json!(self.shell));
        if !self.on_build.is_empty() {
            add("OnBuild", json!(self.on_build));
        }
        let mut document = json!({
            "architecture": self.platform.architecture(),
            "os": self.platform.os(),
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            "history": self.history.iter().map(History::to_json).collect::<Vec<_>>(),
        });
        for (key, text) in [
            ("variant", self.platform.variant().unwrap_or_default()),
            (
                "created",
                self.created.as_ref().map_or("", |time| time.as_str()),
            ),
            ("author", &self.author),
            ("comment", &self.comment),
            ("docker_version", &self.docker_version),
        ] {
            if !text.is_empty() {
                document[key] = json!(text);
            }
        }
        document.to_string().into_bytes()
    }
}

impl History {
    fn to_json(&self) -> Value {
        let mut step = Map::new();
        let created = self.created.as_ref().map_or("", |time| time.as_str());
        for (key, text) in [
            ("created", created),
            ("created_by", &self.created_by),
            ("author", &self.author),
            ("comment", &self.comment),
        ] {
            if !text.is_empty() {
                step.insert(key.to_owned(), json!(text));
            }
        }
        if self.empty_layer {
            step.insert("empty_layer".to_owned(), json!(true));
        }
        Value::Object(step)
    }
}

#[cfg(test)]
mod tests;
