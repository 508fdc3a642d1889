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
#![allow(unsafe_code)] // takes ownership of inherited descriptors by number

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
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
use super::program::{FIRST_FD, Program};
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

/// Most host CPUs that a VM is kept on: as many as the kernel's sets have.
const CPUS_MAX: usize = nix::sched::CpuSet::count();

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
            path: std::env::current_exe().context("find the path of this command")?,
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
        path: std::env::current_exe().context("find the path of this command")?,
        arguments: vec![VMM_VERB.to_owned(), FIRST_FD.to_string()],
        stdout: Some(stdout),
        stderr,
        descriptors,
        group: None,
    })
}

/// The hidden verb: carries out the orders of the process that started it, until that is gone.
///
/// # Errors
/// When its configuration is unusable.
pub fn main() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("tie the launcher to its supervisor")?;
    // SAFETY: the supervisor passed these descriptors for this use only.
    let (socket, config) = unsafe {
        (
            UnixStream::from_raw_fd(SOCKET_FD),
            File::from_raw_fd(CONFIG_FD),
        )
    };
    nix::fcntl::fcntl(
        &socket,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )
    .context("keep the launcher's socket")?;
    let mut text = Vec::new();
    config
        .take(CONFIG_BYTES_MAX)
        .read_to_end(&mut text)
        .context("read the launcher's configuration")?;
    let config: LauncherConfig =
        serde_json::from_slice(&text).context("parse the launcher's configuration")?;
    super::vmm_process::check_parent(config.supervisor)?;
    let mut link = Link::of_launcher(socket);
    while let Some(order) = link.wait::<Order>()? {
        let (answer, process) = match carry_out(&config, order, link.take_all()) {
            Ok(done) => done,
            Err(error) => (Answer::Refused(format!("{error:#}")), None),
        };
        let process: Vec<BorrowedFd> = process.iter().map(AsFd::as_fd).collect();
        link.send(&answer, &process)?;
    }
    Ok(())
}

fn carry_out(
    config: &LauncherConfig,
    order: Order,
    mut descriptors: Vec<OwnedFd>,
) -> Result<(Answer, Option<OwnedFd>)> {
    let wanted = match &order {
        Order::Vmm(count) => count.saturating_add(2),
        Order::Files => files::ENDS,
        Order::Passt(..) => 2,
        Order::Kill | Order::Pin(_) => 1,
        Order::Agent(_, ports) => plain::Ends::count(ports),
        _ => 0,
    };
    if descriptors.len() != wanted {
        bail!("{} descriptors instead of {wanted}", descriptors.len());
    }
    let mut next = || descriptors.remove(0);
    let group = control_group::entrance(config.group.as_deref());
    let agent = config.agent.as_ref();
    let plain = || agent.context("there is no plain container");
    let done = Ok((Answer::Done, None));
    let (pid, process) = match order {
        Order::Vmm(_) => {
            let (stdout, stderr) = (next(), next());
            of_vmm(stdout, stderr, descriptors)?.spawn_beside(group)?
        }
        Order::Files => {
            let ends = files::Ends::of([next(), next(), next(), next()]);
            let (program, server) = files::program(&config.shares, config.supervisor, ends)?;
            let process = program.spawn_beside(group)?;
            server.write()?;
            process
        }
        Order::Passt(endpoint, ports) => {
            let is_asked = |port: &PublishedPort| config.ports.iter().any(|it| it.takes(port));
            if let Some(port) = ports.iter().find(|port| !is_asked(port)) {
                bail!("port {} is not the container's", port.host_port);
            }
            network::program(&endpoint, &ports, next(), next())?.spawn_beside(group)?
        }
        Order::Agent(block_io, ports) => {
            let ends = plain::Ends::of(&ports, next);
            let (program, agent) = plain::program(plain()?, block_io, ends)?;
            let process = program.spawn_beside(None)?;
            // That it has ended by now is what its connection tells.
            let _ = agent.write();
            process
        }
        Order::Remove => {
            Folder::at(config.folder.clone()).remove()?;
            return done;
        }
        Order::Weight(weight) => {
            plain::set_weight(plain()?, weight)?;
            return done;
        }
        Order::Group => {
            match agent {
                Some(agent) => plain::remove_group(agent),
                None => config.group.iter().for_each(|it| control_group::remove(it)),
            }
            return done;
        }
        Order::Volumes => {
            volumes::remove_anonymous(&Root::at(config.root.clone()), &config.volumes)?;
            return done;
        }
        Order::Kill => {
            let child = next();
            child_of(config.supervisor, child.as_fd())?;
            end(child.as_fd())?;
            return done;
        }
        Order::Pin(cpus) => {
            if cpus.len() > CPUS_MAX {
                bail!("{} CPUs are more than {CPUS_MAX}", cpus.len());
            }
            pin_threads(child_of(config.supervisor, next().as_fd())?, &cpus)?;
            return done;
        }
        Order::Routes => return Ok((Answer::Routes(Routes::read()), None)),
        Order::Ports(v6, attempt) => {
            let ports = network::resolve(&config.ports, v6, attempt.max(1))?;
            return Ok((Answer::Ports(ports), None));
        }
    };
    Ok((Answer::Process(pid.as_raw_nonzero().get()), Some(process)))
}

/// The number of the process that `process` stands for, a child of `parent`.
fn child_of(parent: u32, process: BorrowedFd) -> Result<u32> {
    let about = "look for a child";
    let number = process.as_raw_fd();
    let id: u32 = field(&format!("/proc/self/fdinfo/{number}"), "Pid:").context(about)?;
    if field(&format!("/proc/{id}/status"), "PPid:").context(about)? != parent {
        bail!("{about}: process {id} is none of the supervisor's");
    }
    Ok(id)
}

/// A number behind a name at the beginning of a line of `path`.
fn field(path: &str, name: &str) -> Result<u32> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let value = value.with_context(|| format!("no {name} in {path}"))?;
    value.trim().parse().with_context(|| format!("read {path}"))
}

fn end(process: BorrowedFd) -> Result<()> {
    pidfd_send_signal(process, Signal::KILL).context("end a process")
}

#[cfg(test)]
mod tests {
    use super::super::network::{Protocol, template_endpoint};
    use super::*;

    fn some(count: usize) -> Vec<OwnedFd> {
        let null = || File::open("/dev/null").unwrap().into();
        std::iter::repeat_with(null).take(count).collect()
    }

    #[test]
    fn passt_gets_the_containers_ports_and_no_other() {
        let request = PortRequest {
            host_ip: None,
            host_ports: Some((8000, 8001)),
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let port = |host_port, container_port, protocol| PublishedPort {
            host_ip: None,
            host_port,
            container_port,
            protocol,
        };
        assert!(request.takes(&port(8001, 80, Protocol::Tcp)));
        let config = LauncherConfig {
            ports: vec![request],
            ..LauncherConfig::default()
        };
        for other in [
            port(8002, 80, Protocol::Tcp),
            port(8000, 81, Protocol::Tcp),
            port(8000, 80, Protocol::Udp),
            PublishedPort {
                host_ip: Some([127, 0, 0, 1].into()),
                ..port(8000, 80, Protocol::Tcp)
            },
        ] {
            let order = Order::Passt(template_endpoint(), vec![other.clone()]);
            let error = carry_out(&config, order, some(2)).unwrap_err().to_string();
            let words = format!("port {} is not the container's", other.host_port);
            assert_eq!(error, words);
        }
    }

    #[test]
    fn an_order_comes_with_its_descriptors() {
        let config = LauncherConfig::default();
        // One too few, and one too many.
        for (order, count) in [
            (Order::Vmm(3), 4),
            (Order::Vmm(3), 6),
            (Order::Files, 5),
            (Order::Routes, 1),
            (Order::Agent(Controls::default(), vec![1, 2]), 4),
            (Order::Remove, 1),
            (Order::Volumes, 1),
        ] {
            let error = carry_out(&config, order, some(count)).unwrap_err();
            let words = format!("{count} descriptors instead of");
            assert!(error.to_string().starts_with(&words), "{error}");
        }
        let (routes, _) = carry_out(&config, Order::Routes, Vec::new()).unwrap();
        assert!(matches!(routes, Answer::Routes(_)));
    }

    #[test]
    fn a_vms_launcher_has_no_plain_container() {
        let config = LauncherConfig::default();
        let agent = Order::Agent(Controls::default(), Vec::new());
        for (order, count) in [(agent, 3), (Order::Weight(None), 0)] {
            let error = carry_out(&config, order, some(count)).unwrap_err();
            assert_eq!(error.to_string(), "there is no plain container");
        }
    }

    #[test]
    fn only_children_of_its_supervisor_are_ended_or_moved_to_other_cpus() {
        use rustix::process::{PidfdFlags, pidfd_open};
        let child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let mut child = Child::adopt(child).unwrap();
        let config = LauncherConfig {
            supervisor: std::process::id(),
            ..LauncherConfig::default()
        };
        let order = |order: Order, process: OwnedFd| {
            let done = carry_out(&config, order, vec![process]);
            done.map(drop).map_err(|error| format!("{error:#}"))
        };
        let open = |id| pidfd_open(Pid::from_raw(id).unwrap(), PidfdFlags::empty()).unwrap();
        let error = order(Order::Pin(vec![0; CPUS_MAX + 1]), open(1)).unwrap_err();
        assert_eq!(
            error,
            format!("{} CPUs are more than {CPUS_MAX}", CPUS_MAX + 1)
        );
        let words = "look for a child: process 1 is none of the supervisor's";
        for of_others in [Order::Kill, Order::Pin(vec![0])] {
            assert_eq!(order(of_others, open(1)).unwrap_err(), words);
        }
        // What stands for no process, and a folder that the kernel takes for one.
        for path in ["/dev/null", "/proc/1"] {
            let file = File::open(path).unwrap().into();
            let error = order(Order::Kill, file).unwrap_err();
            assert!(error.starts_with("look for a child: no Pid:"), "{error}");
        }
        let own = child.as_fd().try_clone_to_owned().unwrap();
        order(Order::Kill, own.try_clone().unwrap()).unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()),
            Some(libc::SIGKILL)
        );
        // It was waited for: its number may be another's.
        order(Order::Kill, own).unwrap_err();
    }

    #[test]
    fn it_removes_the_containers_folder_and_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let [own, other] = ["own", "other"].map(|name| temp.path().join(name));
        for folder in [&own, &other] {
            std::fs::create_dir_all(folder.join("in")).unwrap();
        }
        let config = LauncherConfig {
            folder: own.clone(),
            ..LauncherConfig::default()
        };
        // It may have gone already.
        for _ in 0..2 {
            let (done, _) = carry_out(&config, Order::Remove, Vec::new()).unwrap();
            assert!(matches!(done, Answer::Done));
            assert!(!own.exists() && other.exists());
        }
        // So with a control group, which has files of the kernel's only.
        let config = LauncherConfig {
            group: Some(other.join("in")),
            ..LauncherConfig::default()
        };
        carry_out(&config, Order::Group, Vec::new()).unwrap();
        assert!(!other.join("in").exists() && other.exists());
    }

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
