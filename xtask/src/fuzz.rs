//! `cargo xtask fuzz`: runs the fuzz targets of `tests/fuzz` (cargo-fuzz's layout) for a while,
//! with the toolchain that is there: the instrumentation that libFuzzer needs is a stable code
//! generation flag. main.rs and `test` call it. It must not know what a target parses.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::packages::{self, Package};
use crate::progress::Step;
use crate::test::{Run, Tally};
use crate::{cargo, paths};

const PACKAGES: &[Package] = &[Package::file("g++", &["/usr/bin/c++"])];

/// As cargo-fuzz sets them, without the address sanitizer, which needs a nightly toolchain.
/// Overflows and failed debug assertions are found as panics.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";

/// Named, so that the flags do not reach build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A single input that takes longer is a finding.
const INPUT_TIMEOUT_S: u32 = 10;

/// A parser that needs more is a finding.
const MEMORY_MIB: u32 = 1024;

/// So much of a failed target's report is shown.
const REPORT_TAIL_LINES: usize = 60;

/// Run fuzz targets, each for some seconds
#[derive(Args, Debug)]
pub(crate) struct FuzzArgs {
    /// Only this target
    target: Option<String>,
    /// How long each one runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Name the targets and end
    #[arg(long)]
    list: bool,
}

/// The verb.
///
/// # Errors
///
/// There is no such target or it can't be built. Findings are the exit code.
pub(crate) fn main(arguments: &FuzzArgs) -> Result<ExitCode> {
    let mut targets = targets()?;
    if arguments.list {
        targets.iter().for_each(|target| println!("{target}"));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(only) = &arguments.target {
        targets.retain(|target| target == only);
        if targets.is_empty() {
            bail!("there is no fuzz target {only}; `cargo xtask fuzz --list` names them");
        }
    }
    let run = run(&targets, &|_| arguments.seconds)?;
    println!("{} passed, {} failed", run.tally.passed, run.tally.failed);
    Ok(if run.succeeded() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What building a target needs.
pub(crate) fn needs() -> Vec<Package> {
    [cargo::PACKAGES, PACKAGES].concat()
}

/// A short run of each target; `seconds` is asked when they are built, with how many run one after the
/// other.
///
/// # Errors
///
/// One can't be built.
pub(crate) fn smoke(seconds: &dyn Fn(usize) -> u64) -> Result<Run> {
    run(&targets()?, seconds)
}

fn manifest() -> PathBuf {
    paths::workspace().join("tests/fuzz/Cargo.toml")
}

/// The part of cargo's metadata that names executables.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
}

#[derive(Deserialize)]
struct MetadataPackage {
    targets: Vec<MetadataTarget>,
}

#[derive(Deserialize)]
struct MetadataTarget {
    name: String,
    kind: Vec<String>,
}

fn targets() -> Result<Vec<String>> {
    let output = cargo::command()
        .args([
            "metadata",
            "--no-deps",
            "--format-version=1",
            "--manifest-path",
        ])
        .arg(manifest())
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata ended with {}", output.status);
    }
    let mut targets = executables(&output.stdout)?;
    targets.sort();
    if targets.is_empty() {
        bail!("{} has no target", manifest().display());
    }
    Ok(targets)
}

fn executables(metadata: &[u8]) -> Result<Vec<String>> {
    let metadata: Metadata = serde_json::from_slice(metadata).context("parse cargo's metadata")?;
    let targets = metadata
        .packages
        .into_iter()
        .flat_map(|package| package.targets);
    Ok(targets
        .filter(|target| target.kind.iter().any(|kind| kind == "bin"))
        .map(|target| target.name)
        .collect())
}

fn run(targets: &[String], seconds: &dyn Fn(usize) -> u64) -> Result<Run> {
    packages::ensure(&needs())?;
    let home = paths::target().join("fuzz");
    let step = Step::begin("build the fuzz targets");
    let mut build = cargo::command();
    build
        .args(["build", "--release", "--target", TARGET, "--manifest-path"])
        .arg(manifest());
    build
        .arg("--target-dir")
        .arg(&home)
        .env("RUSTFLAGS", RUSTFLAGS);
    for target in targets {
        build.args(["--bin", target]);
    }
    let executables = cargo::build(build)?;
    step.done();

    let mut jobs = Vec::new();
    for target in targets {
        jobs.push((target, cargo::named(executables.clone(), target)?));
    }
    // A target is one thread: as many at once as there are CPUs.
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let seconds = seconds(targets.len().div_ceil(workers));
    let (queue, tally) = (Mutex::new(jobs.into_iter()), Mutex::new(Tally::default()));
    let work = || -> Result<()> {
        loop {
            let job = lock(&queue).next();
            let Some((target, executable)) = job else {
                return Ok(());
            };
            let step = Step::begin(format!("fuzz {target}"));
            match run_one(target, &executable, &home, seconds)? {
                Outcome::Clean { runs, edges } => {
                    lock(&tally).passed += 1;
                    step.done_with(format!("{runs} runs in {seconds} s, {edges} edges"));
                }
                Outcome::Finding { report } => {
                    lock(&tally).failed += 1;
                    drop(step);
                    println!("{report}");
                }
            }
        }
    };
    let ends: Vec<Result<()>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ends = workers.into_iter().map(|worker| worker.join());
        ends.map(|end| end.unwrap_or_else(|_| bail!("a worker panicked")))
            .collect()
    });
    ends.into_iter().collect::<Result<()>>()?;
    let tally = *lock(&tally);
    Ok(Run {
        tally,
        code: Some(i32::from(tally.failed > 0)),
        passed: BTreeSet::new(),
        failed: BTreeSet::new(),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A counter or an iterator is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// So many inputs were tried, and reached so many of the target's edges between basic blocks.
    Clean {
        runs: u64,
        edges: u64,
    },
    Finding {
        report: String,
    },
}

fn run_one(target: &str, executable: &Path, home: &Path, seconds: u64) -> Result<Outcome> {
    let seeds = paths::workspace().join("tests/fuzz/seeds").join(target);
    if fs::read_dir(&seeds).map_or(0, Iterator::count) == 0 {
        bail!("fuzz target {target} has no seeds in {}", seeds.display());
    }
    let corpus = home.join("corpus").join(target);
    let artifacts = home.join("artifacts").join(target);
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    // libFuzzer adds what it finds to the first folder and only reads the second.
    let output = Command::new(executable)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_TIMEOUT_S}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .args([&corpus, &seeds])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start fuzz target {target}"))?;
    Ok(judge(
        output.status.success(),
        &String::from_utf8_lossy(&output.stderr),
    ))
}

fn judge(succeeded: bool, report: &str) -> Outcome {
    let runs = report.lines().find_map(|line| {
        line.strip_prefix("stat::number_of_executed_units:")?
            .trim()
            .parse()
            .ok()
    });
    // The coverage so far is told with each input that adds to it, and at the end.
    let edges = report.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once(" cov: ")?;
        rest.split_whitespace().next()?.parse().ok()
    });
    match (runs, edges) {
        (Some(runs), Some(edges)) if succeeded && runs > 0 && edges > 0 => {
            Outcome::Clean { runs, edges }
        }
        _ => {
            let lines: Vec<_> = report.lines().collect();
            Outcome::Finding {
                report: lines[lines.len().saturating_sub(REPORT_TAIL_LINES)..].join("\n"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "#1 INITED cov: 60 ft: 61 corp: 1/1b\n\
        #900 DONE   cov: 75 ft: 90 corp: 7/9b exec/s: 180 rss: 40Mb\n\
        Done 900 runs in 5 second(s)\nstat::number_of_executed_units: 900\n";

    #[test]
    fn a_run_is_clean_only_with_a_good_exit_and_inputs_tried() {
        let clean = Outcome::Clean {
            runs: 900,
            edges: 75,
        };
        assert_eq!(judge(true, REPORT), clean);
        assert!(matches!(judge(false, REPORT), Outcome::Finding { .. }));
        assert!(matches!(
            judge(true, &REPORT.replace("units: 900", "units: 0")),
            Outcome::Finding { .. }
        ));
        // A target that was built without instrumentation only seems to be fuzzed.
        assert!(matches!(
            judge(true, &REPORT.replace(" cov: ", " ")),
            Outcome::Finding { .. }
        ));
        assert!(matches!(
            judge(true, "nothing to say"),
            Outcome::Finding { .. }
        ));
    }

    #[test]
    fn targets_are_the_executables_of_the_package() {
        let metadata = br#"{"packages":[{"targets":[{"name":"fuzz","kind":["lib"]},{"name":"frame","kind":["bin"]}]}]}"#;
        assert_eq!(executables(metadata).expect("targets"), ["frame"]);
    }
}
