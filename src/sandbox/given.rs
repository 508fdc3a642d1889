//! What the user asked for, as `inspect` shows it, where what is started says it otherwise or not
//! at all: names instead of capabilities' sets, a number of CPUs instead of a quota.
//!
//! Written by the verbs `run`, `create` and `update`; nothing is started from it.

use std::collections::BTreeMap;

use protocol::spec::Rlimit;
use serde::{Deserialize, Serialize};

/// Kept in a container's configuration; of one made by an older version, nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Given {
    /// What the process begins with, of the image or the user.
    pub entrypoint: Option<Vec<String>>,
    /// What comes behind that.
    pub cmd: Option<Vec<String>>,
    /// Whether the first command was joined with stdin.
    pub attach_stdin: bool,
    /// So too, of stdout.
    pub attach_stdout: bool,
    /// So too, of stderr.
    pub attach_stderr: bool,
    /// `--cpus` in billionths.
    pub nano_cpus: u64,
    /// `--cpu-shares`.
    pub cpu_shares: i64,
    /// `--cpuset-cpus`.
    pub cpuset_cpus: String,
    /// `--memory-swap` in bytes; -1 for no limit.
    pub memory_swap: i64,
    /// `--oom-score-adj`.
    pub oom_score_adj: i64,
    /// Flags that may be given several times, by name, as they were given.
    pub lists: BTreeMap<String, Vec<String>>,
    /// `--ulimit`.
    pub ulimits: Vec<Rlimit>,
    /// `--ipc`.
    pub ipc: String,
    /// `--userns`.
    pub userns: String,
    /// `--cidfile`.
    pub cidfile: String,
    /// `--publish-all`.
    pub publish_all: bool,
    /// Folders that the image calls volumes.
    pub volumes: Vec<String>,
    /// Instructions of the image for builds on it.
    pub on_build: Vec<String>,
}

impl Given {
    /// What was given for a flag.
    #[must_use]
    pub fn list(&self, flag: &str) -> &[String] {
        self.lists.get(flag).map_or(&[], Vec::as_slice)
    }
}
