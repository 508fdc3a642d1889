//! `bulkhead wait`: exit codes of containers, when they have ended.

use anyhow::Result;

use super::each::each;
use crate::sandbox::state::EXIT_CODE_KILLED;
use crate::sandbox::wire::{ToCommand, ToSupervisor};
use crate::sandbox::{client, containers};

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
        let code = match client::ask(&folder, &ToSupervisor::Wait)? {
            Some(ToCommand::Exited { code, .. }) => code,
            _ => match folder.true_state() {
                // As whoever is attached is told of what `rm --force` takes away.
                Err(_) if !folder.path().exists() => EXIT_CODE_KILLED,
                state => state?.exit_code,
            },
        };
        Ok(code.to_string())
    })
}
