//! `bulkhead pause`, `bulkhead unpause`: freezes the processes of containers and lets them go on.

use anyhow::{Result, bail};

use super::each::{done, each_found};
use crate::sandbox::client;
use crate::sandbox::wire::ToSupervisor;

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
    let operation = match frozen {
        true => "cannot pause",
        false => "cannot unpause",
    };
    each_found(
        &args.containers,
        operation,
        |folder, config| match client::ask(folder, &ToSupervisor::Freeze(frozen))? {
            Some(answer) => done(answer),
            None => bail!("container {} is not running", config.id),
        },
    )
}
