//! A client with a store of its own, and what several tests of pulls need.

use std::time::Duration;

use bulkhead_images::registry::{LayerProgress, LayerPush, Patience, RegistryError};
use bulkhead_images::{
    Platform, Pulled, Pushed, Reference, RegistryOptions, Store, load_stream, pull, push,
};
use serde_json::json;

use crate::sample::{Sample, hex};
use crate::server::{Reply, Request, Server, site};

/// A store, and options that see nothing of this machine's logins and certificates.
pub(crate) struct Client {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) options: RegistryOptions,
}

impl Client {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let patience = Patience {
            reply: Duration::from_secs(10),
            document: Duration::from_secs(10),
            stall: Duration::from_secs(10),
            upload: Duration::from_secs(10),
            backoff: Duration::from_millis(1),
            attempts: 4,
        };
        let options = RegistryOptions {
            insecure: Vec::new(),
            ca_files: Vec::new(),
            certs_dirs: Vec::new(),
            docker_config: Some(dir.path().join("config.json")),
            patience,
        };
        Self {
            dir,
            store,
            options,
        }
    }

    pub(crate) fn with_login(registry: &str, entry: serde_json::Value) -> Self {
        let client = Self::new();
        let config = json!({"auths": {registry: entry}});
        std::fs::write(client.dir.path().join("config.json"), config.to_string()).unwrap();
        client
    }

    pub(crate) fn pull(&self, name: &str) -> Result<Pulled, RegistryError> {
        self.pull_for("linux/amd64", name, &|_| {})
    }

    pub(crate) fn pull_for(
        &self,
        platform: &str,
        name: &str,
        progress: &(dyn Fn(LayerProgress) + Sync),
    ) -> Result<Pulled, RegistryError> {
        let reference = Reference::parse(name).unwrap();
        pull(
            &self.store,
            &reference,
            &Platform::parse(platform).unwrap(),
            &self.options,
            progress,
        )
    }

    /// Puts an image into the store.
    pub(crate) fn load(&self, image: &Sample, name: &str) {
        let archive = image.oci_archive(Some(name));
        let platform = Platform::parse("linux/amd64").unwrap();
        let loaded = load_stream(&self.store, archive.as_slice(), &platform).unwrap();
        assert_eq!(loaded.len(), 1);
    }

    pub(crate) fn push(&self, name: &str) -> Result<Pushed, RegistryError> {
        self.push_told(name, &|_| {})
    }

    pub(crate) fn push_told(
        &self,
        name: &str,
        progress: &(dyn Fn(LayerPush) + Sync),
    ) -> Result<Pushed, RegistryError> {
        let reference = Reference::parse(name).unwrap();
        push(&self.store, &reference, &self.options, progress)
    }

    /// A pull that must fail, and leave no image and no blob of a wrong digest.
    #[track_caller]
    pub(crate) fn refused(&self, name: &str) -> RegistryError {
        let error = self.pull(name).expect_err("an error");
        assert!(self.store.list().unwrap().images.is_empty());
        for entry in std::fs::read_dir(self.path("blobs/sha256")).unwrap() {
            let path = entry.unwrap().path();
            let content = std::fs::read(&path).unwrap();
            assert_eq!(path.file_name().unwrap().to_str().unwrap(), hex(&content));
        }
        error
    }

    pub(crate) fn path(&self, sub: &str) -> std::path::PathBuf {
        self.dir.path().join("store").join(sub)
    }

    pub(crate) fn partials(&self) -> usize {
        std::fs::read_dir(self.path("ingest")).unwrap().count()
    }
}

pub(crate) fn sample() -> Sample {
    Sample::new(&[b"the first layer", b"the second layer"])
}

/// Serves a sample, but answers otherwise wherever `exception` has something to say.
pub(crate) fn except(
    sample: &Sample,
    exception: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
) -> Server {
    let site = site(sample);
    Server::start(move |request| exception(request).unwrap_or_else(|| site(request)))
}

pub(crate) fn is_blob(request: &Request, content: &[u8]) -> bool {
    request.path.ends_with(&hex(content))
}

/// Content of some size that no two bytes in a row of which are alike.
pub(crate) fn big(size: usize) -> Vec<u8> {
    (0..size)
        .map(|index| u8::try_from(index % 251).unwrap())
        .collect()
}
