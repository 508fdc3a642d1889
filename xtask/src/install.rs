//! `cargo xtask install`: puts the command, what it needs, completions and man pages below a prefix.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::artifacts::{self, ArtifactsArgs};
use crate::progress::Step;

/// Install the command, the guest kernel and the agent, completions and man pages
#[derive(Args, Debug)]
pub(crate) struct InstallArgs {
    /// Where to: bin, lib and share below it
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
    #[command(flatten)]
    artifacts: ArtifactsArgs,
}

/// Shells and where each looks for completions, below the prefix.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/bulkhead"),
    ("zsh", "share/zsh/site-functions/_bulkhead"),
    ("fish", "share/fish/vendor_completions.d/bulkhead.fish"),
];

/// The verb.
///
/// # Errors
///
/// Something can't be built, or the prefix can't be written.
pub(crate) fn main(arguments: &InstallArgs) -> Result<()> {
    let built = artifacts::provide(&arguments.artifacts)?;
    let step = Step::begin("install");
    let prefix = std::path::absolute(&arguments.prefix).context("resolve the prefix")?;
    let command = prefix.join("bin/bulkhead");
    copy(&built.join("bulkhead"), &command, 0o755)?;
    for name in ["vmlinux", "initramfs.cpio", "kernel.json"] {
        copy(
            &built.join(name),
            &prefix.join("lib/bulkhead").join(name),
            0o644,
        )?;
    }
    copy(
        &built.join("guest-agent"),
        &prefix.join("lib/bulkhead/guest-agent"),
        0o755,
    )?;
    for (shell, path) in COMPLETIONS {
        let text = output(Command::new(&command).args(["completion", shell]))?;
        write(&prefix.join(path), &text, 0o644)?;
    }
    let man = prefix.join("share/man/man1");
    output(Command::new(&command).arg("__man").arg(&man))?;
    step.done_with(prefix.display().to_string());
    Ok(())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    write(to, &bytes, mode)
}

/// Replaces a file in one step: the old one may be running.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let folder = path.parent().context("a file has a folder")?;
    create_folders(folder).with_context(|| format!("create {}", folder.display()))?;
    let file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("create in {}", folder.display()))?;
    fs::write(file.path(), bytes).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(file.path(), fs::Permissions::from_mode(mode))
        .context("set permissions")?;
    file.persist(path)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

/// Makes what is missing of a path, to be entered by all whatever the umask: root often has 077.
fn create_folders(folder: &Path) -> io::Result<()> {
    let missing: Vec<_> = folder
        .ancestors()
        .take_while(|path| !path.exists())
        .collect();
    for path in missing.into_iter().rev() {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made?,
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().context("run the installed command")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!(
            "the installed command ended with {}: {}",
            output.status,
            text.trim()
        );
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_open_to_all_and_those_that_are_there_stay() {
        let prefix = tempfile::tempdir().expect("a folder");
        let path = |name: &str| prefix.path().join(name);
        let mode = |name: &str| {
            let status = path(name).metadata().expect("metadata");
            status.permissions().mode() & 0o777
        };
        fs::create_dir(path("lib")).expect("a folder");
        fs::set_permissions(path("lib"), fs::Permissions::from_mode(0o711)).expect("a mode");
        // Whatever the umask is under which this runs.
        write(&path("lib/bulkhead/deep/file"), b"text", 0o644).expect("write");
        let modes = ["lib", "lib/bulkhead", "lib/bulkhead/deep"].map(mode);
        assert_eq!(modes, [0o711, 0o755, 0o755]);
        assert_eq!(mode("lib/bulkhead/deep/file"), 0o644);
    }
}
