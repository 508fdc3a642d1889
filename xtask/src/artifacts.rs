//! `cargo xtask artifacts`: puts the command and what it needs at run time (guest kernel,
//! initramfs with the agent) together in `target/bulkhead`. main.rs, `bench`,
//! `demo`, `hostile`, `install` and `test` call it. It must not know how they are run.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cpio::Archive;
use crate::packages::Package;
use crate::progress::Step;
use crate::{cargo, elf, kernel, packages, paths};

/// The target triple of programs for guests. Named, although it is the host's, so that their flags and
/// their output folder are their own.
pub(crate) const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Build the command, the guest kernel and the agent into target/bulkhead
#[derive(Args, Debug, Default)]
pub(crate) struct ArtifactsArgs {
    #[command(flatten)]
    kernel: kernel::KernelArgs,
    /// Build the command unoptimized, which is faster
    #[arg(long)]
    dev: bool,
}

/// What [`provide`] will need.
///
/// # Errors
///
/// See [`kernel::needs`].
pub(crate) fn needs(arguments: &ArtifactsArgs) -> Result<Vec<Package>> {
    let mut needs = kernel::needs(&arguments.kernel)?;
    needs.extend(cargo::PACKAGES);
    Ok(needs)
}

/// Builds what is not up to date and returns the folder.
///
/// # Errors
///
/// A package is missing, or a build fails.
pub(crate) fn provide(arguments: &ArtifactsArgs) -> Result<PathBuf> {
    packages::ensure(&needs(arguments)?)?;
    let folder = paths::artifacts();
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;

    let step = Step::begin("guest kernel");
    let kernel = kernel::provide(&arguments.kernel)?;
    place(&folder.join("vmlinux"), &read(&kernel.vmlinux)?, 0o644)?;
    place(
        &folder.join("kernel.json"),
        &read(&kernel.description)?,
        0o644,
    )?;
    step.done();

    let step = Step::begin("guest agent");
    let agent = read(&static_program("guest-agent", "guest-agent")?)?;
    let initramfs = initramfs(&agent);
    place(&folder.join("initramfs.cpio"), &initramfs, 0o644)?;
    // The same program beside it, for plain containers: the host reads no archive for it.
    place(&folder.join("guest-agent"), &agent, 0o755)?;
    step.done_with(format!("{} KiB", initramfs.len() / 1024));

    let step = Step::begin("command");
    let mut build = cargo::command();
    build.args(["build", "--package", "bulkhead", "--bin", "bulkhead"]);
    if !arguments.dev {
        build.arg("--release");
    }
    let command = cargo::named(cargo::build(build)?, "bulkhead")?;
    place(&folder.join("bulkhead"), &read(&command)?, 0o755)?;
    step.done_with(folder.join("bulkhead").display().to_string());
    Ok(folder)
}

/// Builds a static program that runs in guests.
///
/// # Errors
///
/// The build fails, or what it makes is not static.
pub(crate) fn static_program(package: &str, name: &str) -> Result<PathBuf> {
    let mut build = cargo::command();
    build.args(["build", "--package", package, "--bin", name]);
    build.args(["--profile", "agent", "--target", AGENT_TARGET]);
    build.arg("--config").arg(format!(
        "target.{AGENT_TARGET}.rustflags=['-Ctarget-feature=+crt-static']"
    ));
    let program = cargo::named(cargo::build(build)?, name)?;
    if elf::asks_for_interpreter(&read(&program)?).context("read a program's ELF headers")? {
        bail!("{name} is not static: it asks for a dynamic loader");
    }
    Ok(program)
}

/// The guest's first root: the agent, a console to speak on, and where it mounts.
pub(crate) fn initramfs(agent: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new();
    for folder in ["dev", "proc", "sys"] {
        archive.directory(folder, 0o755);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("init", 0o755, agent);
    archive.finish()
}

/// Writes a file if its content is another, in one step: a VM that starts meanwhile sees the old
/// one or the new one.
fn place(path: &Path, content: &[u8], permissions: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let folder = path.parent().context("a file has a folder")?;
    let mut file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("create in {}", folder.display()))?;
    file.write_all(content)
        .with_context(|| format!("write {}", path.display()))?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(permissions))
        .context("set permissions")?;
    file.persist(path)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initramfs_has_the_agent_as_init_and_is_the_same_each_time() {
        let bytes = initramfs(b"agent bytes");
        assert_eq!(bytes, initramfs(b"agent bytes"));
        assert_ne!(bytes, initramfs(b"other bytes"));
        let text = String::from_utf8_lossy(&bytes);
        for name in ["dev\0", "proc\0", "sys\0", "dev/console\0", "init\0"] {
            assert!(text.contains(name), "{name:?}");
        }
    }

    #[test]
    fn a_file_is_replaced_only_when_its_content_changes() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("file");
        let inode = || path.metadata().expect("metadata").ino();
        place(&path, b"one", 0o755).expect("place");
        let first = inode();
        place(&path, b"one", 0o755).expect("place");
        assert_eq!(inode(), first);
        place(&path, b"two", 0o755).expect("place");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(path.metadata().expect("metadata").mode() & 0o777, 0o755);
    }
}
