//! A builder VM: the files of one stage, in which steps run one after the other.
//!
//! Called by [`super::stage`]. It boots with the layers that the stage begins with, and a writable disk
//! that goes with it. Everything that comes back is a guest's.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use images::{Layer, LayerKey, Store};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use protocol::message::{Event, ExitStatus, Request};
use protocol::spec::RunSpec;
use protocol::task::{Gather, Outcome, Place, Task, TaskId};

use super::super::control_group::{ControlGroup, Limits};
use super::super::disks;
use super::super::files::Share;
use super::super::launch::Launch;
use super::super::launcher::Launcher;
use super::super::network::Network;
use super::super::paths::{GuestFiles, Root};
use super::super::room::Claim;
use super::super::vm::{self, RunningVm, VmRequest, stream_pair};

/// From the VM's first instruction to the agent's hello, and from there to the files being there.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// From a process's end to the last of its output, which is on its way by then.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two looks at whether the build was given up.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Bytes of output handed on at once.
const OUTPUT_LEN: usize = 16 << 10;

/// A stage's step can't go on: another one failed.
#[derive(Debug, thiserror::Error)]
#[error("the build was given up")]
pub struct GivenUp;

/// What the agent says it can't do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// What a builder VM is made from.
pub struct Machine<'a> {
    /// The state root.
    pub root: &'a Root,
    /// Kernel and agent.
    pub guest: &'a GuestFiles,
    /// Its size, its network, and what every process in it has.
    pub launch: &'a Launch,
    /// Has each VM counted.
    pub admit: super::Admit<'a>,
    /// Set when the build is given up.
    pub given_up: &'a AtomicBool,
}

/// The VM.
#[derive(Debug)]
pub struct Builder<'a> {
    vm: RunningVm,
    network: Option<Network>,
    log: File,
    next_task: TaskId,
    next_port: u32,
    next_scratch: u32,
    given_up: &'a AtomicBool,
    /// Until the VM has ended.
    _claim: Option<Claim>,
}

impl<'a> Builder<'a> {
    /// Starts a VM on layers whose disks are there. One that only lends its files has no network.
    ///
    /// # Errors
    /// When it is not admitted, can't be started, or its files can't be stacked.
    pub fn start(
        machine: &Machine<'a>,
        layers: &[LayerKey],
        shares: Vec<Share>,
        runs: bool,
    ) -> Result<Self> {
        let launch = machine.launch;
        let claim = (machine.admit)()?;
        let (layers, disks) = disks::for_a_while(machine.root, layers, launch.writable_bytes)?;
        let network = launch.network.as_ref().filter(|_| runs);
        let cpu = (&launch.run.resources).into();
        let limits = vm::limits(machine.root, launch.vcpu_count, launch.memory_mib, cpu);
        let group = ControlGroup::make(Limits {
            network: network.is_some(),
            shares: !shares.is_empty(),
            ..limits
        })?;
        let mut network = network
            .map(|config| Network::start(&Launcher::Here, machine.root, config, group.clone()))
            .transpose()?;
        let mut run = launch.run.clone();
        run.layers = layers;
        run.upper_disk = true;
        run.network = network.as_ref().map(|network| network.spec.clone());
        let log = tempfile::tempfile().context("create the builder's log")?;
        let request = VmRequest {
            vcpu_count: launch.vcpu_count,
            memory_mib: launch.memory_mib,
            group,
            host_cpus: launch.host_cpus.clone(),
            disks,
            card: network.as_mut().map(Network::card).transpose()?,
            shares,
            stream_ports: Vec::new(),
            log: log.try_clone().context("share the builder's log")?,
        };
        let mut builder = Self {
            vm: RunningVm::spawn(&Launcher::Here, machine.root, machine.guest, request)?,
            network,
            log,
            next_task: 0,
            next_port: protocol::FIRST_STREAM_PORT,
            next_scratch: 0,
            given_up: machine.given_up,
            _claim: claim,
        };
        match builder.begin(run) {
            Ok(()) => Ok(builder),
            Err(error) if error.is::<Refused>() || error.is::<GivenUp>() => Err(error),
            Err(error) => Err(builder.vm.post_mortem(&error, &mut builder.log)),
        }
    }

    fn begin(&mut self, run: RunSpec) -> Result<()> {
        let mut build = Some(Request::Build(Box::new(run)));
        loop {
            match self.next(Some(Instant::now() + BOOT_TIMEOUT))? {
                Event::Hello { version, .. } if build.is_some() => {
                    super::super::check_version(version)?;
                    self.vm.agent.send(&super::super::wake()?)?;
                    if let Some(build) = build.take() {
                        self.vm.agent.send(&build)?;
                    }
                }
                Event::Held if build.is_none() => return Ok(()),
                Event::Failed { message, .. } => {
                    return Err(Refused(super::super::printable(&message)).into());
                }
                other => bail!(super::super::unexpected(&other)),
            }
        }
    }

    fn wake(&mut self) -> Result<()> {
        let network = self.network.as_mut();
        network.map_or(Ok(()), |network| network.wake(&Launcher::Here))
    }

    /// The agent's next event. Meanwhile its network is started when it is needed.
    fn next(&mut self, deadline: Option<Instant>) -> Result<Event> {
        loop {
            if self.given_up.load(Ordering::Relaxed) {
                return Err(GivenUp.into());
            }
            if let Some(event) = self.vm.agent.poll().map_err(|error| self.explain(&error))? {
                return Ok(event);
            }
            if deadline.is_some_and(|at| Instant::now() >= at) {
                bail!("the agent did not answer in time");
            }
            if let Err(error) = self.wake() {
                bail!("the step has no network: {error:#}");
            }
            let first_frame = self.network.iter().filter_map(Network::first_frame);
            let mut fds: Vec<PollFd> = first_frame
                .chain([self.vm.agent.fd()])
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            let look = Some(Instant::now() + LOOK);
            match nix::poll::poll(&mut fds, super::super::poll::timeout_until(look)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("wait for the builder"),
            }
        }
    }

    /// A VM that died is told with its last lines.
    fn explain(&self, error: &super::super::agent::AgentError) -> anyhow::Error {
        let tail = self.log.try_clone();
        let tail = tail.map(|mut log| super::super::log_tail(&mut log));
        anyhow::anyhow!("{error}{}", tail.unwrap_or_default())
    }

    /// A number for [`protocol::task::PlaceTarget::Scratch`].
    pub fn scratch(&mut self) -> u32 {
        self.next_scratch += 1;
        self.next_scratch
    }

    fn port(&mut self, theirs: &UnixStream) -> Result<u32> {
        let port = self.next_port;
        self.next_port += 1;
        self.vm.offer_end(port, theirs.as_fd())?;
        Ok(port)
    }

    fn request(&mut self, task: Task, stream: Option<&UnixStream>) -> Result<()> {
        let id = self.next_task;
        self.next_task += 1;
        let port = stream.map(|stream| self.port(stream)).transpose()?;
        let task = Box::new(task);
        Ok(self.vm.agent.send(&Request::Task { id, task, port })?)
    }

    fn end(&mut self) -> Result<Outcome> {
        match self.next(None)? {
            // One is under way at a time, the last.
            Event::TaskEnded { id, outcome } if id.checked_add(1) == Some(self.next_task) => {
                match outcome {
                    Outcome::Failed { message, .. } => {
                        Err(Refused(super::super::printable(&message)).into())
                    }
                    outcome => Ok(outcome),
                }
            }
            Event::Failed { message, .. } => Err(Refused(super::super::printable(&message)).into()),
            other => bail!(super::super::unexpected(&other)),
        }
    }

    /// Does a task that takes no stream.
    ///
    /// # Errors
    /// [`Refused`] with what the agent says.
    pub fn ask(&mut self, task: Task) -> Result<Outcome> {
        self.request(task, None)?;
        self.end()
    }

    /// Puts an archive that `write` writes where `place` says.
    ///
    /// # Errors
    /// [`Refused`] with what the agent says, else what writing says.
    pub fn place(
        &mut self,
        place: Place,
        write: &mut dyn FnMut(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let (ours, theirs) = stream_pair()?;
        self.request(Task::Place(place), Some(&theirs))?;
        drop(theirs);
        let mut to = std::io::BufWriter::with_capacity(OUTPUT_LEN, &ours);
        let written = write(&mut to).and_then(|()| Ok(to.flush()?));
        drop(to);
        drop(ours);
        match self.end() {
            // What it says of an archive that was cut off is not the reason.
            Ok(_) => written.map_err(|error| match has_gone_away(&error) {
                true => {
                    anyhow::anyhow!("the agent took only a part of it, and says that this was all")
                }
                false => error,
            }),
            Err(refused) if refused.is::<Refused>() => Err(match written {
                Err(error) if !has_gone_away(&error) => error,
                _ => refused,
            }),
            Err(error) => Err(error),
        }
    }

    /// Puts what `gather` names in another VM where `place` says.
    ///
    /// # Errors
    /// [`Refused`] with what either agent says.
    pub fn copy_from(
        &mut self,
        from: &mut Builder<'_>,
        gather: Gather,
        place: Place,
    ) -> Result<()> {
        let (mut source, theirs) = stream_pair()?;
        from.request(Task::Gather(gather), Some(&theirs))?;
        drop(theirs);
        let mut was_cut = false;
        let placed = self.place(place, &mut |to| {
            std::io::copy(&mut source, to).inspect_err(|_| was_cut = true)?;
            Ok(())
        });
        drop(source);
        // What goes wrong there is why there is nothing to put here, unless it went wrong because nobody
        // here took it.
        match from.end() {
            Err(refused) if placed.is_ok() || refused.is::<Refused>() && !was_cut => Err(refused),
            _ => placed,
        }
    }

    /// Runs a process to its end; what it prints goes to `output` as it comes.
    ///
    /// # Errors
    /// [`Refused`] when it could not be executed.
    pub fn run(&mut self, mut run: RunSpec, output: &(dyn Fn(&[u8]) + Sync)) -> Result<ExitStatus> {
        let (stdout, their_stdout) = stream_pair()?;
        let (stderr, their_stderr) = stream_pair()?;
        run.process.stdio.stdout = Some(self.port(&their_stdout)?);
        run.process.stdio.stderr = Some(self.port(&their_stderr)?);
        drop((their_stdout, their_stderr));
        self.vm.agent.send(&Request::Run(Box::new(run)))?;
        thread::scope(|scope| {
            let streams = [&stdout, &stderr];
            let readers = streams.map(|stream| {
                thread::Builder::new().spawn_scoped(scope, move || forward(stream, output))
            });
            let end = match readers.iter().find_map(|reader| reader.as_ref().err()) {
                Some(error) => Err(anyhow::anyhow!(
                    "start a thread for a step's output: {error}"
                )),
                None => self.until_exit(),
            };
            let deadline = Instant::now() + DRAIN_TIMEOUT;
            while end.is_ok()
                && readers.iter().flatten().any(|reader| !reader.is_finished())
                && Instant::now() < deadline
            {
                thread::sleep(Duration::from_millis(1));
            }
            for stream in streams {
                // Ends a reader that still waits; fails only when it is at its end already.
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            end
        })
    }

    fn until_exit(&mut self) -> Result<ExitStatus> {
        loop {
            match self.next(None)? {
                Event::Started { .. } => {}
                Event::Exited { status, .. } => return Ok(status),
                Event::Failed { message, .. } => {
                    return Err(Refused(super::super::printable(&message)).into());
                }
                other => bail!(super::super::unexpected(&other)),
            }
        }
    }

    /// Takes what the last step changed into the store, and begins a new layer. `None` when it changed
    /// nothing.
    ///
    /// # Errors
    /// [`Refused`] with what the agent says; a disk that is full.
    pub fn take_layer(
        &mut self,
        store: &Store,
        lease: &images::store::Lease,
        latest: Option<i64>,
    ) -> Result<Option<Layer>> {
        let (ours, theirs) = stream_pair()?;
        self.request(Task::Layer { latest }, Some(&theirs))?;
        drop(theirs);
        let mut whole = Whole {
            stream: ours,
            builder: self,
            failed: None,
        };
        let taken = store.take_layer(lease, &mut whole);
        if let Some(failed) = whole.failed.take() {
            return Err(failed);
        }
        let Some(layer) = taken? else {
            return Ok(None);
        };
        self.vm.agent.send(&Request::Seal)?;
        match self.next(None)? {
            Event::Sealed(None) => Ok(Some(layer)),
            Event::Sealed(Some(message)) => Err(Refused(super::super::printable(&message)).into()),
            other => bail!(super::super::unexpected(&other)),
        }
    }
}

/// A layer's bytes, which end well only when the agent says that it sent all of them.
struct Whole<'a, 'b> {
    stream: UnixStream,
    builder: &'a mut Builder<'b>,
    /// Why it is not whole; what a reader may say of it is less.
    failed: Option<anyhow::Error>,
}

impl Read for Whole<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.stream.read(buffer)?;
        if len == 0
            && !buffer.is_empty()
            && let Err(error) = self.builder.end()
        {
            self.failed = Some(error);
            return Err(std::io::Error::other("the layer is not whole"));
        }
        Ok(len)
    }
}

fn forward(mut stream: &UnixStream, output: &(dyn Fn(&[u8]) + Sync)) {
    let mut buffer = [0; OUTPUT_LEN];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => output(buffer.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Whether the other end of a stream was closed: it has a reason of its own.
fn has_gone_away(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(super::super::has_gone_away)
    })
}
