//! A way to a container's agent for those who look into its files: `cp`, `diff`, `export`, `commit`.
//!
//! Called by these verbs. A container that is stopped has no agent: then a VM is started that holds
//! its layers and its writable disk and runs nothing, for as long as it is asked. Its lock is held
//! meanwhile, as by a supervisor. Everything that comes back is a guest's: whoever reads a stream
//! checks what is in it.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use protocol::FIRST_STREAM_PORT;
use protocol::message::{Event, Request};
use protocol::task::{Outcome, Task, TaskId};

use super::disks;
use super::paths::{GuestFiles, Root};
use super::state::{ContainerConfig, Folder, Lock};
use super::vm::{RunningVm, VmRequest};

/// From the VM's first instruction to the agent's hello, and from there to the files being there.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// From the request to power off to the agent's goodbye: it flushes what was changed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// Streams of one access: no verb needs more than one.
const STREAMS: u32 = 1;

/// Something of a container that can't be had, in Docker's words where it has some.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// The agent of a container, to be asked.
#[derive(Debug)]
pub struct Access {
    vm: RunningVm,
    log: File,
    next_task: TaskId,
    _lock: Lock,
}

impl Access {
    /// Gets to the container's files.
    ///
    /// # Errors
    /// When it runs, or its VM can't be started.
    pub fn open(root: &Root, folder: &Folder, config: &ContainerConfig) -> Result<Self> {
        let Some(lock) = folder.try_lock()? else {
            bail!(
                "container {} is running: its files can be had when it has stopped",
                config.name
            );
        };
        lock.sign()?;
        let launch = &config.launch;
        let mut log = folder.open_log()?;
        let (layers, disks) = disks::of_container(root, folder, launch)?;
        let mut run = launch.run.clone();
        run.layers = layers;
        run.upper_disk = true;
        let request = VmRequest {
            vcpu_count: launch.vcpu_count,
            memory_mib: launch.memory_mib,
            host_cpus: launch.host_cpus.clone(),
            disks,
            stream_ports: (FIRST_STREAM_PORT..FIRST_STREAM_PORT + STREAMS).collect(),
            log: log.try_clone().context("share the VM's log")?,
        };
        let mut vm = RunningVm::spawn(root, &GuestFiles::find()?, request)?;
        match until_held(&mut vm, Request::Hold(Box::new(run))) {
            Ok(()) => Ok(Self {
                vm,
                log,
                next_task: 1,
                _lock: lock,
            }),
            Err(error) if error.is::<Refused>() => Err(error),
            Err(error) => Err(vm.post_mortem(&error, &mut log)),
        }
    }

    /// A stream for a task, and the port by which the task names it.
    ///
    /// # Errors
    /// When all are used.
    pub fn stream(&mut self) -> Result<(u32, UnixStream)> {
        self.vm
            .streams
            .pop_first()
            .context("no stream is left for the agent")
    }

    /// Asks for something; [`Self::end`] waits until it is done.
    ///
    /// # Errors
    /// When the VM is gone.
    pub fn begin(&mut self, task: Task) -> Result<Asked> {
        let id = self.next_task;
        self.next_task += 1;
        let task = Box::new(task);
        self.vm.agent.send(&Request::Task { id, task })?;
        Ok(Asked(id))
    }

    /// Waits for the end of a task.
    ///
    /// # Errors
    /// [`Refused`] with what the agent says; anything else when the VM died.
    pub fn end(&mut self, asked: Asked) -> Result<Outcome> {
        match self.vm.agent.next(None) {
            Ok(Event::TaskEnded { id, outcome }) if id == asked.0 => match outcome {
                Outcome::Failed { message, .. } => Err(Refused(super::printable(&message)).into()),
                outcome => Ok(outcome),
            },
            Ok(other) => bail!("the agent broke the protocol: unexpected {other:?}"),
            Err(error) => {
                let log = super::log_tail(&mut self.log);
                Err(anyhow::Error::from(error).context(format!("the VM failed{log}")))
            }
        }
    }

    /// Asks for something that needs no stream.
    ///
    /// # Errors
    /// As [`Self::end`].
    pub fn ask(&mut self, task: Task) -> Result<Outcome> {
        let asked = self.begin(task)?;
        self.end(asked)
    }

    /// Gives the container back, its disk clean.
    ///
    /// # Errors
    /// When the VM does not end in good order: what was changed may be lost.
    pub fn close(mut self) -> Result<()> {
        self.vm.agent.send(&Request::Shutdown)?;
        let deadline = Some(Instant::now() + SHUTDOWN_TIMEOUT);
        loop {
            match self.vm.agent.next(deadline)? {
                Event::Bye => break,
                Event::TaskEnded { .. } => {}
                other => bail!("the agent broke the protocol: unexpected {other:?}"),
            }
        }
        self.vm.finish_soon().map(drop)
    }
}

/// A task that was asked for.
#[derive(Debug)]
pub struct Asked(TaskId);

fn until_held(vm: &mut RunningVm, hold: Request) -> Result<()> {
    let mut hold = Some(hold);
    loop {
        match vm.agent.next(Some(Instant::now() + BOOT_TIMEOUT))? {
            Event::Hello { version, .. } => {
                super::check_version(version)?;
                vm.agent.send(&super::wake()?)?;
                if let Some(hold) = hold.take() {
                    vm.agent.send(&hold)?;
                }
            }
            Event::Held => return Ok(()),
            Event::Failed { message, .. } => {
                return Err(Refused(super::printable(&message)).into());
            }
            other => bail!("the agent broke the protocol: unexpected {other:?}"),
        }
    }
}
