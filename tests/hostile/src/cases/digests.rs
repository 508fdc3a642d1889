//! e15 and e25: digests and sizes that are not those of the bytes, and content in another's name.

use serde_json::{Value, json};

use super::{Case, Content, Expected, alive, documents, draft, prints, reading};
use crate::image::{Base, Draft, Image, Layer, digest, gzip};
use crate::tarball::Tar;

/// An image with a layer of which `change` changes what is said of it.
fn lying(
    class: u8,
    name: &'static str,
    tries: &'static str,
    change: impl Fn(&mut Layer) + Send + Sync + 'static,
    expected: Expected,
) -> Case {
    let content = draft(move |base| {
        let mut layer = Layer::plain(Tar::new().file("f", b"x").end());
        change(&mut layer);
        Draft::on(base).layer(layer)
    });
    Case::new(class, name, tries, content, expected)
}

/// The digest of the layer is this text.
fn named(name: &'static str, tries: &'static str, text: &'static str, words: &'static str) -> Case {
    lying(
        15,
        name,
        tries,
        move |layer| layer.descriptor["digest"] = json!(text),
        reading(words),
    )
}

/// The size of the layer is this, whatever it is.
fn sized(name: &'static str, tries: &'static str, size: fn() -> Value, expected: Expected) -> Case {
    lying(
        15,
        name,
        tries,
        move |layer| layer.descriptor["size"] = size(),
        expected,
    )
}

/// The config's descriptor has another member.
fn of_config(base: &Base, member: &str, value: Value) -> Image {
    let draft = Draft::on(base);
    let bytes = draft.configuration().to_string().into_bytes();
    draft.image_with(bytes, |manifest| manifest["config"][member] = value)
}

pub(super) fn cases() -> Vec<Case> {
    [said(), stolen()].into_iter().flatten().collect()
}

fn said() -> Vec<Case> {
    const ZEROS: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let number = "cannot read the image manifest";
    vec![
        lying(
            15,
            "other-bytes",
            "a blob of which one byte is another",
            |layer| layer.bytes[3] ^= 1,
            Expected::Reading {
                load: "is not what the archive says it is",
                pull: "digest mismatch",
            },
        ),
        lying(
            15,
            "cut-blob",
            "a blob that ends early",
            |layer| layer.bytes.truncate(700),
            Expected::Reading {
                load: "has 700 bytes where the archive says 2048",
                pull: "sent 700 of the 2048 bytes of layer sha256:",
            },
        ),
        lying(
            15,
            "longer-blob",
            "a blob with more behind it",
            |layer| layer.bytes.extend([0; 512]),
            Expected::Reading {
                load: "where the archive says 2048",
                pull: "2048 bytes expected",
            },
        ),
        lying(
            15,
            "diff-id-of-another",
            "a diff_id that is not the layer's",
            |layer| layer.diff_id = json!(ZEROS),
            Expected::Unpacking("its diff_id is sha256:0000"),
        ),
        lying(
            15,
            "diff-id-with-a-path",
            "a diff_id that is a path",
            |layer| layer.diff_id = json!("sha256:../../../tmp/bulkhead-canary/pwned"),
            reading("cannot use diff_id 2"),
        ),
        lying(
            15,
            "diff-id-of-sha512",
            "a diff_id of another algorithm",
            |layer| layer.diff_id = json!(format!("sha512:{}", "0".repeat(128))),
            reading("cannot use diff_id 2"),
        ),
        lying(
            15,
            "diff-id-in-capitals",
            "a diff_id in capitals",
            |layer| layer.diff_id = json!(digest(&layer.bytes).to_uppercase()),
            reading("cannot use diff_id 2"),
        ),
        lying(
            15,
            "diff-id-no-text",
            "a diff_id that is a number",
            |layer| layer.diff_id = json!(7),
            reading("cannot read the image config"),
        ),
        named(
            "digest-with-a-path",
            "a digest that is a path of the host",
            "sha256:../../../../tmp/bulkhead-canary/file",
            "cannot read the image manifest",
        ),
        named(
            "digest-of-sha512",
            "a digest of another algorithm",
            "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
            "cannot use the descriptor of layer 2",
        ),
        named(
            "digest-of-md5",
            "a digest that can be forged",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "cannot use the descriptor of layer 2",
        ),
        named(
            "digest-in-capitals",
            "a digest in capitals",
            "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
            "cannot read the image manifest",
        ),
        named(
            "digest-short",
            "a digest of four digits",
            "sha256:e3b0",
            "cannot read the image manifest",
        ),
        named(
            "digest-without-an-algorithm",
            "a digest of nothing",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "cannot read the image manifest",
        ),
        named(
            "digest-with-escapes",
            "a digest that changes a terminal",
            "sha256:\u{1b}[2J\u{202e}",
            "cannot read the image manifest",
        ),
        named(
            "digest-empty",
            "no digest",
            "",
            "cannot read the image manifest",
        ),
        lying(
            15,
            "blob-missing",
            "a blob that is not there",
            |layer| {
                layer.descriptor["digest"] = json!(ZEROS);
                layer.bytes.clear();
            },
            Expected::Reading {
                load: "has 0 bytes where the archive says 2048",
                pull: "sent 0 of the 2048 bytes of layer sha256:",
            },
        ),
        sized(
            "size-negative-in-json",
            "a blob of -1 bytes",
            || json!(-1),
            reading(number),
        ),
        sized(
            "size-no-whole-number",
            "a blob of 2048.5 bytes",
            || json!(2048.5),
            reading(number),
        ),
        sized(
            "size-with-an-exponent",
            "a blob of 1e300 bytes",
            || json!(1e300),
            reading(number),
        ),
        sized(
            "size-as-text",
            "a blob's size as text",
            || json!("2048"),
            reading(number),
        ),
        sized(
            "size-of-exabytes",
            "a blob of 8 EiB",
            || json!(i64::MAX),
            reading("layer 2 has 9223372036854775807 bytes, above the limit"),
        ),
        sized(
            "size-zero",
            "a blob of no bytes that has some",
            || json!(0),
            Expected::Reading {
                load: "where the archive says 0",
                pull: "digest mismatch for layer",
            },
        ),
        documents(
            15,
            "config-of-another",
            "a configuration that is not that of its digest",
            |base| {
                let draft = Draft::on(base).with(json!({"Labels": {"its": "own"}}));
                let bytes = draft.configuration().to_string().into_bytes();
                let name = digest(&bytes);
                let mut image = draft.image();
                image
                    .blobs
                    .insert(name, [&bytes[..bytes.len() - 1], b" "].concat());
                image
            },
            Expected::Reading {
                load: "is not what the archive says it is",
                pull: "digest mismatch for the image config",
            },
        ),
        documents(
            15,
            "config-size",
            "a configuration's size that is another",
            |base| of_config(base, "size", json!(9)),
            Expected::Reading {
                load: "where the archive says 9",
                pull: "sent more than 9 bytes of the image config",
            },
        ),
        documents(
            15,
            "config-digest-with-a-path",
            "a configuration's digest that is a path",
            |base| of_config(base, "digest", json!("sha256:../config")),
            reading("cannot use the descriptor of the image config: invalid digest"),
        ),
    ]
}

fn stolen() -> Vec<Case> {
    vec![
        Case::new(
            25,
            "diff-id-of-the-base",
            "other content in the name of a layer that others use",
            draft(|base| {
                let tar = Tar::new().file("bin/sh", b"pwned").end();
                let mut layer = Layer::plain(tar);
                layer.diff_id = json!(digest(&base.tar));
                Draft::on(base).layer(layer)
            }),
            Expected::Unpacking("its diff_id is"),
        ),
        Case::new(
            25,
            "config-of-the-base",
            "the id of an image that others use, over other bytes",
            draft(|base| {
                let tar = Tar::new().file("bin/sh", b"pwned").end();
                let mut draft = Draft::on(base);
                draft.layers[0] = Layer::packed(tar, "", &digest(&base.tar));
                draft
            }),
            Expected::Unpacking("its diff_id is"),
        ),
        // A pull has the true one already, and asks for no other.
        Case::new(
            25,
            "digest-of-the-base",
            "other bytes under the digest of a blob that others use",
            Content::Archive(Box::new(|base| {
                let mut draft = Draft::on(base);
                draft.layers[0].bytes = Tar::new().file("bin/sh", b"pwned").end();
                draft.image().archive("hostile:latest")
            })),
            reading("bytes where the archive says"),
        ),
        Case::new(
            25,
            "base-by-another-blob",
            "a layer that others use, packed otherwise",
            draft(|base| {
                let mut draft = Draft::on(base);
                draft.layers[0] = Layer::packed(gzip(&base.tar), "+gzip", &digest(&base.tar));
                draft
            }),
            alive(),
        ),
        documents(
            25,
            "one-digest-two-sizes",
            "one blob with two sizes",
            |base| {
                let draft = Draft::on(base).layer(Layer::plain(base.tar.clone()));
                let bytes = draft.configuration().to_string().into_bytes();
                draft.image_with(bytes, |manifest| manifest["layers"][1]["size"] = json!(5))
            },
            reading("two different sizes"),
        ),
        Case::new(
            25,
            "many-small-blobs",
            "six layers of a file each",
            draft(|base| {
                (0..6).fold(Draft::on(base), |draft, number| {
                    draft.tar(Tar::new().file(format!("f{number}"), b"x"))
                })
            }),
            prints("cat /f*", "xxxxxx"),
        ),
    ]
}
