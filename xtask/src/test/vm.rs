//! The VM tests: where there is no KVM, in emulated hosts side by side, as often as the emulator needs.
//! Called by [`super`]; it must not know what any test is about.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fs};

use anyhow::{Context, Result, bail};

use super::count::{Run, Tally, count};
use crate::artifacts::{self, ArtifactsArgs};
use crate::fixtures::{self, Recipe};
use crate::{cargo, hostile, lab, paths};

/// The test target of the root package that needs KVM.
const VM_TARGET: &str = "vm";

/// A hung VM must not hang CI. Many times what a single test needs on two cores, emulated.
const LONGEST_SILENCE: Duration = Duration::from_secs(8 * 60);

/// Emulated hosts that one run of the VM tests may use up.
const HOSTS_MAX: u32 = 12;

/// So many times a test may fail in emulated hosts of one CPU before it has failed, and in those of
/// several, where VMs die far more often.
const FAILURES_MAX: u32 = 3;
const FAILURES_MAX_SEVERAL_CPUS: u32 = 6;

/// Which random things hostile guests do, for `tests/vm`.
const SEED: &str = "BULKHEAD_HOSTILE_SEED";

/// Names a number that chooses which of the hostile images have their turn (`tests/vm/hostile.rs`).
const TURN: &str = "BULKHEAD_HOSTILE_TURN";

/// Runs those whose name contains the filter, or all.
///
/// # Errors
///
/// Something could not be built or started.
pub(super) fn run(filter: Option<&str>) -> Result<Run> {
    let artifacts = artifacts::provide(&ArtifactsArgs::default())?;
    let fixtures = fixtures::provide(Recipe::ALL)?;
    let hostile = hostile::provide()?;
    let mut build = cargo::command();
    build.args([
        "test",
        "--no-run",
        "--package",
        "bulkhead",
        "--test",
        VM_TARGET,
    ]);
    let executable = cargo::named(cargo::build(build)?, VM_TARGET)?;

    let seed = hostile_seed()?;
    println!("{SEED}={seed}");
    // The one folder that outlives the emulated hosts: an answer counts for the next run as soon as it
    // is there, however this one ends.
    let answers = paths::answers()?;
    fs::create_dir_all(&answers).with_context(|| format!("create {}", answers.display()))?;
    let lists = paths::lab().join("tests");
    // One for all hosts, of which each may begin on another day.
    let turn = hostile_turn();
    let attempt = |passed: &BTreeSet<String>, part: Part| {
        let folder = lists.join(part.folder());
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let names: Vec<&str> = passed.iter().map(String::as_str).collect();
        let passed_list = folder.join("passed");
        fs::write(&passed_list, names.join("\n"))
            .with_context(|| format!("write {}", passed_list.display()))?;
        let mut command = lab::command()?;
        if let Some(cpus) = part.cpus() {
            command.args(["--smp", cpus]);
        }
        command.arg("--out").arg(&answers);
        if let Some(value) = part.value() {
            command.args(["--env", &format!("BULKHEAD_TESTS_PART={value}")]);
        }
        command.args(["--env", &format!("{TURN}={turn}")]);
        for (name, path) in [
            ("BULKHEAD", artifacts.join("bulkhead").as_path()),
            ("BULKHEAD_FIXTURES", &fixtures),
            ("BULKHEAD_HOSTILE", &hostile),
            ("BULKHEAD_TESTS_PASSED", &passed_list),
            ("BULKHEAD_ORACLE", &answers),
        ] {
            let mut variable = OsString::from(format!("{name}="));
            variable.push(path);
            command.arg("--env").arg(variable);
        }
        command
            .args(["--env", &format!("{SEED}={seed}")])
            .args(["--env", "RUST_BACKTRACE=1", "--"])
            .arg(&executable)
            .args(filter)
            .stdin(Stdio::null());
        count(&mut command, Some(LONGEST_SILENCE))
    };
    if lab::why_emulated().is_none() {
        return attempt(&BTreeSet::new(), Part::All);
    }
    // An emulated host with one CPU is slower but fails far less often than one with several.
    let hosts = thread::available_parallelism().map_or(1, |count| count.get().clamp(2, 4));
    let mut runs: Vec<Result<Run>> = thread::scope(|scope| {
        let attempt = &attempt;
        let shares: Vec<_> = (0..hosts)
            .map(|number| {
                let part = Part::Share { number, of: hosts };
                scope.spawn(move || in_emulated_hosts(FAILURES_MAX, |passed| attempt(passed, part)))
            })
            .collect();
        let runs = shares.into_iter().map(thread::ScopedJoinHandle::join);
        runs.map(|run| run.unwrap_or_else(|_| bail!("a share of the tests panicked")))
            .collect()
    });
    runs.push(in_emulated_hosts(FAILURES_MAX_SEVERAL_CPUS, |passed| {
        attempt(passed, Part::SeveralCpus)
    }));
    let mut all = Run {
        tally: Tally::default(),
        code: Some(0),
        passed: BTreeSet::new(),
        failed: BTreeSet::new(),
    };
    for run in runs {
        let mut run = run?;
        all.tally.add(run.tally);
        all.passed.append(&mut run.passed);
        all.failed.append(&mut run.failed);
        if !run.succeeded() {
            all.code = run.code;
        }
    }
    let repeated = only_when_repeated(&all);
    if !repeated.is_empty() {
        println!("passed only when repeated: {}", repeated.join(", "));
    }
    Ok(all)
}

/// Tests that failed and passed: the emulator's doing, or a race that is worth a look.
fn only_when_repeated(run: &Run) -> Vec<&str> {
    let both = run.failed.intersection(&run.passed);
    both.map(String::as_str).collect()
}

/// What hostile guests do at random begins with, the same in each host: a failure that one attempt
/// found is found by the next. `BULKHEAD_HOSTILE_SEED` repeats a run's.
fn hostile_seed() -> Result<String> {
    if let Ok(seed) = env::var(SEED) {
        return Ok(seed);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(now.as_secs().to_string())
}

/// What the variable says, else the day: in so many days as images are taken in turn each had its own.
fn hostile_turn() -> String {
    const DAY_S: u64 = 24 * 60 * 60;
    env::var(TURN).unwrap_or_else(|_| {
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed();
        (since_1970.unwrap_or_default().as_secs() / DAY_S).to_string()
    })
}

/// What of the VM tests runs in one host; `tests/vm/main.rs` reads the value.
#[derive(Clone, Copy, Debug)]
enum Part {
    All,
    /// Number 0 to `of` - 1 of those that need no second CPU.
    Share {
        number: usize,
        of: usize,
    },
    /// The others.
    SeveralCpus,
}

impl Part {
    fn value(self) -> Option<String> {
        match self {
            Self::All => None,
            Self::Share { number, of } => Some(format!("{number}/{of}")),
            Self::SeveralCpus => Some("several-cpus".to_owned()),
        }
    }

    fn cpus(self) -> Option<&'static str> {
        match self {
            Self::All => None,
            Self::Share { .. } => Some("1"),
            Self::SeveralCpus => Some("2"),
        }
    }

    fn folder(self) -> String {
        self.value()
            .map_or_else(|| "all".to_owned(), |value| value.replace('/', "-of-"))
    }
}

/// Runs tests, as often as the emulator needs.
///
/// QEMU's emulation of SVM now and then mixes the state of a guest and its host: a guest or the
/// host's kernel dies, or an interrupt is lost (docs/adr/0005). So what has passed counts, and the
/// rest runs again in another host. A test that fails each time is a failure.
fn in_emulated_hosts(
    failures_max: u32,
    attempt: impl Fn(&BTreeSet<String>) -> Result<Run>,
) -> Result<Run> {
    let (mut passed, mut failed) = (BTreeSet::new(), BTreeSet::new());
    let mut failures = 0;
    for hosts in 1.. {
        let mut run = attempt(&passed)?;
        let crashed = run.code == Some(i32::from(lab::LAB_FAILED));
        failures += u32::from(!crashed && !run.succeeded());
        failed.append(&mut run.failed);
        if run.succeeded() || hosts == HOSTS_MAX || failures == failures_max {
            run.tally.passed += u64::try_from(passed.len())?;
            run.failed = failed;
            run.passed.append(&mut passed);
            return Ok(run);
        }
        passed.append(&mut run.passed);
        println!(
            "{}: {} tests have passed, the others run in another",
            if crashed {
                "the emulated host went away"
            } else {
                "tests failed in an emulated host"
            },
            passed.len(),
        );
    }
    bail!("no host for the tests")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::count::tests::shell;

    /// Attempts that end as told, one after the other; returns what came of it and their number.
    fn emulated(ends: &[(&str, i32)]) -> (Run, usize) {
        let attempts = std::cell::RefCell::new(Vec::new());
        let run = in_emulated_hosts(FAILURES_MAX, |passed| {
            let number = attempts.borrow().len();
            attempts.borrow_mut().push(passed.clone());
            let (text, code) = ends[number];
            count(&mut shell(&format!("printf '{text}'; exit {code}")), None)
        });
        let attempts = attempts.into_inner();
        assert!(attempts.is_sorted_by_key(BTreeSet::len));
        (run.expect("run"), attempts.len())
    }

    #[test]
    fn what_passed_before_an_emulated_host_went_away_counts_once() {
        let (run, attempts) = emulated(&[
            ("test a ... ok\\ntest b ... FAILED\\n", 125),
            ("test c ... ok\\ntest d   ... ", 125),
            (
                "test b ... ok\\ntest d ... ok\\ntest result: ok. 2 passed; 0 failed; 0 ignored\\n",
                0,
            ),
        ]);
        assert_eq!(attempts, 3);
        assert!(run.succeeded());
        assert_eq!(run.tally.passed, 4);
        assert_eq!(only_when_repeated(&run), ["b", "d"]);
    }

    #[test]
    fn a_test_that_fails_in_every_emulated_host_is_a_failure() {
        const FAILED: (&str, i32) = (
            "test b ... FAILED\\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\\n",
            101,
        );
        let (run, attempts) = emulated(&[FAILED, ("", 125), FAILED, FAILED, FAILED]);
        assert_eq!(attempts, 4);
        assert!(!run.succeeded());
        assert_eq!(run.tally.failed, 1);
        assert!(only_when_repeated(&run).is_empty());
    }
}
