//! Removing what no image and no container needs: blobs, layer disks, old partial downloads.
//!
//! Used by `store` after an image was removed, and by the command's prune verbs. It runs under the
//! exclusive lease, so never while a pull, a load or a start is on its way; when there is one, it is left
//! to a later call, as nothing breaks by waiting.

use std::collections::HashSet;
use std::fs::File;
use std::time::SystemTime;

use nix::fcntl::Flock;

use super::files::{self, FileError};
use super::index::Entry;
use super::remove::ContainerUse;
use super::{Store, StoreError};
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::layers::LayerKey;
use crate::limits::{COLLECT_WAIT, CONFIG_BYTES};
use crate::lock;

/// What became of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collected {
    /// Unused content was removed.
    Done {
        /// The blobs that were, in the order of their digests.
        blobs: Vec<Digest>,
        /// Bytes given back, layer disks included.
        freed: u64,
    },
    /// A pull, load or start is on its way; a later collection will do it.
    Postponed,
}

/// Everything that has to stay.
#[derive(Debug, Default)]
struct Used {
    blobs: HashSet<Digest>,
    disks: HashSet<LayerKey>,
}

impl Store {
    /// Removes blobs that no image has, layer disks that neither an image nor a container has, and
    /// partial downloads that were given up. `containers` is asked once nothing can start any more.
    pub fn collect(
        &self,
        containers: &dyn Fn()
            -> Result<Vec<ContainerUse>, Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<Collected, StoreError> {
        let Some(alone) = self.alone()? else {
            return Ok(Collected::Postponed);
        };
        let containers = containers().map_err(StoreError::Containers)?;
        self.collect_alone(&alone, &containers)
    }

    /// The exclusive lease, unless a pull, load or start is on its way and takes longer than a moment.
    pub(super) fn alone(&self) -> Result<Option<Flock<File>>, StoreError> {
        let path = self.lease_path();
        Ok(lock::poll(COLLECT_WAIT, || lock::try_acquire(&path))
            .map_err(FileError::of("lock", &path))?)
    }

    /// As [`Self::collect`], for who has the exclusive lease.
    pub(super) fn collect_alone(
        &self,
        _alone: &Flock<File>,
        containers: &[ContainerUse],
    ) -> Result<Collected, StoreError> {
        self.drop_nameless(containers)?;
        let mut used = self.used()?;
        for container in containers {
            used.disks.extend(&container.layers);
        }
        let (blobs, mut freed) = self.remove_blobs(&used.blobs)?;
        freed = freed.saturating_add(self.layer_disks()?.remove_unused(&used.disks)?);
        self.remove_old_partials(SystemTime::now())?;
        self.remove_unfinished_steps()?;
        Ok(Collected::Done { blobs, freed })
    }

    /// Drops manifests that neither a name nor their id leads to and no container was made of: of an image
    /// that others claim to be, or that was packed anew.
    fn drop_nameless(&self, containers: &[ContainerUse]) -> Result<(), StoreError> {
        self.change(|index| {
            let is_meant = |entry: &Entry| {
                let meant = self.of_id(index, &entry.id);
                meant.is_ok_and(|meant| meant.manifest.digest == entry.manifest.digest)
            };
            let kept = index.nameless();
            let kept = kept.filter(|entry| is_meant(entry) || self.is_used(entry, containers));
            let kept = kept.map(|entry| entry.manifest.digest).collect();
            index.drop_nameless(&kept);
            Ok(())
        })
    }

    /// What the named and dangling images and the build cache need. An image that is damaged beyond reading needs nothing
    /// any more, but one that can't be read for another reason stops the collection.
    fn used(&self) -> Result<Used, StoreError> {
        let mut used = Used::default();
        for digest in self.read_index()?.manifests() {
            used.blobs.insert(digest);
            let manifest = match self.manifest(&digest) {
                Ok((manifest, _)) => manifest,
                Err(
                    StoreError::NoBlob(_) | StoreError::DamagedBlob(_) | StoreError::Manifest(_),
                ) => continue,
                Err(error) => return Err(error),
            };
            used.blobs.insert(manifest.config.digest);
            used.blobs
                .extend(manifest.layers.iter().map(|layer| layer.blob.digest));
            let config = match self.document(&manifest.config.digest, CONFIG_BYTES) {
                Ok(bytes) => ImageConfig::parse(&bytes),
                Err(StoreError::NoBlob(_) | StoreError::DamagedBlob(_)) => continue,
                Err(error) => return Err(error),
            };
            if let Ok(config) = config {
                let layers = manifest.layers.iter().zip(config.diff_ids);
                used.disks.extend(layers.map(|(layer, diff_id)| LayerKey {
                    diff_id,
                    blob: layer.blob.digest,
                }));
            }
        }
        for layer in self.cached_layers()? {
            used.blobs.insert(layer.blob);
            used.disks.insert(layer.key());
        }
        Ok(used)
    }

    fn remove_blobs(&self, used: &HashSet<Digest>) -> Result<(Vec<Digest>, u64), StoreError> {
        let dir = self.blobs();
        let mut removed = Vec::new();
        let mut freed = 0_u64;
        for entry in std::fs::read_dir(&dir).map_err(FileError::of("read the directory", &dir))? {
            let entry = entry.map_err(FileError::of("read the directory", &dir))?;
            let Some(digest) = entry.file_name().to_str().and_then(Digest::from_hex) else {
                continue;
            };
            if !used.contains(&digest) {
                freed = freed.saturating_add(crate::layers::space_of(&entry.path()));
                files::remove(&entry.path())?;
                removed.push(digest);
            }
        }
        removed.sort();
        Ok((removed, freed))
    }
}

#[cfg(test)]
mod tests;
