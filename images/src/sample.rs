//! Images made by code, for tests: bytes of configs, layers, manifests, archives. It uses none of the
//! code that is tested, so an error in that can't hide in both.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// `sha256:…` of some bytes.
pub(crate) fn sha(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// The same without the algorithm.
pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An image whose layers are any bytes at all, since nobody here looks into them.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) manifest: Vec<u8>,
}

impl Sample {
    /// An image for linux/amd64 with these layers.
    pub(crate) fn new(layers: &[&[u8]]) -> Self {
        Self::of_architecture("amd64", layers)
    }

    pub(crate) fn of_architecture(architecture: &str, layers: &[&[u8]]) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| sha(layer)).collect();
        Self::of_config(
            json!({
                "architecture": architecture,
                "os": "linux",
                "created": "2024-05-01T12:00:00Z",
                "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            }),
            layers,
        )
    }

    pub(crate) fn of_config(config: Value, layers: &[&[u8]]) -> Self {
        let config = serde_json::to_vec(&config).unwrap();
        let descriptors: Vec<Value> = layers
            .iter()
            .map(|layer| descriptor(LAYER, layer))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": descriptors,
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let layers = layers.iter().map(|layer| layer.to_vec()).collect();
        Self {
            config,
            layers,
            manifest,
        }
    }

    pub(crate) fn id(&self) -> String {
        sha(&self.config)
    }

    /// Every blob of the image, the manifest last.
    pub(crate) fn blobs(&self) -> Vec<Vec<u8>> {
        let documents = [self.config.clone(), self.manifest.clone()];
        self.layers.iter().cloned().chain(documents).collect()
    }

    /// As `docker save` of before version 25 writes it.
    pub(crate) fn docker_archive(&self, tags: &[&str]) -> Vec<u8> {
        let mut tar = Tar::default();
        let mut names = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let name = format!("{index:064}/layer.tar");
            tar.file(&name, layer);
            names.push(name);
        }
        let config = format!("{}.json", hex(&self.config));
        tar.file(&config, &self.config);
        let list = json!([{"Config": config, "RepoTags": tags, "Layers": names}]);
        tar.file("manifest.json", &serde_json::to_vec(&list).unwrap());
        tar.finish()
    }

    /// index.json of an OCI layout with this image alone.
    pub(crate) fn index(&self, name: Option<&str>) -> Vec<u8> {
        let mut entry = descriptor(MANIFEST, &self.manifest);
        if let Some(name) = name {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]})).unwrap()
    }

    /// An OCI layout in a tar.
    pub(crate) fn oci_archive(&self, name: Option<&str>) -> Vec<u8> {
        let mut tar = Tar::default();
        tar.file("oci-layout", LAYOUT);
        tar.file("index.json", &self.index(name));
        for blob in self.blobs() {
            tar.file(&format!("blobs/sha256/{}", hex(&blob)), &blob);
        }
        tar.finish()
    }

    /// An OCI layout in a directory.
    pub(crate) fn write_layout(&self, dir: &Path, name: Option<&str>) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(dir.join("oci-layout"), LAYOUT).unwrap();
        std::fs::write(dir.join("index.json"), self.index(name)).unwrap();
        for blob in self.blobs() {
            std::fs::write(blobs.join(hex(&blob)), &blob).unwrap();
        }
    }
}

pub(crate) const LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A descriptor of `content`.
pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha(content), "size": content.len()})
}

/// A tar under construction.
#[derive(Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    pub(crate) fn file(&mut self, name: &str, content: &[u8]) {
        self.member(tar::EntryType::Regular, name, "", content);
    }

    pub(crate) fn member(&mut self, kind: tar::EntryType, name: &str, link: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(u64::try_from(content.len()).unwrap());
        self.raw(&header, content);
    }

    /// A header as it is but for its checksum, and content with padding.
    pub(crate) fn raw(&mut self, header: &tar::Header, content: &[u8]) {
        let mut header = header.clone();
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}
