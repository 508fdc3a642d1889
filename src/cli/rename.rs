//! `bulkhead rename`: another name for a container.

use anyhow::{Context, Result};

use super::values;
use crate::sandbox::containers;
use crate::sandbox::paths::Root;

/// Names.
#[derive(Debug, clap::Args)]
pub struct RenameArgs {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Its new name
    #[arg(value_name = "NEW_NAME")]
    name: String,
}

/// Renames it.
///
/// # Errors
/// The container is not there, or the name is none or taken.
pub fn run(args: &RenameArgs) -> Result<()> {
    let name = args.name.strip_prefix('/').unwrap_or(&args.name);
    // Docker's sentence has the slash that it keeps names with.
    let name = values::container_name(&format!("/{name}"))
        .context(containers::NO_NEW_NAME)?
        .to_owned();
    containers::rename(&Root::of_user()?, &args.container, &name)
}
