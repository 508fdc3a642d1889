//! `bulkhead completion`, and the hidden verb that writes man pages: both are made from the parser, so
//! that they have what it has.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap_complete::Shell;

/// Flags of `completion`.
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints what makes a shell complete our words.
///
/// # Errors
/// Standard output is closed.
pub fn run(args: &CompletionArgs) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "bulkhead", &mut text);
    std::io::stdout().lock().write_all(&text)?;
    Ok(())
}

/// Flags of the hidden verb.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Where the pages go
    folder: PathBuf,
}

/// Writes a man page for the command and for each verb.
///
/// # Errors
/// The folder can't be written.
pub fn man(args: &ManArgs) -> Result<()> {
    std::fs::create_dir_all(&args.folder)
        .with_context(|| format!("create {}", args.folder.display()))?;
    clap_mangen::generate_to(super::command(), &args.folder)
        .with_context(|| format!("write man pages into {}", args.folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_man_page_and_every_shell_a_completion() {
        let folder = tempfile::tempdir().unwrap();
        let args = ManArgs {
            folder: folder.path().to_owned(),
        };
        man(&args).unwrap();
        for name in [
            "bulkhead.1",
            "bulkhead-run.1",
            "bulkhead-image-ls.1",
            "bulkhead-build.1",
        ] {
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(text.contains("bulkhead"), "{name}");
        }
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut crate::cli::command(), "bulkhead", &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(
                text.contains("restart") && text.contains("publish"),
                "{shell}"
            );
        }
    }
}
