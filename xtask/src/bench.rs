//! `cargo xtask bench`: builds everything optimized and runs the benchmarks of tests/bench where
//! KVM works. main.rs calls it. It must not know what is measured.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::artifacts::{self, ArtifactsArgs};
use crate::fixtures::{self, Recipe};
use crate::packages::{self, Package};
use crate::progress::Step;
use crate::{cargo, hostile, lab};

/// What the command is measured next to.
const PEERS: &[Package] = &[
    Package::file("buildah", &["/usr/bin/buildah"]),
    Package::file("crun", &["/usr/bin/crun"]),
    Package::file("docker-registry", &["/usr/bin/docker-registry"]),
    Package::file("podman", &["/usr/bin/podman"]),
    Package::file("qemu-system-x86", &["/usr/bin/qemu-system-x86_64"]),
    Package::file("skopeo", &["/usr/bin/skopeo"]),
    Package::file("slirp4netns", &["/usr/bin/slirp4netns"]),
    Package::file("wrk", &["/usr/bin/wrk"]),
];

const RECIPES: &[Recipe] = &[Recipe::Busybox, Recipe::Debian];

/// Measure start, memory, disks, streams, networks, shares, registries, builds and neighbours, next to the peers
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// A Firecracker binary; adds its column
    #[arg(long, value_name = "PATH")]
    firecracker: Option<PathBuf>,
    /// Measurements of each kind; the median is printed
    #[arg(long, value_name = "N")]
    runs: Option<u32>,
    /// Files of `many-files` [default: 100000; an emulated host takes minutes for ten thousand]
    #[arg(long, value_name = "N")]
    files: Option<u32>,
    /// Starts and stops of `cycles` [default: 1000; some three seconds each in an emulated host]
    #[arg(long, value_name = "N")]
    cycles: Option<u32>,
    /// Only the groups whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// The verb.
///
/// # Errors
///
/// The set-up fails. Benchmarks that fail are the exit code.
pub(crate) fn main(arguments: &BenchArgs) -> Result<ExitCode> {
    let build = ArtifactsArgs::default();
    let needs = [
        artifacts::needs(&build)?,
        fixtures::needs(RECIPES),
        lab::needs(),
        PEERS.to_vec(),
    ];
    packages::ensure(&needs.concat())?;
    let artifacts = artifacts::provide(&build)?;
    let fixtures = fixtures::provide(RECIPES)?;
    let hostile = hostile::provide()?;
    let step = Step::begin("build the benchmarks");
    let mut build = cargo::command();
    build.args(["build", "--release", "--package", "bulkhead-bench"]);
    let bench = cargo::named(cargo::build(build)?, "bulkhead-bench")?;
    let traffic = artifacts::static_program("bulkhead-traffic", "traffic")?;
    step.done();

    let mut command = lab::command()?;
    let mut variable = OsString::from("BULKHEAD_HOSTILE=");
    variable.push(hostile);
    command.arg("--env").arg(variable);
    command.arg("--").arg(bench);
    command
        .arg("--bulkhead")
        .arg(artifacts.join("bulkhead"))
        .arg("--guest")
        .arg(&artifacts);
    command
        .arg("--busybox")
        .arg(fixtures.join("busybox/busybox.tar"));
    command
        .arg("--debian")
        .arg(fixtures.join("debian/debian.tar"));
    command.arg("--traffic").arg(traffic);
    if let Some(firecracker) = &arguments.firecracker {
        let firecracker =
            std::path::absolute(firecracker).context("resolve the path of Firecracker")?;
        command.arg("--firecracker").arg(firecracker);
    }
    if let Some(runs) = arguments.runs {
        command.args(["--runs", &runs.to_string()]);
    }
    if let Some(cycles) = arguments.cycles {
        command.args(["--cycles", &cycles.to_string()]);
    }
    if let Some(files) = arguments.files {
        command.args(["--files", &files.to_string()]);
    }
    if let Some(only) = &arguments.only {
        command.args(["--only", only]);
    }
    let status = command.status().context("start the lab")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
