//! The tables of docs/security.md that name tests: each test is where it is said to be.

use std::fs;

use crate::{assert_none, root};

/// Sections whose first table ends with a column of tests, and how many rows there are at least.
const SECTIONS: [(&str, usize); 7] = [
    ("## Borders\n", 8),
    ("## The jail of the VMM\n", 10),
    ("## The file server\n", 5),
    ("## The supervisor\n", 3),
    ("## Hostile guests\n", 10),
    ("## Names of the past\n", 20),
    ("## Users of one host\n", 10),
];

/// Source and name of each test that a row's last cell names: a path, then names in it.
fn named(row: &str) -> Vec<(String, String)> {
    let cell = row.trim_end().trim_end_matches('|').rsplit('|').next();
    let words = cell.unwrap_or_default().split('`').skip(1).step_by(2);
    let mut source = String::new();
    let mut found = Vec::new();
    for word in words {
        if word.contains('/') {
            word.clone_into(&mut source);
        } else {
            found.push((source.clone(), word.to_owned()));
        }
    }
    found
}

/// Rows of a section's first table, without its head.
fn rows<'a>(document: &'a str, section: &str) -> Vec<&'a str> {
    let (_, rest) = document.split_once(section).expect("the section");
    let rest = rest.split("\n## ").next().unwrap_or(rest);
    let lines = rest.lines().skip_while(|line| !line.starts_with('|'));
    let table = lines.take_while(|line| line.starts_with('|'));
    table.skip(2).collect()
}

fn missing(row: &str, has: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let named = named(row);
    if named.is_empty() {
        return vec![format!("no test: {row}")];
    }
    let missing = named.iter().filter(|(source, name)| !has(source, name));
    missing
        .map(|(source, name)| format!("{source} has no {name}: {row}"))
        .collect()
}

#[test]
fn each_test_that_the_page_on_security_names_exists() {
    let document = fs::read_to_string(root().join("docs/security.md")).expect("the page");
    let has = |source: &str, name: &str| {
        let content = fs::read_to_string(root().join(source)).unwrap_or_default();
        content.contains(&format!("fn {name}("))
    };
    let mut violations = Vec::new();
    for (section, least) in SECTIONS {
        let rows = rows(&document, section);
        assert!(rows.len() >= least, "{section}: {} rows", rows.len());
        violations.extend(rows.iter().flat_map(|row| missing(row, has)));
    }
    assert_none(&violations);
}

#[test]
fn bad_rows_are_seen() {
    let has = |source: &str, name: &str| source == "a/b.rs" && name != "gone";
    assert!(missing("| x | `a/b.rs` `one` `two` |", has).is_empty());
    assert_eq!(
        missing("| x | `a/b.rs` `one`, `a/c.rs` `two` |", has).len(),
        1
    );
    assert_eq!(missing("| x | `a/b.rs` `gone` |", has).len(), 1);
    assert_eq!(missing("| `a/b.rs` `one` | none |", has).len(), 1);
}
