//! The hidden verb `supervisor`: owns one container from the start of its VM to its end.
//!
//! Started by [`super::start`] for a folder that exists, with layers that are ready. It outlives
//! the command that started it, holds the folder's lock, which the command took when it made the
//! folder, as long as it lives, and writes the state.
//!
//! ```text
//! open disks ─► spawn VM ─► Hello ─► Wake, Run ─► Started ─► Exited ─► Shutdown ─► Bye ─► gone ─► told
//!                  │          │         └ Failed ─► 125, 126, 127
//!                  └──────────┴ no word in time, VM gone: 125 with the console's last lines
//! with --rm:                                        Exited ─► kill, folder removed ─► told ─► gone
//! ```
#![allow(unsafe_code)] // takes ownership of inherited descriptors by number

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use protocol::frame::{Decoder, encode};
use protocol::message::{Event, ExitStatus, FailureKind, Request};
use protocol::spec::{CopyUp, LayerExtent, RunSpec};
use serde::{Deserialize, Serialize};

use super::agent::AgentError;
use super::attach_wire::{ToCommand, ToSupervisor};
use super::clock::{monotonic_ns, now};
use super::files::Share;
use super::launch::Launch;
use super::paths::{GuestFiles, Root};
use super::pumps::{CommandStdio, Pumps, STDERR_PORT, STDIN_PORT, STDOUT_PORT};
use super::state::{ContainerState, Folder, Lock, Phases, Status};
use super::stop::Stop;
use super::vm::{DISK_ALIGNMENT, DiskSource, RunningVm, Segment, VmRequest};
use super::vmm_process::VmReport;
use super::volumes::{self, Fill, Filling, Mount};

/// Name of the hidden verb.
pub const SUPERVISOR_VERB: &str = "__supervisor";

/// From the VM's first instruction to the agent's hello. A boot takes a tenth of a second on
/// hardware and a second in an emulated host; a guest that halts for ever ends here.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// From hello to the execution of the process: mounts and a look-up of its user.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// As much longer when a volume takes the image's content: hours of a slow disk are no start.
const FILL_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// From the request to power off to the agent's goodbye: it flushes what the container wrote.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// What the command tells the supervisor when it starts it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SupervisorConfig {
    /// The state root.
    pub root: PathBuf,
    /// The container's folder.
    pub folder: PathBuf,
    /// Its lock, held.
    pub lock: RawFd,
    /// Socket to the command.
    pub attach: RawFd,
    /// Pipe of the command's stdin, if attached.
    pub stdin: Option<RawFd>,
    /// Pipe to the command's stdout, if attached.
    pub stdout: Option<RawFd>,
    /// Pipe to the command's stderr, if attached.
    pub stderr: Option<RawFd>,
    /// When the command began and when the disks were ready.
    pub phases: Phases,
}

/// Runs the supervisor that `config`, a JSON argument, describes.
///
/// # Errors
/// When its configuration is unusable; everything later goes to the command and into the state.
pub fn main(config: &str) -> Result<()> {
    let config: SupervisorConfig =
        serde_json::from_str(config).context("parse the supervisor's configuration")?;
    // A session of its own: a Ctrl-C at the command's terminal is the command's to forward.
    nix::unistd::setsid().context("leave the command's session")?;
    let take_file = |fd: Option<RawFd>| fd.map(take).transpose().map(|fd| fd.map(File::from));
    let lock = Lock::inherited(take(config.lock)?.into());
    let mut command = CommandLink {
        stream: Some(take(config.attach)?.into()),
        decoder: Decoder::new(),
    };
    let stdio = CommandStdio {
        stdin: take_file(config.stdin)?,
        stdout: take_file(config.stdout)?,
        stderr: take_file(config.stderr)?,
    };
    let folder = Folder::at(config.folder);
    let told = lock.sign().and_then(|()| {
        supervise(
            &Root::at(config.root),
            &folder,
            lock,
            config.phases,
            &mut command,
            stdio,
        )
    });
    if let Err(error) = told {
        command.tell(&failed(&error));
    }
    Ok(())
}

/// Takes over a descriptor that the command passed, for this process and not for those it starts.
fn take(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: the command passed it for this use only, and named it once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("take over a descriptor")?;
    Ok(fd)
}

/// What the command is told of an error of ours.
fn failed(error: &anyhow::Error) -> ToCommand {
    ToCommand::Failed {
        code: 125,
        message: format!("{error:#}"),
    }
}

/// The connection to the command, which may go away at any time.
struct CommandLink {
    stream: Option<UnixStream>,
    decoder: Decoder,
}

impl CommandLink {
    fn tell(&mut self, message: &ToCommand) {
        if let (Some(stream), Ok(bytes)) = (&mut self.stream, encode(message)) {
            // A command that is gone has nothing to be told.
            let _ = stream.write_all(&bytes);
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(AsFd::as_fd)
    }

    /// Reads what the command says; its end, or nonsense, means that nobody is attached.
    fn read(&mut self) -> Vec<ToSupervisor> {
        let Some(stream) = &mut self.stream else {
            return Vec::new();
        };
        let mut buffer = [0; 4096];
        let mut all = Vec::new();
        match stream.read(&mut buffer) {
            Ok(len) if len > 0 => self.decoder.push(buffer.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => self.stream = None,
        }
        loop {
            match self.decoder.decode() {
                Ok(Some(message)) => all.push(message),
                Ok(None) => return all,
                Err(_) => {
                    self.stream = None;
                    return all;
                }
            }
        }
    }
}

/// Runs the container to its end, leaves its state or nothing, and tells the command.
fn supervise(
    root: &Root,
    folder: &Folder,
    lock: Lock,
    phases: Phases,
    command: &mut CommandLink,
    stdio: CommandStdio,
) -> Result<()> {
    let config = folder.config()?;
    let launch = config.launch.clone();
    let auto_remove = launch.auto_remove;
    let mut state = ContainerState {
        phases,
        ..ContainerState::created()
    };
    let mut life = Life {
        folder,
        command,
        stop: Stop::new(launch.stop_signal, launch.stop_timeout_s)?,
        state: &mut state,
        auto_remove,
        held: None,
        dying: None,
        fillings: Vec::new(),
    };
    let result = life.run(root, launch, stdio);
    let dying = life.dying.take();
    let mut message = result.unwrap_or_else(|error| failed(&error));
    let (code, error) = match &message {
        ToCommand::Failed { code, message } => (*code, message.clone()),
        ToCommand::Exited { code, .. } => (*code, String::new()),
        ToCommand::Started => (0, String::new()),
    };
    state.finish(code, error);
    let kept = if auto_remove {
        folder
            .remove()
            .and_then(|()| volumes::remove_anonymous(root, &config))
    } else {
        folder.set_state(&state)
    };
    if let Err(error) = kept {
        // A full disk, say. The process's end is the user's to know all the same.
        match &mut message {
            ToCommand::Exited { trouble, .. } => *trouble = Some(format!("{error:#}")),
            _ => return Err(error),
        }
    }
    // Who is told may remove the container or start it again.
    drop(lock);
    command.tell(&message);
    // The kernel takes its time to tear a VM down, for which nobody has to wait but this process.
    drop(dying);
    Ok(())
}

/// A container while its supervisor runs it.
struct Life<'a> {
    folder: &'a Folder,
    command: &'a mut CommandLink,
    state: &'a mut ContainerState,
    stop: Stop,
    auto_remove: bool,
    /// Requests that wait for the agent's hello.
    held: Option<Vec<Request>>,
    /// A VM that was killed; dropping it waits for its process.
    dying: Option<RunningVm>,
    /// Volumes that take the image's content.
    fillings: Vec<Filling>,
}

impl Life<'_> {
    fn run(&mut self, root: &Root, launch: Launch, stdio: CommandStdio) -> Result<ToCommand> {
        let mut log = self.folder.open_log()?;
        let mut vm = self.spawn(root, launch, &log)?;
        let pumps = Pumps::start(&mut vm, stdio)?;
        match self.until_started(&mut vm) {
            Ok(None) => {}
            Ok(Some(failed)) => {
                self.unplug(vm);
                return Ok(failed);
            }
            Err(error) => return Err(vm.post_mortem(&error, &mut log)),
        }
        let ended = match self.until_exited(&mut vm) {
            Ok(ended) => ended,
            Err(error) => return Err(vm.post_mortem(&error, &mut log)),
        };
        pumps.finish();
        self.state.phases.exited = monotonic_ns();
        self.state.oom_killed = ended.1;
        if self.auto_remove {
            self.unplug(vm);
        } else {
            let report = power_off(vm)?;
            self.note_times(&report);
        }
        Ok(ToCommand::Exited {
            code: ended.0.docker_code(),
            trouble: None,
        })
    }

    fn spawn(&mut self, root: &Root, launch: Launch, log: &File) -> Result<RunningVm> {
        let guest = GuestFiles::find()?;
        let disks = images::Store::open(&root.images())?.layer_disks()?;
        let mut run = launch.run;
        let mut segments = Vec::with_capacity(launch.layers.len());
        let mut offset = 0;
        run.layers.clear();
        for key in &launch.layers {
            let disk = disks
                .get(key)?
                .with_context(|| format!("the disk of layer {} is missing", key.diff_id))?;
            run.layers.push(LayerExtent {
                offset,
                len: disk.len,
            });
            offset += disk.len.next_multiple_of(DISK_ALIGNMENT);
            segments.push(Segment {
                file: disk.file,
                len: disk.len,
            });
        }
        run.upper_disk = true;
        let upper = self.open_upper(root, launch.writable_bytes)?;
        let stdio = &mut run.process.stdio;
        stdio.stdin = launch.open_stdin.then_some(STDIN_PORT);
        stdio.stdout = Some(STDOUT_PORT);
        stdio.stderr = run.process.terminal.is_none().then_some(STDERR_PORT);
        let stream_ports = [stdio.stdin, stdio.stdout, stdio.stderr]
            .into_iter()
            .flatten()
            .collect();
        let shares = self.prepare_mounts(&launch.mounts, &mut run)?;
        self.state.phases.vmm_spawn = monotonic_ns();
        let vm = RunningVm::spawn(
            root,
            &guest,
            VmRequest {
                vcpu_count: launch.vcpu_count,
                memory_mib: launch.memory_mib,
                host_cpus: launch.host_cpus,
                disks: vec![
                    DiskSource::ReadOnly(segments),
                    DiskSource::Writable {
                        file: upper,
                        bytes: launch.writable_bytes,
                        durable: !self.auto_remove,
                    },
                ],
                stream_ports,
                shares,
                log: log.try_clone().context("share the VM's log")?,
            },
        )?;
        self.held = Some(vec![Request::Run(Box::new(run))]);
        Ok(vm)
    }

    /// The shares of the VM; what has to be filled first is said in `run`.
    fn prepare_mounts(&mut self, mounts: &[Mount], run: &mut RunSpec) -> Result<Vec<Share>> {
        for (mount, spec) in mounts.iter().zip(&mut run.mounts) {
            let (copy_up, filling) = match Fill::begin(mount)? {
                Fill::No => (CopyUp::No, None),
                Fill::Empty(filling) => (CopyUp::IfEmpty, Some(filling)),
                Fill::Again(filling) => (CopyUp::Again, Some(filling)),
            };
            spec.copy_up = copy_up;
            self.fillings.extend(filling);
        }
        let share = |mount: &Mount| Share {
            source: mount.source.clone(),
            read_only: mount.read_only,
        };
        Ok(mounts.iter().map(share).collect())
    }

    /// The guest has come as far as its process, which is after all volumes are filled.
    fn volumes_are_filled(&mut self) -> Result<()> {
        self.fillings.drain(..).try_for_each(Filling::done)
    }

    fn open_upper(&self, root: &Root, bytes: u64) -> Result<File> {
        let path = self.folder.upper();
        match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                super::disks::create_writable(root, &path, bytes)
            }
            other => other.with_context(|| format!("open {}", path.display())),
        }
    }

    /// Waits for the process to be executed; `Some` when the guest could not.
    fn until_started(&mut self, vm: &mut RunningVm) -> Result<Option<ToCommand>> {
        let mut deadline = Instant::now() + BOOT_TIMEOUT;
        loop {
            match self.next_event(vm, Some(deadline))? {
                Event::Hello { version, .. } => {
                    super::check_version(version)?;
                    self.state.phases.agent = monotonic_ns();
                    vm.agent.send(&super::wake()?)?;
                    for request in self.held.take().unwrap_or_default() {
                        vm.agent.send(&request)?;
                    }
                    deadline = Instant::now() + START_TIMEOUT;
                    if !self.fillings.is_empty() {
                        deadline += FILL_TIMEOUT;
                    }
                }
                Event::Started { process: 0, .. } => {
                    self.volumes_are_filled()?;
                    self.state.phases.started = monotonic_ns();
                    self.state.status = Status::Running;
                    self.state.started_at = now();
                    self.state.pid = vm.pid();
                    self.folder.set_state(self.state)?;
                    self.command.tell(&ToCommand::Started);
                    return Ok(None);
                }
                Event::Failed {
                    process: 0,
                    kind,
                    message,
                } => {
                    let code = exit_code(kind);
                    if code != CODE_OURS {
                        self.volumes_are_filled()?;
                    }
                    let message = super::printable(&message);
                    return Ok(Some(ToCommand::Failed { code, message }));
                }
                other => bail!("the agent broke the protocol: unexpected {other:?}"),
            }
        }
    }

    /// Serves the container until its process ends.
    fn until_exited(&mut self, vm: &mut RunningVm) -> Result<(ExitStatus, bool)> {
        match self.next_event(vm, None)? {
            Event::Exited {
                process: 0,
                status,
                oom_killed,
            } => Ok((status, oom_killed)),
            other => bail!("the agent broke the protocol: unexpected {other:?}"),
        }
    }

    /// The agent's next event; meanwhile what the command and a stop ask for is passed on.
    fn next_event(&mut self, vm: &mut RunningVm, deadline: Option<Instant>) -> Result<Event> {
        loop {
            if let Some(event) = vm.agent.poll()? {
                return Ok(event);
            }
            while let Some(signal) = self.stop.due(Instant::now())? {
                self.pass_on(vm, Request::Signal { process: 0, signal })?;
            }
            let next = [deadline, self.stop.deadline()].into_iter().flatten().min();
            let (agent_ready, command_ready) = wait(
                vm.agent.fd(),
                self.command.fd(),
                self.stop.fd(),
                super::poll::timeout_until(next),
            )?;
            if command_ready {
                for message in self.command.read() {
                    let request = match message {
                        ToSupervisor::Signal(signal) => Request::Signal { process: 0, signal },
                        ToSupervisor::Resize(size) => Request::Resize { process: 0, size },
                    };
                    self.pass_on(vm, request)?;
                }
            }
            if !agent_ready && deadline.is_some_and(|at| Instant::now() >= at) {
                return Err(AgentError::Timeout.into());
            }
        }
    }

    fn pass_on(&mut self, vm: &mut RunningVm, request: Request) -> Result<()> {
        match &mut self.held {
            Some(held) => held.push(request),
            None => vm.agent.send(&request)?,
        }
        Ok(())
    }

    /// Ends a VM by pulling its plug. That of a container that goes anyway is not waited for yet.
    fn unplug(&mut self, mut vm: RunningVm) {
        vm.kill();
        if self.auto_remove {
            self.dying = Some(vm);
        }
    }

    fn note_times(&mut self, report: &VmReport) {
        self.state.exits = report.exits;
        let phases = &mut self.state.phases;
        phases.vmm = report.times.process;
        phases.vm_created = report.times.created;
        phases.loaded = report.times.loaded;
        phases.first_instruction = report.times.first_instruction;
    }
}

/// Ends a VM in good order, since its disk is kept.
fn power_off(mut vm: RunningVm) -> Result<VmReport> {
    // Whatever the guest does now, its process has ended and its output is read.
    if vm.agent.send(&Request::Shutdown).is_ok() {
        let deadline = Some(Instant::now() + SHUTDOWN_TIMEOUT);
        while let Ok(event) = vm.agent.next(deadline) {
            if matches!(event, Event::Bye) {
                break;
            }
        }
    }
    vm.finish_soon()
}

/// Docker's exit code for what kept the process from running and was not its own file.
const CODE_OURS: u8 = 125;

fn exit_code(kind: FailureKind) -> u8 {
    match kind {
        FailureKind::NotFound => 127,
        FailureKind::NotExecutable => 126,
        _ => CODE_OURS,
    }
}

/// Waits for any of the descriptors: `(agent, command)` readable or at its end.
fn wait(
    agent: BorrowedFd,
    command: Option<BorrowedFd>,
    stop: BorrowedFd,
    timeout: PollTimeout,
) -> nix::Result<(bool, bool)> {
    let mut fds: Vec<PollFd> = [Some(agent), Some(stop), command]
        .into_iter()
        .flatten()
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    match nix::poll::poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error),
    }
    let ready = |index: usize| fds.get(index).is_some_and(|fd| fd.any().unwrap_or(false));
    Ok((ready(0), ready(2)))
}
