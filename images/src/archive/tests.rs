//! Loading: the three forms, and archives that lie.

use serde_json::{Value, json};

use super::*;
use crate::manifest::Compression;
use crate::sample::{INDEX, LAYER, LAYOUT, MANIFEST, Sample, Tar, descriptor, hex, sha};

mod names;
mod readers;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", None)
}

fn load(store: &Store, path: &Path) -> Result<Vec<Loaded>, ArchiveError> {
    match open(path)? {
        Source::Archive(file) => load_stream(store, file, &amd64()),
        Source::Layout(directory) => load_layout(store, directory, &amd64()),
    }
}

fn load_bytes(store: &Store, archive: &[u8]) -> Result<Vec<Loaded>, ArchiveError> {
    load_stream(store, archive, &amd64())
}

fn lines(loaded: &[Loaded]) -> Vec<String> {
    loaded.iter().map(Loaded::to_string).collect()
}

/// A refused archive must leave the store as it was.
#[track_caller]
fn refused(archive: &[u8]) -> ArchiveError {
    let (dir, store) = store();
    let error = load_bytes(&store, archive).expect_err("an error");
    assert!(store.list().unwrap().images.is_empty());
    for sub in ["blobs/sha256", "ingest"] {
        assert_eq!(
            std::fs::read_dir(dir.path().join(sub)).unwrap().count(),
            0,
            "{sub}: {error}"
        );
    }
    error
}

fn docker_list(entries: Value, members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Tar::default();
    for (name, content) in members {
        tar.file(name, content);
    }
    tar.file("manifest.json", &serde_json::to_vec(&entries).unwrap());
    tar.finish()
}

fn layout_of(index: &Value, blobs: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = Tar::default();
    tar.file("oci-layout", LAYOUT);
    for blob in blobs {
        tar.file(&format!("blobs/sha256/{}", hex(blob)), blob);
    }
    tar.file("index.json", &serde_json::to_vec(index).unwrap());
    tar.finish()
}

#[test]
fn a_docker_archive_is_loaded() {
    let (_dir, store) = store();
    let sample = Sample::new(&[b"one", b"two"]);
    let loaded = load_bytes(&store, &sample.docker_archive(&["busybox:1", "h.io/x:2"])).unwrap();
    assert_eq!(
        lines(&loaded),
        ["Loaded image: busybox:1\nLoaded image: h.io/x:2"]
    );
    let image = store.resolve("h.io/x:2").unwrap();
    assert_eq!(image.id.to_string(), sample.id());
    let blobs: Vec<String> = image
        .layers
        .iter()
        .map(|layer| layer.blob.to_string())
        .collect();
    assert_eq!(blobs, [sha(b"one"), sha(b"two")]);
    assert!(
        image
            .layers
            .iter()
            .all(|layer| layer.compression == Compression::None)
    );
}

#[test]
fn an_image_without_a_name_is_loaded_by_id() {
    let (_dir, store) = store();
    let sample = Sample::new(&[b"one"]);
    let loaded = load_bytes(&store, &sample.docker_archive(&[])).unwrap();
    assert_eq!(
        lines(&loaded),
        [format!("Loaded image ID: {}", sample.id())]
    );
    assert!(store.resolve(&sample.id()).unwrap().tags.is_empty());
    let config = hex(&sample.config);
    let entries = json!([{"Config": config, "RepoTags": null, "Layers": ["l"]}]);
    let archive = docker_list(entries, &[(&config, &sample.config), ("l", b"one")]);
    assert_eq!(load_bytes(&store, &archive).unwrap(), loaded);
}

#[test]
fn the_same_image_makes_the_same_manifest() {
    let sample = Sample::new(&[b"one"]);
    let digest = || {
        let (_dir, store) = store();
        load_bytes(&store, &sample.docker_archive(&["x"])).unwrap();
        store.resolve("x").unwrap().manifest_digest
    };
    assert_eq!(digest(), digest());
}

#[test]
fn old_archives_have_links_for_layers_that_repeat() {
    let (_dir, store) = store();
    let sample = Sample::new(&[b"one", b"one"]);
    let config = format!("{}.json", hex(&sample.config));
    let mut tar = Tar::default();
    tar.file(&config, &sample.config);
    tar.file("a/layer.tar", b"one");
    tar.member(
        tar::EntryType::Symlink,
        "b/layer.tar",
        "../a/layer.tar",
        b"",
    );
    let list =
        json!([{"Config": config, "RepoTags": ["x:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    tar.member(
        tar::EntryType::Regular,
        "real",
        "",
        &serde_json::to_vec(&list).unwrap(),
    );
    tar.member(tar::EntryType::Link, "manifest.json", "real", b"");
    load_bytes(&store, &tar.finish()).unwrap();
    assert_eq!(store.resolve("x:1").unwrap().layers.len(), 2);
}

#[test]
fn several_images_share_what_they_have_in_common() {
    let (_dir, store) = store();
    let (one, two) = (Sample::new(&[b"base", b"1"]), Sample::new(&[b"base", b"2"]));
    let entries = json!([
        {"Config": "one.json", "RepoTags": ["one:1"], "Layers": ["base", "1"]},
        {"Config": "two.json", "RepoTags": ["two:1"], "Layers": ["base", "2"]},
    ]);
    let members: [(&str, &[u8]); 5] = [
        ("one.json", &one.config),
        ("two.json", &two.config),
        ("base", b"base"),
        ("1", b"1"),
        ("2", b"2"),
    ];
    let loaded = load_bytes(&store, &docker_list(entries, &members)).unwrap();
    assert_eq!(
        lines(&loaded),
        ["Loaded image: one:1", "Loaded image: two:1"]
    );
    assert_eq!(store.list().unwrap().images.len(), 2);
}

#[test]
fn compressed_layers_are_kept_as_they_are() {
    let (_dir, store) = store();
    let config = Sample::new(&[b"plain one", b"plain two"]).config;
    let packed: [&[u8]; 2] = [b"\x1f\x8bpacked one", b"\x28\xb5\x2f\xfdpacked two"];
    let entries = json!([{"Config": "c", "RepoTags": ["x:1"], "Layers": ["1", "2"]}]);
    let archive = docker_list(
        entries.clone(),
        &[("c", &config), ("1", packed[0]), ("2", packed[1])],
    );
    load_bytes(&store, &archive).unwrap();
    let layers = store.resolve("x:1").unwrap().layers;
    assert_eq!(
        (layers[0].compression, layers[1].compression),
        (Compression::Gzip, Compression::Zstd)
    );
    assert_eq!(layers[0].blob, Digest::of(packed[0]));
    assert_eq!(layers[0].diff_id, Digest::of(b"plain one"));
    let error = refused(&docker_list(
        entries,
        &[("c", &config), ("1", b"changed"), ("2", packed[1])],
    ));
    assert_eq!(
        error.to_string(),
        "layer \"1\" does not have the digest that the image config says, and is not gzip or zstd"
    );
}

#[test]
fn an_oci_archive_and_a_directory_are_loaded() {
    let sample = Sample::new(&[b"one", b"two"]);
    let (_dir, from_archive) = store();
    let loaded = load_bytes(&from_archive, &sample.oci_archive(Some("h.io/x:1"))).unwrap();
    assert_eq!(lines(&loaded), ["Loaded image: h.io/x:1"]);
    let image = from_archive.resolve("h.io/x:1").unwrap();
    assert_eq!(image.manifest_digest.to_string(), sha(&sample.manifest));

    let (_dir, from_directory) = store();
    let layout = tempfile::tempdir().unwrap();
    sample.write_layout(layout.path(), Some("latest"));
    let loaded = load(&from_directory, layout.path()).unwrap();
    assert_eq!(
        lines(&loaded),
        [format!("Loaded image ID: {}", sample.id())]
    );
    assert_eq!(
        from_directory.resolve(&sample.id()).unwrap().layers,
        image.layers
    );

    let file = layout.path().join("archive.tar");
    std::fs::write(&file, sample.docker_archive(&["file:1"])).unwrap();
    load(&from_directory, &file).unwrap();
    assert_eq!(from_directory.resolve("file:1").unwrap().id, image.id);
}

#[test]
fn an_archive_of_both_forms_takes_its_names_from_dockers() {
    let (_dir, store) = store();
    let sample = Sample::new(&[b"one"]);
    let mut tar = Tar::default();
    tar.file("oci-layout", LAYOUT);
    tar.file("index.json", &sample.index(Some("1.0")));
    for blob in sample.blobs() {
        tar.file(&format!("blobs/sha256/{}", hex(&blob)), &blob);
    }
    let path = |blob: &[u8]| format!("blobs/sha256/{}", hex(blob));
    let list =
        json!([{"Config": path(&sample.config), "RepoTags": ["x:1.0"], "Layers": [path(b"one")]}]);
    tar.file("manifest.json", &serde_json::to_vec(&list).unwrap());
    assert_eq!(
        lines(&load_bytes(&store, &tar.finish()).unwrap()),
        ["Loaded image: x:1.0"]
    );
}

#[test]
fn an_index_inside_leads_to_the_platform() {
    let (_dir, store) = store();
    let (amd, arm) = (
        Sample::new(&[b"amd"]),
        Sample::of_architecture("arm64", &[b"arm"]),
    );
    let mut entries = [
        descriptor(MANIFEST, &arm.manifest),
        descriptor(MANIFEST, &amd.manifest),
    ];
    entries[0]["platform"] = json!({"os": "linux", "architecture": "arm64"});
    entries[1]["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let inner = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": entries})).unwrap();
    let mut entry = descriptor(INDEX, &inner);
    entry["annotations"] = json!({"io.containerd.image.name": "docker.io/library/x:1"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    // The other platform's blobs need not be there.
    let mut blobs = amd.blobs();
    blobs.push(inner);
    let archive = layout_of(&index, &blobs);
    assert_eq!(
        lines(&load_bytes(&store, &archive).unwrap()),
        ["Loaded image: x:1"]
    );
    assert_eq!(store.resolve("x:1").unwrap().id.to_string(), amd.id());
    let error = load_stream(
        &store,
        archive.as_slice(),
        &Platform::parse("linux/s390x").unwrap(),
    );
    assert!(matches!(
        error,
        Err(ArchiveError::Manifest(ManifestError::NoPlatform { .. }))
    ));
}

#[test]
fn another_platform_alone_is_an_error() {
    let arm = Sample::of_architecture("arm64", &[b"arm"]);
    for archive in [arm.docker_archive(&["x"]), arm.oci_archive(None)] {
        let error = refused(&archive);
        assert_eq!(
            error.to_string(),
            "the image is for linux/arm64, not for linux/amd64"
        );
        assert!(error.hint().is_some());
    }
    let mut entry = descriptor(MANIFEST, &arm.manifest);
    entry["platform"] = json!({"os": "linux", "architecture": "arm64"});
    let error = refused(&layout_of(
        &json!({"schemaVersion": 2, "manifests": [entry]}),
        &arm.blobs(),
    ));
    assert_eq!(
        error.to_string(),
        "the archive has no image for linux/amd64"
    );
}

#[test]
fn what_lies_beside_images_and_is_none_is_passed_by() {
    let changed = |sample: &Sample, change: &dyn Fn(&mut Value)| {
        let mut manifest: Value = serde_json::from_slice(&sample.manifest).unwrap();
        change(&mut manifest);
        serde_json::to_vec(&manifest).unwrap()
    };
    let image = Sample::new(&[b"one"]);
    let signature = changed(&Sample::new(&[b"signature"]), &|manifest| {
        manifest["layers"][0]["mediaType"] =
            json!("application/vnd.dev.cosign.simplesigning.v1+json");
    });
    let chart = changed(&Sample::new(&[b"chart"]), &|manifest| {
        manifest["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
    });
    let named = |manifest: &[u8], name: &str| {
        let mut entry = descriptor(MANIFEST, manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        entry
    };
    let layout = |entries: Vec<Value>| {
        let mut blobs = image.blobs();
        // What they list need not be there.
        blobs.extend([signature.clone(), chart.clone()]);
        layout_of(&json!({"schemaVersion": 2, "manifests": entries}), &blobs)
    };
    let (signed, charted) = (named(&signature, "Sig:/1"), named(&chart, "h.io/chart:1"));
    let (_dir, store) = store();
    let entries = vec![
        signed.clone(),
        named(&image.manifest, "h.io/x:1"),
        charted.clone(),
    ];
    let loaded = load_bytes(&store, &layout(entries)).unwrap();
    assert_eq!(lines(&loaded), ["Loaded image: h.io/x:1"]);
    // With nothing else there it is told what it is.
    assert!(matches!(
        refused(&layout(vec![charted])),
        ArchiveError::Manifest(ManifestError::NotAnImage(_))
    ));
    assert!(matches!(
        refused(&layout(vec![signed.clone()])),
        ArchiveError::Manifest(ManifestError::LayerType { .. })
    ));
    // What says that it is for a platform is an image.
    let mut odd = signed;
    odd["platform"] = json!({"os": "linux", "architecture": "amd64"});
    assert!(matches!(
        refused(&layout(vec![named(&image.manifest, "h.io/x:1"), odd])),
        ArchiveError::Manifest(ManifestError::LayerType { .. })
    ));
}

#[test]
fn compressed_archives_are_refused_with_the_command_to_use() {
    for (magic, kind, command) in [
        (&b"\x1f\x8b\x08\0\0\0\0"[..], "gzip", "gunzip -c"),
        (b"\x28\xb5\x2f\xfd\0\0\0", "zstd", "zstd -dc"),
        (b"BZh91AY", "bzip2", "bunzip2 -c"),
        (b"\xfd7zXZ\0\0", "xz", "xz -dc"),
    ] {
        let error = refused(magic);
        assert_eq!(
            error.to_string(),
            format!("the archive is compressed with {kind}")
        );
        assert_eq!(
            error.hint().unwrap(),
            format!("decompress it on the way: {command} FILE | bulkhead load")
        );
    }
}

#[test]
fn what_is_no_image_is_refused() {
    assert!(matches!(refused(b""), ArchiveError::NotAnImage));
    assert!(matches!(
        refused(b"hello"),
        ArchiveError::Tar(TarError::Truncated)
    ));
    let mut tar = Tar::default();
    tar.file("etc/passwd", b"root");
    assert!(matches!(refused(&tar.finish()), ArchiveError::NotAnImage));
    assert!(matches!(
        refused(&docker_list(json!([]), &[])),
        ArchiveError::NotAnImage
    ));
    assert!(matches!(
        refused(&docker_list(json!({}), &[])),
        ArchiveError::Json { .. }
    ));
    let (_dir, store) = store();
    let missing = load(&store, Path::new("/nonexistent/x.tar")).unwrap_err();
    assert_eq!(missing.to_string(), "cannot open /nonexistent/x.tar");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        load(&store, empty.path()),
        Err(ArchiveError::NotAnImage)
    ));
}

#[test]
fn an_archive_cut_anywhere_leaves_nothing() {
    let whole = Sample::new(&[b"one", &[2; 600]]).docker_archive(&["x"]);
    for end in (0..whole.len() - 1024).step_by(256) {
        refused(&whole[..end]);
    }
}

#[test]
fn names_that_climb_out_are_only_keys() {
    let sample = Sample::new(&[b"one"]);
    let entries =
        json!([{"Config": "../../../../tmp/c", "RepoTags": ["x:1"], "Layers": ["/etc/passwd"]}]);
    let members: [(&str, &[u8]); 2] = [
        ("../../../../tmp/c", &sample.config),
        ("/etc/passwd", b"one"),
    ];
    let (_dir, store) = store();
    load_bytes(&store, &docker_list(entries.clone(), &members)).unwrap();
    assert_eq!(
        store.resolve("x:1").unwrap().layers[0].blob,
        Digest::of(b"one")
    );
    // Without the member, the host's file of that name is not looked at.
    let error = refused(&docker_list(entries, &members[..1]));
    assert_eq!(error.to_string(), "the archive has no \"/etc/passwd\"");
}

#[test]
fn links_out_of_the_archive_lead_nowhere() {
    let sample = Sample::new(&[b"one"]);
    for target in ["/etc/passwd", "../../../../etc/passwd", "self"] {
        let mut tar = Tar::default();
        tar.file("c", &sample.config);
        tar.member(tar::EntryType::Symlink, "self", target, b"");
        let list = json!([{"Config": "c", "RepoTags": ["x:1"], "Layers": ["self"]}]);
        tar.file("manifest.json", &serde_json::to_vec(&list).unwrap());
        let error = refused(&tar.finish());
        assert!(
            matches!(error, ArchiveError::Missing(_) | ArchiveError::Table(_)),
            "{error}"
        );
    }
    let mut tar = Tar::default();
    tar.member(tar::EntryType::Symlink, "manifest.json", "/etc/passwd", b"");
    assert!(matches!(refused(&tar.finish()), ArchiveError::NotAnImage));
}

#[test]
fn names_that_are_digests_must_be_right() {
    let sample = Sample::new(&[b"one"]);
    let wrong = format!("{}.json", hex(b"something else"));
    let entries = json!([{"Config": wrong, "RepoTags": null, "Layers": ["l"]}]);
    let error = refused(&docker_list(
        entries,
        &[(&wrong, &sample.config), ("l", b"one")],
    ));
    assert!(
        matches!(error, ArchiveError::DigestMismatch { .. }),
        "{error}"
    );

    let mut blobs = sample.blobs();
    let mut tar = Tar::default();
    tar.file("oci-layout", LAYOUT);
    tar.file("index.json", &sample.index(None));
    tar.file(&format!("blobs/sha256/{}", hex(b"one")), b"two");
    for blob in blobs.drain(1..) {
        tar.file(&format!("blobs/sha256/{}", hex(&blob)), &blob);
    }
    assert!(matches!(
        refused(&tar.finish()),
        ArchiveError::DigestMismatch { .. }
    ));
}

#[test]
fn sizes_must_be_right() {
    let sample = Sample::new(&[b"one"]);
    let mut entry = descriptor(MANIFEST, &sample.manifest);
    entry["size"] = json!(sample.manifest.len() - 1);
    let error = refused(&layout_of(
        &json!({"schemaVersion": 2, "manifests": [entry]}),
        &sample.blobs(),
    ));
    assert!(
        matches!(error, ArchiveError::SizeMismatch { .. }),
        "{error}"
    );
}

#[test]
fn a_missing_blob_is_named() {
    let sample = Sample::new(&[b"one", b"two"]);
    let blobs: Vec<Vec<u8>> = sample
        .blobs()
        .into_iter()
        .filter(|blob| blob != b"two")
        .collect();
    let error = refused(&layout_of(
        &serde_json::from_slice(&sample.index(None)).unwrap(),
        &blobs,
    ));
    assert_eq!(
        error.to_string(),
        format!("the archive has no \"blobs/sha256/{}\"", hex(b"two"))
    );
}

#[test]
fn counts_are_limited() {
    let sample = Sample::new(&[b"one"]);
    let layers = vec!["l"; 1000];
    let entries = json!([{"Config": "c", "RepoTags": null, "Layers": layers}]);
    let error = refused(&docker_list(
        entries,
        &[("c", &sample.config), ("l", b"one")],
    ));
    assert_eq!(
        error.to_string(),
        "the image has 1000 layers, above the limit of 127"
    );
    let entry = json!({"Config": "c", "RepoTags": null, "Layers": ["l"]});
    let error = refused(&docker_list(
        json!(vec![entry; ARCHIVE_IMAGES + 1]),
        &[("c", b"{}")],
    ));
    assert!(matches!(error, ArchiveError::TooManyImages(1001)));
    let more = Sample::of_config(
        serde_json::from_slice(&Sample::new(&[b"one", b"two"]).config).unwrap(),
        &[b"one"],
    );
    let error = refused(&more.docker_archive(&["x"]));
    assert_eq!(
        error.to_string(),
        "the image has 1 layers, but its config has 2 diff_ids"
    );
}

#[test]
fn a_chain_of_indexes_ends() {
    let sample = Sample::new(&[b"one"]);
    let mut blobs = sample.blobs();
    let mut next = descriptor(MANIFEST, &sample.manifest);
    for _ in 0..=INDEX_DEPTH {
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [next]})).unwrap();
        next = descriptor(INDEX, &index);
        blobs.push(index);
    }
    let error = refused(&layout_of(
        &json!({"schemaVersion": 2, "manifests": [next]}),
        &blobs,
    ));
    assert!(matches!(error, ArchiveError::IndexDepth), "{error}");
}

#[test]
fn a_failed_second_image_keeps_the_first_out_too() {
    let sample = Sample::new(&[b"one"]);
    let entries = json!([
        {"Config": "c", "RepoTags": ["one:1"], "Layers": ["l"]},
        {"Config": "c", "RepoTags": ["two:1"], "Layers": ["missing"]},
    ]);
    refused(&docker_list(
        entries,
        &[("c", &sample.config), ("l", b"one")],
    ));
}

#[test]
fn a_directory_is_not_left() {
    let outside = tempfile::tempdir().unwrap();
    let sample = Sample::new(&[b"one"]);
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "one").unwrap();
    let layout = outside.path().join("layout");
    sample.write_layout(&layout, None);
    let blob = layout.join("blobs/sha256").join(hex(b"one"));
    std::fs::remove_file(&blob).unwrap();
    let (_dir, store) = store();
    for target in [secret.as_path(), Path::new("../../../secret")] {
        std::os::unix::fs::symlink(target, &blob).unwrap();
        let error = load(&store, &layout).unwrap_err();
        assert!(matches!(error, ArchiveError::Member { .. }), "{error}");
        std::fs::remove_file(&blob).unwrap();
    }
    nix::unistd::mkfifo(&blob, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(load(&store, &layout).is_err());
}

#[test]
fn other_layout_versions_are_refused() {
    let mut tar = Tar::default();
    tar.file("oci-layout", b"{\"imageLayoutVersion\":\"2.0.0\"}");
    tar.file("index.json", &Sample::new(&[b"x"]).index(None));
    assert!(matches!(
        refused(&tar.finish()),
        ArchiveError::LayoutVersion(_)
    ));
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", b"x");
    entry["mediaType"] = json!(LAYER);
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    assert!(matches!(
        refused(&layout_of(&index, &[])),
        ArchiveError::NotAnImage
    ));
}
