//! What the host makes of any manifest or index. What is taken keeps to every limit, means the same
//! when it is read again, and could not be taken for the other kind; what is said of the rest is fit
//! for a terminal.
#![no_main]

use std::collections::BTreeMap;

use bulkhead_fuzz::words::assert_printable;
use images::Platform;
use images::limits::{
    ANNOTATIONS, CONFIG_BYTES, IMAGE_BYTES, INDEX_ENTRIES, LAYER_BYTES, LAYERS, MANIFEST_BYTES,
};
use images::manifest::{ACCEPTED, Document, Index, Manifest, parse};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn check_index(index: &Index, document: &Value) {
    assert!(document["config"].is_null() && document["layers"].is_null());
    assert!(index.entries.len() <= INDEX_ENTRIES);
    for entry in &index.entries {
        assert!(entry.blob.size <= MANIFEST_BYTES && entry.annotations.len() <= ANNOTATIONS);
    }
    for wanted in [
        Platform::new("linux", "amd64", None),
        Platform::new("linux", "arm", Some("v7")),
    ] {
        match index.select(&wanted) {
            Ok(entry) => {
                let fits = |offered| wanted.fit(offered).is_some();
                assert!(entry.platform.as_ref().is_none_or(fits));
            }
            Err(error) => assert_printable(&error),
        }
    }
}

fn check_manifest(manifest: &Manifest, document: &Value) {
    assert!(document["manifests"].is_null());
    assert!(ACCEPTED.contains(&manifest.media_type));
    assert!(manifest.config.size <= CONFIG_BYTES && manifest.layers.len() <= LAYERS);
    let mut sizes = BTreeMap::new();
    for layer in &manifest.layers {
        assert!(layer.blob.size <= LAYER_BYTES);
        let before = sizes.insert(layer.blob.digest, layer.blob.size);
        assert!(before.is_none_or(|size| size == layer.blob.size));
    }
    assert!(sizes.values().sum::<u64>() <= IMAGE_BYTES);
}

fuzz_target!(|bytes: &[u8]| {
    let document = match parse(bytes) {
        Ok(document) => document,
        Err(error) => return assert_printable(&error),
    };
    assert_eq!(parse(bytes).ok().as_ref(), Some(&document));
    // Text that is none, where nobody looks, is no reason to refuse a document.
    let value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    match &document {
        Document::Index(index) => check_index(index, &value),
        Document::Manifest(manifest) => check_manifest(manifest, &value),
    }
});
