//! One container's life: set up, run, and the loop in which everything meets.
//!
//! Called by [`crate::init`] with the host's first request, and by [`crate::build`] for each step that runs something. It starts the main process and, on
//! request, others in the same container, forwards signals and sizes, and tells the host how each
//! process ended once all of its output is delivered. When the main process has ended the container
//! is over, and with it the VM.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use protocol::message::{Event, ExitStatus, ProcessId, Request};
use protocol::probe::Probe;
use protocol::spec::{ProcessSpec, RunSpec};
use protocol::task::TaskId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::cgroup::{Cgroup, Hierarchy};
use crate::control::{Control, ControlError};
use crate::device_filter::{DEFAULT_RULES, Filter};
use crate::devices::{self, Node};
use crate::failure::{Context, Failure};
use crate::init_layer::Places;
use crate::launch::{FirstProcess, Launch, become_process};
use crate::layers::{self, Stack};
use crate::loopback;
use crate::mount::{Detached, Setup};
use crate::namespaces;
use crate::network;
use crate::process::{End, Part, Process};
use crate::pump::{Flow, Pump};
use crate::rootfs::{self, Parts};
use crate::shares;
use crate::spawn::{self, Spawned};
use crate::stdio::{self, Streams, Terminals};
use crate::tasks::{Tasks, View};
use crate::wake;

/// The main process.
const MAIN: ProcessId = 0;

/// Processes that the host may have started and not been told the end of: far more than a person
/// starts, few enough for one `poll`.
const MAX_PROCESSES: usize = 1024;

/// How long output that nobody reads may hold up the main process's end: that of the others, and its
/// own once somebody had it killed.
const GRACE: Duration = Duration::from_secs(2);

/// How long the end of another process waits for those that it left behind, which hold its output open:
/// Docker's (moby, `daemon/monitor.go`). The kernel ends all that the main process leaves before itself.
const STREAMS_GRACE: Duration = Duration::from_secs(2);

/// What every container needs, whatever it is: made while the host has not answered yet.
#[derive(Debug)]
pub struct Prepared {
    hierarchy: Hierarchy,
    terminals: Terminals,
    filter: Filter,
}

impl Prepared {
    /// Makes it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> Result<Self, Failure> {
        loopback::up().context(|| "take the loopback interface up".into())?;
        Ok(Self {
            hierarchy: Hierarchy::mount()?,
            terminals: Terminals::new()?,
            filter: Filter::load(&DEFAULT_RULES).context(|| FILTER.into())?,
        })
    }
}

const FILTER: &str = "filter the container's devices";

/// Runs the container until its main process has ended and the host knows everything, and leaves
/// its disk clean.
///
/// # Errors
/// Only those of the control connection; the container is over then as well.
pub fn run(
    spec: &RunSpec,
    prepared: Result<Prepared, Failure>,
    requests: impl Iterator<Item = Request>,
    control: &mut Control,
) -> Result<(), ControlError> {
    let (stack, outcome) = live(spec, prepared, FIRST, requests, control);
    // A disk that can't be left clean has at least been written back.
    let _ = stack.map(|stack| stack.finish());
    outcome
}

/// Runs a step of a build, as [`run`] does; what lies on the disk is the caller's afterwards. `number`
/// is another one for each.
///
/// # Errors
/// As [`run`].
pub fn step(
    spec: &RunSpec,
    number: u32,
    requests: impl Iterator<Item = Request>,
    control: &mut Control,
) -> Result<(), ControlError> {
    live(spec, Prepared::new(), number, requests, control).1
}

/// Number of a container's only life in this VM.
const FIRST: u32 = 0;

fn live(
    spec: &RunSpec,
    prepared: Result<Prepared, Failure>,
    number: u32,
    requests: impl Iterator<Item = Request>,
    control: &mut Control,
) -> (Option<Stack>, Result<(), ControlError>) {
    let start = prepared.and_then(|prepared| Container::start(spec, prepared, number));
    let mut container = match start {
        Ok(container) => container,
        Err(failure) => return (None, control.send(&failed(MAIN, failure))),
    };
    let mut outcome = container.serve(requests, control);
    if outcome.is_err() {
        container.kill_all();
    }
    for event in container.tasks.kill_all() {
        if outcome.is_ok() {
            outcome = control.send(&event);
        }
    }
    (Some(container.stack), outcome)
}

fn failed(process: ProcessId, failure: Failure) -> Event {
    Event::Failed {
        process,
        kind: failure.kind,
        message: failure.message,
    }
}

/// What a descriptor that is ready belongs to.
#[derive(Debug, Clone, Copy)]
enum Source {
    Control,
    Process(ProcessId, Part),
    Lingering(usize),
    Task(TaskId),
}

#[derive(Debug)]
struct Container<'a> {
    spec: &'a RunSpec,
    cgroup: Cgroup,
    stack: Stack,
    terminals: Terminals,
    processes: BTreeMap<ProcessId, Process>,
    /// Output of processes that ended, into which others may still write.
    lingering: Vec<Option<Pump>>,
    tasks: Tasks,
    /// Whether the host sent the main process SIGKILL: who wants it to end waits for no reader.
    is_killed: bool,
    /// When output is not waited for any longer, from the main process's end on.
    grace_until: Option<Instant>,
}

impl<'a> Container<'a> {
    /// Sets everything up and clones the main process.
    fn start(spec: &'a RunSpec, prepared: Prepared, number: u32) -> Result<Self, Failure> {
        if spec.process.probe == Some(Probe::Panic) {
            // The end of PID 1 is a panic of the kernel (Linux kernel/exit.c).
            spawn::exit(1);
        }
        let connections = stdio::connect(&spec.process)?;
        // A builder VM's card is up already.
        if number == FIRST {
            spec.network.as_ref().map_or(Ok(()), network::up)?;
        }
        let cgroup = Cgroup::create(&prepared.hierarchy, number, &spec.resources)?;
        let nodes = allow_devices(spec, &cgroup, &prepared.filter)?;
        let mut stack = layers::stack(spec, Places::All)?;
        let mut shares = shares::mount(&spec.mounts, stack.root.as_fd())?;
        shares.append(&mut stack.step_mounts);
        let terminals = prepared.terminals;
        let streams = connections.join(spec.process.terminal, &terminals)?;
        let parts = Parts {
            spec,
            root: &stack.root,
            init_layer: &stack.init_layer,
            shares: &shares,
            terminals: &terminals,
            nodes: &nodes,
        };
        let spawned = spawn_main(&parts, &cgroup, &streams)?;
        Ok(Self {
            spec,
            cgroup,
            stack,
            terminals,
            processes: [(MAIN, Process::new(spawned, streams, Duration::ZERO))].into(),
            lingering: Vec::new(),
            tasks: Tasks::default(),
            is_killed: false,
            grace_until: None,
        })
    }

    /// The loop: until every process has ended and the host was told.
    fn serve(
        &mut self,
        requests: impl Iterator<Item = Request>,
        control: &mut Control,
    ) -> Result<(), ControlError> {
        for request in requests {
            self.handle(request, control)?;
        }
        while !self.processes.is_empty() {
            for source in self.wait(control) {
                self.advance(source, control)?;
            }
            self.leave_readers_behind();
            self.tell_ends(control)?;
        }
        Ok(())
    }

    /// Waits until something is ready.
    fn wait(&self, control: &Control) -> Vec<Source> {
        let mut sources = vec![Source::Control];
        let mut fds = vec![PollFd::from_borrowed_fd(
            control.as_fd(),
            control.interest(),
        )];
        for (id, process) in &self.processes {
            for (part, fd, flags) in process.interests() {
                sources.push(Source::Process(*id, part));
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        for (index, pump) in self.lingering.iter().enumerate() {
            if let Some(pump) = pump {
                let (fd, flags) = pump.interest();
                sources.push(Source::Lingering(index));
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        for (id, fd) in self.tasks.interests() {
            sources.push(Source::Task(id));
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        let now = Instant::now();
        let grace_until = self.grace_until.filter(|until| *until > now);
        let deadlines = self.processes.values().filter_map(Process::deadline);
        let deadline = deadlines.chain(grace_until).min();
        let left = deadline.map(|until| until.saturating_duration_since(now));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        // Interrupted or out of memory: the next round asks again.
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        sources
            .into_iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(source, _)| source)
            .collect()
    }

    fn advance(&mut self, source: Source, control: &mut Control) -> Result<(), ControlError> {
        match source {
            Source::Control => {
                control.flush()?;
                for request in control.receive()? {
                    self.handle(request, control)?;
                }
            }
            Source::Process(id, part) => {
                let process = self.processes.get_mut(&id);
                if let Some(boottime_ns) = process.and_then(|process| process.advance(part)) {
                    control.send(&Event::Started {
                        process: id,
                        boottime_ns,
                    })?;
                }
            }
            Source::Task(id) => {
                if let Some(event) = self.tasks.advance(id) {
                    control.send(&event)?;
                }
            }
            Source::Lingering(index) => {
                if let Some(slot) = self.lingering.get_mut(index)
                    && slot.as_mut().map(Pump::run) == Some(Flow::Ended)
                {
                    *slot = None;
                }
            }
        }
        Ok(())
    }

    /// Gives up output that holds up the main process's end for too long. The kernel ends the others
    /// with it, so that theirs is cut short anyway; its own is delivered whole, however slow its reader
    /// is, unless it was killed.
    fn leave_readers_behind(&mut self) {
        let has_ended = self.processes.get(&MAIN).is_some_and(Process::has_ended);
        if !has_ended || !(self.is_killed || self.processes.len() > 1) {
            return;
        }
        let now = Instant::now();
        if now < *self.grace_until.get_or_insert(now + GRACE) {
            return;
        }
        for (id, process) in &mut self.processes {
            if *id != MAIN || self.is_killed {
                process.abandon_streams();
            }
        }
    }

    /// Tells the host of the processes of which nothing more will come, the main one last.
    fn tell_ends(&mut self, control: &mut Control) -> Result<(), ControlError> {
        self.processes.values_mut().for_each(Process::conclude);
        let ids: Vec<ProcessId> = self.processes.keys().rev().copied().collect();
        for id in ids {
            if id == MAIN && self.processes.len() > 1 {
                continue;
            }
            let Some(end) = self.processes.get(&id).and_then(Process::end) else {
                continue;
            };
            let event = match end {
                End::Failed(failure) => failed(id, failure),
                End::Killed(signal) if id == MAIN => failed(
                    id,
                    Failure::other(format!(
                        "signal {signal} ended the process before its program was executed"
                    )),
                ),
                // Of one that ended with its container, how far it was is all the same.
                End::Killed(signal) => Event::Exited {
                    process: id,
                    status: ExitStatus::Signal(signal),
                    oom_killed: false,
                },
                End::Exited(status) => Event::Exited {
                    process: id,
                    status,
                    oom_killed: self.cgroup.was_out_of_memory(),
                },
            };
            if let Some(process) = self.processes.remove(&id) {
                self.lingering.retain(Option::is_some);
                self.lingering.extend(process.into_lingering().map(Some));
            }
            control.send(&event)?;
        }
        Ok(())
    }

    fn handle(&mut self, request: Request, control: &mut Control) -> Result<(), ControlError> {
        match request {
            Request::Exec { process, spec } => {
                if let Err(failure) = self.exec(process, &spec) {
                    control.send(&failed(process, failure))?;
                }
            }
            // A process that has just ended, or a number that is none, is no error to anybody.
            Request::Signal { process, signal } => {
                self.is_killed |= process == MAIN && signal == libc::SIGKILL;
                if let Some(process) = self.processes.get(&process) {
                    let _ = process.signal(signal);
                }
            }
            Request::Resize { process, size } => {
                if let Some(process) = self.processes.get(&process) {
                    let _ = process.resize(size);
                }
            }
            Request::Task { id, task, port } => {
                let main = self.processes.get(&MAIN);
                let view = View {
                    spec: self.spec,
                    stack: &self.stack,
                    main: main.filter(|main| main.is_running()).map(Process::pidfd),
                    cgroup: Some(self.cgroup.as_fd()),
                };
                if let Some(event) = self.tasks.start(id, &task, port, view) {
                    control.send(&event)?;
                }
            }
            Request::Freeze(frozen) => {
                control.send(&match self.cgroup.freeze(frozen) {
                    Ok(()) => Event::Frozen(frozen),
                    Err(failure) => Event::NotFrozen(failure.message),
                })?;
            }
            Request::Update(resources) => {
                let updated = self.cgroup.update(&resources);
                let trouble = updated.err().map(|failure| failure.message);
                control.send(&Event::Updated(trouble))?;
            }
            Request::Clock => control.send(&Event::Clock(wake::clock_ns()))?,
            Request::ShiftClock(ns) => wake::shift_clock(ns),
            Request::Shutdown => {
                for process in self.processes.values_mut() {
                    process.abandon_streams();
                }
                let _ = self.cgroup.kill();
            }
            Request::Wake { .. }
            | Request::Run(_)
            | Request::Hold(_)
            | Request::Build(_)
            | Request::Seal
            | Request::Convert(_)
            | Request::Decompress { .. } => control.send(&failed(
                MAIN,
                Failure::other("this virtual machine has its container already"),
            ))?,
        }
        Ok(())
    }

    /// Starts another process in the container.
    fn exec(&mut self, id: ProcessId, spec: &ProcessSpec) -> Result<(), Failure> {
        if self.processes.contains_key(&id) || self.processes.len() >= MAX_PROCESSES {
            return Err(Failure::other(format!(
                "process {id} exists, or there are {MAX_PROCESSES} already"
            )));
        }
        let main = self
            .processes
            .get(&MAIN)
            .filter(|main| main.is_running())
            .ok_or_else(Failure::not_running)?;
        let streams = stdio::connect(spec)?.join(spec.terminal, &self.terminals)?;
        let spawned = self.spawn_beside(main, spec, &streams)?;
        let process = Process::new(spawned, streams, STREAMS_GRACE);
        self.processes.insert(id, process);
        Ok(())
    }

    /// Clones a child into the namespaces and the group of the main process. It gets what its
    /// specification says and no more, also in a privileged container.
    fn spawn_beside(
        &self,
        main: &Process,
        spec: &ProcessSpec,
        streams: &Streams,
    ) -> Result<Spawned, Failure> {
        let mut keep = streams.child.ends();
        keep.push(main.pidfd());
        let attempt = |group: BorrowedFd<'_>| {
            spawn::spawn_among(group, &keep, |reporter| match join(main, spec) {
                Ok((root, proc)) => become_process(
                    &Launch {
                        spec,
                        root: root.as_fd(),
                        cwd: None,
                        proc: proc.as_ref().map(AsFd::as_fd),
                        io: &streams.child,
                        privileged: false,
                        first: FirstProcess::Program,
                    },
                    reporter,
                ),
                Err(failure) => reporter.give_up(&failure),
            })
        };
        let spawned = namespaces::inside(main.pidfd(), || match attempt(self.cgroup.as_fd()) {
            // The workload made groups of its own, and a group with such below it takes no process.
            Err(Errno::BUSY) => attempt(self.cgroup.group_of(main.pid())?.as_fd()),
            other => other,
        });
        match spawned {
            // It has ended, and nobody has looked yet.
            Err(Errno::SRCH) => Err(Failure::not_running()),
            spawned => spawned.context(|| "clone a process into the container".into()),
        }
    }

    /// Ends every process and waits until none is left. The container's first comes last: it ends when all
    /// others of its namespace were waited for.
    fn kill_all(&mut self) {
        let _ = self.cgroup.kill();
        for process in self.processes.values_mut().rev() {
            process.abandon_streams();
            while !process.has_ended() {
                let mut fds = [PollFd::from_borrowed_fd(process.pidfd(), PollFlags::IN)];
                let _ = poll(&mut fds, None);
                process.advance(Part::Exit);
            }
        }
    }
}

/// Filters what the container may open, and returns the nodes that it gets besides the fixed ones.
fn allow_devices(spec: &RunSpec, cgroup: &Cgroup, default: &Filter) -> Result<Vec<Node>, Failure> {
    if spec.devices.is_empty() && !spec.privileged {
        default.attach(cgroup.as_fd()).context(|| FILTER.into())?;
        return Ok(Vec::new());
    }
    let dev = open("/dev", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open /dev".into())?;
    let (mut nodes, rules) = devices::requested(dev.as_fd(), &spec.devices)?;
    if spec.privileged {
        nodes.extend(devices::all(dev.as_fd())?);
    } else {
        Filter::load(&[&DEFAULT_RULES[..], &rules].concat())
            .and_then(|filter| filter.attach(cgroup.as_fd()))
            .context(|| FILTER.into())?;
    }
    Ok(nodes)
}

/// In the child: enters the container. Returns its root, and a procfs when the process needs one;
/// the container's own may show anything by now.
fn join(main: &Process, spec: &ProcessSpec) -> Result<(OwnedFd, Option<Detached>), Failure> {
    let about = || "join the container".to_owned();
    match namespaces::join(main.pidfd()) {
        Err(Errno::SRCH) => return Err(Failure::not_running()),
        joined => joined.context(about)?,
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open("/", flags, Mode::empty()).context(about)?;
    let proc = match spec.oom_score_adj {
        Some(_) => Some(Setup::new("proc", "proc")?.create(MountAttrFlags::empty())?),
        None => None,
    };
    Ok((root, proc))
}

/// Clones the container's first process into new namespaces.
fn spawn_main(parts: &Parts<'_>, cgroup: &Cgroup, streams: &Streams) -> Result<Spawned, Failure> {
    let spec = parts.spec;
    spawn::spawn(
        cgroup.as_fd(),
        namespaces::NEW,
        |reporter| match namespaces::complete(spec).and_then(|()| rootfs::enter(parts)) {
            Ok(tree) => become_process(
                &Launch {
                    spec: &spec.process,
                    root: parts.root.as_fd(),
                    cwd: Some(tree.cwd),
                    proc: Some(tree.proc.as_fd()),
                    io: &streams.child,
                    privileged: spec.privileged,
                    first: if spec.init {
                        FirstProcess::Reaper
                    } else {
                        FirstProcess::Program
                    },
                },
                reporter,
            ),
            Err(failure) => reporter.give_up(&failure),
        },
    )
    .context(|| "clone the container's first process".into())
}
