//! What the engine answered in an earlier run: on an emulated machine it takes ten seconds for a
//! command line. An answer counts as long as the question is the same: the lines, the engine's
//! version, the kernel below it and the images. Only answers of lines that passed are kept.
//!
//! There are two places for them: a folder that `cargo xtask test` has outside of the work tree, and
//! `answers.jsonl`, into which `cargo xtask answers` takes that folder's, for machines that are new.
//!
//! `differential` and `builds` call it.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result};
use fixtures::Recipe;
use harness::{Docker, images};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::list::{Case, Line};

/// Names the folder of answers, which outlives a run.
const FOLDER_VARIABLE: &str = "BULKHEAD_ORACLE";

/// Answers by question, a line each as [`keep`] writes them.
static COMMITTED: LazyLock<HashMap<String, Value>> = LazyLock::new(|| {
    let lines = include_str!("answers.jsonl").lines();
    let kept = lines.map(|line| {
        let kept: Kept<Value> = serde_json::from_str(line).expect("a line of answers.jsonl");
        (kept.question, kept.answers)
    });
    kept.collect()
});

#[derive(Serialize, Deserialize)]
struct Kept<T> {
    question: String,
    answers: T,
}

/// Everything that the answers to `case` depend on.
///
/// # Errors
///
/// There is no engine, or no image.
pub(super) fn question(case: &Case) -> Result<String> {
    let lines: Vec<String> = case.lines.iter().map(asked).collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the release")?;
    let kernel = format!("{} | ", kernel.trim());
    asked_of(&kernel, &lines.join(" | "))
}

/// Everything that an answer to `text` depends on where the kernel below the engine does not matter.
///
/// # Errors
///
/// As [`question`].
pub(crate) fn question_of_any_kernel(text: &str) -> Result<String> {
    asked_of("", text)
}

fn asked_of(kernel: &str, text: &str) -> Result<String> {
    let archive = images::path(Recipe::Busybox, "busybox.tar")?;
    // The folder's own name has a hash of what the images are made of.
    let archive = fs::canonicalize(&archive).context("find the images")?;
    let folder = archive.parent().unwrap_or(Path::new("/"));
    Ok(format!(
        "{} | {kernel}{} | {text}",
        Docker::version()?,
        folder.file_name().unwrap_or_default().display(),
    ))
}

fn asked(line: &Line) -> String {
    let Line {
        arguments,
        stdin,
        variables,
        terminal,
        until,
        ..
    } = line;
    let until = match until {
        Some(text) => format!(" until {text:?}"),
        None => String::new(),
    };
    format!("{arguments:?} {stdin:?} {variables:?} {terminal}{until}")
}

/// Earlier answers to the same question.
pub(crate) fn known<T: DeserializeOwned>(name: &str, question: &str) -> Option<T> {
    let kept = || {
        let folder = env::var_os(FOLDER_VARIABLE)?;
        let text = fs::read(file(folder.as_ref(), name)).ok()?;
        let kept: Kept<T> = serde_json::from_slice(&text).ok()?;
        (kept.question == question).then_some(kept.answers)
    };
    let committed = || {
        let answers = COMMITTED.get(question)?;
        T::deserialize(answers).ok()
    };
    kept().or_else(committed)
}

/// Keeps answers for later runs.
///
/// # Errors
///
/// It can't be written.
pub(crate) fn keep<T: Serialize>(name: &str, question: String, answers: T) -> Result<()> {
    let Some(folder) = env::var_os(FOLDER_VARIABLE).map(PathBuf::from) else {
        return Ok(());
    };
    let kept = serde_json::to_vec(&Kept { question, answers })?;
    // In one piece: the machine may go away at any time.
    let new = folder.join(format!("{name}.new"));
    fs::write(&new, kept).context("write an answer")?;
    fs::rename(&new, file(&folder, name)).context("write an answer")
}

fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}
