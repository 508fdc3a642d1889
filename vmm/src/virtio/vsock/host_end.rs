//! The host's end of a connection: a stream socket, the bytes it did not take yet, and what the
//! event loop watches it for.
//!
//! Used by connections, and by the device for connections that are over for the guest while the
//! host still reads. It knows no packets and no credit.
#![allow(unsafe_code)] // sendmsg and recvmsg on guest memory: std has no call for either

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use event_manager::EventSet;

use super::buffers::Slice;
use crate::virtio::{Watch, WatchChange};

/// Bytes copied at once from guest memory to the backlog, by way of the stack.
const COPY_BYTES: usize = 4096;

/// The host closed its end or the socket failed: it takes no more bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// What a read from the host came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes, at least 1.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// Nothing ever again: end of stream, or the socket failed.
    End,
}

/// A connected stream socket. Calls never block, whether or not it is set so, and never raise
/// SIGPIPE.
#[derive(Debug)]
pub(super) struct HostEnd {
    stream: UnixStream,
    token: u32,
    /// Bytes from the guest that the socket did not take; the caller bounds them by credit.
    backlog: VecDeque<u8>,
    watched: Option<EventSet>,
}

fn message(iovecs: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: msghdr is plain integers and pointers, for which zero means "none".
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len();
    message
}

fn iovecs(slices: &[Slice]) -> Vec<libc::iovec> {
    slices
        .iter()
        .map(|slice| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        })
        .collect()
}

impl HostEnd {
    /// The end on `stream`; `token` is how the event loop names it.
    pub(super) fn new(stream: OwnedFd, token: u32) -> Self {
        Self {
            stream: UnixStream::from(stream),
            token,
            backlog: VecDeque::new(),
            watched: None,
        }
    }

    pub(super) fn token(&self) -> u32 {
        self.token
    }

    /// Bytes that wait for the host to read.
    pub(super) fn backlog_bytes(&self) -> usize {
        self.backlog.len()
    }

    /// Reads from the host into guest memory; `into` must have room for at least a byte.
    pub(super) fn receive(&self, into: &[Slice]) -> Received {
        let mut iovecs = iovecs(into);
        let mut message = message(&mut iovecs);
        let result = retry(|| {
            // SAFETY: the message names nothing but `iovecs`, which lives through the call, and
            // each of them lies in guest memory that `into` borrows. The guest may change that
            // memory meanwhile; the kernel only writes to it.
            unsafe {
                libc::recvmsg(
                    self.stream.as_raw_fd(),
                    &raw mut message,
                    libc::MSG_DONTWAIT,
                )
            }
        });
        match result {
            Ok(0) => Received::End,
            Ok(bytes) => Received::Bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
            // A reset says no more than an end of stream does: what was sent before it was read.
            Err(_) => Received::End,
        }
    }

    fn send_now(&self, mut iovecs: Vec<libc::iovec>) -> Result<usize, Gone> {
        let message = message(&mut iovecs);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let result = retry(|| {
            // SAFETY: the message names nothing but `iovecs`, which lives through the call, as
            // does the memory they lie in: the callers' slices of guest memory or the backlog.
            // The kernel only reads it.
            unsafe { libc::sendmsg(self.stream.as_raw_fd(), &raw const message, flags) }
        });
        match result {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(_) => Err(Gone),
        }
    }

    /// Sends bytes from guest memory and keeps what the socket does not take in the backlog.
    /// Returns the bytes that it took of these.
    ///
    /// # Errors
    /// [`Gone`] when the host takes no more.
    pub(super) fn send(&mut self, data: &[Slice]) -> Result<usize, Gone> {
        let sent = if self.backlog.is_empty() {
            self.send_now(iovecs(data))?
        } else {
            0
        };
        let mut skip = sent;
        for slice in data {
            let mut at = skip.min(slice.len());
            skip -= at;
            let mut buffer = [0_u8; COPY_BYTES];
            while let Ok(rest) = slice.offset(at)
                && !rest.is_empty()
            {
                let copied = rest.copy_to(&mut buffer[..]);
                self.backlog.extend(&buffer[..copied]);
                at += copied;
            }
        }
        Ok(sent)
    }

    /// Sends from the backlog what the socket takes; returns how much that was.
    ///
    /// # Errors
    /// [`Gone`] when the host takes no more.
    pub(super) fn flush(&mut self) -> Result<usize, Gone> {
        let (front, back) = self.backlog.as_slices();
        let iovecs = [front, back]
            .iter()
            .filter(|part| !part.is_empty())
            .map(|part| libc::iovec {
                // Cast to mut for the type's sake; sendmsg does not write.
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            })
            .collect::<Vec<_>>();
        if iovecs.is_empty() {
            return Ok(0);
        }
        let sent = self.send_now(iovecs)?;
        self.backlog.drain(..sent.min(self.backlog.len()));
        if self.backlog.is_empty() {
            // An idle connection holds no memory.
            self.backlog = VecDeque::new();
        }
        Ok(sent)
    }

    /// Forgets the backlog; returns its length.
    pub(super) fn discard_backlog(&mut self) -> usize {
        std::mem::take(&mut self.backlog).len()
    }

    /// Ends one direction; a host that is gone already needs no telling.
    pub(super) fn shut(&self, how: Shutdown) {
        let _ = self.stream.shutdown(how);
    }

    /// Has the event loop wait for `interest`, if it does not already. `None` takes the socket
    /// off the loop: it reports a hang-up whatever it waits for, and would for ever.
    pub(super) fn watch_for(&mut self, interest: Option<EventSet>, watch: &mut Watch) {
        let fd = self.stream.as_raw_fd();
        let token = self.token;
        watch.changes.extend(match (self.watched, interest) {
            (before, now) if before == now => None,
            (None, Some(events)) => Some(WatchChange::Add { fd, token, events }),
            (Some(_), Some(events)) => Some(WatchChange::Modify { fd, token, events }),
            (_, None) => Some(WatchChange::Remove { fd }),
        });
        self.watched = interest;
    }

    /// Closes the socket once the event loop let go of it.
    pub(super) fn close(mut self, watch: &mut Watch) {
        self.watch_for(None, watch);
        watch.close.push(self.stream.into());
    }
}

/// Calls again when a signal came between; a negative result is an error.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(bytes) => return Ok(bytes),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
