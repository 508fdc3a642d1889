//! The agent of a plain container, the hidden verb `__plain-agent`: speaks to the supervisor as a VM's
//! agent does (crate `protocol`), and has an OCI runtime do what that asks for.
//!
//! ```text
//! supervisor ─► __plain-agent ── clone ──► PID 1 of a pid namespace, with a mount namespace of its own:
//!     │           │ maps ids, waits          mounts the overlay, serves ([`serve`])
//!     │           └ dies with the supervisor    └─► runtime ─► the image's process, which PID 1 reaps
//!     └── socket: requests, events; another: streams by port
//! ```
//! The kernel ends the namespaces with their PID 1, PID 1 with its parent, and that with the supervisor:
//! after any kill -9 no process and no mount is left.

mod descriptors;
mod process;
mod pump;
mod serve;

use std::fs::File;
use std::io::Read;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use super::super::block_io::Controls;
use super::jail;
use serve::Agent;

/// Name of the hidden verb.
pub const AGENT_VERB: &str = "__plain-agent";

/// Bytes of a configuration: paths of PATH_MAX, each byte of which JSON may write as six.
const CONFIG_BYTES_MAX: u64 = 128 << 10;

/// What of an agent is fixed before its supervisor hears it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fixed {
    /// The OCI runtime.
    pub(super) runtime: PathBuf,
    /// The container's id.
    pub(super) id: String,
    /// Where its files are.
    pub(super) bundle: PathBuf,
    /// The image's file system.
    pub(super) lower: PathBuf,
    /// The program of a VM's agent, which looks users up.
    pub(super) program: PathBuf,
    /// Whether root runs it: then there is a control group.
    pub(super) is_root: bool,
}

/// What the agent is told at its start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AgentConfig {
    pub(super) fixed: Fixed,
    /// Limits of the host's disks.
    pub(super) block_io: Controls,
    /// Connection to the supervisor.
    pub(super) control: RawFd,
    /// Where the supervisor offers streams.
    pub(super) offers: RawFd,
    /// Streams that are there already, by port.
    pub(super) streams: Vec<(u32, RawFd)>,
}

/// The hidden verb; the descriptor `config` gives its configuration, in JSON.
///
/// # Errors
/// When the namespaces can't be made; everything later goes to the supervisor.
pub fn main(config: &str) -> Result<u8> {
    let number = config.parse().context("read the configuration")?;
    // One that died before this is found by the connection's end.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("tie to the supervisor")?;
    let mut text = Vec::new();
    File::from(take(number)?)
        .take(CONFIG_BYTES_MAX)
        .read_to_end(&mut text)
        .context("read the configuration")?;
    let config: AgentConfig = serde_json::from_slice(&text).context("read the configuration")?;
    let control = take(config.control)?;
    let offers = take(config.offers)?;
    let streams = config.streams.iter();
    let streams = streams
        .map(|(port, fd)| Ok((*port, take(*fd)?)))
        .collect::<Result<_>>()?;
    let flags = jail::namespaces(!config.fixed.is_root, false);
    let pid = jail::child(flags, move || {
        Agent::new(config, control.into(), offers, streams)?.serve()?;
        std::process::exit(0)
    })?;
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(u8::try_from(code).unwrap_or(1)),
            Ok(WaitStatus::Signaled(_, signal, _)) => bail!("the agent was ended by {signal}"),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait for the agent"),
        }
    }
}

/// Takes over a descriptor. None of them is for a runtime: a folder of the host's would be in its hands
/// (CVE-2024-21626).
fn take(number: RawFd) -> Result<OwnedFd> {
    let fd = jail::take_fd(number);
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("take over a descriptor")?;
    Ok(fd)
}
