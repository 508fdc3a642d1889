//! Checks of the tree itself: what may depend on what, licenses, form of files, the guest
//! kernel's options. Run by `cargo test`; needs no network once the dependencies are fetched.
//!
//! Each check is a function from text to violations, so that it is itself tested on a bad sample.

mod dependencies;
mod edges;
mod files;
mod guest_kernel;
mod invariants;
mod license;
mod past;

use std::path::{Path, PathBuf};

/// The root of the work tree.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// The text of a file in the work tree.
fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails with one violation a line.
#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n  {}", violations.join("\n  "));
}

/// What `cargo metadata` says of the workspace, with the dependencies of one platform.
fn metadata() -> serde_json::Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .current_dir(root())
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform=x86_64-unknown-linux-gnu",
        ])
        .output()
        .expect("start cargo");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {errors}");
    serde_json::from_slice(&output.stdout).expect("cargo's metadata is JSON")
}

/// The array behind `key`.
fn list<'a>(value: &'a serde_json::Value, key: &str) -> &'a [serde_json::Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("no array {key}"))
}

/// The string behind `key`.
fn text<'a>(value: &'a serde_json::Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no string {key}"))
}
