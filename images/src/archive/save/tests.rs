//! What is written, and that it reads again.

use super::*;
use crate::archive::load_stream;
use crate::platform::Platform;
use crate::sample::Sample;

fn store_of(images: &[(&Sample, &str)]) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    for (image, name) in images {
        let archive = image.oci_archive(Some(name));
        load_stream(&store, archive.as_slice(), &Platform::host()).unwrap();
    }
    (dir, store)
}

fn saved(store: &Store, words: &[&str]) -> Result<Vec<u8>, ArchiveError> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let mut out = Vec::new();
    save(store, &words, &mut out).map(|_| out)
}

/// Names and content of the members.
fn members(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut members = Vec::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        members.push((name, content));
    }
    members
}

fn json_of(archive: &[u8], name: &str) -> Value {
    let members = members(archive);
    let (_, content) = members.iter().find(|(member, _)| member == name).unwrap();
    serde_json::from_slice(content).unwrap()
}

#[test]
fn what_is_named_with_a_digest_has_no_name_in_the_archive() {
    let image = Sample::new(&[b"one"]);
    let digest = Digest::of(&image.manifest);
    let (_dir, store) = store_of(&[(&image, &format!("h.io/x@{digest}"))]);
    for word in [format!("h.io/x:1@{digest}"), format!("h.io/x@{digest}")] {
        let archive = saved(&store, &[&word]).unwrap();
        assert!(json_of(&archive, "manifest.json")[0]["RepoTags"].is_null());
        let entry = &json_of(&archive, "index.json")["manifests"][0];
        assert!(entry.get("annotations").is_none(), "{entry}");
        load_stream(&store, archive.as_slice(), &Platform::host()).unwrap();
    }
}

#[test]
fn an_archive_is_dockers_and_an_oci_layout() {
    let image = Sample::new(&[b"one", b"two"]);
    let (_dir, store) = store_of(&[(&image, "team/app:1")]);
    let archive = saved(&store, &["team/app:1"]).unwrap();
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let mut names: Vec<String> = image.blobs().iter().map(|blob| path(blob)).collect();
    names.sort();
    let mut expected = vec!["blobs/".to_owned(), "blobs/sha256/".to_owned()];
    expected.extend(names);
    let rest = ["index.json", "manifest.json", "oci-layout", "repositories"];
    expected.extend(rest.map(str::to_owned));
    let found: Vec<String> = members(&archive)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(found, expected);
    for (name, content) in members(&archive) {
        if let Some(hex) = name
            .strip_prefix("blobs/sha256/")
            .filter(|hex| !hex.is_empty())
        {
            assert_eq!(hex, Digest::of(&content).hex());
        }
    }
    assert_eq!(
        json_of(&archive, "manifest.json"),
        json!([{
            "Config": path(&image.config),
            "RepoTags": ["team/app:1"],
            "Layers": [path(b"one"), path(b"two")],
        }])
    );
    let top = Digest::of(b"two").hex();
    assert_eq!(
        json_of(&archive, "repositories"),
        json!({"team/app": {"1": top}})
    );
    let entry = &json_of(&archive, "index.json")["manifests"][0];
    assert_eq!(entry["digest"], Digest::of(&image.manifest).to_string());
    assert_eq!(
        entry["annotations"]["io.containerd.image.name"],
        "docker.io/team/app:1"
    );
    // The same again is the same to the bit.
    assert_eq!(saved(&store, &["team/app:1"]).unwrap(), archive);
}

#[test]
fn what_was_saved_loads_in_both_forms() {
    let (first, second) = (Sample::new(&[b"one", b"two"]), Sample::new(&[b"one", b"3"]));
    let (_dir, store) = store_of(&[(&first, "a:1"), (&second, "b:2")]);
    store.tag("a:1", &Reference::parse("a:2").unwrap()).unwrap();
    let archive = saved(&store, &["a", "b:2"]).unwrap();
    let (_dir, other) = store_of(&[]);
    let loaded = load_stream(&other, archive.as_slice(), &Platform::host()).unwrap();
    let shown: Vec<String> = loaded.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["Loaded image: a:1\nLoaded image: a:2", "Loaded image: b:2"]
    );
    for name in ["a:1", "a:2", "b:2"] {
        assert_eq!(
            store.resolve(name).unwrap().id,
            other.resolve(name).unwrap().id
        );
    }
    // Without Docker's list, it is the layout that is read.
    let mut tar = crate::sample::Tar::default();
    for (name, content) in members(&archive) {
        if name != "manifest.json" && !name.ends_with('/') {
            tar.file(&name, &content);
        }
    }
    let (_dir, other) = store_of(&[]);
    let loaded = load_stream(&other, tar.finish().as_slice(), &Platform::host()).unwrap();
    let found = loaded.iter().map(|loaded| loaded.id);
    let ids: BTreeSet<Digest> = found.collect();
    let image = |name| store.resolve(name).unwrap();
    assert_eq!(ids, BTreeSet::from([image("a:1").id, image("b:2").id]));
    // That form keeps the manifest, too.
    let manifest = other.resolve(&image("a:1").id.to_string()).unwrap();
    assert_eq!(manifest.manifest_digest, image("a:1").manifest_digest);
}

#[test]
fn words_mean_what_they_do_in_docker() {
    let image = Sample::new(&[b"one"]);
    let (_dir, store) = store_of(&[(&image, "a:1")]);
    store.tag("a:1", &Reference::parse("b:1").unwrap()).unwrap();
    let tags = |words: &[&str]| {
        let archive = saved(&store, words).unwrap();
        json_of(&archive, "manifest.json")[0]["RepoTags"].clone()
    };
    assert_eq!(tags(&["a"]), json!(["a:1"]));
    assert_eq!(tags(&["b:1", "a", "a:1"]), json!(["a:1", "b:1"]));
    let id = store.resolve("a:1").unwrap().id;
    assert_eq!(tags(&[&id.to_string()]), Value::Null);
    assert_eq!(tags(&[&id.hex()[..8]]), Value::Null);
    assert_eq!(tags(&[&id.hex()[..8], "a:1"]), json!(["a:1"]));
    // No name, no list of names.
    let archive = saved(&store, &[&id.to_string()]).unwrap();
    assert!(
        members(&archive)
            .iter()
            .all(|(name, _)| name != "repositories")
    );
    for (word, message) in [
        ("nosuch", "No such image: nosuch"),
        ("a:2", "No such image: a:2"),
        (
            "Upper",
            "invalid reference format: repository name (library/Upper) must be lowercase",
        ),
        (
            "a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "No such image: a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
    ] {
        assert_eq!(
            saved(&store, &["a", word]).unwrap_err().to_string(),
            message
        );
    }
}

#[test]
fn a_damaged_layer_ends_it() {
    let image = Sample::new(&[b"one", b"two"]);
    let (dir, store) = store_of(&[(&image, "a:1")]);
    let path = dir
        .path()
        .join("store/blobs/sha256")
        .join(Digest::of(b"one").hex());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"0ne").unwrap();
    let error = saved(&store, &["a"]).unwrap_err().to_string();
    assert!(error.ends_with("is damaged"), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert!(saved(&store, &["a"]).is_err());
}

#[test]
fn a_damaged_image_of_a_repository_ends_it() {
    let (good, bad) = (Sample::new(&[b"good"]), Sample::new(&[b"bad"]));
    let (dir, store) = store_of(&[(&good, "a:1"), (&bad, "a:2")]);
    let path = dir
        .path()
        .join("store/blobs/sha256")
        .join(Digest::of(&bad.config).hex());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"{}").unwrap();
    let error = saved(&store, &["a"]).unwrap_err().to_string();
    assert!(error.ends_with("is damaged"), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert!(saved(&store, &["a"]).is_err());
    assert!(saved(&store, &["a:1"]).is_ok());
}

#[test]
fn an_output_that_fails_is_told() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let image = Sample::new(&[b"one"]);
    let (_dir, store) = store_of(&[(&image, "a:1")]);
    let error = save(&store, &["a".to_owned()], &mut Full).unwrap_err();
    assert!(matches!(error, ArchiveError::Write(_)), "{error}");
}

#[test]
fn of_two_with_the_same_config_each_name_has_its_own() {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [crate::sample::sha(b"content")]},
    });
    let of = |packed: &[u8]| Sample::of_config(config.clone(), &[packed]);
    let (good, evil) = (of(b"good"), of(b"evil"));
    let (good, evil) = ((&good, "a:1"), (&evil, "a:2"));
    for images in [[good, evil], [evil, good]] {
        let (_dir, store) = store_of(&images);
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
        let archive = saved(&store, &["a:1"]).unwrap();
        let names: Vec<String> = members(&archive)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert!(names.contains(&blob(b"good")) && !names.contains(&blob(b"evil")));
        let archive = saved(&store, &["a"]).unwrap();
        let mut list = json_of(&archive, "manifest.json");
        let list = list.as_array_mut().unwrap();
        list.sort_by_key(|image| image["RepoTags"].to_string());
        assert_eq!(list[0]["RepoTags"], json!(["a:1"]));
        assert_eq!(list[0]["Layers"], json!([blob(b"good")]));
        assert_eq!(list[1]["RepoTags"], json!(["a:2"]));
        assert_eq!(list[1]["Layers"], json!([blob(b"evil")]));
    }
}
