//! Instructions that change no more than a config: `commit --change`.
//!
//! Called by the command. The rules are those of a build, without base image and arguments.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::{DockerfileError, Fault, PlanError};
use super::instruction::{self, File, Instruction};
use super::lines::{self, Line};
use super::plan::{BaseImage, PlanOptions};
use super::stages::{Planner, Wrong};
use super::state::State;
use super::words;
use crate::config::ImageConfig;

/// Applies instructions, any number of lines each.
///
/// # Errors
/// An instruction that is unknown, or not one for a config, or has no or wrong arguments.
pub fn change(config: ImageConfig, changes: &[String]) -> Result<ImageConfig, DockerfileError> {
    let text = changes.join("\n");
    let is_nothing = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(is_nothing) {
        return Ok(config);
    }
    let read = lines::read(text.as_bytes())?;
    let file = File {
        global_args: Vec::new(),
        stages: Vec::new(),
        escape: read.directives.escape,
        source: Vec::new(),
    };
    let options = PlanOptions {
        build_args: BTreeMap::new(),
        target: None,
        labels: BTreeMap::new(),
        platform: config.platform.clone(),
    };
    let mut no_images = |_: &_| -> Result<BaseImage, DockerfileError> {
        Err(DockerfileError::of_file("a change takes no image"))
    };
    let mut planner = Planner::new(&file, &options, 0, &mut no_images);
    let mut state = State::of(config, options.platform.clone());
    for line in &read.lines {
        one(&mut planner, &mut state, line)?;
    }
    Ok(Arc::unwrap_or_clone(state.config))
}

fn one(
    planner: &mut Planner<'_, DockerfileError>,
    state: &mut State,
    line: &Line,
) -> Result<(), DockerfileError> {
    let escape = planner.file.escape;
    let name = words::command(&line.text, escape).name.to_ascii_uppercase();
    let is_other = matches!(
        name.as_str(),
        "ADD" | "ARG" | "COPY" | "FROM" | "MAINTAINER" | "RUN" | "SHELL"
    );
    if is_other {
        return Err(Fault::new(format!("{name} is not a valid change command")).of_file());
    }
    let instruction: Instruction =
        instruction::instruction(line, escape).map_err(Fault::of_file)?;
    match planner.act(0, state, line.span.0, &instruction) {
        Ok(_) => Ok(()),
        Err(Wrong::Fault(fault)) => Err(fault.of_file()),
        Err(Wrong::Plan(PlanError::Dockerfile(error) | PlanError::Image { source: error, .. })) => {
            Err(error)
        }
    }
}
