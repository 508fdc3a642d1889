//! Frames of the driver to passt. [`super::device`] calls it for every kick and when the socket has
//! room again; what goes out is the filter's to say.
//!
//! A frame's front is copied once, judged, and sent as it was judged; the rest goes from guest
//! memory itself.
//!
//! **Batches.** passt reads what there is, and the rest of a frame that was cut off by one further
//! `recv`; when that brings less than the rest it loses its place for good. A stream socket of the
//! Unix domain carries a message in pieces of at least 32 KiB, so a batch is what fits into one, or a
//! single frame, which fits into two.
//!
//! **Marks.** Such a `recv` takes 8,323,069 bytes at most ([`PASST_READ_BYTES`]), and what ends inside
//! a frame's length there loses the place, too. It goes on while more arrives, so that no bound of what
//! waits in the socket bounds what it brings: a guest that floods a passt which is busy would get
//! there. But a `recv` never reads beyond a message that bears a descriptor (unix(7), SCM_RIGHTS),
//! wanted or not. So after [`MARK_BYTES`] the first message of the next batch bears one: no `recv`
//! brings more than lies between two such messages, with a batch and the second of them. What was not
//! asked for the kernel closes. A mark that the kernel refuses, because its user has too many
//! descriptors on their way, loses a batch, as networks do, and the next batch has it.

use vm_memory::VolatileSlice;

use super::filter::{Filter, Verdict};
use super::socket::{Moved, Piece, Socket};
use super::{FRAME_BYTES_MIN, FRONT_BYTES, HEADER_BYTES, LENGTH_BYTES, TRANSMIT_BYTES_MAX, TX};
use crate::GuestMemory;
use crate::virtio::{Buffers, Chain, DeviceError, Io, Spans};

/// Bytes of a batch of several frames.
const BATCH_BYTES: usize = 32 << 10;

/// Frames of a batch.
const BATCH_FRAMES: usize = 64;

/// What passt reads at once, at most: `TAP_BUF_FILL` of the one of 2023-03 and later.
const PASST_READ_BYTES: usize = 8_323_069;

/// Bytes from one mark to when the next is due.
pub(super) const MARK_BYTES: usize = 4 << 20;

/// The longest batch.
pub(super) const BATCH_BYTES_MAX: usize = LENGTH_BYTES + TRANSMIT_BYTES_MAX;

// A batch more before the mark, the message that bears it, and what the supervisor sent ahead.
const _: () = assert!(MARK_BYTES + 3 * BATCH_BYTES_MAX < PASST_READ_BYTES);
const _: () = assert!(BATCH_BYTES <= BATCH_BYTES_MAX);

/// Bytes sent before the other devices have their turn: well below a millisecond.
const TURN_BYTES: usize = 2 << 20;

/// Chains taken in one turn, also of frames that are dropped.
const TURN_CHAINS: usize = 256;

/// A frame on its way out.
#[derive(Debug)]
struct Frame {
    head: u16,
    /// Its length and its front, as they are sent.
    own: Vec<u8>,
    /// What is sent from guest memory.
    rest: Spans,
}

impl Frame {
    fn len(&self) -> usize {
        // At most 65535, checked when it was made.
        self.own.len() + usize::try_from(self.rest.len()).unwrap_or(0)
    }
}

/// What is waited for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// A kick.
    Kick,
    /// Room in the socket.
    Socket,
    /// Nothing, there is more to do after the others' turn.
    Turn,
    /// The other side got a part of what is being sent and can't have the rest.
    Gone,
}

/// The transmitting half.
#[derive(Debug, Default)]
pub(super) struct Transmitter {
    /// The frames that are being sent; at most [`BATCH_FRAMES`].
    batch: Vec<Frame>,
    /// Bytes of the batch that are sent.
    sent: usize,
    /// Bytes sent since the last mark, with the message that bore it.
    unmarked: usize,
}

impl Transmitter {
    /// The driver's buffers are its own again. Of a frame that was sent in part the rest is sent as
    /// zeros, so that passt keeps its place: `own` has all of it.
    pub(super) fn reset(&mut self) {
        let mut before = 0;
        for frame in &mut self.batch {
            let len = frame.len();
            let (from, to) = (before, before + len);
            before = to;
            if self.sent > from && self.sent < to {
                frame.own.resize(len, 0);
                frame.rest = Spans::default();
                let mut cut = std::mem::take(frame);
                cut.head = NO_CHAIN;
                self.batch = vec![cut];
                self.sent -= from;
                return;
            }
        }
        self.batch.clear();
        self.sent = 0;
    }

    /// Sends what the driver made available, until one side has no more; without a socket it is
    /// dropped.
    pub(super) fn run(
        &mut self,
        socket: Option<&Socket>,
        filter: &Filter,
        io: &mut Io,
    ) -> Result<Wait, DeviceError> {
        let (mut bytes, mut chains, mut completed) = (0, 0, false);
        io.disable_kicks(TX)?;
        let wait = loop {
            if !self.batch.is_empty() {
                let moved = match socket {
                    Some(socket) => self.send(socket, io.memory)?,
                    None => Moved::Gone,
                };
                match moved {
                    Moved::Bytes(count) => {
                        bytes += count;
                        self.sent += count;
                        if self.sent < self.batch.iter().map(Frame::len).sum() {
                            continue;
                        }
                    }
                    Moved::WouldBlock => break Wait::Socket,
                    Moved::Gone if self.sent > 0 && socket.is_some() => break Wait::Gone,
                    // Nobody is there any more, as where a cable was pulled.
                    Moved::Gone => {}
                }
                completed |= self.complete(io)?;
            }
            if bytes >= TURN_BYTES || chains >= TURN_CHAINS {
                break Wait::Turn;
            }
            let taken = self.fill(filter, io)?;
            chains += taken;
            completed |= taken > self.batch.len();
            if taken == 0 {
                if !io.enable_kicks(TX)? {
                    break Wait::Kick;
                }
                io.disable_kicks(TX)?;
                // A round without a chain counts, too: another vCPU can move the index to and fro.
                chains += 1;
            }
        };
        if completed {
            io.signal(TX)?;
        }
        Ok(wait)
    }

    fn send(&mut self, socket: &Socket, memory: &GuestMemory) -> Result<Moved, DeviceError> {
        let mut pieces = Vec::new();
        for frame in &self.batch {
            pieces.push(Piece::Own(&frame.own));
            let slices = frame.rest.slices(memory).map_err(|_| request(OUTSIDE))?;
            pieces.extend(slices.into_iter().map(Piece::Guest));
        }
        let marked = self.sent == 0 && self.unmarked >= MARK_BYTES;
        let moved = socket.write(&pieces, self.sent, marked);
        if let Moved::Bytes(count) = moved {
            self.unmarked = count + if marked { 0 } else { self.unmarked };
        }
        Ok(moved)
    }

    fn complete(&mut self, io: &mut Io) -> Result<bool, DeviceError> {
        let mut any = false;
        for frame in self.batch.drain(..) {
            if frame.head != NO_CHAIN {
                io.complete(TX, frame.head, 0)?;
                any = true;
            }
        }
        self.sent = 0;
        Ok(any)
    }

    /// Makes a batch; returns how many chains were taken for it, those of dropped frames included,
    /// which are done.
    fn fill(&mut self, filter: &Filter, io: &mut Io) -> Result<usize, DeviceError> {
        let (mut bytes, mut chains) = (0, 0);
        while self.batch.len() < BATCH_FRAMES && chains < TURN_CHAINS {
            let Some(chain) = io.next_chain(TX)? else {
                break;
            };
            let head = chain.head_index();
            match parse(io.memory, chain, filter)? {
                Some(frame) => {
                    if !self.batch.is_empty() && bytes + frame.len() > BATCH_BYTES {
                        io.undo_next_chain(TX);
                        break;
                    }
                    bytes += frame.len();
                    self.batch.push(frame);
                }
                None => io.complete(TX, head, 0)?,
            }
            chains += 1;
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        Ok(chains)
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            head: NO_CHAIN,
            own: Vec::new(),
            rest: Spans::default(),
        }
    }
}

/// No index of a descriptor: queues have at most 32768.
const NO_CHAIN: u16 = u16::MAX;

const OUTSIDE: &str = "a frame is not in memory";

fn request(reason: &'static str) -> DeviceError {
    DeviceError::Request { queue: TX, reason }
}

/// The frame of a chain; `None` when it is dropped.
fn parse(
    memory: &GuestMemory,
    chain: Chain,
    filter: &Filter,
) -> Result<Option<Frame>, DeviceError> {
    let head = chain.head_index();
    let Buffers {
        mut readable,
        writable,
    } = Buffers::read(TX, chain)?;
    if !writable.is_empty() {
        return Err(request("a frame is writable"));
    }
    // What it asks for needs nothing to be done: see the module's page.
    if readable
        .take_front::<HEADER_BYTES>(memory)
        .map_err(|_| request(OUTSIDE))?
        .is_none()
    {
        return Err(request("a frame has no header"));
    }
    let length = match usize::try_from(readable.len()) {
        Ok(length) if (FRAME_BYTES_MIN..=TRANSMIT_BYTES_MAX).contains(&length) => length,
        _ => return Ok(None),
    };
    let mut own = Vec::with_capacity(LENGTH_BYTES + FRONT_BYTES);
    own.extend(u32::try_from(length).unwrap_or(0).to_be_bytes());
    own.resize(LENGTH_BYTES + length.min(FRONT_BYTES), 0);
    let front = own.get_mut(LENGTH_BYTES..).unwrap_or_default();
    copy_out(
        &readable.slices(memory).map_err(|_| request(OUTSIDE))?,
        front,
    );
    if filter.outgoing(front) == Verdict::Drop {
        return Ok(None);
    }
    readable.advance(front.len() as u64);
    Ok(Some(Frame {
        head,
        own,
        rest: readable,
    }))
}

/// Copies the first bytes of `from`, once.
fn copy_out(from: &[VolatileSlice], into: &mut [u8]) {
    let mut rest = into;
    for slice in from {
        let (now, later) = rest.split_at_mut(rest.len().min(slice.len()));
        slice.copy_to(now);
        rest = later;
    }
}
