//! A plain container: the same image on the host's kernel, by an OCI runtime (`--isolation container`).
//!
//! ```text
//! command    ─► rootfs (unpacked? else by the agent's program, shut in) ─► supervisor, as for a VM
//! supervisor ─► running ─► agent: own pid and mount namespace ─► overlay, bundle ─► runtime ─► process
//! ```
//! Its agent speaks the protocol of a VM's agent, so that all else of a container's life is the
//! supervisor's. Called by `cli/plain` and by [`super::enclosure`]. It knows no VM.

mod agent;
mod bundle;
mod group;
mod jail;
mod rootfs;
mod running;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use images::Image;
use protocol::spec::Resources;

use super::block_io::{self, BlockIo};
use super::launch::Launch;
use super::paths::{self, GuestFiles, Root};

pub use agent::{AGENT_VERB, Fixed, main as agent_main};
pub use bundle::{MASKED, READ_ONLY};
pub use jail::{PREPARE_VERB, main as prepare_main};
pub use rootfs::space;
pub use running::{Ends, Prepared, RunningPlain, program};

/// Runtimes, the first that is there.
const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// Name of the bundle in a container's folder.
const BUNDLE: &str = "bundle";

/// Where in the state root each agent mounts a folder of its own.
const RUN: &str = "plain/run";

/// There is no OCI runtime.
#[derive(Debug, thiserror::Error)]
#[error("find an OCI runtime for --isolation=container: neither crun nor runc is on PATH")]
pub struct NoRuntime;

impl NoRuntime {
    /// What to do.
    #[must_use]
    pub fn hint() -> String {
        "install the package crun, or leave the flag out: the microVM needs none".to_owned()
    }
}

/// Finds the runtime.
///
/// # Errors
/// There is none.
pub fn find_runtime() -> Result<PathBuf> {
    let found = RUNTIMES.iter().find_map(|name| paths::program(name));
    found.ok_or_else(|| NoRuntime.into())
}

/// Refuses limits that nobody would hold.
///
/// # Errors
/// The user is not root, and there are some.
pub fn check_limits(launch: &Launch) -> Result<()> {
    let has_some =
        launch.run.resources != Resources::default() || launch.block_io != BlockIo::default();
    if !nix::unistd::geteuid().is_root() && has_some {
        bail!(
            "limits of a plain container are the host's control groups to hold, which need root here; \
             leave them out, or leave out --isolation=container"
        );
    }
    Ok(())
}

/// Unpacks an image for plain containers, if it is not; `tell` is told what takes time, and what is left
/// out.
///
/// # Errors
/// When a layer is corrupt, or there is no room.
pub fn prepare_image(
    root: &Root,
    guest: &GuestFiles,
    image: &Image,
    tell: &dyn Fn(&str),
) -> Result<()> {
    rootfs::unpacked(root, guest, (&image.id, &rootfs::keys(image)), tell).map(drop)
}

/// Removes what a plain container has in its folder, which is `path` by now, and its control group.
/// There is nothing of a VM.
///
/// # Errors
/// When it can't be removed.
pub fn remove(path: &Path, id: &str) -> Result<()> {
    let bundle = path.join(BUNDLE);
    if bundle.symlink_metadata().is_err() {
        return Ok(());
    }
    if nix::unistd::geteuid().is_root() {
        group::remove(id);
    }
    jail::remove(&[bundle])
}

/// Gives the control group of this agent's container another weight of block I/O.
///
/// # Errors
/// One that nobody would hold.
pub fn set_weight(fixed: &Fixed, weight: Option<u16>) -> Result<()> {
    let group = fixed.is_root.then(|| group::folder(&fixed.id));
    block_io::set_weight(weight, group.as_deref())
}

/// Removes the control group of this agent's container, which has ended.
pub fn remove_group(fixed: &Fixed) {
    if fixed.is_root {
        group::remove(&fixed.id);
    }
}

/// Bytes of what a plain container in this folder has changed.
#[must_use]
pub fn writable_bytes(path: &Path) -> u64 {
    paths::space_below(&path.join(BUNDLE).join("upper"))
}

/// Finds the program of a VM's agent.
fn agent_program(guest: &GuestFiles) -> Result<PathBuf> {
    let path = guest.kernel.with_file_name("guest-agent");
    if !path.is_file() {
        bail!("find the agent's program: {} is missing", path.display());
    }
    Ok(path)
}
