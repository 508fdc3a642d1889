//! One process of a plain container as its agent sees it: the runtime that starts it and goes, its
//! streams, its end.
//!
//! ```text
//! runtime runs ─► it has gone: number of the process ─► program executed ─► ended, output at its end
//!      └ failed: why, of its log          └ not to be executed: so too
//! ```
//! Called by [`super::serve`], which polls and reaps. It knows no other process and not the supervisor.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};
use nix::poll::PollFlags;
use nix::sys::signal::{SigSet, Signal};
use protocol::message::{Event, ExitStatus, FailureKind, ProcessId, WindowSize};
use rustix::termios::{Winsize, tcsetwinsize};

use super::descriptors;
use super::pump::Pump;
use crate::sandbox::clock::monotonic_ns;
use crate::sandbox::poll::readable_until;

/// Bytes of the runtime's log that are read for why there is no process.
const LOG_MAX: u64 = 16 << 10;

/// Bytes of the file with a process's number.
const NUMBER_MAX: u64 = 32;

/// Kinds of files that a start makes.
const OWN_FILES: [&str; 3] = ["pid", "console", "log"];

/// Kind of the file that says what to run beside the container's own process.
pub(super) const SPEC: &str = "process";

/// The descriptor that the runtime inherits and the program does not: it is marked as all beyond the
/// standard streams are (OCI runtimes, `--preserve-fds`).
const REPORT_FD: i32 = 3;

/// How long a runtime that has gone may leave [`REPORT_FD`] open before its process counts as started:
/// one that does not mark it would for ever.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Something of a process that can be waited for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Its program is executed.
    Report,
    /// The runtime has made its terminal.
    Console,
    /// The stream to it.
    Input,
    /// A stream from it.
    Output(usize),
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Process {
    /// What its files are called by.
    name: String,
    /// The runtime, as long as it is at starting it.
    runtime: Option<i32>,
    pid: Option<i32>,
    /// At its end when the program is executed.
    report: Option<OwnedFd>,
    /// When that is not waited for any longer.
    report_until: Option<Instant>,
    console: Option<UnixListener>,
    /// The supervisor's ends, until there is a terminal.
    sockets: [Option<OwnedFd>; 2],
    size: WindowSize,
    terminal: Option<OwnedFd>,
    input: Option<Pump>,
    outputs: Vec<Option<Pump>>,
    is_started: bool,
    status: Option<ExitStatus>,
    /// How long those that it leaves behind may add to its output after its end.
    patience: Duration,
    /// When that is over, until it is.
    open_until: Option<Instant>,
    failure: Option<(FailureKind, String)>,
}

/// Names of a process's files in the working directory, which nobody but the agent has.
pub(super) fn file(kind: &str, name: &str) -> String {
    format!("{kind}-{name}")
}

impl Process {
    /// Starts the runtime with `command`, which has its verb and what goes before, and is told where the
    /// process's number, its terminal and its log go; `last` are its last words. For so much `patience`
    /// output that others still hold open after the process's end is its own.
    ///
    /// # Errors
    /// When it can't be started.
    pub(super) fn start(
        name: &str,
        mut command: Command,
        last: &str,
        terminal: Option<WindowSize>,
        sockets: [Option<OwnedFd>; 3],
        patience: Duration,
    ) -> Result<Self> {
        let mut process = Self {
            name: name.to_owned(),
            runtime: None,
            pid: None,
            report: None,
            report_until: None,
            console: None,
            sockets: [None, None],
            size: terminal.unwrap_or(WindowSize {
                rows: 0,
                columns: 0,
            }),
            terminal: None,
            input: None,
            outputs: Vec::new(),
            is_started: false,
            status: None,
            patience,
            open_until: None,
            failure: None,
        };
        // What an earlier life left.
        process.clear(&OWN_FILES);
        command.arg("--detach");
        command.args(["--pid-file", &file("pid", name)]);
        let [stdin, stdout, stderr] = sockets;
        if terminal.is_some() {
            let path = file("console", name);
            let listener = UnixListener::bind(&path).context("listen for the terminal")?;
            listener
                .set_nonblocking(true)
                .context("listen for the terminal")?;
            command.args(["--console-socket", &path]);
            process.console = Some(listener);
            process.sockets = [stdin, stdout];
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(Stdio::null());
        } else {
            command.stdin(process.input_pipe(stdin)?);
            command.stdout(process.output_pipe(stdout)?);
            command.stderr(process.output_pipe(stderr)?);
        }
        command.arg(last);
        let (report, inherited) = std::io::pipe().context("create a pipe")?;
        command
            .fd_mappings(vec![FdMapping {
                parent_fd: inherited.into(),
                child_fd: REPORT_FD,
            }])
            .context("pass a descriptor to the runtime")?;
        // What it starts inherits the mask.
        let child = unblocked(|| command.spawn()).context("start the runtime")?;
        // Its end is reaped with all others.
        process.runtime = Some(i32::try_from(child.id()).context("number the runtime")?);
        process.report = Some(report.into());
        Ok(process)
    }

    fn input_pipe(&mut self, socket: Option<OwnedFd>) -> Result<Stdio> {
        let Some(socket) = socket else {
            return Ok(Stdio::null());
        };
        let (theirs, ours) = std::io::pipe().context("create a pipe")?;
        self.input = Some(Pump::new(socket, ours.into()).context("set up a stream")?);
        Ok(theirs.into())
    }

    fn output_pipe(&mut self, socket: Option<OwnedFd>) -> Result<Stdio> {
        let Some(socket) = socket else {
            return Ok(Stdio::null());
        };
        let (ours, theirs) = std::io::pipe().context("create a pipe")?;
        let pump = Pump::new(ours.into(), socket).context("set up a stream")?;
        self.outputs.push(Some(pump));
        Ok(theirs.into())
    }

    /// What to poll for.
    pub(super) fn interests(&self) -> impl Iterator<Item = (Part, BorrowedFd<'_>, PollFlags)> {
        let report = self.report.iter();
        let report = report.map(|fd| (Part::Report, fd.as_fd(), PollFlags::POLLIN));
        let console = self.console.iter();
        let console = console.map(|fd| (Part::Console, fd.as_fd(), PollFlags::POLLIN));
        let input = self.input.iter().map(|pump| {
            let (fd, flags) = pump.interest();
            (Part::Input, fd, flags)
        });
        // Until the program runs it is the runtime that writes, whose words are in its log.
        let outputs = self.outputs.iter().enumerate();
        let outputs = outputs.filter(|_| self.is_started);
        let outputs = outputs.filter_map(|(index, pump)| {
            let (fd, flags) = pump.as_ref()?.interest();
            Some((Part::Output(index), fd, flags))
        });
        report.chain(console).chain(input).chain(outputs)
    }

    /// When [`Self::next_event`] or [`Self::conclude`] has something to do, whatever is polled for.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let report_until = self.report_until.filter(|_| self.report.is_some());
        let open_until = self.open_until.filter(|_| self.is_started);
        report_until.into_iter().chain(open_until).min()
    }

    /// Goes on with a part that is ready.
    pub(super) fn advance(&mut self, part: Part) {
        match part {
            // Nothing is written to it: it is at its end.
            Part::Report => self.report = None,
            Part::Console => {
                if let Err(error) = self.take_terminal() {
                    self.fail(FailureKind::Other, format!("{error:#}"));
                }
            }
            Part::Input => {
                if !self.input.as_mut().is_some_and(Pump::run) {
                    self.input = None;
                }
            }
            Part::Output(index) => self.move_output(index),
        }
    }

    fn move_output(&mut self, index: usize) {
        if let Some(slot) = self.outputs.get_mut(index)
            && !slot.as_mut().is_some_and(Pump::run)
        {
            *slot = None;
        }
    }

    /// Takes the terminal that the runtime has made.
    fn take_terminal(&mut self) -> Result<()> {
        let Some(console) = &self.console else {
            return Ok(());
        };
        let (connection, _) = match console.accept() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            accepted => accepted.context("take the terminal")?,
        };
        // It is sent at once.
        readable_until(connection.as_fd(), Some(Instant::now() + REPORT_TIMEOUT))
            .context("take the terminal")?;
        let Some((_, terminal)) = descriptors::receive(connection.as_fd())? else {
            bail!("take the terminal: the runtime sends none");
        };
        let again = || terminal.try_clone().context("share the terminal");
        let [stdin, stdout] = std::mem::take(&mut self.sockets);
        if let Some(socket) = stdin {
            self.input = Some(Pump::new(socket, again()?).context("set up a stream")?);
        }
        if let Some(socket) = stdout {
            let pump = Pump::new(again()?, socket).context("set up a stream")?;
            self.outputs.push(Some(pump));
        }
        self.terminal = Some(terminal);
        self.console = None;
        self.resize(self.size);
        Ok(())
    }

    /// Tells its terminal a size, now or when there is one.
    pub(super) fn resize(&mut self, size: WindowSize) {
        self.size = size;
        if let Some(terminal) = &self.terminal {
            let size = Winsize {
                ws_row: size.rows,
                ws_col: size.columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // One that has ended needs none.
            let _ = tcsetwinsize(terminal, size);
        }
    }

    /// A child of the agent has ended; `earlier` finds the end of one that nobody knew. Whether it was
    /// one of this process's.
    pub(super) fn note_end(
        &mut self,
        pid: i32,
        status: ExitStatus,
        earlier: impl FnOnce(i32) -> Option<ExitStatus>,
    ) -> bool {
        if self.pid == Some(pid) {
            self.set_status(status);
            return true;
        }
        if self.runtime != Some(pid) {
            return false;
        }
        self.runtime = None;
        let number = match status {
            ExitStatus::Code(0) => number(&file("pid", &self.name)),
            _ => Err(anyhow::anyhow!("the runtime ended with {status:?}")),
        };
        match number {
            Ok(pid) => {
                self.pid = Some(pid);
                self.report_until = Some(Instant::now() + REPORT_TIMEOUT);
                if let Some(status) = earlier(pid) {
                    self.set_status(status);
                }
            }
            Err(error) => {
                let (kind, message) = self
                    .complaint()
                    .unwrap_or((FailureKind::Other, format!("{error:#}")));
                self.fail(kind, message);
            }
        }
        true
    }

    fn set_status(&mut self, status: ExitStatus) {
        self.status = Some(status);
        self.open_until = Some(Instant::now() + self.patience);
        self.input = None;
    }

    fn fail(&mut self, kind: FailureKind, message: String) {
        self.failure.get_or_insert((kind, message));
    }

    /// Whether the runtime is still at starting it.
    pub(super) fn is_being_started(&self) -> bool {
        self.runtime.is_some()
    }

    /// Whether its program runs: others may join it now.
    pub(super) fn is_running(&self) -> bool {
        self.is_started && self.status.is_none()
    }

    /// Whether it ran and has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.is_started && self.status.is_some()
    }

    /// Its number, as long as nobody else can have it.
    pub(super) fn pid(&self) -> Option<i32> {
        self.pid.filter(|_| self.status.is_none())
    }

    /// Waits no longer for output that others have held open for too long: what there is by now is all.
    pub(super) fn conclude(&mut self) {
        if self.is_started && self.open_until.is_some_and(|at| Instant::now() >= at) {
            self.open_until = None;
            self.outputs.iter_mut().flatten().for_each(Pump::conclude);
        }
    }

    /// What the supervisor is to be told next; whatever is no start is the last of this process.
    pub(super) fn next_event(
        &mut self,
        process: ProcessId,
        was_out_of_memory: impl Fn() -> bool,
    ) -> Option<Event> {
        if let Some((kind, message)) = self.failure.take() {
            self.abandon();
            return Some(Event::Failed {
                process,
                kind,
                message,
            });
        }
        if self.runtime.is_some() || self.pid.is_none() {
            return None;
        }
        if !self.is_started {
            let late = self.report_until.is_some_and(|at| Instant::now() >= at);
            if self.report.is_some() && !late {
                return None;
            }
            if let Some((kind, message)) = self.complaint() {
                // It says why it can't execute the program, and ends.
                self.status?;
                self.abandon();
                return Some(Event::Failed {
                    process,
                    kind,
                    message,
                });
            }
            // The runtime has made it by now.
            if let Err(error) = self.take_terminal() {
                self.abandon();
                return Some(Event::Failed {
                    process,
                    kind: FailureKind::Other,
                    message: format!("{error:#}"),
                });
            }
            self.is_started = true;
            return Some(Event::Started {
                process,
                boottime_ns: monotonic_ns(),
            });
        }
        let status = self.status?;
        self.conclude();
        // What it wrote just before its end.
        for index in 0..self.outputs.len() {
            self.move_output(index);
        }
        self.outputs
            .iter()
            .flatten()
            .all(Pump::discards)
            .then_some(Event::Exited {
                process,
                status,
                oom_killed: was_out_of_memory(),
            })
    }

    /// Stops delivering: nobody listens.
    pub(super) fn abandon(&mut self) {
        self.input = None;
        self.outputs.clear();
        self.sockets = [None, None];
    }

    /// Its outputs that are still open once its end is told: those it left behind may write into them,
    /// which goes nowhere.
    pub(super) fn into_lingering(mut self) -> impl Iterator<Item = Pump> {
        std::mem::take(&mut self.outputs).into_iter().flatten()
    }

    /// What the runtime says of why there is no process.
    fn complaint(&self) -> Option<(FailureKind, String)> {
        complaint_in(&file("log", &self.name))
    }

    /// Removes its files of these kinds.
    fn clear(&self, kinds: &[&str]) {
        for kind in kinds {
            let _ = fs::remove_file(file(kind, &self.name));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.clear(&OWN_FILES);
        self.clear(&[SPEC]);
    }
}

/// The number in a runtime's file.
fn number(path: &str) -> Result<i32> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(NUMBER_MAX).read_to_string(&mut text))
        .context("read the number of the process")?;
    let pid = text
        .trim()
        .parse()
        .ok()
        .filter(|pid: &i32| *pid > 1)
        .with_context(|| format!("the runtime says {text:?} is the number of the process"))?;
    Ok(pid)
}

/// Does `act` without SIGCHLD being blocked; one that comes meanwhile is lost.
pub(super) fn unblocked<T>(act: impl FnOnce() -> T) -> T {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    // A mask of one signal that there is can be set.
    let _ = mask.thread_unblock();
    let done = act();
    let _ = mask.thread_block();
    done
}

/// What a runtime says in its log of why it failed.
pub(super) fn complaint_in(path: &str) -> Option<(FailureKind, String)> {
    let mut text = String::new();
    let log = File::open(path).ok()?;
    log.take(LOG_MAX).read_to_string(&mut text).ok()?;
    complaint(&text)
}

/// The last error of a runtime's log, one JSON object a line, with Docker's kind.
fn complaint(log: &str) -> Option<(FailureKind, String)> {
    let message = log.lines().rev().find_map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_error = value.get("level")?.as_str()? == "error";
        is_error.then(|| value.get("msg")?.as_str().map(str::to_owned))?
    })?;
    let has = |text: &str| message.to_lowercase().contains(text);
    let kind = if has("not found") || has("no such file") {
        FailureKind::NotFound
    } else if has("permission denied") || has("exec format") || has("is a directory") {
        FailureKind::NotExecutable
    } else {
        FailureKind::Other
    };
    Some((kind, message))
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A process that has ended, whose output somebody may still hold open; the writer and the
    /// supervisor's end of that.
    fn ended(patience: Duration) -> (Process, PipeWriter, UnixStream) {
        let (pipe, writer) = std::io::pipe().unwrap();
        let (socket, supervisor) = UnixStream::pair().unwrap();
        let mut process = Process {
            name: "ended".to_owned(),
            runtime: None,
            pid: Some(2),
            report: None,
            report_until: None,
            console: None,
            sockets: [None, None],
            size: WindowSize {
                rows: 0,
                columns: 0,
            },
            terminal: None,
            input: None,
            outputs: vec![Some(Pump::new(pipe.into(), socket.into()).unwrap())],
            is_started: true,
            status: None,
            patience,
            open_until: None,
            failure: None,
        };
        assert!(process.note_end(2, ExitStatus::Code(0), |_| None));
        (process, writer, supervisor)
    }

    fn told(process: &mut Process) -> bool {
        matches!(
            process.next_event(1, || false),
            Some(Event::Exited { process: 1, .. })
        )
    }

    #[test]
    fn output_that_others_hold_open_is_its_own_until_its_end() {
        let (mut process, mut writer, mut supervisor) = ended(Duration::from_secs(3600));
        assert!(!told(&mut process));
        assert!(process.deadline().is_some());
        writer.write_all(b"late").unwrap();
        assert!(!told(&mut process));
        drop(writer);
        // As long as another test's child has not executed, it has the pipe too.
        while !told(&mut process) {
            std::thread::yield_now();
        }
        assert_eq!(process.into_lingering().count(), 0);
        let mut text = String::new();
        supervisor.read_to_string(&mut text).unwrap();
        assert_eq!(text, "late");
    }

    #[test]
    fn output_that_others_hold_open_for_too_long_goes_nowhere() {
        let (mut process, mut writer, mut supervisor) = ended(Duration::ZERO);
        writer.write_all(b"its own").unwrap();
        assert!(told(&mut process));
        assert!(process.deadline().is_none());
        let mut pumps: Vec<Pump> = process.into_lingering().collect();
        writer.write_all(b"late").unwrap();
        assert!(pumps.len() == 1 && pumps.iter_mut().all(Pump::run));
        let mut text = String::new();
        supervisor.read_to_string(&mut text).unwrap();
        assert_eq!(text, "its own");
    }

    #[test]
    fn a_runtimes_last_error_has_dockers_kind() {
        let line =
            |text: &str| format!("{{\"msg\":\"{text}\",\"level\":\"error\",\"time\":\"x\"}}\n");
        let of = |text: &str| complaint(&line(text)).map(|(kind, _)| kind);
        assert_eq!(
            of("executable file `x` not found in $PATH: No such file"),
            Some(FailureKind::NotFound)
        );
        assert_eq!(
            of("open executable: Permission denied"),
            Some(FailureKind::NotExecutable)
        );
        assert_eq!(of("mount `proc`: something"), Some(FailureKind::Other));
        let none = "{\"level\":\"warning\",\"msg\":\"x\"}\nnot json\n";
        assert_eq!(complaint(none), None);
        assert_eq!(complaint(""), None);
    }
}
