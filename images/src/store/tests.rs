//! The store as a whole: names, records, damage.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::platform::Platform;
use crate::sample::Sample;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn load(store: &Store, sample: &Sample, name: &str) -> Digest {
    let archive = sample.docker_archive(&[name]);
    let platform = Platform::new("linux", "amd64", None);
    crate::load_stream(store, archive.as_slice(), &platform).unwrap()[0].id
}

fn familiar(image: &Image) -> Vec<String> {
    image.tags.iter().map(Reference::familiar).collect()
}

#[test]
fn a_new_store_is_an_empty_oci_layout_of_its_owner() {
    let (dir, store) = store();
    assert_eq!(
        std::fs::read(dir.path().join("oci-layout")).unwrap(),
        LAYOUT
    );
    assert!(store.list().unwrap().images.is_empty());
    for sub in ["blobs/sha256", "ingest", "layers"] {
        let mode = dir
            .path()
            .join(sub)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{sub}");
    }
    let again = Store::open(dir.path()).unwrap();
    assert!(again.list().unwrap().images.is_empty());
}

#[test]
fn images_are_listed_newest_first() {
    let (_dir, store) = store();
    for (name, created) in [
        ("old", "2020-01-01T00:00:00Z"),
        ("new", "2025-01-01T00:00:00Z"),
        ("odd", "never"),
    ] {
        let mut sample = Sample::new(&[name.as_bytes()]);
        let mut config: serde_json::Value = serde_json::from_slice(&sample.config).unwrap();
        config["created"] = created.into();
        sample = Sample::of_config(config, &[name.as_bytes()]);
        load(&store, &sample, name);
    }
    let names: Vec<_> = store
        .list()
        .unwrap()
        .images
        .iter()
        .flat_map(familiar)
        .collect();
    assert_eq!(names, ["new:latest", "old:latest", "odd:latest"]);
}

#[test]
fn an_image_has_what_its_documents_say() {
    let (_dir, store) = store();
    let sample = Sample::new(&[b"one", b"three"]);
    let id = load(&store, &sample, "x:1");
    let image = store.resolve("x:1").unwrap();
    assert_eq!((image.id, image.id.to_string()), (id, sample.id()));
    assert_eq!(image.layers[1].diff_id, Digest::of(b"three"));
    assert_eq!(image.layers[1].blob, Digest::of(b"three"));
    assert_eq!(image.layers[1].size, 5);
    assert_eq!(image.architecture(), "amd64");
    assert!(image.size > 8);
    assert_eq!(
        store.find(&Reference::parse("x:1").unwrap()).unwrap(),
        Some(image)
    );
    assert_eq!(store.find(&Reference::parse("x:2").unwrap()).unwrap(), None);
}

#[test]
fn tags_are_added_and_moved() {
    let (_dir, store) = store();
    let one = load(&store, &Sample::new(&[b"one"]), "one");
    let two = load(&store, &Sample::new(&[b"two"]), "two");
    let name = |text: &str| Reference::parse(text).unwrap();
    store.tag("one", &name("h.io/x:1")).unwrap();
    assert_eq!(
        familiar(&store.resolve("one").unwrap()),
        ["one:latest", "h.io/x:1"]
    );
    store.tag(&two.short(), &name("h.io/x:1")).unwrap();
    assert_eq!(store.resolve("h.io/x:1").unwrap().id, two);
    assert_eq!(
        familiar(&store.resolve(&one.hex()).unwrap()),
        ["one:latest"]
    );
    let pinned = name("x").with_digest(one);
    assert_eq!(
        store.tag("one", &pinned).unwrap_err().to_string(),
        "refusing to create a tag with a digest reference"
    );
    for text in ["sha256", "sha256:1", &format!("sha256:{}", one.hex())] {
        assert_eq!(
            store.tag("one", &name(text)).unwrap_err().to_string(),
            "refusing to create an ambiguous tag using digest algorithm as name",
            "{text}"
        );
    }
    store.tag("one", &name("localhost/sha256:1")).unwrap();
    store.tag("one", &name("sha256/one")).unwrap();
    assert_eq!(
        store.tag("none", &name("y")).unwrap_err().to_string(),
        "No such image: none:latest"
    );
}

#[test]
fn an_image_with_a_missing_blob_is_not_recorded() {
    let (_dir, store) = store();
    let sample = Sample::new(&[b"layer"]);
    let lease = store.lease().unwrap();
    let name = [Reference::parse("x").unwrap()];
    let manifest = store.put(&sample.manifest).unwrap();
    assert!(matches!(
        store.record(&lease, &manifest, &name),
        Err(StoreError::NoBlob(_))
    ));
    store.put(b"layer").unwrap();
    assert!(matches!(
        store.record(&lease, &manifest, &name),
        Err(StoreError::NoBlob(_))
    ));
    store.put(&sample.config).unwrap();
    assert_eq!(store.record(&lease, &manifest, &name).unwrap().tags, name);
}

#[test]
fn a_document_is_hashed_each_time_it_is_read() {
    let (_dir, store) = store();
    let digest = store.put(b"{\"a\":1}").unwrap();
    assert_eq!(store.document(&digest, 100).unwrap(), b"{\"a\":1}");
    let path = store.blob_path(&digest);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "{\"a\":2}").unwrap();
    assert!(matches!(
        store.document(&digest, 100),
        Err(StoreError::DamagedBlob(_))
    ));
    // Storing it again repairs it.
    store.put(b"{\"a\":1}").unwrap();
    assert_eq!(store.document(&digest, 100).unwrap(), b"{\"a\":1}");
}

#[test]
fn a_blob_that_is_a_symlink_is_not_opened() {
    let (_dir, store) = store();
    let digest = Digest::of(b"x");
    std::os::unix::fs::symlink("/etc/passwd", store.blob_path(&digest)).unwrap();
    assert!(store.blob(&digest).is_err());
}

#[test]
fn a_damaged_index_is_named() {
    let (dir, store) = store();
    std::fs::write(dir.path().join("index.json"), "{").unwrap();
    let error = store.list().unwrap_err();
    assert_eq!(error.to_string(), "the image store's index.json is damaged");
    std::fs::write(dir.path().join("index.json"), vec![b' '; 17 << 20]).unwrap();
    assert!(matches!(
        store.list(),
        Err(StoreError::Index(IndexError::Json(_)))
    ));
}

#[test]
fn two_names_given_at_once_are_both_kept() {
    let (dir, store) = store();
    let id = load(&store, &Sample::new(&[b"x"]), "x");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = Store::open(dir.path()).unwrap();
            scope.spawn(move || {
                for number in 0..10 {
                    let name = Reference::parse(&format!("x:{thread}-{number}")).unwrap();
                    store.tag("x", &name).unwrap();
                }
            });
        }
    });
    assert_eq!(store.resolve(&id.hex()).unwrap().tags.len(), 41);
}

#[test]
fn a_full_disk_has_its_own_error() {
    let full = std::io::Error::from_raw_os_error(nix::libc::ENOSPC);
    let error = FileError::of("write", Path::new("/x"))(full);
    assert_eq!(error.to_string(), "no space left to write /x");
    assert!(error.is_full() && StoreError::from(error).hint().is_some());
}

/// Of an image whose layer is said to unpack to the same, packed as these bytes.
fn claiming(packed: &[u8]) -> Sample {
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [crate::sample::sha(b"content")]},
    });
    Sample::of_config(config, &[packed])
}

fn load_layout(store: &Store, sample: &Sample, name: Option<&str>) {
    let archive = sample.oci_archive(name);
    let platform = Platform::new("linux", "amd64", None);
    crate::load_stream(store, archive.as_slice(), &platform).unwrap();
}

/// As a converter does that has found the layer's diff_id to be true.
fn unpack(store: &Store, key: &LayerKey) {
    match store.layer_disks().unwrap().begin(key).unwrap() {
        crate::layers::Begin::Pending(pending) => {
            pending.file().set_len(4096).unwrap();
            pending.commit(4096).unwrap();
        }
        crate::layers::Begin::Ready(_) => panic!("it is there already"),
    }
}

#[test]
fn another_image_with_the_same_config_takes_over_no_name() {
    let (good, evil) = (claiming(b"good"), claiming(b"evil"));
    let images = [(&good, "good:1"), (&evil, "evil:1")];
    let of = |sample: &Sample| Digest::of(&sample.manifest);
    for order in [images, [images[1], images[0]]] {
        let (_dir, store) = store();
        for (sample, name) in order {
            load_layout(&store, sample, Some(name));
        }
        let manifest = |text: &str| store.resolve(text).unwrap().manifest_digest;
        let id = good.id();
        assert_eq!(id, evil.id());
        // The one of which nothing is known but that it came first.
        assert_eq!(manifest(&id), of(order[0].0));
        for (sample, name) in images {
            let image = store.resolve(name).unwrap();
            assert_eq!(image.manifest_digest, of(sample));
            assert_eq!(image.layers[0].blob, Digest::of(&sample.layers[0]));
            let reference = Reference::parse(name).unwrap();
            assert_eq!(store.find(&reference).unwrap(), Some(image));
            let further = Reference::parse(&format!("h.io/{name}")).unwrap();
            store.tag(name, &further).unwrap();
            assert_eq!(manifest(&format!("h.io/{name}")), of(sample));
        }
        // To load either again changes nothing.
        for (sample, name) in images {
            load_layout(&store, sample, Some(name));
            load_layout(&store, sample, None);
        }
        assert_eq!(manifest(&id), of(order[0].0));
        let good_layers = store.resolve("good:1").unwrap().layers;
        unpack(&store, &good_layers[0].key());
        assert_eq!(manifest(&id), of(&good));
        store.tag(&id, &Reference::parse("by-id").unwrap()).unwrap();
        assert_eq!(manifest("by-id"), of(&good));
        let listing = store.list().unwrap();
        assert_eq!(listing.images.len(), 1);
        assert_eq!(listing.images[0].manifest_digest, of(&good));
        // A name that is given to the other leads there, as somebody wanted.
        store
            .tag("evil:1", &Reference::parse("good:1").unwrap())
            .unwrap();
        assert_eq!(manifest("good:1"), of(&evil));
    }
}

#[test]
fn a_container_has_the_image_that_it_was_made_of() {
    let (good, evil) = (claiming(b"good"), claiming(b"evil"));
    let (_dir, store) = store();
    load_layout(&store, &evil, Some("evil:1"));
    load_layout(&store, &good, Some("good:1"));
    let made_of = store.resolve("good:1").unwrap();
    let keys: Vec<LayerKey> = made_of.layers.iter().map(Layer::key).collect();
    let find = || store.find_made_of(&made_of.id, &keys);
    assert_eq!(find().unwrap(), made_of);
    let containers = || {
        Ok(vec![ContainerUse {
            container: "0123456789ab".to_owned(),
            image: made_of.id,
            layers: keys.clone(),
            running: false,
        }])
    };
    // It needs no name.
    store.remove("good:1", Force::No, &containers).unwrap();
    store.collect(&containers).unwrap();
    assert_eq!(find().unwrap().manifest_digest, Digest::of(&good.manifest));
    // Without the container it goes, as the id leads to the other.
    store.collect(&|| Ok(Vec::new())).unwrap();
    let error = find().unwrap_err();
    assert!(matches!(error, StoreError::OtherLayers(_)), "{error}");
    assert!(error.hint().is_some());
    store
        .remove("evil:1", Force::No, &|| Ok(Vec::new()))
        .unwrap();
    assert!(find().unwrap_err().is_no_such_image());
}

#[test]
fn what_loses_its_last_name_goes_though_others_have_its_id() {
    let (good, evil) = (claiming(b"good"), claiming(b"evil"));
    let nobody = || Ok(Vec::new());
    let (_dir, store) = store();
    load_layout(&store, &evil, Some("evil:1"));
    load_layout(&store, &good, Some("good:1"));
    let removed = store.remove("evil:1", Force::No, &nobody).unwrap();
    assert_eq!(removed.len(), 1);
    let manifest = |text: &str| store.resolve(text).unwrap().manifest_digest;
    assert_eq!(manifest(&good.id()), Digest::of(&good.manifest));
    assert!(store.blob(&Digest::of(b"evil")).is_err());
    // One that lost its name to another image stays, and its id.
    load_layout(&store, &Sample::new(&[b"new"]), Some("good:1"));
    load_layout(&store, &evil, Some("evil:1"));
    store.collect(&nobody).unwrap();
    assert_eq!(manifest(&good.id()), Digest::of(&good.manifest));
    assert_eq!(manifest("evil:1"), Digest::of(&evil.manifest));
}

#[test]
fn names_are_listed_also_of_images_that_are_damaged() {
    let (_dir, store) = store();
    let bad = Sample::new(&[b"bad"]);
    load(&store, &Sample::new(&[b"good"]), "b:1");
    load(&store, &bad, "a:1");
    store.tag("b:1", &Reference::parse("a:2").unwrap()).unwrap();
    std::fs::remove_file(store.blob_path(&Digest::of(&bad.config))).unwrap();
    let listing = store.list().unwrap();
    assert_eq!((listing.images.len(), listing.damaged.len()), (1, 1));
    let names = store.names().unwrap();
    let names: Vec<String> = names.iter().map(Reference::familiar).collect();
    assert_eq!(names, ["a:1", "a:2", "b:1"]);
}
