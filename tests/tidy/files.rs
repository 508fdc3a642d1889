//! The form of the files: how a source begins and how long it is, words that must not stay,
//! paths of one machine, names that say nothing.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{assert_none, root};

/// A file that is longer is split.
const MAX_LINES: usize = 800;

/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "misc", "manager",
];

/// Folders that are not ours, or made.
const SKIPPED: &[&str] = &[".git", "target", "corpus", "artifacts"];

/// Words that must not stay in a source. Put together here, so that this file has none.
fn forbidden_words() -> [String; 3] {
    [["#[ig", "nore"], ["to", "do!"], ["unimple", "mented!"]].map(|parts| parts.concat())
}

/// Beginnings of paths that exist on one machine only.
fn machine_paths() -> [String; 3] {
    ["work", "farm", "root"].map(|folder| format!("/{folder}/"))
}

fn source_violations(path: &str, source: &str) -> Vec<String> {
    let mut violations = Vec::new();
    let lines = source.lines().count();
    if lines > MAX_LINES {
        violations.push(format!("{path}: {lines} lines, at most {MAX_LINES}"));
    }
    if !source.starts_with("//!") {
        violations.push(format!("{path}: does not open with //! and what it is"));
    }
    for word in forbidden_words() {
        if let Some(line) = line_with(source, &word) {
            violations.push(format!("{path}:{line}: {word}"));
        }
    }
    violations
}

fn path_violations(path: &str, content: &str) -> Vec<String> {
    let found = machine_paths()
        .into_iter()
        .filter_map(|folder| Some((line_with(content, &folder)?, folder)));
    found
        .map(|(line, folder)| format!("{path}:{line}: a path of one machine, {folder}"))
        .collect()
}

fn name_violation(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    EMPTY_NAMES
        .contains(&stem)
        .then(|| format!("{}: the name says nothing", path.display()))
}

/// The first line, counted from 1, that has `word`.
fn line_with(content: &str, word: &str) -> Option<usize> {
    content
        .lines()
        .position(|line| line.contains(word))
        .map(|index| index + 1)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .flatten()
    {
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().expect("file type");
        if SKIPPED.iter().any(|skipped| name == *skipped) {
            continue;
        }
        if kind.is_dir() {
            found.extend(files(&path));
        }
        if kind.is_file() || kind.is_dir() {
            found.push(path);
        }
    }
    found
}

#[test]
fn files_have_their_form() {
    let files = files(&root());
    let mut violations: Vec<_> = files
        .iter()
        .filter_map(|path| name_violation(path))
        .collect();
    let mut sources = 0;
    for path in files.iter().filter(|path| path.is_file()) {
        let shown = path
            .strip_prefix(root())
            .unwrap_or(path)
            .display()
            .to_string();
        // What is not text (seeds, archives) has no form to check.
        let Ok(content) = fs::read_to_string(path) else {
            continue;
        };
        violations.extend(path_violations(&shown, &content));
        if path.extension().is_some_and(|extension| extension == "rs") {
            sources += 1;
            violations.extend(source_violations(&shown, &content));
        }
    }
    assert!(sources > 50, "the sources are seen");
    assert_none(&violations);
}

#[test]
fn bad_samples_are_seen() {
    let good = "//! What it is.\nfn f() {}\n";
    assert!(source_violations("f", good).is_empty());
    assert_eq!(
        source_violations("f", "fn f() {}\n"),
        ["f: does not open with //! and what it is"]
    );
    let long = good.to_owned() + &"\n".repeat(MAX_LINES);
    assert_eq!(
        source_violations("f", &long),
        [format!("f: {} lines, at most {MAX_LINES}", MAX_LINES + 2)]
    );
    for word in forbidden_words() {
        assert_eq!(
            source_violations("f", &format!("{good}{word}")),
            [format!("f:3: {word}")]
        );
    }
    for folder in machine_paths() {
        assert_eq!(path_violations("f", &format!("\ncd {folder}x")).len(), 1);
    }
    assert!(name_violation(Path::new("src/utils.rs")).is_some());
    assert!(name_violation(Path::new("src/common")).is_some());
    assert!(name_violation(Path::new("src/commons.rs")).is_none());
}
