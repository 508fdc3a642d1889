//! `bulkhead rm`: containers that have ended, or are to.

use anyhow::{Result, bail};
use images::Store;

use super::output;
use crate::sandbox::containers::{self, NoSuchContainer};
use crate::sandbox::paths::Root;
use crate::sandbox::state::{ContainerConfig, Folder};
use crate::sandbox::volumes;

/// Flags of `rm`.
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// Remove a running container, too, by pulling its plug
    #[arg(short, long)]
    force: bool,
    /// Remove a link; refused, there are none
    #[arg(short, long)]
    link: bool,
    /// Remove its anonymous volumes, too
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Removes containers; goes on after an error and fails at the end.
///
/// # Errors
/// The last thing that could not be removed; those before it are told on the way. With `--force`,
/// a container that is not there is none.
pub fn run(args: &RmArgs) -> Result<()> {
    if args.link {
        bail!("--link is not supported: containers are not linked");
    }
    let root = Root::of_user()?;
    let mut failed: Option<anyhow::Error> = None;
    let mut removed = false;
    // That nobody reads it keeps the next one from nothing.
    let mut told = Ok(());
    for name in &args.containers {
        let found = match containers::find(&root, name) {
            Err(error) if args.force && error.is::<NoSuchContainer>() => {
                output::note(&format!("bulkhead: {error:#}"));
                continue;
            }
            found => found,
        };
        let remove = |(folder, config): (Folder, ContainerConfig)| {
            containers::remove(&folder, &config, args.force)?;
            // Those of --rm went with the container.
            if args.volumes || config.launch.auto_remove {
                volumes::remove_anonymous(&root, &config.launch.mounts)?;
            }
            Ok(())
        };
        match found.and_then(remove) {
            Ok(()) => {
                removed = true;
                told = told.and(output::line(name));
            }
            Err(error) => {
                if let Some(before) = failed.replace(error) {
                    output::note(&format!("bulkhead: {before:#}"));
                }
            }
        }
    }
    if removed {
        // An image that was removed by force leaves what its last container needed.
        let collected = Store::open(&root.images())
            .and_then(|store| store.collect(&|| containers::uses(&root)));
        if let Err(error) = collected {
            output::note(&format!("bulkhead: remove what no container uses: {error}"));
        }
    }
    failed.map_or(told, Err)
}
