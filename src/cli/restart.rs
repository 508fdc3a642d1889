//! `bulkhead restart`: stops containers and starts them again.

use anyhow::Result;

use super::each::{done, each_found};
use super::start;
use super::stop::How;
use crate::sandbox::clock::monotonic_ns;
use crate::sandbox::paths::Root;
use crate::sandbox::wire::{ENDED, ToCommand, ToSupervisor};
use crate::sandbox::{client, events};

/// Flags of `restart`.
#[derive(Debug, clap::Args)]
pub struct RestartArgs {
    #[command(flatten)]
    how: How,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Restarts containers; one that does not run is started.
///
/// # Errors
/// The last that could not be started.
pub fn run(args: &RestartArgs) -> Result<()> {
    let root = Root::of_user()?;
    let request = args.how.request(true)?;
    each_found(&args.containers, "cannot restart", |folder, config| {
        start::prepare(&root, config, None)?;
        match client::ask(folder, &ToSupervisor::Stop(request))? {
            // Somebody stopped it meanwhile: what is left is the start.
            Some(ToCommand::Refused(why)) if why == ENDED => {
                start::start_detached(&root, folder, config, monotonic_ns())?;
            }
            Some(answer) => done(answer)?,
            None => start::start_detached(&root, folder, config, monotonic_ns())?,
        }
        events::of_container(folder, config, "restart", &[]);
        Ok(())
    })
}
