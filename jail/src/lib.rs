//! What a process of bulkhead gives up before it sees a byte of a guest: the promise of
//! docs/security.md, as code.
//!
//! ```text
//! table ──► filter        system calls, per thread; the table is also a table in docs/security.md
//! root                    an empty, read-only file tree
//! privileges              capabilities, resource limits, core dumps
//! landlock                no file beyond those that are open, or that rules allow
//! clone                   a child in namespaces of its own
//! ```
//! Used by the VMM process (`src/sandbox/vmm_process.rs`), the file server and the supervisor. It knows none
//! of them.

pub mod clone;
pub mod filter;
pub mod landlock;
pub mod privileges;
pub mod root;
pub mod table;

use std::io;

/// Why there is no jail.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {cause}")]
pub struct JailError {
    operation: String,
    cause: io::Error,
}

/// Says what was tried when it failed.
pub trait Context<T> {
    /// # Errors
    /// The same, with its operation.
    fn context(self, operation: impl Into<String>) -> Result<T, JailError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, operation: impl Into<String>) -> Result<T, JailError> {
        self.map_err(|error| JailError {
            operation: operation.into(),
            cause: error.into(),
        })
    }
}
