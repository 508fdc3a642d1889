//! `bulkhead builder prune`: removes what builds keep for the next one.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use images::build::CacheRecord;
use images::{Digest, Layer, Store};
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
        for record in surplus(&records, &in_images, all, until, keep) {
            store.forget_steps([&record.key])?;
            lines.push(record.key.hex());
        }
        store.collect(&|| containers::uses(root))?;
        Ok(())
    })?;
    if all && until.is_none() && keep == 0 {
        bytes = bytes.saturating_add(remove_mounts(root)?);
    }
    Ok(Pruned { lines, bytes })
}

/// Those of the records, of all or of what no image has, that go until no more than `keep` bytes are left.
fn surplus<'a>(
    records: &'a [CacheRecord],
    in_images: &HashSet<Digest>,
    all: bool,
    until: Option<i64>,
    keep: u64,
) -> Vec<&'a CacheRecord> {
    // What an image has costs nothing, and what several records have is there once.
    let mut users: HashMap<Digest, usize> = HashMap::new();
    let mut left = 0_u64;
    for record in records {
        if let Some(layer) = own_layer(record, in_images) {
            let users = users.entry(layer.blob).or_default();
            left = left.saturating_add(if *users == 0 { layer.size } else { 0 });
            *users += 1;
        }
    }
    let mut surplus = Vec::new();
    for record in records {
        let is_free = all || !is_in(record, in_images);
        let is_old = until.is_none_or(|until| seconds(record.last_used) < until);
        // Records without a layer take next to nothing, and go when nothing is to be kept.
        let is_too_much = keep == 0 || left > keep;
        if is_free && is_old && is_too_much {
            if let Some(layer) = own_layer(record, in_images)
                && let Some(users) = users.get_mut(&layer.blob)
            {
                *users -= 1;
                left = left.saturating_sub(if *users == 0 { layer.size } else { 0 });
            }
            surplus.push(record);
        }
    }
    surplus
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

/// The layer of a step, unless an image has it.
fn own_layer<'a>(record: &'a CacheRecord, layers: &HashSet<Digest>) -> Option<&'a Layer> {
    record
        .step
        .layer
        .as_ref()
        .filter(|_| !is_in(record, layers))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use images::Compression;
    use images::build::CachedStep;

    use super::*;

    /// A record of use in this second, with a layer of this content and so many bytes.
    fn record(second: u64, layer: Option<(&str, u64)>) -> CacheRecord {
        let layer = layer.map(|(content, size)| Layer {
            diff_id: Digest::of(content.as_bytes()),
            blob: Digest::of(content.as_bytes()),
            compression: Compression::None,
            size,
        });
        CacheRecord {
            key: Digest::of(&second.to_le_bytes()),
            step: CachedStep {
                layer,
                text: "RUN true".to_owned(),
                created: "2024-01-01T00:00:00Z".to_owned(),
            },
            last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
        }
    }

    /// Seconds of those that go, where an image has the layer `image`.
    fn gone(records: &[CacheRecord], all: bool, until: Option<i64>, keep: u64) -> Vec<i64> {
        let in_images = HashSet::from([Digest::of(b"image")]);
        let gone = surplus(records, &in_images, all, until, keep);
        gone.iter()
            .map(|record| seconds(record.last_used))
            .collect()
    }

    #[test]
    fn what_an_image_has_stays_and_does_not_count() {
        let records = [
            record(1, Some(("image", 1000))),
            record(2, Some(("own", 10))),
            record(3, None),
        ];
        for (all, keep, want) in [
            (false, 10, vec![]),
            (false, 9, vec![2]),
            (false, 0, vec![2, 3]),
            (true, 10, vec![]),
            (true, 0, vec![1, 2, 3]),
        ] {
            let want: Vec<i64> = want;
            assert_eq!(gone(&records, all, None, keep), want, "{all} {keep}");
        }
    }

    #[test]
    fn a_layer_of_two_records_counts_once_and_goes_with_the_second() {
        let records = [
            record(1, Some(("shared", 100))),
            record(2, Some(("shared", 100))),
            record(3, Some(("own", 10))),
        ];
        for (keep, want) in [
            (110, vec![]),
            (109, vec![1, 2]),
            (10, vec![1, 2]),
            (9, vec![1, 2, 3]),
        ] {
            let want: Vec<i64> = want;
            assert_eq!(gone(&records, false, None, keep), want, "{keep}");
        }
    }

    #[test]
    fn what_was_of_use_since_stays() {
        let records = [record(5, Some(("one", 10))), record(6, Some(("two", 10)))];
        let want: Vec<i64> = vec![5];
        assert_eq!(gone(&records, true, Some(6), 0), want);
        assert_eq!(gone(&records, true, Some(6), 10), want);
    }
}
