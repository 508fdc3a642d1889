//! Every layer of the table of hostile images: it is refused in the words that the table has, or makes an
//! image.

use hostile_images::{Base, Case, Expected, cases};

use super::*;

/// What the manifest says that a layer is packed with.
fn declared(media_type: &str) -> Compression {
    match media_type.rsplit_once('+') {
        None => Compression::None,
        Some((_, "gzip")) => Compression::Gzip,
        Some((_, "zstd")) => Compression::Zstd,
        Some(_) => Compression::Sniff,
    }
}

/// What the first layer that is refused is refused with.
fn unpacked(case: &Case, base: &Base) -> Result<(), String> {
    for layer in case.layers(base) {
        let said = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let out = tempfile::tempfile().unwrap();
        let spec = ConvertSpec {
            blob_bytes: layer.bytes.len() as u64,
            compression: declared(&said(&layer.descriptor["mediaType"])),
            diff_id: said(&layer.diff_id).replace("sha256:", ""),
            limits: ConvertLimits {
                tar_bytes: 1 << 30,
                image_bytes: 1 << 30,
                entries: 100_000,
            },
        };
        unpack(&layer.bytes[..], &out, &spec, &mut |_| {}).map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[test]
fn every_hostile_layer_ends_as_the_table_says() {
    let tar = Tar::new().dir("bin").end();
    let base = Base { tar };
    let mut wrong = Vec::new();
    for case in cases() {
        match (&case.expected, unpacked(&case, &base)) {
            // Where there is a limit of documents, nobody unpacks.
            (Expected::Reading { .. }, _) => {}
            (Expected::Unpacking(words), Err(error)) if error.contains(words) => {}
            (Expected::Unpacking("layer sha256:"), Err(_)) => {}
            (Expected::Runs { .. } | Expected::Starting(_), Ok(())) => {}
            (expected, ended) => wrong.push(format!("{}: {expected:?} {ended:?}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
