//! `cargo xtask test`: every test there is: unit tests and those of the command line here, VM
//! tests where KVM works, a short run of each fuzz target. main.rs and `ci` call it.
//! It must not know what any test is about.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::artifacts::{self, ArtifactsArgs};
use crate::fixtures::{self, Recipe};
use crate::packages::{self, Package};
use crate::progress::Step;
use crate::{cargo, fuzz, hostile, lab, paths};

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

/// A fuzz target's share of a run of all tests: the most, and what it has where the others took long.
const FUZZ_SECONDS: RangeInclusive<u64> = 5..=60;

/// Which random things hostile guests do, for `tests/vm`.
const SEED: &str = "BULKHEAD_HOSTILE_SEED";

/// So often it is looked whether tests that say nothing have ended.
const TICK: Duration = Duration::from_millis(500);

/// A run of all tests takes no longer than this for the sake of fuzzing: CI ends after 90 minutes, of
/// which lints and documentation, before it, have taken some.
const RUN_TIME: Duration = Duration::from_secs(72 * 60);

/// Names a number that chooses which of the hostile images have their turn (`tests/vm/hostile.rs`).
const TURN: &str = "BULKHEAD_HOSTILE_TURN";

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
    Package::file("crun", &["/usr/bin/crun"]),
    Package::file("docker-registry", &["/usr/bin/docker-registry"]),
    Package::file("docker.io", &["/usr/bin/dockerd", "/usr/sbin/dockerd"]),
    Package::file("git", &["/usr/bin/git", "/usr/local/bin/git"]),
    Package::file("podman", &["/usr/bin/podman"]),
    Package::file("runc", &["/usr/sbin/runc"]),
    Package::file("skopeo", &["/usr/bin/skopeo"]),
    Package::file("strace", &["/usr/bin/strace"]),
    Package::file("umoci", &["/usr/bin/umoci"]),
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

/// How many tests had which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Neither ran nor was left out by a filter; there must be none.
    pub(crate) ignored: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// Whether this is what a good run looks like.
    fn is_good(self) -> bool {
        self.passed > 0 && self.failed == 0 && self.ignored == 0
    }

    /// Reads a line as `test result: ok. 27 passed; 0 failed; 0 ignored; 0 measured; 0 filtered
    /// out; finished in 0.01s`, which libtest ends each run with.
    fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut tally = Self::default();
        for count in counts.split("; ") {
            let Some((number, what)) = count.trim().split_once(' ') else {
                continue;
            };
            let field = match what {
                "passed" => &mut tally.passed,
                "failed" => &mut tally.failed,
                "ignored" => &mut tally.ignored,
                _ => continue,
            };
            *field = number.parse().ok()?;
        }
        Some(tally)
    }
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
            Kind::Vm => vm(filter)?,
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

/// What came of one kind of tests.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) tally: Tally,
    /// `None` after a signal. A run that crashes has no line to count.
    pub(crate) code: Option<i32>,
    /// Names of tests that were seen to pass.
    pub(crate) passed: BTreeSet<String>,
    /// Names of tests that were seen to fail; some of them may have passed when they were repeated.
    pub(crate) failed: BTreeSet<String>,
}

impl Run {
    pub(crate) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

fn unit(filter: Option<&str>) -> Result<Run> {
    let mut command = cargo::command();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if let Some(filter) = filter {
        command.args(["--", filter]);
    }
    count(command.stderr(Stdio::inherit()), None)
}

fn vm(filter: Option<&str>) -> Result<Run> {
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
    let answers = paths::cache()?.join("oracle");
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

/// Runs a command, shows what it says on standard output, and adds up its result lines.
fn count(command: &mut Command, timeout: Option<Duration>) -> Result<Run> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("start the tests")?;
    let output = child.stdout.take().context("the tests have an output")?;
    let (lines, received) = mpsc::channel();
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        // Tests may print what is not UTF-8.
        while output
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            let _ = lines.send(
                String::from_utf8_lossy(&line)
                    .trim_end_matches('\n')
                    .to_owned(),
            );
            line.clear();
        }
    });
    let mut tally = Tally::default();
    let (mut passed, mut failed) = (BTreeSet::new(), BTreeSet::new());
    let mut begun = None;
    let mut heard = Instant::now();
    loop {
        match received.recv_timeout(TICK) {
            Ok(line) => {
                heard = Instant::now();
                println!("{line}");
                tally.add(Tally::parse(&line).unwrap_or_default());
                match ended_test(&line, &mut begun) {
                    Some((name, true)) => passed.insert(name),
                    Some((name, false)) => failed.insert(name),
                    None => false,
                };
            }
            Err(RecvTimeoutError::Disconnected) => break,
            // What a test that failed has left running may have its output still.
            Err(RecvTimeoutError::Timeout) if child.try_wait().is_ok_and(|end| end.is_some()) => {
                break;
            }
            // Per line: a suite may be long, a silence may not.
            Err(RecvTimeoutError::Timeout) => {
                if timeout.is_some_and(|timeout| heard.elapsed() > timeout) {
                    let silence = heard.elapsed().as_secs();
                    eprintln!("the tests said nothing for {silence} s and are ended");
                    end(&mut child);
                    break;
                }
            }
        }
    }
    let status = child.wait().context("wait for the tests")?;
    Ok(Run {
        tally,
        code: status.code(),
        passed,
        failed,
    })
}

/// The test that a line says has ended, and whether it passed, as `test streams::attach_chooses_streams
/// ... ok`. Where the test itself prints, that is between its name and a last line `ok`: `begun` is the
/// name until then.
fn ended_test(line: &str, begun: &mut Option<String>) -> Option<(String, bool)> {
    match line {
        "ok" => return Some((begun.take()?, true)),
        "FAILED" => return Some((begun.take()?, false)),
        _ => {}
    }
    let (name, end) = line.strip_prefix("test ")?.split_once("... ")?;
    let name = name.trim().to_owned();
    *begun = None;
    match end {
        "ok" => return Some((name, true)),
        "FAILED" => return Some((name, false)),
        "ignored" => {}
        _ => *begun = Some(name),
    }
    None
}

fn end(child: &mut Child) {
    // It fails only when the child has ended already.
    let _ = child.kill();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LINE: &str = "test result: FAILED. 27 passed; 2 failed; 1 ignored; 0 measured; 5 filtered out; finished in 0.01s";

    #[test]
    fn fuzz_targets_share_what_time_is_left() {
        let of = |minutes: u64| fuzz_seconds(Duration::from_secs(minutes * 60), 12);
        assert_eq!((of(0), of(60), of(64), of(71), of(100)), (60, 60, 40, 5, 5));
        assert_eq!(fuzz_seconds(Duration::ZERO, 0), 60);
    }

    #[test]
    fn a_result_line_is_read() {
        assert_eq!(
            Tally::parse(LINE),
            Some(Tally {
                passed: 27,
                failed: 2,
                ignored: 1
            })
        );
        assert_eq!(Tally::parse("test result_parsing ... ok"), None);
        assert_eq!(Tally::parse("test a::b ... ok"), None);
    }

    #[test]
    fn tests_that_ended_are_known_by_name() {
        let mut begun = None;
        let mut ended = |line| ended_test(line, &mut begun);
        let of = |name: &str, passed| Some((name.to_owned(), passed));
        assert_eq!(ended("test a::b   ... ok"), of("a::b", true));
        assert_eq!(ended("test a::b   ... FAILED"), of("a::b", false));
        assert_eq!(ended("a test ... ok"), None);
        assert_eq!(ended("test a::c   ... seed 1"), None);
        assert_eq!(ended("of its own"), None);
        assert_eq!(ended("ok"), of("a::c", true));
        assert_eq!(ended("ok"), None);
        assert_eq!(ended("test a::d   ... seed 1"), None);
        assert_eq!(ended("FAILED"), of("a::d", false));
        assert_eq!(ended("test a::e   ... ignored"), None);
        assert_eq!(ended("ok"), None);
    }

    #[test]
    fn result_lines_add_up_and_the_exit_code_counts() {
        let run = count(
            &mut shell(&format!("echo '{LINE}'; echo other; echo '{LINE}'; exit 3")),
            None,
        )
        .expect("run");
        assert_eq!(
            run.tally,
            Tally {
                passed: 54,
                failed: 4,
                ignored: 2
            }
        );
        assert!(!run.succeeded());
    }

    #[test]
    fn what_tests_leave_running_holds_up_nobody() {
        let folder = std::env::temp_dir().join(format!("xtask-{}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        // It reads until this test opens the other end, and has the output all the while.
        let script = format!("cd {}; mkfifo left; cat left & exit 3", folder.display());
        let run = count(&mut shell(&script), None).expect("run");
        assert_eq!(run.code, Some(3));
        fs::write(folder.join("left"), "").expect("end what is left");
        fs::remove_dir_all(&folder).expect("remove the folder");
    }

    #[test]
    fn silence_ends_a_run_that_has_a_limit() {
        let run = count(
            &mut shell("exec sleep 1000"),
            Some(Duration::from_millis(50)),
        )
        .expect("run");
        assert!(!run.succeeded());
        assert_eq!(run.tally, Tally::default());
    }

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
            ("test c ... ok\\n", 125),
            (
                "test b ... ok\\ntest result: ok. 1 passed; 0 failed; 0 ignored\\n",
                0,
            ),
        ]);
        assert_eq!(attempts, 3);
        assert!(run.succeeded());
        assert_eq!(run.tally.passed, 3);
        assert_eq!(only_when_repeated(&run), ["b"]);
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

    #[test]
    fn no_test_is_no_success() {
        assert!(!Tally::default().is_good());
        assert!(
            Tally {
                passed: 1,
                ..Tally::default()
            }
            .is_good()
        );
        assert!(
            !Tally {
                passed: 9,
                failed: 1,
                ignored: 0
            }
            .is_good()
        );
        assert!(
            !Tally {
                passed: 9,
                failed: 0,
                ignored: 1
            }
            .is_good()
        );
    }
}
