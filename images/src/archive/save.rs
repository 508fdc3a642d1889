//! `save`: images from the store into one archive that is of two forms at once, as Docker writes it since
//! version 25: `manifest.json` and `repositories` for those who know `docker save`, and an OCI layout.
//!
//! Called by the command. Blobs go as they are stored, so that layers which came compressed stay so;
//! `docker load`, podman and skopeo take them. Each is hashed while it is written: an archive that is
//! whole is right. The same images give the same bytes.
//!
//! ```text
//! blobs/sha256/<hex>   configs, layers, manifests; each once
//! index.json           OCI: the manifests, with their names
//! manifest.json        Docker: config, names and layers of each image, as paths
//! oci-layout
//! repositories         Docker's first form, which some still read
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{ArchiveError, docker, layout};
use crate::digest::Digest;
use crate::image::Image;
use crate::limits::MANIFEST_BYTES;
use crate::manifest::{Document, ManifestError, OCI_INDEX, parse};
use crate::reference::{Reference, ReferenceError};
use crate::store::{Store, StoreError};

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 256 << 10;

const FOLDER: &str = "blobs/sha256/";

/// An image, and the names that it has in the archive.
struct Wanted {
    image: Image,
    names: BTreeSet<Reference>,
}

/// Writes the images that `words` mean to `out` and gives their ids. A word is what a user types: a name,
/// which without a tag means every tag there is, or an id.
///
/// # Errors
/// There is no such image, one is damaged, or `out` fails.
pub fn save(
    store: &Store,
    words: &[String],
    out: &mut dyn Write,
) -> Result<Vec<Digest>, ArchiveError> {
    let _lease = store.lease()?;
    let images = find(store, words)?;
    let mut blobs = BTreeMap::new();
    let mut entries = Vec::new();
    for wanted in &images {
        let image = &wanted.image;
        let bytes = store.document(&image.manifest_digest, MANIFEST_BYTES)?;
        let Document::Manifest(manifest) = parse(&bytes)? else {
            return Err(ManifestError::Ambiguous.into());
        };
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        blobs.insert(image.manifest_digest, size);
        blobs.insert(manifest.config.digest, manifest.config.size);
        blobs.extend(image.layers.iter().map(|layer| (layer.blob, layer.size)));
        entries.extend(index_entries(wanted, manifest.media_type, size));
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});

    let mut tar = Archive(tar::Builder::new(BufWriter::with_capacity(
        BUFFER_BYTES,
        out,
    )));
    tar.folder("blobs/")?;
    tar.folder(FOLDER)?;
    for (digest, size) in &blobs {
        tar.blob(store, digest, *size)?;
    }
    tar.document(layout::INDEX, &index)?;
    tar.document(docker::MANIFEST, &manifest_json(&images))?;
    tar.document(layout::MARKER, &json!({"imageLayoutVersion": "1.0.0"}))?;
    let repositories = repositories(&images);
    if !repositories.is_empty() {
        tar.document("repositories", &Value::Object(repositories))?;
    }
    tar.finish()?;
    Ok(images.iter().map(|wanted| wanted.image.id).collect())
}

/// The images that are meant, each once, in the order in which they were named.
fn find(store: &Store, words: &[String]) -> Result<Vec<Wanted>, ArchiveError> {
    let mut images: Vec<Wanted> = Vec::new();
    let mut add = |image: Image, name: Option<Reference>| {
        // A name with a digest is one that nobody can load.
        let name = name.filter(|name| name.tag().is_some() && name.digest().is_none());
        // Of one id, each name has what it leads to.
        let is_it = |wanted: &&mut Wanted| wanted.image.manifest_digest == image.manifest_digest;
        match images.iter_mut().find(is_it) {
            Some(wanted) => wanted.names.extend(name),
            None => images.push(Wanted {
                image,
                names: name.into_iter().collect(),
            }),
        }
    };
    for word in words {
        let mut found = false;
        match Reference::parse(word) {
            // It is an id.
            Ok(_) | Err(ReferenceError::HexName(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(repository) = Reference::parse_name(word) {
            let is_tag = |name: &Reference| {
                name.digest().is_none() && name.repository() == repository.repository()
            };
            for name in store.names()?.into_iter().filter(is_tag) {
                if let Some(image) = store.find(&name)? {
                    add(image, Some(name));
                    found = true;
                }
            }
        } else if let Ok(name) = Reference::parse(word)
            && let Some(image) = store.find(&name)?
        {
            add(image, Some(name));
            found = true;
        }
        if !found {
            let image = store.resolve(word).map_err(|error| match error {
                // It was not the tag `latest` that was looked for.
                StoreError::NoSuchImage(_) => {
                    StoreError::NoSuchImage(crate::escape::printable(word))
                }
                error => error,
            });
            add(image?, None);
        }
    }
    Ok(images)
}

/// An entry of index.json for each name of an image, or one without.
fn index_entries(wanted: &Wanted, media_type: &str, size: u64) -> Vec<Value> {
    let entry = |name: Option<&Reference>| {
        let mut entry = json!({
            "mediaType": media_type,
            "digest": wanted.image.manifest_digest.to_string(),
            "size": size,
        });
        if let (Value::Object(fields), Some(name)) = (&mut entry, name) {
            let annotations = json!({
                "io.containerd.image.name": name.to_string(),
                "org.opencontainers.image.ref.name": name.tag().unwrap_or_default(),
            });
            fields.insert("annotations".to_owned(), annotations);
        }
        entry
    };
    match wanted.names.is_empty() {
        true => vec![entry(None)],
        false => wanted.names.iter().map(|name| entry(Some(name))).collect(),
    }
}

fn manifest_json(images: &[Wanted]) -> Value {
    let path = |digest: &Digest| format!("{FOLDER}{}", digest.hex());
    let entry = |wanted: &Wanted| {
        let names: Vec<String> = wanted.names.iter().map(Reference::familiar).collect();
        let layers = wanted.image.layers.iter();
        json!({
            "Config": path(&wanted.image.id),
            "RepoTags": (!names.is_empty()).then_some(names),
            "Layers": layers.map(|layer| path(&layer.blob)).collect::<Vec<_>>(),
        })
    };
    images.iter().map(entry).collect()
}

/// By repository and tag, the topmost layer.
fn repositories(images: &[Wanted]) -> Map<String, Value> {
    let mut repositories: BTreeMap<String, BTreeMap<&str, String>> = BTreeMap::new();
    for wanted in images {
        let Some(top) = wanted.image.layers.last() else {
            continue;
        };
        for name in &wanted.names {
            let tags = repositories.entry(name.familiar_repository()).or_default();
            tags.insert(name.tag().unwrap_or_default(), top.blob.hex());
        }
    }
    repositories
        .into_iter()
        .map(|(name, tags)| (name, json!(tags)))
        .collect()
}

/// The archive being written.
struct Archive<'a>(tar::Builder<BufWriter<&'a mut dyn Write>>);

impl Archive<'_> {
    fn folder(&mut self, path: &str) -> Result<(), ArchiveError> {
        self.member(path, tar::EntryType::Directory, 0o755, 0, io::empty())
    }

    fn document(&mut self, path: &str, document: &Value) -> Result<(), ArchiveError> {
        let text = document.to_string();
        let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.member(path, tar::EntryType::Regular, 0o644, size, text.as_bytes())
    }

    fn blob(&mut self, store: &Store, digest: &Digest, size: u64) -> Result<(), ArchiveError> {
        if !store.has_blob(digest, size)? {
            return Err(StoreError::NoBlob(*digest).into());
        }
        let mut content = Hashed {
            file: store.blob(digest)?.take(size),
            hasher: Sha256::new(),
        };
        let path = format!("{FOLDER}{}", digest.hex());
        let kind = tar::EntryType::Regular;
        self.member(&path, kind, 0o644, size, &mut content)?;
        if Digest::finish(content.hasher) != *digest {
            return Err(StoreError::DamagedBlob(*digest).into());
        }
        Ok(())
    }

    fn member(
        &mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        size: u64,
        content: impl Read,
    ) -> Result<(), ArchiveError> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_path(path).map_err(ArchiveError::Write)?;
        header.set_cksum();
        self.0.append(&header, content).map_err(ArchiveError::Write)
    }

    fn finish(self) -> Result<(), ArchiveError> {
        self.0
            .into_inner()
            .and_then(|mut out| out.flush())
            .map_err(ArchiveError::Write)
    }
}

/// A blob that is hashed while it is read.
struct Hashed {
    file: io::Take<File>,
    hasher: Sha256,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
