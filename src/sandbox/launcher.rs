//! Starts the processes beside a VM, and asks what of the host they depend on: here, or in a process
//! apart, the hidden verb `__launcher`, on behalf of a supervisor that is shut in and could not.
//!
//! ```text
//! supervisor ── order, descriptors ──► launcher ── clone(CLONE_PARENT), exec ──► __vmm, __files, passt
//!     ▲  └◄── process id ────────────────┘                                          │
//!     └──────────────────── its own child, waited for and killed by it ─────────────┘
//! ```
//! What may be ordered is fixed before the supervisor hears a guest: this command's own verbs, the
//! file server of these shares, and passt with these ports. It never reads a byte of a guest.
//! [`super::vm`], [`super::files`] and [`super::network`] order; the supervisor makes the process.
#![allow(unsafe_code)] // clone; takes ownership of inherited descriptors by number

use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use command_fds::{CommandFdExt, FdMapping};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use vmm::virtio::net::Endpoint;

use super::child::Child;
use super::files::{self, Share};
use super::network::{self, PortRequest, PublishedPort, Routes};
use super::vm::VMM_VERB;
use super::wire::Link;

/// Name of the hidden verb.
pub const LAUNCHER_VERB: &str = "__launcher";

/// First descriptor that a process finds something on.
pub const FIRST_FD: RawFd = 3;

/// The launcher's socket and its configuration.
const SOCKET_FD: RawFd = FIRST_FD;
const CONFIG_FD: RawFd = FIRST_FD + 1;

/// Longest configuration in bytes: 1024 shares with paths of 4 KiB.
const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// Longest sentence on why a program could not be executed, in bytes.
const WHY_BYTES_MAX: u64 = 4 << 10;

/// Who starts processes.
#[derive(Debug)]
pub enum Launcher {
    /// This process.
    Here,
    /// Another one.
    Apart(Mutex<Link>),
}

/// A program that is to be executed, without an environment, without input.
#[derive(Debug)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Takes its output.
    pub stdout: Option<OwnedFd>,
    /// Takes its own lines.
    pub stderr: OwnedFd,
    /// What it finds from [`FIRST_FD`] on.
    pub descriptors: Vec<OwnedFd>,
}

/// Collects descriptors for a program, numbered from [`FIRST_FD`], where it finds its configuration.
#[derive(Debug, Default)]
pub struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    /// Makes the first one the end of a pipe that the configuration is written to.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn begin(&mut self) -> Result<PipeWriter> {
        let (reader, writer) = io::pipe().context("create a pipe")?;
        self.add(reader)?;
        Ok(writer)
    }

    /// The number that it has in the program.
    ///
    /// # Errors
    /// More than there are numbers.
    pub fn add(&mut self, fd: impl Into<OwnedFd>) -> Result<RawFd> {
        let number = FIRST_FD + RawFd::try_from(self.0.len()).context("number a descriptor")?;
        self.0.push(fd.into());
        Ok(number)
    }
}

impl From<Descriptors> for Vec<OwnedFd> {
    fn from(all: Descriptors) -> Self {
        all.0
    }
}

/// What the launcher is told when it is started.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LauncherConfig {
    /// Process id of the supervisor, whose end is its own.
    pub supervisor: u32,
    /// What a file server may serve.
    pub shares: Vec<Share>,
    /// What passt may bind.
    pub ports: Vec<PortRequest>,
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
}

/// What the launcher answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Process(i32),
    Routes(Routes),
    Ports(Vec<PublishedPort>),
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
            stderr: share(io::stderr())?,
            descriptors: vec![theirs.into(), config_reader.into()],
        };
        // Of the user's environment it needs where programs are.
        let path = std::env::var_os("PATH");
        let mut command = program.command().context(about)?;
        command.envs(path.map(|path| ("PATH", path)));
        // It ends with this process; nobody waits for it.
        command.spawn().context(about)?;
        drop(command);
        let text = serde_json::to_vec(config).context("configure the launcher")?;
        config_writer
            .write_all(&text)
            .context("configure the launcher")?;
        Ok(Self::Apart(Mutex::new(Link::of_launcher(ours))))
    }

    /// Starts the process that makes a VMM.
    ///
    /// # Errors
    /// When it can't be executed.
    pub fn vmm(
        &self,
        stdout: OwnedFd,
        stderr: OwnedFd,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Child> {
        match self {
            Self::Here => of_vmm(stdout, stderr, descriptors)?.spawn(),
            Self::Apart(link) => {
                let order = Order::Vmm(descriptors.len());
                let all: Vec<_> = [stdout, stderr].into_iter().chain(descriptors).collect();
                ask_for_process(link, &order, &all)
            }
        }
        .context("start the VMM process")
    }

    /// Starts the file server of the container's shares.
    ///
    /// # Errors
    /// When it can't be executed.
    pub(super) fn files(&self, shares: &[Share], ends: files::Ends) -> Result<Child> {
        match self {
            Self::Here => files::program(shares, std::process::id(), ends)
                .and_then(|(program, config)| Ok((program.spawn()?, config)))
                .and_then(|(child, config)| config.write().map(|()| child)),
            Self::Apart(link) => ask_for_process(link, &Order::Files, &ends.into_descriptors()),
        }
        .context("start the file server")
    }

    /// Starts passt at its end of a socket pair; it says its lines to `words`.
    ///
    /// # Errors
    /// When there is none, or it can't be executed.
    pub fn passt(
        &self,
        endpoint: &Endpoint,
        ports: &[PublishedPort],
        words: OwnedFd,
        socket: OwnedFd,
    ) -> Result<Child> {
        match self {
            Self::Here => network::program(endpoint, ports, words, socket)?
                .spawn()
                .context("start passt"),
            Self::Apart(link) => {
                let order = Order::Passt(*endpoint, ports.to_vec());
                ask_for_process(link, &order, &[words, socket])
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
            Self::Apart(link) => match ask(link, &Order::Routes, &[])? {
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
            Self::Apart(link) => match ask(link, &Order::Ports(v6, attempt), &[])? {
                Answer::Ports(ports) => Ok(ports),
                other => bail!(unexpected(&other)),
            },
        }
    }

    /// Whether it may also start what is no container's own, such as a template's VM.
    #[must_use]
    pub fn is_here(&self) -> bool {
        matches!(self, Self::Here)
    }
}

fn unexpected(answer: &Answer) -> String {
    format!("the launcher answers something else: {answer:?}")
}

/// The launcher's answer to an order.
fn ask(link: &Mutex<Link>, order: &Order, descriptors: &[OwnedFd]) -> Result<Answer> {
    let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
    let descriptors: Vec<BorrowedFd> = descriptors.iter().map(AsFd::as_fd).collect();
    let gone = || {
        anyhow!(
            "start a process: the container's launcher is gone\nhint: stop the container and start it"
        )
    };
    link.send(order, &descriptors).map_err(|_| gone())?;
    match link.wait()?.ok_or_else(gone)? {
        Answer::Refused(why) => bail!(why),
        answer => Ok(answer),
    }
}

fn ask_for_process(link: &Mutex<Link>, order: &Order, descriptors: &[OwnedFd]) -> Result<Child> {
    match ask(link, order, descriptors)? {
        Answer::Process(pid) => Ok(Child::of(
            Pid::from_raw(pid).context("the launcher names no process")?,
        )),
        other => bail!(unexpected(&other)),
    }
}

impl Program {
    fn command(self) -> Result<Command> {
        let mut command = Command::new(self.path);
        let mappings = (FIRST_FD..)
            .zip(self.descriptors)
            .map(|(child_fd, parent_fd)| FdMapping {
                parent_fd,
                child_fd,
            })
            .collect();
        command
            .args(self.arguments)
            // Nothing of the user's, such as passwords, is in a process that a guest attacks.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(self.stdout.map_or_else(Stdio::null, Stdio::from))
            .stderr(self.stderr)
            .fd_mappings(mappings)
            .context("pass descriptors")?;
        Ok(command)
    }

    /// Executes it as a child.
    pub(super) fn spawn(self) -> Result<Child> {
        Ok(self.command()?.spawn()?.into())
    }

    /// Executes it as a child of this process's parent. This process has one thread.
    fn spawn_beside(self) -> Result<Pid> {
        let mut command = self.command()?;
        let (why, mut tell) = io::pipe().context("create a pipe")?;
        // SAFETY: without CLONE_VM this is a fork, and the process has this thread only.
        let copy = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT, 0, 0, 0, 0) };
        if copy == 0 {
            let error = command.exec();
            let _ = write!(tell, "{error}");
            // SAFETY: it ends the copy, which has nothing of its own to clean up.
            unsafe { libc::_exit(127) }
        }
        let pid = i32::try_from(copy).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(io::Error::last_os_error)?;
        drop(tell);
        // The end comes with the execution, by which the copy's own end of the pipe is closed.
        let mut text = String::new();
        why.take(WHY_BYTES_MAX).read_to_string(&mut text)?;
        match text.as_str() {
            "" => Ok(pid),
            text => bail!("{text}"),
        }
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
    })
}

/// Another hand on a descriptor.
fn share(fd: impl AsFd) -> Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned().context("share a file")
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
        let answer = carry_out(&config, order, link.take_all())
            .unwrap_or_else(|error| Answer::Refused(format!("{error:#}")));
        link.send(&answer, &[])?;
    }
    Ok(())
}

fn carry_out(
    config: &LauncherConfig,
    order: Order,
    mut descriptors: Vec<OwnedFd>,
) -> Result<Answer> {
    let wanted = match &order {
        Order::Vmm(count) => count.saturating_add(2),
        Order::Files => files::ENDS,
        Order::Passt(..) => 2,
        Order::Routes | Order::Ports(..) => 0,
    };
    if descriptors.len() != wanted {
        bail!("{} descriptors instead of {wanted}", descriptors.len());
    }
    let mut next = || descriptors.remove(0);
    let pid = match order {
        Order::Vmm(_) => {
            let (stdout, stderr) = (next(), next());
            of_vmm(stdout, stderr, descriptors)?.spawn_beside()?
        }
        Order::Files => {
            let ends = files::Ends::of([next(), next(), next(), next()]);
            let (program, server) = files::program(&config.shares, config.supervisor, ends)?;
            let pid = program.spawn_beside()?;
            server.write()?;
            pid
        }
        Order::Passt(endpoint, ports) => {
            let is_asked = |port: &PublishedPort| config.ports.iter().any(|it| it.takes(port));
            if let Some(port) = ports.iter().find(|port| !is_asked(port)) {
                bail!("port {} is not the container's", port.host_port);
            }
            network::program(&endpoint, &ports, next(), next())?.spawn_beside()?
        }
        Order::Routes => return Ok(Answer::Routes(Routes::read())),
        Order::Ports(v6, attempt) => {
            let ports = network::resolve(&config.ports, v6, attempt.max(1))?;
            return Ok(Answer::Ports(ports));
        }
    };
    Ok(Answer::Process(pid.as_raw_nonzero().get()))
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
            supervisor: 1,
            shares: Vec::new(),
            ports: vec![request],
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
        let config = LauncherConfig {
            supervisor: 1,
            shares: Vec::new(),
            ports: Vec::new(),
        };
        for (order, count) in [(Order::Vmm(3), 4), (Order::Files, 5), (Order::Routes, 1)] {
            let error = carry_out(&config, order, some(count)).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("{count} descriptors instead of"))
            );
        }
        let routes = carry_out(&config, Order::Routes, Vec::new()).unwrap();
        assert!(matches!(routes, Answer::Routes(_)));
    }
}
