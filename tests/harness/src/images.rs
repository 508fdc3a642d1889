//! Where the images are that `fixtures` made: in the folder that BULKHEAD_FIXTURES names.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use fixtures::Recipe;

/// The variable that names the folder.
pub const FIXTURES_VARIABLE: &str = "BULKHEAD_FIXTURES";

/// A file that a recipe made, such as `busybox.tar` of [`Recipe::Busybox`].
///
/// # Errors
///
/// The variable is not set, or the file is not there: tests don't run without their images.
pub fn path(recipe: Recipe, file: &str) -> Result<PathBuf> {
    let folder = env::var_os(FIXTURES_VARIABLE).with_context(|| {
        format!("{FIXTURES_VARIABLE} is not set; `cargo xtask test` makes the images and sets it")
    })?;
    let path = PathBuf::from(folder).join(recipe.name()).join(file);
    if !path.exists() {
        bail!("{} is not there; run `cargo xtask test`", path.display());
    }
    Ok(path)
}

/// busybox:latest as `docker save` writes it.
///
/// # Errors
///
/// See [`path`].
pub fn busybox() -> Result<PathBuf> {
    path(Recipe::Busybox, "busybox.tar")
}

/// The variants of busybox and the probe image.
///
/// # Errors
///
/// See [`path`].
pub fn variants() -> Result<PathBuf> {
    path(Recipe::Busybox, "variants.tar")
}

/// debian:12.
///
/// # Errors
///
/// See [`path`].
pub fn debian() -> Result<PathBuf> {
    path(Recipe::Debian, "debian.tar")
}

/// layers60:latest.
///
/// # Errors
///
/// See [`path`].
pub fn layers60() -> Result<PathBuf> {
    path(Recipe::Layers60, "layers60.tar")
}

/// python:3.
///
/// # Errors
///
/// See [`path`].
pub fn python() -> Result<PathBuf> {
    path(Recipe::Python, "python.tar")
}
