//! What the lock file brings in: licenses, sources, versions side by side; and that each
//! dependency says what it is for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{assert_none, license, list, metadata, read, text};

/// Crates that are there in more than one version, because others that we use ask for it.
const KNOWN_DUPLICATES: &[&str] = &["base64", "bitflags", "getrandom", "syn", "synstructure"];

fn allowed_licenses(deny_toml: &str) -> Vec<String> {
    let (_, rest) = deny_toml
        .split_once("\nallow = [")
        .expect("a list of licenses");
    let (list, _) = rest.split_once(']').expect("the end of the list");
    list.split(',')
        .map(|name| name.trim().trim_matches('"').to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

fn license_violations(packages: &[Value], allowed: &[String]) -> Vec<String> {
    packages
        .iter()
        .filter_map(|package| {
            let license = package["license"].as_str().unwrap_or("none named");
            (!license::is_allowed(license, allowed))
                .then(|| format!("{}: license {license}", text(package, "name")))
        })
        .collect()
}

/// Ours have no source, all others come from the registry that cargo uses by default.
fn source_violations(packages: &[Value]) -> Vec<String> {
    let foreign =
        |source: &str| !source.starts_with("registry+https://github.com/rust-lang/crates.io-index");
    let sources = packages
        .iter()
        .filter_map(|package| Some((text(package, "name"), package["source"].as_str()?)));
    sources
        .filter(|(_, source)| foreign(source))
        .map(|(name, source)| format!("{name}: from {source}"))
        .collect()
}

fn duplicates(packages: &[Value]) -> BTreeMap<String, BTreeSet<String>> {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages {
        versions
            .entry(text(package, "name").into())
            .or_default()
            .insert(text(package, "version").into());
    }
    versions.retain(|_, versions| versions.len() > 1);
    versions
}

/// Dependencies of `[workspace.dependencies]` that no comment above them names. A comment is for
/// the lines up to the next comment or section, and names each as `# NAME, NAME: why`.
fn unexplained(manifest: &str) -> Vec<String> {
    let (_, rest) = manifest
        .split_once("[workspace.dependencies]\n")
        .expect("the section");
    let section = rest.split("\n[").next().unwrap_or(rest);
    let mut comment = String::new();
    let mut in_comment = false;
    let mut unexplained = Vec::new();
    for line in section.lines() {
        if let Some(words) = line.strip_prefix('#') {
            if !in_comment {
                comment.clear();
            }
            comment.push_str(words);
            in_comment = true;
            continue;
        }
        in_comment = false;
        let Some((name, value)) = line.split_once(" = ") else {
            continue;
        };
        let ours = value.contains("path = ");
        let words: Vec<_> = comment
            .split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
            .collect();
        if !(ours || words.contains(&name) && comment.contains(": ")) {
            unexplained.push(format!("{name}: no comment above says what it is for"));
        }
    }
    unexplained
}

#[test]
fn licenses_are_on_the_list_of_deny_toml() {
    let metadata = metadata();
    assert_none(&license_violations(
        list(&metadata, "packages"),
        &allowed_licenses(&read("deny.toml")),
    ));
}

#[test]
fn nothing_comes_from_elsewhere_than_the_registry() {
    assert_none(&source_violations(list(&metadata(), "packages")));
}

#[test]
fn versions_side_by_side_are_the_known_ones() {
    let duplicates = duplicates(list(&metadata(), "packages"));
    let names: Vec<_> = duplicates.keys().map(String::as_str).collect();
    assert_eq!(names, KNOWN_DUPLICATES, "versions: {duplicates:#?}");
}

#[test]
fn each_dependency_says_what_it_is_for() {
    assert_none(&unexplained(&read("Cargo.toml")));
}

#[test]
fn bad_samples_are_seen() {
    let package = |name: &str, license: &str, source: &str| serde_json::json!({"name": name, "license": license, "source": source, "version": source});
    let bad = [
        package("a", "GPL-3.0", "git+https://example.org/a"),
        package("a", "MIT", "path"),
    ];
    assert_eq!(
        license_violations(&bad, &["MIT".into()]),
        ["a: license GPL-3.0"]
    );
    assert_eq!(
        source_violations(&bad[..1]),
        ["a: from git+https://example.org/a"]
    );
    assert_eq!(duplicates(&bad).len(), 1);
    assert!(duplicates(&bad[1..]).is_empty());
    let manifest = "[workspace.dependencies]\nours = { path = \"x\" }\n# good: why\ngood = \"1\"\nbad = \"1\"\n# a, b: both\n# go on\na = \"1\"\nb = \"1\"\n\n[next]\nc = \"1\"\n";
    assert_eq!(
        unexplained(manifest),
        ["bad: no comment above says what it is for"]
    );
    assert_eq!(
        allowed_licenses("x\nallow = [\n  \"MIT\",\n  \"A WITH B\",\n]\n"),
        ["MIT", "A WITH B"]
    );
}
