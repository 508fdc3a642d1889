//! `bulkhead rmi`: names and images out of the store.

use anyhow::{Result, bail};
use images::Store;
use images::store::{Force, Removed};

use super::output;
use crate::sandbox::paths::Root;
use crate::sandbox::{containers, events};

/// Flags of `rmi`.
#[derive(Debug, clap::Args)]
pub struct RmiArgs {
    /// Remove although it has several names or a stopped container uses it
    #[arg(short, long)]
    force: bool,
    /// Keep untagged parents; there are none
    #[arg(long)]
    no_prune: bool,
    /// Of an image for several platforms only this one; refused, there is one of each
    #[arg(long, value_name = "strings")]
    platform: Vec<String>,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Removes images; goes on after an error and fails at the end.
///
/// # Errors
/// The last thing that could not be removed; those before it are told on the way. With `--force`,
/// an image that is not there is none.
pub fn run(args: &RmiArgs) -> Result<()> {
    if !args.platform.is_empty() {
        bail!("--platform is not supported: an image here is for one platform");
    }
    let root = Root::of_user()?;
    let store = Store::open(&root.images())?;
    let force = if args.force { Force::Yes } else { Force::No };
    let mut failed: Option<anyhow::Error> = None;
    // That nobody reads it keeps the next one from nothing.
    let mut told = Ok(());
    for image in &args.images {
        let id = store.resolve(image).map(|image| image.id.to_string());
        match store.remove(image, force, &|| containers::uses(&root)) {
            Ok(lines) => {
                journal(&root, id.as_deref().unwrap_or(image), &lines);
                for line in lines {
                    told = told.and(output::line(&line.to_string()));
                }
            }
            Err(error) if args.force && error.is_no_such_image() => {
                output::note(&format!("bulkhead: {error}"));
            }
            Err(error) => {
                if let Some(before) = failed.replace(error.into()) {
                    output::note(&format!("bulkhead: {before:#}"));
                }
            }
        }
    }
    failed.map_or(told, Err)
}

/// Notes what became of the image `id`: of what is deleted, the image comes first, then its layers.
pub fn journal(root: &Root, id: &str, lines: &[Removed]) {
    let mut is_deleted = false;
    for line in lines {
        match line {
            Removed::Untagged(_) => events::of_image(root.path(), "untag", id, id),
            Removed::Deleted(_) if is_deleted => {}
            Removed::Deleted(_) => {
                is_deleted = true;
                events::of_image(root.path(), "delete", id, id);
            }
        }
    }
}
