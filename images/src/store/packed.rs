//! What plain layers became when they were compressed for a registry: digest and size, not the bytes.
//!
//! Used by `registry` on a push, so that the next one of the same layer compresses nothing: the registry
//! is asked for the digest first. It is a memory that may be lost: without it, or when the file is
//! damaged, a layer is compressed again and comes out the same.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::files::{self, FileError};
use super::{Store, StoreError};
use crate::digest::Digest;
use crate::json;
use crate::limits::PACKED_BYTES;
use crate::manifest::BlobRef;

/// A compressed layer, under the digest of the plain one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    digest: String,
    size: u64,
}

type Entries = BTreeMap<String, Entry>;

impl Store {
    /// What the plain layer `plain` became when it was compressed last.
    pub(crate) fn packed(&self, plain: &Digest) -> Option<BlobRef> {
        let entries = self.read_packed();
        let entry = entries.get(&plain.to_string())?;
        let digest = Digest::parse(&entry.digest).ok()?;
        let size = entry.size;
        Some(BlobRef { digest, size })
    }

    /// Keeps that `plain` became `packed`, and forgets what is known of layers that are gone.
    pub(crate) fn remember_packed(
        &self,
        plain: &Digest,
        packed: BlobRef,
    ) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let mut entries = self.read_packed();
        entries.retain(|plain, _| {
            Digest::parse(plain).is_ok_and(|digest| self.blob_path(&digest).exists())
        });
        let entry = Entry {
            digest: packed.digest.to_string(),
            size: packed.size,
        };
        entries.insert(plain.to_string(), entry);
        let bytes = serde_json::to_vec(&entries).unwrap_or_default();
        Ok(files::replace(&self.packed_path(), &bytes)?)
    }

    fn read_packed(&self) -> Entries {
        let path = self.packed_path();
        let read = || -> Result<Vec<u8>, FileError> {
            let mut bytes = Vec::new();
            files::open_finished(&path)?
                .take(PACKED_BYTES.saturating_add(1))
                .read_to_end(&mut bytes)
                .map_err(FileError::of("read", &path))?;
            Ok(bytes)
        };
        read()
            .ok()
            .and_then(|bytes| json::parse(&bytes, PACKED_BYTES).ok())
            .unwrap_or_default()
    }

    fn packed_path(&self) -> PathBuf {
        self.root.join("packed.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_layer_became_is_known_while_the_layer_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (first, second) = (store.put(b"first").unwrap(), store.put(b"second").unwrap());
        let blob = |text: &[u8], size| BlobRef {
            digest: Digest::of(text),
            size,
        };
        assert_eq!(store.packed(&first), None);
        store.remember_packed(&first, blob(b"f", 1)).unwrap();
        store.remember_packed(&second, blob(b"s", 2)).unwrap();
        assert_eq!(store.packed(&first), Some(blob(b"f", 1)));
        store.remove_damaged(&first).unwrap();
        store.remember_packed(&second, blob(b"t", 3)).unwrap();
        assert_eq!(store.packed(&first), None);
        assert_eq!(store.packed(&second), Some(blob(b"t", 3)));
        std::fs::write(dir.path().join("packed.json"), "{").unwrap();
        assert_eq!(store.packed(&second), None);
        store.remember_packed(&second, blob(b"t", 3)).unwrap();
        assert_eq!(store.packed(&second), Some(blob(b"t", 3)));
    }
}
