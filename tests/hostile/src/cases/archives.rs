//! e19 and e21: archives of `load` whose members, links and names lead elsewhere.

use serde_json::json;

use super::{Case, Content, Expected, prints, reading};
use crate::image::{Base, CONFIG, Draft, INDEX, MANIFEST, digest};
use crate::tarball::{GNU, Header, Tar};

/// What a `docker save` archive is made of.
struct Saved {
    config: Vec<u8>,
    layer: Vec<u8>,
    name: String,
}

impl Saved {
    fn of(base: &Base) -> Self {
        let config = Draft::on(base).configuration().to_string().into_bytes();
        Self {
            config,
            layer: base.tar.clone(),
            name: "hostile:latest".into(),
        }
    }

    fn list(&self, config: &str, layers: &[&str]) -> Vec<u8> {
        json!([{"Config": config, "RepoTags": [self.name], "Layers": layers}])
            .to_string()
            .into_bytes()
    }

    /// The usual members, with another list of images.
    fn with_list(&self, list: &[u8]) -> Tar {
        Tar::new()
            .file("config.json", &self.config)
            .file("layer.tar", &self.layer)
            .file("manifest.json", list)
    }
}

fn archive(
    class: u8,
    name: &'static str,
    tries: &'static str,
    make: impl Fn(&Saved) -> Vec<u8> + Send + Sync + 'static,
    expected: Expected,
) -> Case {
    let content = Content::Archive(Box::new(move |base| make(&Saved::of(base))));
    Case::new(class, name, tries, content, expected)
}

/// The image's name is this text.
fn named(name: &'static str, tries: &'static str, text: &'static str, words: &'static str) -> Case {
    archive(
        19,
        name,
        tries,
        move |saved| {
            let list =
                json!([{"Config": "config.json", "RepoTags": [text], "Layers": ["layer.tar"]}]);
            saved.with_list(list.to_string().as_bytes()).end()
        },
        reading(words),
    )
}

pub(super) fn cases() -> Vec<Case> {
    [names(), members(), forms()]
        .into_iter()
        .flatten()
        .collect()
}

fn names() -> Vec<Case> {
    let word = "cannot use the image name";
    vec![
        named(
            "name-up",
            "a name that is a path",
            "../../../tmp/bulkhead-canary/pwned:latest",
            word,
        ),
        named(
            "name-absolute",
            "a name that is an absolute path",
            "/etc/passwd",
            word,
        ),
        named(
            "name-in-capitals",
            "a name in capitals",
            "BusyBox:latest",
            word,
        ),
        named(
            "name-of-other-letters",
            "a name that looks like another",
            "bu\u{455}ybox:latest",
            word,
        ),
        named(
            "name-of-another-registry",
            "a registry that looks like another",
            "d\u{43e}cker.io/library/busybox:latest",
            word,
        ),
        named(
            "name-with-escapes",
            "a name that changes a terminal",
            "busybox:\u{1b}[2J",
            word,
        ),
        named(
            "name-of-two-lines",
            "a name of two lines",
            "busybox:latest\nLoaded image: x",
            word,
        ),
        named(
            "name-with-an-option",
            "a tag that looks like an option",
            "busybox:--privileged",
            word,
        ),
        named(
            "name-of-10000-letters",
            "a name of 10,000 letters",
            Box::leak("n".repeat(10_000).into_boxed_str()),
            word,
        ),
        named(
            "name-with-two-tags",
            "a name with two tags",
            "busybox:a:b",
            word,
        ),
        named("name-empty", "no name", "", word),
    ]
}

fn members() -> Vec<Case> {
    let runs = || prints("grep -c ^root: /etc/passwd", "1\n");
    let missing = |words| reading(words);
    let link = |kind: u8, target: &'static str| {
        move |saved: &Saved| {
            Tar::new()
                .file("config.json", &saved.config)
                .link(kind, "layer.tar", target)
                .file("manifest.json", &saved.list("config.json", &["layer.tar"]))
                .end()
        }
    };
    vec![
        archive(
            21,
            "list-as-a-link-out",
            "a list of images that is a link to the host",
            |_| {
                Tar::new()
                    .link(
                        b'2',
                        "manifest.json",
                        "../../../../tmp/bulkhead-canary/file",
                    )
                    .end()
            },
            missing("so it is no image"),
        ),
        archive(
            21,
            "list-as-a-link",
            "a list of images that is a link to a member",
            |saved| {
                Tar::new()
                    .file("config.json", &saved.config)
                    .file("layer.tar", &saved.layer)
                    .file("other", &saved.list("config.json", &["layer.tar"]))
                    .link(b'2', "manifest.json", "./other")
                    .end()
            },
            runs(),
        ),
        archive(
            21,
            "list-as-a-circle",
            "a list of images that is a link to itself",
            |_| {
                Tar::new()
                    .link(b'2', "manifest.json", "manifest.json")
                    .end()
            },
            missing("leads over more than 8 links"),
        ),
        archive(
            21,
            "layer-up",
            "a layer above the archive",
            |saved| {
                saved
                    .with_list(
                        &saved.list("config.json", &["../../../../tmp/bulkhead-canary/file"]),
                    )
                    .end()
            },
            missing("the archive has no"),
        ),
        archive(
            21,
            "layer-absolute",
            "a layer that is a file of the host",
            |saved| {
                saved
                    .with_list(&saved.list("config.json", &["/etc/passwd"]))
                    .end()
            },
            missing("the archive has no"),
        ),
        archive(
            21,
            "config-up",
            "a configuration above the archive",
            |saved| {
                saved
                    .with_list(&saved.list("../../../../etc/passwd", &["layer.tar"]))
                    .end()
            },
            missing("the archive has no"),
        ),
        archive(
            21,
            "layer-as-a-link-out",
            "a layer that is a link to the host",
            link(b'2', "/tmp/bulkhead-canary/file"),
            missing("the archive has no"),
        ),
        archive(
            21,
            "layer-as-a-link-up",
            "the same by steps up",
            link(b'2', "../../../../../tmp/bulkhead-canary/file"),
            missing("the archive has no"),
        ),
        archive(
            21,
            "layer-as-a-hard-link",
            "a layer that is a hard link to the host",
            link(b'1', "/etc/shadow"),
            missing("the archive has no"),
        ),
        archive(
            21,
            "layer-as-a-device",
            "a layer that is a disk",
            |saved| {
                let mut node = Header::new(b'4', "layer.tar");
                node.device = (8, 0);
                Tar::new()
                    .file("config.json", &saved.config)
                    .header(&node, b"")
                    .file("manifest.json", &saved.list("config.json", &["layer.tar"]))
                    .end()
            },
            missing("the archive has no"),
        ),
        archive(
            21,
            "member-up",
            "members that lead up, which the list names",
            |saved| {
                Tar::new()
                    .file("../../config.json", &saved.config)
                    .file("../../../tmp/bulkhead-canary/pwned", &saved.layer)
                    .file(
                        "manifest.json",
                        &saved.list("config.json", &["../tmp/bulkhead-canary/pwned"]),
                    )
                    .end()
            },
            runs(),
        ),
        archive(
            21,
            "repositories-up",
            "the oldest form's list of names, with a path",
            |saved| {
                let mut tar = saved.with_list(&saved.list("config.json", &["layer.tar"]));
                tar = tar.file(
                    "repositories",
                    br#"{"../../../tmp/bulkhead-canary":{"pwned":"x"}}"#,
                );
                tar.end()
            },
            runs(),
        ),
        archive(
            21,
            "list-twice",
            "two lists of images: the last counts",
            |saved| {
                Tar::new()
                    .file("manifest.json", b"[]")
                    .file("config.json", &saved.config)
                    .file("layer.tar", &saved.layer)
                    .file("manifest.json", &saved.list("config.json", &["layer.tar"]))
                    .end()
            },
            runs(),
        ),
        archive(
            21,
            "layers-list-of-20000",
            "a list of 20,000 layers",
            |saved| {
                saved
                    .with_list(&saved.list("config.json", &vec!["layer.tar"; 20_000]))
                    .end()
            },
            reading("the image has 20000 layers, above the limit of 127"),
        ),
        archive(
            21,
            "images-of-20000",
            "a list of 20,000 images",
            |saved| {
                saved
                    .with_list(
                        json!(vec![
                            json!({"Config": "config.json", "Layers": ["layer.tar"]});
                            20_000
                        ])
                        .to_string()
                        .as_bytes(),
                    )
                    .end()
            },
            reading("holds 20000 images, above the limit of 1000"),
        ),
        archive(
            21,
            "list-nested",
            "a list of lists, 100,000 deep",
            |saved| {
                saved
                    .with_list(
                        [vec![b'['; 100_000], vec![b']'; 100_000]]
                            .concat()
                            .as_slice(),
                    )
                    .end()
            },
            reading("it is nested deeper than 64 levels"),
        ),
        archive(
            21,
            "config-with-a-wrong-name",
            "a configuration under another's digest",
            |saved| {
                let name = format!("{}.json", "0".repeat(64));
                Tar::new()
                    .file(&name, &saved.config)
                    .file("layer.tar", &saved.layer)
                    .file("manifest.json", &saved.list(&name, &["layer.tar"]))
                    .end()
            },
            reading("is not what the archive says it is"),
        ),
    ]
}

fn forms() -> Vec<Case> {
    vec![
        archive(
            21,
            "sparse-member",
            "a member of 8 EiB that is all hole",
            |saved| {
                let records: [(&str, &[u8]); 2] = [
                    ("GNU.sparse.size", b"9223372036854775807"),
                    ("GNU.sparse.map", b""),
                ];
                Tar::new()
                    .pax(&records)
                    .file("layer.tar", b"")
                    .file("config.json", &saved.config)
                    .end()
            },
            reading("is sparse, which is not supported"),
        ),
        archive(
            21,
            "member-of-exabytes",
            "a member of 8 EiB",
            |_| {
                Tar::new()
                    .pax(&[("size", b"9223372036854775807")])
                    .file("layer.tar", b"x")
                    .end()
            },
            reading("above the limit"),
        ),
        archive(
            21,
            "member-name-of-1-mib",
            "a member's name of 1 MiB",
            |_| {
                Tar::new()
                    .long(b'L', vec![b'n'; 1 << 20])
                    .file("x", b"")
                    .end()
            },
            reading("above the limit of 4096"),
        ),
        archive(
            21,
            "member-records-of-1-mib",
            "a member's records of 1 MiB",
            |_| {
                Tar::new()
                    .pax(&[("comment", &vec![b'x'; 1 << 20])])
                    .file("x", b"")
                    .end()
            },
            reading("above the limit of 65536"),
        ),
        archive(
            21,
            "members-of-30000",
            "30,000 members",
            |_| {
                (0..30_000)
                    .fold(Tar::new(), |tar, number| tar.file(number.to_string(), b""))
                    .end()
            },
            reading("it has more than 20000 members"),
        ),
        archive(
            21,
            "headers-in-a-row",
            "a hundred extended headers of one member",
            |_| {
                (0..100)
                    .fold(Tar::new(), |tar, _| tar.pax(&[("path", b"x")]))
                    .file("x", b"")
                    .end()
            },
            reading("more than 8 extended headers"),
        ),
        archive(
            21,
            "checksum-of-a-member",
            "a member's header that was changed",
            |saved| {
                let mut tar = saved.with_list(b"[]").end();
                tar[1] ^= 1;
                tar
            },
            reading("a wrong checksum"),
        ),
        archive(
            21,
            "cut-archive",
            "half of an archive",
            |saved| {
                let mut tar = saved.with_list(b"[]").end();
                tar.truncate(tar.len() / 2);
                tar
            },
            reading("it ends too early"),
        ),
        archive(
            21,
            "no-archive",
            "bytes of no kind",
            |_| b"neither here nor there ".repeat(100),
            reading("a wrong checksum"),
        ),
        archive(
            21,
            "empty-archive",
            "an archive of nothing",
            |_| Tar::new().end(),
            reading("so it is no image"),
        ),
        archive(
            21,
            "layout-of-itself",
            "a layout whose index is its own entry",
            |_| {
                // No document can hold its own digest: what it leads to is another index of the same form.
                let inner = json!({"schemaVersion": 2, "manifests": []})
                    .to_string()
                    .into_bytes();
                let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": INDEX, "digest": digest(&inner), "size": inner.len()}]});
                let path = digest(&inner).replace(':', "/");
                Tar::new()
                    .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
                    .file("index.json", index.to_string().as_bytes())
                    .file(format!("blobs/{path}"), &inner)
                    .end()
            },
            reading("no matching manifest for linux/amd64"),
        ),
        archive(
            21,
            "layout-of-another-version",
            "a layout of version 9",
            |_| {
                Tar::new()
                    .file("oci-layout", br#"{"imageLayoutVersion":"9.0.0"}"#)
                    .file("index.json", b"{}")
                    .end()
            },
            reading("the OCI layout has version"),
        ),
        archive(
            21,
            "layout-with-a-link",
            "a layout whose blobs are a link to the host",
            |_| {
                let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": CONFIG, "digest": digest(b"x"), "size": 1}, "layers": []}).to_string().into_bytes();
                let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len()}]});
                Tar::new()
                    .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
                    .file("index.json", index.to_string().as_bytes())
                    .link(b'2', "blobs/sha256", "/tmp/bulkhead-canary")
                    .end()
            },
            reading("the archive has no"),
        ),
        archive(
            21,
            "long-member-of-gnu",
            "a list of images by a long name",
            |saved| {
                Tar::new()
                    .file("config.json", &saved.config)
                    .file("layer.tar", &saved.layer)
                    .header(
                        &Header {
                            magic: GNU,
                            ..Header::new(b'L', "././@LongLink")
                        },
                        b"manifest.json\0../pwned",
                    )
                    .file("cut", &saved.list("config.json", &["layer.tar"]))
                    .end()
            },
            prints("grep -c ^root: /etc/passwd", "1\n"),
        ),
    ]
}
