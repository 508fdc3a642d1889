//! The control connection to the agent in a VM.
//!
//! Everything that comes in is a claim of an untrusted guest: frames are capped by the protocol
//! crate, waits have deadlines, and no value is used as a host path, size or name.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use protocol::frame::{Decoder, FrameError, encode};
use protocol::message::{Event, Request};

/// Bytes read at once.
const READ_LEN: usize = 16 << 10;

/// Why the conversation with the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The VM is gone.
    #[error("the VM ended before the agent answered")]
    Closed,
    /// No word until the deadline.
    #[error("the agent did not answer in time")]
    Timeout,
    /// It speaks nonsense.
    #[error("the agent broke the protocol")]
    Frame(#[from] FrameError),
    /// What it is to be told is too much: an environment, a command, mounts.
    #[error("what the process is to be given is too large: {0}")]
    Request(FrameError),
    /// The socket failed.
    #[error("talk to the agent")]
    Io(#[from] std::io::Error),
}

/// The host's end of the control connection.
#[derive(Debug)]
pub struct AgentLink {
    stream: UnixStream,
    decoder: Decoder,
}

impl AgentLink {
    /// Talks over `stream`.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: Decoder::new(),
        }
    }

    /// The descriptor to poll for events.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Ends the connection.
    pub fn close(&self) {
        // One that has ended is closed.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Sends a request; before the guest is up it waits in the socket.
    ///
    /// # Errors
    /// When the request is larger than a frame or the VM is gone.
    pub fn send(&mut self, request: &Request) -> Result<(), AgentError> {
        let bytes = encode(request).map_err(AgentError::Request)?;
        self.stream
            .write_all(&bytes)
            .map_err(|error| match error.kind() {
                _ if super::has_gone_away(&error) => AgentError::Closed,
                ErrorKind::WouldBlock => AgentError::Timeout,
                _ => AgentError::Io(error),
            })
    }

    /// Waits until `deadline` for the agent to be there, and tells it what every agent is told first.
    ///
    /// # Errors
    /// When it is none of ours, or as [`Self::next`].
    pub fn greet(&mut self, deadline: Option<Instant>) -> anyhow::Result<()> {
        match self.next(deadline)? {
            Event::Hello { version, .. } => super::check_version(version)?,
            other => anyhow::bail!(super::unexpected(&other)),
        }
        Ok(self.send(&super::wake()?)?)
    }

    /// The next event, waiting for it until `deadline`.
    ///
    /// # Errors
    /// [`AgentError`]; after anything but a timeout the VM is of no more use.
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Event, AgentError> {
        loop {
            // A guest that never stops talking is not waited for longer than a silent one.
            if deadline.is_some_and(|at| Instant::now() >= at) {
                return Err(AgentError::Timeout);
            }
            if let Some(event) = self.decoder.decode()? {
                return Ok(event);
            }
            let ready = super::poll::readable_until(self.stream.as_fd(), deadline)
                .map_err(std::io::Error::from)?;
            if !ready {
                return Err(AgentError::Timeout);
            }
            self.read()?;
        }
    }

    /// The next event if it has arrived whole; reads what there is at most once. To be called
    /// when [`Self::fd`] is readable, until it returns `None`.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn poll(&mut self) -> Result<Option<Event>, AgentError> {
        if let Some(event) = self.decoder.decode()? {
            return Ok(Some(event));
        }
        let readable = super::poll::readable_until(self.stream.as_fd(), Some(Instant::now()))
            .map_err(std::io::Error::from)?;
        if !readable {
            return Ok(None);
        }
        self.read()?;
        Ok(self.decoder.decode()?)
    }

    fn read(&mut self) -> Result<(), AgentError> {
        let mut buffer = [0; READ_LEN];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(AgentError::Closed),
            Ok(len) => {
                self.decoder.push(buffer.get(..len).unwrap_or_default());
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(AgentError::Closed),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pair() -> (AgentLink, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (AgentLink::new(ours), theirs)
    }

    #[test]
    fn events_that_come_in_pieces_are_put_together() {
        let (mut link, mut guest) = pair();
        let bytes = encode(&Event::Bye).unwrap();
        guest.write_all(&bytes[..3]).unwrap();
        assert!(link.poll().unwrap().is_none());
        guest.write_all(&bytes[3..]).unwrap();
        assert!(matches!(link.poll().unwrap(), Some(Event::Bye)));
        assert!(link.poll().unwrap().is_none());
    }

    #[test]
    fn a_request_that_is_too_large_is_no_fault_of_the_agent() {
        let (mut link, _guest) = pair();
        let request = Request::Convert(Box::new(protocol::spec::ConvertSpec {
            blob_bytes: 0,
            compression: protocol::spec::Compression::None,
            diff_id: "0".repeat(2 << 20),
            limits: super::super::disks::LAYER_LIMITS,
        }));
        let error = link.send(&request).unwrap_err();
        assert!(matches!(error, AgentError::Request(_)), "{error}");
    }

    #[test]
    fn silence_nonsense_and_the_end_are_told_apart() {
        let (mut link, guest) = pair();
        let soon = Some(Instant::now() + Duration::from_millis(5));
        assert!(matches!(link.next(soon), Err(AgentError::Timeout)));
        drop(guest);
        assert!(matches!(link.next(None), Err(AgentError::Closed)));

        let (mut link, mut guest) = pair();
        guest.write_all(&[0xff; 8]).unwrap();
        assert!(matches!(link.next(None), Err(AgentError::Frame(_))));
    }
}
