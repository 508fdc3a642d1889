//! What tests of the command share: a [`Sandbox`] to run it in, terminals, registries, the real
//! Docker engine to compare with, and the search for what a run left behind. VM and CLI tests
//! call it. It knows the command only from outside: flags, streams, exit codes, processes, files.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let vm = bulkhead_harness::Sandbox::with_busybox()?;
//! let out = vm.run(["--cpus", "2", "busybox", "nproc"])?;
//! assert_eq!(out.stdout, "2\n");
//! # Ok(())
//! # }
//! ```

pub mod bare;
pub mod below;
pub mod bytes;
pub mod docker;
pub mod fault;
pub mod hostile;
pub mod images;
pub mod invocation;
pub mod leftovers;
pub mod process;
pub mod registry;
pub mod sandbox;
pub mod small_disk;
pub mod terminal;
mod transcript;
pub mod tree;
pub mod web;

pub use bytes::ByteRegistry;
pub use docker::Docker;
pub use invocation::{Invocation, Output, Running};
pub use leftovers::Snapshot;
pub use registry::Registry;
pub use sandbox::Sandbox;
pub use small_disk::SmallDisk;
pub use terminal::Terminal;

/// How long anything may take that is not known to be long. Many times what is needed on two
/// busy cores that are emulated, whose clock may run ahead: it ends what hangs and says nothing
/// of speed.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(300);

/// Time between two looks at something that changes.
pub const POLL_INTERVAL: std::time::Duration = std::time::Duration::from_millis(20);
