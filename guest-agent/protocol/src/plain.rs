//! What the host asks of the agent's program when it prepares a plain container (`--isolation
//! container`), and its answer: one line of JSON each, over standard input and output of a child that
//! is shut into the container's root (`src/sandbox/plain`).

use serde::{Deserialize, Serialize};

use crate::spec::ConvertSpec;

/// `argv[0]` with which the agent's program does this.
pub const PLAIN_NAME: &str = "bulkhead-plain";

/// First descriptor of the job: a scratch file, and then the layers' blobs in order.
pub const FIRST_FD: i32 = 3;

/// Longest job and longest answer in bytes: 127 layers; a filter of some hundred calls.
pub const MESSAGE_BYTES_MAX: u64 = 4 << 20;

/// What is to be done in the directory that is the process's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Layers to unpack, lowest first; none when they are already.
    pub layers: Vec<ConvertSpec>,
    /// Docker's user syntax.
    pub user: String,
    /// `--group-add`.
    pub group_add: Vec<String>,
    /// Capabilities by name without `CAP_`, for the filter.
    pub capabilities: Vec<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// It is done.
    Done(Prepared),
    /// It can't be.
    Failed {
        /// One sentence.
        message: String,
    },
}

/// What the container's configuration needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Its home directory, as far as it is text.
    pub home: String,
    /// Device nodes of the layers that were left out.
    pub devices_left_out: u64,
    /// Docker's default filter: system calls with what becomes of them.
    pub filter: Vec<FilterRule>,
}

/// A system call in a filter, in the words of the OCI runtime specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterRule {
    /// Its name.
    pub name: String,
    /// Whether it is allowed; otherwise it does not exist (`ENOSYS`).
    pub allow: bool,
    /// If so: a comparison of its first argument.
    pub first: Option<FirstArgument>,
}

/// What the first argument must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FirstArgument {
    /// This.
    Equal(u64),
    /// Anything but this.
    NotEqual(u64),
    /// Without any of these bits.
    Without(u64),
}
