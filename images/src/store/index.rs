//! index.json of the store: which names lead to which images. Pure: bytes in, bytes out.
//!
//! Used by `store` only. The file is an OCI index, so other tools can read the store; the id (digest of
//! the config) stands in an annotation, so that finding an image by id opens no blob. Every image has at
//! least one entry; a dangling one has an entry without a name.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::StoreError;
use crate::digest::{Digest, DigestError};
use crate::escape::quoted;
use crate::json::{self, JsonError};
use crate::limits::{SHORT_ID_MIN, STORE_INDEX_BYTES};
use crate::manifest::{BlobRef, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::reference::{Reference, ReferenceError};

/// The OCI annotation that holds a name (image spec, annotations.md).
const NAME: &str = "org.opencontainers.image.ref.name";
/// Ours, for the digest of the config.
const ID: &str = "bulkhead.image.id";

/// An index.json that can't be used.
#[derive(Debug, Error)]
pub enum IndexError {
    /// Not the JSON it should be.
    #[error(transparent)]
    Json(JsonError),
    /// An entry without our annotation: another program changed the file.
    #[error("an entry has no annotation {ID}")]
    NoId,
    /// An entry's id or manifest is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// An entry's name is no reference.
    #[error("cannot use the name {}", quoted(name))]
    Name {
        /// As it stands there.
        name: String,
        /// What is wrong with it.
        #[source]
        source: ReferenceError,
    },
    /// There are too many names to write.
    #[error("it would have {0} bytes, above the limit of {STORE_INDEX_BYTES}")]
    Full(usize),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexDocument {
    schema_version: u32,
    media_type: String,
    manifests: Vec<EntryDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryDocument {
    media_type: String,
    digest: String,
    size: u64,
    annotations: BTreeMap<String, String>,
}

/// One name of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) manifest: BlobRef,
    /// OCI's or Docker's; for other readers of the file, since we go by the manifest itself.
    pub(super) media_type: &'static str,
    pub(super) id: Digest,
    pub(super) name: Option<Reference>,
}

/// What a user's word for an image turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    /// A name, and the id of its image.
    Name(Reference, Digest),
    /// An id or the beginning of one.
    Id(Digest),
}

/// The entries, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Index {
    entries: Vec<Entry>,
}

impl Index {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let document: IndexDocument =
            json::parse(bytes, STORE_INDEX_BYTES).map_err(IndexError::Json)?;
        let mut index = Self::default();
        for entry in document.manifests {
            let id = Digest::parse(entry.annotations.get(ID).ok_or(IndexError::NoId)?)?;
            let manifest = BlobRef {
                digest: Digest::parse(&entry.digest)?,
                size: entry.size,
            };
            let name = entry
                .annotations
                .get(NAME)
                .map(|name| {
                    Reference::parse(name).map_err(|source| IndexError::Name {
                        name: name.clone(),
                        source,
                    })
                })
                .transpose()?;
            let media_type = if entry.media_type == DOCKER_MANIFEST {
                DOCKER_MANIFEST
            } else {
                OCI_MANIFEST
            };
            index.entries.push(Entry {
                manifest,
                media_type,
                id,
                name,
            });
        }
        Ok(index)
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, IndexError> {
        let manifests = self
            .entries
            .iter()
            .map(|entry| {
                let mut annotations = BTreeMap::from([(ID.to_owned(), entry.id.to_string())]);
                annotations.extend(
                    entry
                        .name
                        .iter()
                        .map(|name| (NAME.to_owned(), name.to_string())),
                );
                EntryDocument {
                    media_type: entry.media_type.to_owned(),
                    digest: entry.manifest.digest.to_string(),
                    size: entry.manifest.size,
                    annotations,
                }
            })
            .collect();
        let document = IndexDocument {
            schema_version: 2,
            media_type: OCI_INDEX.to_owned(),
            manifests,
        };
        let bytes = serde_json::to_vec(&document)
            .map_err(|error| IndexError::Json(JsonError::Invalid(error.to_string())))?;
        if u64::try_from(bytes.len()).is_ok_and(|len| len <= STORE_INDEX_BYTES) {
            Ok(bytes)
        } else {
            Err(IndexError::Full(bytes.len()))
        }
    }

    /// The ids of all images, each once.
    pub(super) fn ids(&self) -> BTreeSet<Digest> {
        self.entries.iter().map(|entry| entry.id).collect()
    }

    /// The manifests of all images, each once. One image can have several, packed differently.
    pub(super) fn manifests(&self) -> BTreeSet<Digest> {
        self.entries
            .iter()
            .map(|entry| entry.manifest.digest)
            .collect()
    }

    /// The entry of an image that was added last.
    pub(super) fn newest(&self, id: &Digest) -> Option<&Entry> {
        self.entries.iter().rfind(|entry| entry.id == *id)
    }

    /// All names of an image.
    pub(super) fn names(&self, id: &Digest) -> Vec<Reference> {
        self.entries
            .iter()
            .filter(|entry| entry.id == *id)
            .filter_map(|entry| entry.name.clone())
            .collect()
    }

    /// The image of a name. With a digest in it, a tag doesn't count, as in Docker.
    pub(super) fn id_of(&self, name: &Reference) -> Option<Digest> {
        let name = key(name);
        self.entries
            .iter()
            .find(|entry| entry.name.as_ref() == Some(&name))
            .map(|entry| entry.id)
    }

    /// Finds what `text` means; see [`super::Store::resolve`].
    pub(super) fn resolve(&self, text: &str) -> Result<Match, StoreError> {
        let name = Reference::parse(text);
        if let Ok(name) = &name
            && let Some(id) = self.id_of(name)
        {
            return Ok(Match::Name(key(name), id));
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = (SHORT_ID_MIN..=64).contains(&hex.len())
            && hex
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex {
            let mut matching = self
                .ids()
                .into_iter()
                .filter(|id| id.hex().starts_with(hex));
            match (matching.next(), matching.next()) {
                (Some(id), None) => return Ok(Match::Id(id)),
                (Some(_), Some(_)) => return Err(StoreError::AmbiguousId(hex.to_owned())),
                (None, _) => {}
            }
        }
        let shown = name.map_or_else(|_| crate::escape::printable(text), |name| name.familiar());
        Err(StoreError::NoSuchImage(shown))
    }

    /// Adds an entry; one that says the same is moved to the end.
    pub(super) fn add(&mut self, entry: Entry) {
        self.entries.retain(|old| *old != entry);
        self.entries.push(entry);
    }

    /// Gives the newest manifest of an image a name, taken from whoever has it. An image that loses its
    /// last name by that stays, as a dangling one.
    pub(super) fn name_image(&mut self, id: &Digest, name: &Reference) {
        let name = key(name);
        let Some(newest) = self.newest(id).cloned() else {
            return;
        };
        for entry in &mut self.entries {
            if entry.name.as_ref() == Some(&name) {
                entry.name = None;
            }
        }
        self.entries.push(Entry {
            name: Some(name),
            ..newest
        });
        self.tidy();
    }

    /// Takes a name away; the image stays.
    pub(super) fn untag(&mut self, name: &Reference) {
        let name = key(name);
        for entry in &mut self.entries {
            if entry.name.as_ref() == Some(&name) {
                entry.name = None;
            }
        }
        self.tidy();
    }

    /// Removes an image with all its names.
    pub(super) fn drop_image(&mut self, id: &Digest) {
        self.entries.retain(|entry| entry.id != *id);
    }

    /// Drops entries without a name where the image has others, and all but the last where it has none.
    pub(super) fn tidy(&mut self) {
        let mut kept: Vec<Entry> = Vec::with_capacity(self.entries.len());
        let named: BTreeSet<Digest> = self
            .entries
            .iter()
            .filter(|entry| entry.name.is_some())
            .map(|entry| entry.id)
            .collect();
        let mut dangling = BTreeSet::new();
        for entry in self.entries.drain(..).rev() {
            let keep =
                entry.name.is_some() || (!named.contains(&entry.id) && dangling.insert(entry.id));
            if keep {
                kept.push(entry);
            }
        }
        kept.reverse();
        self.entries = kept;
    }
}

/// The form under which a name is kept: with a digest, the tag is left out.
fn key(name: &Reference) -> Reference {
    name.digest()
        .map_or_else(|| name.clone(), |digest| name.with_digest(*digest))
}

#[cfg(test)]
mod tests;
