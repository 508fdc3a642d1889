//! Pulling images from registries and pushing them there (OCI distribution spec 1.1), and logging in.
//!
//! Called by the command. It brings manifests, configs and layers into the store, and from there to a
//! registry (see `push`); it never looks into a layer, and has no say in where the store puts things.
//!
//! ```text
//! pull ── session ── get manifest ─ index? ─ pick platform ─ get manifest ── get config ── layers ── record
//!            └ http: one request, its redirects, limits    (3 at once, resumed) ─┘
//!            └ auth: challenge -> token, with the user's logins
//! ```
//!
//! A registry is hostile: it may send anything for ever, lie about sizes, types and digests, or point us
//! elsewhere. Hence HTTP by `reqwest` and a client of our own on top, after a look at oci-client 0.18:
//!
//! - it reads manifests, tokens and error pages into memory whole, whatever their size;
//! - it follows up to ten redirects to anywhere, plain HTTP and metadata addresses included;
//! - it sends the user's password to whatever token address the registry names, plain HTTP included;
//! - a partial reply is taken without a look at its Content-Range;
//! - it knows no identity tokens, and swallows the reason when a login fails;
//! - its HTTP client can't be replaced or given a redirect policy, so none of this can be added outside.
//!
//! What is relied on: reqwest and hyper bound a reply's head (some 400 KiB, 100 headers) and speak HTTP/1
//! only here; rustls checks certificates; neither decompresses anything, as those features are off.

mod auth;
mod content;
mod credentials;
mod download;
mod error;
mod fetch;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod gzip;
mod http;
mod login;
#[cfg(test)]
mod one_reply;
mod proxy;
mod push;
mod reach;
mod runtime;
mod session;
mod settings;
mod tls;
mod upload;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::image::Image;
use crate::limits;
use crate::manifest::{self, BlobRef, Document, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::Store;

pub use credentials::{CredentialsError, Keychain, Login, Place, Secret, key_of};
pub use error::{Astray, Cause, RegistryError};
pub use fetch::{Download, download, fetch};
pub use login::{Registry, log_in};
pub use push::{LayerPush, PushProgress, PushState, Pushed, push};
pub use settings::{Formats, Settings, settings};

use session::{Intent, Session, Wanted};

/// How long to wait for a registry and how often to try. The default is right for users; tests are less
/// patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until the head of a reply.
    pub reply: Duration,
    /// For a whole document.
    pub document: Duration,
    /// Without enough bytes of a layer.
    pub stall: Duration,
    /// Without a byte of an upload being taken.
    pub upload: Duration,
    /// Before the second try; doubles each time.
    pub backoff: Duration,
    /// Tries in all.
    pub attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            reply: limits::REPLY_TIMEOUT,
            document: limits::DOCUMENT_TIMEOUT,
            stall: limits::STALL_TIMEOUT,
            upload: limits::UPLOAD_STALL_TIMEOUT,
            backoff: limits::BACKOFF_BASE,
            attempts: limits::ATTEMPTS,
        }
    }
}

/// What a talk with a registry takes from its surroundings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Registries (`host[:port]`, as in references) that may speak plain HTTP. Those on this machine may
    /// in any case.
    pub insecure: Vec<String>,
    /// PEM files with certificate authorities to trust, besides the host's.
    pub ca_files: Vec<PathBuf>,
    /// Directories of Docker's layout `<host[:port]>/*.crt` with authorities for one registry each, and
    /// `*.cert` with `*.key`, by which that registry knows the user.
    pub certs_dirs: Vec<PathBuf>,
    /// Docker's config.json; by default that of `$DOCKER_CONFIG` or `~/.docker`.
    pub docker_config: Option<PathBuf>,
    /// See [`Patience`].
    pub patience: Patience,
}

impl Default for RegistryOptions {
    /// Docker's places: `/etc/docker/certs.d` and `~/.docker/certs.d`.
    fn default() -> Self {
        let home = std::env::var_os("HOME")
            .map(|home| PathBuf::from(home).join(".docker").join("certs.d"));
        let certs_dirs = [Some(PathBuf::from("/etc/docker/certs.d")), home]
            .into_iter()
            .flatten()
            .collect();
        Self {
            insecure: Vec::new(),
            ca_files: Vec::new(),
            certs_dirs,
            docker_config: None,
            patience: Patience::default(),
        }
    }
}

/// What is happening to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Its turn has not come, or another process is downloading it.
    Waiting,
    /// It was there before.
    Exists,
    /// Bytes are coming.
    Downloading,
    /// The connection broke; it will be tried again.
    Retrying,
    /// All bytes are there; the digest is being checked.
    Verifying,
    /// It is in the store.
    Done,
}

/// A layer's state, told whenever it changes and with every piece that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerProgress {
    /// The layer as stored.
    pub digest: Digest,
    /// Bytes that are there. Goes back to 0 where a download has to start over.
    pub current: u64,
    /// Bytes in all.
    pub total: u64,
    /// See [`LayerState`].
    pub state: LayerState,
}

/// Told about progress, from several threads at once; it must return quickly.
pub type Progress<'a> = dyn Fn(LayerProgress) + Sync + 'a;

/// Whether a pull brought anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStatus {
    /// The name led to this very image before.
    UpToDate,
    /// It does now.
    Downloaded,
}

/// A finished pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image as it now is in the store.
    pub image: Image,
    /// See [`PullStatus`].
    pub status: PullStatus,
    /// What the registry has under the name: the index's digest where there is one, as in Docker.
    pub digest: Digest,
}

/// Pulls `reference` for `platform` into `store`.
///
/// Where a digest is given, the tag is ignored, and what comes must have this digest. A failed pull
/// leaves the names as they were and whole and partial layers for the next one.
pub fn pull(
    store: &Store,
    reference: &Reference,
    platform: &Platform,
    options: &RegistryOptions,
    progress: &Progress<'_>,
) -> Result<Pulled, RegistryError> {
    let lease = store.lease()?;
    let session = Session::new(reference, options, Intent::Pull)?;
    let found = find_manifest(&session, reference, platform)?;
    let config_bytes =
        download::document(&session, store, "the image config", &found.manifest.config)?;
    let config = ImageConfig::parse(&config_bytes)?;
    config.check_layers(found.manifest.layers.len())?;
    config.check_platform(platform)?;

    let by_digest = reference.with_digest(found.top);
    let names = match reference.digest() {
        Some(_) => vec![by_digest],
        None => vec![reference.clone(), by_digest],
    };
    if let Some(image) = pushed_from_here(store, &names, &found)? {
        return Ok(Pulled {
            image,
            status: PullStatus::UpToDate,
            digest: found.top,
        });
    }
    store.put(&config_bytes)?;
    // A damaged image is not up to date, whatever its digest.
    let before = names
        .first()
        .and_then(|name| store.find(name).ok().flatten());

    let mut seen = HashSet::new();
    let layers: Vec<BlobRef> = found
        .manifest
        .layers
        .iter()
        .map(|layer| layer.blob)
        .filter(|blob| seen.insert(blob.digest))
        .collect();
    for layer in &layers {
        progress(LayerProgress {
            digest: layer.digest,
            current: 0,
            total: layer.size,
            state: LayerState::Waiting,
        });
    }
    download::layers(&session, store, &layers, progress)?;
    let manifest_digest = store.put(&found.bytes)?;
    let image = store.record(&lease, &manifest_digest, &names)?;
    let status = match before {
        Some(before) if before.manifest_digest == manifest_digest => PullStatus::UpToDate,
        _ => PullStatus::Downloaded,
    };
    Ok(Pulled {
        image,
        status,
        digest: found.top,
    })
}

/// The image that all of `names` lead to here already, by one manifest, if it was pushed from here and is
/// whole: its layers are plain here and compressed there, so that its manifest is another one.
fn pushed_from_here(
    store: &Store,
    names: &[Reference],
    found: &Found,
) -> Result<Option<Image>, RegistryError> {
    let id = found.manifest.config.digest;
    let mut image: Option<Image> = None;
    for name in names {
        let is_other = |named: &Image| {
            let mut before = image.iter();
            named.id != id || before.any(|one| one.manifest_digest != named.manifest_digest)
        };
        match store.find(name) {
            Ok(Some(named)) if !is_other(&named) => image = Some(named),
            // A damaged one is brought anew.
            _ => return Ok(None),
        }
    }
    let Some(image) = image else {
        return Ok(None);
    };
    if image.manifest_digest == Digest::of(&found.bytes) {
        return Ok(None);
    }
    for layer in &image.layers {
        if !store.has_blob(&layer.blob, layer.size)? {
            return Ok(None);
        }
    }
    Ok(Some(image))
}

/// A platform's manifest, and how it was found.
struct Found {
    manifest: Manifest,
    bytes: Vec<u8>,
    /// Digest of the document that the name leads to: the manifest itself or an index above it.
    top: Digest,
}

fn find_manifest(
    session: &Session<'_>,
    reference: &Reference,
    platform: &Platform,
) -> Result<Found, RegistryError> {
    const WHAT: &str = "the image manifest";
    let name = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or_default().to_owned(),
    };
    let mut bytes = session.document(WHAT, Wanted::Manifest(&name), limits::MANIFEST_BYTES)?;
    if let Some(digest) = reference.digest() {
        download::check_digest(WHAT, &bytes, digest)?;
    }
    let top = Digest::of(&bytes);
    for _ in 0..=limits::INDEX_DEPTH {
        let index = match manifest::parse(&bytes)? {
            Document::Manifest(manifest) => {
                return Ok(Found {
                    manifest,
                    bytes,
                    top,
                });
            }
            Document::Index(index) => index,
        };
        let entry = index.select(platform)?;
        let digest = entry.blob.digest;
        bytes = session.document(
            WHAT,
            Wanted::Manifest(&digest.to_string()),
            limits::MANIFEST_BYTES,
        )?;
        download::check_digest(WHAT, &bytes, &digest)?;
        let actual = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if actual != entry.blob.size {
            let expected = entry.blob.size;
            return Err(RegistryError::SizeMismatch {
                what: WHAT.to_owned(),
                expected,
                actual,
            });
        }
    }
    Err(RegistryError::IndexDepth)
}
