//! The image config: bytes to a checked type, with the fields that Docker adds to OCI's.
//!
//! Called by `store`, `registry` and `archive` on bytes whose digest is the image's id. Pure. What comes
//! out is what the image's author wished, no more: nothing in it may choose a path, an argument or an
//! environment variable of the host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::{Digest, DigestError};
use crate::json::{self, JsonError};
use crate::limits::{CONFIG_BYTES, CONFIG_ENTRIES, EXPOSED_PORTS, HISTORY, LAYERS};
use crate::platform::Platform;
use crate::timestamp::Timestamp;

mod document;

use document::{Document, List, Record, RootFs, keys, list, map};

/// A config that can't be used, and why.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The JSON itself is at fault.
    #[error("cannot read the image config")]
    Json(#[source] JsonError),
    /// A diff_id that is no digest.
    #[error("cannot use diff_id {index} of the image config")]
    DiffId {
        /// Counted from 1.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// More layers than [`LAYERS`].
    #[error("the image config has {0} diff_ids, above the limit of {LAYERS}")]
    TooManyLayers(usize),
    /// A list or map with too many entries.
    #[error("the image config has {count} entries in {field}, above the limit of {limit}")]
    TooManyEntries {
        /// The field's name in the document.
        field: &'static str,
        /// Entries it has.
        count: usize,
        /// Entries it may have.
        limit: usize,
    },
    /// A NUL byte, which no argument, variable or path can hold.
    #[error("the image config has a NUL byte in {0}")]
    Nul(&'static str),
    /// Manifest and config disagree on the number of layers.
    #[error("the image has {layers} layers, but its config has {diff_ids} diff_ids")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// diff_ids of the config.
        diff_ids: usize,
    },
    /// Another platform's image.
    #[error("the image is for {actual}, not for {wanted}")]
    Platform {
        /// The platform asked for.
        wanted: Platform,
        /// The config's.
        actual: String,
    },
}

impl ConfigError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Platform { .. } => {
                Some("choose an image that is built for this platform".to_owned())
            }
            _ => None,
        }
    }
}

/// A health check as Docker stores it; times in nanoseconds, 0 where the default holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`; empty where it is inherited.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub test: Vec<String>,
    /// Nanoseconds between two probes.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// Nanoseconds that a probe may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// Nanoseconds from the start in which failures don't count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// Nanoseconds between two probes in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// Failures in a row that make a container unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// One build step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// When it was made, if known.
    pub created: Option<Timestamp>,
    /// The build's author; free text.
    pub author: String,
    /// The instruction; free text.
    pub created_by: String,
    /// Free text.
    pub comment: String,
    /// Whether the step made no layer.
    pub empty_layer: bool,
}

/// A checked image config. Text fields are free text of the image's author: escape them before they
/// reach a terminal. None that a process gets has a NUL byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// Operating system, architecture and variant.
    pub platform: Platform,
    /// When the image was made, if known.
    pub created: Option<Timestamp>,
    /// Free text.
    pub author: String,
    /// Free text.
    pub comment: String,
    /// The version of Docker that built it, if it says.
    pub docker_version: String,
    /// `user[:group]`, by name or number; empty means root.
    pub user: String,
    /// `KEY=value` each.
    pub env: Vec<String>,
    /// `None` where there is none; an empty list is none too, but Docker shows it differently.
    pub entrypoint: Option<Vec<String>>,
    /// See [`Self::entrypoint`].
    pub cmd: Option<Vec<String>>,
    /// Inside the image; empty means `/`.
    pub working_dir: String,
    /// Paths inside the image, in alphabetical order.
    pub volumes: Vec<String>,
    /// `port/protocol`, in alphabetical order.
    pub exposed_ports: Vec<String>,
    /// Free text.
    pub labels: BTreeMap<String, String>,
    /// A signal's name or number; empty means TERM.
    pub stop_signal: String,
    /// `None` where the image has none.
    pub healthcheck: Option<Healthcheck>,
    /// What shell-form instructions run in; `None` means `/bin/sh -c`.
    pub shell: Option<Vec<String>>,
    /// Instructions for images built on this one.
    pub on_build: Vec<String>,
    /// Digests of the layers' uncompressed tars, from the base up.
    pub diff_ids: Vec<Digest>,
    /// The build steps, from the first.
    pub history: Vec<History>,
}

impl ImageConfig {
    /// That of an image of which nothing is known but what it is for.
    #[must_use]
    pub fn empty(platform: Platform) -> Self {
        Self {
            platform,
            created: None,
            author: String::new(),
            comment: String::new(),
            docker_version: String::new(),
            user: String::new(),
            env: Vec::new(),
            entrypoint: None,
            cmd: None,
            working_dir: String::new(),
            volumes: Vec::new(),
            exposed_ports: Vec::new(),
            labels: BTreeMap::new(),
            stop_signal: String::new(),
            healthcheck: None,
            shell: None,
            on_build: Vec::new(),
            diff_ids: Vec::new(),
            history: Vec::new(),
        }
    }

    /// Parses and checks a config of OCI's or Docker's form.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let document: Document = json::parse(bytes, CONFIG_BYTES).map_err(ConfigError::Json)?;
        if document.rootfs.is_none() && document.os.is_none() && document.architecture.is_none() {
            let reason = "it has neither a platform nor layers".to_owned();
            return Err(ConfigError::Json(JsonError::Invalid(reason)));
        }
        // Some builders leave them out, and then Docker takes its host's.
        let host = Platform::host();
        let or_hosts = |text: Option<String>, hosts: &str| match text {
            Some(text) if !text.is_empty() => text,
            _ => hosts.to_owned(),
        };
        let config = document.config.unwrap_or_default();
        let checked = Self {
            platform: Platform::new(
                &or_hosts(document.os, host.os()),
                &or_hosts(document.architecture, host.architecture()),
                document.variant.as_deref(),
            ),
            created: document.created.as_deref().and_then(Timestamp::parse),
            author: document.author.unwrap_or_default(),
            comment: document.comment.unwrap_or_default(),
            docker_version: document.docker_version.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            env: list("Env", config.env)?.unwrap_or_default(),
            entrypoint: list("Entrypoint", config.entrypoint)?,
            cmd: list("Cmd", config.cmd)?,
            working_dir: config.working_dir.unwrap_or_default(),
            volumes: keys("Volumes", config.volumes)?,
            exposed_ports: keys("ExposedPorts", config.exposed_ports)?,
            labels: map("Labels", config.labels)?.into_iter().collect(),
            stop_signal: config.stop_signal.unwrap_or_default(),
            healthcheck: config
                .healthcheck
                .map(|check| check.checked())
                .transpose()?,
            shell: list("Shell", config.shell)?,
            on_build: list("OnBuild", config.on_build)?.unwrap_or_default(),
            diff_ids: diff_ids(document.rootfs.unwrap_or_default())?,
            history: history(document.history)?,
        };
        checked.check()?;
        Ok(checked)
    }

    /// Checks the numbers of entries, and that there is no NUL byte where a process would get it.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.check_counts()?;
        self.check_nul()
    }

    fn check_counts(&self) -> Result<(), ConfigError> {
        let optional = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
        for (field, count, limit) in [
            ("Env", self.env.len(), CONFIG_ENTRIES),
            ("Entrypoint", optional(&self.entrypoint), CONFIG_ENTRIES),
            ("Cmd", optional(&self.cmd), CONFIG_ENTRIES),
            ("Volumes", self.volumes.len(), CONFIG_ENTRIES),
            ("ExposedPorts", self.exposed_ports.len(), EXPOSED_PORTS),
            ("Labels", self.labels.len(), CONFIG_ENTRIES),
            ("Shell", optional(&self.shell), CONFIG_ENTRIES),
            ("OnBuild", self.on_build.len(), CONFIG_ENTRIES),
            (
                "Healthcheck",
                self.healthcheck
                    .as_ref()
                    .map_or(0, |check| check.test.len()),
                CONFIG_ENTRIES,
            ),
        ] {
            if count > limit {
                return Err(ConfigError::TooManyEntries {
                    field,
                    count,
                    limit,
                });
            }
        }
        Ok(())
    }

    fn check_nul(&self) -> Result<(), ConfigError> {
        let lists = [
            ("Env", Some(&self.env)),
            ("Entrypoint", self.entrypoint.as_ref()),
            ("Cmd", self.cmd.as_ref()),
            ("Volumes", Some(&self.volumes)),
            ("Shell", self.shell.as_ref()),
            (
                "Healthcheck",
                self.healthcheck.as_ref().map(|check| &check.test),
            ),
        ];
        for (field, list) in lists {
            if list.is_some_and(|list| list.iter().any(|text| text.contains('\0'))) {
                return Err(ConfigError::Nul(field));
            }
        }
        for (field, text) in [
            ("User", &self.user),
            ("WorkingDir", &self.working_dir),
            ("StopSignal", &self.stop_signal),
        ] {
            if text.contains('\0') {
                return Err(ConfigError::Nul(field));
            }
        }
        Ok(())
    }

    /// Checks that there is one diff_id for each of `layers` layers.
    pub fn check_layers(&self, layers: usize) -> Result<(), ConfigError> {
        if layers != self.diff_ids.len() {
            return Err(ConfigError::LayerCount {
                layers,
                diff_ids: self.diff_ids.len(),
            });
        }
        Ok(())
    }

    /// Checks that the image can run where `wanted` is asked for.
    pub fn check_platform(&self, wanted: &Platform) -> Result<(), ConfigError> {
        if wanted.fit(&self.platform).is_none() {
            return Err(ConfigError::Platform {
                wanted: wanted.clone(),
                actual: crate::escape::printable(&self.platform.to_string()),
            });
        }
        Ok(())
    }
}

fn diff_ids(rootfs: RootFs) -> Result<Vec<Digest>, ConfigError> {
    let texts = rootfs.diff_ids.map(List::all).transpose();
    let texts = texts.map_err(ConfigError::TooManyLayers)?;
    (1..)
        .zip(texts.unwrap_or_default())
        .map(|(index, text)| {
            Digest::parse(&text).map_err(|source| ConfigError::DiffId { index, source })
        })
        .collect()
}

fn history(records: Option<List<Record, HISTORY>>) -> Result<Vec<History>, ConfigError> {
    let records = list("history", records)?.unwrap_or_default();
    Ok(records
        .into_iter()
        .map(|record| History {
            created: record.created.as_deref().and_then(Timestamp::parse),
            author: record.author.unwrap_or_default(),
            created_by: record.created_by.unwrap_or_default(),
            comment: record.comment.unwrap_or_default(),
            empty_layer: record.empty_layer.unwrap_or(false),
        })
        .collect())
}

#[cfg(test)]
mod tests;
