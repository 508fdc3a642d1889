//! A registry that takes uploads as the distribution spec has it, in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::sample::sha;
use crate::server::{Body, Reply, Request};

#[derive(Default)]
struct State {
    /// Repository and digest.
    blobs: BTreeSet<(String, String)>,
    content: BTreeMap<String, Vec<u8>>,
    /// Repository and tag.
    manifests: BTreeMap<(String, String), Vec<u8>>,
    uploads: BTreeMap<String, Vec<u8>>,
    begun: usize,
}

/// What a registry was sent.
#[derive(Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<State>>);

impl Inbox {
    /// The registry's reply to a request, after what was read of its body is taken.
    pub(crate) fn reply(&self, request: &Request) -> Reply {
        let (path, query) = match request.path.split_once('?') {
            Some((path, query)) => (path, query),
            None => (request.path.as_str(), ""),
        };
        let Some(path) = path.strip_prefix("/v2/") else {
            return Reply::error(404, "NOT_FOUND");
        };
        if path.is_empty() {
            return Reply::ok("{}");
        }
        let mut state = self.0.lock().unwrap();
        if let Some((repository, upload)) = path.split_once("/blobs/uploads/") {
            return state.upload(request, repository, upload, query);
        }
        if let Some((repository, digest)) = path.split_once("/blobs/") {
            let found = state
                .blobs
                .contains(&(repository.to_owned(), digest.to_owned()));
            return match found {
                true if request.method == "HEAD" => Reply::new(200, Body::Whole(Vec::new())),
                true => Reply::ok(state.content[digest].clone()),
                false => Reply::error(404, "BLOB_UNKNOWN"),
            };
        }
        match path.split_once("/manifests/") {
            Some((repository, tag)) if request.method == "PUT" => {
                state.manifest(request, repository, tag)
            }
            Some((repository, tag)) => {
                let key = (repository.to_owned(), tag.to_owned());
                match state.manifests.get(&key) {
                    Some(bytes) => Reply::ok(bytes.clone()),
                    None => Reply::error(404, "MANIFEST_UNKNOWN"),
                }
            }
            None => Reply::error(404, "NOT_FOUND"),
        }
    }

    /// The manifest under a tag.
    pub(crate) fn manifest(&self, repository: &str, tag: &str) -> Option<Vec<u8>> {
        let key = (repository.to_owned(), tag.to_owned());
        self.0.lock().unwrap().manifests.get(&key).cloned()
    }

    /// The blob with this digest, if the repository has it.
    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        let state = self.0.lock().unwrap();
        let key = (repository.to_owned(), digest.to_owned());
        let has = state.blobs.contains(&key);
        has.then(|| state.content[digest].clone())
    }

    /// How many blobs a repository has.
    pub(crate) fn count(&self, repository: &str) -> usize {
        let state = self.0.lock().unwrap();
        let blobs = state.blobs.iter();
        blobs.filter(|(of, _)| of == repository).count()
    }

    /// Uploads that were begun and neither finished nor given up.
    pub(crate) fn open_uploads(&self) -> usize {
        self.0.lock().unwrap().uploads.len()
    }
}

impl State {
    fn add(&mut self, repository: &str, content: Vec<u8>) {
        let digest = sha(&content);
        self.blobs.insert((repository.to_owned(), digest.clone()));
        self.content.insert(digest, content);
    }

    fn upload(&mut self, request: &Request, repository: &str, upload: &str, query: &str) -> Reply {
        let value = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let mut values = pairs.filter(|(key, _)| *key == name);
            values
                .next()
                .map(|(_, value)| value.replace("%3A", ":").replace("%2F", "/"))
        };
        let at = |upload: &str, status, len: usize| {
            Reply::new(status, Body::Whole(Vec::new()))
                .with(
                    "Location",
                    &format!("/v2/{repository}/blobs/uploads/{upload}?_state=a%2Fb"),
                )
                .with("Range", &format!("0-{}", len.saturating_sub(1)))
        };
        if request.method == "POST" {
            if let (Some(digest), Some(from)) = (value("mount"), value("from"))
                && self.blobs.contains(&(from, digest.clone()))
            {
                self.blobs.insert((repository.to_owned(), digest));
                return Reply::new(201, Body::Whole(Vec::new()));
            }
            self.begun += 1;
            let upload = format!("u{}", self.begun);
            self.uploads.insert(upload.clone(), Vec::new());
            return at(&upload, 202, 0);
        }
        let Some(content) = self.uploads.get_mut(upload) else {
            return Reply::error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        match request.method.as_str() {
            "GET" => at(upload, 204, content.len()),
            "DELETE" => {
                self.uploads.remove(upload);
                Reply::new(204, Body::Whole(Vec::new()))
            }
            "PATCH" => {
                let range = request.header("content-range").unwrap();
                let (from, last) = range.split_once('-').unwrap();
                let (from, last): (usize, usize) = (from.parse().unwrap(), last.parse().unwrap());
                if from != content.len() {
                    return at(upload, 416, content.len());
                }
                assert!(request.is_cut || last + 1 - from == request.body.len());
                content.extend_from_slice(&request.body);
                at(upload, 202, content.len())
            }
            "PUT" => {
                content.extend_from_slice(&request.body);
                if request.is_cut {
                    return Reply::error(500, "CUT");
                }
                let digest = value("digest").unwrap();
                let content = self.uploads.remove(upload).unwrap();
                if sha(&content) != digest {
                    return Reply::error(400, "DIGEST_INVALID");
                }
                self.add(repository, content);
                Reply::new(201, Body::Whole(Vec::new())).with("Docker-Content-Digest", &digest)
            }
            other => panic!("{other} of an upload"),
        }
    }

    fn manifest(&mut self, request: &Request, repository: &str, tag: &str) -> Reply {
        let manifest: Value = serde_json::from_slice(&request.body).unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        for descriptor in layers.chain([&manifest["config"]]) {
            let digest = descriptor["digest"].as_str().unwrap();
            let key = (repository.to_owned(), digest.to_owned());
            let size = self.content.get(digest).map(|content| content.len() as u64);
            if !self.blobs.contains(&key) || size != descriptor["size"].as_u64() {
                return Reply::error(400, "MANIFEST_BLOB_UNKNOWN");
            }
        }
        assert_eq!(
            request.header("content-type"),
            manifest["mediaType"].as_str()
        );
        let key = (repository.to_owned(), tag.to_owned());
        self.manifests.insert(key, request.body.clone());
        let digest = sha(&request.body);
        Reply::new(201, Body::Whole(Vec::new())).with("Docker-Content-Digest", &digest)
    }
}
