//! The network device (virtio 1.2 section 5.1): Ethernet frames of one guest, to and from a stream
//! socket whose other end is passt.
//!
//! ```text
//! driver ── queue 1 ──► transmit ── filter ──► writev ──► socket ──► passt ──► the host's sockets
//! driver ◄── queue 0 ── receive ◄── filter ◄── readv ◄─── socket ◄── passt
//! ```
//! - [`device`]: the device, its features and when it waits for what.
//! - [`receive`] and [`transmit`]: frames of one direction, straight from and to guest memory.
//! - [`filter`]: which frames of a guest go out; bytes to a checked verdict, no I/O.
//! - [`socket`]: the two system calls.
//!
//! On the socket a frame is its length as 32 bits in network byte order, then its bytes, without a
//! virtio header: QEMU's socket protocol, which passt speaks.
//!
//! **Offloads.** passt ends every TCP connection and takes every datagram out of its packet, to send
//! the payload from a socket of its own, whose kernel makes the packets that a network sees. So it
//! looks at no checksum of a guest (`CSUM` costs nothing), takes a segment of any length up to a
//! frame of 65535 bytes (`HOST_TSO4`, `HOST_TSO6` need no cutting), and the MTU can be 65520. What
//! comes from passt has its checksums computed and has passed no wire, so the driver need not look
//! (`GUEST_CSUM`). Nobody needs to cut or check what never leaves the machine.

mod device;
mod filter;
mod receive;
mod socket;
#[cfg(test)]
mod tests;
mod transmit;

pub use device::{NetDevice, RX, TX};
pub use filter::{Endpoint, Filter, GatewayAddresses, Verdict, is_forbidden};

/// MTU in bytes: passt's own, the largest multiple of four whose frame passt takes.
pub const MTU: u16 = 65520;

/// `struct virtio_net_hdr_v1` in bytes (section 5.1.6.1).
const HEADER_BYTES: usize = 12;

/// Bytes of a frame's length on the socket.
const LENGTH_BYTES: usize = 4;

/// Shortest frame: an Ethernet header.
const FRAME_BYTES_MIN: usize = 14;

/// Longest frame that passt takes from a guest.
const TRANSMIT_BYTES_MAX: usize = 65535;

/// Longest frame that passt sends: an IPv4 packet of the greatest length, and its Ethernet header.
const RECEIVE_BYTES_MAX: usize = FRAME_BYTES_MIN + 65535;

/// So much of a frame's front is looked at: Ethernet, the longest IPv4 header, and TCP's.
const FRONT_BYTES: usize = 128;
