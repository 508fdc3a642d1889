//! The agent's view of one process of the container: its report, its end, its streams.
//!
//! Called by [`crate::container`], whose poll loop says which part is ready. It knows no other
//! process and not the control connection: what the host is to be told comes back as a value.
//!
//! ```text
//! started ---report ends---> running ---pidfd readable---> ended ---outputs at their end---> told
//!    \                                                        \------or time is over---------> told
//!     \-----report says why not, or the child vanished---------------------------------------> told
//! ```
// pidfd_send_signal is only wrapped for signals that have a name.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use protocol::message::{ExitStatus, WindowSize};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use crate::failure::Failure;
use crate::pump::{Flow, Pump};
use crate::spawn::{Outcome, Report, Spawned};
use crate::stdio::{self, ChildIo, Streams};

/// Something of a process that can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What its child says on the way to the program.
    Report,
    /// Its end.
    Exit,
    /// The stream to it.
    Input,
    /// A stream from it.
    Output(usize),
}

/// How it went, once nothing more will come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The program ran and ended so.
    Exited(ExitStatus),
    /// It never ran.
    Failed(Failure),
    /// Nor did this one: a signal ended it on its way to the program.
    Killed(u8),
}

/// Time between two questions for the end of a process whose tracer has not waited for it.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A process that the host asked for.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    pid: i32,
    report: Option<Report>,
    outcome: Outcome,
    status: Option<ExitStatus>,
    /// It has ended, and is its tracer's to wait for before it is ours: when to ask again.
    ask_again: Option<Instant>,
    /// How long those that it leaves behind may add to its output after its end.
    patience: Duration,
    /// When that is over, until it is.
    open_until: Option<Instant>,
    input: Option<Pump>,
    outputs: Vec<Option<Pump>>,
    terminal: Option<OwnedFd>,
    /// The terminal's other side, open until the process's end: it may close its own and open the
    /// terminal again, and reading ours fails while nobody has it open.
    theirs: Option<OwnedFd>,
}

impl Process {
    /// Takes over a child on its way to its program. The child's ends of pipes are closed. For so much
    /// `patience` output that others still hold open after its end is its own.
    #[must_use]
    pub fn new(spawned: Spawned, streams: Streams, patience: Duration) -> Self {
        Self {
            pidfd: spawned.pidfd,
            pid: spawned.pid,
            report: Some(spawned.report),
            outcome: Outcome::Vanished,
            status: None,
            ask_again: None,
            patience,
            open_until: None,
            input: streams.input,
            outputs: streams.outputs.into_iter().map(Some).collect(),
            terminal: streams.terminal,
            theirs: match streams.child {
                ChildIo::Terminal(theirs) => Some(theirs),
                ChildIo::Pipes(_) => None,
            },
        }
    }

    /// What to poll for.
    pub fn interests(&self) -> impl Iterator<Item = (Part, BorrowedFd<'_>, PollFlags)> {
        let report = self.report.iter();
        let report = report.map(|report| (Part::Report, report.as_fd(), PollFlags::IN));
        let exit = self.status.is_none() && self.ask_again.is_none_or(|at| at <= Instant::now());
        let exit = exit.then(|| (Part::Exit, self.pidfd.as_fd(), PollFlags::IN));
        let input = self.input.iter().map(|pump| {
            let (fd, flags) = pump.interest();
            (Part::Input, fd, flags)
        });
        let outputs = self.outputs.iter().enumerate();
        let outputs = outputs.filter_map(|(index, pump)| {
            let (fd, flags) = pump.as_ref()?.interest();
            Some((Part::Output(index), fd, flags))
        });
        report.chain(exit).chain(input).chain(outputs)
    }

    /// Goes on with a part that is ready. Returns `CLOCK_BOOTTIME` in nanoseconds when that told
    /// that the program runs.
    pub fn advance(&mut self, part: Part) -> Option<u64> {
        match part {
            Part::Report => return self.read_report(),
            Part::Exit => {
                if let Some(status) = reap(self.pidfd.as_fd()) {
                    self.status = Some(status);
                    self.open_until = Some(Instant::now() + self.patience);
                    self.input = None;
                    self.theirs = None;
                    for index in 0..self.outputs.len() {
                        self.pump_output(index);
                    }
                    return self.read_report();
                }
                self.ask_again = Some(Instant::now() + ASK_AGAIN);
            }
            Part::Input => {
                if self.input.as_mut().map(Pump::run) == Some(Flow::Ended) {
                    self.input = None;
                }
            }
            Part::Output(index) => self.pump_output(index),
        }
        None
    }

    fn read_report(&mut self) -> Option<u64> {
        self.outcome = self.report.as_mut()?.read()?;
        self.report = None;
        match self.outcome {
            Outcome::Started { boottime_ns } => Some(boottime_ns),
            Outcome::Failed(_) | Outcome::Vanished => None,
        }
    }

    fn pump_output(&mut self, index: usize) {
        if let Some(slot) = self.outputs.get_mut(index)
            && slot.as_mut().map(Pump::run) == Some(Flow::Ended)
        {
            *slot = None;
        }
    }

    /// Stops delivering: nobody listens, or nobody will.
    pub fn abandon_streams(&mut self) {
        self.input = None;
        self.outputs.clear();
    }

    /// Whether it has ended, delivered or not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.status.is_some()
    }

    /// When [`Self::conclude`] or [`Self::interests`] has something else to say, whatever is polled for.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let ask_again = self.ask_again.filter(|_| self.status.is_none());
        [self.open_until, ask_again].into_iter().flatten().min()
    }

    /// Waits no longer for output that others have held open for too long: what there is by now is all.
    pub fn conclude(&mut self) {
        if self.open_until.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.open_until = None;
        for index in 0..self.outputs.len() {
            if let Some(Some(pump)) = self.outputs.get_mut(index) {
                pump.conclude();
            }
            self.pump_output(index);
        }
    }

    /// How it went, once it has ended and its output is delivered, which is complete when nobody holds it
    /// open any more or [`Self::conclude`] says so; [`Self::into_lingering`] has the rest.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        let status = self.status?;
        let mut outputs = self.outputs.iter().flatten();
        if self.report.is_some() || !outputs.all(Pump::discards) {
            return None;
        }
        Some(match &self.outcome {
            Outcome::Started { .. } => End::Exited(status),
            Outcome::Failed(failure) => End::Failed(failure.clone()),
            Outcome::Vanished => match status {
                ExitStatus::Code(code) => End::Failed(Failure::other(format!(
                    "the process ended with code {code} before its program was executed"
                ))),
                ExitStatus::Signal(signal) => End::Killed(signal),
            },
        })
    }

    /// The output streams that are still open once it is told how it went: processes it left behind may
    /// write to them, which goes nowhere.
    pub fn into_lingering(self) -> impl Iterator<Item = Pump> {
        self.outputs.into_iter().flatten()
    }

    /// Sends a signal by number.
    ///
    /// # Errors
    /// `ESRCH` when it has ended, `EINVAL` for a number that is no signal.
    pub fn signal(&self, signal: i32) -> Result<(), Errno> {
        // SAFETY: a system call on an open descriptor; without a pointer to more information.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match answer {
            0 => Ok(()),
            _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }

    /// Tells its terminal a size, if it has one.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn resize(&self, size: WindowSize) -> Result<(), Errno> {
        match &self.terminal {
            Some(terminal) => stdio::resize(terminal.as_fd(), size),
            None => Ok(()),
        }
    }

    /// Whether its program runs: others may join it now.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.status.is_none() && matches!(self.outcome, Outcome::Started { .. })
    }

    /// Its number as the agent sees it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its pidfd.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// The status of a child that has ended; it is gone from the process table then.
fn reap(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(pidfd), options).ok()??;
    Some(exit_status(&status))
}

fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(byte(code & 0xff)),
        (_, Some(signal)) => ExitStatus::Signal(byte(signal)),
        _ => ExitStatus::Code(u8::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pump::Role;
    use rustix::event::{PollFd, poll};
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::process::{Command, Stdio};

    /// Long enough for any machine.
    const EVER: Duration = Duration::from_secs(3600);

    /// A shell whose program runs, to be reaped by its pidfd; the end of its input, and the host's of its
    /// output.
    #[expect(clippy::zombie_processes)]
    fn shell(script: &str, patience: Duration) -> (Process, OwnedFd, OwnedFd) {
        let (stdin, input) = std::io::pipe().unwrap();
        let (ours, stdout) = std::io::pipe().unwrap();
        let ours = OwnedFd::from(ours);
        fcntl_setfl(&ours, fcntl_getfl(&ours).unwrap() | OFlags::NONBLOCK).unwrap();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, host) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command.stdin(Stdio::from(stdin)).stdout(stdout);
        let child = command.spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process {
            pidfd: pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap(),
            pid,
            report: None,
            outcome: Outcome::Started { boottime_ns: 1 },
            status: None,
            ask_again: None,
            patience,
            open_until: None,
            input: None,
            outputs: vec![Some(Pump::splicing(ours, socket, Role::Output))],
            terminal: None,
            theirs: None,
        };
        (process, input.into(), host)
    }

    /// Goes on with what is ready until `is_enough`.
    fn go_on(process: &mut Process, is_enough: impl Fn(&Process) -> bool) {
        while !is_enough(process) {
            let mut parts = Vec::new();
            let mut fds = Vec::new();
            for (part, fd, flags) in process.interests() {
                parts.push(part);
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
            poll(&mut fds, None).unwrap();
            let ready = parts.into_iter().zip(&fds);
            let ready = ready.filter(|(_, fd)| !fd.revents().is_empty());
            let ready: Vec<Part> = ready.map(|(part, _)| part).collect();
            for part in ready {
                process.advance(part);
            }
        }
    }

    fn read(host: &OwnedFd) -> String {
        let mut buffer = [0; 100];
        let len = rustix::io::read(host, &mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    const SUCCESS: End = End::Exited(ExitStatus::Code(0));

    #[test]
    fn one_that_leaves_nothing_behind_is_told_at_once() {
        let (mut process, _input, host) = shell("echo all", EVER);
        go_on(&mut process, |process| process.end().is_some());
        assert_eq!(process.end(), Some(SUCCESS));
        assert_eq!(process.into_lingering().count(), 0);
        assert_eq!(read(&host), "all\n");
    }

    /// What is left behind writes when it is told to.
    const LEAVES: &str = "exec 3<&0; (read line <&3; echo $line) & echo now";

    #[test]
    fn output_of_those_left_behind_is_its_own() {
        let (mut process, input, host) = shell(LEAVES, EVER);
        go_on(&mut process, Process::has_ended);
        process.conclude();
        assert_eq!(process.end(), None);
        assert!(process.deadline().is_some());
        assert_eq!(read(&host), "now\n");
        rustix::io::write(&input, b"late\n").unwrap();
        go_on(&mut process, |process| {
            process.outputs.iter().flatten().count() == 0
        });
        assert_eq!(process.end(), Some(SUCCESS));
        assert_eq!(read(&host), "late\n");
    }

    #[test]
    fn those_left_behind_for_too_long_write_into_nothing() {
        let (mut process, input, host) = shell(LEAVES, Duration::ZERO);
        go_on(&mut process, Process::has_ended);
        assert_eq!(process.end(), None);
        process.conclude();
        assert_eq!(process.end(), Some(SUCCESS));
        assert_eq!(process.deadline(), None);
        let mut pumps: Vec<Pump> = process.into_lingering().collect();
        rustix::io::write(&input, b"late\n").unwrap();
        let [pump] = &mut pumps[..] else {
            panic!("{} streams", pumps.len());
        };
        loop {
            let (fd, flags) = pump.interest();
            poll(&mut [PollFd::new(&fd, flags)], None).unwrap();
            if pump.run() == Flow::Ended {
                break;
            }
        }
        assert_eq!(read(&host), "now\n");
        assert_eq!(read(&host), "");
    }
}
