//! Dockerfiles: bytes to a checked file, and a checked file to the steps of a build.
//!
//! Called by `bulkhead build`, which runs the steps, and by `commit --change`, which takes the
//! instructions that change no more than a config. Pure: it opens nothing, asks no registry and knows
//! no VM; what it needs of base images it asks its caller for. A Dockerfile is a stranger's as often
//! as not: it is read within the limits of [`limits`](crate::limits), and what it says ends in errors
//! and warnings only escaped.
//!
//! Syntax and meaning are BuildKit's (`docker/dockerfile:1` of 2025), the history of what is built is
//! the classic builder's.
//!
//! ```text
//! bytes ── lines ── words ── instruction ─> Dockerfile ── stages ── expand ── steps ─> Plan
//! ```

mod arguments;
mod change;
mod copy;
mod error;
mod expand;
mod flags;
mod glob;
mod health;
mod history;
mod instruction;
mod lines;
mod mount;
mod plan;
mod ports;
mod run;
mod signal;
mod stages;
mod state;
mod steps;
mod words;

pub use change::change;
pub use error::{DockerfileError, PlanError, Warning};
pub use health::duration_ns;
pub use plan::{
    Action, Base, BaseImage, BaseRequest, CacheSharing, Copy, CopyFrom, Destination, ImageSource,
    MakeDirectory, Mount, MountKind, Network, Plan, PlanOptions, PlannedStage, Run, Script, Source,
    Step, Unpack,
};
pub use signal::signal_number;

/// A Dockerfile whose syntax is right.
#[derive(Debug, Clone)]
pub struct Dockerfile {
    file: instruction::File,
    warnings: Vec<Warning>,
}

impl Dockerfile {
    /// What is worth a word before anything is built.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// Reads a Dockerfile.
///
/// # Errors
/// What is wrong with it, and where; a limit that it is above.
pub fn parse(bytes: &[u8]) -> Result<Dockerfile, DockerfileError> {
    let mut lines = lines::read(bytes)?;
    lines.check_syntax()?;
    let mut warnings = std::mem::take(&mut lines.warnings);
    let file = instruction::file(lines, &mut warnings)?;
    warnings.sort_by_key(|warning| warning.line);
    Ok(Dockerfile { file, warnings })
}

/// What a build does.
///
/// `bases` is asked once for each image and platform that is needed, be it as a base or to copy from.
///
/// # Errors
/// See [`PlanError`]. Stages that the target doesn't need are looked at for syntax and names only.
pub fn plan<E: std::error::Error + 'static>(
    dockerfile: &Dockerfile,
    options: &PlanOptions,
    bases: &mut dyn FnMut(&BaseRequest) -> Result<BaseImage, E>,
) -> Result<Plan, PlanError<E>> {
    stages::plan(&dockerfile.file, &dockerfile.warnings, options, bases)
}

#[cfg(test)]
mod tests;
