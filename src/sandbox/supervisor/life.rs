//! One life of a container's VM: from its disks to the end of its process, and what is asked of it
//! meanwhile.
//!
//! ```text
//! open disks ─► spawn VM ─► Hello ─► Wake, Run ─► Started ─► Exited ─► Bye, output read ─► gone
//!                  │          │         └ Failed ─► 125, 126, 127
//!                  └──────────┴ no word in time, VM gone: 125 with the console's last lines
//! with --rm:                                        Exited ─► kill
//! ```
//! Called by [`super`], once for each life. It does not know whether there will be another.

mod processes;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use protocol::message::{Event, ExitStatus, FailureKind, ProcessId, Request};
use protocol::spec::{RunSpec, Stdio};
use protocol::task::TaskId;

use super::super::agent::AgentError;
use super::super::clock::{monotonic_ns, now};
use super::super::control_group::{ControlGroup, Limits};
use super::super::disks;
use super::super::enclosure::Enclosure;
use super::super::launch::{Isolation, Launch};
use super::super::launcher::LauncherConfig;
use super::super::logs::{self, LogWriter};
use super::super::network::Network;
use super::super::paths::GuestFiles;
use super::super::plain::{Prepared, RunningPlain};
use super::super::state::{EXIT_CODE_KILLED, Folder, Status};
use super::super::stop::Unkillable;
use super::super::stream_ports::{MAIN_PORTS, StreamPorts};
use super::super::streams::{Deliveries, Streams, VmStreams};
use super::super::vm::{self, RunningVm, VmRequest};
use super::super::vmm_process::VmReport;
use super::super::volumes::Filling;
use super::super::wire::ToCommand;
use super::clients::{ClientId, Role};
use super::guest_clock::GuestClock;
use super::{Supervisor, not_running, tasks};

/// The container's own process.
pub(super) const MAIN: ProcessId = 0;

/// From the VM's first instruction to the agent's hello. A boot takes a tenth of a second on
/// hardware and a second in an emulated host; a guest that halts for ever ends here.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// From hello to the execution of the process: mounts and a look-up of its user.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// As much longer when a volume takes the image's content.
const FILL_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// From the request to power off, or the last that was written to the disk, to the agent's goodbye: it flushes
/// what the container wrote.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// In all: a guest that writes for ever is no reason to wait.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(1800);

/// Time between two looks at the disk meanwhile.
const SHUTDOWN_LOOK: Duration = Duration::from_secs(1);

/// What is told of a container whose guest did not say goodbye.
const UNFLUSHED: &str = "its guest did not flush its disk in time: what it wrote last may be lost";

/// What a container runs in, and what runs there.
pub(super) struct Running {
    /// A VM, or the host's namespaces.
    pub(super) vm: Enclosure,
    main: Streams,
    /// Of this life's processes; those of another have the same numbers.
    pub(super) deliveries: Deliveries,
    /// Requests that wait for the agent's hello.
    held: Option<Vec<Request>>,
    /// Signals that wait for the container's process: before it executes its program it is the agent's.
    signals: Vec<Request>,
    execs: BTreeMap<ProcessId, Exec>,
    next_process: ProcessId,
    pub(super) ports: StreamPorts,
    pub(super) next_task: TaskId,
    /// How the container's process ended.
    end: Option<(ExitStatus, bool)>,
    /// Whether its output is delivered.
    delivered: bool,
    /// Whether the agent has said its last word, after that end: nobody listens to it any more.
    pub(super) has_left: bool,
    /// Requests to freeze or thaw that the agent has not answered.
    pub(super) freezes: u32,
    /// Volumes that take the image's content, until the process starts.
    fillings: Vec<Filling>,
    /// A guest's, from the start of its process on.
    clock: Option<GuestClock>,
}

impl Running {
    /// Readable when the guest's clock is to be looked at.
    pub(super) fn clock_fd(&self) -> Option<BorrowedFd<'_>> {
        self.clock.as_ref().map(GuestClock::fd)
    }

    /// Whether a process beside the container's own has not come to its end, output included.
    pub(super) fn has_exec(&self, process: ProcessId) -> bool {
        self.execs.contains_key(&process)
    }

    /// A process of which the agent may still say something: it tells the end once.
    fn unended(&mut self, process: ProcessId) -> Option<&mut Exec> {
        let exec = self.execs.get_mut(&process)?;
        exec.end.is_none().then_some(exec)
    }
}

/// Who had a process started.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    /// A command.
    Client(ClientId),
    /// The container's health check.
    Probe,
}

/// A process beside the container's own.
struct Exec {
    by: By,
    is_started: bool,
    end: Option<ToCommand>,
    delivered: bool,
}

/// Bytes of a VM's log that a further life may still add to: each adds as many again at most, and one
/// that is restarted for ever is not to fill the host's disk.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// Begins a log anew that is too long.
fn cut(log: &File) -> Result<()> {
    let about = "cut the VM's log";
    if log.metadata().context(about)?.len() > LOG_BYTES_MAX {
        log.set_len(0).context(about)?;
    }
    Ok(())
}

impl Supervisor {
    /// Runs the VM to its end; what the attached commands are told of it.
    pub(super) fn live(&mut self) -> Result<ToCommand> {
        // It may have been changed since the last life.
        self.config = self.config_now();
        let mut log = self.folder.open_log()?;
        cut(&log)?;
        if !self.spawn(&log)? {
            bail!("the container was stopped while it waited for a volume");
        }
        let served = self.serve();
        let Some(mut running) = self.running.take() else {
            bail!("the VM is gone");
        };
        self.end_processes(&running);
        match served {
            // What ends its VM ends its process, too, and no policy minds.
            Err(error) if error.is::<Unkillable>() => {
                self.unplug(running.vm);
                Ok(ToCommand::Exited {
                    code: EXIT_CODE_KILLED,
                    trouble: None,
                })
            }
            Err(error) => Err(running.vm.post_mortem(&error, &mut log)),
            Ok(Some(failed)) => {
                self.unplug(running.vm);
                Ok(failed)
            }
            Ok(None) => {
                let (status, oom_killed) = running.end.unwrap_or((ExitStatus::Code(0), false));
                self.state.phases.exited = monotonic_ns();
                self.state.oom_killed = oom_killed;
                let mut trouble = None;
                if self.auto_remove() && !self.again {
                    self.unplug(running.vm);
                } else {
                    // What is left to be written is nobody's any more whom they slow down.
                    self.group.iter().for_each(ControlGroup::lift_rates);
                    let is_whole = running.has_left || power_off(&mut running.vm, &self.folder);
                    // A plain container's files are the host's.
                    let is_lost = !is_whole && matches!(running.vm, Enclosure::Vm(_));
                    trouble = is_lost.then(|| UNFLUSHED.to_owned());
                    if let Some(report) = running.vm.finish_soon()? {
                        self.note_times(&report);
                    }
                }
                Ok(ToCommand::Exited {
                    code: status.docker_code(),
                    trouble,
                })
            }
        }
    }

    /// Starts the VM; `false` when somebody wants the container to end before there is one.
    fn spawn(&mut self, log: &File) -> Result<bool> {
        let launch = self.config.launch.clone();
        let mut run = launch.run.clone();
        let [stdin, stdout, stderr] = MAIN_PORTS;
        let ports = Stdio {
            stdin: launch.open_stdin.then_some(stdin),
            stdout: Some(stdout),
            stderr: run.process.terminal.is_none().then_some(stderr),
        };
        run.process.stdio = ports;
        let ports: Vec<u32> = [ports.stdin, ports.stdout, ports.stderr]
            .into_iter()
            .flatten()
            .collect();
        let (vm, fillings) = match launch.isolation {
            Isolation::Vm => match self.spawn_vm(&launch, &mut run, &ports, log)? {
                Some(spawned) => spawned,
                None => return Ok(false),
            },
            Isolation::Container => (self.spawn_plain(&ports, log)?, Vec::new()),
        };
        self.run_in(vm, &launch, run, fillings)?;
        Ok(true)
    }

    fn spawn_plain(&mut self, ports: &[u32], log: &File) -> Result<Enclosure> {
        self.state.phases.vmm_spawn = monotonic_ns();
        if self.plain.is_none() {
            let guest = GuestFiles::find()?;
            let plain = Prepared::new(&self.root, &guest, &self.folder, &self.config)?;
            let launched = LauncherConfig {
                agent: Some(plain.fixed.clone()),
                ..LauncherConfig::default()
            };
            self.confine(&guest, launched)?;
            self.plain = Some(plain);
        }
        let block_io = self.config.launch.block_io.controls()?;
        let plain = RunningPlain::spawn(&self.launcher, block_io, ports, log)?;
        Ok(Enclosure::Plain(plain))
    }

    /// Starts the VM, with the volumes that it fills; `None` as for [`Self::spawn`].
    fn spawn_vm(
        &mut self,
        launch: &Launch,
        run: &mut RunSpec,
        ports: &[u32],
        log: &File,
    ) -> Result<Option<(Enclosure, Vec<Filling>)>> {
        let guest = GuestFiles::find()?;
        let (layers, disks) = disks::of_container(&self.root, &self.folder, launch)?;
        run.layers = layers;
        run.upper_disk = true;
        let Some(mounts) = self.prepare_mounts(&launch.mounts, run)? else {
            return Ok(None);
        };
        let network = launch.network.as_ref();
        let cpu = (&run.resources).into();
        let limits = vm::limits(&self.root, launch.vcpu_count, launch.memory_mib, cpu);
        let group = self.group_with(Limits {
            network: network.is_some(),
            shares: !mounts.shares.is_empty(),
            block_io: launch.block_io.controls()?,
            ..limits
        })?;
        self.network = network
            .map(|config| Network::start(&self.launcher, &self.root, config, group.clone()))
            .transpose()?;
        run.network = self.network.as_ref().map(|network| network.spec.clone());
        let card = self.network.as_mut().map(Network::card).transpose()?;
        self.state.phases.vmm_spawn = monotonic_ns();
        self.state.vm_size = (launch.vcpu_count, launch.memory_mib);
        let shares = mounts.shares;
        let request = VmRequest {
            vcpu_count: launch.vcpu_count,
            memory_mib: launch.memory_mib,
            group,
            host_cpus: launch.host_cpus.clone(),
            disks,
            card,
            stream_ports: ports.to_vec(),
            shares: shares.clone(),
            log: log.try_clone().context("share the VM's log")?,
        };
        let launcher = &self.launcher;
        let start = || RunningVm::spawn(launcher, &self.root, &guest, request);
        let vm = match &mut self.network {
            Some(network) => network.beside(launcher, start),
            None => start(),
        }?;
        // From here on it hears a guest.
        let launched = LauncherConfig {
            shares,
            ..LauncherConfig::default()
        };
        self.confine(&guest, launched)?;
        Ok(Some((Enclosure::Vm(vm.into()), mounts.fillings)))
    }

    /// The control group of this life's VM, which those before had, too.
    fn group_with(&mut self, limits: Limits) -> Result<ControlGroup> {
        if let Some(group) = &self.group {
            group.renew(limits)?;
            return Ok(group.clone());
        }
        let group = ControlGroup::make(limits)?;
        Ok(self.group.insert(group).clone())
    }

    /// Joins the streams of what has been started, and has it run when its agent is there.
    fn run_in(
        &mut self,
        mut vm: Enclosure,
        launch: &Launch,
        run: RunSpec,
        fillings: Vec<Filling>,
    ) -> Result<()> {
        self.state.network = self.network.as_ref().map(|network| network.state.clone());
        self.state.control_group = vm.group();
        let own_log = logs::path(self.folder.path(), &self.config.id);
        let own_log = LogWriter::open(&own_log, &launch.log)?.map(Arc::new);
        let deliveries = Deliveries::new()?;
        let [stdin, stdout, stderr] = MAIN_PORTS;
        let main = Streams::start(
            VmStreams {
                stdin: vm.take_stream(stdin),
                stdout: vm.take_stream(stdout),
                stderr: vm.take_stream(stderr),
            },
            // As in Docker, a terminal stays when its user is gone: another may attach.
            launch.stdin_once && launch.run.process.terminal.is_none(),
            own_log.as_ref(),
            MAIN,
            &deliveries,
        )?;
        self.running = Some(Running {
            vm,
            main,
            deliveries,
            held: Some(vec![Request::Run(Box::new(run))]),
            signals: Vec::new(),
            execs: BTreeMap::new(),
            next_process: MAIN + 1,
            ports: StreamPorts::default(),
            next_task: 0,
            end: None,
            delivered: false,
            has_left: false,
            freezes: 0,
            fillings,
            clock: None,
        });
        for (client, streams) in std::mem::take(&mut self.attaching) {
            self.attach(client, streams);
        }
        Ok(())
    }

    /// Serves the container until its process has ended and its output is delivered; `Some` when it
    /// could not be started.
    fn serve(&mut self) -> Result<Option<ToCommand>> {
        let mut deadline = Some(Instant::now() + BOOT_TIMEOUT);
        loop {
            match self.turn(deadline)? {
                None => {}
                Some(Event::Hello { version, .. }) if self.waits_for_hello() => {
                    super::super::check_version(version)?;
                    self.state.phases.agent = monotonic_ns();
                    if let Some(running) = &mut self.running {
                        running.vm.agent().send(&super::super::wake()?)?;
                        // Until it is asked to run, the guest writes to none.
                        running.fillings.iter_mut().for_each(Filling::begun);
                        for request in running.held.take().unwrap_or_default() {
                            running.vm.agent().send(&request)?;
                        }
                    }
                    deadline = Some(Instant::now() + self.start_timeout());
                }
                Some(Event::Started { process: MAIN, .. })
                    if deadline.is_some() && !self.waits_for_hello() =>
                {
                    deadline = None;
                    self.volumes_are_filled()?;
                    self.note_started()?;
                }
                Some(Event::Failed {
                    process: MAIN,
                    kind,
                    message,
                }) if deadline.is_some() => {
                    if matches!(kind, FailureKind::NotFound | FailureKind::NotExecutable) {
                        self.volumes_are_filled()?;
                    }
                    return Ok(Some(failure(kind, &message)));
                }
                Some(Event::Exited {
                    process: MAIN,
                    status,
                    oom_killed,
                }) if deadline.is_none() => {
                    if let Some(running) = &mut self.running {
                        // The first word counts, whatever an agent says after it.
                        running.end.get_or_insert((status, oom_killed));
                    }
                }
                // Its process's output is in our sockets or held by the VMM, and may take longer to be
                // delivered than the guest takes to leave its disk clean.
                Some(Event::Bye) if self.has_ended() => {
                    if let Some(running) = &mut self.running {
                        running.has_left = true;
                    }
                }
                // It went as it was told, without a word of its process.
                Some(Event::Bye) if self.stop.is_at_shutdown() => return Err(Unkillable.into()),
                Some(event) if deadline.is_none() => self.note_event(event)?,
                Some(other) => bail!(super::super::unexpected(&other)),
            }
            if let Some(running) = &self.running
                && running.end.is_some()
                // Whoever wants it to end does not wait for those who don't read.
                && (running.delivered || self.stop.is_asked())
            {
                return Ok(None);
            }
        }
    }

    /// Whether the container's process has ended.
    fn has_ended(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|running| running.end.is_some())
    }

    fn start_timeout(&self) -> Duration {
        let fills = self
            .running
            .as_ref()
            .is_some_and(|r| !r.fillings.is_empty());
        START_TIMEOUT + if fills { FILL_TIMEOUT } else { Duration::ZERO }
    }

    /// The guest has come as far as its process, which is after all volumes are filled.
    fn volumes_are_filled(&mut self) -> Result<()> {
        let fillings = self
            .running
            .as_mut()
            .map(|r| std::mem::take(&mut r.fillings));
        fillings.into_iter().flatten().try_for_each(Filling::done)
    }

    /// Whether the agent has not said hello yet, which it does once.
    fn waits_for_hello(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|running| running.held.is_some())
    }

    fn note_started(&mut self) -> Result<()> {
        self.state.phases.started = monotonic_ns();
        self.state.status = Status::Running;
        self.state.exit_code = 0;
        self.state.started_at = now();
        self.state.pid = self.running.as_ref().map_or(0, |running| running.vm.pid());
        self.begin_checks();
        if let Some(running) = &mut self.running
            && matches!(running.vm, Enclosure::Vm(_))
        {
            // Without a timer it runs with the clock that it has.
            running.clock = GuestClock::new().ok();
        }
        let running = self.running.as_mut();
        let signals = running.map(|running| std::mem::take(&mut running.signals));
        signals
            .into_iter()
            .flatten()
            .for_each(|signal| self.send(signal));
        // On a full disk it runs all the same.
        let _ = self.folder.set_state(&self.state);
        self.journal_volumes("mount");
        self.journal("start", &[]);
        self.clients.tell_those(
            |role| matches!(role, Role::Attached(_)),
            &ToCommand::Started,
        );
        self.clients.answer_those(
            |role| matches!(role, Role::StartedAgain),
            &ToCommand::Started,
        );
        Ok(())
    }

    /// Whether the guest is to be asked what time it has.
    pub(super) fn asks_for_the_clock(&mut self) -> bool {
        let running = self.running.as_mut();
        let clock = running.and_then(|running| running.clock.as_mut());
        clock.is_some_and(GuestClock::asks)
    }

    /// An event of a container that runs, other than its process's end.
    fn note_event(&mut self, event: Event) -> Result<()> {
        let unexpected = || super::super::unexpected(&event);
        let running = self.running.as_mut().context("the VM is gone")?;
        match event {
            Event::Frozen(frozen) => {
                running.freezes = running.freezes.checked_sub(1).with_context(unexpected)?;
                self.state.status = match frozen {
                    true => Status::Paused,
                    false => Status::Running,
                };
                self.interrupt_checks(frozen);
                if frozen && self.stop.is_asked() {
                    // A stop came while it froze.
                    self.send(Request::Freeze(false));
                }
                // On a full disk it is frozen all the same.
                let _ = self.folder.set_state(&self.state);
                self.journal(if frozen { "pause" } else { "unpause" }, &[]);
                self.clients
                    .answer_those(|role| matches!(role, Role::Frozen), &ToCommand::Done);
            }
            Event::NotFrozen(ref why) => {
                running.freezes = running.freezes.checked_sub(1).with_context(unexpected)?;
                self.note_not_frozen(why);
            }
            Event::Clock(guest_ns) => {
                let clock = running.clock.as_mut().with_context(unexpected)?;
                let shift = clock.answered(guest_ns).with_context(unexpected)?;
                if shift != 0 {
                    self.send(Request::ShiftClock(shift));
                }
            }
            Event::Updated(ref trouble) => self.note_updated(trouble.as_deref())?,
            // Who asked may have gone by now; this is one that nobody asked for.
            Event::TaskEnded { id, .. } if id >= running.next_task => bail!(unexpected()),
            Event::TaskEnded { id, ref outcome } => {
                let outcome = tasks::told(outcome).with_context(unexpected)?;
                self.note_task(id, outcome);
            }
            Event::Started { process, .. } => {
                let exec = running.unended(process);
                let exec = exec
                    .filter(|exec| !exec.is_started)
                    .with_context(unexpected)?;
                exec.is_started = true;
                if let By::Client(client) = exec.by {
                    self.clients.tell(client, &ToCommand::Started);
                }
            }
            Event::Failed {
                process,
                kind,
                ref message,
            } => {
                let is_late = kind == FailureKind::NotRunning || running.end.is_some();
                let exec = running.unended(process).with_context(unexpected)?;
                exec.end = Some(match exec.by {
                    // It was asked for while the container's process came to its end.
                    By::Client(_) if is_late => not_running(&self.config.id),
                    _ => failure(kind, message),
                });
                // Only what was started writes anything.
                exec.delivered = true;
                self.tell_exec(process);
            }
            Event::Exited {
                process, status, ..
            } => {
                let exec = running.unended(process).with_context(unexpected)?;
                let code = status.docker_code();
                exec.end = Some(ToCommand::Exited {
                    code,
                    trouble: None,
                });
                let details = [
                    ("execID", process.to_string()),
                    ("exitCode", code.to_string()),
                ];
                self.journal("exec_die", &details);
                self.tell_exec(process);
            }
            _ => bail!(unexpected()),
        }
        Ok(())
    }

    /// Sends a request to the agent, now or when it is there. That its VM is gone is noticed by who
    /// reads.
    pub(super) fn send(&mut self, request: Request) {
        if let Some(running) = &mut self.running {
            if let Request::Freeze(_) = request {
                running.freezes += 1;
            }
            let is_for_main = matches!(request, Request::Signal { process: MAIN, .. });
            if is_for_main && self.state.phases.started == 0 {
                running.signals.push(request);
                return;
            }
            match &mut running.held {
                Some(held) => held.push(request),
                None => drop(running.vm.agent().send(&request)),
            }
        }
    }

    /// Ends a VM by pulling its plug. That of a container that goes anyway is not waited for yet.
    fn unplug(&mut self, mut vm: Enclosure) {
        vm.kill();
        if self.auto_remove() {
            self.dying = Some(vm);
        }
    }

    fn note_times(&mut self, report: &VmReport) {
        self.state.exits = report.exits;
        let phases = &mut self.state.phases;
        phases.vmm = report.times.process;
        phases.jailed = report.times.jailed;
        phases.vm_created = report.times.created;
        phases.loaded = report.times.loaded;
        phases.first_instruction = report.times.first_instruction;
    }
}

/// Ends a VM in good order, since its disk is kept; whether its agent said that the disk is whole.
fn power_off(vm: &mut Enclosure, folder: &Folder) -> bool {
    // Whatever the guest does now, its process has ended and its output is read.
    if vm.agent().send(&Request::Shutdown).is_err() {
        return false;
    }
    let written = || {
        folder
            .upper()
            .metadata()
            .and_then(|disk| disk.modified())
            .ok()
    };
    let last = Instant::now() + SHUTDOWN_TIME_MAX;
    let (mut seen, mut deadline) = (written(), Instant::now() + SHUTDOWN_TIMEOUT);
    loop {
        let look = Instant::now() + SHUTDOWN_LOOK;
        match vm.agent().next(Some(look.min(deadline))) {
            Ok(Event::Bye) => return true,
            Ok(_) => {}
            Err(AgentError::Timeout) if Instant::now() < deadline => {
                // A slow disk takes what it takes, as long as it takes anything.
                let now = written();
                if now != seen {
                    seen = now;
                    deadline = last.min(Instant::now() + SHUTDOWN_TIMEOUT);
                }
            }
            Err(_) => return false,
        }
    }
}

/// What a command is told of a process that could not be started.
fn failure(kind: FailureKind, message: &str) -> ToCommand {
    let code = match kind {
        FailureKind::NotFound => 127,
        FailureKind::NotExecutable => 126,
        _ => 125,
    };
    let message = super::super::printable(message);
    ToCommand::Failed { code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_begins_anew_when_it_is_too_long() {
        let log = tempfile::tempfile().unwrap();
        for (len, left) in [
            (0, 0),
            (LOG_BYTES_MAX, LOG_BYTES_MAX),
            (LOG_BYTES_MAX + 1, 0),
        ] {
            log.set_len(len).unwrap();
            cut(&log).unwrap();
            assert_eq!(log.metadata().unwrap().len(), left);
        }
    }
}
