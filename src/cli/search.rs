//! `bulkhead search`, which is refused: what it would ask exists at Docker Hub only.

use anyhow::{Result, bail};

/// Words and flags of `search`, all of which are refused.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    /// What Docker would search for
    #[arg(value_name = "TERM", required = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Refuses.
///
/// # Errors
/// Always.
pub fn run(_: &SearchArgs) -> Result<()> {
    bail!("search is not supported: the protocol of registries has no index that could be searched")
}
