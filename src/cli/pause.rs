//! `bulkhead pause`, `bulkhead unpause`: freezes the processes of containers and lets them go on.

use anyhow::{Result, bail};

use super::each::{done, each};
use crate::sandbox::wire::ToSupervisor;
use crate::sandbox::{client, containers};

/// Names of containers.
#[derive(Debug, clap::Args)]
pub struct PauseArgs {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Freezes them or lets them go on.
///
/// # Errors
/// The last that does not run, or is so already.
pub fn run(args: &PauseArgs, frozen: bool) -> Result<()> {
    each(&args.containers, |root, name| {
        let (folder, config) = containers::find(root, name)?;
        match client::ask(&folder, &ToSupervisor::Freeze(frozen))? {
            Some(answer) => done(answer)?,
            None if frozen => bail!("container {} is not running", config.id),
            None => bail!("Container {} is not paused", config.id),
        }
        Ok(name.to_owned())
    })
}
