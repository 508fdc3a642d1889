//! The control connection: frames from and to the host.
//!
//! Called by [`crate::init`] and [`crate::container`]. It never blocks while a container runs:
//! what the host does not read at once is queued, up to a limit. It knows frames and not what they
//! ask for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use protocol::frame::{self, Decoder, FrameError};
use protocol::message::{Event, Request};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::vsock;

/// Bytes of events that wait for the host. Events are small and few; a host that leaves this many
/// unread is gone.
const MAX_QUEUED: usize = 1 << 20;

/// Bytes of one read; most requests fit.
const READ_LEN: usize = 16 << 10;

/// How long the last event may take to leave the guest before the power goes off anyway.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why the conversation is over.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A system call failed.
    #[error("{operation} the control connection: {source}")]
    Io {
        /// Which.
        operation: &'static str,
        /// Its error.
        source: Errno,
    },
    /// The host sent no frame, or an event is too long for one.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The host closed the connection.
    #[error("the host closed the control connection")]
    Closed,
    /// The host reads no events.
    #[error("the host left {queued} bytes of events unread, the limit is {MAX_QUEUED}")]
    Unread {
        /// How many.
        queued: usize,
    },
}

fn io(operation: &'static str) -> impl FnOnce(Errno) -> ControlError {
    move |source| ControlError::Io { operation, source }
}

/// The connection to the host.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
    decoder: Decoder,
    queued: Vec<u8>,
}

impl Control {
    /// Takes a connected, non-blocking stream socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            decoder: Decoder::new(),
            queued: Vec::new(),
        }
    }

    /// What to poll the connection for.
    #[must_use]
    pub fn interest(&self) -> PollFlags {
        if self.queued.is_empty() {
            PollFlags::IN
        } else {
            PollFlags::IN | PollFlags::OUT
        }
    }

    /// Sends an event, or queues what the socket does not take.
    ///
    /// # Errors
    /// [`ControlError`]; the connection is of no use afterwards.
    pub fn send(&mut self, event: &Event) -> Result<(), ControlError> {
        self.queued.extend(frame::encode(event)?);
        self.flush()
    }

    /// Sends what is queued as far as the socket takes it.
    ///
    /// # Errors
    /// [`ControlError`]; the connection is of no use afterwards.
    pub fn flush(&mut self) -> Result<(), ControlError> {
        while !self.queued.is_empty() {
            match rustix::io::write(&self.socket, &self.queued) {
                Ok(sent) => {
                    self.queued.drain(..sent);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(io("write to")(errno)),
            }
        }
        match self.queued.len() {
            queued if queued > MAX_QUEUED => Err(ControlError::Unread { queued }),
            _ => Ok(()),
        }
    }

    /// Reads what has arrived and returns the requests that are whole.
    ///
    /// # Errors
    /// [`ControlError::Closed`] at the end of the stream, otherwise as [`Self::flush`].
    pub fn receive(&mut self) -> Result<Vec<Request>, ControlError> {
        let mut buffer = [0; READ_LEN];
        let mut requests = Vec::new();
        loop {
            match rustix::io::read(&self.socket, &mut buffer) {
                Ok(0) => return Err(ControlError::Closed),
                Ok(len) => self.decoder.push(buffer.get(..len).unwrap_or_default()),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(requests),
                Err(errno) => return Err(io("read from")(errno)),
            }
            while let Some(request) = self.decoder.decode()? {
                requests.push(request);
            }
        }
    }

    /// Waits for requests; at least one is returned.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn wait(&mut self) -> Result<Vec<Request>, ControlError> {
        loop {
            let requests = self.receive()?;
            if !requests.is_empty() {
                return Ok(requests);
            }
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(io("poll")(errno)),
            }
        }
    }

    /// Sends the last event and waits until it has left the guest.
    ///
    /// # Errors
    /// As [`Self::send`], and when the host does not take it in time.
    pub fn finish(mut self, event: &Event) -> Result<(), ControlError> {
        self.send(event)?;
        let limit = rustix::event::Timespec::try_from(LAST_WORDS).ok();
        while !self.queued.is_empty() {
            let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
            if poll(&mut fds, limit.as_ref()).map_err(io("poll"))? == 0 {
                return Err(io("write to")(Errno::TIMEDOUT));
            }
            self.flush()?;
        }
        vsock::wait_sent(self.socket.as_fd(), LAST_WORDS).map_err(io("flush"))
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (Control, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        (Control::new(ours), theirs)
    }

    #[test]
    fn requests_come_out_whole_and_in_order() {
        let (mut control, host) = pair();
        let mut bytes = Vec::new();
        for signal in 1..=3 {
            bytes.extend(frame::encode(&Request::Signal { process: 0, signal }).unwrap());
        }
        let (head, tail) = bytes.split_at(bytes.len() - 2);
        rustix::io::write(&host, head).unwrap();
        assert_eq!(control.receive().unwrap().len(), 2);
        rustix::io::write(&host, tail).unwrap();
        let rest = control.wait().unwrap();
        assert!(matches!(rest[..], [Request::Signal { signal: 3, .. }]));
    }

    #[test]
    fn the_end_of_the_stream_is_an_error() {
        let (mut control, host) = pair();
        drop(host);
        assert!(matches!(control.receive(), Err(ControlError::Closed)));
    }

    #[test]
    fn events_wait_for_a_slow_host_up_to_the_limit() {
        let (mut control, host) = pair();
        let event = Event::Failed {
            process: 0,
            kind: protocol::message::FailureKind::Other,
            message: "x".repeat(100_000),
        };
        let error = (0..100).find_map(|_| control.send(&event).err());
        assert!(matches!(error, Some(ControlError::Unread { queued }) if queued > MAX_QUEUED));
        assert!(control.interest().contains(PollFlags::OUT));
        let mut sink = vec![0; 64 << 10];
        let mut decoder = Decoder::new();
        let mut events = 0;
        loop {
            control.flush().ok();
            match rustix::io::read(&host, &mut sink) {
                Ok(len) => decoder.push(&sink[..len]),
                Err(errno) => {
                    assert_eq!(errno, Errno::AGAIN);
                    break;
                }
            }
            while let Some(Event::Failed { message, .. }) = decoder.decode().unwrap() {
                assert_eq!(message.len(), 100_000);
                events += 1;
            }
        }
        assert!(events > 5, "{events}");
        assert_eq!(control.interest(), PollFlags::IN);
    }
}
