//! The RX queue: which connection sends next, and how its packets get into the driver's buffers.
//!
//! Part of the device. Data is read from the host straight into guest memory: Linux posts buffers
//! of one page, so several are taken for one read and those that it did not fill are given back.

use std::ops::{Bound, Range};

use super::buffers::{self, Direction, MAX_CHAIN_SLICES, Slices};
use super::device::{RX, VsockDevice};
use super::packet::{HEADER_BYTES, Header, Ports};
use crate::virtio::{Chain, DeviceError, Io};

/// Control packets, and reads from a host, that one turn puts on the RX queue.
const SENDS_PER_TURN: usize = 64;

/// Payload bytes after which a read takes no further RX buffer.
const MAX_READ_BYTES: usize = 64 << 10;

/// Slices that `recvmsg` takes (`UIO_MAXIOV`).
const MAX_READ_SLICES: usize = 1024;

/// An RX buffer that a read may fill.
struct ReadBuffer {
    head: u16,
    /// Where its header is among the headers.
    header: Range<usize>,
    /// Payload bytes it has room for.
    room: usize,
}

/// What one read goes into; kept from read to read, to save allocations.
#[derive(Default)]
struct ReadBuffers<'m> {
    /// In the queue's order.
    buffers: Vec<ReadBuffer>,
    headers: Slices<'m>,
    payload: Slices<'m>,
}

/// Whether a packet found an RX buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It did, or there was nothing to send after all.
    Yes,
    /// There is none; the driver kicks when it has added one.
    NoBuffer,
}

fn bad_buffer(reason: &'static str) -> DeviceError {
    DeviceError::Request { queue: RX, reason }
}

/// The next RX buffer. When there is none the driver is asked to kick.
fn next_buffer<'m>(io: &mut Io<'m>) -> Result<Option<Chain<'m>>, DeviceError> {
    if let Some(chain) = io.next_chain(RX)? {
        return Ok(Some(chain));
    }
    if io.enable_kicks(RX)? {
        return io.next_chain(RX);
    }
    Ok(None)
}

/// Sends a packet without payload.
fn send_control(io: &mut Io, chain: Chain, packet: Header) -> Result<(), DeviceError> {
    let head = chain.head_index();
    let mut header = Slices::default();
    let mut payload = Slices::default();
    let memory = io.memory;
    buffers::split(
        memory,
        chain,
        Direction::ToDriver,
        &mut header,
        &mut payload,
    )
    .map_err(bad_buffer)?;
    buffers::write_header(header.as_slice(), packet);
    io.complete(RX, head, used_bytes(0)?)
}

/// What the used ring says of a packet with `payload` bytes.
fn used_bytes(payload: usize) -> Result<u32, DeviceError> {
    payload
        .checked_add(HEADER_BYTES)
        .and_then(|bytes| u32::try_from(bytes).ok())
        .ok_or_else(|| bad_buffer("a packet is too long"))
}

impl VsockDevice {
    /// Sends what there is to send while there are RX buffers, connections taking turns.
    pub(super) fn serve_rx(&mut self, io: &mut Io) -> Result<(), DeviceError> {
        let mut read_buffers = ReadBuffers::default();
        let mut sends = 0;
        io.disable_kicks(RX)?;
        loop {
            if sends == SENDS_PER_TURN {
                io.call_again(RX);
                break;
            }
            let sent = if let Some(reset) = self.resets.front().copied() {
                match next_buffer(io)? {
                    Some(chain) => {
                        self.resets.pop_front();
                        send_control(io, chain, reset)?;
                        Sent::Yes
                    }
                    None => Sent::NoBuffer,
                }
            } else if let Some(ports) = self.next_sender() {
                self.served = ports;
                self.send_from(ports, io, &mut read_buffers)?
            } else {
                break;
            };
            if sent == Sent::NoBuffer {
                break;
            }
            sends += 1;
        }
        if sends > 0 {
            io.signal(RX)?;
        }
        Ok(())
    }

    /// The connection with something to send that comes after the one served last.
    fn next_sender(&self) -> Option<Ports> {
        let after = (Bound::Excluded(self.served), Bound::Unbounded);
        let up_to = (Bound::Unbounded, Bound::Included(self.served));
        self.connections
            .range(after)
            .chain(self.connections.range(up_to))
            .find(|(_, connection)| connection.wants_to_send())
            .map(|(ports, _)| *ports)
    }

    /// Sends a connection's next control packet, or what one read from its host brings.
    fn send_from<'m>(
        &mut self,
        ports: Ports,
        io: &mut Io<'m>,
        read: &mut ReadBuffers<'m>,
    ) -> Result<Sent, DeviceError> {
        let Some(connection) = self.connections.get_mut(&ports) else {
            return Ok(Sent::Yes);
        };
        if connection.owes_control() {
            let Some(chain) = next_buffer(io)? else {
                return Ok(Sent::NoBuffer);
            };
            send_control(io, chain, connection.control_packet(self.guest_cid))?;
            return Ok(Sent::Yes);
        }
        let Some((count, credit)) = connection.read_limits() else {
            return Ok(Sent::Yes);
        };
        take_buffers(io, read, count, credit.min(MAX_READ_BYTES))?;
        if read.buffers.is_empty() {
            return Ok(Sent::NoBuffer);
        }
        let mut left = connection.read(&read.payload);
        for buffer in &read.buffers {
            let len = buffer.room.min(left);
            if len == 0 {
                io.undo_next_chain(RX);
                continue;
            }
            left -= len;
            let used = used_bytes(len)?;
            let len = u32::try_from(len).map_err(|_| bad_buffer("a packet is too long"))?;
            let packet = connection.data_packet(self.guest_cid, len);
            buffers::write_header(read.headers.range(buffer.header.clone()), packet);
            io.complete(RX, buffer.head, used)?;
        }
        Ok(Sent::Yes)
    }
}

/// Takes up to `count` RX buffers with room for `bytes` in all, at least one if there is one.
fn take_buffers<'m>(
    io: &mut Io<'m>,
    read: &mut ReadBuffers<'m>,
    count: usize,
    bytes: usize,
) -> Result<(), DeviceError> {
    let memory = io.memory;
    read.buffers.clear();
    read.headers.clear();
    read.payload.clear();
    while read.buffers.len() < count
        && read.payload.bytes() < bytes
        && read.payload.len() + MAX_CHAIN_SLICES <= MAX_READ_SLICES
    {
        let next = if read.buffers.is_empty() {
            next_buffer(io)?
        } else {
            io.next_chain(RX)?
        };
        let Some(chain) = next else {
            break;
        };
        let head = chain.head_index();
        let start = read.headers.len();
        let room = buffers::split(
            memory,
            chain,
            Direction::ToDriver,
            &mut read.headers,
            &mut read.payload,
        )
        .map_err(bad_buffer)?;
        if room == 0 {
            return Err(bad_buffer("a buffer has no room for data"));
        }
        read.buffers.push(ReadBuffer {
            head,
            header: start..read.headers.len(),
            room,
        });
    }
    read.payload.truncate(bytes);
    Ok(())
}
