//! `cargo xtask fixtures`: makes the images that tests, benchmarks and the demo run, by the
//! command of images/fixtures, and keeps them in the cache outside the work tree. main.rs,
//! `test`, `bench` and `demo` call it. It must not know what is in an image.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::packages::{self, Package};
use crate::progress::Step;
use crate::{cargo, paths};

/// Make the images that tests, benchmarks and the demo run
#[derive(Args, Debug, Default)]
pub(crate) struct FixturesArgs {
    /// Which ones [default: all]
    recipes: Vec<Recipe>,
}

/// The recipes there are, and what each is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Recipe {
    Busybox,
    Debian,
    Layers60,
    Python,
}

impl Recipe {
    /// All of them.
    pub(crate) const ALL: &'static [Self] =
        &[Self::Busybox, Self::Debian, Self::Layers60, Self::Python];

    fn name(self) -> &'static str {
        match self {
            Self::Busybox => "busybox",
            Self::Debian => "debian",
            Self::Layers60 => "layers60",
            Self::Python => "python",
        }
    }

    fn packages(self) -> &'static [Package] {
        match self {
            Self::Busybox => BUSYBOX,
            Self::Debian => DEBIAN,
            Self::Layers60 => LAYERS60,
            Self::Python => PYTHON,
        }
    }
}

const STATIC_BUSYBOX: Package = Package::static_file("busybox-static", "/bin/busybox");

const BUSYBOX: &[Package] = &[STATIC_BUSYBOX];

const DEBIAN: &[Package] = &[Package::file("mmdebstrap", &["/usr/bin/mmdebstrap"])];

const PYTHON: &[Package] = &[
    Package::file("mmdebstrap", &["/usr/bin/mmdebstrap"]),
    // Makes the wheel.
    Package::file("python3-minimal", &["/usr/bin/python3"]),
];

const LAYERS60: &[Package] = &[
    STATIC_BUSYBOX,
    Package::file("skopeo", &["/usr/bin/skopeo"]),
    Package::file("umoci", &["/usr/bin/umoci"]),
];

/// The verb.
///
/// # Errors
///
/// See [`provide`].
pub(crate) fn main(arguments: &FixturesArgs) -> Result<()> {
    let recipes = match &arguments.recipes[..] {
        [] => Recipe::ALL,
        some => some,
    };
    println!("{}", provide(recipes)?.display());
    Ok(())
}

/// What [`provide`] will need.
pub(crate) fn needs(recipes: &[Recipe]) -> Vec<Package> {
    let mut needs = cargo::PACKAGES.to_vec();
    recipes
        .iter()
        .for_each(|recipe| needs.extend(recipe.packages()));
    needs
}

/// Makes what is not in the cache, and returns a folder with a link called after each recipe.
///
/// # Errors
///
/// A package is missing or an image can't be made.
pub(crate) fn provide(recipes: &[Recipe]) -> Result<PathBuf> {
    packages::ensure(&needs(recipes))?;
    let step = Step::begin("test images");
    let mut build = cargo::command();
    build.args([
        "build",
        "--package",
        "bulkhead-fixtures",
        "--bin",
        "fixtures",
    ]);
    let fixtures = cargo::named(cargo::build(build)?, "fixtures")?;
    let folder = paths::target().join("fixtures");
    let status = Command::new(fixtures)
        .arg(&folder)
        .args(recipes.iter().map(|recipe| recipe.name()))
        .arg("--cache")
        .arg(paths::cache()?.join("fixtures"))
        .current_dir(paths::workspace())
        .stdin(Stdio::null())
        // Our own standard output may belong to whoever asked for one of them.
        .stdout(Stdio::null())
        .status()
        .context("start the fixtures command")?;
    if !status.success() {
        bail!("the fixtures command ended with {status}");
    }
    step.done_with(folder.display().to_string());
    Ok(folder)
}
