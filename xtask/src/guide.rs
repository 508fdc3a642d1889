//! `cargo xtask guide`: writes the table of docs/guide/docker.md, which the command prints. A test of
//! the command holds the page to it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, paths};

/// What stands before the table.
const MARK: &str = "<!-- made by cargo xtask guide -->\n";

/// Writes the page.
///
/// # Errors
///
/// The command can't be built, or the page has no mark.
pub(crate) fn main() -> Result<()> {
    let mut build = cargo::command();
    build.args(["build", "--package", "bulkhead", "--bin", "bulkhead"]);
    let command = cargo::named(cargo::build(build)?, "bulkhead")?;
    let output = Command::new(command)
        .arg("__guide")
        .output()
        .context("ask for the table")?;
    if !output.status.success() {
        bail!("the command ended with {}", output.status);
    }
    let path = paths::workspace().join("docs/guide/docker.md");
    let page = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let Some((before, _)) = page.split_once(MARK) else {
        bail!("{} does not have the line {MARK}", path.display());
    };
    let table = String::from_utf8(output.stdout).context("read the table")?;
    fs::write(&path, format!("{before}{MARK}{table}"))
        .with_context(|| format!("write {}", path.display()))
}
