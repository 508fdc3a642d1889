//! `bulkhead kill`: a signal to the processes of running containers.

use anyhow::{Context, Result, bail};

use super::each::{done, each};
use super::values;
use crate::sandbox::paths::Root;
use crate::sandbox::wire::ToSupervisor;
use crate::sandbox::{client, containers};

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
    let signal = match args.signal.as_str() {
        // As if it were not given.
        "" => libc::SIGKILL,
        signal => values::signal(signal)?,
    };
    each(&args.containers, |root, name| {
        kill(root, name, signal).with_context(|| format!("cannot kill container: {name}"))?;
        Ok(name.to_owned())
    })
}

fn kill(root: &Root, name: &str, signal: i32) -> Result<()> {
    let (folder, config) = containers::find(root, name)?;
    match client::ask(&folder, &ToSupervisor::Kill(signal))? {
        Some(answer) => done(answer),
        None => bail!("container {} is not running", config.id),
    }
}
