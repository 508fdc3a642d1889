//! A way to a container's agent for those who look into it: `cp`, `diff`, `export`, `commit`, `top`,
//! `stats`.
//!
//! Called by these verbs. The agent of a container that runs is asked through its supervisor. One
//! that is stopped has no agent: then a VM is started that holds its layers and its writable disk
//! and runs nothing, for as long as it is asked; its lock is held meanwhile, as by a supervisor.
//! Everything that comes back is a guest's: whoever reads a stream checks what is in it.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use protocol::message::{Event, Request};
use protocol::task::{Outcome, Task, TaskId};

use super::agent::{AgentError, AgentLink};
use super::client;
use super::control_group::ControlGroup;
use super::disks;
use super::launch::Isolation;
use super::launcher::Launcher;
use super::paths::{GuestFiles, Root};
use super::state::{ContainerConfig, Folder, Lock};
use super::vm::{self, RunningVm, VmRequest, stream_pair};
use super::wire::{ENDED, Link, ToCommand, ToSupervisor};

/// From the VM's first instruction to the agent's hello, and from there to the files being there.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// From the request to power off to the agent's goodbye: it flushes what was changed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// From a question that takes no stream, or from one piece of a list to the next, to the answer of a
/// guest that is busy but well.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Times that a container may begin or end between two looks at it.
const TRIES: usize = 10;

/// What becomes of whoever is at the files of a container that goes.
const REMOVED: &str = "the container was removed meanwhile";

/// Does `work` with the files of a container that runs or is stopped. Of one that is stopped `admit` is
/// asked whether there is room for its VM, with the lock that it holds then.
///
/// # Errors
/// As [`Access::open`], `work` and [`Access::close`]; that the container was removed, if it was.
pub fn with_files<T>(
    root: &Root,
    folder: &Folder,
    config: &ContainerConfig,
    admit: &dyn Fn(&Lock) -> Result<()>,
    work: impl FnOnce(&mut Access) -> Result<T>,
) -> Result<T> {
    let open = Access::open(root, folder, config, admit);
    let done = open.and_then(|mut access| {
        let done = work(&mut access)?;
        access.close()?;
        Ok(done)
    });
    done.map_err(|error| match folder.path().exists() {
        true => error,
        false => anyhow::anyhow!("{REMOVED}"),
    })
}

/// What the agent says it can't do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// The agent of a container, to be asked one thing after the other.
#[derive(Debug)]
pub enum Access {
    /// It runs.
    Running(Link),
    /// It is stopped.
    Held(Box<Held>),
}

impl Access {
    /// Gets to a container that runs or is stopped. Who is at the files of one that is stopped is
    /// waited for.
    ///
    /// # Errors
    /// When its VM can't be started; those of `admit`.
    fn open(
        root: &Root,
        folder: &Folder,
        config: &ContainerConfig,
        admit: &dyn Fn(&Lock) -> Result<()>,
    ) -> Result<Self> {
        if config.launch.isolation == Isolation::Container {
            bail!(
                "the files of a plain container can't be looked at or changed from outside: \
                 container {} has --isolation=container, and no VM that holds them",
                config.name
            );
        }
        let mut tries = 0;
        while tries < TRIES {
            if let Some(lock) = folder.try_lock()? {
                admit(&lock)?;
                return Held::start(root, folder, config, lock).map(|held| Self::Held(held.into()));
            }
            let waited = folder.wait_for_files()?;
            if let Some(link) = client::connect(folder)? {
                return Ok(Self::Running(link));
            }
            // Any number of commands may be at the files, one after the other.
            if !waited && !folder.is_looked_into()? {
                tries += 1;
            }
        }
        bail!("container {} begins and ends all the time", config.name)
    }

    /// Gets to a container that runs.
    ///
    /// # Errors
    /// Docker's sentence when it does not.
    pub fn running(folder: &Folder, config: &ContainerConfig) -> Result<Self> {
        match client::connect(folder)? {
            Some(link) => Ok(Self::Running(link)),
            None => bail!("container {} is not running", config.id),
        }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// As [`Self::begin`], to read what the guest sends: not more than [`BYTES_MAX`].
    ///
    /// # Errors
    /// When the VM or the supervisor is gone.
    pub fn begin_reading(&mut self, task: Task) -> Result<Limited<UnixStream>> {
        self.begin(task).map(Limited::new)
    }

    /// Begins a task; [`Self::end`] waits until it is done.
    ///
    /// # Errors
    /// When the VM or the supervisor is gone.
    pub fn begin(&mut self, task: Task) -> Result<UnixStream> {
        let (ours, theirs) = stream_pair()?;
        match self {
            Self::Running(link) => {
                let task = Box::new(task);
                let stream = true;
                link.send(&ToSupervisor::Task { task, stream }, &[theirs.as_fd()])?;
            }
            Self::Held(held) => held.begin(task, Some(&theirs))?,
        }
        Ok(ours)
    }

    /// Waits for the end of the task.
    ///
    /// # Errors
    /// [`Refused`] with what the agent says; anything else when the VM died.
    pub fn end(&mut self) -> Result<Outcome> {
        self.end_until(None)
    }

    /// As [`Self::end`], but no longer than until `deadline`.
    ///
    /// # Errors
    /// [`AgentError::Timeout`] when that is reached; the task is still under way then.
    pub fn end_until(&mut self, deadline: Option<Instant>) -> Result<Outcome> {
        let outcome = match self {
            Self::Running(link) => match link.wait_until(deadline)? {
                Some(ToCommand::TaskEnded(outcome)) => outcome,
                Some(ToCommand::Refused(message) | ToCommand::Failed { message, .. }) => {
                    bail!(message)
                }
                Some(other) => bail!("the supervisor answers {other:?}"),
                None => bail!(ENDED),
            },
            Self::Held(held) => held.end(deadline)?,
        };
        match outcome {
            Outcome::Failed { message, .. } => Err(Refused(super::printable(&message)).into()),
            outcome => Ok(outcome),
        }
    }

    /// Does a task that takes no stream, and should take no time.
    ///
    /// # Errors
    /// As [`Self::end_until`], after [`ANSWER_TIMEOUT`].
    pub fn ask(&mut self, task: Task) -> Result<Outcome> {
        self.send(task)?;
        self.end_until(Some(Instant::now() + ANSWER_TIMEOUT))
    }

    /// Begins a task that takes no stream.
    ///
    /// # Errors
    /// When the VM or the supervisor is gone.
    pub fn send(&mut self, task: Task) -> Result<()> {
        match self {
            Self::Running(link) => {
                let task = Box::new(task);
                let stream = false;
                link.send(&ToSupervisor::Task { task, stream }, &[])
            }
            Self::Held(held) => held.begin(task, None),
        }
    }

    /// Freezes the container's processes for as long as this lives, or thaws them before. One that is
    /// stopped has none.
    ///
    /// # Errors
    /// When it is frozen already, or ends.
    pub fn hold_still(&mut self, frozen: bool) -> Result<()> {
        let Self::Running(link) = self else {
            return Ok(());
        };
        link.send(&ToSupervisor::HoldStill(frozen), &[])?;
        match link.wait()? {
            Some(ToCommand::Done) => Ok(()),
            Some(ToCommand::Refused(message)) => bail!(message),
            _ => bail!(ENDED),
        }
    }

    /// Leaves the container; the disk of one that is stopped is clean then.
    ///
    /// # Errors
    /// When its VM does not end in good order: what was changed may be lost.
    fn close(self) -> Result<()> {
        match self {
            Self::Running(_) => Ok(()),
            Self::Held(held) => held.close(),
        }
    }
}

/// Bytes that are taken from a guest for one task, or one archive: more than any container's disk has, with what an
/// archive adds.
pub const BYTES_MAX: u64 = 2 << 40;

/// A stream from a guest that may not go on for ever.
#[derive(Debug)]
pub struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R> Limited<R> {
    /// Takes [`BYTES_MAX`] of it.
    pub(super) fn new(inner: R) -> Self {
        let left = BYTES_MAX;
        Self { inner, left }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(len as u64).ok_or_else(|| {
            std::io::Error::other(format!("the guest sent more than {BYTES_MAX} bytes"))
        })?;
        Ok(len)
    }
}

/// A VM that holds a stopped container's files.
#[derive(Debug)]
pub struct Held {
    vm: RunningVm,
    log: File,
    next_task: TaskId,
    next_port: u32,
    _lock: Lock,
}

impl Held {
    fn start(root: &Root, folder: &Folder, config: &ContainerConfig, lock: Lock) -> Result<Self> {
        lock.sign_for_files(None)?;
        let state = folder.state()?;
        if state.status.is_alive() {
            // Its supervisor was killed, and nobody has looked since.
            folder.set_state(&state.killed())?;
        }
        let launch = &config.launch;
        let mut log = folder.open_log()?;
        disks::ensure(root, &launch.layers)?;
        let (layers, disks) = disks::of_container(root, folder, launch)?;
        let mut run = launch.run.clone();
        run.layers = layers;
        run.upper_disk = true;
        let cpu = (&launch.run.resources).into();
        let limits = vm::limits(root, launch.vcpu_count, launch.memory_mib, cpu);
        let request = VmRequest {
            vcpu_count: launch.vcpu_count,
            memory_mib: launch.memory_mib,
            group: ControlGroup::make(limits)?,
            host_cpus: launch.host_cpus.clone(),
            disks,
            card: None,
            shares: Vec::new(),
            stream_ports: Vec::new(),
            log: log.try_clone().context("share the VM's log")?,
        };
        let mut vm = RunningVm::spawn(&Launcher::Here, root, &GuestFiles::find()?, request)?;
        // Who removes the container ends this VM, or has done so by now.
        lock.sign_for_files(Some(vm.pid()))?;
        if !folder.path().exists() {
            bail!("{REMOVED}");
        }
        match until_held(&mut vm.agent, &Request::Hold(Box::new(run))) {
            Ok(()) => Ok(Self {
                vm,
                log,
                next_task: 0,
                next_port: protocol::FIRST_STREAM_PORT,
                _lock: lock,
            }),
            Err(error) if error.is::<Refused>() => Err(error),
            Err(error) => Err(vm.post_mortem(&error, &mut log)),
        }
    }

    fn begin(&mut self, task: Task, stream: Option<&UnixStream>) -> Result<()> {
        let id = self.next_task;
        self.next_task += 1;
        let port = match stream {
            Some(stream) => {
                let port = self.next_port;
                self.next_port += 1;
                self.vm.offer_end(port, stream.as_fd())?;
                Some(port)
            }
            None => None,
        };
        let task = Box::new(task);
        Ok(self.vm.agent.send(&Request::Task { id, task, port })?)
    }

    fn end(&mut self, deadline: Option<Instant>) -> Result<Outcome> {
        match self.vm.agent.next(deadline) {
            // One is under way at a time, the last.
            Ok(Event::TaskEnded { id, outcome }) if id.checked_add(1) == Some(self.next_task) => {
                Ok(outcome)
            }
            Ok(other) => bail!(super::unexpected(&other)),
            Err(AgentError::Timeout) => Err(AgentError::Timeout.into()),
            Err(error) => {
                let console = super::log_tail(&mut self.log);
                bail!("{error}{console}")
            }
        }
    }

    fn close(mut self) -> Result<()> {
        self.vm.agent.send(&Request::Shutdown)?;
        let deadline = Some(Instant::now() + SHUTDOWN_TIMEOUT);
        loop {
            match self.vm.agent.next(deadline)? {
                Event::Bye => break,
                Event::TaskEnded { .. } => {}
                other => bail!(super::unexpected(&other)),
            }
        }
        self.vm.finish_soon().map(drop)
    }
}

fn until_held(agent: &mut AgentLink, hold: &Request) -> Result<()> {
    agent.greet(Some(Instant::now() + BOOT_TIMEOUT))?;
    agent.send(hold)?;
    match agent.next(Some(Instant::now() + BOOT_TIMEOUT))? {
        Event::Held => Ok(()),
        Event::Failed { message, .. } => Err(Refused(super::printable(&message)).into()),
        other => bail!(super::unexpected(&other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_sends_without_end_is_cut_off() {
        let mut limited = Limited {
            inner: std::io::repeat(b'x'),
            left: 1000,
        };
        let mut bytes = Vec::new();
        let error = limited.read_to_end(&mut bytes).unwrap_err();
        assert!(error.to_string().starts_with("the guest sent more than "));
        assert!(bytes.len() <= 1000);
    }
}
