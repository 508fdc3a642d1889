//! A plain container: the same image on the host's kernel, by an OCI runtime (`--isolation container`).
//!
//! ```text
//! command ─► rootfs (unpacked? else by the agent's program, shut in) ─► bundle ─► becomes the keeper
//! keeper  ─► child: own pid and mount namespace ─► overlay ─► runtime ─► the image's process
//!    └ forwards signals, waits, removes the bundle
//! ```
//! The command becomes the keeper, and the child is PID 1 of a namespace that dies with it: after any
//! kill -9 no process and no mount is left, and the bundle goes with the next plain container. It is
//! in the foreground only and is gone when it ends. Called by `cli/run`. It knows no VM.

mod bundle;
mod jail;
mod keeper;
mod rootfs;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use images::{Image, Store};

use super::launch::Launch;
use super::paths::{self, GuestFiles, Root};

pub use jail::{PREPARE_VERB, main as prepare_main};
pub use keeper::{KEEPER_VERB, main as keeper_main};
pub use rootfs::space;

/// Runtimes, the first that is there.
const RUNTIMES: [&str; 2] = ["crun", "runc"];

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

/// What is run.
pub struct Plain<'a> {
    /// State root.
    pub root: &'a Root,
    /// Where the agent's program is.
    pub guest: &'a GuestFiles,
    /// The runtime.
    pub runtime: &'a Path,
    /// Its id.
    pub id: &'a str,
    /// What a VM would be told.
    pub launch: &'a Launch,
    /// The image.
    pub image: &'a Image,
    /// Where its blobs are.
    pub store: &'a Store,
    /// `--sig-proxy`.
    pub forward_signals: bool,
    /// Told what takes time, and what is left out.
    pub tell: &'a dyn Fn(&str),
}

/// Prepares the container, calls `ready`, and becomes its keeper, whose exit code is the container's.
///
/// # Errors
/// When it can't be prepared.
pub fn run(plain: &Plain, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let is_root = nix::unistd::geteuid().is_root();
    let resources = &plain.launch.run.resources;
    if !is_root && *resources != protocol::spec::Resources::default() {
        bail!(
            "limits of a plain container are the host's control groups to hold, which need root here; \
             leave them out, or leave out --isolation=container"
        );
    }
    let image = rootfs::unpacked(plain)?;
    let prepared = jail::prepare(plain, &image.path, &[])?;
    let bundle = bundle::create(plain, image, &prepared)?;
    ready()?;
    let config = serde_json::to_string(&bundle.keeper).context("configure the keeper")?;
    let program = std::env::current_exe().context("find the path of this command")?;
    let error = Command::new(program).arg(KEEPER_VERB).arg(config).exec();
    Err(error).context("become the keeper of the container")
}

/// Folder of all plain containers of this user.
fn folder(root: &Root) -> PathBuf {
    root.path().join("plain")
}

/// Makes a folder that is this user's alone: images have programs that take their owner's rights.
fn create_private(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("create {}", path.display()))
}

/// Finds the agent's program.
fn agent(guest: &GuestFiles) -> Result<PathBuf> {
    let path = guest.kernel.with_file_name("guest-agent");
    if !path.is_file() {
        bail!("find the agent's program: {} is missing", path.display());
    }
    Ok(path)
}
