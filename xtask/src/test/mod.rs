//! `cargo xtask test`: every test there is: unit tests and those of the command line here, VM
//! tests where KVM works, a short run of each fuzz target. main.rs and `ci` call it.
//! It must not know what any test is about.

mod count;
mod vm;

use std::ops::RangeInclusive;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::artifacts::{self, ArtifactsArgs};
use crate::fixtures::{self, Recipe};
use crate::packages::{self, Package};
use crate::progress::Step;
use crate::{cargo, fuzz, lab};
pub(crate) use count::{Run, Tally};

/// A fuzz target's share of a run of all tests: the most, and what it has where the others took long.
const FUZZ_SECONDS: RangeInclusive<u64> = 5..=60;

/// A run of all tests takes no longer than this for the sake of fuzzing: CI ends after 90 minutes, of
/// which lints and documentation, before it, have taken some.
const RUN_TIME: Duration = Duration::from_secs(76 * 60);

/// What tests without VMs compare with: those of the unpacker, and pushes of the command.
const TOOLS: &[Package] = &[
    Package::file("docker-registry", &["/usr/bin/docker-registry"]),
    Package::file("erofs-utils", &["/usr/bin/fsck.erofs"]),
    Package::file("libarchive-tools", &["/usr/bin/bsdtar"]),
    Package::file("tar", &["/bin/tar", "/usr/bin/tar"]),
    Package::file("xz-utils", &["/usr/bin/xz"]),
];

/// What VM tests compare with, pull from, and exchange images with.
const PEERS: &[Package] = &[
    Package::file("buildah", &["/usr/bin/buildah"]),
    Package::file("bzip2", &["/bin/bzip2", "/usr/bin/bzip2"]),
    Package::file("crun", &["/usr/bin/crun"]),
    Package::file("docker-registry", &["/usr/bin/docker-registry"]),
    Package::file("docker.io", &["/usr/bin/dockerd", "/usr/sbin/dockerd"]),
    Package::file("git", &["/usr/bin/git", "/usr/local/bin/git"]),
    Package::file("podman", &["/usr/bin/podman"]),
    Package::file("runc", &["/usr/sbin/runc"]),
    Package::file("skopeo", &["/usr/bin/skopeo"]),
    Package::file("strace", &["/usr/bin/strace"]),
    Package::file("umoci", &["/usr/bin/umoci"]),
    Package::file("xz-utils", &["/usr/bin/xz"]),
    Package::file("zstd", &["/usr/bin/zstd"]),
];

/// Run all tests: unit tests, VM tests where KVM works, a short run of each fuzz target
#[derive(Args, Debug, Default)]
pub(crate) struct TestArgs {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Only these kinds of tests [default: all; with a filter: unit and vm]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    only: Vec<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// What needs no KVM: unit tests, the command line, the tree itself
    Unit,
    /// What needs KVM
    Vm,
    /// A short run of each fuzz target
    Fuzz,
}

/// The verb: runs everything, then says what came of it.
///
/// # Errors
///
/// Something could not be built or started. Tests that fail are the exit code.
pub(crate) fn main(arguments: &TestArgs) -> Result<ExitCode> {
    let kinds = match (&arguments.only[..], &arguments.filter) {
        ([], None) => vec![Kind::Unit, Kind::Vm, Kind::Fuzz],
        ([], Some(_)) => vec![Kind::Unit, Kind::Vm],
        (only, _) => only.to_vec(),
    };
    let began = Instant::now();
    packages::ensure(&needs(&kinds)?)?;
    let filter = arguments.filter.as_deref();
    let mut tally = Tally::default();
    let mut broken = Vec::new();
    for kind in kinds {
        let name = kind
            .to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned());
        let step = Step::begin(format!("{name} tests"));
        let run = match kind {
            Kind::Unit => unit(filter)?,
            Kind::Vm => vm::run(filter)?,
            Kind::Fuzz => fuzz::smoke(&|rounds| fuzz_seconds(began.elapsed(), rounds))?,
        };
        step.done_with(format!(
            "{} passed, {} failed",
            run.tally.passed, run.tally.failed
        ));
        if !run.succeeded() {
            broken.push(name);
        }
        tally.add(run.tally);
    }
    if tally.ignored > 0 {
        println!("{} tests are ignored, which is not allowed", tally.ignored);
    }
    if !broken.is_empty() {
        println!("did not end well: {}", broken.join(", "));
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(if tally.is_good() && broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Seconds for each fuzz target, of which so many run one after the other, `elapsed` after the beginning.
fn fuzz_seconds(elapsed: Duration, rounds: usize) -> u64 {
    let left = RUN_TIME.saturating_sub(elapsed).as_secs();
    let share = left / u64::try_from(rounds.max(1)).unwrap_or(u64::MAX);
    share.clamp(*FUZZ_SECONDS.start(), *FUZZ_SECONDS.end())
}

/// What all tests need.
///
/// # Errors
///
/// See [`artifacts::needs`].
pub(crate) fn all_needs() -> Result<Vec<Package>> {
    needs(&[Kind::Unit, Kind::Vm, Kind::Fuzz])
}

fn needs(kinds: &[Kind]) -> Result<Vec<Package>> {
    let mut needs = cargo::PACKAGES.to_vec();
    for kind in kinds {
        match kind {
            Kind::Unit => needs.extend(TOOLS),
            Kind::Vm => {
                needs.extend(artifacts::needs(&ArtifactsArgs::default())?);
                needs.extend(lab::needs());
                needs.extend(fixtures::needs(Recipe::ALL));
                needs.extend(PEERS);
            }
            Kind::Fuzz => needs.extend(fuzz::needs()),
        }
    }
    Ok(needs)
}

fn unit(filter: Option<&str>) -> Result<Run> {
    let mut command = cargo::command();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if let Some(filter) = filter {
        command.args(["--", filter]);
    }
    count::count(command.stderr(Stdio::inherit()), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_targets_share_what_time_is_left() {
        let of = |minutes: u64| fuzz_seconds(Duration::from_secs(minutes * 60), 12);
        assert_eq!((of(0), of(64), of(68), of(75), of(100)), (60, 60, 40, 5, 5));
        assert_eq!(fuzz_seconds(Duration::ZERO, 0), 60);
    }
}
