//! Where things are: the work tree, cargo's target folder, the cache outside of it.
//! Every verb calls it; it creates nothing and knows no verb.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the work tree.
pub(crate) fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target folder: the one this executable was built into (`<target>/<profile>/xtask`),
/// which holds whatever set it (variable, flag or configuration file).
pub(crate) fn target() -> PathBuf {
    let built_into = env::current_exe().ok().and_then(|exe| {
        let target = exe.parent()?.parent()?;
        target
            .join("CACHEDIR.TAG")
            .exists()
            .then(|| target.to_path_buf())
    });
    built_into.unwrap_or_else(|| workspace().join("target"))
}

/// Where the command and what it needs at run time are put together.
pub(crate) fn artifacts() -> PathBuf {
    target().join("bulkhead")
}

/// State of the emulated host.
pub(crate) fn lab() -> PathBuf {
    target().join("lab")
}

/// The cache that outlives `cargo clean` and is shared by work trees:
/// `$BULKHEAD_CACHE`, else `$XDG_CACHE_HOME/bulkhead`, else `~/.cache/bulkhead`.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(dir) = non_empty("BULKHEAD_CACHE") {
        return Ok(dir);
    }
    if let Some(dir) = non_empty("XDG_CACHE_HOME") {
        return Ok(dir.join("bulkhead"));
    }
    let home = non_empty("HOME").context("HOME is not set, so set BULKHEAD_CACHE to a folder")?;
    Ok(home.join(".cache/bulkhead"))
}

/// What Docker answered in earlier runs of the VM tests, a file each.
pub(crate) fn answers() -> Result<PathBuf> {
    Ok(cache()?.join("oracle"))
}

fn non_empty(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
