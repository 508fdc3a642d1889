//! The same command lines on a real Docker engine and on us: output and exit code must be the
//! same, unless the list says that they differ and why. Each entry of a list is a test: one line, or
//! several in order.

mod list;
mod normal;
pub(crate) mod oracle;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use libtest_mimic::{Failed, Trial};
use serde::{Deserialize, Serialize};

use crate::world::World;
use harness::{Docker, Sandbox};
use list::{Case, Line, Stream};

/// Every command line, see `differential/README.md` for the form.
const LISTS: [(&str, &str); 2] = [
    ("commands.txt", include_str!("differential/commands.txt")),
    ("scenarios.txt", include_str!("differential/scenarios.txt")),
];

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
    let cases = match list::parse(&LISTS) {
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
                let _beside = world.beside_others();
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
        Some(answers) => answers,
        None => on_docker(world, case).context("run it on docker")?,
    };
    let bulkhead = on_bulkhead(world, case).context("run it on bulkhead")?;
    let mut wrong = Vec::new();
    for ((line, docker), bulkhead) in case.lines.iter().zip(&docker).zip(&bulkhead) {
        let different = differences(line, docker, bulkhead);
        if different != line.differs {
            wrong.push(format!(
                "{}\nexpected to differ in {:?}, differs in {different:?}\ndocker:   {docker:?}\nbulkhead: {bulkhead:?}",
                line.text(),
                line.differs
            ));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    oracle::keep(&case.name, question, docker)?;
    let mut outcomes = world
        .differences
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for line in &case.lines {
        match &line.reason {
            Some(reason) => {
                let names = outcomes.differ.entry(reason.clone()).or_default();
                names.push(case.name.clone());
            }
            None => outcomes.same += 1,
        }
    }
    Ok(())
}

/// What differs, apart from ids and times.
fn differences(line: &Line, docker: &Answer, bulkhead: &Answer) -> Vec<Stream> {
    let differ = |one: &str, other: &str| normal::text(one) != normal::text(other);
    let mut different = Vec::new();
    if docker.code != bulkhead.code {
        different.push(Stream::Code);
    }
    if differ(&docker.stdout, &bulkhead.stdout) {
        different.push(Stream::Stdout);
    }
    // Engines since 23 begin their sentences with small letters.
    if line.compares_stderr
        && differ(
            &docker.stderr.to_lowercase(),
            &bulkhead.stderr.to_lowercase(),
        )
    {
        different.push(Stream::Stderr);
    }
    different
}

fn on_docker(world: &World, case: &Case) -> Result<Vec<Answer>> {
    // Lists show what every test's containers are at.
    let docker = world
        .docker()?
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let answers = case
        .lines
        .iter()
        .map(|line| repeated(line, || line_on_docker(&docker, line)))
        .collect();
    if !case.is_alone() {
        docker.remove_containers()?;
    }
    answers
}

fn line_on_docker(docker: &Docker, line: &Line) -> Result<Answer> {
    if line.terminal {
        let answer = at_terminal(docker.terminal(&line.arguments)?, line)?;
        // What the client says of an engine that is slow.
        let stdout = answer
            .stdout
            .replace("failed to resize tty, using default size\r\n", "");
        return Ok(Answer { stdout, ..answer });
    }
    without_terminal(docker.docker(&line.arguments), line)
}

fn on_bulkhead(world: &World, case: &Case) -> Result<Vec<Answer>> {
    let own;
    let vm = if case.is_alone() {
        world.busybox()?
    } else {
        own = world.own()?;
        &own
    };
    case.lines
        .iter()
        .map(|line| repeated(line, || line_on_bulkhead(vm, line)))
        .collect()
}

fn line_on_bulkhead(vm: &Sandbox, line: &Line) -> Result<Answer> {
    if line.terminal {
        return at_terminal(vm.terminal(&line.arguments)?, line);
    }
    without_terminal(vm.bulkhead(&line.arguments), line)
}

/// Runs a line once, or until it says what is waited for.
fn repeated(line: &Line, run: impl Fn() -> Result<Answer>) -> Result<Answer> {
    let begun = Instant::now();
    loop {
        let answer = run().with_context(|| line.text())?;
        match &line.until {
            Some(text) if answer.stdout.trim() != text => {}
            _ => return Ok(answer),
        }
        if begun.elapsed() > harness::PATIENCE {
            bail!("{}: still {answer:?}", line.text());
        }
        std::thread::sleep(harness::POLL_INTERVAL);
    }
}

fn without_terminal(mut invocation: harness::Invocation, line: &Line) -> Result<Answer> {
    for (name, value) in &line.variables {
        invocation = invocation.env(name, value);
    }
    if let Some(stdin) = &line.stdin {
        invocation = invocation.stdin(stdin.clone());
    }
    let out = invocation.output()?;
    Ok(Answer {
        code: out.code,
        stdout: out.stdout,
        stderr: essence(&out.stderr),
    })
}

fn at_terminal(mut terminal: harness::Terminal, line: &Line) -> Result<Answer> {
    if let Some(keys) = &line.stdin {
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
            // Names again what it could not do.
            && !line.starts_with("Error: failed to ")
    });
    let lines: Vec<_> = lines
        .map(|line| {
            [
                "docker: ",
                "bulkhead: ",
                "Error response from daemon: ",
                "Error: ",
            ]
            .iter()
            .fold(line, |line, prefix| {
                line.strip_prefix(prefix).unwrap_or(line)
            })
            .trim_end_matches('.')
        })
        .collect();
    lines.join("\n")
}
