//! Removing what is unused, and nothing else.

use std::io::Write;

use super::super::{Begin, Force, Removed};
use super::*;
use crate::image::Image;
use crate::layers::{self, LayerDisks};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::sample::Sample;

fn nobody() -> Result<Vec<ContainerUse>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Vec::new())
}

fn store_with(images: &[(&Sample, &str)]) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for (sample, name) in images {
        let archive = sample.docker_archive(&[name]);
        crate::load_stream(
            &store,
            archive.as_slice(),
            &Platform::new("linux", "amd64", None),
        )
        .unwrap();
    }
    (dir, store)
}

fn blobs(store: &Store) -> usize {
    std::fs::read_dir(store.blobs()).unwrap().count()
}

fn make_disk(disks: &LayerDisks, key: &LayerKey) {
    match disks.begin(key).unwrap() {
        layers::Begin::Pending(pending) => {
            pending.file().set_len(4096).unwrap();
            pending.commit(4096).unwrap();
        }
        layers::Begin::Ready(_) => panic!("it is there already"),
    }
}

#[test]
fn shared_layers_stay_until_their_last_image_goes() {
    let (one, two) = (
        Sample::new(&[b"base", b"one"]),
        Sample::new(&[b"base", b"two"]),
    );
    let (_dir, store) = store_with(&[(&one, "one"), (&two, "two")]);
    assert_eq!(blobs(&store), 3 + 2 * 2);
    let removed = store.remove("one", Force::No, &nobody).unwrap();
    let expected = [
        Removed::Untagged(Reference::parse("one").unwrap()),
        Removed::Deleted(Digest::parse(&one.id()).unwrap()),
        Removed::Deleted(Digest::of(b"one")),
    ];
    assert_eq!(removed, expected);
    assert_eq!(blobs(&store), 4);
    assert_eq!(store.resolve("two").unwrap().layers.len(), 2);
    store.remove("two", Force::No, &nobody).unwrap();
    assert_eq!(blobs(&store), 0);
}

#[test]
fn a_dangling_image_keeps_its_content() {
    let (old, new) = (Sample::new(&[b"old"]), Sample::new(&[b"new"]));
    let (_dir, store) = store_with(&[(&old, "x"), (&new, "x")]);
    assert!(
        matches!(store.collect(&nobody).unwrap(), Collected::Done { blobs, freed: 0 } if blobs.is_empty())
    );
    assert_eq!(store.list().unwrap().images.len(), 2);
    store.remove(&old.id(), Force::No, &nobody).unwrap();
    assert_eq!(blobs(&store), 3);
}

#[test]
fn a_lease_postpones() {
    let sample = Sample::new(&[b"x"]);
    let (_dir, store) = store_with(&[(&sample, "x")]);
    let lease = store.lease().unwrap();
    let removed = store.remove("x", Force::No, &nobody).unwrap();
    assert_eq!(removed.len(), 2);
    assert_eq!(blobs(&store), 3);
    assert!(store.list().unwrap().images.is_empty());
    drop(lease);
    let Collected::Done { blobs: gone, freed } = store.collect(&nobody).unwrap() else {
        panic!("postponed")
    };
    assert_eq!((gone.len(), blobs(&store)), (3, 0));
    assert!(freed > 0);
}

#[test]
fn disks_go_with_their_images_but_not_with_their_containers() {
    let sample = Sample::new(&[b"x"]);
    let (_dir, store) = store_with(&[(&sample, "x")]);
    let disks = store.layer_disks().unwrap();
    let image = store.resolve("x").unwrap();
    let key = image.layers[0].key();
    let stray = LayerKey {
        diff_id: key.diff_id,
        blob: Digest::of(b"another"),
    };
    make_disk(&disks, &key);
    make_disk(&disks, &stray);
    store.collect(&nobody).unwrap();
    assert!(disks.get(&key).unwrap().is_some() && disks.get(&stray).unwrap().is_none());

    let stopped = ContainerUse {
        container: "c".to_owned(),
        image: image.id,
        layers: vec![key],
        running: false,
    };
    store
        .remove("x", Force::Yes, &|| Ok(vec![stopped.clone()]))
        .unwrap();
    assert!(disks.get(&key).unwrap().is_some());
    assert_eq!(blobs(&store), 0);
    store.collect(&nobody).unwrap();
    assert!(disks.get(&key).unwrap().is_none());
}

#[test]
fn nothing_is_removed_when_containers_are_unknown() {
    let sample = Sample::new(&[b"x"]);
    let (_dir, store) = store_with(&[(&sample, "x")]);
    let unknown = || Err("the state directory is gone".into());
    assert!(matches!(
        store.remove("x", Force::Yes, &unknown),
        Err(StoreError::Containers(_))
    ));
    assert_eq!(store.resolve("x").unwrap().tags.len(), 1);
    store.put(b"unused").unwrap();
    assert!(matches!(
        store.collect(&unknown),
        Err(StoreError::Containers(_))
    ));
    assert_eq!(blobs(&store), 4);
}

#[test]
fn a_damaged_image_does_not_stop_the_others() {
    let (good, bad) = (Sample::new(&[b"good"]), Sample::new(&[b"bad"]));
    let (_dir, store) = store_with(&[(&good, "good"), (&bad, "bad")]);
    let path = store.blob_path(&Digest::of(&bad.config));
    std::fs::remove_file(&path).unwrap();
    std::fs::File::create(&path)
        .unwrap()
        .write_all(b"{}")
        .unwrap();
    store.collect(&nobody).unwrap();
    let listing = store.list().unwrap();
    assert_eq!((listing.images.len(), listing.damaged.len()), (1, 1));
    assert!(matches!(
        store.resolve("bad"),
        Err(StoreError::DamagedBlob(_))
    ));
    store.remove("bad", Force::No, &nobody).unwrap();
    assert!(store.list().unwrap().damaged.is_empty());
    assert_eq!(blobs(&store), 3);
}

#[test]
fn a_partial_download_survives_a_collection() {
    let (_dir, store) = store_with(&[]);
    match store.begin(&Digest::of(b"content"), 7).unwrap() {
        Begin::Writer(mut writer) => writer.write(b"con").unwrap(),
        other => panic!("{other:?}"),
    }
    store.collect(&nobody).unwrap();
    assert!(
        matches!(store.begin(&Digest::of(b"content"), 7), Ok(Begin::Writer(writer)) if writer.offset() == 3)
    );
}

#[test]
fn unused_images_go_with_what_no_other_image_has() {
    let (gone, used) = (
        Sample::new(&[b"base", b"gone"]),
        Sample::new(&[b"base", b"used"]),
    );
    let (_dir, store) = store_with(&[(&gone, "gone"), (&used, "used")]);
    let user = ContainerUse {
        container: "c".to_owned(),
        image: Digest::parse(&used.id()).unwrap(),
        layers: Vec::new(),
        running: false,
    };
    let unused = store
        .remove_unused(&|_| true, &|| Ok(vec![user.clone()]))
        .unwrap();
    let id = Digest::parse(&gone.id()).unwrap();
    let lines = vec![
        Removed::Untagged(Reference::parse("gone").unwrap()),
        Removed::Deleted(id),
        Removed::Deleted(Digest::of(b"gone")),
    ];
    assert_eq!(unused.removed, [(id, lines)]);
    assert_eq!((unused.postponed, blobs(&store)), (0, 4));
    assert_eq!(store.resolve("used").unwrap().tags.len(), 1);
    store.remove_unused(&|_| true, &nobody).unwrap();
    assert_eq!(blobs(&store), 0);
}

#[test]
fn a_layer_of_two_unused_images_is_told_once() {
    let (one, two) = (
        Sample::new(&[b"base", b"one"]),
        Sample::new(&[b"base", b"two"]),
    );
    let (_dir, store) = store_with(&[(&one, "one"), (&two, "two")]);
    let unused = store.remove_unused(&|_| true, &nobody).unwrap();
    let base = Removed::Deleted(Digest::of(b"base"));
    let lines = unused.removed.iter().flat_map(|(_, lines)| lines);
    assert_eq!(lines.filter(|line| **line == base).count(), 1);
    assert_eq!((unused.removed.len(), blobs(&store)), (2, 0));
}

#[test]
fn what_got_a_name_meanwhile_is_not_dangling() {
    let (old, new) = (Sample::new(&[b"old"]), Sample::new(&[b"new"]));
    let (_dir, store) = store_with(&[(&old, "x"), (&new, "x")]);
    let is_dangling = |image: &Image| image.tags.is_empty();
    let seen = store.list().unwrap().images;
    assert_eq!(seen.iter().filter(|image| is_dangling(image)).count(), 1);
    let name = Reference::parse("y").unwrap();
    store.tag(&old.id(), &name).unwrap();
    let unused = store.remove_unused(&is_dangling, &nobody).unwrap();
    assert!(unused.removed.is_empty());
    assert_eq!((unused.postponed, blobs(&store)), (0, 6));
    assert_eq!(store.resolve("y").unwrap().tags, [name]);
}

#[test]
fn images_with_names_stay_while_a_start_may_have_chosen_them() {
    let (old, new) = (Sample::new(&[b"old"]), Sample::new(&[b"new"]));
    let (_dir, store) = store_with(&[(&old, "x"), (&new, "x")]);
    let lease = store.lease().unwrap();
    let unused = store.remove_unused(&|_| true, &nobody).unwrap();
    let id = Digest::parse(&old.id()).unwrap();
    assert_eq!(unused.removed, [(id, vec![Removed::Deleted(id)])]);
    assert_eq!((unused.postponed, blobs(&store)), (1, 6));
    assert_eq!(store.list().unwrap().images.len(), 1);
    drop(lease);
    let unused = store.remove_unused(&|_| true, &nobody).unwrap();
    assert_eq!(unused.removed.len(), 1);
    assert_eq!((unused.postponed, blobs(&store)), (0, 0));
}
