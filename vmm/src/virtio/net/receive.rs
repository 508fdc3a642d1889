//! Frames from passt into the driver's buffers. [`super::device`] calls it when there is something
//! to read and when the driver gives buffers; it must not know what frames mean.
//!
//! ```text
//! socket ── readv ──► rest of the frame (guest memory) | up to 4 KiB more (ahead)
//!                                                            └─► length and front of the next one
//! ```
//! So a long frame takes one system call and is copied only by the kernel, and one call brings many
//! short ones.

use vm_memory::VolatileSlice;

use super::device::QUEUE_SIZE;
use super::filter::Filter;
use super::socket::{Moved, Socket};
use super::{FRAME_BYTES_MIN, FRONT_BYTES, HEADER_BYTES, LENGTH_BYTES, RECEIVE_BYTES_MAX, RX};
use crate::GuestMemory;
use crate::virtio::{Buffers, DeviceError, Io, Spans};

/// Bytes read ahead: some fifty bare acknowledgements, and little to copy of a long frame.
const AHEAD_BYTES: usize = 4096;

/// Bytes delivered before the other devices have their turn: well below a millisecond.
const TURN_BYTES: usize = 2 << 20;

/// How often buffers may arrive just when there seemed to be none, for one frame: more than it takes
/// buffers, so that only a driver that plays with its index gets there.
const RETRIES_MAX: u32 = 256;

/// `VIRTIO_NET_HDR_F_DATA_VALID`.
const DATA_VALID: u8 = 2;

/// How a driver takes frames.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manner {
    /// Several buffers for one frame (`MRG_RXBUF`).
    pub(super) mergeable: bool,
    /// It believes that checksums are right (`GUEST_CSUM`).
    pub(super) trusts_checksums: bool,
}

/// What is waited for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Something to read.
    Socket,
    /// Buffers of the driver.
    Buffers,
    /// Nothing more comes.
    Gone,
    /// Nothing, there is more to do after the others' turn.
    Turn,
}

/// Heads of chains with the bytes that each gets, and the memory behind them.
type Room = (Vec<(u16, u32)>, Spans);

/// A frame on its way into buffers; without any, it is thrown away.
#[derive(Debug)]
struct Frame {
    /// Room for what is yet to come, at most that.
    room: Spans,
    /// Bytes yet to come.
    left: usize,
    /// Heads of its chains, and the bytes that each gets.
    chains: Vec<(u16, u32)>,
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiver {
    ahead: Box<[u8; AHEAD_BYTES]>,
    /// The part of it that was read and not used.
    start: usize,
    end: usize,
    frame: Option<Frame>,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            ahead: Box::new([0; AHEAD_BYTES]),
            start: 0,
            end: 0,
            frame: None,
        }
    }

    /// The driver's buffers are its own again. What was begun is thrown away as it comes.
    pub(super) fn reset(&mut self) {
        if let Some(frame) = &mut self.frame {
            frame.room = Spans::default();
            frame.chains.clear();
        }
    }

    fn unread(&self) -> &[u8] {
        self.ahead.get(self.start..self.end).unwrap_or_default()
    }

    /// Delivers what there is, until one side has no more.
    pub(super) fn run(
        &mut self,
        socket: &Socket,
        filter: &mut Filter,
        manner: Manner,
        io: &mut Io,
    ) -> Result<Wait, DeviceError> {
        // Nothing is read that nobody asked for: until its VM runs, the socket is its starter's.
        if self.frame.is_none() && !has_buffer(io)? {
            return Ok(Wait::Buffers);
        }
        let (mut moved, mut delivered) = (0, false);
        let wait = loop {
            if moved >= TURN_BYTES {
                break Wait::Turn;
            }
            if self.frame.is_none() && self.has_front()? && !self.begin(filter, manner, io)? {
                break Wait::Buffers;
            }
            if let Some(frame) = &mut self.frame {
                let unread = self.ahead.get(self.start..self.end).unwrap_or_default();
                self.start += frame.take(io.memory, unread)?;
                if frame.left == 0 {
                    io.complete_all(RX, &frame.chains)?;
                    delivered |= !frame.chains.is_empty();
                    self.frame = None;
                    continue;
                }
            }
            match self.read(socket, io.memory)? {
                Moved::Bytes(count) => moved += count,
                Moved::WouldBlock => break Wait::Socket,
                Moved::Gone => break Wait::Gone,
            }
        };
        if delivered {
            io.signal(RX)?;
        }
        Ok(wait)
    }

    /// Reads the rest of the frame, and ahead.
    fn read(&mut self, socket: &Socket, memory: &GuestMemory) -> Result<Moved, DeviceError> {
        // What is left here is less than a front.
        self.ahead.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let slices = match &self.frame {
            Some(frame) => slices(&frame.room, memory)?,
            None => Vec::new(),
        };
        let free = self.ahead.get_mut(self.end..).unwrap_or_default();
        let moved = socket.read(&slices, free);
        if let Moved::Bytes(count) = moved {
            let of_frame = self.frame.as_mut().map_or(0, |frame| frame.advance(count));
            self.end += count - of_frame;
        }
        Ok(moved)
    }

    /// Whether a frame's length and front have been read.
    fn has_front(&self) -> Result<bool, DeviceError> {
        let unread = self.unread();
        match self.next_length() {
            None => Ok(false),
            Some(length) if !(FRAME_BYTES_MIN..=RECEIVE_BYTES_MAX).contains(&length) => {
                Err(DeviceError::Backend {
                    operation: "read a frame's length",
                    source: std::io::Error::other(format!("{length} bytes")),
                })
            }
            Some(length) => Ok(unread.len() >= LENGTH_BYTES + length.min(FRONT_BYTES)),
        }
    }

    fn next_length(&self) -> Option<usize> {
        let length = self.unread().first_chunk::<LENGTH_BYTES>()?;
        usize::try_from(u32::from_be_bytes(*length)).ok()
    }

    /// Begins the next frame, whose front is there; `false` when there is no room for it.
    fn begin(
        &mut self,
        filter: &mut Filter,
        manner: Manner,
        io: &mut Io,
    ) -> Result<bool, DeviceError> {
        let Some(length) = self.next_length() else {
            return Ok(true);
        };
        let Some((chains, mut room)) = find_room(HEADER_BYTES + length, manner, io)? else {
            return Ok(false);
        };
        if !chains.is_empty() {
            let header = header(chains.len(), manner);
            copy(&header, &slices(&room, io.memory)?);
            room.advance(HEADER_BYTES as u64);
        }
        let front = self.unread().get(LENGTH_BYTES..).unwrap_or_default();
        filter.incoming(front.get(..length.min(front.len())).unwrap_or_default());
        // What fails before leaves the frame for the next driver.
        self.start += LENGTH_BYTES;
        self.frame = Some(Frame {
            room,
            left: length,
            chains,
        });
        Ok(true)
    }
}

impl Frame {
    /// Takes what was read ahead of it; returns how much.
    fn take(&mut self, memory: &GuestMemory, unread: &[u8]) -> Result<usize, DeviceError> {
        let count = self.left.min(unread.len());
        let bytes = unread.get(..count).unwrap_or_default();
        if !bytes.is_empty() {
            copy(bytes, &slices(&self.room, memory)?);
            self.room.advance(count as u64);
            self.left -= count;
        }
        Ok(count)
    }

    /// Of `count` bytes that were read, its own have arrived; returns how many.
    fn advance(&mut self, count: usize) -> usize {
        if self.chains.is_empty() {
            return 0;
        }
        let own = count.min(self.left);
        self.room.advance(own as u64);
        self.left -= own;
        own
    }
}

/// Whether the driver has a buffer; if not, it will kick.
fn has_buffer(io: &mut Io) -> Result<bool, DeviceError> {
    for _ in 0..RETRIES_MAX {
        if io.next_chain(RX)?.is_some() {
            io.undo_next_chain(RX);
            return Ok(true);
        }
        if !io.enable_kicks(RX)? {
            return Ok(false);
        }
        io.disable_kicks(RX)?;
    }
    Err(DeviceError::Request {
        queue: RX,
        reason: FICKLE,
    })
}

const FICKLE: &str = "its index moves to and fro";

/// `struct virtio_net_hdr_v1` (section 5.1.6.1) of a frame in so many buffers.
fn header(buffers: usize, manner: Manner) -> [u8; HEADER_BYTES] {
    let [low, high] = u16::try_from(buffers).unwrap_or(u16::MAX).to_le_bytes();
    let flags = if manner.trusts_checksums {
        DATA_VALID
    } else {
        0
    };
    // Neither segments nor checksums to complete.
    [flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, low, high]
}

/// Takes chains with room for `bytes`, which [`DeviceError`] tells apart from hostile ones. No
/// chains at all stand for a frame that a driver without mergeable buffers has no room for.
/// `None`: not enough yet, and the driver will kick.
fn find_room(bytes: usize, manner: Manner, io: &mut Io) -> Result<Option<Room>, DeviceError> {
    let request = |reason| DeviceError::Request { queue: RX, reason };
    let (mut chains, mut room) = (Vec::new(), Spans::default());
    let (mut wanted, mut retries) = (bytes as u64, 0);
    while wanted > 0 {
        let Some(chain) = io.next_chain(RX)? else {
            // Asked before they are given back: the kick is for those behind them.
            if io.enable_kicks(RX)? {
                io.disable_kicks(RX)?;
                retries += 1;
                if retries > RETRIES_MAX {
                    return Err(request(FICKLE));
                }
                continue;
            }
            for _ in &chains {
                io.undo_next_chain(RX);
            }
            return Ok(None);
        };
        let head = chain.head_index();
        let Buffers {
            readable,
            mut writable,
        } = Buffers::read(RX, chain)?;
        if !readable.is_empty() {
            return Err(request("a buffer for frames is not writable"));
        }
        if writable.is_empty() {
            return Err(request("a buffer for frames has no room"));
        }
        // More than a ring holds: another vCPU goes on moving the index.
        if chains.len() >= usize::from(QUEUE_SIZE) {
            return Err(request("a frame takes more buffers than the queue has"));
        }
        if chains.is_empty() && writable.len() < HEADER_BYTES as u64 {
            return Err(request("a buffer for frames has no room for a header"));
        }
        if !manner.mergeable && writable.len() < wanted {
            io.undo_next_chain(RX);
            return Ok(Some((Vec::new(), Spans::default())));
        }
        writable.truncate(wanted);
        wanted -= writable.len();
        chains.push((head, u32::try_from(writable.len()).unwrap_or(0)));
        room.append(writable);
    }
    Ok(Some((chains, room)))
}

fn slices<'m>(
    room: &Spans,
    memory: &'m GuestMemory,
) -> Result<Vec<VolatileSlice<'m>>, DeviceError> {
    room.slices(memory).map_err(|_| DeviceError::Request {
        queue: RX,
        reason: "a buffer for frames is not in memory",
    })
}

/// Copies as much of `bytes` as there is room for.
fn copy(bytes: &[u8], into: &[VolatileSlice]) {
    let mut rest = bytes;
    for slice in into {
        let (now, later) = rest.split_at(rest.len().min(slice.len()));
        slice.copy_from(now);
        rest = later;
    }
}
