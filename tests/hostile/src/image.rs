//! An image as bytes: layers, configuration, manifest, and where each is found. Cases make it; what
//! serves or archives it takes the bytes as they are.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::tarball::Tar;

/// Media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a layer, without `+gzip` or `+zstd`.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// `sha256:` and the digits.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// As one gzip member.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    // Memory takes it all.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// As one zstd frame.
#[must_use]
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap_or_default()
}

/// What all images are based on: a layer with a shell.
#[derive(Clone, Debug)]
pub struct Base {
    /// Its tar, plain.
    pub tar: Vec<u8>,
}

/// A layer, and what the documents say of it.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What a registry sends.
    pub bytes: Vec<u8>,
    /// Its descriptor.
    pub descriptor: Value,
    /// Its diff_id.
    pub diff_id: Value,
}

impl Layer {
    /// A plain one, of which everything that is said is true.
    #[must_use]
    pub fn plain(tar: Vec<u8>) -> Self {
        let diff_id = digest(&tar);
        Self::packed(tar, "", &diff_id)
    }

    /// The bytes of a blob, with the ending of its media type.
    #[must_use]
    pub fn packed(bytes: Vec<u8>, ending: &str, diff_id: &str) -> Self {
        Self {
            descriptor: json!({
                "mediaType": format!("{LAYER}{ending}"),
                "digest": digest(&bytes),
                "size": bytes.len(),
            }),
            diff_id: json!(diff_id),
            bytes,
        }
    }
}

/// An image of which everything can still be changed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// From the base up.
    pub layers: Vec<Layer>,
    /// The `config` member of the configuration.
    pub config: Value,
    /// Members of the configuration beside it, in place of the usual ones.
    pub beside: Value,
}

impl Draft {
    /// An image with the base as its only layer, whose command is a shell.
    #[must_use]
    pub fn on(base: &Base) -> Self {
        Self {
            layers: vec![Layer::plain(base.tar.clone())],
            config: json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"]}),
            beside: json!({}),
        }
    }

    /// With one layer more.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// With a plain layer more.
    #[must_use]
    pub fn tar(self, tar: Tar) -> Self {
        self.layer(Layer::plain(tar.end()))
    }

    /// With these members in its `config`.
    #[must_use]
    pub fn with(mut self, members: Value) -> Self {
        merge(&mut self.config, members);
        self
    }

    /// With these members beside `config`.
    #[must_use]
    pub fn beside(mut self, members: Value) -> Self {
        merge(&mut self.beside, members);
        self
    }

    /// The configuration.
    #[must_use]
    pub fn configuration(&self) -> Value {
        let diff_ids: Vec<&Value> = self.layers.iter().map(|layer| &layer.diff_id).collect();
        let mut all = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        merge(&mut all, self.beside.clone());
        all
    }

    /// The image, everything in it as it should be.
    #[must_use]
    pub fn image(&self) -> Image {
        self.image_with(self.configuration().to_string().into_bytes(), |_| {})
    }

    /// The image with another configuration, and a manifest that `change` has changed.
    #[must_use]
    pub fn image_with(&self, config: Vec<u8>, change: impl FnOnce(&mut Value)) -> Image {
        let descriptors: Vec<&Value> = self.layers.iter().map(|layer| &layer.descriptor).collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": CONFIG,
                "digest": digest(&config),
                "size": config.len(),
            },
            "layers": descriptors,
        });
        change(&mut manifest);
        let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for layer in &self.layers {
            // Where the manifest says, whatever it is.
            if let Some(name) = layer.descriptor["digest"].as_str() {
                blobs.insert(name.to_owned(), layer.bytes.clone());
            }
        }
        blobs.insert(digest(&config), config);
        Image {
            blobs,
            manifest: manifest.to_string().into_bytes(),
            media_type: MANIFEST,
        }
    }
}

fn merge(into: &mut Value, members: Value) {
    if let (Value::Object(into), Value::Object(members)) = (into, members) {
        into.extend(members);
    }
}

/// An image as a registry or an archive has it.
#[derive(Clone, Debug)]
pub struct Image {
    /// By what they are asked for: their digest, or a lie.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// What the image's name leads to: a manifest or an index.
    pub manifest: Vec<u8>,
    /// What it is said to be.
    pub media_type: &'static str,
}

impl Image {
    /// Another document in place of its manifest.
    #[must_use]
    pub fn document(mut self, bytes: impl Into<Vec<u8>>, media_type: &'static str) -> Self {
        self.manifest = bytes.into();
        self.media_type = media_type;
        self
    }

    /// An index that leads to its manifest, and to further entries.
    #[must_use]
    pub fn in_index(mut self, entries: impl FnOnce(Value) -> Value) -> Self {
        let entry = json!({
            "mediaType": self.media_type,
            "digest": digest(&self.manifest),
            "size": self.manifest.len(),
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries(entry)});
        let manifest = std::mem::replace(&mut self.manifest, index.to_string().into_bytes());
        self.blobs.insert(digest(&manifest), manifest);
        self.media_type = INDEX;
        self
    }

    /// An OCI layout in a tar.
    #[must_use]
    pub fn archive(&self, name: &str) -> Vec<u8> {
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": self.media_type,
                "digest": digest(&self.manifest),
                "size": self.manifest.len(),
                "annotations": {"org.opencontainers.image.ref.name": name},
            }],
        });
        let mut tar = Tar::new()
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", index.to_string().as_bytes());
        let manifest = (digest(&self.manifest), self.manifest.clone());
        for (name, bytes) in self.blobs.clone().into_iter().chain([manifest]) {
            let (algorithm, hex) = name.split_once(':').unwrap_or(("sha256", &name));
            let path = format!("blobs/{algorithm}/{hex}");
            if path.len() > 100 {
                tar = tar.long(b'L', &path).file("cut", &bytes);
            } else {
                tar = tar.file(path, &bytes);
            }
        }
        tar.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_holds_what_its_manifest_names() {
        let base = Base {
            tar: Tar::new().dir("bin").end(),
        };
        let image = Draft::on(&base).tar(Tar::new().file("f", b"x")).image();
        let manifest: Value = serde_json::from_slice(&image.manifest).expect("json");
        let layers = manifest["layers"].as_array().expect("layers");
        for descriptor in layers.iter().chain([&manifest["config"]]) {
            let name = descriptor["digest"].as_str().expect("digest");
            let bytes = image.blobs.get(name).expect("blob");
            assert_eq!(digest(bytes), name);
            assert_eq!(descriptor["size"], bytes.len());
        }
        assert_eq!(layers.len(), 2);
        let inside = image.in_index(|entry| json!([entry]));
        assert_eq!(inside.blobs.len(), 4);
    }
}
