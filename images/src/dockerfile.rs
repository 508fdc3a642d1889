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

mod error;
mod plan;

pub use error::{DockerfileError, PlanError, Warning};
pub use plan::{
    Action, Base, BaseImage, BaseRequest, CacheSharing, Copy, CopyFrom, Destination, ImageSource,
    MakeDirectory, Mount, MountKind, Network, Plan, PlanOptions, PlannedStage, Run, Script, Source,
    Step, Unpack, plan,
};

/// A Dockerfile whose syntax is right.
#[derive(Debug, Clone)]
pub struct Dockerfile {
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
    let _ = bytes;
    Err(DockerfileError::of_file("no file can be read yet"))
}
