//! The file system device: two queues, an area shared with the file server, a socket to it. The worker
//! calls it.
#![allow(unsafe_code)] // send and recv on a socket of packets, for which std has no type

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use event_manager::EventSet;

use super::area::Area;
use crate::virtio::{
    Buffers, Chain, ConfigSpace, Device, DeviceError, DeviceKind, Io, Spans, Watch, WatchChange,
};

/// `hiprio` and the one request queue (section 5.11.2). The second holds seven requests of 512 KiB,
/// a descriptor for each page.
pub const QUEUE_SIZES: [u16; 2] = [64, 1024];

/// Bytes of the tag in the configuration space (section 5.11.4).
const TAG_BYTES: usize = 36;

/// Slots at most, whatever the area has: requests under way at a time.
const SLOTS_MAX: usize = 256;

/// Chains taken before the other devices have their turn.
const CHAINS_PER_TURN: usize = 64;

/// Bytes of the header in front of a request and of the one in front of a reply (Linux
/// `uapi/linux/fuse.h`); where in the first is the number that goes into the second.
const IN_HEADER_BYTES: u64 = 40;
const OUT_HEADER_BYTES: u32 = 16;
const UNIQUE_SKIP: usize = 8;

/// Linux's `EIO`, negative as in a reply.
const NO_SERVER: i32 = -5;

const TOKEN_SERVER: u32 = 0;

/// The file server's end.
#[derive(Debug)]
pub struct Backend {
    /// A sequential-packet socket to it; calls on it do not block.
    pub socket: OwnedFd,
    /// Memory shared with it, that never gets smaller.
    pub area: File,
    /// Slots in the area.
    pub slot_count: usize,
    /// Bytes of a slot: the largest request and the largest reply.
    pub slot_bytes: usize,
}

#[derive(Debug)]
struct Connected {
    socket: OwnedFd,
    area: Area,
}

/// A request at the server.
#[derive(Debug)]
struct Pending {
    queue: usize,
    head: u16,
    unique: u64,
    /// Where the reply goes.
    writable: Spans,
    room: u32,
}

/// ```text
/// free ── chain taken ──► Waiting ── reply ──► free
///                            └── reset ──► Abandoned ── reply ──► free
/// ```
#[derive(Debug)]
enum SlotState {
    Free,
    Waiting(Pending),
    /// The driver that asked is gone; the server still writes there.
    Abandoned,
}

/// The device.
#[derive(Debug)]
pub struct FsDevice {
    tag: String,
    server: Option<Connected>,
    slots: Vec<SlotState>,
    /// Queues with chains that wait for a slot.
    waiting: [bool; QUEUE_SIZES.len()],
}

impl FsDevice {
    /// The device with this tag, of at most 36 bytes. Without a backend it answers every request with
    /// an error.
    ///
    /// # Errors
    /// When the area can't be mapped.
    pub fn new(tag: &str, backend: Option<Backend>) -> io::Result<Self> {
        let mut slots = Vec::new();
        let server = match backend {
            Some(backend) => {
                let count = backend.slot_count.min(SLOTS_MAX);
                slots.resize_with(count, || SlotState::Free);
                Some(Connected {
                    socket: backend.socket,
                    area: Area::map(backend.area, count, backend.slot_bytes)?,
                })
            }
            None => None,
        };
        Ok(Self {
            tag: tag.to_owned(),
            server,
            slots,
            waiting: [false; QUEUE_SIZES.len()],
        })
    }

    /// Requests that the server has and a driver waits for.
    #[must_use]
    pub fn pending(&self) -> usize {
        let waits = |slot: &&SlotState| matches!(slot, SlotState::Waiting(_));
        self.slots.iter().filter(waits).count()
    }

    /// Takes chains of `queue` as long as there are slots.
    fn take(&mut self, queue: usize, io: &mut Io) -> Result<(), DeviceError> {
        self.set_waiting(queue, false);
        io.disable_kicks(queue)?;
        let mut answered = false;
        for _ in 0..CHAINS_PER_TURN {
            let free = self
                .slots
                .iter()
                .position(|slot| matches!(slot, SlotState::Free));
            if self.server.is_some() && free.is_none() {
                self.set_waiting(queue, true);
                return finish(queue, answered, io);
            }
            let Some(chain) = io.next_chain(queue)? else {
                if io.enable_kicks(queue)? {
                    io.disable_kicks(queue)?;
                    continue;
                }
                return finish(queue, answered, io);
            };
            let (head, buffers) = read(queue, chain)?;
            let pending = Pending {
                queue,
                head,
                unique: unique(queue, &buffers, io)?,
                room: room(&buffers),
                writable: buffers.writable.clone(),
            };
            match (&self.server, free) {
                (Some(server), Some(slot)) => {
                    hand_over(server, slot, &pending, &buffers, io)?;
                    if let Some(state) = self.slots.get_mut(slot) {
                        *state = SlotState::Waiting(pending);
                    }
                }
                _ => {
                    refuse(&pending, io)?;
                    answered = true;
                }
            }
        }
        io.call_again(queue);
        finish(queue, answered, io)
    }

    fn set_waiting(&mut self, queue: usize, waits: bool) {
        if let Some(waiting) = self.waiting.get_mut(queue) {
            *waiting = waits;
        }
    }

    /// Takes what the server has answered.
    fn replies(&mut self, io: &mut Io) -> Result<(), DeviceError> {
        let mut news = [false; QUEUE_SIZES.len()];
        // One more than there can be: the last one finds nothing.
        for _ in 0..=self.slots.len() {
            let Some(server) = &self.server else { break };
            match receive(&server.socket) {
                Ok(Some((slot, len))) => {
                    if let Some(queue) = self.reply(slot, len, io)?
                        && let Some(news) = news.get_mut(queue)
                    {
                        *news = true;
                    }
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.lose_server(&error, io)?;
                    break;
                }
            }
        }
        for (queue, _) in news.iter().enumerate().filter(|(_, news)| **news) {
            io.signal(queue)?;
        }
        for queue in 0..QUEUE_SIZES.len() {
            if self.waiting.get(queue) == Some(&true) {
                self.take(queue, io)?;
            }
        }
        Ok(())
    }

    /// One answer; returns the queue that has news.
    fn reply(&mut self, slot: u32, len: u32, io: &mut Io) -> Result<Option<usize>, DeviceError> {
        let broken = |reason| DeviceError::Backend {
            operation: "read a reply of the file server",
            source: io::Error::other(reason),
        };
        let index = usize::try_from(slot).unwrap_or(usize::MAX);
        let state = self
            .slots
            .get_mut(index)
            .ok_or_else(|| broken("no such slot"))?;
        let pending = match std::mem::replace(state, SlotState::Free) {
            SlotState::Waiting(pending) => pending,
            SlotState::Abandoned => return Ok(None),
            SlotState::Free => return Err(broken("a reply to no request")),
        };
        if len > pending.room {
            return Err(broken("a reply longer than its place"));
        }
        if let (Some(server), true) = (&self.server, len > 0) {
            let slices = slices(pending.queue, &pending.writable, io)?;
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            server
                .area
                .drain(index, len, &slices)
                .map_err(|_| broken("a reply longer than its slot"))?;
        }
        io.complete(pending.queue, pending.head, len)?;
        Ok(Some(pending.queue))
    }

    /// The server is gone: what it had is answered with an error, and so is what comes.
    fn lose_server(&mut self, error: &io::Error, io: &mut Io) -> Result<(), DeviceError> {
        crate::say(format_args!(
            "file system: the file server is gone: {error}"
        ));
        if let Some(server) = self.server.take() {
            io.watch.changes.push(WatchChange::Remove {
                fd: server.socket.as_raw_fd(),
            });
            io.watch.close.push(server.socket);
        }
        let mut news = [false; QUEUE_SIZES.len()];
        for state in std::mem::take(&mut self.slots) {
            if let SlotState::Waiting(pending) = state {
                refuse(&pending, io)?;
                if let Some(news) = news.get_mut(pending.queue) {
                    *news = true;
                }
            }
        }
        for (queue, _) in news.iter().enumerate().filter(|(_, news)| **news) {
            io.signal(queue)?;
        }
        Ok(())
    }
}

fn finish(queue: usize, answered: bool, io: &mut Io) -> Result<(), DeviceError> {
    if answered { io.signal(queue) } else { Ok(()) }
}

fn read(queue: usize, chain: Chain) -> Result<(u16, Buffers), DeviceError> {
    let head = chain.head_index();
    Ok((head, Buffers::read(queue, chain)?))
}

/// The number of a request.
fn unique(queue: usize, buffers: &Buffers, io: &Io) -> Result<u64, DeviceError> {
    let request = |reason| DeviceError::Request { queue, reason };
    if buffers.readable.len() < IN_HEADER_BYTES {
        return Err(request("a request has no header"));
    }
    let mut front = buffers.readable.clone();
    let bytes = front
        .take_front::<{ UNIQUE_SKIP + 8 }>(io.memory)
        .map_err(|_| request("a request is not in memory"))?
        .unwrap_or_default();
    let mut unique = [0; 8];
    unique.copy_from_slice(bytes.get(UNIQUE_SKIP..).unwrap_or(&[0; 8]));
    Ok(u64::from_le_bytes(unique))
}

fn room(buffers: &Buffers) -> u32 {
    u32::try_from(buffers.writable.len()).unwrap_or(u32::MAX)
}

fn slices<'m>(
    queue: usize,
    spans: &Spans,
    io: &Io<'m>,
) -> Result<Vec<vm_memory::VolatileSlice<'m>>, DeviceError> {
    spans.slices(io.memory).map_err(|_| DeviceError::Request {
        queue,
        reason: "a buffer is not in memory",
    })
}

/// Copies a request into a slot and tells the server.
fn hand_over(
    server: &Connected,
    slot: usize,
    pending: &Pending,
    buffers: &Buffers,
    io: &Io,
) -> Result<(), DeviceError> {
    let queue = pending.queue;
    let len = server
        .area
        .fill(slot, &slices(queue, &buffers.readable, io)?)
        .map_err(|_| DeviceError::Request {
            queue,
            reason: "a request is larger than a slot",
        })?;
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(12);
    for value in [number(slot), number(len), pending.room] {
        message.extend(value.to_le_bytes());
    }
    match send(&server.socket, &message) {
        // A server that is gone is noticed at the socket, which then answers for it.
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        Err(source) => Err(DeviceError::Backend {
            operation: "send to the file server",
            source,
        }),
    }
}

/// Answers a request with an error, if it wants an answer.
fn refuse(pending: &Pending, io: &mut Io) -> Result<(), DeviceError> {
    let mut written = 0;
    if pending.room >= OUT_HEADER_BYTES {
        let mut header = Vec::new();
        header.extend(OUT_HEADER_BYTES.to_le_bytes());
        header.extend(NO_SERVER.to_le_bytes());
        header.extend(pending.unique.to_le_bytes());
        let mut rest = header.as_slice();
        for slice in slices(pending.queue, &pending.writable, io)? {
            let (now, later) = rest.split_at(rest.len().min(slice.len()));
            slice.copy_from(now);
            rest = later;
        }
        written = OUT_HEADER_BYTES;
    }
    io.complete(pending.queue, pending.head, written)
}

fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    loop {
        // SAFETY: the kernel reads as many bytes as the slice has, and it lives over the call.
        let sent = unsafe {
            libc::send(
                socket.as_raw_fd(),
                message.as_ptr().cast(),
                message.len(),
                flags,
            )
        };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The next answer: slot and length. `None` for an interrupted call.
fn receive(socket: &OwnedFd) -> io::Result<Option<(u32, u32)>> {
    let mut message = [0_u8; 8];
    // SAFETY: the kernel writes at most as many bytes as the array has, which lives over the call.
    let len = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            message.as_mut_ptr().cast(),
            message.len(),
            libc::MSG_DONTWAIT,
        )
    };
    match len {
        8 => {
            let [a, b, c, d, e, f, g, h] = message;
            Ok(Some((
                u32::from_le_bytes([a, b, c, d]),
                u32::from_le_bytes([e, f, g, h]),
            )))
        }
        0 => Err(io::Error::other("it ended")),
        1.. => Err(io::Error::other("it sent a message that is none")),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            error => Err(error),
        },
    }
}

impl Device for FsDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::FileSystem
    }

    fn name(&self) -> &str {
        "file system"
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> ConfigSpace {
        let mut bytes = self.tag.clone().into_bytes();
        bytes.resize(TAG_BYTES, 0);
        bytes.extend(1_u32.to_le_bytes());
        ConfigSpace::new(bytes, 0..0)
    }

    fn activate(&mut self, _: u64, io: &mut Io) -> Result<(), DeviceError> {
        if let Some(server) = &self.server {
            io.watch.changes.push(WatchChange::Add {
                fd: server.socket.as_raw_fd(),
                token: TOKEN_SERVER,
                events: EventSet::IN,
            });
        }
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, io: &mut Io) -> Result<(), DeviceError> {
        self.take(queue, io)
    }

    fn fd_ready(&mut self, _: u32, _: EventSet, io: &mut Io) -> Result<(), DeviceError> {
        self.replies(io)
    }

    fn reset(&mut self, watch: &mut Watch) {
        self.waiting = [false; QUEUE_SIZES.len()];
        for slot in &mut self.slots {
            if matches!(slot, SlotState::Waiting(_)) {
                *slot = SlotState::Abandoned;
            }
        }
        if let Some(server) = &self.server {
            watch.changes.push(WatchChange::Remove {
                fd: server.socket.as_raw_fd(),
            });
        }
    }
}
