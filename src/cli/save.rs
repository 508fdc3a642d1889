//! `bulkhead save`: images as an archive, on standard output or in a file.

use anyhow::{Result, bail};
use images::Store;
use images::archive::ArchiveError;

use super::export::Output;
use super::values::given;
use crate::sandbox::events;
use crate::sandbox::paths::Root;

/// Flags of `save`.
#[derive(Debug, clap::Args)]
pub struct SaveArgs {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "string")]
    output: Option<String>,
    /// Of an image for several platforms only this one; refused, there is one of each
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Names or ids; a name without a tag means all its tags
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Writes the archive.
///
/// # Errors
/// Docker's sentence when it would go to a terminal; there is no such image; nothing is left of a file
/// that is not whole.
pub fn run(args: &SaveArgs) -> Result<()> {
    if given(&args.platform).is_some() {
        bail!("--platform is not supported: an image here is for one platform");
    }
    let mut output = Output::open(given(&args.output))?;
    let root = Root::of_user()?;
    let store = Store::open(&root.images())?;
    let saved = images::save(&store, &args.images, &mut output);
    let ids = saved.map_err(|error| match error {
        // A reader that goes away is no failure, which the error itself tells.
        ArchiveError::Write(error) => anyhow::Error::from(error),
        error => error.into(),
    })?;
    output.finish()?;
    for id in ids {
        let id = id.to_string();
        events::of_image(root.path(), "save", &id, &id);
    }
    Ok(())
}
