//! Pulls from registries that behave: platforms, digests, progress, several at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bulkhead_images::registry::{LayerProgress, LayerState, RegistryError};
use bulkhead_images::{PullStatus, Reference};
use serde_json::json;

use crate::client::{Client, big, except, is_blob, sample};
use crate::sample::{INDEX, MANIFEST, Sample, descriptor, sha};
use crate::server::{Reply, Server, site};

#[test]
fn an_image_is_pulled_once() {
    let sample = sample();
    let server = Server::start(site(&sample));
    let client = Client::new();
    let pulled = client.pull(&server.name("x:1")).unwrap();
    assert_eq!(pulled.status, PullStatus::Downloaded);
    assert_eq!(pulled.digest.to_string(), sha(&sample.manifest));
    assert_eq!(pulled.image.id.to_string(), sample.id());
    assert_eq!(
        pulled.image.tags,
        [Reference::parse(&server.name("x:1")).unwrap()]
    );
    assert_eq!(pulled.image.repo_digests[0].digest(), Some(&pulled.digest));
    let blobs = server.requests_for("/blobs/").len();
    assert_eq!(blobs, 3);

    let again = client.pull(&server.name("x:1")).unwrap();
    assert_eq!(
        (again.status, &again.image),
        (PullStatus::UpToDate, &pulled.image)
    );
    assert_eq!(server.requests_for("/blobs/").len(), blobs);
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
    assert_eq!(client.partials(), 0);
}

#[test]
fn progress_is_told_layer_by_layer() {
    let big = big(300_000);
    let sample = Sample::new(&[&big, b"small", b"small"]);
    let server = Server::start(site(&sample));
    let client = Client::new();
    let events = Mutex::new(Vec::new());
    client
        .pull_for("linux/amd64", &server.name("x"), &|event| {
            events.lock().unwrap().push(event)
        })
        .unwrap();
    let events = events.into_inner().unwrap();
    let of_big: Vec<&LayerProgress> = events
        .iter()
        .filter(|event| event.digest.to_string() == sha(&big))
        .collect();
    assert!(of_big.iter().all(|event| event.total == 300_000));
    assert!(
        of_big
            .windows(2)
            .all(|pair| pair[0].current <= pair[1].current)
    );
    let states: Vec<LayerState> = of_big.iter().map(|event| event.state).collect();
    assert_eq!(states[..2], [LayerState::Waiting, LayerState::Downloading]);
    assert_eq!(
        states[states.len() - 2..],
        [LayerState::Verifying, LayerState::Done]
    );
    // A layer that is listed twice is downloaded once.
    assert_eq!(server.requests_for(&sha(b"small")).len(), 1);
    let events = Mutex::new(Vec::new());
    client
        .pull_for("linux/amd64", &server.name("x"), &|event| {
            events.lock().unwrap().push(event.state)
        })
        .unwrap();
    use LayerState::*;
    assert_eq!(
        events.into_inner().unwrap(),
        [Waiting, Waiting, Exists, Exists]
    );
}

#[test]
fn a_moved_tag_brings_the_new_image_and_only_its_new_layers() {
    let (old, new) = (
        Sample::new(&[b"base", b"old"]),
        Sample::new(&[b"base", b"new"]),
    );
    let moved = Arc::new(AtomicUsize::new(0));
    let (site_old, site_new, flag) = (site(&old), site(&new), Arc::clone(&moved));
    let server = Server::start(move |request| {
        if flag.load(Ordering::SeqCst) == 0 {
            site_old(request)
        } else {
            site_new(request)
        }
    });
    let client = Client::new();
    client.pull(&server.name("x")).unwrap();
    moved.store(1, Ordering::SeqCst);
    let pulled = client.pull(&server.name("x")).unwrap();
    assert_eq!(pulled.status, PullStatus::Downloaded);
    assert_eq!(pulled.image.id.to_string(), new.id());
    assert_eq!(server.requests_for(&sha(b"base")).len(), 1);
    assert!(client.store.resolve(&old.id()).unwrap().tags.is_empty());
}

#[test]
fn a_digest_is_what_comes() {
    let sample = sample();
    let server = Server::start(site(&sample));
    let client = Client::new();
    let by_digest = server.name(&format!("x:ignored@{}", sha(&sample.manifest)));
    let pulled = client.pull(&by_digest).unwrap();
    assert!(pulled.image.tags.is_empty());
    assert_eq!(pulled.image.repo_digests.len(), 1);
    assert!(server.requests_for("ignored").is_empty());

    let other = Sample::new(&[b"other"]);
    let lying = except(&sample, move |request| {
        request
            .path
            .contains("/manifests/")
            .then(|| Reply::ok(other.manifest.clone()))
    });
    let error = Client::new().refused(&lying.name(&format!("x@{}", sha(&sample.manifest))));
    assert!(
        matches!(error, RegistryError::DigestMismatch { .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .starts_with("digest mismatch for the image manifest: got sha256:")
    );
}

/// An index of an amd64 and an arm64 image, served.
fn multi(amd: &Sample, arm: &Sample, change: impl Fn(&mut serde_json::Value)) -> (Server, Vec<u8>) {
    let mut entries = json!([
        descriptor(MANIFEST, &amd.manifest),
        descriptor(MANIFEST, &arm.manifest)
    ]);
    entries[0]["platform"] = json!({"os": "linux", "architecture": "amd64"});
    entries[1]["platform"] = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
    change(&mut entries);
    let index =
        serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))
            .unwrap();
    let (site_amd, site_arm) = (site(amd), site(arm));
    let (served, arm_blobs) = (index.clone(), arm.blobs());
    let server = Server::start(move |request| {
        let is_arm = arm_blobs.iter().any(|blob| is_blob(request, blob));
        match request.path.rsplit('/').next() {
            Some(last) if request.path.contains("/manifests/") && !last.starts_with("sha256:") => {
                Reply::ok(served.clone())
            }
            _ if is_arm => site_arm(request),
            _ => site_amd(request),
        }
    });
    (server, index)
}

#[test]
fn an_index_leads_to_the_platform() {
    let (amd, arm) = (
        Sample::new(&[b"amd"]),
        Sample::of_architecture("arm64", &[b"arm"]),
    );
    let (server, index) = multi(&amd, &arm, |_| {});
    let client = Client::new();
    let pulled = client.pull(&server.name("x")).unwrap();
    assert_eq!(pulled.image.id.to_string(), amd.id());
    assert_eq!(pulled.digest.to_string(), sha(&index));
    assert_eq!(pulled.image.manifest_digest.to_string(), sha(&amd.manifest));
    let pulled = client
        .pull_for("linux/arm64", &server.name("x"), &|_| {})
        .unwrap();
    assert_eq!(pulled.image.id.to_string(), arm.id());
    let error = client
        .pull_for("linux/s390x", &server.name("x"), &|_| {})
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no matching manifest for linux/s390x in the manifest list entries, which are for \
         linux/amd64, linux/arm64"
    );
    assert!(error.hint().is_some());
}

#[test]
fn an_index_that_lies_is_refused() {
    let (amd, arm) = (
        Sample::new(&[b"amd"]),
        Sample::of_architecture("arm64", &[b"arm"]),
    );
    let (server, _) = multi(&amd, &arm, |entries| entries[0]["size"] = json!(7));
    assert!(matches!(
        Client::new().refused(&server.name("x")),
        RegistryError::SizeMismatch { .. }
    ));
    let (server, _) = multi(&amd, &arm, |entries| {
        entries[0]["platform"]["architecture"] = json!("arm64");
        entries[1]["platform"] = json!({"os": "linux", "architecture": "amd64"});
    });
    let client = Client::new();
    let error = client.refused(&server.name("x"));
    assert_eq!(
        error.to_string(),
        "the image is for linux/arm64, not for linux/amd64"
    );
    // What showed that is not kept either.
    let blobs = std::fs::read_dir(client.path("blobs/sha256")).unwrap();
    assert_eq!((blobs.count(), client.partials()), (0, 0));
}

#[test]
fn indexes_without_end_are_refused() {
    // Each index leads to a further one, which says the same about the next.
    let mut next = descriptor(MANIFEST, b"never reached");
    let mut indexes = Vec::new();
    for _ in 0..10 {
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [next]})).unwrap();
        next = descriptor(INDEX, &index);
        indexes.push(index);
    }
    let server = Server::start(move |request| {
        let found = indexes
            .iter()
            .find(|index| is_blob(request, index))
            .or(indexes.last());
        Reply::ok(found.unwrap().clone())
    });
    assert!(matches!(
        Client::new().refused(&server.name("x")),
        RegistryError::IndexDepth
    ));
}

#[test]
fn what_is_not_there_is_named() {
    let unknown =
        |code: &'static str, status: u16| Server::start(move |_| Reply::error(status, code));
    let server = unknown("MANIFEST_UNKNOWN", 404);
    let error = Client::new().refused(&server.name("x:nope"));
    assert_eq!(
        error.to_string(),
        format!(
            "manifest for {} not found: manifest unknown",
            server.name("x:nope")
        )
    );
    let server = unknown("NAME_UNKNOWN", 404);
    let error = Client::new().refused(&server.name("x"));
    assert_eq!(
        error.to_string(),
        format!(
            "pull access denied for {}, repository does not exist or may require 'docker login': NAME_UNKNOWN it is",
            server.name("x")
        )
    );
    assert!(
        error
            .hint()
            .unwrap()
            .contains(&format!("bulkhead login {}", server.host()))
    );
    let server = unknown("DENIED", 403);
    assert!(matches!(
        Client::new().refused(&server.name("x")),
        RegistryError::Denied { .. }
    ));
    let server = unknown("TOOMANYREQUESTS", 429);
    assert!(matches!(
        Client::new().refused(&server.name("x")),
        RegistryError::TooManyRequests { .. }
    ));
    assert_eq!(server.requests_for("/manifests/").len(), 1);
}

#[test]
fn a_listed_blob_that_is_not_there_is_named() {
    let image = sample();
    for missing in [image.config.clone(), image.layers[1].clone()] {
        let server = except(&image, move |request| {
            is_blob(request, &missing).then(|| Reply::error(404, "BLOB_UNKNOWN"))
        });
        assert!(matches!(
            Client::new().refused(&server.name("x")),
            RegistryError::BlobUnknown { .. }
        ));
    }
}

#[test]
fn a_refused_connection_is_told_at_once() {
    let name = Server::start(|_| Reply::ok("")).name("x");
    let error = Client::new().refused(&name);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        matches!(error, RegistryError::Unreachable { .. }),
        "{error}"
    );
    assert!(cause.contains("Connection refused"), "{cause}");
    assert!(error.hint().unwrap().contains("port"));
}

/// Longest wait for what another request does.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn no_more_than_three_layers_come_at_once() {
    let layers: Vec<Vec<u8>> = (0..12_u8).map(|number| vec![number; 1000]).collect();
    let slices: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let image = Sample::new(&slices);
    // How many are asked for now, and how many were at most.
    let counts = Arc::new((Mutex::new((0, 0)), Condvar::new()));
    let shared = Arc::clone(&counts);
    let server = except(&image, move |request| {
        if layers.iter().any(|layer| is_blob(request, layer)) {
            let (counts, changed) = &*shared;
            let mut held = counts.lock().unwrap();
            held.0 += 1;
            held.1 = held.1.max(held.0);
            changed.notify_all();
            // The first wait for each other.
            let (held, _) = changed
                .wait_timeout_while(held, PATIENCE, |(_, most)| *most < 3)
                .unwrap();
            drop(held);
            std::thread::sleep(Duration::from_millis(30));
            counts.lock().unwrap().0 -= 1;
        }
        None
    });
    Client::new().pull(&server.name("x")).unwrap();
    assert_eq!(counts.0.lock().unwrap().1, 3);
}

#[test]
fn the_first_failure_stops_the_other_layers() {
    let layers: Vec<Vec<u8>> = (0..20_u8).map(|number| vec![number; 100]).collect();
    let slices: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let image = Sample::new(&slices);
    let answered = (Mutex::new(false), Condvar::new());
    let server = except(&image, move |request| {
        let (answered, changed) = &answered;
        if is_blob(request, &layers[0]) {
            *answered.lock().unwrap() = true;
            changed.notify_all();
            return Some(Reply::error(404, "BLOB_UNKNOWN"));
        }
        if layers.iter().any(|layer| is_blob(request, layer)) {
            let held = answered.lock().unwrap();
            let held = changed.wait_timeout_while(held, PATIENCE, |answered| !*answered);
            drop(held.unwrap());
            // The answer is on its way.
            std::thread::sleep(Duration::from_millis(200));
        }
        None
    });
    let error = Client::new().refused(&server.name("x"));
    assert!(
        matches!(error, RegistryError::BlobUnknown { .. }),
        "{error}"
    );
    assert!(server.requests_for("/blobs/").len() < 15);
}

#[test]
fn two_pulls_of_one_image_download_it_once() {
    let layer = big(400_000);
    let image = Sample::new(&[&layer]);
    let slow = layer.clone();
    let server = except(&image, move |request| {
        if is_blob(request, &slow) {
            std::thread::sleep(Duration::from_millis(100));
        }
        None
    });
    let client = Client::new();
    std::thread::scope(|scope| {
        let pulls = [(); 2].map(|()| scope.spawn(|| client.pull(&server.name("x"))));
        let results = pulls.map(|pull| pull.join().unwrap().unwrap().image);
        assert_eq!(results[0], results[1]);
    });
    assert_eq!(server.requests_for(&sha(&layer)).len(), 1);
}
