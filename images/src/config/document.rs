//! The JSON of an image config, in OCI's form with Docker's fields, before anything of it is checked.
//!
//! Used by `config` only. Of each list and map no more is kept than it may have, however many entries there
//! are, so that a document of some bytes an entry doesn't take a hundred times its size. Go writes `null`
//! for what is empty.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{ConfigError, Healthcheck};
use crate::limits::{CONFIG_ENTRIES, EXPOSED_PORTS, HISTORY, LAYERS};

#[derive(Deserialize)]
pub(super) struct Document {
    pub(super) architecture: Option<String>,
    pub(super) os: Option<String>,
    pub(super) variant: Option<String>,
    pub(super) created: Option<String>,
    pub(super) author: Option<String>,
    pub(super) comment: Option<String>,
    pub(super) docker_version: Option<String>,
    pub(super) config: Option<Config>,
    pub(super) rootfs: Option<RootFs>,
    pub(super) history: Option<List<Record, HISTORY>>,
}

/// What a container of it gets.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    pub(super) user: Option<String>,
    pub(super) env: Option<Words>,
    pub(super) entrypoint: Option<Words>,
    pub(super) cmd: Option<Words>,
    pub(super) working_dir: Option<String>,
    pub(super) volumes: Option<Map<Option<Empty>, CONFIG_ENTRIES>>,
    pub(super) exposed_ports: Option<Map<Option<Empty>, EXPOSED_PORTS>>,
    pub(super) labels: Option<Map<String, CONFIG_ENTRIES>>,
    pub(super) stop_signal: Option<String>,
    pub(super) healthcheck: Option<Health>,
    pub(super) shell: Option<Words>,
    pub(super) on_build: Option<Words>,
}

/// [`Healthcheck`], before its words are counted.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Health {
    test: Option<Words>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    start_interval: u64,
    retries: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RootFs {
    pub(super) diff_ids: Option<List<String, LAYERS>>,
}

/// A record of the history.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    pub(super) created: Option<String>,
    pub(super) author: Option<String>,
    pub(super) created_by: Option<String>,
    pub(super) comment: Option<String>,
    pub(super) empty_layer: Option<bool>,
}

impl Health {
    pub(super) fn checked(self) -> Result<Healthcheck, ConfigError> {
        Ok(Healthcheck {
            test: list("Healthcheck", self.test)?.unwrap_or_default(),
            interval: self.interval,
            timeout: self.timeout,
            start_period: self.start_period,
            start_interval: self.start_interval,
            retries: self.retries,
        })
    }
}

pub(super) type Words = List<String, CONFIG_ENTRIES>;

/// What Go's sets have as values.
#[derive(Deserialize)]
pub(super) struct Empty {}

/// The first `LIMIT` entries of a list, and how many there are.
pub(super) struct List<T, const LIMIT: usize> {
    kept: Vec<T>,
    count: usize,
}

/// The same of a map.
pub(super) struct Map<V, const LIMIT: usize>(List<(String, V), LIMIT>);

impl<T, const LIMIT: usize> List<T, LIMIT> {
    fn new() -> Self {
        Self {
            kept: Vec::new(),
            count: 0,
        }
    }

    /// Entries that are kept, and entries that there are.
    #[cfg(test)]
    pub(super) fn lengths(&self) -> (usize, usize) {
        (self.kept.len(), self.count)
    }

    /// All entries, or their number where that is above the limit.
    pub(super) fn all(self) -> Result<Vec<T>, usize> {
        if self.count > LIMIT {
            return Err(self.count);
        }
        Ok(self.kept)
    }
}

#[cfg(test)]
impl<V, const LIMIT: usize> Map<V, LIMIT> {
    pub(super) fn lengths(&self) -> (usize, usize) {
        self.0.lengths()
    }
}

/// All entries of a list that is the document's `field`, if it is there.
pub(super) fn list<T, const LIMIT: usize>(
    field: &'static str,
    list: Option<List<T, LIMIT>>,
) -> Result<Option<Vec<T>>, ConfigError> {
    let all = list.map(List::all).transpose();
    all.map_err(|count| ConfigError::TooManyEntries {
        field,
        count,
        limit: LIMIT,
    })
}

/// All entries of a map, likewise.
pub(super) fn map<V, const LIMIT: usize>(
    field: &'static str,
    map: Option<Map<V, LIMIT>>,
) -> Result<Vec<(String, V)>, ConfigError> {
    Ok(list(field, map.map(|map| map.0))?.unwrap_or_default())
}

/// The keys of a map, each once, in alphabetical order.
pub(super) fn keys<V, const LIMIT: usize>(
    field: &'static str,
    set: Option<Map<V, LIMIT>>,
) -> Result<Vec<String>, ConfigError> {
    let mut keys: Vec<String> = map(field, set)?.into_iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

impl<'de, T: Deserialize<'de>, const LIMIT: usize> Deserialize<'de> for List<T, LIMIT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Reader::<Self>(PhantomData))
    }
}

impl<'de, V: Deserialize<'de>, const LIMIT: usize> Deserialize<'de> for Map<V, LIMIT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader::<Self>(PhantomData))
    }
}

struct Reader<R>(PhantomData<R>);

impl<'de, T: Deserialize<'de>, const LIMIT: usize> Visitor<'de> for Reader<List<T, LIMIT>> {
    type Value = List<T, LIMIT>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Self::Value, A::Error> {
        let mut list = List::new();
        while list.count < LIMIT {
            let Some(entry) = source.next_element()? else {
                return Ok(list);
            };
            list.kept.push(entry);
            list.count += 1;
        }
        while source.next_element::<IgnoredAny>()?.is_some() {
            list.count += 1;
        }
        Ok(list)
    }
}

impl<'de, V: Deserialize<'de>, const LIMIT: usize> Visitor<'de> for Reader<Map<V, LIMIT>> {
    type Value = Map<V, LIMIT>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Self::Value, A::Error> {
        let mut list = List::new();
        while list.count < LIMIT {
            let Some(entry) = source.next_entry()? else {
                return Ok(Map(list));
            };
            list.kept.push(entry);
            list.count += 1;
        }
        while source.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            list.count += 1;
        }
        Ok(Map(list))
    }
}
