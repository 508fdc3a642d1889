//! Starts the processes beside a VM, and asks what of the host they depend on: here, or in a process
//! apart, the hidden verb `__launcher`, on behalf of a supervisor that is shut in and could not.
//!
//! ```text
//! supervisor ── order, descriptors ──► launcher ── clone(CLONE_PARENT), exec ──► __vmm, __files, passt
//!     ▲  └◄── process id ────────────────┘                                          │
//!     └──────────────────── its own child, waited for and killed by it ─────────────┘
//! ```
//! What may be ordered is fixed before the supervisor hears a guest: this command's own verbs, the
//! file server of these shares, passt with these ports, the agent of this plain container, and at the
//! end the removal of the container's folder, the volumes that go with it, and its control group. It
//! never reads a byte of a guest. [`super::vm`], [`super::files`] and [`super::network`] order; the
//! supervisor makes the process.

pub mod orders;

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use vmm::virtio::net::Endpoint;

use super::agent::AgentError;
use super::block_io::Controls;
use super::child::Child;
use super::control_group::{self, ControlGroup};
use super::files::{self, Share};
use super::network::{self, PortRequest, PublishedPort, Routes};
use super::paths::Root;
use super::plain;
use super::proc;
use super::program::{self, FIRST_FD, Program};
use super::state::Folder;
use super::vm::VMM_VERB;
use super::vmm_process::pin_threads;
use super::volumes::{self, Mount};
use super::wire::Link;

/// Name of the hidden verb.
pub const LAUNCHER_VERB: &str = "__launcher";

/// The launcher's socket and its configuration.
const SOCKET_FD: RawFd = FIRST_FD;
const CONFIG_FD: RawFd = FIRST_FD + 1;

/// Longest configuration in bytes: 1024 shares and as many mounts, which have four paths of 4 KiB together.
const CONFIG_BYTES_MAX: u64 = 32 << 20;

/// From an order to its answer, a fork and an execution, on a host that is busy. The container's other
/// business waits meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The same for the removal of all that a container wrote.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Who starts processes.
#[derive(Debug)]
pub enum Launcher {
    /// This process.
    Here,
    /// Another one.
    Apart(Mutex<Apart>),
}

/// A launcher's process.
#[derive(Debug)]
pub struct Apart {
    link: Link,
    child: Child,
}

/// What the launcher is told when it is started.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LauncherConfig {
    /// Process id of the supervisor, whose end is its own.
    pub supervisor: u32,
    /// The state root.
    pub root: PathBuf,
    /// The container's folder.
    pub folder: PathBuf,
    /// The control group of its VMs.
    pub group: Option<PathBuf>,
    /// The container's volumes, of which those without a name go with it.
    pub volumes: Vec<Mount>,
    /// What a file server may serve.
    pub shares: Vec<Share>,
    /// What passt may bind.
    pub ports: Vec<PortRequest>,
    /// The agent of a plain container.
    pub agent: Option<plain::Fixed>,
}

/// From the supervisor to its launcher. Descriptors go with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// A VM's starter: output, lines, and what it finds.
    Vmm(usize),
    /// The file server of the container's shares: lines, socket, area, report.
    Files,
    /// passt: lines, socket.
    Passt(Endpoint, Vec<PublishedPort>),
    /// Where the host's default routes lead.
    Routes,
    /// Ports of the host that are free, in a network with or without IPv6, at so many attempts.
    Ports(bool, u32),
    /// The agent of the plain container, with these limits and streams at these ports: lines, connection,
    /// offers, streams.
    Agent(Controls, Vec<u32>),
    /// Ends a child of the supervisor, whose descriptor comes with it.
    Kill,
    /// Has one run on these host CPUs only.
    Pin(Vec<usize>),
    /// Removes the container's folder, with what a plain one has written.
    Remove,
    /// Gives the control group of the plain container another weight of block I/O.
    Weight(Option<u16>),
    /// Removes the container's control group.
    Group,
    /// Removes the container's volumes that nobody named, unless another container has them.
    Volumes,
}

/// What the launcher answers. With a process comes a descriptor that stands for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Process(i32),
    Routes(Routes),
    Ports(Vec<PublishedPort>),
    Done,
    Refused(String),
}

impl Launcher {
    /// Starts a launcher for this process, which is a supervisor.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn apart(config: &LauncherConfig) -> Result<Self> {
        let about = "start the launcher";
        let (ours, theirs) = UnixStream::pair().context(about)?;
        let (config_reader, mut config_writer) = io::pipe().context(about)?;
        let program = Program {
            path: program::own()?,
            arguments: vec![LAUNCHER_VERB.to_owned()],
            stdout: None,
            stderr: io::stderr().as_fd().try_clone_to_owned().context(about)?,
            descriptors: vec![theirs.into(), config_reader.into()],
            group: None,
        };
        // Of the user's environment it needs where programs are.
        let path = std::env::var_os("PATH");
        let mut command = program.command().context(about)?;
        command.envs(path.map(|path| ("PATH", path)));
        // It ends with this process.
        let child = Child::adopt(command.spawn().context(about)?).context(about)?;
        drop(command);
        ours.set_write_timeout(Some(ANSWER_TIMEOUT))
            .context(about)?;
        let text = serde_json::to_vec(config).context("configure the launcher")?;
        config_writer
            .write_all(&text)
            .context("configure the launcher")?;
        let link = Link::of_launcher(ours);
        Ok(Self::Apart(Mutex::new(Apart { link, child })))
    }

    /// Starts the process that makes a VMM, in this control group.
    ///
    /// # Errors
    /// When it can't be executed.
    pub fn vmm(
        &self,
        stdout: OwnedFd,
        stderr: OwnedFd,
        descriptors: Vec<OwnedFd>,
        group: Option<&ControlGroup>,
    ) -> Result<Child> {
        match self {
            Self::Here => of_vmm(stdout, stderr, descriptors)?.spawn_in(entrance(group)),
            Self::Apart(launcher) => {
                let order = Order::Vmm(descriptors.len());
                let all = [stdout, stderr].into_iter().chain(descriptors);
                ask_for_process(launcher, &order, all.collect())
            }
        }
        .context("start the VMM process")
    }

    /// Starts the file server of the container's shares, in this control group.
    ///
    /// # Errors
    /// When it can't be executed.
    pub(super) fn files(
        &self,
        shares: &[Share],
        ends: files::Ends,
        group: &ControlGroup,
    ) -> Result<Child> {
        match self {
            Self::Here => files::program(shares, std::process::id(), ends)
                .and_then(|(program, config)| {
                    Ok((program.spawn_in(entrance(Some(group)))?, config))
                })
                .and_then(|(child, config)| config.write().map(|()| child)),
            Self::Apart(launcher) => {
                ask_for_process(launcher, &Order::Files, ends.into_descriptors().into())
            }
        }
        .context("start the file server")
    }

    /// Starts passt at its end of a socket pair, in this control group; it says its lines to `words`.
    ///
    /// # Errors
    /// When there is none, or it can't be executed.
    pub fn passt(
        &self,
        endpoint: &Endpoint,
        ports: &[PublishedPort],
        words: OwnedFd,
        socket: OwnedFd,
        group: &ControlGroup,
    ) -> Result<Child> {
        match self {
            Self::Here => network::program(endpoint, ports, words, socket)?
                .spawn_in(entrance(Some(group)))
                .context("start passt"),
            Self::Apart(launcher) => {
                let order = Order::Passt(*endpoint, ports.to_vec());
                ask_for_process(launcher, &order, vec![words, socket])
            }
        }
    }

    /// Where the host's default routes lead now.
    ///
    /// # Errors
    /// When the launcher is gone.
    pub fn routes(&self) -> Result<Routes> {
        match self {
            Self::Here => Ok(Routes::read()),
            Self::Apart(launcher) => match ask(launcher, &Order::Routes, &[])?.0 {
                Answer::Routes(routes) => Ok(routes),
                other => bail!(unexpected(&other)),
            },
        }
    }

    /// Free ports of the host for these requests, which are the container's.
    ///
    /// # Errors
    /// In Docker's words when one is taken.
    pub fn ports(
        &self,
        requests: &[PortRequest],
        v6: bool,
        attempt: u32,
    ) -> Result<Vec<PublishedPort>> {
        match self {
            Self::Here => network::resolve(requests, v6, attempt),
            Self::Apart(launcher) => match ask(launcher, &Order::Ports(v6, attempt), &[])?.0 {
                Answer::Ports(ports) => Ok(ports),
                other => bail!(unexpected(&other)),
            },
        }
    }

    /// Starts the agent of the plain container.
    ///
    /// # Errors
    /// When it can't be executed.
    pub fn agent(&self, block_io: Controls, ends: plain::Ends) -> Result<Child> {
        let about = "start the container's agent";
        match self {
            // A plain container's supervisor is shut in before it has an agent.
            Self::Here => bail!("{about}: there is no launcher"),
            Self::Apart(launcher) => {
                let (ports, all) = ends.into_descriptors();
                ask_for_process(launcher, &Order::Agent(block_io, ports), all).context(about)
            }
        }
    }

    /// Ends a child of this process that has become another user.
    ///
    /// # Errors
    /// When it is none.
    pub fn kill(&self, child: BorrowedFd) -> Result<()> {
        match self {
            Self::Here => end(child),
            Self::Apart(launcher) => ask_to_do(launcher, &Order::Kill, &[child]),
        }
    }

    /// Has all threads of a child of this process run on these host CPUs only.
    ///
    /// # Errors
    /// When it is none, or one of them is none.
    pub fn pin(&self, child: BorrowedFd, cpus: &[usize]) -> Result<()> {
        match self {
            Self::Here => pin_threads(child_of(std::process::id(), child)?, cpus),
            Self::Apart(launcher) => ask_to_do(launcher, &Order::Pin(cpus.to_vec()), &[child]),
        }
    }

    /// Removes the folder of the container, which may have files of other users.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove(&self, folder: &Folder) -> Result<()> {
        match self {
            Self::Here => folder.remove(),
            Self::Apart(launcher) => ask_to_do(launcher, &Order::Remove, &[]),
        }
    }

    /// Gives the control group of the plain container another weight of block I/O.
    ///
    /// # Errors
    /// One that nobody would hold.
    pub fn set_weight(&self, weight: Option<u16>) -> Result<()> {
        match self {
            Self::Here => bail!("limit block I/O: there is no launcher"),
            Self::Apart(launcher) => ask_to_do(launcher, &Order::Weight(weight), &[]),
        }
    }

    /// Removes the container's control group, if that is not for who made it to do.
    ///
    /// # Errors
    /// When the launcher is gone.
    pub fn remove_group(&self) -> Result<()> {
        match self {
            Self::Here => Ok(()),
            Self::Apart(launcher) => ask_to_do(launcher, &Order::Group, &[]),
        }
    }

    /// Removes the volumes of a container that has gone which nobody named, unless another has them.
    ///
    /// # Errors
    /// The first that could not be removed.
    pub fn remove_volumes(&self, root: &Root, mounts: &[Mount]) -> Result<()> {
        match self {
            Self::Here => volumes::remove_anonymous(root, mounts),
            Self::Apart(launcher) => ask_to_do(launcher, &Order::Volumes, &[]),
        }
    }

    /// Whether it may also start what is no container's own, such as a template's VM.
    #[must_use]
    pub fn is_here(&self) -> bool {
        matches!(self, Self::Here)
    }
}

fn entrance(group: Option<&ControlGroup>) -> Option<OwnedFd> {
    control_group::entrance(group?.path())
}

fn unexpected(answer: &Answer) -> String {
    format!("the launcher answers something else: {answer:?}")
}

/// The launcher's answer to an order.
fn ask(
    launcher: &Mutex<Apart>,
    order: &Order,
    descriptors: &[BorrowedFd],
) -> Result<(Answer, Vec<OwnedFd>)> {
    let mut launcher = launcher.lock().unwrap_or_else(PoisonError::into_inner);
    let timeout = match order {
        Order::Remove | Order::Volumes => REMOVAL_TIMEOUT,
        _ => ANSWER_TIMEOUT,
    };
    launcher.ask(order, descriptors, timeout)
}

fn ask_to_do(launcher: &Mutex<Apart>, order: &Order, descriptors: &[BorrowedFd]) -> Result<()> {
    match ask(launcher, order, descriptors)?.0 {
        Answer::Done => Ok(()),
        other => bail!(unexpected(&other)),
    }
}

fn ask_for_process(
    launcher: &Mutex<Apart>,
    order: &Order,
    descriptors: Vec<OwnedFd>,
) -> Result<Child> {
    let borrowed: Vec<BorrowedFd> = descriptors.iter().map(AsFd::as_fd).collect();
    let (answer, mut handed) = ask(launcher, order, &borrowed)?;
    let Answer::Process(pid) = answer else {
        bail!(unexpected(&answer));
    };
    match (Pid::from_raw(pid), handed.pop()) {
        (Some(pid), Some(process)) => Ok(Child::of(pid, process)),
        _ => bail!("the launcher names no process"),
    }
}

impl Apart {
    /// One that does not answer in time, since somebody stopped it, say, is ended: its answer would be
    /// taken for another order's.
    fn ask(
        &mut self,
        order: &Order,
        descriptors: &[BorrowedFd],
        timeout: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>)> {
        let deadline = Instant::now() + timeout;
        let hint = match order {
            Order::Remove | Order::Volumes => {
                "`bulkhead ps` and `bulkhead volume ls` remove what is left"
            }
            _ => "stop the container and start it",
        };
        let failed = |how: &str| anyhow!("the container's launcher {how}\nhint: {hint}");
        let answer = match self.link.send(order, descriptors) {
            Ok(()) => self.link.wait_until(Some(deadline)),
            Err(_) => Ok(None),
        };
        match answer {
            Ok(Some(Answer::Refused(why))) => bail!(why),
            Ok(Some(answer)) => Ok((answer, self.link.take_all())),
            Ok(None) => {
                self.end();
                Err(failed("is gone"))
            }
            Err(error) => {
                self.end();
                match error.downcast_ref() {
                    Some(AgentError::Timeout) => Err(failed(&format!(
                        "did not answer within {} s and was ended",
                        timeout.as_secs()
                    ))),
                    _ => Err(error),
                }
            }
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The starter of a VMM.
fn of_vmm(stdout: OwnedFd, stderr: OwnedFd, descriptors: Vec<OwnedFd>) -> Result<Program> {
    Ok(Program {
        path: program::own()?,
        arguments: vec![VMM_VERB.to_owned(), FIRST_FD.to_string()],
        stdout: Some(stdout),
        stderr,
        descriptors,
        group: None,
    })
}

/// The number of the process that `process` stands for, a child of `parent`.
fn child_of(parent: u32, process: BorrowedFd) -> Result<u32> {
    let about = "look for a child";
    let id = proc::field(format!("/proc/self/fdinfo/{}", process.as_raw_fd()), "Pid:");
    // Of one that has ended it is -1, and of what is no process there is none.
    let id: u32 = id
        .and_then(|id| id.parse().ok())
        .with_context(|| format!("{about}: it is no process that lives"))?;
    if proc::parent(id) != Some(parent) {
        bail!("{about}: process {id} is none of the supervisor's");
    }
    Ok(id)
}

fn end(process: BorrowedFd) -> Result<()> {
    pidfd_send_signal(process, Signal::KILL).context("end a process")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_that_does_not_answer_is_ended() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let mut launcher = Apart {
            link: Link::of_launcher(ours),
            child: Child::adopt(child).unwrap(),
        };
        let mut ask = |timeout| {
            let answer = launcher.ask(&Order::Routes, &[], timeout);
            answer.unwrap_err().to_string()
        };
        let hint = "hint: stop the container and start it";
        let about = "the container's launcher";
        assert_eq!(
            ask(Duration::ZERO),
            format!("{about} did not answer within 0 s and was ended\n{hint}")
        );
        drop(theirs);
        // A child of another test may have it until it executes its program.
        assert_eq!(ask(ANSWER_TIMEOUT), format!("{about} is gone\n{hint}"));
        let status = launcher.child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(libc::SIGKILL)
        );
    }
}
