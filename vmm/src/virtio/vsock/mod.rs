//! The virtio-vsock device (virtio 1.2 section 5.10) in user space: stream connections that the
//! guest opens to ports of the host, each of which is a socket handed to this process.
//!
//! Made by the builder's caller, run by the worker. It opens nothing and connects nowhere: a port
//! for which nobody handed over a socket does not exist.
//!
//! ```text
//! guest memory                       one connection                               host
//! TX chain ─► packet ─► data ──────► sendmsg ──────────────────────────────────► socket
//!                                       └─► backlog (at most the guest's credit) ─┘ EPOLLOUT
//! RX chain ◄─ header ◄─ credit ◄──── recvmsg into the chain ◄─────── EPOLLIN ──── socket
//!
//!            REQUEST to an offered port
//!                        │ RESPONSE
//!                        ▼
//!  to the guest ┌── Idle ◄─────► Readable ◄─────► NoCredit     to the host  Open
//!               │   wait for     wait for RX      wait for        SHUTDOWN │   │ host closed,
//!               │   EPOLLIN      buffers          credit            (SEND) │   │ EPIPE
//!               │                   │                                      ▼   ▼
//!      SHUTDOWN │                   │ end of stream,               Flushing   Discarding
//!     (RECEIVE) │                   │ socket failed          backlog │        SHUTDOWN (RECEIVE)
//!               ▼                   ▼                          empty ▼        to the guest
//!               └────────────► Ended: SHUTDOWN (SEND)            Finished: SHUT_WR to the host
//!                              to the guest
//!
//!  SHUTDOWN of both directions ─► RST; the socket closes when the backlog is empty
//!  RST ─► the same without the RST; without a SHUTDOWN (SEND) before it, at once
//!  anything against the rules (no credit, no such operation, …) ─► RST, socket closed
//! The VM ended ─► each socket closes when its backlog is empty, whatever was shut down
//! ```
//!
//! The device has no clock. A guest that never answers a shutdown keeps its connection, out of the
//! [`MAX_CONNECTIONS`] that it may have.
//!
//! Packets are parsed here rather than by the virtio-vsock crate: that one takes packets in one or
//! two descriptors only, while Linux uses up to 18 (`MSG_ZEROCOPY`).

mod buffers;
mod connection;
mod credit;
mod device;
mod host_end;
mod offers;
mod packet;
mod send;
#[cfg(test)]
mod tests;

pub use device::{MAX_CONNECTIONS, TX, VsockDevice, VsockError};
pub use offers::MAX_OFFERED_PORTS;
