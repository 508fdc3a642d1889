//! e16 and e17: manifests and indexes that are too much, ambiguous or of another kind, and addresses in
//! them.

use serde_json::{Value, json};

use super::{Case, Expected, alive, documents, prints, reading};
use crate::image::{Base, Draft, INDEX, LAYER, MANIFEST, digest};
use crate::tarball::Tar;

/// The usual image, whose manifest is changed.
fn changed(
    class: u8,
    name: &'static str,
    tries: &'static str,
    change: impl Fn(&mut Value) + Send + Sync + 'static,
    expected: Expected,
) -> Case {
    let image = move |base: &Base| {
        let draft = Draft::on(base).tar(Tar::new().file("f", b"x"));
        let config = draft.configuration().to_string().into_bytes();
        draft.image_with(config, &change)
    };
    documents(class, name, tries, image, expected)
}

/// The usual image, and other bytes in place of its manifest: made of the manifest's text.
fn text(
    name: &'static str,
    tries: &'static str,
    make: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    expected: Expected,
) -> Case {
    let image = move |base: &Base| {
        let image = Draft::on(base).image();
        let bytes = make(&String::from_utf8_lossy(&image.manifest));
        image.document(bytes, MANIFEST)
    };
    documents(16, name, tries, image, expected)
}

/// The usual image behind an index with these entries; the first is the true one.
fn index(
    name: &'static str,
    tries: &'static str,
    entries: impl Fn(Value) -> Value + Send + Sync + 'static,
    expected: Expected,
) -> Case {
    let image = move |base: &Base| Draft::on(base).image().in_index(&entries);
    documents(16, name, tries, image, expected)
}

pub(super) fn cases() -> Vec<Case> {
    [manifests(), indexes(), addresses()]
        .into_iter()
        .flatten()
        .collect()
}

fn manifests() -> Vec<Case> {
    let invalid = "cannot read the image manifest";
    let there = || prints("cat /f", "x");
    vec![
        text(
            "long",
            "a manifest of 10 MiB",
            |text| [text, &" ".repeat(10 << 20)].concat().into_bytes(),
            Expected::Reading {
                load: "bytes, above the limit of 4194304",
                pull: "sent more than 4194304 bytes",
            },
        ),
        text(
            "nested",
            "arrays in each other, 100,000",
            |text| {
                format!(
                    "{{\"x\":{}{},{}",
                    "[".repeat(100_000),
                    "]".repeat(100_000),
                    &text[1..]
                )
                .into_bytes()
            },
            reading("it is nested deeper than 64 levels"),
        ),
        text(
            "no-json",
            "a page of HTML",
            |_| b"<html>404 not found</html>".to_vec(),
            reading(invalid),
        ),
        text(
            "no-bytes-at-all",
            "nothing",
            |_| Vec::new(),
            reading(invalid),
        ),
        text(
            "not-utf-8-json",
            "a manifest that is no text",
            |text| {
                [
                    &text.as_bytes()[..1],
                    b"\"\xff\xfe\":1,",
                    &text.as_bytes()[1..],
                ]
                .concat()
            },
            reading(invalid),
        ),
        text(
            "utf-16",
            "a manifest in UTF-16",
            |text| text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            reading(invalid),
        ),
        text(
            "byte-order-mark",
            "a mark before the manifest",
            |text| format!("\u{feff}{text}").into_bytes(),
            reading(invalid),
        ),
        text(
            "more-behind-it",
            "a second manifest behind the first",
            |text| format!("{text}{text}").into_bytes(),
            reading(invalid),
        ),
        text(
            "layers-twice",
            "two lists of layers: readers differ on which counts",
            |text| text.replacen('{', "{\"layers\":[],", 1).into_bytes(),
            reading(invalid),
        ),
        text(
            "config-twice",
            "two configurations",
            |text| text.replacen('{', "{\"config\":{},", 1).into_bytes(),
            reading(invalid),
        ),
        text(
            "escapes-in-an-error",
            "a wrong field that changes a terminal",
            |text| {
                text.replacen(
                    '{',
                    "{\"layers\":\"\\u001b[2J\\u202e\",\"\\u001b]0;x\":1,",
                    1,
                )
                .into_bytes()
            },
            reading(invalid),
        ),
        changed(
            16,
            "a-hundred-thousand-layers",
            "a list of 50,000 layers",
            |manifest| {
                manifest["layers"] = json!(vec![
                    json!({"mediaType": LAYER, "digest": digest(b""), "size": 0});
                    20_000
                ])
            },
            reading("the image has 20000 layers, above the limit of 127"),
        ),
        changed(
            16,
            "no-layers-at-all",
            "null in place of the layers",
            |manifest| manifest["layers"] = Value::Null,
            reading("the image has 0 layers, but its config has"),
        ),
        changed(
            16,
            "schema-1",
            "the form of before 2016",
            |manifest| manifest["schemaVersion"] = json!(1),
            reading("schema version 1, which is not supported"),
        ),
        changed(
            16,
            "schema-3",
            "a form that is not there yet",
            |manifest| manifest["schemaVersion"] = json!(3),
            reading("an unknown schema version"),
        ),
        changed(
            16,
            "schema-as-text",
            "the form's number as text",
            |manifest| manifest["schemaVersion"] = json!("2"),
            reading(invalid),
        ),
        changed(
            16,
            "schema-as-a-float",
            "the form's number with a fraction",
            |manifest| manifest["schemaVersion"] = json!(2.5),
            reading(invalid),
        ),
        changed(
            16,
            "both-forms",
            "a manifest that is an index, too",
            |manifest| manifest["manifests"] = json!([]),
            reading("not clearly an image manifest or an index"),
        ),
        changed(
            16,
            "called-an-index",
            "a manifest that calls itself an index",
            |manifest| manifest["mediaType"] = json!(INDEX),
            reading("not clearly an image manifest or an index"),
        ),
        changed(
            16,
            "called-something",
            "a manifest that calls itself something else",
            |manifest| manifest["mediaType"] = json!("text/\u{1b}[2J"),
            reading("not an image manifest or an index"),
        ),
        changed(
            16,
            "chart",
            "what is no image",
            |manifest| {
                manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")
            },
            reading("the manifest is not a container image"),
        ),
        changed(
            16,
            "config-as-a-layer",
            "a configuration in place of a layer",
            |manifest| manifest["layers"][1] = manifest["config"].clone(),
            reading("layer 2 has the media type"),
        ),
        changed(
            16,
            "unknown-fields",
            "fields that nobody knows",
            |manifest| {
                manifest["exec"] = json!("/pwned");
                manifest["subject"] = manifest["config"].clone();
                manifest["layers"][1]["artifactType"] = json!("x");
            },
            there(),
        ),
        changed(
            16,
            "content-in-a-descriptor",
            "a second content in a descriptor",
            |manifest| manifest["layers"][1]["data"] = json!("cHduZWQ="),
            there(),
        ),
        changed(
            16,
            "escapes-in-annotations",
            "notes that change a terminal",
            |manifest| {
                manifest["annotations"] =
                    json!({"org.opencontainers.image.title": "\u{1b}]0;pwned\u{7}\u{1b}[2J"})
            },
            there(),
        ),
        changed(
            16,
            "annotations-of-1-mib",
            "notes of 1 MiB",
            |manifest| manifest["annotations"] = json!({"x": "y".repeat(1 << 20)}),
            there(),
        ),
    ]
}

fn indexes() -> Vec<Case> {
    let platform = |mut entry: Value, os: &str, architecture: &str| {
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    };
    let nested = |levels: usize| {
        move |base: &Base| {
            (0..levels).fold(Draft::on(base).image(), |image, _| {
                image.in_index(|entry| json!([entry]))
            })
        }
    };
    vec![
        index(
            "index",
            "an index with one image",
            |entry| json!([entry]),
            alive(),
        ),
        documents(
            16,
            "indexes-in-indexes",
            "indexes in each other, ten",
            nested(10),
            reading("leads to further indexes more than 4 times"),
        ),
        index(
            "ten-thousand-platforms",
            "an index of 10,000 entries",
            |entry| json!(vec![entry; 10_000]),
            reading("the index has 10000 entries, above the limit of 1000"),
        ),
        index(
            "no-entry",
            "an index of nothing",
            |_| json!([]),
            reading("no matching manifest for linux/amd64"),
        ),
        index(
            "other-platforms",
            "an index without this platform",
            move |entry| {
                json!([
                    platform(entry.clone(), "windows", "amd64"),
                    platform(entry, "linux", "\u{1b}[2J")
                ])
            },
            reading("no matching manifest for linux/amd64"),
        ),
        index(
            "entry-missing",
            "an index that leads nowhere",
            |mut entry| {
                entry["digest"] = json!(digest(b"nowhere"));
                json!([entry])
            },
            Expected::Reading {
                load: "the archive has no \"blobs/sha256/",
                pull: "manifest unknown",
            },
        ),
        index(
            "entry-with-a-path",
            "an index that leads to a path",
            |mut entry| {
                entry["digest"] = json!("sha256:../../../etc/passwd");
                json!([entry])
            },
            reading("cannot read the image manifest"),
        ),
        index(
            "entry-of-another-size",
            "an index with another size of its manifest",
            |mut entry| {
                entry["size"] = json!(7);
                json!([entry])
            },
            Expected::Reading {
                load: "bytes where the archive says 7",
                pull: "size mismatch for the image manifest: got",
            },
        ),
        index(
            "many-annotations",
            "an entry of 2,000 notes",
            |mut entry| {
                entry["annotations"] = (0..2000)
                    .map(|number| (number.to_string(), json!("")))
                    .collect::<serde_json::Map<_, _>>()
                    .into();
                json!([entry])
            },
            reading("2000 annotations, above the limit of 1000"),
        ),
    ]
}

fn foreign(name: &'static str, tries: &'static str, media_type: &'static str) -> Case {
    changed(
        17,
        name,
        tries,
        move |manifest| {
            manifest["layers"][1]["mediaType"] = json!(media_type);
            manifest["layers"][1]["urls"] = json!(["http://169.254.169.254/latest/meta-data/"]);
        },
        reading("layer 2 is not distributable"),
    )
}

fn with_urls(name: &'static str, tries: &'static str, urls: fn() -> Value) -> Case {
    changed(
        17,
        name,
        tries,
        move |manifest| {
            manifest["layers"][1]["urls"] = urls();
            manifest["config"]["urls"] = urls();
        },
        prints("cat /f", "x"),
    )
}

fn addresses() -> Vec<Case> {
    vec![
        foreign(
            "foreign-of-docker",
            "a layer that is to be fetched from elsewhere",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ),
        foreign(
            "foreign-of-oci",
            "the same as OCI has it",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        ),
        with_urls(
            "address-of-a-file",
            "a layer with a file of the host as its address",
            || json!(["file:///tmp/bulkhead-canary/file"]),
        ),
        with_urls(
            "address-of-metadata",
            "a layer with a cloud's own address",
            || json!(["http://169.254.169.254/", "http://[fd00:ec2::254]/"]),
        ),
        with_urls(
            "address-of-the-host",
            "a layer with a port of this host",
            || {
                json!([
                    "http://127.0.0.1:22/",
                    "gopher://localhost:25/_EHLO",
                    "unix:///var/run/docker.sock"
                ])
            },
        ),
        with_urls("a-thousand-addresses", "a thousand addresses", || {
            json!(vec!["http://192.0.2.1/"; 1000])
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_holds_its_image() {
        let base = Base {
            tar: Tar::new().end(),
        };
        let image = Draft::on(&base).image().in_index(|entry| json!([entry]));
        let index: Value = serde_json::from_slice(&image.manifest).expect("json");
        let name = index["manifests"][0]["digest"].as_str().expect("digest");
        assert!(image.blobs.contains_key(name));
    }
}
