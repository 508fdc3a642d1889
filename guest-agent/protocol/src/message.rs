//! The messages of the control connection.
//!
//! [`Request`] goes from host to guest, [`Event`] from guest to host. A field is added with a
//! default; anything else is a new [`crate::PROTOCOL_VERSION`].

use serde::{Deserialize, Serialize};

use crate::spec::{ConvertSpec, ProcessSpec, Resources, RunSpec};
use crate::task::{Outcome, Task, TaskId};

/// Names a process started for the host: 0 is the container's main process, execs count up from 1.
pub type ProcessId = u32;

/// What the host asks of the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The guest may have slept since it booted, and others may have woken from the same sleep: set
    /// the clock, stir the random pool. The first request of every VM.
    Wake {
        /// Random bytes that no other VM gets.
        entropy: [u8; 32],
        /// The host's `CLOCK_REALTIME` in nanoseconds.
        realtime_ns: u64,
    },
    /// Stack the layers and run the main process. The second request of a run VM.
    Run(Box<RunSpec>),
    /// Stack the layers as for a run, and run nothing: the container's files are to be looked at
    /// or changed. The second request of a VM for a container that is stopped.
    Hold(Box<RunSpec>),
    /// Stack the layers for the steps of a build: as [`Request::Hold`], and processes run one after
    /// the other, each with a [`Request::Run`] of its own. The second request of a builder VM.
    Build(Box<RunSpec>),
    /// What the last step changed becomes a layer below what the next one changes; answered by
    /// [`Event::Sealed`].
    Seal,
    /// Unpack a layer. The second and last request of a converter VM.
    Convert(Box<ConvertSpec>),
    /// Decompress what comes over one stream onto another; answered by [`Event::Decompressed`]. The
    /// second and last request of a VM that does nothing else.
    Decompress {
        /// vsock port of what is compressed.
        compressed: u32,
        /// vsock port that takes the rest.
        plain: u32,
    },
    /// Start another process in the running container.
    Exec {
        /// Its id, chosen by the host, unused so far.
        process: ProcessId,
        /// What to run.
        spec: Box<ProcessSpec>,
    },
    /// Send a signal to a process (to its whole session's leader only, as `kill(2)` does).
    Signal {
        /// To whom.
        process: ProcessId,
        /// Signal number as the guest's kernel counts, 1 to 64.
        signal: i32,
    },
    /// The terminal changed its size.
    Resize {
        /// Whose terminal.
        process: ProcessId,
        /// The new size.
        size: WindowSize,
    },
    /// Something to do beside the container's processes.
    Task {
        /// Its id, chosen by the host, unused so far.
        id: TaskId,
        /// What to do.
        task: Box<Task>,
        /// vsock port of its stream on the host, if it has one.
        port: Option<u32>,
    },
    /// Freeze or thaw every process of the container (cgroup v2 freezer); answered by
    /// [`Event::Frozen`].
    Freeze(bool),
    /// Replace the limits of the container's control group; answered by [`Event::Updated`].
    Update(Resources),
    /// Tell the clock; answered by [`Event::Clock`].
    Clock,
    /// Set the clock forward by so many nanoseconds, or back where they are below 0: a difference,
    /// since a time would be late by as long as it is on its way.
    ShiftClock(i64),
    /// Kill everything, clean up, say [`Event::Bye`] and power off.
    Shutdown,
}

/// What the guest tells the host. Every value in it is a claim of an untrusted party.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The agent is up; the first event of every VM.
    Hello {
        /// [`crate::PROTOCOL_VERSION`] of the agent.
        version: u32,
        /// `uname -r` of the guest kernel.
        kernel: String,
        /// `CLOCK_BOOTTIME` of the guest at this moment in nanoseconds.
        boottime_ns: u64,
    },
    /// The process runs: `execve` succeeded.
    Started {
        /// Which one.
        process: ProcessId,
        /// `CLOCK_BOOTTIME` in nanoseconds just before `execve`.
        boottime_ns: u64,
    },
    /// The container's files are there; it runs nothing.
    Held,
    /// A step's changes lie below now, or why not, in one sentence.
    Sealed(Option<String>),
    /// A task is over.
    TaskEnded {
        /// Which one.
        id: TaskId,
        /// How it went.
        outcome: Outcome,
    },
    /// The request could not be carried out; nothing of it runs.
    Failed {
        /// Which process, 0 where there is none.
        process: ProcessId,
        /// What decides the exit code.
        kind: FailureKind,
        /// One sentence for the user, lower case.
        message: String,
    },
    /// The process ended and every byte of its output was sent.
    Exited {
        /// Which one.
        process: ProcessId,
        /// How.
        status: ExitStatus,
        /// Whether the kernel's out-of-memory killer ended a process of the container.
        oom_killed: bool,
    },
    /// Every process of the container is frozen, or thawed.
    Frozen(bool),
    /// A request to freeze could not be carried out: why, in one sentence. What could be frozen is
    /// thawed again.
    NotFrozen(String),
    /// The limits are replaced, or why not, in one sentence.
    Updated(Option<String>),
    /// The guest's `CLOCK_REALTIME` in nanoseconds.
    Clock(u64),
    /// Progress of a conversion: bytes of the compressed layer read so far.
    Converting {
        /// Bytes read.
        bytes: u64,
    },
    /// The layer's file system is complete and flushed.
    Converted(Converted),
    /// All that was compressed was read, and sent as what it is.
    Decompressed,
    /// Everything is flushed and unmounted; the VM powers off next.
    Bye,
}

/// The result of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Converted {
    /// Length of the file system image in bytes, a multiple of 4096.
    pub image_bytes: u64,
    /// Number of inodes in it.
    pub inodes: u64,
    /// Length of the uncompressed tar in bytes.
    pub tar_bytes: u64,
}

/// What kind of failure it was; decides Docker's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// 127: the command or its interpreter does not exist.
    NotFound,
    /// 126: it exists and cannot be executed.
    NotExecutable,
    /// 125: a user, group or working directory of the image is missing or unusable.
    BadConfig,
    /// 125: the layer is truncated, corrupt or not what its diff_id says.
    CorruptLayer,
    /// 125: a named limit was exceeded.
    LimitExceeded,
    /// 125: the guest's disk is full.
    DiskFull,
    /// The container's process, beside which another was to run, has ended.
    NotRunning,
    /// 125: anything else.
    Other,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It called `exit` with this code.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
}

impl ExitStatus {
    /// The exit code that Docker reports: the code, or 128 plus the signal.
    #[must_use]
    pub fn docker_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// A terminal's size in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}
