//! The vsock device: packets off the TX queue to connections, control packets and data from
//! connections onto the RX queue.
//!
//! Run by the worker. It knows neither what a connection's states mean nor how a socket is used.

use std::collections::{BTreeMap, VecDeque};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};

use event_manager::EventSet;

use super::buffers::{self, Direction, Slices};
use super::connection::{Connection, Fate};
use super::credit::BUFFER_BYTES;
use super::host_end::HostEnd;
use super::offers::Offers;
use super::packet::{HOST_CID, Header, Operation, Ports, TYPE_STREAM};
use crate::virtio::{ConfigSpace, Device, DeviceError, DeviceKind, Io, Watch, WatchChange};

/// Queue numbers (virtio 1.2 section 5.10.2). Nothing is ever sent on the event queue: its one
/// event belongs to a restored VM.
pub(super) const RX: usize = 0;
/// What the guest sends comes here.
pub const TX: usize = 1;

/// Entries of the RX, TX and event queue. Linux fills the RX queue with 4 KiB buffers: 128 hold
/// what one connection's usual credit (256 KiB) lets through, twice. It uses 8 event buffers.
const QUEUE_SIZES: [u16; 3] = [128, 128, 8];

/// Connections at a time, those included whose host end is still to read what a guest sent before
/// it closed. With 256 KiB of backlog each, in buffers that grow by doubling, a guest makes the
/// VMM hold 32 MiB at most.
pub const MAX_CONNECTIONS: usize = 64;

/// Resets that wait for RX buffers and belong to no connection. When there are so many, no packet
/// is taken off the TX queue until the driver makes room (section 5.10.6.1).
const MAX_PENDING_RESETS: usize = 64;

/// Packets that one turn takes off the TX queue: a full queue. More wait while the other devices
/// have their turn.
const PACKETS_PER_TURN: usize = 128;

/// Payload bytes after which such a turn ends: about a millisecond of copying.
const BYTES_PER_TURN: usize = 4 << 20;

/// Turns that take all that may lie in the TX queue: what 64 connections may send without being answered.
const TURNS_AT_END: usize = (MAX_CONNECTIONS * BUFFER_BYTES as usize).div_ceil(BYTES_PER_TURN);

/// Tokens of the event loop: the offers socket, then one per connection ever made.
const TOKEN_OFFERS: u32 = 0;
pub(super) const TOKEN_LAST: u32 = (1 << 31) - 1;

/// Why a vsock device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// Context ids 0 to 2 and 2^32 - 1 are not for guests (virtio 1.2 section 5.10.4).
    #[error("vsock context id {cid}: reserved")]
    ReservedCid {
        /// The one asked for.
        cid: u32,
    },
    /// A socket for a port that has one, or one too many.
    #[error("vsock port {port}: {reason}")]
    Port {
        /// The port.
        port: u32,
        /// What is wrong.
        reason: &'static str,
    },
    /// The offers socket is none.
    #[error("vsock offers socket: {source}")]
    Offers {
        /// What the system said.
        source: std::io::Error,
    },
}

/// A virtio-vsock device.
pub struct VsockDevice {
    pub(super) guest_cid: u64,
    offers: Offers,
    offers_watched: bool,
    pub(super) connections: BTreeMap<Ports, Connection>,
    /// Host ends of closed connections that have bytes to read yet.
    draining: Vec<HostEnd>,
    /// Resets without a connection.
    pub(super) resets: VecDeque<Header>,
    /// The connection that had an RX buffer last; the next one in order comes next.
    pub(super) served: Ports,
    pub(super) last_token: u32,
    /// Packets wait on the TX queue for room in `resets`.
    tx_stalled: bool,
}

impl VsockDevice {
    /// A device for a guest of this context id. `ports` are the host's ports with the connected
    /// stream socket that answers on each, for one connection; on `offers`, a `SOCK_SEQPACKET`
    /// socket, the host sends more of them: messages of 4 bytes, the port in little-endian order,
    /// with one descriptor each (`SCM_RIGHTS`). A port that is to be connected to must have been
    /// sent before the guest hears of it.
    ///
    /// # Errors
    /// [`VsockError`], when the id is reserved, a port is given twice, or there are too many.
    pub fn new(
        guest_cid: u32,
        ports: Vec<(u32, OwnedFd)>,
        offers: Option<OwnedFd>,
    ) -> Result<Self, VsockError> {
        if guest_cid <= 2 || guest_cid == u32::MAX {
            return Err(VsockError::ReservedCid { cid: guest_cid });
        }
        Ok(Self {
            guest_cid: u64::from(guest_cid),
            offers: Offers::new(ports, offers)?,
            offers_watched: false,
            connections: BTreeMap::new(),
            draining: Vec::new(),
            resets: VecDeque::new(),
            served: Ports { guest: 0, host: 0 },
            last_token: TOKEN_OFFERS,
            tx_stalled: false,
        })
    }

    /// Takes packets off the TX queue, then sends what they led to.
    fn serve_tx(&mut self, io: &mut Io) -> Result<(), DeviceError> {
        let memory = io.memory;
        let mut header_slices = Slices::default();
        let mut payload = Slices::default();
        let mut rounds = 0;
        let mut taken = 0;
        let mut moved = 0;
        self.tx_stalled = false;
        io.disable_kicks(TX)?;
        loop {
            if self.resets.len() >= MAX_PENDING_RESETS {
                self.serve_rx(io)?;
                if self.resets.len() >= MAX_PENDING_RESETS {
                    self.tx_stalled = true;
                    break;
                }
            }
            if rounds == PACKETS_PER_TURN || moved >= BYTES_PER_TURN {
                io.call_again(TX);
                break;
            }
            // A round without a packet counts: another vCPU can move the index to and fro.
            rounds += 1;
            let Some(chain) = io.next_chain(TX)? else {
                if io.enable_kicks(TX)? {
                    io.disable_kicks(TX)?;
                    continue;
                }
                break;
            };
            taken += 1;
            let head = chain.head_index();
            header_slices.clear();
            payload.clear();
            buffers::split(
                memory,
                chain,
                Direction::ToDevice,
                &mut header_slices,
                &mut payload,
            )
            .map_err(|reason| DeviceError::Request { queue: TX, reason })?;
            let header = buffers::read_header(&header_slices);
            self.packet(&header, &mut payload, io.watch);
            moved += payload.bytes();
            io.complete(TX, head, 0)?;
        }
        if taken > 0 {
            io.signal(TX)?;
        }
        self.serve_rx(io)?;
        if self.tx_stalled && self.resets.len() < MAX_PENDING_RESETS {
            // Buffers came just now, and perhaps without a kick.
            io.call_again(TX);
        }
        Ok(())
    }

    /// Sends, and goes on with packets that waited for room. Whoever sends takes RX buffers, for which
    /// the driver may have been told not to kick.
    fn serve_rx_and_stalled(&mut self, io: &mut Io) -> Result<(), DeviceError> {
        self.serve_rx(io)?;
        if self.tx_stalled {
            self.serve_tx(io)?;
        }
        Ok(())
    }

    /// What one packet from the guest does.
    fn packet(&mut self, header: &Header, payload: &mut Slices, watch: &mut Watch) {
        // A packet between other parties is dropped: there is nobody to answer for.
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return;
        }
        let operation = Operation::from_wire(header.operation);
        if header.kind != TYPE_STREAM {
            self.refuse(header);
            return;
        }
        let ports = Ports {
            guest: header.src_port,
            host: header.dst_port,
        };
        let Some(connection) = self.connections.get_mut(&ports) else {
            match operation {
                Some(Operation::Request) => self.request(ports, header, watch),
                _ => self.refuse(header),
            }
            return;
        };
        let fate = match operation {
            Some(operation) => {
                let len = usize::try_from(header.len).unwrap_or(usize::MAX);
                let whole = len <= payload.bytes();
                payload.truncate(len);
                connection.packet(header, operation, whole.then_some(payload.as_slice()))
            }
            None => Fate::Reset,
        };
        match fate {
            Fate::Kept => {}
            Fate::Reset => {
                self.drop_connection(ports, watch);
                self.refuse(header);
            }
            Fate::Gone => self.end_connection(ports, watch),
            Fate::Closed => {
                self.end_connection(ports, watch);
                self.refuse(header);
            }
        }
    }

    /// Answers with a reset, but never a reset.
    fn refuse(&mut self, header: &Header) {
        if Operation::from_wire(header.operation) != Some(Operation::Reset) {
            self.resets.push_back(header.reset_reply());
        }
    }

    fn request(&mut self, ports: Ports, header: &Header, watch: &mut Watch) {
        if !self.offers.has(ports.host) {
            // The offer may have arrived and the event loop not have come to it.
            self.receive_offers(watch);
        }
        let Some(stream) = self.offers.take(ports.host) else {
            self.refuse(header);
            return;
        };
        if self.connections.len() + self.draining.len() < MAX_CONNECTIONS {
            let host = HostEnd::new(stream, self.new_token());
            self.connections
                .insert(ports, Connection::accept(header, host));
        } else {
            // No agent asks a second time: who offered it is not to wait for ever.
            watch.close.push(stream);
            self.refuse(header);
        }
    }

    fn receive_offers(&mut self, watch: &mut Watch) {
        let ended = self.offers.receive();
        self.close_offers(ended, watch);
    }

    fn close_offers(&mut self, socket: Option<OwnedFd>, watch: &mut Watch) {
        if let Some(socket) = socket {
            if std::mem::take(&mut self.offers_watched) {
                let fd = socket.as_raw_fd();
                watch.changes.push(WatchChange::Remove { fd });
            }
            watch.close.push(socket);
        }
    }

    /// A token that no connection has, so that an event of an old one finds nobody.
    fn new_token(&mut self) -> u32 {
        loop {
            self.last_token = if self.last_token == TOKEN_LAST {
                TOKEN_OFFERS + 1
            } else {
                self.last_token + 1
            };
            let token = self.last_token;
            let taken = self
                .connections
                .values()
                .filter_map(Connection::token)
                .chain(self.draining.iter().map(HostEnd::token))
                .any(|other| other == token);
            if !taken {
                return token;
            }
        }
    }

    /// Ends a connection with all it holds.
    fn drop_connection(&mut self, ports: Ports, watch: &mut Watch) {
        let connection = self.connections.remove(&ports);
        if let Some(host) = connection.and_then(Connection::into_host) {
            host.close(watch);
        }
    }

    /// Ends a connection for the guest. What it sent goes on to the host, if it was sent to the
    /// end: Linux gives up on a connection 8 s after its process closed it, and a host that reads
    /// slowly is to have all of it nevertheless.
    fn end_connection(&mut self, ports: Ports, watch: &mut Watch) {
        let Some(connection) = self.connections.remove(&ports) else {
            return;
        };
        let sent_all = connection.guest_sent_all();
        match connection.into_host() {
            Some(host) if sent_all => self.drain(host, watch),
            Some(host) => host.close(watch),
            None => {}
        }
    }

    /// Closes a host end when the host has read what there is for it.
    fn drain(&mut self, host: HostEnd, watch: &mut Watch) {
        if host.backlog_bytes() > 0 {
            host.shut(Shutdown::Read);
            self.draining.push(host);
        } else {
            host.close(watch);
        }
    }

    /// The same for all of them.
    fn drain_all(&mut self, watch: &mut Watch) {
        for (_, connection) in std::mem::take(&mut self.connections) {
            if let Some(host) = connection.into_host() {
                self.drain(host, watch);
            }
        }
        self.settle(watch);
    }

    fn draining_ready(&mut self, token: u32, events: EventSet, watch: &mut Watch) {
        let Some(index) = self.draining.iter().position(|host| host.token() == token) else {
            return;
        };
        let Some(host) = self.draining.get_mut(index) else {
            return;
        };
        let hung_up = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if hung_up || host.flush().is_err() || host.backlog_bytes() == 0 {
            self.draining.swap_remove(index).close(watch);
        }
    }

    /// Has the event loop wait for what each host end waits for now.
    fn settle(&mut self, watch: &mut Watch) {
        for connection in self.connections.values_mut() {
            connection.settle(watch);
        }
        for host in &mut self.draining {
            host.watch_for(Some(EventSet::OUT), watch);
        }
    }
}

impl Device for VsockDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn name(&self) -> &str {
        "vsock"
    }

    /// None: a driver that negotiates nothing gets stream sockets (section 5.10.3).
    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// `guest_cid` (section 5.10.4).
    fn config(&self) -> ConfigSpace {
        ConfigSpace::new(self.guest_cid.to_le_bytes().to_vec(), 0..0)
    }

    fn activate(&mut self, _features: u64, io: &mut Io) -> Result<(), DeviceError> {
        // Fails at once when the driver left out the queue.
        if io.next_chain(RX)?.is_some() {
            io.undo_next_chain(RX);
        }
        if let Some(fd) = self.offers.fd() {
            self.offers_watched = true;
            io.watch.changes.push(WatchChange::Add {
                fd,
                token: TOKEN_OFFERS,
                events: EventSet::IN,
            });
        }
        self.serve_tx(io)?;
        self.settle(io.watch);
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, io: &mut Io) -> Result<(), DeviceError> {
        match queue {
            TX => self.serve_tx(io)?,
            RX => self.serve_rx_and_stalled(io)?,
            _ => {}
        }
        self.settle(io.watch);
        Ok(())
    }

    fn fd_ready(&mut self, token: u32, events: EventSet, io: &mut Io) -> Result<(), DeviceError> {
        if token == TOKEN_OFFERS {
            self.receive_offers(io.watch);
            return Ok(());
        }
        match self
            .connections
            .values_mut()
            .find(|connection| connection.token() == Some(token))
        {
            Some(connection) => {
                connection.host_ready(events);
                self.serve_rx_and_stalled(io)?;
            }
            None => self.draining_ready(token, events, io.watch),
        }
        self.settle(io.watch);
        Ok(())
    }

    /// Connections end for the host too, when it has read what the guest sent: Linux resets its devices
    /// when it ends. Ports that are still offered stay so.
    fn reset(&mut self, watch: &mut Watch) {
        if std::mem::take(&mut self.offers_watched)
            && let Some(fd) = self.offers.fd()
        {
            watch.changes.push(WatchChange::Remove { fd });
        }
        self.drain_all(watch);
        self.resets.clear();
        self.tx_stalled = false;
    }

    /// What the guest sent is the host's to read, whether or not a connection came to its end: a
    /// guest ends when its sockets have taken its last bytes, which a host that reads slowly has not.
    fn end(&mut self, io: &mut Io) -> Result<(), DeviceError> {
        for _ in 0..TURNS_AT_END {
            self.serve_tx(io)?;
        }
        let offers = self.offers.end();
        self.close_offers(offers, io.watch);
        self.drain_all(io.watch);
        Ok(())
    }

    fn is_delivered(&self) -> bool {
        self.draining.is_empty()
    }
}
