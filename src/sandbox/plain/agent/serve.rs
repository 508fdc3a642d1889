//! The loop of a plain container's agent, and what it does for each request.
//!
//! Called by [`super`] as PID 1 of the container's outer namespaces. Its working directory is a tmpfs
//! that only its mount namespace has. What a request takes from the runtime is started and waited for by
//! the loop.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::chdir;
use protocol::frame::{Decoder, encode};
use protocol::message::{Event, ExitStatus, FailureKind, ProcessId, Request};
use protocol::spec::{ProcessSpec, Resources, RunSpec, Seccomp};
use protocol::task::{Outcome, Task};

use super::super::{bundle, group, jail};
use super::process::{self, Part, Process, SPEC, file, unblocked};
use super::pump::Pump;
use super::{AgentConfig, descriptors};
use crate::sandbox::clock::monotonic_ns;
use crate::sandbox::poll::timeout_until;

/// The container's own process.
const MAIN: ProcessId = 0;

/// What its files are called by.
const MAIN_NAME: &str = "main";

/// Bytes of requests that are read at once.
const READ_LEN: usize = 16 << 10;

/// How long output that nobody reads may hold up the container's end, as in a VM: that of the other
/// processes, and its own once somebody had it killed.
const GRACE: Duration = Duration::from_secs(2);

/// How long the end of another process waits for those that it left behind, which hold its output open,
/// as in a VM. The kernel ends all that the container's own process leaves before itself.
const STREAMS_GRACE: Duration = Duration::from_secs(2);

/// What is ready.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signal,
    Control,
    Offers,
    Process(ProcessId, Part),
    Lingering(usize),
}

/// See the module's page.
pub(super) struct Agent {
    config: AgentConfig,
    control: UnixStream,
    decoder: Decoder,
    offers: OwnedFd,
    /// Streams that no process has yet, by port.
    streams: BTreeMap<u32, OwnedFd>,
    signals: SignalFd,
    processes: BTreeMap<ProcessId, Process>,
    /// Ends of children that nobody knew yet: a process whose runtime has not gone.
    unknown: BTreeMap<i32, ExitStatus>,
    lingering: Vec<Pump>,
    /// Whether the container's own process was sent SIGKILL.
    is_killed: bool,
    /// When output is not waited for any longer, from the end of the container's own process on.
    grace_until: Option<Instant>,
    /// Whether the supervisor wants it to end.
    is_over: bool,
}

impl Agent {
    pub(super) fn new(
        config: AgentConfig,
        control: UnixStream,
        offers: OwnedFd,
        streams: BTreeMap<u32, OwnedFd>,
    ) -> Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().context("block SIGCHLD")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            config,
            control,
            decoder: Decoder::new(),
            offers,
            streams,
            signals: SignalFd::with_flags(&mask, flags).context("watch for children")?,
            processes: BTreeMap::new(),
            unknown: BTreeMap::new(),
            lingering: Vec::new(),
            is_killed: false,
            grace_until: None,
            is_over: false,
        })
    }

    /// Until the supervisor wants no more of it, or is gone. Everything in its namespaces ends with this
    /// process.
    pub(super) fn serve(mut self) -> Result<()> {
        self.send(&Event::Hello {
            version: protocol::PROTOCOL_VERSION,
            kernel: String::new(),
            boottime_ns: monotonic_ns(),
        })?;
        while !self.is_over {
            for source in self.wait()? {
                self.advance(source)?;
            }
            // A start may have missed a signal.
            self.reap()?;
            self.leave_readers_behind();
            self.tell()?;
        }
        // It may be gone.
        let _ = self.send(&Event::Bye);
        Ok(())
    }

    fn wait(&self) -> Result<Vec<Source>> {
        let mut sources = vec![Source::Signal, Source::Control, Source::Offers];
        let read = PollFlags::POLLIN;
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), read),
            PollFd::new(self.control.as_fd(), read),
            PollFd::new(self.offers.as_fd(), read),
        ];
        for (id, process) in &self.processes {
            for (part, fd, flags) in process.interests() {
                sources.push(Source::Process(*id, part));
                fds.push(PollFd::new(fd, flags));
            }
        }
        for (index, pump) in self.lingering.iter().enumerate() {
            let (fd, flags) = pump.interest();
            sources.push(Source::Lingering(index));
            fds.push(PollFd::new(fd, flags));
        }
        let grace_until = self.grace_until.filter(|at| Instant::now() < *at);
        let deadlines = self.processes.values().filter_map(Process::deadline);
        let deadline = deadlines.chain(grace_until).min();
        match poll(&mut fds, timeout_until(deadline)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait"),
        }
        let ready = sources.into_iter().zip(&fds);
        let ready = ready.filter(|(_, fd)| fd.any().unwrap_or(false));
        // The last first: what is removed does not move those that follow.
        let mut ready: Vec<Source> = ready.map(|(source, _)| source).collect();
        ready.reverse();
        Ok(ready)
    }

    fn advance(&mut self, source: Source) -> Result<()> {
        match source {
            Source::Signal => while let Ok(Some(_)) = self.signals.read_signal() {},
            Source::Control => self.receive()?,
            Source::Offers => self.take_offers()?,
            Source::Process(id, part) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.advance(part);
                }
            }
            Source::Lingering(index) => {
                if !self.lingering.get_mut(index).is_some_and(Pump::run) {
                    self.lingering.swap_remove(index);
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; READ_LEN];
        match self.control.read(&mut buffer) {
            // Whoever is gone wants nothing any more.
            Ok(0) => self.is_over = true,
            Ok(len) => self.decoder.push(buffer.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("read a request"),
        }
        while let Some(request) = self.decoder.decode().context("read a request")? {
            self.handle(request)?;
        }
        Ok(())
    }

    fn send(&mut self, event: &Event) -> Result<()> {
        let bytes = encode(event).context("tell the supervisor")?;
        self.control
            .write_all(&bytes)
            .context("tell the supervisor")
    }

    /// Takes the streams that have been offered so far.
    fn take_offers(&mut self) -> Result<()> {
        while let Some((bytes, stream)) = descriptors::receive(self.offers.as_fd())? {
            let port = bytes.try_into().map(u32::from_le_bytes);
            let port =
                port.map_err(|_| anyhow!("the supervisor offers a stream without a port"))?;
            self.streams.insert(port, stream);
        }
        Ok(())
    }

    /// Learns of the ends of children.
    fn reap(&mut self) -> Result<()> {
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    let code = u8::try_from(code & 0xff).unwrap_or(u8::MAX);
                    (pid, ExitStatus::Code(code))
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    let signal = u8::try_from(signal as i32).unwrap_or(u8::MAX);
                    (pid, ExitStatus::Signal(signal))
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context("wait for a child"),
            };
            let unknown = &mut self.unknown;
            let is_known = self
                .processes
                .values_mut()
                .any(|process| process.note_end(pid.as_raw(), status, |pid| unknown.remove(&pid)));
            if !is_known {
                self.unknown.insert(pid.as_raw(), status);
            }
        }
        if !self.processes.values().any(Process::is_being_started) {
            // Those were orphans.
            self.unknown.clear();
        }
        Ok(())
    }

    /// Gives up output that holds up the container's end for too long.
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
                process.abandon();
            }
        }
    }

    /// Tells the supervisor what there is to tell of each process, the container's own last.
    fn tell(&mut self) -> Result<()> {
        self.processes.values_mut().for_each(Process::conclude);
        let ids: Vec<ProcessId> = self.processes.keys().rev().copied().collect();
        for id in ids {
            while let Some(event) = self.next_event(id) {
                self.send(&event)?;
                if !matches!(event, Event::Started { .. })
                    && let Some(process) = self.processes.remove(&id)
                {
                    self.lingering.extend(process.into_lingering());
                }
            }
        }
        Ok(())
    }

    fn next_event(&mut self, id: ProcessId) -> Option<Event> {
        let is_alone = self.processes.len() == 1;
        let process = self.processes.get_mut(&id)?;
        // The others end with it, and are told first.
        if id == MAIN && !is_alone && process.has_ended() {
            return None;
        }
        let config = &self.config;
        process.next_event(id, || {
            config.fixed.is_root && group::was_out_of_memory(&config.fixed.id)
        })
    }

    fn failed(
        &mut self,
        process: ProcessId,
        kind: FailureKind,
        error: &anyhow::Error,
    ) -> Result<()> {
        self.send(&Event::Failed {
            process,
            kind,
            message: format!("{error:#}"),
        })
    }

    fn handle(&mut self, request: Request) -> Result<()> {
        match request {
            // The host has its own clock and randomness.
            Request::Wake { .. } | Request::Clock | Request::ShiftClock(_) => Ok(()),
            Request::Run(spec) => match self.run(&spec) {
                Ok(process) => {
                    self.processes.insert(MAIN, process);
                    Ok(())
                }
                Err(error) => self.failed(MAIN, FailureKind::BadConfig, &error),
            },
            Request::Exec { process, spec } => {
                let main = self.processes.get(&MAIN);
                if !main.is_some_and(Process::is_running) {
                    let error = anyhow!("the container's process has ended");
                    return self.failed(process, FailureKind::NotRunning, &error);
                }
                match self.exec(process, &spec) {
                    Ok(started) => {
                        self.processes.insert(process, started);
                        Ok(())
                    }
                    Err(error) => self.failed(process, FailureKind::BadConfig, &error),
                }
            }
            // A process that has just ended is no error to anybody.
            Request::Signal { process, signal } => {
                self.is_killed |= process == MAIN && signal == libc::SIGKILL;
                if let Some(pid) = self.processes.get(&process).and_then(Process::pid) {
                    let _ = jail::signal(pid, signal);
                }
                Ok(())
            }
            Request::Resize { process, size } => {
                if let Some(process) = self.processes.get_mut(&process) {
                    process.resize(size);
                }
                Ok(())
            }
            Request::Task { id, task, port } => {
                // Its stream ends here.
                self.take_offers()?;
                drop(port.and_then(|port| self.streams.remove(&port)));
                let outcome = match *task {
                    Task::Usage if self.config.fixed.is_root => {
                        Outcome::Usage(group::usage(&self.config.fixed.id))
                    }
                    task => refused(&task),
                };
                self.send(&Event::TaskEnded { id, outcome })
            }
            Request::Freeze(frozen) => {
                let event = match self.freeze(frozen) {
                    Ok(()) => Event::Frozen(frozen),
                    Err(error) => Event::NotFrozen(format!("{error:#}")),
                };
                self.send(&event)
            }
            Request::Update(resources) => {
                let trouble = self.update(&resources).err();
                self.send(&Event::Updated(trouble.map(|error| format!("{error:#}"))))
            }
            Request::Shutdown => {
                self.is_over = true;
                // Whoever does not read keeps nobody from being told of an end.
                self.processes.values_mut().for_each(Process::abandon);
                self.tell()
            }
            Request::Hold(_)
            | Request::Build(_)
            | Request::Seal
            | Request::Convert(_)
            | Request::Decompress { .. } => {
                bail!("the supervisor asks a plain container for what a VM does")
            }
        }
    }

    /// Mounts the container's files and has the runtime start its process.
    fn run(&mut self, spec: &RunSpec) -> Result<Process> {
        self.mount()?;
        let root = self.config.fixed.run.join(bundle::ROOTFS);
        let prepared = jail::look_up(&self.config.fixed.program, &root, &spec.process)?;
        bundle::write(&self.config, spec, &prepared)?;
        let sockets = self.sockets(&spec.process)?;
        let mut command = self.runtime(MAIN_NAME);
        command
            .arg("run")
            .arg("--bundle")
            .arg(&self.config.fixed.run);
        Process::start(
            MAIN_NAME,
            command,
            &self.config.fixed.id,
            spec.process.terminal,
            sockets,
            Duration::ZERO,
        )
    }

    fn mount(&self) -> Result<()> {
        let none = None::<&str>;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(none, "/", none, private, none).context("keep mounts")?;
        let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), quiet, none).context("mount /proc")?;
        bundle::make_folders(&self.config)?;
        let run = &self.config.fixed.run;
        own_tmpfs(run, bundle::RUN_BYTES)?;
        let folders = [bundle::STATE, bundle::ROOTFS, bundle::FILES];
        for name in folders {
            fs::create_dir(run.join(name)).context("fill the agent's own folder")?;
        }
        own_tmpfs(&run.join(bundle::FILES), bundle::FILES_BYTES)?;
        // No link: there may be one that the container made, if the supervisor was taken over.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = |at: BorrowedFd, path: &Path| {
            openat(at, path, flags, Mode::empty())
                .with_context(|| format!("open {}", path.display()))
        };
        let folder = open(AT_FDCWD, &self.config.fixed.bundle)?;
        let upper = open(folder.as_fd(), Path::new("upper"))?;
        let work = open(folder.as_fd(), Path::new("work"))?;
        let mut options = format!(
            "lowerdir={},upperdir=/proc/self/fd/{},workdir=/proc/self/fd/{}",
            escaped(&self.config.fixed.lower)?,
            upper.as_raw_fd(),
            work.as_raw_fd(),
        );
        if !self.config.fixed.is_root {
            options.push_str(",userxattr");
        }
        mount(
            Some("overlay"),
            &run.join(bundle::ROOTFS),
            Some("overlay"),
            MsFlags::MS_NODEV,
            Some(options.as_str()),
        )
        .context(
            "mount the container's files (overlay; the state root must not be on one itself)",
        )?;
        chdir(run).context("enter the agent's own folder")
    }

    /// Has the runtime start another process in the container.
    fn exec(&mut self, id: ProcessId, spec: &ProcessSpec) -> Result<Process> {
        if !matches!(spec.seccomp, Seccomp::Default) {
            bail!("exec --privileged is not supported with --isolation=container");
        }
        self.config.fixed.allowed.check(spec)?;
        let root = self.config.fixed.run.join(bundle::ROOTFS);
        let prepared = jail::look_up(&self.config.fixed.program, &root, spec)?;
        let value = bundle::of_process(spec, &prepared, self.config.fixed.is_root)?;
        let name = id.to_string();
        let path = file(SPEC, &name);
        fs::write(&path, value.to_string()).with_context(|| format!("write {path}"))?;
        let sockets = self.sockets(spec)?;
        let mut command = self.runtime(&name);
        command.args(["exec", "--process", &path]);
        Process::start(
            &name,
            command,
            &self.config.fixed.id,
            spec.terminal,
            sockets,
            STREAMS_GRACE,
        )
    }

    /// The streams of a process.
    fn sockets(&mut self, spec: &ProcessSpec) -> Result<[Option<OwnedFd>; 3]> {
        self.take_offers()?;
        let stdio = spec.stdio;
        let mut take = |port: Option<u32>| {
            port.map(|port| {
                let stream = self.streams.remove(&port);
                stream.with_context(|| format!("nobody offers a stream on port {port}"))
            })
            .transpose()
        };
        Ok([take(stdio.stdin)?, take(stdio.stdout)?, take(stdio.stderr)?])
    }

    /// The runtime, which says in the log of `name` what goes wrong.
    fn runtime(&self, name: &str) -> Command {
        let mut command = Command::new(&self.config.fixed.runtime);
        let folder = |name: &str| self.config.fixed.run.join(name);
        command.arg("--root").arg(folder(bundle::STATE));
        command.arg("--log").arg(folder(&file("log", name)));
        command.args(["--log-format", "json"]);
        if !self.config.fixed.is_root && self.config.fixed.runtime.ends_with("crun") {
            command.args(["--cgroup-manager", "disabled"]);
        }
        command
    }

    fn freeze(&self, frozen: bool) -> Result<()> {
        self.needs_group("it can't be frozen")?;
        let name = "freeze";
        let mut command = self.runtime(name);
        command.arg(if frozen { "pause" } else { "resume" });
        command.arg(&self.config.fixed.id).stdin(Stdio::null());
        let output = unblocked(|| command.output()).context("start the runtime")?;
        if !output.status.success() {
            match process::complaint_in(&file("log", name)) {
                Some((_, message)) => bail!("{message}"),
                None => bail!("the runtime ended with {}", output.status),
            }
        }
        Ok(())
    }

    fn update(&self, resources: &Resources) -> Result<()> {
        self.needs_group("it has no limits that could be changed")?;
        group::set_limits(&self.config.fixed.id, resources)
    }

    fn needs_group(&self, what: &str) -> Result<()> {
        if !self.config.fixed.is_root {
            bail!("a plain container of an ordinary user has no control group: {what}");
        }
        Ok(())
    }
}

/// What a task comes to.
fn refused(task: &Task) -> Outcome {
    let message = match task {
        Task::Processes => {
            "top does not work with a plain container: its processes are the host's, see ps(1)"
        }
        Task::Usage => {
            "stats needs a control group, which a plain container of an ordinary user has not"
        }
        _ => "a plain container has no agent that reaches its files",
    };
    Outcome::Failed {
        kind: FailureKind::Other,
        message: message.to_owned(),
    }
}

/// Mounts files in memory on a folder, for this mount namespace.
fn own_tmpfs(path: &Path, bytes: u64) -> Result<()> {
    let kind = Some("tmpfs");
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("mode=0700,size={bytes}");
    mount(kind, path, kind, quiet, Some(options.as_str())).context("mount the agent's own folder")
}

/// A path in the options of an overlay.
fn escaped(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .context("the state root's path is not UTF-8")?;
    if text.contains([',', ':', '\\']) {
        bail!(
            "the state root's path has a comma, a colon or a backslash, which overlay takes for its own"
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_overlay_would_misread_are_refused() {
        assert_eq!(escaped(Path::new("/a/b")).unwrap(), "/a/b");
        for path in ["/a,b", "/a:b", "/a\\b"] {
            escaped(Path::new(path)).unwrap_err();
        }
    }
}
