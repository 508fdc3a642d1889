//! What a command and a container's supervisor say to each other: messages, framed as in the
//! protocol crate, and descriptors that go with them.
//!
//! A connection is one command's: the one that started the supervisor inherits its end, others come
//! by `containers/<id>/control.sock`. The bytes of stdin, stdout and stderr do not go through here:
//! each is a pipe whose end is handed over. Both sides are the same user's.
#![allow(unsafe_code)] // takes ownership of descriptors out of control messages

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg,
};
use nix::unistd::Pid;
use protocol::frame::{Decoder, encode};
use protocol::message::WindowSize;
use protocol::spec::{ProcessSpec, Resources};
use protocol::task::{Outcome, Task};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::agent::AgentError;

/// Descriptors that a message of or to a command may bring: stdin, stdout, stderr.
const DESCRIPTORS_MAX: usize = 3;

/// Descriptors that any message may bring (`SCM_MAX_FD`).
const DESCRIPTORS_OF_ALL_MAX: usize = 253;

/// Bytes read at once.
const READ_LEN: usize = 16 << 10;

/// Streams that a message hands over, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSet {
    /// The reading end of a pipe.
    pub stdin: bool,
    /// The writing end of a pipe.
    pub stdout: bool,
    /// So too.
    pub stderr: bool,
}

/// From a command to the supervisor. What asks for something is answered once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSupervisor {
    /// Join these streams with those of the container's process. Answered by `Started` when it
    /// runs, and by its end.
    Attach(StreamSet),
    /// Run another process in the container, joined with these streams. Answered as `Attach` is.
    Exec {
        /// What to run; the supervisor gives the ports.
        spec: Box<ProcessSpec>,
        /// Its streams.
        streams: StreamSet,
    },
    /// The user typed the detach keys: the end of stdin that follows is no end of input.
    Detach,
    /// Send this signal to the process that this connection is attached to.
    Signal(i32),
    /// The terminal of this connection changed its size.
    Resize(WindowSize),
    /// Send a signal to the container's process. SIGKILL is answered when the container has ended.
    Kill(i32),
    /// Stop the container: signal, time, SIGKILL. Answered when it has ended.
    Stop(StopRequest),
    /// Freeze or thaw it.
    Freeze(bool),
    /// Freeze it for as long as this connection lasts, or thaw what this connection froze.
    HoldStill(bool),
    /// Change the limits of what runs. Answered when that is so.
    Update(Box<NewLimits>),
    /// Do something beside the container's processes. Answered by `TaskEnded`.
    Task {
        /// What.
        task: Box<Task>,
        /// Whether a socket comes with it: the guest's end of the task's stream.
        stream: bool,
    },
    /// Answered by its end.
    Wait,
}

/// Limits that a container is to have from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewLimits {
    /// Of its control group.
    pub resources: Resources,
    /// `--blkio-weight`.
    pub blkio_weight: Option<u16>,
    /// vCPUs of its next VM.
    pub vcpu_count: u8,
    /// Host CPUs the VM may run on; empty for all.
    pub host_cpus: Vec<usize>,
}

/// How a container is to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// Instead of the container's own.
    pub signal: Option<i32>,
    /// Seconds to SIGKILL instead of the container's own; negative for ever.
    pub timeout_s: Option<i64>,
    /// Whether it is to be started again; then that is what is answered.
    pub again: bool,
}

/// From the supervisor to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToCommand {
    /// The process runs.
    Started,
    /// It could not be started.
    Failed {
        /// Docker's exit code.
        code: u8,
        /// One sentence.
        message: String,
    },
    /// It ended, its output is written, and with `--rm` the container is gone.
    Exited {
        /// Docker's exit code.
        code: u8,
        /// What went wrong after that, in one sentence.
        trouble: Option<String>,
    },
    /// A task is over.
    TaskEnded(Outcome),
    /// What was asked for is done.
    Done,
    /// It was not: one sentence.
    Refused(String),
}

/// What is said of a container to who asked for something too late.
pub const ENDED: &str = "the container has ended";

/// One end of a connection.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    decoder: Decoder,
    descriptors: VecDeque<OwnedFd>,
    descriptors_max: usize,
}

impl Link {
    /// Talks over `stream`.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: Decoder::new(),
            descriptors: VecDeque::new(),
            descriptors_max: DESCRIPTORS_MAX,
        }
    }

    /// The same between a supervisor and its launcher, which is handed what a VM needs.
    #[must_use]
    pub fn of_launcher(stream: UnixStream) -> Self {
        Self {
            descriptors_max: DESCRIPTORS_OF_ALL_MAX,
            ..Self::new(stream)
        }
    }

    /// The process at the other end: of a command's link the supervisor, which listened.
    #[must_use]
    pub fn peer(&self) -> Option<Pid> {
        let peer = getsockopt(&self.stream, PeerCredentials).ok()?;
        Some(Pid::from_raw(peer.pid()))
    }

    /// A second handle that can send.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn sender(&self) -> Result<Sender> {
        let stream = self.stream.try_clone().context("share a socket")?;
        Ok(Sender(stream))
    }

    /// Sends a message with descriptors.
    ///
    /// # Errors
    /// When the other side is gone.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd]) -> Result<()> {
        let bytes = encode(message).context("write a message")?;
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights: &[_] = if raw.is_empty() { &[] } else { &rights };
        let sent = loop {
            let iovecs = [IoSlice::new(&bytes)];
            let flags = MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(self.stream.as_raw_fd(), &iovecs, rights, flags, None) {
                Err(Errno::EINTR) => {}
                sent => break sent.context("send a message")?,
            }
        };
        let rest = bytes.get(sent..).unwrap_or_default();
        (&self.stream).write_all(rest).context("send a message")
    }

    /// Reads what has arrived, once. `false` when the other side is gone.
    ///
    /// # Errors
    /// More descriptors than any message brings.
    pub fn receive(&mut self) -> Result<bool> {
        let mut bytes = [0; READ_LEN];
        let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_OF_ALL_MAX]);
        let (len, received) = {
            let mut iovecs = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let fd = self.stream.as_raw_fd();
            let message = match recvmsg::<()>(fd, &mut iovecs, Some(&mut space), flags) {
                Ok(message) => message,
                Err(Errno::EINTR | Errno::EAGAIN) => return Ok(true),
                Err(_) => return Ok(false),
            };
            let mut received = Vec::new();
            for control in message.cmsgs().context("read a control message")? {
                if let ControlMessageOwned::ScmRights(descriptors) = control {
                    // SAFETY: the kernel opened them for this process alone, just now.
                    let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
                    received.extend(descriptors.into_iter().map(own));
                }
            }
            (message.bytes, received)
        };
        self.descriptors.extend(received);
        if self.descriptors.len() > self.descriptors_max {
            bail!("more descriptors than a message brings");
        }
        self.decoder.push(bytes.get(..len).unwrap_or_default());
        Ok(len > 0)
    }

    /// The next message that is there as a whole.
    ///
    /// # Errors
    /// When it is none.
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        self.decoder.decode().context("read a message")
    }

    /// Waits for the next message; `None` when the other side is gone.
    ///
    /// # Errors
    /// As [`Self::receive`] and [`Self::next`].
    pub fn wait<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        self.wait_until(None)
    }

    /// As [`Self::wait`], but no longer than until `deadline`.
    ///
    /// # Errors
    /// [`AgentError::Timeout`] when that is reached.
    pub fn wait_until<T: DeserializeOwned>(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<T>> {
        loop {
            if let Some(message) = self.next()? {
                return Ok(Some(message));
            }
            if deadline.is_some() && !super::poll::readable_until(self.stream.as_fd(), deadline)? {
                return Err(AgentError::Timeout.into());
            }
            if !self.receive()? {
                return Ok(None);
            }
        }
    }

    /// The descriptor of a message that hands over one.
    ///
    /// # Errors
    /// When it is missing.
    pub fn take_one(&mut self) -> Result<OwnedFd> {
        self.descriptors
            .pop_front()
            .context("a descriptor is missing")
    }

    /// All descriptors of the last message.
    pub fn take_all(&mut self) -> Vec<OwnedFd> {
        self.descriptors.drain(..).collect()
    }

    /// The descriptors of a message that hands these over.
    ///
    /// # Errors
    /// When one is missing.
    pub fn take(&mut self, set: StreamSet) -> Result<[Option<OwnedFd>; 3]> {
        let mut take = |wanted: bool| match wanted {
            true => self.descriptors.pop_front().map(Some),
            false => Some(None),
        };
        let streams = (take(set.stdin), take(set.stdout), take(set.stderr));
        match streams {
            (Some(stdin), Some(stdout), Some(stderr)) => Ok([stdin, stdout, stderr]),
            _ => bail!("a descriptor is missing"),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A handle of a [`Link`] that sends, for threads of a command.
#[derive(Debug)]
pub struct Sender(UnixStream);

impl Sender {
    /// Sends a message. Whether the other side is gone is noticed by who reads.
    pub fn send(&mut self, message: &ToSupervisor) {
        if let Ok(bytes) = encode(message) {
            let _ = self.0.write_all(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn pair() -> (Link, Link) {
        let (a, b) = UnixStream::pair().unwrap();
        (Link::new(a), Link::new(b))
    }

    #[test]
    fn descriptors_arrive_with_their_message() {
        let (command, mut supervisor) = pair();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let set = StreamSet {
            stdout: true,
            ..StreamSet::default()
        };
        command
            .send(&ToSupervisor::Attach(set), &[writer.as_fd()])
            .unwrap();
        drop(writer);
        let message = supervisor.wait::<ToSupervisor>().unwrap();
        assert_eq!(message, Some(ToSupervisor::Attach(set)));
        let [None, Some(stdout), None] = supervisor.take(set).unwrap() else {
            panic!("other streams than were sent");
        };
        std::fs::File::from(stdout).write_all(b"out").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "out");
        supervisor.take(set).unwrap_err();
    }

    #[test]
    fn more_descriptors_than_a_message_brings_end_the_connection() {
        let (command, mut supervisor) = pair();
        let (reader, _writer) = std::io::pipe().unwrap();
        let fds = [reader.as_fd(); 2];
        command.send(&ToSupervisor::Wait, &fds).unwrap();
        command.send(&ToSupervisor::Wait, &fds).unwrap();
        let outcome = supervisor.receive().and_then(|_| supervisor.receive());
        assert!(outcome.is_err(), "{outcome:?}");
    }

    #[test]
    fn an_answer_is_waited_for_no_longer_than_said() {
        let (command, mut supervisor) = pair();
        let at = Some(Instant::now());
        let error = supervisor.wait_until::<ToSupervisor>(at).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(AgentError::Timeout)));
        command.send(&ToSupervisor::Wait, &[]).unwrap();
        let message = supervisor.wait_until(at).unwrap();
        assert_eq!(message, Some(ToSupervisor::Wait));
    }

    #[test]
    fn the_end_and_nonsense_are_told_apart() {
        let (command, mut supervisor) = pair();
        drop(command);
        assert_eq!(supervisor.wait::<ToSupervisor>().unwrap(), None);
        let (mut nonsense, supervisor) = UnixStream::pair().unwrap();
        nonsense.write_all(&[0xff; 8]).unwrap();
        Link::new(supervisor).wait::<ToSupervisor>().unwrap_err();
    }
}
