//! Names and ids, and the file that holds them.

use super::*;

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn with(images: &[(&str, &[&str])]) -> Index {
    let mut index = Index::default();
    for (image, names) in images {
        let entry = entry(image, image);
        index.add(entry.clone());
        for text in *names {
            index.name(&entry, &name(text));
        }
    }
    index
}

/// A manifest that says it is of an image.
fn entry(manifest: &str, image: &str) -> Entry {
    Entry {
        manifest: BlobRef {
            digest: digest(&format!("manifest of {manifest}")),
            size: 3,
        },
        media_type: OCI_MANIFEST,
        id: digest(image),
        name: None,
    }
}

/// The id that a name leads to.
fn id_of(index: &Index, text: &str) -> Option<Digest> {
    index.named(&name(text)).map(|entry| entry.id)
}

fn names(index: &Index, image: &str) -> Vec<String> {
    index
        .names(&digest(image))
        .iter()
        .map(Reference::familiar)
        .collect()
}

#[test]
fn what_is_written_is_read() {
    let index = with(&[("a", &["a:1", "quay.io/x/a:2"]), ("b", &[]), ("c", &["c"])]);
    let bytes = index.to_bytes().unwrap();
    assert_eq!(Index::parse(&bytes).unwrap(), index);
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(json["mediaType"], OCI_INDEX);
    assert_eq!(
        json["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"],
        "docker.io/library/a:1"
    );
}

#[test]
fn a_name_belongs_to_one_image_and_the_other_stays_dangling() {
    let mut index = with(&[("old", &["x"]), ("new", &[])]);
    index.name(&entry("new", "new"), &name("x"));
    assert_eq!(id_of(&index, "x"), Some(digest("new")));
    assert_eq!(names(&index, "old"), Vec::<String>::new());
    assert_eq!(index.ids().len(), 2);
    index.name(&entry("old", "old"), &name("y"));
    assert_eq!(
        (names(&index, "old"), names(&index, "new")),
        (vec!["y:latest".to_owned()], vec!["x:latest".to_owned()])
    );
    assert_eq!(
        index
            .to_bytes()
            .unwrap()
            .windows(10)
            .filter(|part| part == b"\"digest\":\"")
            .count(),
        2
    );
}

#[test]
fn a_digest_in_a_name_outweighs_its_tag() {
    let both = format!("x:1@{}", digest("pinned"));
    let index = with(&[("a", &[&both])]);
    assert_eq!(names(&index, "a"), [format!("x@{}", digest("pinned"))]);
    assert_eq!(
        id_of(&index, &format!("x:2@{}", digest("pinned"))),
        Some(digest("a"))
    );
    assert_eq!(id_of(&index, "x:1"), None);
}

#[test]
fn names_ids_and_beginnings_of_ids_are_found() {
    let index = with(&[("a", &["x"]), ("b", &[])]);
    let id = digest("a");
    let named = Entry {
        name: Some(name("x")),
        ..entry("a", "a")
    };
    let by_name = Match::Name(&named);
    for text in ["x", "x:latest", "docker.io/library/x"] {
        assert_eq!(index.resolve(text).unwrap(), by_name, "{text}");
    }
    for text in [
        id.to_string(),
        id.hex(),
        id.short(),
        format!("sha256:{}", id.short()),
    ] {
        assert_eq!(index.resolve(&text).unwrap(), Match::Id(id), "{text}");
    }
    assert_eq!(
        index.resolve("x:2").unwrap_err().to_string(),
        "No such image: x:2"
    );
    assert_eq!(
        index.resolve("nothing").unwrap_err().to_string(),
        "No such image: nothing:latest"
    );
    assert_eq!(
        index.resolve("A\x1b").unwrap_err().to_string(),
        "No such image: A\\u{1b}"
    );
    for text in ["", "sha256:", &"0".repeat(65)] {
        assert!(
            index.resolve(text).unwrap_err().is_no_such_image(),
            "{text}"
        );
    }
}

#[test]
fn one_digit_is_enough_if_it_is_clear() {
    // a: ca97…, b: 3e23…, and one more that begins with 3.
    let mut index = with(&[("a", &[]), ("b", &[])]);
    assert_eq!(index.resolve("c").unwrap(), Match::Id(digest("a")));
    let other = (0..)
        .map(|number| format!("i{number}"))
        .find(|text| digest(text).hex().starts_with('3'));
    index
        .entries
        .extend(with(&[(&other.unwrap(), &[])]).entries);
    let error = index.resolve("3").unwrap_err();
    assert_eq!(
        error.to_string(),
        "image id 3 is ambiguous: several images begin with it"
    );
    assert!(error.hint().is_some());
    assert_eq!(
        index.resolve(&digest("b").short()).unwrap(),
        Match::Id(digest("b"))
    );
}

#[test]
fn a_name_outweighs_the_beginning_of_an_id() {
    let hex = digest("a").hex()[..4].to_owned();
    let index = with(&[("a", &[]), ("b", &[&hex])]);
    assert_eq!(
        index.resolve(&hex).unwrap(),
        Match::Name(&Entry {
            name: Some(name(&hex)),
            ..entry("b", "b")
        })
    );
}

#[test]
fn untagging_keeps_the_image_and_dropping_does_not() {
    let mut index = with(&[("a", &["x", "y"])]);
    index.untag(&name("x"));
    assert_eq!(names(&index, "a"), ["y:latest"]);
    index.untag(&name("y"));
    assert_eq!(index.ids().len(), 1);
    index.drop_image(&digest("a"));
    assert_eq!(index, Index::default());
}

#[test]
fn a_name_leads_to_the_manifest_that_it_was_given_with_whatever_else_has_its_id() {
    for (first, second) in [("good", "evil"), ("evil", "good")] {
        let mut index = Index::default();
        for manifest in [first, second] {
            index.add(entry(manifest, "a"));
            index.name(&entry(manifest, "a"), &name(manifest));
        }
        // Further names, and the same again, move nothing.
        index.name(&entry(first, "a"), &name("more"));
        index.add(entry(first, "a"));
        index.name(&entry(first, "a"), &name(first));
        for (text, manifest) in [("good", "good"), ("evil", "evil"), ("more", first)] {
            let found = index.named(&name(text)).unwrap();
            assert!(found.is_same(&entry(manifest, "a")), "{first}: {text}");
        }
        let manifests: Vec<Digest> = index
            .of_id(&digest("a"))
            .iter()
            .map(|entry| entry.manifest.digest)
            .collect();
        let expected = [first, second].map(|text| digest(&format!("manifest of {text}")));
        assert_eq!(manifests, expected);
        // One without a name makes room for none that has its id.
        index.untag(&name("good"));
        index.untag(&name("more"));
        assert_eq!(index.of_id(&digest("a")).len(), 2);
        assert_eq!(index.nameless().count(), 1);
        let kept = BTreeSet::from([digest("manifest of good")]);
        index.drop_nameless(&kept);
        assert_eq!(index.of_id(&digest("a")).len(), 2);
        index.drop_nameless(&BTreeSet::new());
        assert_eq!(names(&index, "a"), ["evil:latest"]);
        assert_eq!(index.of_id(&digest("a")).len(), 1);
    }
}

#[test]
fn a_file_that_is_none_is_refused() {
    let good = with(&[("a", &["x"])]).to_bytes().unwrap();
    for end in 0..good.len() {
        assert!(Index::parse(&good[..end]).is_err(), "{end}");
    }
    let changed = |from: &str, to: &str| {
        let text = String::from_utf8(good.clone()).unwrap();
        assert!(text.contains(from));
        Index::parse(text.replacen(from, to, 1).as_bytes())
    };
    assert!(matches!(
        changed("bulkhead.image.id", "other"),
        Err(IndexError::NoId)
    ));
    assert!(matches!(
        changed("sha256:", "sha512:"),
        Err(IndexError::Digest(_))
    ));
    assert!(matches!(
        changed("library/x:latest", "../../x"),
        Err(IndexError::Name { .. })
    ));
}
