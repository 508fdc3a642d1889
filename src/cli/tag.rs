//! `bulkhead tag`: a further name for an image.

use anyhow::{Context, Result};
use images::{Reference, Store};

use crate::sandbox::events;
use crate::sandbox::paths::Root;

/// Words of `tag`.
#[derive(Debug, clap::Args)]
pub struct TagArgs {
    /// An image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// Its new name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

/// Gives an image another name.
///
/// # Errors
/// When there is no such image or the name is none.
pub fn run(args: &TagArgs) -> Result<()> {
    let target = Reference::parse(&args.target)
        .with_context(|| format!("\"{}\" is not a valid repository/tag", args.target))?;
    let root = Root::of_user()?;
    let store = Store::open(&root.images())?;
    store.tag(&args.source, &target)?;
    if let Ok(Some(image)) = store.find(&target) {
        events::of_image(
            root.path(),
            "tag",
            &image.id.to_string(),
            &target.familiar(),
        );
    }
    Ok(())
}
