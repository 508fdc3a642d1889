//! Pushing an image to a registry (OCI distribution spec 1.1).
//!
//! Called by the command. Blobs that the registry lacks go first, several at once, then the config, then
//! the manifest, so that whoever pulls meanwhile finds the old image or the new one whole.
//!
//! ```text
//! push ── layers: plain? ─ packed before? ─ HEAD ─ mount ─ pack ─ upload   (5 at once)
//!      ├─ config
//!      └─ manifest: the stored one byte for byte, or one that lists the compressed layers
//! ```
//!
//! Layers that `commit`, `build` and archives left as plain tars are compressed on their way; a pulled
//! image goes back as it came, but for plain layers of one that was pulled by way of an index: its digest
//! here is the index's, as in Docker, and doesn't tell that its manifest is a registry's. Compressing is
//! opaque: bytes in, bytes out, the same each time. Nothing is ever decompressed here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use reqwest::{Method, Url};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::RegistryOptions;
use super::content::Content;
use super::error::RegistryError;
use super::gzip::Gzip;
use super::http::Request;
use super::session::{Intent, Session};
use super::upload::{Begun, Upload, check_stored};
use crate::digest::Digest;
use crate::image::Image;
use crate::limits::{
    CONFIG_BYTES, LAYER_BYTES, MANIFEST_BYTES, MOUNT_SCOPES, MOUNT_SOURCES, PARALLEL_UPLOADS,
};
use crate::manifest::{BlobRef, DOCKER_MANIFEST, Document, ManifestError, OCI_MANIFEST, parse};
use crate::reference::Reference;
use crate::store::{Store, StoreError};

/// What is happening to a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushState {
    /// It is known that it has to get there.
    Preparing,
    /// Its turn has not come.
    Waiting,
    /// It is compressed.
    Packing,
    /// Bytes go.
    Pushing,
    /// The connection broke; it will be tried again.
    Retrying,
    /// The registry has it now.
    Pushed,
    /// The repository had it before.
    Exists,
    /// The registry had it in this other repository.
    Mounted(String),
}

/// A layer's state, told whenever it changes and while bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPush {
    /// The layer's content, uncompressed, as Docker shows it.
    pub diff_id: Digest,
    /// Bytes that went, or that were compressed.
    pub current: u64,
    /// Bytes in all.
    pub total: u64,
    /// See [`PushState`].
    pub state: PushState,
}

/// Told about progress, from several threads at once; it must return quickly.
pub type PushProgress<'a> = dyn Fn(LayerPush) + Sync + 'a;

/// A finished push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Of the manifest that the registry has under the name.
    pub digest: Digest,
    /// Bytes of that.
    pub size: u64,
}

/// Pushes the image that the store has under `reference` to where that leads.
///
/// # Errors
/// There is no such image, the registry's, or the store's. Layers that arrived stay there for the next
/// try; the name on the registry is as it was.
pub fn push(
    store: &Store,
    reference: &Reference,
    options: &RegistryOptions,
    progress: &PushProgress<'_>,
) -> Result<Pushed, RegistryError> {
    let _lease = store.lease()?;
    let image = store
        .find(reference)?
        .ok_or_else(|| StoreError::NoSuchImage(reference.familiar()))?;
    let mut layers = plan(store, reference, &image)?;
    for layer in &layers {
        layer.tell(progress, 0, PushState::Preparing);
    }
    for layer in layers.iter().skip(PARALLEL_UPLOADS) {
        layer.tell(progress, 0, PushState::Waiting);
    }
    let sources = limit_sources(&mut layers);
    let session = Session::new(reference, options, Intent::Push(sources))?;
    let pushing = Pushing {
        session: &session,
        store,
        reference,
        progress,
        stop: AtomicBool::new(false),
    };
    let there = pushing.layers(layers)?;
    pushing.document("the image config", &image.id, CONFIG_BYTES)?;
    let (manifest, media_type) = manifest(store, &image, &there)?;
    let digest = Digest::of(&manifest);
    let size = u64::try_from(manifest.len()).unwrap_or(u64::MAX);
    put_manifest(&session, reference, manifest, media_type, &digest)?;
    store.name_pushed(&image, &reference.with_digest(digest))?;
    Ok(Pushed { digest, size })
}

/// A layer that has to be on the registry.
#[derive(Debug, Clone)]
struct Layer {
    diff_id: Digest,
    stored: BlobRef,
    /// Whether it is a plain tar here that goes compressed.
    is_plain: bool,
    /// Other repositories of the registry that should have it.
    mounts: Vec<String>,
}

impl Layer {
    fn tell(&self, progress: &PushProgress<'_>, current: u64, state: PushState) {
        progress(LayerPush {
            diff_id: self.diff_id,
            current,
            total: self.stored.size,
            state,
        });
    }
}

/// The layers of an image, the topmost first as Docker has them, each once.
fn plan(store: &Store, target: &Reference, image: &Image) -> Result<Vec<Layer>, StoreError> {
    let elsewhere = elsewhere(store, target)?;
    // A registry has it so: it goes back byte for byte.
    let is_pulled = image
        .repo_digests
        .iter()
        .any(|name| name.digest() == Some(&image.manifest_digest));
    let mut seen = HashSet::new();
    let layers = image.layers.iter().rev();
    Ok(layers
        .filter(|layer| seen.insert(layer.blob))
        .map(|layer| Layer {
            diff_id: layer.diff_id,
            stored: BlobRef {
                digest: layer.blob,
                size: layer.size,
            },
            // The only layers whose content is known to be a tar as it is.
            is_plain: layer.blob == layer.diff_id && !is_pulled,
            mounts: elsewhere.get(&layer.diff_id).cloned().unwrap_or_default(),
        })
        .collect())
}

/// By content, the other repositories of `target`'s registry that images here came from or went to.
fn elsewhere(
    store: &Store,
    target: &Reference,
) -> Result<HashMap<Digest, Vec<String>>, StoreError> {
    let mut found: HashMap<Digest, Vec<String>> = HashMap::new();
    for image in store.list()?.images {
        for name in &image.repo_digests {
            if name.domain() != target.domain() || name.path() == target.path() {
                continue;
            }
            for layer in &image.layers {
                let sources = found.entry(layer.diff_id).or_default();
                let is_new = !sources.iter().any(|path| path == name.path());
                if sources.len() < MOUNT_SOURCES && is_new {
                    sources.push(name.path().to_owned());
                }
            }
        }
    }
    Ok(found)
}

/// The repositories that layers may be mounted from, each a right that the token has to bear. Those of the
/// fewest layers are dropped where there are too many.
fn limit_sources(layers: &mut [Layer]) -> Vec<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for from in layers.iter().flat_map(|layer| &layer.mounts) {
        let count = counts.entry(from).or_default();
        *count = count.saturating_add(1);
    }
    let mut sources: Vec<(usize, String)> = counts
        .into_iter()
        .map(|(from, count)| (count, from.to_owned()))
        .collect();
    sources.sort_by(|(few, a), (many, b)| many.cmp(few).then_with(|| a.cmp(b)));
    sources.truncate(MOUNT_SCOPES);
    let mut sources: Vec<String> = sources.into_iter().map(|(_, from)| from).collect();
    sources.sort();
    for layer in layers {
        layer
            .mounts
            .retain(|from| sources.binary_search(from).is_ok());
    }
    sources
}

/// Whether a repository has a layer.
enum Presence {
    /// It has, now at least.
    There,
    /// It has not. An upload may be open already, where it was asked to mount one that it did not find.
    Lacking(Option<Url>),
}

/// A push on its way.
struct Pushing<'a> {
    session: &'a Session<'a>,
    store: &'a Store,
    reference: &'a Reference,
    progress: &'a PushProgress<'a>,
    stop: AtomicBool,
}

impl Pushing<'_> {
    /// Brings every layer to the registry and gives what each stored one is there. The first failure
    /// stops the others.
    fn layers(&self, layers: Vec<Layer>) -> Result<HashMap<Digest, BlobRef>, RegistryError> {
        let workers = PARALLEL_UPLOADS.min(layers.len());
        let queue = Mutex::new(VecDeque::from(layers));
        let there = Mutex::new(Ok(HashMap::new()));
        let upload = || {
            loop {
                let next = lock(&queue).pop_front();
                let Some(layer) = next.filter(|_| !self.stop.load(Ordering::Relaxed)) else {
                    return;
                };
                let result = self.layer(&layer);
                let mut there = lock(&there);
                match (result, &mut *there) {
                    (Ok(blob), Ok(there)) => {
                        there.insert(layer.stored.digest, blob);
                    }
                    (Err(error), Ok(_) | Err(RegistryError::Stopped)) => {
                        self.stop.store(true, Ordering::Relaxed);
                        *there = Err(error);
                    }
                    (_, Err(_)) => {}
                }
            }
        };
        std::thread::scope(|scope| {
            // Fewer at once where the host has no further thread; the first is this one.
            for _ in 1..workers {
                let _ = std::thread::Builder::new().spawn_scoped(scope, upload);
            }
            upload();
        });
        there.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings one layer there, and gives what it is there.
    fn layer(&self, layer: &Layer) -> Result<BlobRef, RegistryError> {
        let what = format!("layer {}", layer.diff_id);
        let known = match layer.is_plain {
            true => self.store.packed(&layer.stored.digest),
            false => Some(layer.stored),
        };
        let mut open = None;
        if let Some(blob) = known {
            match self.find(layer, &what, blob)? {
                Presence::There => return Ok(blob),
                Presence::Lacking(location) => open = location,
            }
        }
        let (blob, file) = match layer.is_plain {
            true => {
                // Nobody keeps an upload open until the layer is packed.
                if let (Some(location), Some(blob)) = (open.take(), known) {
                    self.upload(&what, blob, &|_, _| {}).forget(location);
                }
                self.pack(layer)?
            }
            false => (layer.stored, self.store.blob(&layer.stored.digest)?),
        };
        if Some(blob) != known {
            match self.find(layer, &what, blob)? {
                Presence::There => return Ok(blob),
                Presence::Lacking(location) => open = location,
            }
        }
        layer.tell(self.progress, 0, PushState::Pushing);
        let tell = |sent, is_again| {
            (self.progress)(LayerPush {
                diff_id: layer.diff_id,
                current: sent,
                total: blob.size,
                state: match is_again {
                    true => PushState::Retrying,
                    false => PushState::Pushing,
                },
            });
        };
        let upload = self.upload(&what, blob, &tell);
        upload.send(open, &Arc::new(file))?;
        layer.tell(self.progress, layer.stored.size, PushState::Pushed);
        Ok(blob)
    }

    /// Looks whether the repository has a blob, or can have it from another one.
    fn find(&self, layer: &Layer, what: &str, blob: BlobRef) -> Result<Presence, RegistryError> {
        let upload = self.upload(what, blob, &|_, _| {});
        if upload.exists()? {
            layer.tell(self.progress, layer.stored.size, PushState::Exists);
            return Ok(Presence::There);
        }
        let mut open: Option<Url> = None;
        for from in &layer.mounts {
            if !self.session.may_read_sources() {
                break;
            }
            let begun = match upload.begin(Some(from)) {
                Ok(begun) => begun,
                Err(RegistryError::Stopped) => return Err(RegistryError::Stopped),
                // A registry that can't do this, or not now, may well take the bytes.
                Err(_) => continue,
            };
            if let Some(before) = open.take() {
                upload.forget(before);
            }
            match begun {
                Begun::Mounted => {
                    let state = PushState::Mounted(from.clone());
                    layer.tell(self.progress, layer.stored.size, state);
                    return Ok(Presence::There);
                }
                // It isn't there any more, or not for us.
                Begun::At(location) => open = Some(location),
            }
        }
        Ok(Presence::Lacking(open))
    }

    fn upload<'b>(
        &'b self,
        what: &'b str,
        blob: BlobRef,
        tell: &'b super::upload::Tell<'b>,
    ) -> Upload<'b> {
        Upload {
            session: self.session,
            repository: self.reference.path(),
            what,
            blob,
            stop: &self.stop,
            tell,
        }
    }

    /// Compresses a layer into a file that has no name any more. It is checked on the way: what is pushed
    /// is what its digest says.
    fn pack(&self, layer: &Layer) -> Result<(BlobRef, File), RegistryError> {
        let mut spool = self.store.spool()?;
        let mut source = Watched {
            file: self.store.blob(&layer.stored.digest)?,
            hasher: Sha256::new(),
            read: 0,
            layer,
            pushing: self,
        };
        let packed = spool.copy(&mut Gzip::new(&mut source), LAYER_BYTES);
        if self.stop.load(Ordering::Relaxed) {
            return Err(RegistryError::Stopped);
        }
        let packed = packed?;
        if Digest::finish(source.hasher) != layer.stored.digest {
            return Err(StoreError::DamagedBlob(layer.stored.digest).into());
        }
        let blob = BlobRef {
            digest: packed.digest,
            size: packed.size,
        };
        self.store.remember_packed(&layer.stored.digest, blob)?;
        Ok((blob, packed.open()?))
    }

    /// Brings a small document of the store there.
    fn document(&self, what: &str, digest: &Digest, limit: u64) -> Result<(), RegistryError> {
        let bytes = self.store.document(digest, limit)?;
        let blob = BlobRef {
            digest: *digest,
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        };
        let upload = self.upload(what, blob, &|_, _| {});
        if upload.exists()? {
            return Ok(());
        }
        upload.send(None, &Arc::new(self.store.blob(digest)?))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A layer being read: hashed, told of, and ended when another one failed.
struct Watched<'a> {
    file: File,
    hasher: Sha256,
    read: u64,
    layer: &'a Layer,
    pushing: &'a Pushing<'a>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.pushing.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("another layer failed"));
        }
        let count = self.file.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.read = self
            .read
            .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        let state = PushState::Packing;
        self.layer.tell(self.pushing.progress, self.read, state);
        Ok(count)
    }
}

/// The manifest to push and its media type: the stored one where every layer is there as it is here.
fn manifest(
    store: &Store,
    image: &Image,
    there: &HashMap<Digest, BlobRef>,
) -> Result<(Vec<u8>, &'static str), RegistryError> {
    let bytes = store.document(&image.manifest_digest, MANIFEST_BYTES)?;
    let Document::Manifest(manifest) = parse(&bytes)? else {
        return Err(ManifestError::Ambiguous.into());
    };
    let media_type = manifest.media_type;
    if there.iter().all(|(stored, blob)| *stored == blob.digest) {
        return Ok((bytes, media_type));
    }
    let mut document: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|_| ManifestError::Ambiguous)?;
    let layer_type = match media_type {
        DOCKER_MANIFEST => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        _ => "application/vnd.oci.image.layer.v1.tar+gzip",
    };
    if let Some(Value::Array(layers)) = document.get_mut("layers") {
        for (descriptor, layer) in layers.iter_mut().zip(&manifest.layers) {
            match there.get(&layer.blob.digest) {
                Some(blob) if blob.digest != layer.blob.digest => {
                    *descriptor = json!({
                        "mediaType": layer_type,
                        "digest": blob.digest.to_string(),
                        "size": blob.size,
                    });
                }
                _ => {}
            }
        }
    }
    Ok((Value::Object(document).to_string().into_bytes(), media_type))
}

fn put_manifest(
    session: &Session<'_>,
    reference: &Reference,
    manifest: Vec<u8>,
    media_type: &str,
    digest: &Digest,
) -> Result<(), RegistryError> {
    debug_assert!(matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST));
    let what = "the image manifest";
    let tag = reference.tag().unwrap_or_default();
    let url = session.url(&format!("v2/{}/manifests/{tag}", reference.path()));
    let manifest = Bytes::from(manifest);
    session.with_retries(|| {
        let reply = session.ask(Request {
            content: Content::Document(media_type, manifest.clone()),
            ..Request::new(what, Method::PUT, url.clone())
        })?;
        match reply.status() {
            200..=204 => check_stored(&reply, what, digest),
            _ => Err(session.refusal(what, reply, None)),
        }
    })
}
