//! `rmi`: Docker's rules, line by line.

use super::super::index::Entry;
use super::*;
use crate::manifest::{BlobRef, OCI_MANIFEST};

fn id(image: &str) -> Digest {
    Digest::of(image.as_bytes())
}

fn index(images: &[(&str, &[&str])]) -> Index {
    let mut index = Index::default();
    for (image, names) in images {
        let manifest = BlobRef {
            digest: id(&format!("manifest of {image}")),
            size: 1,
        };
        let entry = Entry {
            manifest,
            media_type: OCI_MANIFEST,
            id: id(image),
            name: None,
        };
        index.add(entry.clone());
        for name in *names {
            index.name(&entry, &Reference::parse(name).unwrap());
        }
    }
    index
}

fn container(image: &str, running: bool) -> ContainerUse {
    let container = if running {
        "0123456789ab"
    } else {
        "ba9876543210"
    }
    .to_owned();
    ContainerUse {
        container,
        image: id(image),
        layers: Vec::new(),
        running,
    }
}

fn lines(result: Result<Vec<Removed>, StoreError>) -> Result<Vec<String>, String> {
    result
        .map(|lines| lines.iter().map(Removed::to_string).collect())
        .map_err(|error| error.to_string())
}

fn deleted(image: &str) -> String {
    format!("Deleted: {}", id(image))
}

#[test]
fn the_last_name_takes_the_image_with_it() {
    let mut index = index(&[("a", &["x", "y:1"])]);
    assert_eq!(
        lines(remove(&mut index, "y:1", Force::No, &[])).unwrap(),
        ["Untagged: y:1"]
    );
    assert_eq!(index.ids().len(), 1);
    assert_eq!(
        lines(remove(&mut index, "x", Force::No, &[])).unwrap(),
        ["Untagged: x:latest".to_owned(), deleted("a")]
    );
    assert!(index.ids().is_empty());
    assert_eq!(
        lines(remove(&mut index, "x", Force::Yes, &[])),
        Err("No such image: x:latest".to_owned())
    );
}

#[test]
fn the_names_by_digest_go_with_the_last_tag_of_their_repository() {
    let by_digest = format!("x@{}", id("pulled"));
    let other = format!("h.io/x@{}", id("pulled"));
    let mut index = index(&[("a", &["x", &by_digest, &other])]);
    assert_eq!(
        lines(remove(&mut index, "x", Force::No, &[])).unwrap(),
        [
            "Untagged: x:latest".to_owned(),
            format!("Untagged: {by_digest}")
        ]
    );
    assert_eq!(
        lines(remove(&mut index, &other, Force::No, &[])).unwrap(),
        [format!("Untagged: {other}"), deleted("a")]
    );
}

#[test]
fn an_id_with_one_name_is_enough() {
    let by_digest = format!("x@{}", id("pulled"));
    let mut index = index(&[("a", &["x", &by_digest]), ("b", &[])]);
    let removed = lines(remove(&mut index, &id("a").short(), Force::No, &[])).unwrap();
    assert_eq!(
        removed,
        [
            "Untagged: x:latest".to_owned(),
            format!("Untagged: {by_digest}"),
            deleted("a")
        ]
    );
    assert_eq!(
        lines(remove(&mut index, &id("b").hex(), Force::No, &[])).unwrap(),
        [deleted("b")]
    );
}

#[test]
fn an_id_with_several_names_needs_force() {
    let mut index = index(&[("a", &["x:1", "x:2"])]);
    let text = id("a").to_string();
    let error = lines(remove(&mut index, &text, Force::No, &[])).unwrap_err();
    assert_eq!(
        error,
        format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            id("a").short()
        )
    );
    assert_eq!(index.names(&id("a")).len(), 2);
    let removed = lines(remove(&mut index, &text, Force::Yes, &[])).unwrap();
    assert_eq!(
        removed,
        [
            "Untagged: x:1".to_owned(),
            "Untagged: x:2".to_owned(),
            deleted("a")
        ]
    );
}

#[test]
fn a_container_keeps_the_last_name() {
    for running in [false, true] {
        let mut index = index(&[("a", &["x"])]);
        let user = container("a", running);
        let error = lines(remove(
            &mut index,
            "x",
            Force::No,
            std::slice::from_ref(&user),
        ))
        .unwrap_err();
        assert_eq!(
            error,
            format!(
                "conflict: unable to remove repository reference \"x\" (must force) - \
                 container {} is using its referenced image {}",
                user.container,
                id("a").short()
            )
        );
        assert_eq!(index.names(&id("a")).len(), 1);
    }
}

#[test]
fn a_container_does_not_keep_one_name_of_several() {
    let mut index = index(&[("a", &["x:1", "y:1"])]);
    let removed = lines(remove(
        &mut index,
        "x:1",
        Force::No,
        &[container("a", true)],
    ))
    .unwrap();
    assert_eq!(removed, ["Untagged: x:1"]);
}

#[test]
fn force_unties_a_stopped_container_and_leaves_a_running_one_its_image() {
    let mut stopped = index(&[("a", &["x"])]);
    let removed = lines(remove(
        &mut stopped,
        "x",
        Force::Yes,
        &[container("a", false)],
    ))
    .unwrap();
    assert_eq!(removed, ["Untagged: x:latest".to_owned(), deleted("a")]);
    let mut running = index(&[("a", &["x"])]);
    let removed = lines(remove(
        &mut running,
        "x",
        Force::Yes,
        &[container("a", true)],
    ))
    .unwrap();
    assert_eq!(removed, ["Untagged: x:latest"]);
    assert!(running.ids().contains(&id("a")));
}

#[test]
fn an_id_in_use_says_by_whom() {
    let text = id("a").short();
    let mut index = index(&[("a", &["x"])]);
    let mut attempt = |force, running| {
        lines(remove(&mut index, &text, force, &[container("a", running)])).unwrap_err()
    };
    let running = format!(
        "conflict: unable to delete {text} (cannot be forced) - image is being used by running container 0123456789ab"
    );
    assert_eq!(attempt(Force::No, true), running);
    assert_eq!(attempt(Force::Yes, true), running);
    assert_eq!(
        attempt(Force::No, false),
        format!(
            "conflict: unable to delete {text} (must be forced) - image is being used by stopped container ba9876543210"
        )
    );
    assert_eq!(index.names(&id("a")).len(), 1);
}

#[test]
fn containers_of_other_images_do_not_matter() {
    let mut index = index(&[("a", &["x"]), ("b", &["y"])]);
    assert!(remove(&mut index, "x", Force::No, &[container("b", true)]).is_ok());
}
