//! The hidden verb `__supervisor`: owns one container from a start to its end, restarts included.
//!
//! Started by [`super::start`] for a folder that exists, with layers that are ready. It outlives
//! the command that started it, holds the folder's lock, which the command took, as long as it
//! lives, and writes the state. Commands reach it by the folder's socket ([`clients`]).
//!
//! ```text
//! lock, socket ─► a life of the VM (life.rs) ─► ended ─┬─► restart policy: wait, live again
//!                                                      └─► state kept, or folder removed ─► told
//! ```
#![allow(unsafe_code)] // takes ownership of inherited descriptors by number

mod clients;
mod confinement;
mod freezing;
mod guest_clock;
mod journal;
mod life;
mod mounts;
mod probes;
mod tasks;
mod update;

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use protocol::message::{Event, Request};
use serde::{Deserialize, Serialize};

use super::agent::AgentError;
use super::client::{self, Listener};
use super::clock::monotonic_ns;
use super::control_group::ControlGroup;
use super::enclosure::Enclosure;
use super::events;
use super::launcher::Launcher;
use super::network::Network;
use super::paths::Root;
use super::plain::Prepared;
use super::restart::Backoff;
use super::state::{ContainerConfig, ContainerState, Folder, Lock, Phases, Status};
use super::stop::{Due, Stop};
use super::streams::CommandStreams;
use super::wire::{ENDED, StopRequest, ToCommand, ToSupervisor};
use clients::{ClientId, Clients, Role};
use life::Running;
use probes::Monitor;

/// Name of the hidden verb.
pub const SUPERVISOR_VERB: &str = "__supervisor";

/// From a connection to its first message, which comes at once.
const LATE_TIME: Duration = Duration::from_secs(1);

/// What the command tells the supervisor when it starts it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SupervisorConfig {
    /// The state root.
    pub root: PathBuf,
    /// The container's folder.
    pub folder: PathBuf,
    /// Its lock, held.
    pub lock: RawFd,
    /// Connection to the command, with its first message in it.
    pub command: RawFd,
    /// When the command began and when the disks were ready.
    pub phases: Phases,
}

/// Bytes of a configuration: two paths of PATH_MAX, each byte of which JSON may write as six.
const CONFIG_BYTES_MAX: u64 = 64 << 10;

/// Runs the supervisor whose configuration, in JSON, the descriptor `config` gives.
///
/// # Errors
/// When its configuration is unusable; everything later goes to the command and into the state.
pub fn main(config: RawFd) -> Result<()> {
    let mut text = Vec::new();
    File::from(take(config)?)
        .take(CONFIG_BYTES_MAX)
        .read_to_end(&mut text)
        .context("read the supervisor's configuration")?;
    let config: SupervisorConfig =
        serde_json::from_slice(&text).context("parse the supervisor's configuration")?;
    // A session of its own: a Ctrl-C at the command's terminal is the command's to forward.
    nix::unistd::setsid().context("leave the command's session")?;
    raise_descriptor_limit();
    let lock = Lock::inherited(take(config.lock)?.into());
    let command = UnixStream::from(take(config.command)?);
    let told = command.try_clone().context("share a socket")?;
    let folder = Folder::at(config.folder);
    let supervisor = lock
        .sign()
        .and_then(|()| Supervisor::new(Root::at(config.root), folder, config.phases, command));
    match supervisor {
        Ok(supervisor) => supervisor.supervise(lock),
        Err(error) => super::wire::Link::new(told).send(&failed(&error), &[]),
    }
}

/// Each command and each process that one starts is some descriptors here and in the VMM, which
/// inherits the limit. What may not be raised stays.
fn raise_descriptor_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Takes over a descriptor that the command passed, for this process and not for those it starts.
fn take(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: the command passed it for this use only, and named it once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("take over a descriptor")?;
    Ok(fd)
}

/// What a command is told of an error of ours.
fn failed(error: &anyhow::Error) -> ToCommand {
    ToCommand::Failed {
        code: 125,
        message: format!("{error:#}"),
    }
}

/// What a command is told that asked for something too late.
fn has_ended() -> ToCommand {
    ToCommand::Refused(ENDED.to_owned())
}

struct Supervisor {
    root: Root,
    folder: Folder,
    config: ContainerConfig,
    state: ContainerState,
    phases: Phases,
    /// Starts what runs beside it.
    launcher: Launcher,
    /// What a plain container's lives have in common, from the first on.
    plain: Option<Prepared>,
    clients: Clients,
    stop: Stop,
    /// The VM, while there is one.
    running: Option<Running>,
    /// The control group of all VMs that it has, one after the other.
    group: Option<ControlGroup>,
    /// What connects it; its ports are free when it is gone.
    network: Option<Network>,
    /// Its health checks, if it has any.
    monitor: Option<Monitor>,
    /// Commands that are to be attached when there is a VM.
    attaching: Vec<(ClientId, CommandStreams)>,
    /// Changes that the agent has not answered yet.
    updates: update::Updates,
    /// The command that holds it still: it goes on when that command is gone.
    holder: Option<ClientId>,
    /// Whether somebody wanted it to end, so that no policy starts it again.
    by_hand: bool,
    /// Whether it is to be started again at once.
    again: bool,
    /// A VM that was killed; dropping it waits for its process.
    dying: Option<Enclosure>,
}

impl Supervisor {
    fn new(root: Root, folder: Folder, phases: Phases, command: UnixStream) -> Result<Self> {
        let config = folder.config()?;
        let mut state = folder.state()?;
        if state.status.is_alive() {
            // The last supervisor was killed, and nobody has looked since.
            state = state.killed();
            // A disk that is full is no reason to leave a container down.
            let _ = folder.set_state(&state);
        }
        let (mut clients, first) = Clients::new(Listener::bind(&folder)?, command);
        let message = clients.first_message(first)?;
        let mut supervisor = Self {
            root,
            folder,
            config,
            state,
            phases,
            launcher: Launcher::Here,
            plain: None,
            clients,
            stop: Stop::new()?,
            running: None,
            group: None,
            network: None,
            monitor: None,
            attaching: Vec::new(),
            updates: update::Updates::new(),
            holder: None,
            by_hand: false,
            again: false,
            dying: None,
        };
        if let Some(message) = message {
            supervisor.handle(first, message);
        }
        Ok(supervisor)
    }

    fn auto_remove(&self) -> bool {
        self.config.launch.auto_remove
    }

    /// Runs the container to its end, leaves its state or nothing, and tells the commands.
    fn supervise(mut self, lock: Lock) -> Result<()> {
        let mut backoff = Backoff::new();
        self.state.restart_count = 0;
        let (mut message, is_noted) = loop {
            let phases = std::mem::take(&mut self.phases);
            self.state.begin(phases);
            let message = self.live().unwrap_or_else(|error| failed(&error));
            self.running = None;
            self.refuse_updates();
            self.end_tasks();
            self.holder = None;
            if let Some(network) = self.network.take() {
                network.end(&self.launcher);
            }
            self.let_go_of_the_group();
            self.monitor = None;
            self.stop.reset();
            let Some(delay) = self.delay(&message, &mut backoff) else {
                break (message, false);
            };
            self.note_end(&message);
            self.state.status = Status::Restarting;
            // A disk that is full is no reason to leave a container down.
            let _ = self.folder.set_state(&self.state);
            self.tell_the_end_of_a_life(&message);
            if !self.pause(delay, &mut backoff)? {
                break (message, true);
            }
            // Whoever wanted the last life to end has got it.
            self.by_hand = false;
            self.phases.command = monotonic_ns();
        };
        match is_noted {
            false => self.note_end(&message),
            // It was told when it ended; it is not started again, is all.
            true => self.state.status = Status::Exited,
        }
        let kept = if self.auto_remove() {
            let config = self.config_now();
            self.launcher
                .remove(&self.folder)
                .inspect(|()| events::of_container(&self.folder, &config, "destroy", &[]))
                .and_then(|()| {
                    let mounts = &self.config.launch.mounts;
                    self.launcher.remove_volumes(&self.root, mounts)
                })
        } else {
            self.folder.set_state(&self.state)
        };
        if let Err(error) = kept
            && let ToCommand::Exited { trouble, .. } = &mut message
        {
            // A full disk, say. The process's end is the user's to know all the same.
            *trouble = Some(format!("keep the end of the container: {error:#}"));
        }
        if !self.auto_remove() {
            let _ = client::remove(&self.folder);
        }
        // Who is told may remove the container or start it again.
        drop(lock);
        self.tell_the_end(&message);
        self.hear_the_late(&message);
        // The kernel takes its time to tear a VM down, for which nobody has to wait but this process.
        drop(self.dying);
        // That of a plain container may be another supervisor's by now.
        if self.group.is_some() {
            // It is empty, and the next start sweeps such groups.
            let _ = self.launcher.remove_group();
        }
        Ok(())
    }

    /// Between two lives nothing is in its control group.
    fn let_go_of_the_group(&self) {
        if self.plain.is_some() {
            // It goes with the next start, too.
            let _ = self.launcher.remove_group();
        }
        self.group.iter().for_each(ControlGroup::lift_rates);
    }

    /// Tells those who wait for no more than that its VM has gone.
    fn tell_the_end_of_a_life(&mut self, message: &ToCommand) {
        let code = match message {
            ToCommand::Failed { code, .. } | ToCommand::Exited { code, .. } => *code,
            _ => 0,
        };
        let trouble = None;
        let clients = &mut self.clients;
        // As in Docker, also of one that is started again.
        clients.answer_those(
            |role| matches!(role, Role::Ended),
            &ToCommand::Exited { code, trouble },
        );
        clients.answer_those(|role| matches!(role, Role::Attached(_)), message);
        clients.answer_those(|role| matches!(role, Role::Stopped), &ToCommand::Done);
        clients.answer_those(|role| matches!(role, Role::Frozen), &has_ended());
    }

    /// Tells everyone who waits for the container's end.
    fn tell_the_end(&mut self, message: &ToCommand) {
        self.tell_the_end_of_a_life(message);
        let clients = &mut self.clients;
        let again = match message {
            ToCommand::Failed { message, .. } => ToCommand::Refused(message.clone()),
            _ => has_ended(),
        };
        clients.answer_those(|role| matches!(role, Role::StartedAgain), &again);
    }

    /// Answers those who connected before nobody could any more, but were not heard yet: what they want is done,
    /// or too late.
    fn hear_the_late(&mut self, message: &ToCommand) {
        let until = Instant::now() + LATE_TIME;
        self.clients.accept_all();
        while self.clients.has_unheard() && Instant::now() < until {
            let Ok(ready) = self.wait(Some(until)) else {
                return;
            };
            // Neither who comes now nor a signal makes `wait` return again and again.
            self.clients.turn_away();
            let _ = self.stop.was_terminated();
            for client in ready.into_iter().flatten() {
                for message in self.clients.read(client) {
                    self.answer_late(client, &message);
                }
            }
            self.tell_the_end(message);
        }
    }

    fn answer_late(&mut self, client: ClientId, message: &ToSupervisor) {
        match message {
            ToSupervisor::Wait => self.clients.set_role(client, Role::Ended),
            ToSupervisor::Stop(StopRequest { again: false, .. }) => {
                self.clients.set_role(client, Role::Stopped);
            }
            // Whoever wants it to run starts it.
            ToSupervisor::Stop(_) | ToSupervisor::Attach(_) => {
                self.clients.tell(client, &has_ended());
            }
            ToSupervisor::Kill(_)
            | ToSupervisor::Exec { .. }
            | ToSupervisor::Freeze(_)
            | ToSupervisor::HoldStill(_) => self.clients.tell(client, &self.not_running()),
            // What is on record is what counts.
            ToSupervisor::Update(_) => self.clients.tell(client, &ToCommand::Done),
            ToSupervisor::Task { .. } => self.clients.tell(client, &has_ended()),
            ToSupervisor::Detach | ToSupervisor::Signal(_) | ToSupervisor::Resize(_) => {}
        }
    }

    /// Notes the end of a life in the state.
    fn note_end(&mut self, message: &ToCommand) {
        let (code, error) = match message {
            ToCommand::Failed { code, message } => (*code, message.clone()),
            ToCommand::Exited { code, trouble } => (*code, trouble.clone().unwrap_or_default()),
            _ => (0, String::new()),
        };
        self.journal_end(code);
        self.state.finish(code, error);
    }

    /// How long to wait until the container is started again; `None` when it is not.
    fn delay(&mut self, message: &ToCommand, backoff: &mut Backoff) -> Option<Duration> {
        if std::mem::take(&mut self.again) {
            self.begin_anew(backoff);
            // Who killed it meanwhile cut short how long it took to end.
            self.by_hand = false;
            return Some(Duration::ZERO);
        }
        let code = match message {
            ToCommand::Exited { code, .. } => *code,
            // It never ran; what runs and loses its VM has failed.
            ToCommand::Failed { .. } if self.state.phases.started == 0 => return None,
            ToCommand::Failed { code, .. } => *code,
            _ => return None,
        };
        // It may have been changed since.
        let policy = self
            .folder
            .config()
            .map_or(self.config.launch.restart, |config| config.launch.restart);
        if self.by_hand || !policy.wants(code, self.state.restart_count) {
            return None;
        }
        self.state.restart_count += 1;
        let ran_ns = monotonic_ns().saturating_sub(self.state.phases.started);
        Some(backoff.next(Duration::from_nanos(ran_ns)))
    }

    /// A life that somebody asked for, as after a stop and a start.
    fn begin_anew(&mut self, backoff: &mut Backoff) {
        self.state.restart_count = 0;
        *backoff = Backoff::new();
    }

    /// Waits between two lives; `false` when somebody wants no other.
    fn pause(&mut self, delay: Duration, backoff: &mut Backoff) -> Result<bool> {
        let until = Instant::now() + delay;
        while Instant::now() < until && !self.by_hand && !self.again {
            self.turn(Some(until))?;
        }
        if std::mem::take(&mut self.again) {
            self.begin_anew(backoff);
            return Ok(true);
        }
        Ok(!self.by_hand)
    }

    /// Waits until something happens or `deadline`, and serves it. Returns the agent's next event.
    fn turn(&mut self, deadline: Option<Instant>) -> Result<Option<Event>> {
        let event = match &mut self.running {
            Some(running) if !running.has_left => running.vm.agent().poll()?,
            _ => None,
        };
        // An agent that talks without end keeps nobody else from being heard.
        let next = match event {
            Some(_) => Some(Instant::now()),
            None => [deadline, self.stop.deadline(), self.next_check()]
                .into_iter()
                .flatten()
                .min(),
        };
        let ready = self.wait(next)?;
        if self.stop.was_terminated()? {
            self.stop_by_hand(StopRequest::default());
        }
        match self.stop.due(Instant::now())? {
            Some(Due::Kill) => self.signal_main(libc::SIGKILL),
            Some(Due::Shutdown) => self.send(Request::Shutdown),
            None => {}
        }
        if self.asks_for_the_clock() {
            self.send(Request::Clock);
        }
        let network = self.network.as_mut();
        if let Err(error) = network.map_or(Ok(()), |network| network.wake(&self.launcher)) {
            // Into the VM's log.
            eprintln!("bulkhead: the container has no network: {error:#}");
        }
        for client in ready {
            match client {
                None => drop(self.clients.accept()),
                Some(client) => {
                    for message in self.clients.read(client) {
                        self.handle(client, message);
                    }
                }
            }
        }
        self.let_go();
        while let Some(process) = self
            .running
            .as_ref()
            .and_then(|running| running.deliveries.next())
        {
            self.delivered(process);
        }
        self.check();
        if event.is_none()
            && let Some(running) = &mut self.running
            && deadline.is_some_and(|at| Instant::now() >= at)
        {
            return match running.vm.agent().poll()? {
                None => Err(AgentError::Timeout.into()),
                event => Ok(event),
            };
        }
        Ok(event)
    }

    /// Polls everything; the connections that are ready.
    fn wait(&self, deadline: Option<Instant>) -> nix::Result<Vec<Option<ClientId>>> {
        let agent = self.running.iter().filter(|running| !running.has_left);
        let agent = agent.map(|running| running.vm.agent_fd());
        let own = [self.stop.fd()];
        let deliveries = self.running.iter().map(|running| running.deliveries.fd());
        let clocks = self.running.iter().filter_map(Running::clock_fd);
        let first_frame = self.network.iter().filter_map(Network::first_frame);
        let (clients, client_fds): (Vec<_>, Vec<_>) = self.clients.fds().unzip();
        let mut fds: Vec<PollFd> = client_fds
            .into_iter()
            .chain(own)
            .chain(deliveries)
            .chain(first_frame)
            .chain(clocks)
            .chain(agent)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match nix::poll::poll(&mut fds, super::poll::timeout_until(deadline)) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let ready = clients.into_iter().zip(&fds);
        let ready = ready.filter(|(_, fd)| fd.any().unwrap_or(false));
        Ok(ready.map(|(client, _)| client).collect())
    }

    /// What a command asks for.
    fn handle(&mut self, client: ClientId, message: ToSupervisor) {
        let answer = match message {
            ToSupervisor::Attach(set) => match self.clients.take(client, set) {
                Ok(streams) => {
                    self.attach(client, streams.into());
                    None
                }
                Err(error) => Some(failed(&error)),
            },
            ToSupervisor::Exec { spec, streams } => {
                let taken = self.clients.take(client, streams);
                self.exec(client, *spec, taken)
            }
            ToSupervisor::Detach => {
                if let Role::Attached(Some(attached)) = self.clients.role(client) {
                    attached.detach();
                    self.journal("detach", &[]);
                }
                None
            }
            ToSupervisor::Signal(signal) => {
                match self.process_of(client) {
                    // As if by `kill`, which is what Docker's command calls then.
                    Some(life::MAIN) => {
                        self.by_hand |= self.is_to_end(signal);
                        self.signal_main(signal);
                    }
                    Some(process) => self.send(Request::Signal { process, signal }),
                    None => {}
                }
                None
            }
            ToSupervisor::Resize(size) => {
                if let Some(process) = self.process_of(client) {
                    self.send(Request::Resize { process, size });
                }
                None
            }
            ToSupervisor::Kill(signal) => self.kill(client, signal),
            ToSupervisor::Stop(request) => {
                let role = match request.again {
                    true => Role::StartedAgain,
                    false => Role::Stopped,
                };
                self.clients.set_role(client, role);
                self.stop_by_hand(request);
                None
            }
            ToSupervisor::Freeze(frozen) => self.freeze(client, frozen),
            ToSupervisor::HoldStill(frozen) => self.hold_still(client, frozen),
            ToSupervisor::Update(limits) => self.update(client, *limits),
            ToSupervisor::Task { task, stream } => {
                let stream = stream.then(|| self.clients.take_one(client)).transpose();
                self.task(client, task, stream)
            }
            ToSupervisor::Wait => {
                self.clients.set_role(client, Role::Ended);
                None
            }
        };
        if let Some(answer) = answer {
            self.clients.tell(client, &answer);
        }
    }

    /// The process that a command is attached to.
    fn process_of(&self, client: ClientId) -> Option<u32> {
        match self.clients.role(client) {
            Role::Attached(_) => Some(life::MAIN),
            Role::Exec(process) => Some(*process),
            _ => None,
        }
    }

    fn stop_by_hand(&mut self, request: StopRequest) {
        self.by_hand = !request.again;
        self.again = request.again;
        let launch = &self.config.launch;
        let signal = request.signal.unwrap_or(launch.stop_signal);
        let timeout_s = request.timeout_s.unwrap_or(launch.stop_timeout_s);
        if self.running.is_none() {
            return;
        }
        if let Some(signal) = self.stop.ask(Instant::now(), signal, timeout_s) {
            self.signal_main(signal);
        }
    }

    fn kill(&mut self, client: ClientId, signal: i32) -> Option<ToCommand> {
        if signal == libc::SIGKILL {
            self.by_hand = true;
            self.clients.set_role(client, Role::Stopped);
            if self.running.is_some() {
                self.stop.kill(Instant::now());
                self.signal_main(signal);
            }
            return None;
        }
        let ends = self.is_to_end(signal);
        if self.running.is_none() {
            if self.state.status != Status::Restarting || !ends {
                return Some(self.not_running());
            }
            // There is none to signal, and none is to come.
            self.by_hand = true;
            return Some(ToCommand::Done);
        }
        self.by_hand |= ends;
        self.signal_main(signal);
        Some(ToCommand::Done)
    }

    /// Whether who sends a signal wants the container to end, so that no policy starts it again: it is
    /// the one that stops it, or an interrupt where the image and the user chose none. (Docker takes
    /// any signal then, also one to reload by.)
    fn is_to_end(&self, signal: i32) -> bool {
        let stop = self.config.launch.stop_signal;
        signal == libc::SIGKILL
            || signal == stop
            || (signal == libc::SIGINT && stop == libc::SIGTERM)
    }

    /// Signals the container's process, which is thawed when the signal is to end it.
    fn signal_main(&mut self, signal: i32) {
        self.journal_kill(signal);
        self.send(Request::Signal {
            process: life::MAIN,
            signal,
        });
        let ends = self.is_to_end(signal) || self.stop.is_asked();
        if self.state.status == Status::Paused && ends {
            self.send(Request::Freeze(false));
        }
    }

    fn not_running(&self) -> ToCommand {
        not_running(&self.config.id)
    }
}

/// What a command is told that asked for something of a container whose process has ended.
fn not_running(id: &str) -> ToCommand {
    ToCommand::Refused(format!("container {id} is not running"))
}
