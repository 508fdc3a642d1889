//! index.json of the store: which names lead to which images. Pure: bytes in, bytes out.
//!
//! Used by `store` only. The file is an OCI index, so other tools can read the store; the id (digest of
//! the config) stands in an annotation, so that finding an image by id opens no blob. Every image has at
//! least one entry; a dangling one has an entry without a name.
//!
//! An id is what a manifest claims of its layers, and anybody's manifest can claim it of bytes of their
//! own. So a name leads to the manifest that it was given with, and to no other of the same id.

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

impl Entry {
    /// Whether both are of the same documents, whatever their names.
    fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.manifest.digest == other.manifest.digest
    }
}

/// What a user's word for an image turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match<'a> {
    /// A name's own entry.
    Name(&'a Entry),
    /// An id or the beginning of one.
    Id(Digest),
}

impl Match<'_> {
    /// The image's id.
    pub(super) fn id(&self) -> Digest {
        match self {
            Self::Name(entry) => entry.id,
            Self::Id(id) => *id,
        }
    }
}

/// The entries, in the order in which their manifests came; a further name changes nothing of that.
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

    /// The entries of an image, one for each of its manifests, that which came first first.
    pub(super) fn of_id(&self, id: &Digest) -> Vec<&Entry> {
        let mut found: Vec<&Entry> = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.id == *id) {
            if !found.iter().any(|other| other.is_same(entry)) {
                found.push(entry);
            }
        }
        found
    }

    /// All names of an image.
    pub(super) fn names(&self, id: &Digest) -> Vec<Reference> {
        self.entries
            .iter()
            .filter(|entry| entry.id == *id)
            .filter_map(|entry| entry.name.clone())
            .collect()
    }

    /// All names, sorted.
    pub(super) fn all_names(&self) -> Vec<Reference> {
        let names = self.entries.iter().filter_map(|entry| entry.name.clone());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// The entry of a name. With a digest in it, a tag doesn't count, as in Docker.
    pub(super) fn named(&self, name: &Reference) -> Option<&Entry> {
        let name = key(name);
        self.entries
            .iter()
            .find(|entry| entry.name.as_ref() == Some(&name))
    }

    /// Finds what `text` means; see [`super::Store::resolve`].
    pub(super) fn resolve(&self, text: &str) -> Result<Match<'_>, StoreError> {
        let name = Reference::parse(text);
        if let Ok(name) = &name
            && let Some(entry) = self.named(name)
        {
            return Ok(Match::Name(entry));
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

    /// Adds a manifest of an image, without a name; one that is there stays where it is.
    pub(super) fn add(&mut self, entry: Entry) {
        if !self.entries.iter().any(|old| old.is_same(&entry)) {
            self.entries.push(Entry {
                name: None,
                ..entry
            });
        }
    }

    /// Gives the manifest of `entry` a name, taken from whoever has it. An image that loses its last name
    /// by that stays, as a dangling one.
    pub(super) fn name(&mut self, entry: &Entry, name: &Reference) {
        let name = key(name);
        self.take(&name);
        let named = Entry {
            name: Some(name),
            ..entry.clone()
        };
        match self.entries.iter().rposition(|old| old.is_same(entry)) {
            // Behind its others, so that the order stays that of manifests.
            Some(last) => self.entries.insert(last.saturating_add(1), named),
            None => self.entries.push(named),
        }
        self.tidy();
    }

    /// Takes a name away; the image stays.
    pub(super) fn untag(&mut self, name: &Reference) {
        self.take(&key(name));
        self.tidy();
    }

    fn take(&mut self, key: &Reference) {
        for entry in &mut self.entries {
            if entry.name.as_ref() == Some(key) {
                entry.name = None;
            }
        }
    }

    /// Removes an image with all its names.
    pub(super) fn drop_image(&mut self, id: &Digest) {
        self.entries.retain(|entry| entry.id != *id);
    }

    /// Drops entries without a name of manifests that have another entry. What is of the same id by another
    /// manifest stays: nobody's image takes the place of one that came before it.
    fn tidy(&mut self) {
        let documents = |entry: &Entry| (entry.id, entry.manifest.digest);
        let named = self.entries.iter().filter(|entry| entry.name.is_some());
        let mut known: BTreeSet<_> = named.map(documents).collect();
        self.entries
            .retain(|entry| entry.name.is_some() || known.insert(documents(entry)));
    }

    /// The entries without a name of images that have names: what others of the same id came beside, or
    /// took the name of.
    pub(super) fn nameless(&self) -> impl Iterator<Item = &Entry> {
        let entries = self.entries.iter();
        let named = entries.clone().filter(|entry| entry.name.is_some());
        let named: BTreeSet<Digest> = named.map(|entry| entry.id).collect();
        entries.filter(move |entry| entry.name.is_none() && named.contains(&entry.id))
    }

    /// Drops those of them whose manifests are not among `kept`; whether there were any.
    pub(super) fn drop_nameless(&mut self, kept: &BTreeSet<Digest>) -> bool {
        let manifests = self.nameless().map(|entry| entry.manifest.digest);
        let surplus: BTreeSet<Digest> = manifests.filter(|digest| !kept.contains(digest)).collect();
        self.entries
            .retain(|entry| entry.name.is_some() || !surplus.contains(&entry.manifest.digest));
        !surplus.is_empty()
    }
}

/// The form under which a name is kept: with a digest, the tag is left out.
fn key(name: &Reference) -> Reference {
    name.digest()
        .map_or_else(|| name.clone(), |digest| name.with_digest(*digest))
}

#[cfg(test)]
mod tests;
