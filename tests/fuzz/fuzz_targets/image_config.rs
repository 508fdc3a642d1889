//! What the host makes of any image config. What is taken keeps to every limit, has no NUL byte where
//! a process would get it, means the same when it is read again, and can be inspected; what is said
//! of the rest is fit for a terminal.
#![no_main]

use bulkhead_fuzz::words::{assert_printable, assert_text_printable};
use images::limits::{CONFIG_ENTRIES, HISTORY, LAYERS};
use images::{Digest, Image, ImageConfig, Platform, Reference, inspect_json};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn check(config: &ImageConfig) {
    assert!(config.diff_ids.len() <= LAYERS && config.history.len() <= HISTORY);
    let lists = [
        Some(&config.env),
        config.entrypoint.as_ref(),
        config.cmd.as_ref(),
        Some(&config.volumes),
        config.shell.as_ref(),
        config.healthcheck.as_ref().map(|check| &check.test),
    ];
    for list in lists.into_iter().flatten() {
        assert!(list.len() <= CONFIG_ENTRIES);
        assert!(!list.iter().any(|text| text.contains('\0')));
    }
    for text in [&config.user, &config.working_dir, &config.stop_signal] {
        assert!(!text.contains('\0'));
    }
    if let Some(created) = &config.created {
        assert_text_printable(created.as_str());
    }
    config
        .check_layers(config.diff_ids.len())
        .expect("as many layers");
    if let Err(error) = config.check_platform(&Platform::new("linux", "amd64", None)) {
        assert_printable(&error);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let config = match ImageConfig::parse(bytes) {
        Ok(config) => config,
        Err(error) => return assert_printable(&error),
    };
    assert_eq!(ImageConfig::parse(bytes).ok().as_ref(), Some(&config));
    check(&config);
    let id = Digest::of(bytes);
    let image = Image {
        id,
        manifest_digest: id,
        config,
        layers: Vec::new(),
        tags: vec![Reference::parse("a").expect("a name")],
        repo_digests: Vec::new(),
        size: 0,
    };
    let inspected = serde_json::to_vec(&inspect_json(&image)).expect("JSON");
    let inspected: Value = serde_json::from_slice(&inspected).expect("own JSON");
    assert_eq!(inspected["Id"], id.to_string());
});
