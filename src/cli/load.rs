//! `bulkhead load`: images from an archive or an OCI layout.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Result, bail};
use images::archive::Source;
use images::{Platform, Store};

use super::output;
use super::policy::Policy;
use super::values::given;
use crate::sandbox::paths::Root;
use crate::sandbox::{decompress, events};

/// Flags of `load`.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// Archive file, also a compressed one, or OCI layout folder; without it stdin
    #[arg(short, long, value_name = "FILE")]
    input: Option<String>,
    /// No progress; there is none anyway
    #[arg(short, long)]
    quiet: bool,
    /// Platform, where the archive has several: os[/arch[/variant]]
    #[arg(long)]
    platform: Option<String>,
}

/// Loads images.
///
/// # Errors
/// When the archive is no image or the store can't take it.
pub fn run(args: &LoadArgs) -> Result<()> {
    let platform = match given(&args.platform) {
        Some(text) => Platform::parse(text)?,
        None => Platform::host(),
    };
    let input = given(&args.input).map(Path::new);
    if input.is_none() && std::io::stdin().is_terminal() {
        bail!("requested load from stdin, but stdin is empty");
    }
    let root = Root::of_user()?;
    Policy::of_user()?.check_disk(&root)?;
    let store = Store::open(&root.images())?;
    let loaded = match input {
        Some(path) => match images::archive::open(path)? {
            Source::Layout(folder) => images::load_layout(&store, folder, &platform)?,
            Source::Archive(file) => {
                images::load_stream(&store, decompress::plain(&root, file)?, &platform)?
            }
        },
        None => {
            let archive = decompress::plain(&root, std::io::stdin())?;
            images::load_stream(&store, archive, &platform)?
        }
    };
    for image in loaded {
        let id = image.id.to_string();
        events::of_image(root.path(), "load", &id, &id);
        output::line(&image.to_string())?;
    }
    Ok(())
}
