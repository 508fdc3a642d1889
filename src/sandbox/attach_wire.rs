//! What a command and a container's supervisor say to each other, framed as in the protocol crate.
//!
//! The bytes of stdin, stdout and stderr do not go through here: each has a pipe of its own.

use protocol::message::WindowSize;
use serde::{Deserialize, Serialize};

/// From the command to the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSupervisor {
    /// Send this signal to the container's process.
    Signal(i32),
    /// The command's terminal changed its size.
    Resize(WindowSize),
}

/// From the supervisor to the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToCommand {
    /// The process runs.
    Started,
    /// It could not be started.
    Failed {
        /// Docker's exit code.
        code: u8,
        /// One sentence.
        message: String,
    },
    /// It ended, its output is written, and with `--rm` the container is gone.
    Exited {
        /// Docker's exit code.
        code: u8,
        /// What went wrong after that, in one sentence.
        trouble: Option<String>,
    },
}
