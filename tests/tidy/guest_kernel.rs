//! The guest kernel's fragment and the page that says why each option is on must be about the
//! same groups and options.

use std::collections::BTreeSet;

use crate::{assert_none, read};

/// An option as the page writes it: `NAME`, or `NAME=value` when the value is not `y`.
fn options(fragment: &str) -> BTreeSet<String> {
    let option = |line: &str| {
        if let Some(name) = line
            .strip_prefix("# CONFIG_")
            .and_then(|rest| rest.strip_suffix(" is not set"))
        {
            return Some(name.to_owned());
        }
        let wish = line.strip_prefix("CONFIG_")?;
        Some(wish.strip_suffix("=y").unwrap_or(wish).to_owned())
    };
    fragment.lines().filter_map(option).collect()
}

/// The fragment's groups: comments that begin with `-- `.
fn groups(fragment: &str) -> BTreeSet<String> {
    fragment
        .lines()
        .filter_map(|line| line.strip_prefix("# -- "))
        .map(str::to_lowercase)
        .collect()
}

/// What the first columns of the page's tables name in code spans.
fn documented_options(page: &str) -> BTreeSet<String> {
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    rows.flat_map(|row| row.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

fn documented_groups(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(str::to_lowercase)
        .collect()
}

fn differences(what: &str, fragment: &BTreeSet<String>, page: &BTreeSet<String>) -> Vec<String> {
    let missing = fragment
        .difference(page)
        .map(|name| format!("{what} {name}: the page does not say why"));
    let extra = page
        .difference(fragment)
        .map(|name| format!("{what} {name}: not in the fragment"));
    missing.chain(extra).collect()
}

fn violations(fragment: &str, page: &str) -> Vec<String> {
    let mut all = differences("group", &groups(fragment), &documented_groups(page));
    all.extend(differences(
        "option",
        &options(fragment),
        &documented_options(page),
    ));
    all
}

#[test]
fn each_group_and_option_of_the_guest_kernel_is_explained() {
    let fragment = read("kernel-config/fragment.config");
    assert!(options(&fragment).len() > 200, "the options are seen");
    assert_none(&violations(&fragment, &read("kernel-config/README.md")));
}

#[test]
fn bad_samples_are_seen() {
    let fragment =
        "# -- one: the first\nCONFIG_A=y\n# CONFIG_B is not set\n# -- two\nCONFIG_C=32\n";
    let page = "## One: the first\n| option | why |\n|---|---|\n| `A`, not `B` | `x` |\n## Two\n| `C=32` | why |\n";
    assert!(violations(fragment, page).is_empty());
    assert_eq!(
        violations(fragment, &page.replace("`A`", "A")),
        ["option A: the page does not say why"]
    );
    assert_eq!(violations(fragment, &page.replace("=32", "")).len(), 2);
    assert_eq!(
        violations(fragment, &page.replace("## Two", "## Three")).len(),
        2
    );
}
