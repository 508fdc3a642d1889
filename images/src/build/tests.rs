//! Layers of steps, the cache and its limits, and images that are composed of them.

use super::*;
use crate::config::History;
use crate::store::Collected;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

fn layer(store: &Store, fill: u8) -> Layer {
    let lease = store.lease().unwrap();
    let bytes = vec![fill; 2048];
    store
        .take_layer(&lease, &mut bytes.as_slice())
        .unwrap()
        .unwrap()
}

fn step(layer: Option<Layer>) -> CachedStep {
    CachedStep {
        layer,
        text: "RUN x".to_owned(),
        created: "2024-01-01T00:00:00Z".to_owned(),
    }
}

fn config() -> ImageConfig {
    let bytes = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
    ImageConfig::parse(bytes.to_string().as_bytes()).unwrap()
}

fn blobs(store: &Store) -> usize {
    std::fs::read_dir(store.root().join("blobs/sha256"))
        .unwrap()
        .count()
}

#[test]
fn what_changes_nothing_makes_no_layer() {
    let (_folder, store) = store();
    let lease = store.lease().unwrap();
    let empty = [0; 1024];
    assert_eq!(
        store.take_layer(&lease, &mut empty.as_slice()).unwrap(),
        None
    );
    assert_eq!(blobs(&store), 0);
}

#[test]
fn a_step_is_known_as_long_as_its_layer_is_there() {
    let (_folder, store) = store();
    let key = Digest::of(b"key");
    assert_eq!(store.cached_step(&key).unwrap(), None);
    let made = step(Some(layer(&store, 1)));
    store.cache_step(&key, &made).unwrap();
    assert_eq!(store.cached_step(&key).unwrap(), Some(made.clone()));
    std::fs::remove_file(
        store
            .root()
            .join("blobs/sha256")
            .join(made.layer.unwrap().blob.hex()),
    )
    .unwrap();
    assert_eq!(store.cached_step(&key).unwrap(), None);
}

#[test]
fn damaged_records_are_none() {
    let (_folder, store) = store();
    let key = Digest::of(b"key");
    store.cache_step(&key, &step(None)).unwrap();
    for bytes in [
        &b""[..],
        b"{}",
        b"[1]",
        b"{\"layer\":{\"digest\":\"../..\",\"size\":1},\"text\":\"\"}",
    ] {
        std::fs::write(store.step_path(&key), bytes).unwrap();
        assert_eq!(store.cached_step(&key).unwrap(), None);
        assert_eq!(store.cached_steps().unwrap(), []);
    }
}

#[test]
fn layers_go_when_neither_image_nor_cache_has_them() {
    let (_folder, store) = store();
    let key = Digest::of(b"key");
    store
        .cache_step(&key, &step(Some(layer(&store, 1))))
        .unwrap();
    layer(&store, 2);
    let none = || Ok(Vec::new());
    let Collected::Done { blobs: removed, .. } = store.collect(&none).unwrap() else {
        panic!("postponed");
    };
    assert_eq!(removed.len(), 1);
    store.forget_steps([&key]).unwrap();
    store.collect(&none).unwrap();
    assert_eq!(blobs(&store), 0);
}

#[test]
fn an_image_is_its_layers_and_its_config() {
    let (_folder, store) = store();
    let layers = [layer(&store, 1), layer(&store, 2)];
    let lease = store.lease().unwrap();
    let mut config = config();
    config.history = [1, 2]
        .map(|number| History {
            created: None,
            author: String::new(),
            created_by: number.to_string(),
            comment: String::new(),
            empty_layer: false,
        })
        .to_vec();
    let name = Reference::parse("x:1").unwrap();
    let image = store
        .compose(&lease, &layers, config.clone(), std::slice::from_ref(&name))
        .unwrap();
    assert_eq!(image.layers, layers);
    assert_eq!(image.tags, [name]);
    // The same again is the same image.
    let again = store.compose(&lease, &layers, config, &[]).unwrap();
    assert_eq!(again.id, image.id);
    assert_eq!(again.manifest_digest, image.manifest_digest);
}

#[test]
fn an_image_has_no_more_layers_than_dockers() {
    let (_folder, store) = store();
    let layers = vec![layer(&store, 1); LAYERS + 1];
    let lease = store.lease().unwrap();
    assert!(store.compose(&lease, &layers, config(), &[]).is_err());
}

#[test]
fn steps_beyond_the_limit_are_forgotten_the_oldest_first() {
    let (_folder, store) = store();
    let keys: Vec<Digest> = (0..BUILD_STEPS + 2)
        .map(|n| Digest::of(&n.to_le_bytes()))
        .collect();
    for (at, key) in keys.iter().enumerate() {
        store.cache_step(key, &step(None)).unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at as u64);
        let file = std::fs::File::open(store.step_path(key)).unwrap();
        file.set_modified(time).unwrap();
    }
    assert!(store.limit_steps().unwrap());
    assert!(!store.limit_steps().unwrap(), "there is nothing more");
    assert_eq!(store.cached_step(&keys[1]).unwrap(), None);
    assert!(store.cached_step(&keys[2]).unwrap().is_some());
}

#[test]
fn layers_beyond_the_limit_are_forgotten_the_oldest_first() {
    let (_folder, store) = store();
    let keys = [1, 2, 3].map(|fill| {
        let key = Digest::of(&[fill]);
        let made = step(Some(layer(&store, fill)));
        store.cache_step(&key, &made).unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(fill.into());
        let file = std::fs::File::open(store.step_path(&key)).unwrap();
        file.set_modified(time).unwrap();
        key
    });
    // Each is 2 KiB.
    store.limit_steps_to(4096).unwrap();
    let left: Vec<_> = store.cached_steps().unwrap();
    let left: Vec<Digest> = left.into_iter().map(|record| record.key).collect();
    assert_eq!(left, keys[1..]);
    // One that is larger than all of the cache may be goes alone.
    let large = Digest::of(b"large");
    let mut made = layer(&store, 9);
    made.size = 1 << 20;
    store.cache_step(&large, &step(Some(made))).unwrap();
    store.limit_steps_to(4096).unwrap();
    let left: Vec<_> = store.cached_steps().unwrap();
    let left: Vec<Digest> = left.into_iter().map(|record| record.key).collect();
    assert_eq!(left, keys[1..]);
}

#[test]
fn what_a_killed_build_was_writing_goes_with_a_collection() {
    let (_folder, store) = store();
    store.cache_step(&Digest::of(b"key"), &step(None)).unwrap();
    let half = store.build_cache().join(".new-half");
    std::fs::write(&half, "{").unwrap();
    store.collect(&|| Ok(Vec::new())).unwrap();
    assert!(!half.exists());
    assert_eq!(store.cached_steps().unwrap().len(), 1);
}
