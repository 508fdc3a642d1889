//! `bulkhead diff`: what a container changed of its image's files.

use std::io::Read;

use anyhow::{Context, Result, bail};
use protocol::task::{ChangeDecoder, Task};

use super::output;
use super::policy::Policy;
use crate::sandbox::access::{Access, with_files};
use crate::sandbox::containers;
use crate::sandbox::paths::Root;
use crate::sandbox::state::Lock;

/// Bytes read at once.
const READ_LEN: usize = 64 << 10;

/// Changes of one container: more files than any image has.
const CHANGES_MAX: u64 = 4_000_000;

/// Names of a container.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Prints a line for each change: `A` added, `C` changed, `D` deleted.
///
/// # Errors
/// When the container's files can't be had.
pub fn run(args: &DiffArgs) -> Result<()> {
    let root = Root::of_user()?;
    let (folder, config) = containers::find(&root, &args.container)?;
    let admit = |lock: &Lock| Policy::admit_files(&root, &config, lock);
    with_files(&root, &folder, &config, &admit, changes)
}

fn changes(access: &mut Access) -> Result<()> {
    let mut stream = access.begin_reading(Task::Changes)?;
    let mut decoder = ChangeDecoder::new();
    let mut count = 0;
    let mut buffer = vec![0; READ_LEN];
    loop {
        let len = stream.read(&mut buffer).context("read the changes")?;
        if len == 0 {
            break;
        }
        decoder.push(buffer.get(..len).unwrap_or_default());
        while let Some(change) = decoder.decode()? {
            count += 1;
            if count > CHANGES_MAX {
                bail!("the guest told more than {CHANGES_MAX} changes");
            }
            let path = String::from_utf8_lossy(&change.path);
            output::line(&format!("{} {path}", char::from(change.kind)))?;
        }
    }
    access.end()?;
    if !decoder.is_empty() {
        bail!("the guest did not tell the end of a change");
    }
    Ok(())
}
