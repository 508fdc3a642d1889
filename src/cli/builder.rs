//! `bulkhead builder prune`: removes what builds keep for the next one.

use std::collections::HashSet;
use std::fs::File;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use images::build::CacheRecord;
use images::{Digest, Store};
use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::filter::Filters;
use super::output;
use super::prune::{Pruned, confirm, space_of_images, total};
use super::values::number;
use crate::sandbox::containers;
use crate::sandbox::paths::{self, Root};
use crate::sandbox::removal;

/// Keys of `--filter`.
const KEYS: [&str; 1] = ["until"];

/// Verbs of `builder`.
#[derive(Debug, clap::Subcommand)]
pub enum BuilderVerb {
    /// Remove the build cache
    Prune(BuilderPruneArgs),
}

/// Flags of `builder prune`.
#[derive(Debug, clap::Args)]
pub struct BuilderPruneArgs {
    /// Everything, not only what no image has
    #[arg(short, long)]
    all: bool,
    /// Only what KEY=VALUE holds of: until
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Bytes of layers that may stay
    #[arg(long, value_name = "bytes")]
    keep_storage: Option<String>,
}

/// Removes steps of the cache that no image has, or all, and folders of cache mounts.
///
/// # Errors
/// A filter that is none, or the store can't be read.
pub fn run(verb: &BuilderVerb) -> Result<()> {
    let BuilderVerb::Prune(args) = verb;
    let filters = Filters::parse(&args.filter, "--filter", &KEYS)?;
    let keep = args
        .keep_storage
        .as_deref()
        .map(number::bytes)
        .transpose()?;
    let warning = match args.all {
        true => "WARNING! This will remove all build cache.",
        false => "WARNING! This will remove all dangling build cache.",
    };
    if !(args.force || confirm(warning)?) {
        return Ok(());
    }
    let removed = remove(&Root::of_user()?, &filters, args.all, keep.unwrap_or(0))?;
    removed.print("Deleted build cache objects:")?;
    total(removed.bytes)
}

/// Removes what the filters hold of, that of use longest ago first, until no more than `keep` bytes are
/// left.
///
/// # Errors
/// When the store can't be read.
pub fn remove(root: &Root, filters: &Filters, all: bool, keep: u64) -> Result<Pruned> {
    let until = filters.until(Timestamp::now())?.map(Timestamp::as_second);
    let mut lines = Vec::new();
    let mut bytes = space_of_images(root, |store| {
        let records = store.cached_steps()?;
        let in_images = layers_of_images(store)?;
        let mut left: u64 = records.iter().map(size).sum();
        for record in &records {
            let is_free = all || !is_in(record, &in_images);
            let is_old = until.is_none_or(|until| seconds(record.last_used) < until);
            // Records without a layer take next to nothing, and go when nothing is to be kept.
            let is_too_much = keep == 0 || left > keep;
            if is_free && is_old && is_too_much {
                store.forget_steps([&record.key])?;
                left = left.saturating_sub(size(record));
                lines.push(record.key.hex());
            }
        }
        store.collect(&|| containers::uses(root))?;
        Ok(())
    })?;
    if all && until.is_none() && keep == 0 {
        bytes = bytes.saturating_add(remove_mounts(root)?);
    }
    Ok(Pruned { lines, bytes })
}

/// Layers of images; what a record has of them costs nothing.
pub fn layers_of_images(store: &Store) -> Result<HashSet<Digest>> {
    let images = store.list()?.images;
    let layers = images.iter().flat_map(|image| &image.layers);
    Ok(layers.map(|layer| layer.blob).collect())
}

/// Whether an image has the layer of a step.
pub fn is_in(record: &CacheRecord, layers: &HashSet<Digest>) -> bool {
    let layer = record.step.layer.as_ref();
    layer.is_some_and(|layer| layers.contains(&layer.blob))
}

/// Bytes of a step's layer.
pub fn size(record: &CacheRecord) -> u64 {
    record.step.layer.as_ref().map_or(0, |layer| layer.size)
}

/// Seconds since the epoch.
pub fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Removes the folders of cache mounts that no build uses; the bytes that they took.
fn remove_mounts(root: &Root) -> Result<u64> {
    let folder = root.build_mounts();
    let mut bytes = 0_u64;
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries.with_context(|| format!("read {}", folder.display()))?,
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let Ok(_alone) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        let size = paths::space_below(&path);
        // A guest made it.
        let removed = removal::check(&path, geteuid()).and_then(|()| removal::remove_tree(&path));
        match removed {
            Ok(()) => bytes = bytes.saturating_add(size),
            Err(error) => output::note(&format!("bulkhead: remove a cache mount: {error}")),
        }
    }
    Ok(bytes)
}
