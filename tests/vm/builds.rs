//! The same Dockerfiles on a real Docker engine and on us: the same exit code, the same files (kind,
//! permissions, owner, link, content) and the same config, unless the list says what differs and why.
//! Each entry of the list is a test; what the engine answered is kept for later runs.

mod list;

use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use anyhow::{Context, Result, bail};
use harness::tree::{self, Tree};
use harness::{Docker, Invocation};
use libtest_mimic::{Failed, Trial};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::differential::oracle;
use crate::world::World;
use list::{Case, Part};

/// Every Dockerfile.
const LIST: &str = include_str!("builds/list.txt");

/// Name of what is built.
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

/// A test for each entry.
pub(crate) fn trials(world: &Arc<World>) -> Vec<Trial> {
    let cases = match list::parse(LIST) {
        Ok(cases) => cases,
        Err(error) => {
            let broken = move || Err(Failed::from(format!("{error:#}")));
            return vec![Trial::test("builds::list", broken)];
        }
    };
    cases
        .into_iter()
        .map(|case| {
            let world = Arc::clone(world);
            Trial::test(format!("builds::{}", case.name), move || {
                compare(&world, &case).map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
        .collect()
}

fn compare(world: &World, case: &Case) -> Result<()> {
    let own = world.own()?;
    let ours = build(&own.work(), case, |words| own.bulkhead(words))
        .with_context(|| "build it with bulkhead".to_owned())?;
    let theirs = match &case.expected {
        // What Debian's engine is too old for.
        Some(expected) => {
            return expected_of(case, expected, &ours);
        }
        None => {
            let name = format!("build-{}", case.name);
            let question = oracle::question_of(&case.text)?;
            match oracle::known(&name, &question) {
                Some(answer) => answer,
                None => {
                    let answer = on_docker(world, case).context("build it with docker")?;
                    oracle::keep(&name, question, &answer)?;
                    answer
                }
            }
        }
    };
    let different = differences(&theirs, &ours);
    let parts: Vec<Part> = different.iter().map(|(part, _)| *part).collect();
    if parts != case.differs {
        let texts: Vec<&str> = different.iter().map(|(_, text)| text.as_str()).collect();
        bail!(
            "expected to differ in {:?}, differs in {parts:?}\n{}\nbulkhead said: {}",
            case.differs,
            texts.join("\n"),
            ours.stderr
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
            bail!("{line}: does not hold of {ours:#?}");
        }
    }
    Ok(())
}

fn on_docker(world: &World, case: &Case) -> Result<Answer> {
    let docker = world
        .docker()?
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let work = tempfile::tempdir_in(docker.work()).context("create a folder")?;
    let answer = build(work.path(), case, |words| on(&docker, words, work.path()));
    docker.docker(["rmi", "--force", NAME]).output()?;
    answer
}

fn on(docker: &Docker, words: &[&str], work: &Path) -> Invocation {
    docker.docker(words).current_dir(work)
}

/// Builds with an engine and looks at what came out.
fn build<'a>(
    work: &Path,
    case: &Case,
    engine: impl Fn(&[&str]) -> Invocation + 'a,
) -> Result<Answer> {
    let context = work.join("context");
    if context.exists() {
        fs::remove_dir_all(&context).context("remove the last context")?;
    }
    case.write(&context)?;
    let mut words = vec!["build", "-t", NAME];
    words.extend(case.arguments.iter().map(String::as_str));
    words.push("context");
    let mut invocation = engine(&words);
    for (name, value) in &case.variables {
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
    engine(&["save", "-o", archive_text, NAME])
        .output()?
        .code(0)?;
    (answer.files, answer.config) = tree::of_archive(&archive)?;
    fs::remove_file(&archive).context("remove the archive")?;
    answer
        .files
        .retain(|path, _| OF_ENGINES.iter().all(|of| !path.starts_with(of)));
    Ok(answer)
}

/// What differs, and how.
fn differences(theirs: &Answer, ours: &Answer) -> Vec<(Part, String)> {
    let mut different = Vec::new();
    if theirs.code != ours.code {
        let text = format!(
            "code: {} on docker ({}), {} here",
            theirs.code, theirs.stderr, ours.code
        );
        different.push((Part::Code, text));
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
