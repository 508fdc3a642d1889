//! `bulkhead kill`: a signal to the processes of running containers.

use anyhow::{Result, bail};

use super::each::{done, each_found};
use super::values;
use crate::sandbox::client;
use crate::sandbox::wire::ToSupervisor;

/// Flags of `kill`.
#[derive(Debug, clap::Args)]
pub struct KillArgs {
    /// Signal to send
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Sends the signal; SIGKILL waits for the end.
///
/// # Errors
/// The last that does not run.
pub fn run(args: &KillArgs) -> Result<()> {
    let signal = values::signal(&args.signal)?;
    each_found(
        &args.containers,
        "cannot kill",
        |folder, config| match client::ask(folder, &ToSupervisor::Kill(signal))? {
            Some(answer) => done(answer),
            None => bail!("container {} is not running", config.id),
        },
    )
}
