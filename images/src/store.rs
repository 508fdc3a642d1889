//! The image store: an OCI image layout with locks, partial downloads and names.
//!
//! Called by the command, by `registry` and by `archive`. It keeps blobs by digest and names by image;
//! it never looks into a layer, and reads manifests and configs only after checking their digest.
//!
//! ```text
//! root/
//!   oci-layout, index.json     the names: one entry for each (manifest, name), replaced as a whole
//!   blobs/sha256/<hex>         finished blobs, 0444: written, hashed, synced, renamed
//!   ingest/<hex>               a partial download; whoever writes it holds its flock
//!   ingest/load-*/             the members of an archive being loaded; the directory's flock is held
//!   layers/                    layer disks, see `layers`
//!   packed.json                what plain layers became when they were compressed for a registry
//!   lock                       flock, exclusive: while index.json is read, changed and replaced
//!   lease                      flock, shared: while someone needs blobs that no name may hold any more,
//!                              or that have no name yet; exclusive: while unused ones are removed
//! ```
//!
//! A process that dies at any point leaves either the old state or the new: names change by one rename,
//! and blobs without a name are invisible until a pull reuses them or [`Store::collect`] removes them.
//! Locks end with their process. Order: `lease`, then `lock`, then a blob's own.
//!
//! One store belongs to one user (0700), so no other tenant can bring in content or learn what is there.
//! Digests are computed here from the bytes that arrive; nobody else's word is taken for one.

mod blob;
mod collect;
pub(crate) mod files;
mod index;
mod packed;
mod remove;
mod spool;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use thiserror::Error;

use crate::config::{ConfigError, ImageConfig};
use crate::digest::Digest;
use crate::image::{Image, Layer};
use crate::layers::{LayerDisks, LayerError, LayerKey};
use crate::limits::{CONFIG_BYTES, MANIFEST_BYTES, STORE_INDEX_BYTES};
use crate::lock::{self, Mode};
use crate::manifest::{self, BlobRef, Document, Manifest, ManifestError};
use crate::reference::Reference;

pub use blob::{Begin, BlobWriter};
pub use collect::Collected;
pub use files::FileError;
pub use index::IndexError;
pub use remove::{ContainerUse, Force, RemoveError, Removed};
pub(crate) use spool::{Spool, Spooled};

use index::{Entry, Index, Match};

const LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";

/// A failed operation on the store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store's index.json can't be used.
    #[error("the image store's index.json is damaged")]
    Index(#[source] IndexError),
    /// Nothing has this name or id. The words are Docker's.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// A short id that several images have.
    #[error("image id {0} is ambiguous: several images begin with it")]
    AmbiguousId(String),
    /// The layers of an image that a container was made of are gone, and others claim its id.
    #[error("image {} is in the store with other layers than the container was made of", .0.short())]
    OtherLayers(Digest),
    /// A new name with a digest in it. The words are Docker's.
    #[error("refusing to create a tag with a digest reference")]
    TagWithDigest,
    /// A new name that reads as a digest or an id. The words are Docker's.
    #[error("refusing to create an ambiguous tag using digest algorithm as name")]
    AmbiguousTag,
    /// A blob that isn't there.
    #[error("blob {0} is not in the image store")]
    NoBlob(Digest),
    /// A blob whose content is not what its name says.
    #[error("blob {0} in the image store is damaged")]
    DamagedBlob(Digest),
    /// Another process has been writing a blob for [`crate::limits::INGEST_WAIT`].
    #[error("another process is still writing blob {0}")]
    Busy(Digest),
    /// Content that differs from its digest.
    #[error("digest mismatch: got {actual} where {expected} was expected")]
    DigestMismatch {
        /// As the manifest has it.
        expected: Digest,
        /// Of the bytes that came.
        actual: Digest,
    },
    /// Content of another length.
    #[error("size mismatch: got {actual} bytes of {digest} where {expected} were expected")]
    SizeMismatch {
        /// The blob.
        digest: Digest,
        /// As the manifest has it.
        expected: u64,
        /// That came, or that there are.
        actual: u64,
    },
    /// More content than announced; the rest was not taken.
    #[error("size mismatch: {digest} has more than the {expected} bytes expected")]
    Overlong {
        /// The blob.
        digest: Digest,
        /// As the manifest has it.
        expected: u64,
    },
    /// A member of an archive above its limit.
    #[error("it has more than {limit} bytes, the limit")]
    TooLarge {
        /// Bytes it may have.
        limit: u64,
    },
    /// A manifest that can't be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A config that can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Removing was refused.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// The cache of layer disks failed.
    #[error(transparent)]
    Layers(#[from] LayerError),
    /// The caller could not tell which containers use images.
    #[error("cannot find out which containers use images")]
    Containers(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A source of bytes (an archive) failed.
    #[error("cannot read the input")]
    Read(#[source] std::io::Error),
}

impl StoreError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Layers(error) => error.hint(),
            Self::Manifest(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::AmbiguousId(_) => Some("give more digits of the id".to_owned()),
            Self::OtherLayers(_) => {
                Some("pull or load again what the container was made of".to_owned())
            }
            Self::NoBlob(_) | Self::DamagedBlob(_) => {
                Some("remove the image and pull it again".to_owned())
            }
            Self::DigestMismatch { .. } => {
                Some("the content was changed on its way; try again".to_owned())
            }
            _ => None,
        }
    }

    /// Whether there simply is no such image.
    pub fn is_no_such_image(&self) -> bool {
        matches!(self, Self::NoSuchImage(_))
    }
}

/// Keeps [`Store::collect`] of every process away, so blobs and layer disks that have no name yet, or
/// lose it, stay. Hold one from choosing an image until it is recorded who uses it. Dropping ends it.
#[derive(Debug)]
pub struct Lease {
    _lock: Flock<File>,
}

/// An entry of index.json whose blobs are missing or damaged.
#[derive(Debug)]
pub struct Damaged {
    /// The image's id.
    pub id: Digest,
    /// What is wrong.
    pub error: StoreError,
}

/// All images.
#[derive(Debug)]
pub struct Listing {
    /// The usable ones, newest first.
    pub images: Vec<Image>,
    /// Those that have to be pulled again.
    pub damaged: Vec<Damaged>,
}

/// The store at one directory. Cheap to open; any number of processes and threads may have it open.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store at `root`, which is made if it isn't there. What dead processes left in the middle
    /// of a load is removed; their partial downloads stay, to be resumed.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self {
            root: root.to_owned(),
        };
        for dir in [store.blobs(), store.ingest(), store.layers()] {
            files::make_dir(&dir)?;
        }
        let layout = root.join("oci-layout");
        if !layout.exists() || !store.index_path().exists() {
            let _lock = store.lock()?;
            if !layout.exists() {
                files::replace(&layout, LAYOUT)?;
            }
            if !store.index_path().exists() {
                store.write_index(&Index::default())?;
            }
        }
        spool::remove_stale(&store.ingest())?;
        Ok(store)
    }

    /// Keeps unused content from being removed by anyone; waits while some is being removed.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        let path = self.lease_path();
        let lock = lock::acquire(&path, Mode::Shared).map_err(FileError::of("lock", &path))?;
        Ok(Lease { _lock: lock })
    }

    /// Where the cache of layer disks of the store at `root` is.
    #[must_use]
    pub fn layers_of(root: &Path) -> PathBuf {
        root.join("layers")
    }

    /// The cache of layer disks that belongs to this store.
    pub fn layer_disks(&self) -> Result<LayerDisks, StoreError> {
        Ok(LayerDisks::open(&self.layers())?)
    }

    /// All images, newest first.
    pub fn list(&self) -> Result<Listing, StoreError> {
        let _lease = self.lease()?;
        let index = self.read_index()?;
        let mut listing = Listing {
            images: Vec::new(),
            damaged: Vec::new(),
        };
        for id in index.ids() {
            let image = self
                .of_id(&index, &id)
                .and_then(|entry| self.image(&index, entry));
            match image {
                Ok(image) => listing.images.push(image),
                Err(error) => listing.damaged.push(Damaged { id, error }),
            }
        }
        let newest = |image: &Image| {
            std::cmp::Reverse(image.created().map(|created| created.unix_seconds()))
        };
        listing
            .images
            .sort_by_key(|image| (newest(image), image.id));
        Ok(listing)
    }

    /// The image that `text` means: a reference, an id, or the beginning of one with or without
    /// `sha256:`. A name wins over a short id, as in Docker, and means the manifest that it was given with,
    /// whatever else has the same id.
    pub fn resolve(&self, text: &str) -> Result<Image, StoreError> {
        let _lease = self.lease()?;
        let index = self.read_index()?;
        let entry = self.entry(&index, text)?;
        self.image(&index, entry)
    }

    /// The names of all images, also of those that can't be read.
    pub fn names(&self) -> Result<Vec<Reference>, StoreError> {
        Ok(self.read_index()?.all_names())
    }

    /// The image with this very name, if there is one.
    pub fn find(&self, name: &Reference) -> Result<Option<Image>, StoreError> {
        let _lease = self.lease()?;
        let index = self.read_index()?;
        index
            .named(name)
            .map(|entry| self.image(&index, entry))
            .transpose()
    }

    /// The image of this id in these layers: what a container was made of, as it has it on record.
    pub fn find_made_of(&self, id: &Digest, layers: &[LayerKey]) -> Result<Image, StoreError> {
        let _lease = self.lease()?;
        let index = self.read_index()?;
        let mut missing = StoreError::NoSuchImage(id.to_string());
        for entry in index.of_id(id) {
            missing = match self.image(&index, entry) {
                Ok(image)
                    if image
                        .layers
                        .iter()
                        .map(Layer::key)
                        .eq(layers.iter().copied()) =>
                {
                    return Ok(image);
                }
                Ok(_) => StoreError::OtherLayers(*id),
                Err(error) => error,
            };
        }
        Err(missing)
    }

    /// Gives the image that `source` means the further name `target`, taking it from any other image.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<(), StoreError> {
        if target.digest().is_some() {
            return Err(StoreError::TagWithDigest);
        }
        if target.reads_as_digest() {
            return Err(StoreError::AmbiguousTag);
        }
        let _lease = self.lease()?;
        self.change(|index| {
            let entry = self.entry(index, source)?.clone();
            index.name(&entry, target);
            Ok(())
        })
    }

    /// Keeps that a registry has the image under `name`, a digest, as `RepoDigests` shows it. The manifest
    /// there may list layers compressed that are plain here.
    pub(crate) fn name_pushed(&self, image: &Image, name: &Reference) -> Result<(), StoreError> {
        self.change(|index| {
            let is_there = index.named(name).is_some_and(|named| named.id == image.id);
            let mut entries = index.of_id(&image.id).into_iter();
            let pushed = entries.find(|entry| entry.manifest.digest == image.manifest_digest);
            if let (false, Some(pushed)) = (is_there, pushed.cloned()) {
                index.name(&pushed, name);
            }
            Ok(())
        })
    }

    /// Opens a blob for reading only. Its digest was checked when it was written.
    pub fn blob(&self, digest: &Digest) -> Result<File, StoreError> {
        files::open_finished(&self.blob_path(digest)).map_err(|error| {
            if error.is_not_found() {
                StoreError::NoBlob(*digest)
            } else {
                error.into()
            }
        })
    }

    /// Whether a blob is there. One of another size than `size` is an error: the same bytes can't have two.
    pub(crate) fn has_blob(&self, digest: &Digest, size: u64) -> Result<bool, StoreError> {
        let path = self.blob_path(digest);
        match path.symlink_metadata() {
            Ok(metadata) if metadata.len() == size => Ok(true),
            Ok(metadata) => Err(StoreError::SizeMismatch {
                digest: *digest,
                expected: size,
                actual: metadata.len(),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(FileError::of("open", &path)(error).into()),
        }
    }

    /// Makes an image visible: its manifest, whose blobs all have to be there, gets `names`, taken from
    /// any other image. Without names it is there by its id alone. The caller holds a [`Lease`] since
    /// before the first of those blobs was written or found.
    pub(crate) fn record(
        &self,
        _lease: &Lease,
        manifest_digest: &Digest,
        names: &[Reference],
    ) -> Result<Image, StoreError> {
        if names.iter().any(Reference::reads_as_digest) {
            return Err(StoreError::AmbiguousTag);
        }
        let (manifest, size) = self.manifest(manifest_digest)?;
        for layer in &manifest.layers {
            if !self.has_blob(&layer.blob.digest, layer.blob.size)? {
                return Err(StoreError::NoBlob(layer.blob.digest));
            }
        }
        let config = ImageConfig::parse(&self.document(&manifest.config.digest, CONFIG_BYTES)?)?;
        config.check_layers(manifest.layers.len())?;
        let id = manifest.config.digest;
        self.change(|index| {
            let blob = BlobRef {
                digest: *manifest_digest,
                size,
            };
            let entry = Entry {
                manifest: blob,
                media_type: manifest.media_type,
                id,
                name: None,
            };
            index.add(entry.clone());
            for name in names {
                index.name(&entry, name);
            }
            self.image(index, &entry)
        })
    }

    /// Stores a small document and gives its digest.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if matches!(
            self.document(&digest, size),
            Err(StoreError::DamagedBlob(_))
        ) {
            self.remove_damaged(&digest)?;
        }
        if let Begin::Writer(mut writer) = self.begin_waiting(&digest, size)? {
            writer.restart()?;
            writer.write(bytes)?;
            writer.commit()?;
        }
        Ok(digest)
    }

    /// Reads a small blob, checking its digest again, since what it says is about to be believed.
    pub(crate) fn document(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let file = self.blob(digest)?;
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(FileError::of("read", &self.blob_path(digest)))?;
        if Digest::of(&bytes) != *digest {
            return Err(StoreError::DamagedBlob(*digest));
        }
        Ok(bytes)
    }

    fn manifest(&self, digest: &Digest) -> Result<(Manifest, u64), StoreError> {
        let bytes = self.document(digest, MANIFEST_BYTES)?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        match manifest::parse(&bytes)? {
            Document::Manifest(manifest) => Ok((manifest, size)),
            Document::Index(_) => Err(ManifestError::Ambiguous.into()),
        }
    }

    /// What `text` means, see [`Self::resolve`].
    fn entry<'i>(&self, index: &'i Index, text: &str) -> Result<&'i Entry, StoreError> {
        match index.resolve(text)? {
            Match::Name(entry) => Ok(entry),
            Match::Id(id) => self.of_id(index, &id),
        }
    }

    /// What an id means, of which several manifests claim that their layers unpack to its diff_ids. The first
    /// whose layers are known to: a converter has made the disks of these very bytes, or they are plain and
    /// were hashed here. Where none is known, the first that came: what comes later changes no id.
    fn of_id<'i>(&self, index: &'i Index, id: &Digest) -> Result<&'i Entry, StoreError> {
        let entries = index.of_id(id);
        if let [only] = entries.as_slice() {
            return Ok(only);
        }
        let rank = |entry: &&Entry| match self.read_entry(entry) {
            Ok(image) if self.is_unpacked(&image) => 0,
            Ok(image) if self.is_whole(&image) => 1,
            _ => 2,
        };
        let best = entries.into_iter().min_by_key(rank);
        best.ok_or_else(|| StoreError::NoSuchImage(id.to_string()))
    }

    fn is_unpacked(&self, image: &Image) -> bool {
        let disks = LayerDisks::at(&self.layers());
        let is_known = |layer: &Layer| {
            layer.blob == layer.diff_id || matches!(disks.get(&layer.key()), Ok(Some(_)))
        };
        self.is_whole(image) && image.layers.iter().all(is_known)
    }

    fn is_whole(&self, image: &Image) -> bool {
        let mut layers = image.layers.iter();
        layers.all(|layer| matches!(self.has_blob(&layer.blob, layer.size), Ok(true)))
    }

    /// What an entry's documents say, without names.
    fn read_entry(&self, entry: &Entry) -> Result<Image, StoreError> {
        let (manifest, size) = self.manifest(&entry.manifest.digest)?;
        let config = ImageConfig::parse(&self.document(&manifest.config.digest, CONFIG_BYTES)?)?;
        let image = Image::assemble(entry.manifest.digest, size, &manifest, config)?;
        Ok(image)
    }

    /// The image of an entry, with all names of its id.
    fn image(&self, index: &Index, entry: &Entry) -> Result<Image, StoreError> {
        let mut image = self.read_entry(entry)?;
        let mut names = index.names(&entry.id);
        names.sort();
        (image.repo_digests, image.tags) =
            names.into_iter().partition(|name| name.digest().is_some());
        Ok(image)
    }

    /// Reads index.json, changes it under the lock, and replaces it if the change succeeded.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Index) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _lock = self.lock()?;
        let mut index = self.read_index()?;
        let before = index.clone();
        let value = change(&mut index)?;
        if index != before {
            self.write_index(&index)?;
        }
        Ok(value)
    }

    fn lock(&self) -> Result<Flock<File>, StoreError> {
        let path = self.root.join("lock");
        Ok(lock::acquire(&path, Mode::Exclusive).map_err(FileError::of("lock", &path))?)
    }

    fn read_index(&self) -> Result<Index, StoreError> {
        let path = self.index_path();
        let mut bytes = Vec::new();
        files::open_finished(&path)?
            .take(STORE_INDEX_BYTES.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(FileError::of("read", &path))?;
        Index::parse(&bytes).map_err(StoreError::Index)
    }

    fn write_index(&self, index: &Index) -> Result<(), StoreError> {
        let bytes = index.to_bytes().map_err(StoreError::Index)?;
        Ok(files::replace(&self.index_path(), &bytes)?)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs").join("sha256")
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn ingest(&self) -> PathBuf {
        self.root.join("ingest")
    }

    fn layers(&self) -> PathBuf {
        Self::layers_of(&self.root)
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    fn lease_path(&self) -> PathBuf {
        self.root.join("lease")
    }
}

#[cfg(test)]
mod tests;
