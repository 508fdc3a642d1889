//! The ports that the host offers: one connected socket each, taken by the first connection.
//!
//! Used by the device. The supervisor is trusted, but what it sends is parsed as strictly as
//! anything: a message is exactly a port (4 bytes, little-endian) with exactly one descriptor.
#![allow(unsafe_code)] // descriptors out of a control message

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::VsockError;

/// Sockets that wait for the guest: each is a descriptor of the VMM process, whose limit must
/// leave room for them. A container has four connections and each `exec` in it three more.
pub const MAX_OFFERED_PORTS: usize = 256;

/// Messages read in one turn of the event loop; the rest is there in the next.
const OFFERS_PER_TURN: usize = 64;

/// Bytes of an offer.
const OFFER_BYTES: usize = 4;

/// Offered ports, and where more of them come from.
#[derive(Debug)]
pub(super) struct Offers {
    ports: BTreeMap<u32, OwnedFd>,
    /// A `SOCK_SEQPACKET` socket, which std calls a datagram socket; non-blocking.
    socket: Option<UnixDatagram>,
}

impl Offers {
    /// The ports known from the start.
    ///
    /// # Errors
    /// As [`VsockError`] has them.
    pub(super) fn new(
        ports: Vec<(u32, OwnedFd)>,
        socket: Option<OwnedFd>,
    ) -> Result<Self, VsockError> {
        let mut offers = Self {
            ports: BTreeMap::new(),
            socket: socket.map(UnixDatagram::from),
        };
        if let Some(socket) = &offers.socket {
            socket
                .set_nonblocking(true)
                .map_err(|source| VsockError::Offers { source })?;
        }
        for (port, stream) in ports {
            offers
                .add(port, stream)
                .map_err(|reason| VsockError::Port { port, reason })?;
        }
        Ok(offers)
    }

    fn add(&mut self, port: u32, stream: OwnedFd) -> Result<(), &'static str> {
        if self.ports.len() >= MAX_OFFERED_PORTS {
            return Err("256 ports are offered already");
        }
        if self.ports.contains_key(&port) {
            return Err("offered already");
        }
        self.ports.insert(port, stream);
        Ok(())
    }

    /// Takes no more, and closes those that nobody took; returns the socket, to be closed.
    pub(super) fn end(&mut self) -> Option<OwnedFd> {
        self.ports.clear();
        self.socket.take().map(OwnedFd::from)
    }

    /// The descriptor to watch for offers.
    pub(super) fn fd(&self) -> Option<RawFd> {
        self.socket.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Whether a connection to `port` can be had.
    pub(super) fn has(&self, port: u32) -> bool {
        self.ports.contains_key(&port)
    }

    /// The socket offered for `port`, which from now on has none.
    pub(super) fn take(&mut self, port: u32) -> Option<OwnedFd> {
        self.ports.remove(&port)
    }

    /// Takes the offers that have arrived. A malformed one is dropped, with its descriptors, and
    /// said: it is the supervisor's bug, and no guest can cause it. Returns the socket, to be
    /// closed, when the supervisor closed its end.
    pub(super) fn receive(&mut self) -> Option<OwnedFd> {
        for _ in 0..OFFERS_PER_TURN {
            match receive_message(self.socket.as_ref()?) {
                Ok(Message::Offer(port, stream)) => {
                    if let Err(reason) = self.add(port, stream) {
                        crate::say(format_args!("vsock: offer of port {port}: {reason}"));
                    }
                }
                Ok(Message::Malformed) => {
                    crate::say(format_args!(
                        "vsock: malformed offer: must be 4 bytes with 1 descriptor"
                    ));
                }
                Ok(Message::End) => return self.socket.take().map(OwnedFd::from),
                Err(error) => match error.errno() {
                    libc::EAGAIN => break,
                    libc::EINTR => {}
                    _ => {
                        crate::say(format_args!("vsock: receive offers: {error}"));
                        return self.socket.take().map(OwnedFd::from);
                    }
                },
            }
        }
        None
    }
}

/// What the supervisor sent.
enum Message {
    Offer(u32, OwnedFd),
    Malformed,
    /// It closed its end.
    End,
}

fn receive_message(socket: &UnixDatagram) -> Result<Message, vmm_sys_util::errno::Error> {
    // A byte and a descriptor more than an offer has, so that more of either shows. The slots
    // must be an even number: with one, the control buffer has padding that fits a second
    // descriptor, which the kernel then passes and the crate overlooks, open for ever.
    let mut bytes = [0; OFFER_BYTES + 1];
    let mut descriptors = [-1; 2];
    let mut iovecs = [libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }];
    // SAFETY: the only iovec is `bytes`, which is borrowed mutably and takes any value.
    let received = unsafe { socket.recv_with_fds(&mut iovecs, &mut descriptors) };
    let (len, count) = match received {
        Ok(counts) => counts,
        // More than two descriptors; they were closed.
        Err(error) if error.errno() == libc::ENOBUFS => return Ok(Message::Malformed),
        Err(error) => return Err(error),
    };
    let mut descriptors = descriptors.into_iter().take(count).map(|descriptor| {
        // SAFETY: the call put `count` descriptors there that were opened for us alone.
        unsafe { OwnedFd::from_raw_fd(descriptor) }
    });
    let (first, second) = (descriptors.next(), descriptors.next());
    let [a, b, c, d, _] = bytes;
    Ok(match (len, first, second) {
        (0, None, None) => Message::End,
        (OFFER_BYTES, Some(stream), None) => {
            Message::Offer(u32::from_le_bytes([a, b, c, d]), stream)
        }
        _ => Message::Malformed,
    })
}
