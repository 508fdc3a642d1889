//! The agent's view of one process of the container: its report, its end, its streams.
//!
//! Called by [`crate::container`], whose poll loop says which part is ready. It knows no other
//! process and not the control connection: what the host is to be told comes back as a value.
//!
//! ```text
//! started ---report ends---> running ---pidfd readable---> ended ---outputs drained---> told
//!    \------report says why not, or the child vanished--------------------------------> told
//! ```
// pidfd_send_signal is only wrapped for signals that have a name.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

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

/// A process that the host asked for.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    pid: i32,
    report: Option<Report>,
    outcome: Outcome,
    status: Option<ExitStatus>,
    input: Option<Pump>,
    outputs: Vec<Option<Pump>>,
    terminal: Option<OwnedFd>,
    /// The terminal's other side, open until the process's end: it may close its own and open the
    /// terminal again, and reading ours fails while nobody has it open.
    theirs: Option<OwnedFd>,
}

impl Process {
    /// Takes over a child on its way to its program. The child's ends of pipes are closed.
    #[must_use]
    pub fn new(spawned: Spawned, streams: Streams) -> Self {
        Self {
            pidfd: spawned.pidfd,
            pid: spawned.pid,
            report: Some(spawned.report),
            outcome: Outcome::Vanished,
            status: None,
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
        let exit = self.status.is_none();
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
                    self.input = None;
                    self.theirs = None;
                    for index in 0..self.outputs.len() {
                        self.pump_output(index);
                    }
                    return self.read_report();
                }
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

    /// How it went, once it has ended and its output is delivered. Output that others still hold
    /// open is complete when there is none left at that moment; [`Self::into_lingering`] has the
    /// rest.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        let status = self.status?;
        let outputs = self.outputs.iter().flatten();
        if self.report.is_some() || !outputs.into_iter().all(Pump::is_drained) {
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

    /// The output streams that are still open: processes it left behind may write to them.
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
