//! Builds the hostile guests of the VM tests and the bench: a program in the kernel's place and one
//! in the agent's. `test` and `bench` call it, `tests/harness/src/hostile.rs` finds them. It must not
//! know what they do.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::artifacts::{self, AGENT_TARGET};
use crate::progress::Step;
use crate::{cargo, paths};

/// Where the crate of the kernel's is, which is a workspace of its own.
pub(crate) const MANIFEST: &str = "tests/hostile-guest/Cargo.toml";

/// Builds both and returns the folder with `vmlinux` and `initramfs.cpio`.
///
/// # Errors
///
/// A build fails.
pub(crate) fn provide() -> Result<PathBuf> {
    let step = Step::begin("hostile guests");
    let folder = paths::target().join("hostile");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut build = cargo::command();
    build.args(["build", "--release", "--manifest-path", MANIFEST]);
    build.args(["--target", AGENT_TARGET, "--target-dir"]);
    build.arg(folder.join("build"));
    let kernel = cargo::named(cargo::build(build)?, "hostile-guest")?;
    fs::copy(&kernel, folder.join("vmlinux")).context("copy a hostile kernel")?;
    let agent = artifacts::static_program("bulkhead-hostile-agent", "hostile-agent")?;
    let agent = fs::read(&agent).context("read a hostile agent")?;
    fs::write(folder.join("initramfs.cpio"), artifacts::initramfs(&agent))
        .context("write a hostile agent's initramfs")?;
    step.done_with(folder.display().to_string());
    Ok(folder)
}
