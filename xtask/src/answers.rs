//! `cargo xtask answers`: takes what Docker answered in earlier runs of the VM tests into the work
//! tree, so that a machine where it was never asked need not ask. main.rs calls it; what the answers
//! are about it must not know (`tests/vm/differential/oracle.rs` does).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::paths;

const FILE: &str = "tests/vm/differential/answers.jsonl";

/// The verb: as files are named, a line each.
///
/// # Errors
///
/// There are no answers, one is not a single line, or the file can't be written.
pub(crate) fn main() -> Result<()> {
    let folder = paths::answers()?;
    let text = gathered(&folder).with_context(|| format!("read {}", folder.display()))?;
    let file = paths::workspace().join(FILE);
    fs::write(&file, &text).with_context(|| format!("write {}", file.display()))?;
    println!(
        "{FILE}: {} answers, {} bytes",
        text.lines().count(),
        text.len()
    );
    Ok(())
}

fn gathered(folder: &Path) -> Result<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    files.sort();
    let mut text = String::new();
    for file in &files {
        let line = fs::read_to_string(file)?;
        if line.lines().count() != 1 {
            bail!("{} is not one line", file.display());
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    if text.is_empty() {
        bail!("there are no answers: run `cargo xtask test differential::` first");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_lines_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("write");
        };
        assert!(gathered(folder.path()).is_err());
        file("b.json", "{\"b\":1}");
        file("a.json", "{\"a\":1}\n");
        file("c.new", "half");
        assert_eq!(
            gathered(folder.path()).expect("lines"),
            "{\"a\":1}\n{\"b\":1}\n"
        );
        file("c.json", "{\n}");
        assert!(gathered(folder.path()).is_err());
    }
}
