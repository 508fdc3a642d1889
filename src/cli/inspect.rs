//! `bulkhead inspect`: containers and images as JSON, in Docker's shape.

use anyhow::{Result, bail};
use images::Store;
use serde_json::Value;

use super::template;
use crate::sandbox::paths::Root;
use crate::sandbox::{inspect, state};

/// Flags of `inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// `json` or a template such as '{{.State.ExitCode}}'
    #[arg(short, long)]
    format: Option<String>,
    /// container or image
    #[arg(long = "type")]
    kind: Option<String>,
    /// Show sizes; they are always shown
    #[arg(short, long)]
    size: bool,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

/// Prints each object, and fails at the end when one is missing.
///
/// # Errors
/// `No such object`, with Docker's `[]` on stdout when there is none at all.
pub fn run(args: &InspectArgs, only: Option<&str>) -> Result<()> {
    let kind = only.or(args.kind.as_deref());
    if kind.is_some_and(|kind| !matches!(kind, "container" | "image")) {
        bail!(
            "\"{}\" is not a valid value for --type",
            kind.unwrap_or_default()
        );
    }
    let root = Root::of_user()?;
    let store = Store::open(&root.images())?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in &args.names {
        match object(&root, &store, name, kind)? {
            Some(value) => found.push(value),
            None => missing.push(name.as_str()),
        }
    }
    match args.format.as_deref() {
        None => println!(
            "{}",
            serde_json::to_string_pretty(&found)?.replace("  ", "    ")
        ),
        Some(format) => {
            for value in &found {
                println!("{}", template::render(format, value)?);
            }
        }
    }
    if !missing.is_empty() {
        let word = match kind {
            Some("container") => "container",
            Some("image") => "image",
            _ => "object",
        };
        bail!("No such {word}: {}", missing.join(", "));
    }
    Ok(())
}

fn object(root: &Root, store: &Store, name: &str, kind: Option<&str>) -> Result<Option<Value>> {
    if kind != Some("image")
        && let Ok((folder, config)) = state::find(root, name)
    {
        return Ok(Some(inspect::container(&config, &folder.true_state()?)));
    }
    if kind == Some("container") {
        return Ok(None);
    }
    match store.resolve(name) {
        Ok(image) => Ok(Some(serde_json::to_value(images::inspect_json(&image))?)),
        Err(error) if error.is_no_such_image() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
