//! Invariants of ARCHITECTURE.md that names alone can break: what is linked into the command, and
//! what the hypervisor's sources call.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::edges::sources;
use crate::{assert_none, list, metadata, root, text};

/// The command, whose processes all run on the host.
const COMMAND: &str = "bulkhead";

/// What decompresses. None is linked into the command, not even by others' doing: no byte of a
/// layer is decompressed on the host. Of [`PACKER`], the compressing half is used.
const DECOMPRESSORS: &[&str] = &[
    "async-compression",
    "brotli",
    "bzip2",
    "flate2",
    "libdeflater",
    "libz-sys",
    "liblzma",
    "lz4",
    "lz4_flex",
    "lzma-rs",
    "lzma-rust2",
    "miniz_oxide",
    "ruzstd",
    "snap",
    "xz2",
    "zlib-rs",
    "zstd",
    "zstd-safe",
];

/// What compresses layers for a registry, and what that is made of. It could decompress, too: so one
/// source alone may name it, and that says only this of it.
const PACKER: &str = "flate2";
const PACKER_IS_MADE_OF: &[&str] = &["flate2", "zlib-rs"];
const PACKS: &str = "images/src/registry/gzip.rs";
const PACKER_USES: &[&str] = &["flate2::{Compress, Compression, Crc, FlushCompress};"];

/// Readers of tar archives, and the only crate of the command's that has one: for the outer archive
/// of `load`, whose members it stores as they are.
const TAR: &str = "tar";
const READER_OF_ARCHIVES: &str = "bulkhead-images";

/// Where the command may use its own reader and writer of archives: the two ends of `cp`. No layer
/// comes there.
/// A step of a build writes archives of single files and reads none.
const COPIES: &[&str] = &[
    "src/cli/cp",
    "src/sandbox/receive",
    "src/sandbox/build/step",
];
const OWN_TAR: &str = "tarball::";

/// What makes a Rust reference of an address: a guest changes its memory at any time, which no
/// reference allows.
const REFERENCE: &str = "from_raw_parts";

/// Names of packages and of what they depend on in a build, without what only tests use.
fn graph(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeMap<_, _> = list(metadata, "packages")
        .iter()
        .map(|package| (text(package, "id"), text(package, "name").to_owned()))
        .collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in list(&metadata["resolve"], "nodes") {
        let built = list(node, "deps").iter().filter(|dependency| {
            let kinds = list(dependency, "dep_kinds");
            kinds.iter().any(|kind| kind["kind"].is_null())
        });
        graph
            .entry(names[text(node, "id")].clone())
            .or_default()
            .extend(built.map(|dependency| names[text(dependency, "pkg")].clone()));
    }
    graph
}

/// Everything that is linked into a package.
fn linked<'a>(graph: &'a BTreeMap<String, BTreeSet<String>>, from: &'a str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::from([from]);
    let mut pending = vec![from];
    while let Some(name) = pending.pop() {
        for next in graph.get(name).into_iter().flatten() {
            if found.insert(next) {
                pending.push(next);
            }
        }
    }
    found
}

fn link_violations(graph: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let linked = linked(graph, COMMAND);
    let decompressors = DECOMPRESSORS
        .iter()
        .filter(|name| linked.contains(**name))
        .filter(|name| {
            let mut users = linked
                .iter()
                .filter(|user| graph.get(**user).is_some_and(|to| to.contains(**name)));
            !PACKER_IS_MADE_OF.contains(name)
                || !users.all(|user| matches!(*user, READER_OF_ARCHIVES | PACKER))
        })
        .map(|name| format!("{COMMAND} links {name}, which decompresses"));
    let readers = linked
        .iter()
        .filter(|name| **name != READER_OF_ARCHIVES)
        .filter(|name| graph.get(**name).is_some_and(|to| to.contains(TAR)))
        .map(|name| format!("{name} -> {TAR}: only {READER_OF_ARCHIVES} reads archives"));
    decompressors.chain(readers).collect()
}

/// What a source says of [`PACKER`] besides what it may.
fn packer_violations(path: &str, source: &str) -> Vec<String> {
    let name = format!("{PACKER}::");
    let uses = source.match_indices(&name).filter(|(at, _)| {
        let here = &source[*at..];
        path != PACKS || !PACKER_USES.iter().any(|allowed| here.starts_with(allowed))
    });
    uses.map(|(at, _)| {
        let line = source[at..].lines().next().unwrap_or_default();
        format!("{path}: {line}")
    })
    .collect()
}

fn reference_violations(path: &str, source: &str) -> Vec<String> {
    let lines = (1..).zip(source.lines());
    lines
        .filter(|(_, line)| line.contains(REFERENCE))
        .map(|(number, _)| format!("{path}:{number}: {REFERENCE}"))
        .collect()
}

#[test]
fn nothing_in_the_command_decompresses() {
    let graph = graph(&metadata());
    let linked = linked(&graph, COMMAND);
    assert!(linked.contains("reqwest"), "others' crates are seen");
    assert!(linked.contains(READER_OF_ARCHIVES) && graph[READER_OF_ARCHIVES].contains(TAR));
    assert!(
        graph["guest-agent"].contains("flate2"),
        "the name is the right one"
    );
    assert_none(&link_violations(&graph));
}

#[test]
fn what_could_decompress_only_compresses() {
    let mut users = 0;
    for folder in ["src", "images/src", "vmm/src", "file-server/src"] {
        for path in sources(&root().join(folder)) {
            let source = fs::read_to_string(&path).expect("read");
            let below = path.strip_prefix(root()).expect("a source");
            let below = below.to_string_lossy();
            users += usize::from(source.contains(&format!("{PACKER}::")));
            // Tests, which stand last, look at what was packed; they are not in the command.
            let code = source
                .split("#[cfg(test)]\nmod ")
                .next()
                .unwrap_or_default();
            assert_none(&packer_violations(&below, code));
        }
    }
    assert_eq!(users, 1, "the one use is seen");
}

#[test]
fn only_copies_use_archives_of_guests() {
    let folder = root().join("src");
    let mut users = 0;
    for path in sources(&folder) {
        let source = fs::read_to_string(&path).expect("read");
        let below = path.strip_prefix(root()).expect("a source");
        let is_copy = COPIES
            .iter()
            .any(|start| below.to_string_lossy().starts_with(start));
        users += usize::from(is_copy && source.contains(OWN_TAR));
        assert!(
            is_copy || !source.contains(OWN_TAR),
            "{} uses {OWN_TAR}",
            below.display()
        );
    }
    assert!(users > 1, "the name is the right one");
}

#[test]
fn guest_memory_is_never_a_reference() {
    let sources = sources(&root().join("vmm/src"));
    assert!(sources.len() > 20, "the sources are seen");
    for path in sources {
        let source = fs::read_to_string(&path).expect("read");
        assert_none(&reference_violations(&path.display().to_string(), &source));
    }
}

#[test]
fn bad_samples_are_seen() {
    let package = |name: &str| serde_json::json!({"id": name, "name": name});
    let node = |name: &str, to: &[(&str, Option<&str>)]| {
        let deps: Vec<_> = to
            .iter()
            .map(|(to, kind)| serde_json::json!({"pkg": to, "dep_kinds": [{"kind": kind}]}))
            .collect();
        serde_json::json!({"id": name, "deps": deps})
    };
    let names = [COMMAND, READER_OF_ARCHIVES, "http", "flate2", TAR];
    let bad = serde_json::json!({
        "packages": names.map(package),
        "resolve": {"nodes": [
            node(COMMAND, &[("http", None), (READER_OF_ARCHIVES, None), (TAR, Some("dev"))]),
            node(READER_OF_ARCHIVES, &[(TAR, None)]),
            node("http", &[("flate2", None), (TAR, None)]),
            node("flate2", &[]),
            node(TAR, &[]),
        ]},
    });
    assert_eq!(
        link_violations(&graph(&bad)),
        [
            "bulkhead links flate2, which decompresses",
            "http -> tar: only bulkhead-images reads archives"
        ]
    );
    let packs = "use flate2::{Compress, Compression, Crc, FlushCompress};";
    assert!(packer_violations(PACKS, packs).is_empty());
    assert_eq!(packer_violations("f", packs).len(), 1);
    let unpacks = "use flate2::read::GzDecoder;";
    assert_eq!(
        packer_violations(PACKS, unpacks),
        ["images/src/registry/gzip.rs: flate2::read::GzDecoder;"]
    );
    let source = "unsafe { std::slice::from_raw_parts(at, len) }";
    assert_eq!(reference_violations("f", source), ["f:1: from_raw_parts"]);
}
