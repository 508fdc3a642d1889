//! What builds keep, as `system df` counts and lists it.

use std::collections::HashSet;

use anyhow::Result;
use images::build::CacheRecord;
use images::{Digest, Store};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Usage;
use crate::cli::builder;
use crate::cli::output::{self, Column};
use crate::sandbox::paths::{self, Root};

/// Docker's, but for how often a step was of use, which nobody counts.
pub const COLUMNS: [Column; 7] = [
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("LastUsedSince", "LAST USED"),
    ("Shared", "SHARED"),
    ("Description", "DESCRIPTION"),
];
/// Those of the table.
pub const TABLE: [&str; 6] = [
    "ID",
    "CacheType",
    "Size",
    "CreatedSince",
    "LastUsedSince",
    "Shared",
];
/// Digits of an id in a table, as BuildKit's.
const ID_LEN: usize = 12;

/// Steps that builds keep, and folders of their cache mounts.
pub struct BuildCache {
    records: Vec<CacheRecord>,
    /// What an image has, too, is the image's.
    in_images: HashSet<Digest>,
    /// Bytes of the cache mounts.
    mounts: u64,
}

impl BuildCache {
    /// Looks.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn of(root: &Root, store: &Store) -> Result<Self> {
        Ok(Self {
            records: store.cached_steps()?,
            in_images: builder::layers_of_images(store)?,
            mounts: paths::space_below(&root.build_mounts()),
        })
    }

    /// Its row.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            kind: "Build Cache",
            total: self.records.len(),
            bytes: self.mounts,
            reclaimable: self.mounts,
            ..Usage::default()
        };
        let mut seen = HashSet::new();
        for record in &self.records {
            let Some(layer) = &record.step.layer else {
                continue;
            };
            if builder::is_in(record, &self.in_images) {
                usage.active += 1;
            } else if seen.insert(layer.blob) {
                usage.bytes = usage.bytes.saturating_add(layer.size);
                usage.reclaimable = usage.reclaimable.saturating_add(layer.size);
            }
        }
        usage
    }

    /// A row for each step, and one for the folders of cache mounts if there are any.
    pub fn rows(&self, whole: bool) -> Vec<Map<String, Value>> {
        let now = Timestamp::now().as_second();
        let ago = |at: i64| format!("{} ago", output::duration(now.saturating_sub(at)));
        let steps = self.records.iter().map(|record| {
            let id = record.key.hex();
            let created = record.step.created.parse::<Timestamp>();
            fields([
                match whole {
                    true => id,
                    false => id.chars().take(ID_LEN).collect(),
                },
                "regular".to_owned(),
                output::size(builder::size(record)),
                created.map_or_else(|_| "N/A".to_owned(), |time| ago(time.as_second())),
                ago(builder::seconds(record.last_used)),
                builder::is_in(record, &self.in_images).to_string(),
                record.step.text.clone(),
            ])
        });
        let mounts = (self.mounts > 0).then(|| {
            let texts = [
                "cache mounts",
                "exec.cachemount",
                "",
                "N/A",
                "N/A",
                "false",
                "",
            ];
            let mut texts = texts.map(str::to_owned);
            texts[2] = output::size(self.mounts);
            fields(texts)
        });
        steps.chain(mounts).collect()
    }
}

fn fields(texts: [String; COLUMNS.len()]) -> Map<String, Value> {
    let names = COLUMNS.iter().map(|(name, _)| (*name).to_owned());
    names.zip(texts.map(|text| json!(text))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use images::build::CachedStep;
    use images::{Compression, Layer};

    use super::*;

    fn record(content: &[u8], layer: Option<u64>) -> CacheRecord {
        let layer = layer.map(|size| Layer {
            diff_id: Digest::of(content),
            blob: Digest::of(content),
            compression: Compression::None,
            size,
        });
        CacheRecord {
            key: Digest::of(content),
            step: CachedStep {
                layer,
                text: "RUN true".to_owned(),
                created: (Timestamp::now() - Duration::from_secs(7200)).to_string(),
            },
            last_used: SystemTime::now() - Duration::from_secs(120),
        }
    }

    #[test]
    fn what_an_image_has_is_shared_and_costs_nothing() {
        let cache = BuildCache {
            records: vec![
                record(b"one", Some(5000)),
                record(b"two", Some(700)),
                record(b"none", None),
            ],
            in_images: HashSet::from([Digest::of(b"one")]),
            mounts: 30,
        };
        let want = Usage {
            kind: "Build Cache",
            total: 3,
            active: 1,
            bytes: 730,
            reclaimable: 730,
        };
        assert_eq!(cache.usage(), want);
        let rows = cache.rows(false);
        let column = |name: &str| {
            rows.iter()
                .map(|row| row[name].as_str().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(column("Shared"), ["true", "false", "false", "false"]);
        assert_eq!(column("Size"), ["5kB", "700B", "0B", "30B"]);
        assert_eq!(column("CreatedSince")[0], "2 hours ago");
        assert_eq!(column("LastUsedSince")[0], "2 minutes ago");
        assert_eq!(column("ID")[0].len(), ID_LEN);
        assert_eq!(cache.rows(true)[0]["ID"], Digest::of(b"one").hex());
    }
}
