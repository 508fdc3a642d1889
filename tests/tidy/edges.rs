//! Which of our crates may depend on which, and within the command, which folder on which:
//! `cli -> doctor -> sandbox -> {vmm, file-server, jail, images, protocol, tar}`, `file-server -> jail`,
//! `images -> {protocol, tar}`, `guest-agent -> {protocol, tar}`, and nothing the other way.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{assert_none, list, metadata, root, text};

/// Every edge between crates of the workspace; a new one is a decision.
const EDGES: &[(&str, &str)] = &[
    ("bulkhead", "bulkhead-file-server"),
    ("bulkhead", "bulkhead-images"),
    ("bulkhead", "bulkhead-jail"),
    ("bulkhead", "bulkhead-protocol"),
    ("bulkhead", "bulkhead-tar"),
    ("bulkhead", "vmm"),
    ("bulkhead-bench", "bulkhead-harness"),
    ("bulkhead-file-server", "bulkhead-jail"),
    ("bulkhead-harness", "bulkhead-fixtures"),
    // It breaks the protocol, which it must know for that.
    ("bulkhead-hostile-agent", "bulkhead-protocol"),
    // Patterns and modes of a Dockerfile mean the same on both sides of a VM's border.
    ("bulkhead-images", "bulkhead-protocol"),
    // What a build takes from a folder goes to its VM as a tar.
    ("bulkhead-images", "bulkhead-tar"),
    ("guest-agent", "bulkhead-protocol"),
    ("guest-agent", "bulkhead-tar"),
];

/// Edges that only tests have.
const TEST_EDGES: &[(&str, &str)] = &[
    ("bulkhead", "bulkhead-fixtures"),
    ("bulkhead", "bulkhead-harness"),
    ("bulkhead", "bulkhead-hostile"),
    ("bulkhead-images", "bulkhead-hostile"),
    ("guest-agent", "bulkhead-hostile"),
];

/// Crates that no async runtime or image code may get into: they see guest bytes or run as PID 1.
const WITHOUT_RUNTIME: &[&str] = &[
    "vmm",
    "guest-agent",
    "bulkhead-protocol",
    "bulkhead-tar",
    "bulkhead-file-server",
    "bulkhead-jail",
];

/// What they may not name.
const RUNTIMES: &[&str] = &["tokio", "reqwest", "oci-spec", "futures-util"];

/// In the command's sources, folders and what they must not use.
const FOLDERS: &[(&str, &[&str])] = &[
    ("src/sandbox", &["crate::cli", "crate::doctor"]),
    ("src/doctor", &["crate::cli"]),
];

fn members(metadata: &Value) -> Vec<&Value> {
    list(metadata, "packages")
        .iter()
        .filter(|package| package["source"].is_null())
        .collect()
}

fn edge_violations(members: &[&Value]) -> Vec<String> {
    let names: BTreeSet<_> = members.iter().map(|member| text(member, "name")).collect();
    let mut violations = Vec::new();
    for member in members {
        let from = text(member, "name");
        for dependency in list(member, "dependencies") {
            let to = text(dependency, "name");
            let for_tests = dependency["kind"] == "dev";
            let known =
                EDGES.contains(&(from, to)) || (for_tests && TEST_EDGES.contains(&(from, to)));
            if names.contains(to) && !known {
                violations.push(format!("{from} -> {to} is a new edge"));
            }
            if WITHOUT_RUNTIME.contains(&from) && RUNTIMES.contains(&to) {
                violations.push(format!(
                    "{from} -> {to}: there is no such thing in this crate"
                ));
            }
        }
    }
    violations
}

fn use_violations(path: &str, source: &str, forbidden: &[&str]) -> Vec<String> {
    let uses = forbidden.iter().filter(|name| source.contains(**name));
    uses.map(|name| format!("{path} uses {name}")).collect()
}

/// Sources below a folder.
pub(crate) fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn crates_depend_on_each_other_one_way() {
    let metadata = metadata();
    let members = members(&metadata);
    assert!(members.len() > 5, "the workspace's crates are seen");
    assert_none(&edge_violations(&members));
}

#[test]
fn folders_of_the_command_depend_on_each_other_one_way() {
    for (folder, forbidden) in FOLDERS {
        let sources = sources(&root().join(folder));
        assert!(!sources.is_empty(), "{folder} has sources");
        for path in sources {
            let source = fs::read_to_string(&path).expect("read");
            assert_none(&use_violations(
                &path.display().to_string(),
                &source,
                forbidden,
            ));
        }
    }
}

#[test]
fn bad_samples_are_seen() {
    let member = |name: &str, to: &str, kind: Option<&str>| serde_json::json!({"name": name, "dependencies": [{"name": to, "kind": kind}]});
    let (vmm, images) = (
        member("vmm", "bulkhead-images", None),
        member("bulkhead-images", "serde", None),
    );
    assert_eq!(
        edge_violations(&[&vmm, &images]),
        ["vmm -> bulkhead-images is a new edge"]
    );
    let (command, harness) = (
        member("bulkhead", "bulkhead-harness", None),
        member("bulkhead-harness", "serde", None),
    );
    assert_eq!(edge_violations(&[&command, &harness]).len(), 1);
    let command = member("bulkhead", "bulkhead-harness", Some("dev"));
    assert!(edge_violations(&[&command, &harness]).is_empty());
    assert_eq!(edge_violations(&[&member("vmm", "tokio", None)]).len(), 1);
    assert_eq!(
        use_violations("f", "use crate::cli::run;", &["crate::cli"]),
        ["f uses crate::cli"]
    );
}
