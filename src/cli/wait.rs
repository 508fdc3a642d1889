//! `bulkhead wait`: exit codes of containers, when they have ended.

use anyhow::{Result, bail};

use super::each::each;
use crate::sandbox::client::{self, Answer};
use crate::sandbox::containers;
use crate::sandbox::state::EXIT_CODE_KILLED;
use crate::sandbox::wire::{ToCommand, ToSupervisor};

/// Names of containers.
#[derive(Debug, clap::Args)]
pub struct WaitArgs {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Prints each one's exit code.
///
/// # Errors
/// The last that is not there.
pub fn run(args: &WaitArgs) -> Result<()> {
    each(&args.containers, |root, name| {
        let (folder, _) = containers::find(root, name)?;
        let code = match client::ask_whom(&folder, &ToSupervisor::Wait)? {
            Answer::Told(ToCommand::Exited { code, .. }) => code,
            answer => match folder.true_state() {
                // Its supervisor was killed, and whoever holds it now has not noted that (yet).
                Ok(state) if state.status.is_alive() => EXIT_CODE_KILLED,
                Ok(state) => state.exit_code,
                Err(error) if folder.path().exists() => return Err(error),
                // It ended, and was gone, before anybody was asked.
                Err(_) if answer == Answer::Nobody => bail!("No such container: {name}"),
                // As whoever is attached is told of what `rm --force` takes away.
                Err(_) => EXIT_CODE_KILLED,
            },
        };
        Ok(code.to_string())
    })
}
