//! Debian packages that a verb needs: found by the files they bring, installed as root,
//! else named in one line to run. Verbs call it just before the step that needs them.
//! It must not know what the packages are used for.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::elf;
use crate::progress::Step;

/// A Debian package and how its presence is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    name: &'static str,
    presence: Presence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// One of these files exists (a package moves files between releases).
    AnyFile(&'static [&'static str]),
    /// This file exists and is a static executable.
    Static(&'static str),
    /// A kernel with its modules, 9p among them (the cloud flavour has none).
    LabKernel,
}

impl Package {
    /// A package that is there when one of `files` is.
    pub(crate) const fn file(name: &'static str, files: &'static [&'static str]) -> Self {
        Self {
            name,
            presence: Presence::AnyFile(files),
        }
    }

    /// A package that is there when `file` is and needs no dynamic loader: another package has
    /// one of the same name that does.
    pub(crate) const fn static_file(name: &'static str, file: &'static str) -> Self {
        Self {
            name,
            presence: Presence::Static(file),
        }
    }

    /// What connects containers.
    pub(crate) const PASST: Self = Self::file("passt", &["/usr/bin/passt"]);

    /// The kernel that the emulated host runs.
    pub(crate) const LAB_KERNEL: Self = Self {
        name: "linux-image-amd64",
        presence: Presence::LabKernel,
    };

    fn is_present(&self) -> bool {
        match self.presence {
            Presence::AnyFile(files) => files.iter().any(|file| Path::new(file).exists()),
            Presence::Static(file) => fs::read(file)
                .is_ok_and(|elf| elf::asks_for_interpreter(&elf).is_ok_and(|asks| !asks)),
            Presence::LabKernel => crate::lab::host_kernel::find().is_ok(),
        }
    }
}

/// Makes sure that all of `packages` are installed.
///
/// # Errors
///
/// Not root and something is missing (the message is the line to run), or apt-get failed,
/// or a package does not bring the file it is known by.
pub(crate) fn ensure(packages: &[Package]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let names = names(&missing);
    if !nix::unistd::geteuid().is_root() {
        bail!("packages are missing; run:\n  {}", install_line(&names));
    }
    let step = Step::begin(format!("install {}", names.join(" ")));
    apt_get(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&names);
    apt_get(&arguments)?;
    let still_missing: Vec<_> = missing
        .iter()
        .filter(|package| !package.is_present())
        .collect();
    if let Some(package) = still_missing.first() {
        bail!(
            "apt-get installed {} but it brings no {:?}",
            package.name,
            package.presence
        );
    }
    step.done();
    Ok(())
}

fn missing(packages: &[Package]) -> Vec<Package> {
    packages
        .iter()
        .filter(|package| !package.is_present())
        .copied()
        .collect()
}

fn names(packages: &[Package]) -> Vec<&'static str> {
    let mut names: Vec<_> = packages.iter().map(|package| package.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn install_line(names: &[&str]) -> String {
    format!(
        "sudo apt-get install --no-install-recommends {}",
        names.join(" ")
    )
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(arguments)
        // No question can be answered here, and no service is wanted from a package.
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null())
        .output()
        .context("start apt-get (only Debian and its kin are set up by themselves)")?;
    if !output.status.success() {
        bail!(
            "apt-get {} ended with {}:\n{}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRESENT: Package = Package::file("base-files", &["/nowhere", "/etc/os-release"]);
    const ABSENT: Package = Package::file("zeta", &["/nowhere/zeta"]);
    const ALSO_ABSENT: Package = Package::file("alpha", &["/nowhere/alpha"]);

    #[test]
    fn only_absent_packages_are_missing() {
        assert_eq!(
            missing(&[PRESENT, ABSENT, ALSO_ABSENT]),
            [ABSENT, ALSO_ABSENT]
        );
    }

    #[test]
    fn the_line_names_each_package_once_in_order() {
        let line = install_line(&names(&[ABSENT, ALSO_ABSENT, ABSENT]));
        assert_eq!(
            line,
            "sudo apt-get install --no-install-recommends alpha zeta"
        );
    }
}
