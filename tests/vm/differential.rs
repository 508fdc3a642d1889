//! The same command lines on a real Docker engine and on us: output and exit code must be the
//! same, unless the list says that they differ and why. Each line of the list is a test.

mod list;
mod oracle;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use libtest_mimic::{Failed, Trial};
use serde::{Deserialize, Serialize};

use crate::world::World;
use list::{Case, Stream};

/// Every command line, see `differential/README.md` for the form.
const LIST: &str = include_str!("differential/commands.txt");

/// What is said at the end: names of lines by how they came out.
#[derive(Default)]
pub(crate) struct Differences(Mutex<Outcomes>);

#[derive(Default)]
struct Outcomes {
    same: usize,
    /// Reason to names.
    differ: BTreeMap<String, Vec<String>>,
}

/// A test for each command line.
pub(crate) fn trials(world: &Arc<World>) -> Vec<Trial> {
    let cases = match list::parse(LIST) {
        Ok(cases) => cases,
        Err(error) => {
            let broken = move || Err(Failed::from(format!("{error:#}")));
            return vec![Trial::test("differential::list", broken)];
        }
    };
    cases
        .into_iter()
        .map(|case| {
            let world = Arc::clone(world);
            Trial::test(format!("differential::{}", case.name), move || {
                compare(&world, &case).map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
        .collect()
}

/// Prints how many lines came out the same and which differ why; nothing if none was run.
pub(crate) fn summarize(world: &World) {
    let outcomes = world
        .differences
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let differ: usize = outcomes.differ.values().map(Vec::len).sum();
    if outcomes.same + differ == 0 {
        return;
    }
    println!(
        "next to docker: {} lines the same, {differ} differ as listed",
        outcomes.same
    );
    for (reason, names) in &outcomes.differ {
        println!("  {reason}: {}", names.join(", "));
    }
}

/// What a line came to on one side.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Answer {
    code: i32,
    stdout: String,
    stderr: String,
}

fn compare(world: &World, case: &Case) -> Result<()> {
    let question = oracle::question(case)?;
    let docker = match oracle::known(&case.name, &question) {
        Some(answer) => answer,
        None => on_docker(world, case).context("run it on docker")?,
    };
    let bulkhead = on_bulkhead(world, case).context("run it on bulkhead")?;
    let mut different = Vec::new();
    if docker.code != bulkhead.code {
        different.push(Stream::Code);
    }
    if docker.stdout != bulkhead.stdout {
        different.push(Stream::Stdout);
    }
    if case.compares_stderr && docker.stderr != bulkhead.stderr {
        different.push(Stream::Stderr);
    }
    if different != case.differs {
        bail!(
            "expected to differ in {:?}, differs in {different:?}\n{}\ndocker:   {docker:?}\nbulkhead: {bulkhead:?}",
            case.differs,
            case.line()
        );
    }
    oracle::keep(&case.name, question, docker)?;
    let mut outcomes = world
        .differences
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    match &case.reason {
        Some(reason) => {
            let names = outcomes.differ.entry(reason.clone()).or_default();
            names.push(case.name.clone());
        }
        None => outcomes.same += 1,
    }
    Ok(())
}

fn on_docker(world: &World, case: &Case) -> Result<Answer> {
    let docker = world.docker()?;
    if case.terminal {
        let answer = at_terminal(docker.terminal(&case.arguments)?, case)?;
        // What the client says of an engine that is slow.
        let stdout = answer
            .stdout
            .replace("failed to resize tty, using default size\r\n", "");
        return Ok(Answer { stdout, ..answer });
    }
    let invocation = docker.docker(&case.arguments);
    without_terminal(invocation, case)
}

fn on_bulkhead(world: &World, case: &Case) -> Result<Answer> {
    let vm = world.busybox()?;
    if case.terminal {
        return at_terminal(vm.terminal(&case.arguments)?, case);
    }
    without_terminal(vm.bulkhead(&case.arguments), case)
}

fn without_terminal(mut invocation: harness::Invocation, case: &Case) -> Result<Answer> {
    for (name, value) in &case.variables {
        invocation = invocation.env(name, value);
    }
    if let Some(stdin) = &case.stdin {
        invocation = invocation.stdin(stdin.clone());
    }
    let out = invocation.output()?;
    Ok(Answer {
        code: out.code,
        stdout: out.stdout,
        stderr: essence(&out.stderr),
    })
}

fn at_terminal(mut terminal: harness::Terminal, case: &Case) -> Result<Answer> {
    if let Some(keys) = &case.stdin {
        terminal.send(keys)?;
    }
    let (code, stdout) = terminal.wait()?;
    Ok(Answer {
        code,
        stdout,
        stderr: String::new(),
    })
}

/// The sentence of an error without who says it and where help is.
fn essence(stderr: &str) -> String {
    let lines = stderr.lines().filter(|line| {
        !line.trim().is_empty()
            && !line.starts_with("See '")
            && !line.starts_with("Run '")
            && !line.starts_with("hint: ")
    });
    let lines: Vec<_> = lines
        .map(|line| {
            ["docker: ", "bulkhead: ", "Error response from daemon: "]
                .iter()
                .fold(line, |line, prefix| {
                    line.strip_prefix(prefix).unwrap_or(line)
                })
                .trim_end_matches('.')
        })
        .collect();
    lines.join("\n")
}
