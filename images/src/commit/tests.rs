//! Images made on top of others, read again by the store.

use serde_json::json;

use super::*;
use crate::manifest::Compression;
use crate::platform::Platform;
use crate::sample::{Sample, sha};
use crate::timestamp::Timestamp;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn load(store: &Store, sample: &Sample) -> Image {
    let archive = sample.docker_archive(&["base"]);
    let platform = Platform::new("linux", "amd64", None);
    let id = crate::load_stream(store, archive.as_slice(), &platform).unwrap()[0].id;
    store.resolve(&id.to_string()).unwrap()
}

fn step() -> History {
    History {
        created: Timestamp::parse("2025-06-01T00:00:00.5Z"),
        author: "me".to_owned(),
        created_by: "sh".to_owned(),
        comment: "more".to_owned(),
        empty_layer: false,
    }
}

fn full() -> ImageConfig {
    let config = json!({
        "architecture": "arm64", "variant": "v8", "os": "linux",
        "created": "2024-05-01T12:00:00Z", "author": "a", "comment": "c",
        "docker_version": "28.0",
        "config": {
            "User": "u:g", "Env": ["A=b=c", "B="], "Entrypoint": ["/e"], "Cmd": ["x", ""],
            "WorkingDir": "/w", "Volumes": {"/v": {}, "/a": {}},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Labels": {"k": "v", "e": ""},
            "StopSignal": "SIGINT", "Shell": ["/bin/bash", "-c"], "OnBuild": ["RUN x"],
            "Healthcheck": {"Test": ["CMD-SHELL", "t"], "Interval": 5, "Retries": 2},
        },
        "rootfs": {"type": "layers", "diff_ids": [sha(b"1")]},
        "history": [
            {"created": "2024-05-01T12:00:00Z", "created_by": "ADD", "author": "x"},
            {"comment": "none", "empty_layer": true},
        ],
    });
    ImageConfig::parse(config.to_string().as_bytes()).unwrap()
}

#[test]
fn a_config_that_is_written_is_read_again_the_same() {
    let empty = ImageConfig {
        env: Vec::new(),
        entrypoint: None,
        cmd: Some(Vec::new()),
        healthcheck: None,
        shell: None,
        on_build: Vec::new(),
        labels: Default::default(),
        created: None,
        ..full()
    };
    for config in [full(), empty] {
        assert_eq!(ImageConfig::parse(&config.to_json()).unwrap(), config);
    }
}

#[test]
fn a_layer_comes_on_top() {
    let (_dir, store) = store();
    let base = load(&store, &Sample::new(&[b"one", b"two"]));
    let mut config = base.config.clone();
    config.cmd = Some(vec!["new".to_owned()]);
    let layer = vec![7; 3000];
    let name = Reference::parse("made:1").unwrap();
    let names = [name.clone()];
    let image = commit(&store, &base, &mut &*layer, config, step(), &names).unwrap();
    assert_eq!(image.tags, [name]);
    assert_eq!(image.layers[..2], base.layers);
    let top = image.layers[2];
    assert_eq!(top.diff_id.to_string(), sha(&layer));
    assert_eq!((top.blob, top.size), (top.diff_id, 3000));
    assert_eq!(top.compression, Compression::None);
    assert_eq!(image.config.cmd, Some(vec!["new".to_owned()]));
    assert_eq!(image.config.history, [step()]);
    assert_eq!(image.created().unwrap().as_str(), "2025-06-01T00:00:00.5Z");
    assert_ne!(image.id, base.id);
    assert!(store.list().unwrap().damaged.is_empty());
    // And once more on top of that, without a name.
    let config = image.config.clone();
    let again = commit(
        &store,
        &image,
        &mut &b"x".repeat(2000)[..],
        config,
        step(),
        &[],
    );
    let again = again.unwrap();
    assert_eq!((again.layers.len(), again.config.history.len()), (4, 2));
    assert!(again.tags.is_empty());
}

#[test]
fn without_changes_there_is_no_layer() {
    let (_dir, store) = store();
    let base = load(&store, &Sample::new(&[b"one"]));
    let config = base.config.clone();
    let image = commit(&store, &base, &mut &[0; 1024][..], config, step(), &[]).unwrap();
    assert_eq!(image.layers, base.layers);
    assert!(image.config.history[0].empty_layer);
}

#[test]
fn a_manifest_of_dockers_form_stays_one() {
    let (_dir, store) = store();
    let sample = Sample::new(&[b"one"]);
    let base = load(&store, &sample);
    let docker = json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": base.id.to_string(),
            "size": sample.config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "digest": base.layers[0].blob.to_string(),
            "size": 3,
        }],
        "annotations": {"about": "the base"},
    });
    let lease = store.lease().unwrap();
    let digest = store.put(docker.to_string().as_bytes()).unwrap();
    let name = Reference::parse("docker").unwrap();
    let base = store.record(&lease, &digest, &[name]).unwrap();
    let config = base.config.clone();
    let layer = [1; 2000];
    let image = commit(&store, &base, &mut &layer[..], config, step(), &[]).unwrap();
    let manifest = store
        .document(&image.manifest_digest, MANIFEST_BYTES)
        .unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["mediaType"], DOCKER_MANIFEST);
    assert_eq!(
        manifest["layers"][1]["mediaType"],
        "application/vnd.docker.image.rootfs.diff.tar"
    );
    assert!(manifest.get("annotations").is_none());
}

#[test]
fn what_can_not_be_stored_leaves_nothing() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("gone"))
        }
    }
    let (dir, store) = store();
    let base = load(&store, &Sample::new(&[b"one"]));
    let config = || base.config.clone();
    let error = commit(&store, &base, &mut Broken, config(), step(), &[]).unwrap_err();
    assert!(matches!(error, StoreError::Read(_)), "{error}");
    assert_eq!(
        std::fs::read_dir(dir.path().join("ingest"))
            .unwrap()
            .count(),
        0
    );
    let digest = Reference::parse("x").unwrap().with_digest(base.id);
    let error = commit(&store, &base, &mut &b""[..], config(), step(), &[digest]).unwrap_err();
    assert!(matches!(error, StoreError::TagWithDigest), "{error}");
    assert_eq!(store.list().unwrap().images.len(), 1);
}
