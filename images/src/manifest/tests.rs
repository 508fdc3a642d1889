//! Manifests and indexes, good and hostile.

use serde_json::{Value, json};

use super::*;
use crate::sample::{CONFIG, INDEX, LAYER, MANIFEST, Sample, descriptor, sha};

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn manifest_with(change: impl FnOnce(&mut Value)) -> Result<Manifest, ManifestError> {
    let mut value = serde_json::from_slice(&Sample::new(&[b"one", b"two"]).manifest).unwrap();
    change(&mut value);
    match parse(&bytes(&value))? {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => panic!("an index"),
    }
}

fn index_of(entries: Vec<Value>) -> Result<Index, ManifestError> {
    match parse(&bytes(
        &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}),
    ))? {
        Document::Index(index) => Ok(index),
        Document::Manifest(_) => panic!("a manifest"),
    }
}

fn entry(os: &str, architecture: &str, content: &[u8]) -> Value {
    let mut entry = descriptor(MANIFEST, content);
    entry["platform"] = json!({"os": os, "architecture": architecture});
    entry
}

#[test]
fn an_oci_manifest_is_read() {
    let sample = Sample::new(&[b"one", b"two"]);
    let Document::Manifest(manifest) = parse(&sample.manifest).unwrap() else {
        panic!("an index")
    };
    assert_eq!(manifest.config.digest.to_string(), sample.id());
    assert_eq!(manifest.media_type, OCI_MANIFEST);
    let layers: Vec<(String, u64, Compression)> = manifest
        .layers
        .iter()
        .map(|layer| {
            (
                layer.blob.digest.to_string(),
                layer.blob.size,
                layer.compression,
            )
        })
        .collect();
    assert_eq!(
        layers,
        [
            (sha(b"one"), 3, Compression::None),
            (sha(b"two"), 3, Compression::None)
        ]
    );
}

#[test]
fn dockers_types_are_read_too() {
    let manifest = manifest_with(|value| {
        value["mediaType"] = json!(DOCKER_MANIFEST);
        value["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
        value["layers"][0]["mediaType"] =
            json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
        value["layers"][1]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
    })
    .unwrap();
    assert_eq!(manifest.media_type, DOCKER_MANIFEST);
    let packed: Vec<_> = manifest
        .layers
        .iter()
        .map(|layer| layer.compression)
        .collect();
    assert_eq!(packed, [Compression::Sniff, Compression::Zstd]);
    manifest_with(|value| {
        value.as_object_mut().unwrap().remove("mediaType");
    })
    .unwrap();
}

#[test]
fn a_config_of_no_certain_type_is_an_images_where_the_layers_are() {
    let artifact = "application/vnd.dev.cosign.simplesigning.v1+json";
    for config in [
        "application/octet-stream",
        "application/json",
        "text/html",
        "",
    ] {
        for manifest in [OCI_MANIFEST, DOCKER_MANIFEST] {
            let of_layer = |layer: &str| {
                manifest_with(|value| {
                    value["mediaType"] = json!(manifest);
                    value["config"]["mediaType"] = json!(config);
                    value["layers"][1]["mediaType"] = json!(layer);
                })
            };
            assert_eq!(of_layer(LAYER).unwrap().layers.len(), 2, "{config}");
            let error = of_layer(artifact).unwrap_err();
            assert!(
                matches!(&error, ManifestError::NotAnImage(found) if found == config),
                "{config}: {error}"
            );
        }
    }
    manifest_with(|value| {
        value["config"].as_object_mut().unwrap().remove("mediaType");
    })
    .unwrap();
    // One of a certain type whose layers are none says which of them.
    let odd = manifest_with(|value| value["layers"][1]["mediaType"] = json!(artifact));
    assert!(matches!(
        odd,
        Err(ManifestError::LayerType { index: 2, .. })
    ));
}

#[test]
fn an_image_of_no_layers_may_have_gos_null_for_them() {
    let manifest = manifest_with(|value| value["layers"] = json!(null)).unwrap();
    assert!(manifest.layers.is_empty());
}

#[test]
fn the_entry_of_the_platform_is_picked() {
    let index = index_of(vec![
        entry("unknown", "unknown", b"attestation"),
        entry("linux", "arm64", b"arm"),
        entry("linux", "amd64", b"first"),
        entry("linux", "amd64", b"second"),
        entry("windows", "amd64", b"win"),
        descriptor("application/vnd.cncf.helm.chart", b"chart"),
    ])
    .unwrap();
    assert_eq!(index.entries.len(), 5);
    let select = |platform: &str| index.select(&Platform::parse(platform).unwrap());
    assert_eq!(
        select("linux/amd64").unwrap().blob.digest.to_string(),
        sha(b"first")
    );
    assert_eq!(
        select("linux/arm64/v8").unwrap().blob.digest.to_string(),
        sha(b"arm")
    );
    assert_eq!(
        select("linux/s390x").unwrap_err().to_string(),
        "no matching manifest for linux/s390x in the manifest list entries, which are for \
         linux/amd64, linux/arm64, windows/amd64"
    );
}

#[test]
fn amd64_takes_386_where_there_is_nothing_else() {
    let (old, own) = (
        entry("linux", "386", b"386"),
        entry("linux", "amd64", b"amd"),
    );
    let wanted = Platform::parse("linux/amd64").unwrap();
    for (entries, content) in [(vec![old.clone(), own], &b"amd"[..]), (vec![old], b"386")] {
        let index = index_of(entries).unwrap();
        let found = index.select(&wanted).unwrap();
        assert_eq!(found.blob.digest.to_string(), sha(content));
    }
}

#[test]
fn an_entry_without_a_platform_is_a_last_resort() {
    let index = index_of(vec![
        descriptor(MANIFEST, b"any"),
        entry("linux", "amd64", b"amd"),
    ])
    .unwrap();
    let select = |platform: &str| index.select(&Platform::parse(platform).unwrap());
    assert_eq!(
        select("linux/amd64").unwrap().blob.digest.to_string(),
        sha(b"amd")
    );
    assert_eq!(
        select("linux/arm64").unwrap().blob.digest.to_string(),
        sha(b"any")
    );
    let none = index_of(vec![]).unwrap();
    assert_eq!(
        none.select(&Platform::parse("linux/amd64").unwrap())
            .unwrap_err()
            .to_string(),
        "no matching manifest for linux/amd64 in the manifest list entries, which are for no platform"
    );
}

#[test]
fn hostile_platform_names_are_escaped_and_few_are_listed() {
    let mut entries: Vec<Value> = (0..100)
        .map(|number| entry("linux", &format!("a\x1b[{number}m"), b"x"))
        .collect();
    entries.push(entry("linux", "z", b"x"));
    let index = index_of(entries).unwrap();
    let error = index.select(&Platform::parse("linux/amd64").unwrap());
    let message = error.unwrap_err().to_string();
    assert!(
        !message.contains('\x1b') && message.ends_with("others"),
        "{message}"
    );
    assert!(message.len() < 1000, "{}", message.len());
}

#[test]
fn counts_are_limited() {
    let layers = |count: usize| {
        manifest_with(|value| value["layers"] = json!(vec![descriptor(LAYER, b"x"); count]))
    };
    assert_eq!(layers(LAYERS).unwrap().layers.len(), 127);
    for count in [LAYERS + 1, 1000] {
        assert_eq!(
            layers(count).unwrap_err().to_string(),
            format!("the image has {count} layers, above the limit of 127")
        );
    }
    assert!(index_of(vec![entry("linux", "amd64", b"x"); INDEX_ENTRIES]).is_ok());
    let error = index_of(vec![entry("linux", "amd64", b"x"); INDEX_ENTRIES + 1]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the index has 1001 entries, above the limit of 1000"
    );
    let mut noted = entry("linux", "amd64", b"x");
    let annotations: BTreeMap<String, &str> = (0..=ANNOTATIONS)
        .map(|number| (number.to_string(), ""))
        .collect();
    noted["annotations"] = json!(annotations);
    assert!(matches!(
        index_of(vec![noted]),
        Err(ManifestError::TooManyAnnotations(1001))
    ));
}

#[test]
fn sizes_are_limited() {
    let mut padded = Sample::new(&[b"x"]).manifest;
    padded.resize(10 << 20, b' ');
    let error = parse(&padded).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "it has 10485760 bytes, above the limit of 4194304");

    let layer = |size: Value| manifest_with(|value| value["layers"][0]["size"] = size);
    assert!(matches!(
        layer(json!(LAYER_BYTES + 1)),
        Err(ManifestError::TooLarge { .. })
    ));
    assert!(matches!(
        layer(json!(u64::MAX)),
        Err(ManifestError::TooLarge { .. })
    ));
    for size in [json!(-1), json!(1.5), json!("3"), json!(1e300), json!(null)] {
        assert!(
            matches!(layer(size.clone()), Err(ManifestError::Json(_))),
            "{size}"
        );
    }
    let config = manifest_with(|value| value["config"]["size"] = json!(CONFIG_BYTES + 1));
    assert_eq!(
        config.unwrap_err().to_string(),
        "the image config has 4194305 bytes, above the limit of 4194304"
    );
    let total = manifest_with(|value| {
        value["layers"] = (0..3)
            .map(|number: u8| {
                json!({"mediaType": LAYER, "digest": sha(&[number]), "size": LAYER_BYTES})
            })
            .collect();
    });
    assert!(matches!(total, Err(ManifestError::TooLarge { what, .. }) if what == "the image"));
}

#[test]
fn one_digest_has_one_size() {
    let twice = |size: u64| {
        manifest_with(|value| {
            value["layers"][1] = json!({"mediaType": LAYER, "digest": sha(b"one"), "size": size});
        })
    };
    assert_eq!(twice(3).unwrap().layers.len(), 2);
    assert!(matches!(twice(4), Err(ManifestError::Sizes(_))));
}

#[test]
fn digests_that_are_none_are_refused() {
    for digest in ["sha256:../../x", "sha256:00", "sha512:00", "x", ""] {
        let result = manifest_with(|value| value["layers"][0]["digest"] = json!(digest));
        assert!(
            matches!(
                result,
                Err(ManifestError::Digest { .. } | ManifestError::Json(_))
            ),
            "{digest}"
        );
    }
    let sha512 = format!("sha512:{}", "0".repeat(128));
    let error = manifest_with(|value| value["layers"][0]["digest"] = json!(sha512)).unwrap_err();
    assert_eq!(error.to_string(), "cannot use the descriptor of layer 1");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("an algorithm other than sha256"), "{cause}");
}

#[test]
fn what_could_be_two_things_is_refused() {
    let sample: Value = serde_json::from_slice(&Sample::new(&[b"x"]).manifest).unwrap();
    let mut both = sample.clone();
    both["manifests"] = json!([]);
    let mut lying = sample.clone();
    lying["mediaType"] = json!(INDEX);
    let mut old = sample.clone();
    old["fsLayers"] = json!([]);
    let neither = json!({"schemaVersion": 2});
    for document in [both, lying, old, neither] {
        assert!(
            matches!(parse(&bytes(&document)), Err(ManifestError::Ambiguous)),
            "{document}"
        );
    }
    let text = String::from_utf8(bytes(&sample)).unwrap();
    let doubled = text.replacen('{', "{\"layers\":[],", 1);
    assert!(matches!(
        parse(doubled.as_bytes()),
        Err(ManifestError::Json(JsonError::Invalid(_)))
    ));
}

#[test]
fn other_documents_are_named() {
    let schema1 = json!({"schemaVersion": 1, "fsLayers": [], "history": []});
    let error = parse(&bytes(&schema1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the image manifest has schema version 1, which is not supported"
    );
    assert!(error.hint().is_some());
    assert!(matches!(
        parse(b"{\"schemaVersion\":3,\"layers\":[]}"),
        Err(ManifestError::SchemaVersion)
    ));
    assert!(matches!(parse(b"{}"), Err(ManifestError::SchemaVersion)));
    let chart = manifest_with(|value| {
        value["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    });
    assert!(matches!(chart, Err(ManifestError::NotAnImage(_))));
    let odd = manifest_with(|value| value["mediaType"] = json!("text/html\x1b"));
    assert_eq!(
        odd.unwrap_err().to_string(),
        "the document is \"text/html\\u{1b}\", not an image manifest or an index"
    );
}

#[test]
fn layers_from_elsewhere_are_refused_and_addresses_ignored() {
    let foreign = manifest_with(|value| {
        value["layers"][1]["mediaType"] =
            json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        value["layers"][1]["urls"] = json!(["http://169.254.169.254/"]);
    });
    assert!(matches!(
        foreign,
        Err(ManifestError::Foreign { index: 2, .. })
    ));
    let plain = manifest_with(|_| {}).unwrap();
    let with_urls = manifest_with(|value| {
        value["layers"][0]["urls"] = json!(["file:///etc/passwd"]);
        value["layers"][0]["data"] = json!("b3RoZXI=");
    });
    assert_eq!(with_urls.unwrap(), plain);
    let odd = manifest_with(|value| value["layers"][0]["mediaType"] = json!("application/x-xz"));
    assert!(matches!(
        odd,
        Err(ManifestError::LayerType { index: 1, .. })
    ));
}

#[test]
fn deep_nesting_is_refused() {
    let text = format!(
        "{{\"schemaVersion\":2,\"layers\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(matches!(
        parse(text.as_bytes()),
        Err(ManifestError::Json(JsonError::TooDeep))
    ));
}

#[test]
fn no_prefix_of_a_manifest_is_one() {
    let sample = Sample::new(&[b"one", b"two"]);
    for end in 0..sample.manifest.len() {
        assert!(parse(&sample.manifest[..end]).is_err(), "{end}");
    }
    assert!(manifest_with(|value| value["config"]["mediaType"] = json!(CONFIG)).is_ok());
}
