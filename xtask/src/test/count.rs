//! Runs tests and counts by what they print: how many passed and failed, and which. Called by [`super`]
//! and [`super::vm`], and by `fuzz` for its tally; it must not know what kinds of tests there are.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// So often it is looked whether tests that say nothing have ended.
const TICK: Duration = Duration::from_millis(500);

/// How many tests had which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Neither ran nor was left out by a filter; there must be none.
    pub(crate) ignored: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// Whether this is what a good run looks like.
    pub(super) fn is_good(self) -> bool {
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

/// What came of one kind of tests.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) tally: Tally,
    /// `None` after a signal. A run that crashes has no line to count.
    pub(crate) code: Option<i32>,
    /// Names of tests that were seen to pass.
    pub(crate) passed: BTreeSet<String>,
    /// Names of tests that were seen to fail, or ran when all ended; some of them may have passed when
    /// they were repeated.
    pub(crate) failed: BTreeSet<String>,
}

impl Run {
    pub(crate) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

/// Runs a command, shows what it says on standard output, and adds up its result lines.
pub(super) fn count(command: &mut Command, timeout: Option<Duration>) -> Result<Run> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("start the tests")?;
    let mut output = child.stdout.take().context("the tests have an output")?;
    let (pieces, received) = mpsc::channel();
    thread::spawn(move || {
        let mut piece = vec![0; 64 << 10];
        loop {
            match output.read(&mut piece) {
                Ok(0) => return,
                Ok(count) => drop(pieces.send(piece[..count].to_vec())),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    let mut said = Said::default();
    let mut heard = Instant::now();
    loop {
        match received.recv_timeout(TICK) {
            Ok(piece) => {
                heard = Instant::now();
                said.hear(&piece);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            // What a test that failed has left running may have its output still.
            Err(RecvTimeoutError::Timeout) if child.try_wait().is_ok_and(|end| end.is_some()) => {
                break;
            }
            // From one word to the next: a suite may be long, a silence may not.
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
    said.end();
    let status = child.wait().context("wait for the tests")?;
    let Said {
        tally,
        passed,
        mut failed,
        begun,
        ..
    } = said;
    if !status.success() {
        // The one that ran when its host went away, or all was silent.
        failed.extend(begun);
    }
    Ok(Run {
        tally,
        code: status.code(),
        passed,
        failed,
    })
}

/// What tests have said so far.
#[derive(Default)]
struct Said {
    tally: Tally,
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    /// The name of the test that runs, where tests run one after the other.
    begun: Option<String>,
    /// What is no whole line yet.
    rest: Vec<u8>,
}

impl Said {
    fn hear(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend(part);
            if part.ends_with(b"\n") {
                self.line();
            }
        }
    }

    /// A test that has not ended has a line that has not, either.
    fn end(&mut self) {
        if !self.rest.is_empty() {
            self.line();
        }
    }

    fn line(&mut self) {
        // Tests may print what is not UTF-8.
        let line = String::from_utf8_lossy(&self.rest);
        let line = line.trim_end_matches('\n');
        println!("{line}");
        self.tally.add(Tally::parse(line).unwrap_or_default());
        match ended_test(line, &mut self.begun) {
            Some((name, true)) => self.passed.insert(name),
            Some((name, false)) => self.failed.insert(name),
            None => false,
        };
        self.rest.clear();
    }
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
pub(super) mod tests {
    use std::fs;

    use super::*;

    pub(in super::super) fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LINE: &str = "test result: FAILED. 27 passed; 2 failed; 1 ignored; 0 measured; 5 filtered out; finished in 0.01s";

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

    #[test]
    fn the_test_that_ran_when_all_ended_has_failed() {
        let begun = "printf 'test a ... ok\\ntest b ... '";
        let named = |run: Run| run.failed.into_iter().collect::<Vec<_>>();
        let run = count(&mut shell(&format!("{begun}; exit 125")), None).expect("run");
        assert_eq!(named(run), ["b"]);
        // Also when it has said something itself.
        let said = format!("{begun}; echo seed 1; exec sleep 1000");
        let run = count(&mut shell(&said), Some(Duration::from_millis(50))).expect("run");
        assert_eq!(named(run), ["b"]);
        let run = count(&mut shell(&format!("{begun}; echo ok")), None).expect("run");
        assert_eq!(named(run), [""; 0]);
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
