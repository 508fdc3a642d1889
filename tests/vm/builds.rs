//! The same Dockerfiles on a real Docker engine and on us: the same exit code, the same files (kind,
//! permissions, owner, link, content) and the same config, unless the list says what differs and why.
//! Each entry of the list is a test; what the engine answered is kept for later runs.

mod list;
mod packing;

use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use anyhow::{Context, Result, bail};
use harness::Invocation;
use harness::tree::{self, Tree};
use libtest_mimic::{Failed, Trial};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::differential::oracle;
use crate::hostile;
use crate::world::World;
use list::{Case, Part};

/// Every Dockerfile: a list a topic.
const LISTS: [(&str, &str); 10] = [
    ("run", include_str!("builds/run.txt")),
    ("copy", include_str!("builds/copy.txt")),
    ("add", include_str!("builds/add.txt")),
    ("config", include_str!("builds/config.txt")),
    ("variables", include_str!("builds/variables.txt")),
    ("syntax", include_str!("builds/syntax.txt")),
    ("stages", include_str!("builds/stages.txt")),
    ("ignore", include_str!("builds/ignore.txt")),
    ("cache", include_str!("builds/cache.txt")),
    ("buildkit", include_str!("builds/buildkit.txt")),
];

/// Name of what the engine builds.
const NAME: &str = "built:1";

/// Files that an engine makes for itself in whatever it runs.
const OF_ENGINES: [&str; 3] = ["dev/", "proc/", "sys/"];

/// What a build came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Answer {
    code: i32,
    stderr: String,
    files: Tree,
    config: Value,
}

/// Of how many entries one is run when nobody asks for builds: in an emulated host each takes some
/// ten seconds, and all of them as long as every other test together.
const ONE_OF: usize = 8;

/// The one of these whose turn it is: of those that need no engine, for which what it answered is there.
/// Where there are none, the first is asked.
fn in_turn(mut cases: Vec<Case>, turn: usize) -> Option<Case> {
    let is_answered = |case: &Case| {
        let question = question(case).ok()?;
        oracle::known::<Vec<Answer>>(&answer_name(case), &question)
    };
    let answered: Vec<usize> = (0..cases.len())
        .filter(|at| cases[*at].expected.is_some() || is_answered(&cases[*at]).is_some())
        .collect();
    let chosen = turn.checked_rem(answered.len()).map(|at| answered[at]);
    (!cases.is_empty()).then(|| cases.swap_remove(chosen.unwrap_or(0)))
}

/// A test for each entry, or, unless `all` are wanted, for some of each list, in turn as the hostile
/// images are.
pub(crate) fn trials(world: &Arc<World>, all: bool) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut count = 0;
    for (list, text) in LISTS {
        let cases = match list::parse(list, text) {
            Ok(cases) => cases,
            Err(error) => {
                let broken = move || Err(Failed::from(format!("{error:#}")));
                trials.push(Trial::test(format!("builds::{list}"), broken));
                continue;
            }
        };
        count += cases.len();
        let mut rest = cases.into_iter();
        let chosen: Vec<Case> = if all {
            rest.collect()
        } else {
            let some = || Some(rest.by_ref().take(ONE_OF).collect());
            std::iter::from_fn(some)
                .map_while(|some| in_turn(some, hostile::turn()))
                .collect()
        };
        trials.extend(chosen.into_iter().map(|case| {
            let world = Arc::clone(world);
            Trial::test(format!("builds::{}", case.name), move || {
                let _beside = world.beside_others();
                compare(&world, &case).map_err(|error| Failed::from(format!("{error:#}")))
            })
        }));
    }
    if !all {
        println!(
            "builds: {} of {count} entries; all of them with a filter, such as `cargo xtask test builds::`",
            trials.len()
        );
    }
    trials
}

fn compare(world: &World, case: &Case) -> Result<()> {
    let theirs = match &case.expected {
        Some(_) => None,
        None => Some(asked(world, case)?),
    };
    let mut ours = on_bulkhead(world, case).context("build it with bulkhead")?;
    if let Some(expected) = &case.expected {
        // What Debian's engine is too old for.
        let last = ours.last().context("there is no build")?;
        return expected_of(case, expected, last);
    }
    leave_out_busybox(world, &mut ours)?;
    let theirs = theirs.context("the engine was not asked")?;
    // What is wrong on both sides compares nothing, unless it is meant to be.
    let last = theirs.last().context("the engine built nothing")?;
    if (last.code != 0) != case.fails {
        bail!(
            "docker ends with {}, and the entry says fails: {}: {}",
            last.code,
            case.fails,
            last.stderr
        );
    }
    let different = differences(&theirs, &ours);
    let mut parts: Vec<Part> = Vec::new();
    for (part, _) in &different {
        if !parts.contains(part) {
            parts.push(*part);
        }
    }
    if parts != case.differs {
        let texts: Vec<&str> = different.iter().map(|(_, text)| text.as_str()).collect();
        let said: Vec<&str> = ours.iter().map(|answer| answer.stderr.as_str()).collect();
        bail!(
            "expected to differ in {:?}, differs in {parts:?}\n{}\nbulkhead said: {}",
            case.differs,
            texts.join("\n"),
            said.join("\n")
        );
    }
    Ok(())
}

/// Compares with what the list itself says.
fn expected_of(case: &Case, expected: &[String], ours: &Answer) -> Result<()> {
    for line in expected {
        let holds = match line.split_once(' ') {
            Some(("code", code)) => ours.code.to_string() == code,
            Some(("stderr", text)) => ours.stderr.contains(text),
            Some(("no", path)) => !ours.files.contains_key(path),
            Some(("config", text)) => {
                let (name, value) = text.split_once(' ').context("config NAME JSON")?;
                ours.config[name] == serde_json::from_str::<Value>(value)?
            }
            Some(("file", text)) => {
                let (path, line) = text.split_once(' ').context("file PATH LINE")?;
                ours.files
                    .get(path)
                    .is_some_and(|found| found.starts_with(line))
            }
            _ => bail!(
                "{}: {line} is none of code, stderr, no, config, file",
                case.name
            ),
        };
        if !holds {
            let path = line.split(' ').nth(1).unwrap_or_default();
            bail!(
                "{line}: does not hold: {:?}, config {}, code {}, {}",
                ours.files.get(path),
                ours.config,
                ours.code,
                ours.stderr
            );
        }
    }
    Ok(())
}

fn on_bulkhead(world: &World, case: &Case) -> Result<Vec<Answer>> {
    let vm = world.builds()?;
    let name = case.name.replace("::", "-");
    let work = vm.work().join(&name);
    fs::create_dir(&work).context("create a folder")?;
    let answers = builds(&work, &name, case, |words| {
        vm.bulkhead(words).current_dir(&work)
    })?;
    vm.bulkhead(["rmi", "--force", &name]).output()?;
    fs::remove_dir_all(&work).context("remove a folder")?;
    Ok(answers)
}

/// What the engine says, now or in an earlier run.
/// By which an answer is kept.
fn answer_name(case: &Case) -> String {
    format!("build-{}", case.name.replace("::", "-"))
}

fn question(case: &Case) -> Result<String> {
    let text = format!("changes of busybox: {}", case.text);
    oracle::question_of_any_kernel(&text)
}

fn asked(world: &World, case: &Case) -> Result<Vec<Answer>> {
    let (name, question) = (answer_name(case), question(case)?);
    let answers = match oracle::known(&name, &question) {
        Some(answers) => answers,
        None => {
            let mut answers = on_docker(world, case).context("build it with docker")?;
            leave_out_busybox(world, &mut answers)?;
            answers
        }
    };
    oracle::keep(&name, question, &answers)?;
    Ok(answers)
}

/// Leaves out what busybox's image has as well: its three hundred links would be most of each answer.
/// What is missing of them is said so.
fn leave_out_busybox(world: &World, answers: &mut [Answer]) -> Result<()> {
    let base = world.busybox_files()?;
    let base = base.iter().filter(|(path, _)| !is_of_engines(path));
    for Answer { files, .. } in answers {
        // None of them: the build failed, or began with nothing.
        if !base.clone().any(|(path, _)| files.contains_key(path)) {
            continue;
        }
        for (path, line) in base.clone() {
            if files.get(path) == Some(line) {
                files.remove(path);
            } else {
                files.entry(path.clone()).or_insert("gone".to_owned());
            }
        }
    }
    Ok(())
}

fn on_docker(world: &World, case: &Case) -> Result<Vec<Answer>> {
    let docker = world
        .docker()?
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let work = tempfile::tempdir_in(docker.work()).context("create a folder")?;
    let answers = builds(work.path(), NAME, case, |words| {
        docker.docker(words).current_dir(work.path())
    });
    docker.docker(["rmi", "--force", NAME]).output()?;
    answers
}

/// Does the builds of an entry, one after the other.
fn builds(
    work: &Path,
    name: &str,
    case: &Case,
    engine: impl Fn(&[&str]) -> Invocation,
) -> Result<Vec<Answer>> {
    let mut answers: Vec<Answer> = Vec::new();
    let mut stamps = Tree::new();
    for number in 0..case.builds.len() {
        let mut answer = build(work, name, case, number, &engine)?;
        let now = answer.files.iter().filter(|(path, _)| is_stamp(path));
        let now: Tree = now
            .map(|(path, line)| (path.clone(), line.clone()))
            .collect();
        for (path, line) in &now {
            let is_last = stamps.get(path) == Some(line);
            let text = if is_last { "as before" } else { "new" };
            answer.files.insert(path.clone(), text.to_owned());
        }
        stamps = now;
        answers.push(answer);
    }
    Ok(answers)
}

/// Whether a file says only when its step was run.
fn is_stamp(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.starts_with("stamp")
}

/// Whether engines make this file for themselves.
fn is_of_engines(path: &str) -> bool {
    OF_ENGINES.iter().any(|of| path.starts_with(of))
}

/// Builds with an engine and looks at what came out.
fn build(
    work: &Path,
    name: &str,
    case: &Case,
    number: usize,
    engine: &impl Fn(&[&str]) -> Invocation,
) -> Result<Answer> {
    let context = work.join("context");
    if context.exists() {
        fs::remove_dir_all(&context).context("remove the last context")?;
    }
    case.write(number, &context)?;
    let build = case.builds.get(number).context("there is no such build")?;
    let mut words = vec!["build", "-t", name];
    words.extend(build.arguments.iter().map(String::as_str));
    words.push("context");
    let mut invocation = engine(&words);
    for (name, value) in &build.variables {
        invocation = invocation.env(name, value);
    }
    let out = invocation.output()?;
    let mut answer = Answer {
        code: out.code,
        stderr: out.stderr,
        files: Tree::new(),
        config: Value::Null,
    };
    if answer.code != 0 {
        return Ok(answer);
    }
    let archive = work.join("built.tar");
    let archive_text = archive.to_str().context("a path")?;
    engine(&["save", "-o", archive_text, name])
        .output()?
        .code(0)?;
    (answer.files, answer.config) = tree::of_archive(&archive)?;
    fs::remove_file(&archive).context("remove the archive")?;
    answer.files.retain(|path, _| !is_of_engines(path));
    Ok(answer)
}

/// What differs, and how: of the first build that does.
fn differences(theirs: &[Answer], ours: &[Answer]) -> Vec<(Part, String)> {
    let pairs = (1..).zip(theirs.iter().zip(ours));
    let mut of_builds = pairs.map(|(number, (theirs, ours))| {
        let mut different = differences_of(theirs, ours);
        for (_, text) in &mut different {
            *text = format!("build {number}: {text}");
        }
        different
    });
    of_builds
        .find(|different| !different.is_empty())
        .unwrap_or_default()
}

/// What differs, and how.
fn differences_of(theirs: &Answer, ours: &Answer) -> Vec<(Part, String)> {
    let mut different = Vec::new();
    if theirs.code != ours.code {
        let text = format!(
            "code: {} on docker ({}), {} here",
            theirs.code, theirs.stderr, ours.code
        );
        // The rest follows.
        return vec![(Part::Code, text)];
    }
    if theirs.files != ours.files {
        let mut lines = vec!["files:".to_owned()];
        for (path, line) in &theirs.files {
            match ours.files.get(path) {
                Some(own) if own == line => {}
                own => lines.push(format!("  {path}: {line} on docker, {own:?} here")),
            }
        }
        for (path, line) in &ours.files {
            if !theirs.files.contains_key(path) {
                lines.push(format!("  {path}: {line} here alone"));
            }
        }
        different.push((Part::Files, lines.join("\n")));
    }
    if theirs.config != ours.config {
        let text = format!(
            "config: {} on docker\n        {} here",
            theirs.config, ours.config
        );
        different.push((Part::Config, text));
    }
    different
}
