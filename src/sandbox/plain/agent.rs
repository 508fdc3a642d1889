//! The agent of a plain container, the hidden verb `__plain-agent`: speaks to the supervisor as a VM's
//! agent does (crate `protocol`), and has an OCI runtime do what that asks for.
//!
//! ```text
//! supervisor ─► __plain-agent ── clone ──► PID 1 of a pid namespace, with a mount namespace of its own:
//!     │           │ maps ids, waits          mounts the overlay and a folder of its own, serves ([`serve`])
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
use protocol::spec::{ProcessSpec, Rlimit};
use serde::{Deserialize, Serialize};

use super::super::block_io::Controls;
use super::super::printable;
use super::super::program::end_by_long_files;
use super::jail;
use serve::Agent;

/// Name of the hidden verb.
pub const AGENT_VERB: &str = "__plain-agent";

/// Bytes of a configuration: paths of PATH_MAX, each byte of which JSON may write as six, and what
/// processes may have.
const CONFIG_BYTES_MAX: u64 = 128 << 10;

/// What the processes of a container have at most, whoever asks for them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Allowed {
    pub(super) capabilities: Vec<String>,
    pub(super) no_new_privileges: bool,
    pub(super) rlimits: Vec<Rlimit>,
    pub(super) oom_score_adj: Option<i32>,
}

impl Allowed {
    /// What this container's own process has.
    pub(super) fn of(process: &ProcessSpec) -> Self {
        Self {
            capabilities: process.capabilities.clone(),
            no_new_privileges: process.no_new_privileges,
            rlimits: process.rlimits.clone(),
            oom_score_adj: process.oom_score_adj,
        }
    }

    /// Refuses a process that has more.
    ///
    /// # Errors
    /// What is too much.
    pub(super) fn check(&self, process: &ProcessSpec) -> Result<()> {
        let capabilities = process.capabilities.iter();
        if let Some(name) = { capabilities }.find(|name| !self.capabilities.contains(name)) {
            bail!(
                "a process is to have {}, which the container has not",
                printable(name)
            );
        }
        if self.no_new_privileges && !process.no_new_privileges {
            bail!("a process is to gain privileges, and the container's have no-new-privileges");
        }
        if process.rlimits != self.rlimits || process.oom_score_adj != self.oom_score_adj {
            bail!("a process is to have other limits than the container");
        }
        Ok(())
    }
}

/// What of an agent is fixed before its supervisor hears it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fixed {
    /// The OCI runtime.
    pub(super) runtime: PathBuf,
    /// The container's id.
    pub(super) id: String,
    /// Where its files are.
    pub(super) bundle: PathBuf,
    /// Where the agent mounts a folder of its own, which the supervisor can't take away.
    pub(super) run: PathBuf,
    /// The image's file system.
    pub(super) lower: PathBuf,
    /// The program of a VM's agent, which looks users up.
    pub(super) program: PathBuf,
    /// Whether root runs it: then there is a control group.
    pub(super) is_root: bool,
    /// What its processes may have.
    pub(super) allowed: Allowed,
    /// Whether they may not write to its files.
    pub(super) read_only_root: bool,
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
    // The container's `/` and the files that are mounted in it are the same for whoever starts it.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // The container's process is not ours.
    end_by_long_files();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::containers::tests::config;

    #[test]
    fn no_process_has_more_than_the_container() {
        let mut process = config('a', "a", false).launch.run.process;
        process.capabilities = vec!["CHOWN".to_owned(), "KILL".to_owned()];
        process.no_new_privileges = true;
        let allowed = Allowed::of(&process);
        let refusal = |change: fn(&mut ProcessSpec)| {
            let mut process = process.clone();
            change(&mut process);
            allowed.check(&process).err().map(|error| error.to_string())
        };
        assert_eq!(refusal(|_| {}), None);
        assert_eq!(refusal(|process| process.capabilities.truncate(1)), None);
        assert_eq!(
            refusal(|process| process.capabilities.push("SYS_ADMIN".to_owned())).unwrap(),
            "a process is to have SYS_ADMIN, which the container has not"
        );
        assert_eq!(
            refusal(|process| process.no_new_privileges = false).unwrap(),
            "a process is to gain privileges, and the container's have no-new-privileges"
        );
        let limits = "a process is to have other limits than the container";
        let raised = refusal(|process| {
            process.rlimits.push(Rlimit {
                name: "nofile".to_owned(),
                soft: u64::MAX,
                hard: u64::MAX,
            });
        });
        assert_eq!(raised.unwrap(), limits);
        let spared = refusal(|process| process.oom_score_adj = Some(-1000));
        assert_eq!(spared.unwrap(), limits);
    }
}
