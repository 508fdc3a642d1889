//! One connection: what a packet or a ready socket does to it, and what it owes the guest.
//!
//! Used by the device, which moves packets between queues and connections. It knows no queue and
//! no other connection; `mod.rs` draws its states.

use std::net::Shutdown;

use event_manager::EventSet;

use super::buffers::{Slice, Slices};
use super::credit::{BUFFER_BYTES, Credit};
use super::host_end::{Gone, HostEnd, Received};
use super::packet::{Header, Operation, Ports, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::virtio::Watch;

/// RX buffers that one read from the host fills at most. Linux posts 3732 bytes of payload each,
/// so that this is what a 64 KiB read needs, with a spare for smaller ones.
const MAX_READ_BUFFERS: usize = 24;

/// The direction from the host to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToGuest {
    /// The socket had nothing: the event loop waits for more.
    Idle,
    /// The socket may have bytes; it is read as soon as the guest has RX buffers.
    Readable,
    /// The guest has no room: a packet with new credit makes it readable.
    NoCredit,
    /// The host sends no more, or the guest takes no more.
    Ended,
}

/// The direction from the guest to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToHost {
    /// Bytes go to the socket, or to the backlog when it is full.
    Open,
    /// The guest sends no more; the backlog still goes out.
    Flushing,
    /// The guest sends no more and everything went out.
    Finished,
    /// The host takes no more: what was under way is counted and dropped.
    Discarding,
}

/// What becomes of a connection after a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Kept,
    /// The guest broke the rules: it is reset, and what it sent is dropped.
    Reset,
    /// The guest shut down both directions: a reset confirms that.
    Closed,
    /// The guest reset it: no answer.
    Gone,
}

/// A connection that the guest opened.
#[derive(Debug)]
pub(super) struct Connection {
    ports: Ports,
    credit: Credit,
    /// Shutdown flags that the guest sent so far; they are never taken back.
    guest_shutdown: u32,
    /// Shutdown flags that the guest was told.
    told_shutdown: u32,
    /// `None` once both directions are over.
    host: Option<HostEnd>,
    to_guest: ToGuest,
    to_host: ToHost,
    /// Control packets to send, each at most once.
    owed: Vec<Operation>,
    /// RX buffers to take for the next read: it doubles while the host fills them.
    read_buffers: usize,
}

impl Connection {
    /// Accepts the guest's request.
    pub(super) fn accept(request: &Header, host: HostEnd) -> Self {
        let mut credit = Credit::default();
        credit.learn(request);
        Self {
            ports: Ports {
                guest: request.src_port,
                host: request.dst_port,
            },
            credit,
            guest_shutdown: 0,
            told_shutdown: 0,
            host: Some(host),
            to_guest: ToGuest::Readable,
            to_host: ToHost::Open,
            owed: vec![Operation::Response],
            read_buffers: 1,
        }
    }

    pub(super) fn token(&self) -> Option<u32> {
        self.host.as_ref().map(HostEnd::token)
    }

    /// Whether the guest said that it sent all it had to send.
    pub(super) fn guest_sent_all(&self) -> bool {
        self.guest_shutdown & SHUTDOWN_SEND != 0
    }

    /// The socket, if it is of use yet.
    pub(super) fn into_host(self) -> Option<HostEnd> {
        self.host
    }

    /// Whether the device should take an RX buffer for [`Self::control_packet`] or a read.
    pub(super) fn wants_to_send(&self) -> bool {
        self.to_guest == ToGuest::Readable || self.owes_control()
    }

    /// Whether a control packet is to go before any data.
    pub(super) fn owes_control(&self) -> bool {
        !self.owed.is_empty() || self.shutdown_due() || self.credit_update_due()
    }

    /// A socket that hung up is read to its end first, so that one packet tells of both
    /// directions.
    fn shutdown_due(&self) -> bool {
        self.to_guest != ToGuest::Readable && self.shutdown_flags() != self.told_shutdown
    }

    fn credit_update_due(&self) -> bool {
        self.credit.update_due() && !self.guest_sent_all() && self.told_shutdown != SHUTDOWN_BOTH
    }

    fn owe(&mut self, operation: Operation) {
        if !self.owed.contains(&operation) {
            self.owed.push(operation);
        }
    }

    /// The next control packet, to be sent at once.
    pub(super) fn control_packet(&mut self, guest_cid: u64) -> Header {
        let operation = if !self.owed.is_empty() {
            self.owed.remove(0)
        } else if self.shutdown_due() {
            Operation::Shutdown
        } else {
            Operation::CreditUpdate
        };
        let mut packet = Header::to_guest(guest_cid, self.ports, operation, 0);
        if operation == Operation::Shutdown {
            packet.flags = self.shutdown_flags();
            self.told_shutdown = packet.flags;
        }
        self.credit.stamp(&mut packet);
        packet
    }

    /// RX buffers and payload bytes that the next read may use, or `None` when the guest has no
    /// room: it is asked for more, and data waits.
    pub(super) fn read_limits(&mut self) -> Option<(usize, usize)> {
        let credit = self.credit.available();
        if credit == 0 {
            self.to_guest = ToGuest::NoCredit;
            self.owe(Operation::CreditRequest);
            return None;
        }
        Some((
            self.read_buffers,
            usize::try_from(credit).unwrap_or(usize::MAX),
        ))
    }

    /// Reads from the host into the payload of RX buffers; returns the bytes, and 0 when there
    /// is nothing to send. `into` holds no more than [`Self::read_limits`] allowed.
    pub(super) fn read(&mut self, into: &Slices) -> usize {
        let Some(host) = &self.host else {
            self.to_guest = ToGuest::Ended;
            return 0;
        };
        match host.receive(into.as_slice()) {
            Received::Bytes(bytes) => {
                // A short read emptied the socket: the event loop knows when to go on.
                if bytes < into.bytes() {
                    self.to_guest = ToGuest::Idle;
                    self.read_buffers = (self.read_buffers / 2).max(1);
                } else {
                    self.read_buffers = (self.read_buffers * 2).min(MAX_READ_BUFFERS);
                }
                bytes
            }
            Received::Nothing => {
                self.to_guest = ToGuest::Idle;
                0
            }
            Received::End => {
                self.to_guest = ToGuest::Ended;
                0
            }
        }
    }

    /// The packet for `len` bytes of a read, to be sent at once.
    pub(super) fn data_packet(&mut self, guest_cid: u64, len: u32) -> Header {
        self.credit.spend(len);
        let mut packet = Header::to_guest(guest_cid, self.ports, Operation::ReadWrite, len);
        self.credit.stamp(&mut packet);
        packet
    }

    /// Takes a packet of this connection. `payload` is what its chain holds, `None` when that is
    /// less than its header says.
    pub(super) fn packet(
        &mut self,
        header: &Header,
        operation: Operation,
        payload: Option<&[Slice]>,
    ) -> Fate {
        self.credit.learn(header);
        if self.to_guest == ToGuest::NoCredit && self.credit.available() > 0 {
            self.to_guest = ToGuest::Readable;
        }
        match operation {
            Operation::Request | Operation::Response => Fate::Reset,
            Operation::Reset => Fate::Gone,
            Operation::CreditUpdate => Fate::Kept,
            Operation::CreditRequest => {
                self.owe(Operation::CreditUpdate);
                Fate::Kept
            }
            Operation::Shutdown => self.guest_shut(header.flags),
            Operation::ReadWrite => match payload {
                Some(payload) => self.data(header.len, payload),
                None => Fate::Reset,
            },
        }
    }

    fn data(&mut self, len: u32, payload: &[Slice]) -> Fate {
        match self.to_host {
            ToHost::Flushing | ToHost::Finished => Fate::Reset,
            ToHost::Discarding => {
                self.credit.forward(len);
                Fate::Kept
            }
            ToHost::Open => {
                let held = self.host.as_ref().map_or(0, HostEnd::backlog_bytes);
                let room = usize::try_from(BUFFER_BYTES)
                    .unwrap_or(0)
                    .saturating_sub(held);
                if usize::try_from(len).map_or(true, |len| len > room) {
                    return Fate::Reset;
                }
                if len > 0
                    && let Some(host) = &mut self.host
                {
                    match host.send(payload) {
                        Ok(sent) => self.forwarded(sent),
                        Err(Gone) => {
                            self.credit.forward(len);
                            self.host_takes_no_more();
                        }
                    }
                }
                Fate::Kept
            }
        }
    }

    /// Counts bytes that left the backlog or never entered it. There are never more at once than
    /// the buffer holds.
    fn forwarded(&mut self, bytes: usize) {
        self.credit
            .forward(u32::try_from(bytes).unwrap_or(BUFFER_BYTES));
    }

    fn guest_shut(&mut self, flags: u32) -> Fate {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        if self.guest_shutdown == SHUTDOWN_BOTH {
            return Fate::Closed;
        }
        if flags & SHUTDOWN_SEND != 0 {
            match self.to_host {
                ToHost::Open => {
                    self.to_host = ToHost::Flushing;
                    self.finish_flushing();
                }
                ToHost::Discarding => self.to_host = ToHost::Finished,
                ToHost::Flushing | ToHost::Finished => {}
            }
        }
        if flags & SHUTDOWN_RECEIVE != 0 && self.to_guest != ToGuest::Ended {
            self.to_guest = ToGuest::Ended;
            if let Some(host) = &self.host {
                host.shut(Shutdown::Read);
            }
        }
        Fate::Kept
    }

    fn finish_flushing(&mut self) {
        if self.to_host == ToHost::Flushing
            && let Some(host) = &self.host
            && host.backlog_bytes() == 0
        {
            host.shut(Shutdown::Write);
            self.to_host = ToHost::Finished;
        }
    }

    fn host_takes_no_more(&mut self) {
        let dropped = self.host.as_mut().map_or(0, HostEnd::discard_backlog);
        self.forwarded(dropped);
        self.to_host = match self.to_host {
            ToHost::Open | ToHost::Discarding => ToHost::Discarding,
            ToHost::Flushing | ToHost::Finished => ToHost::Finished,
        };
    }

    /// The event loop found the socket ready.
    pub(super) fn host_ready(&mut self, events: EventSet) {
        if events.contains(EventSet::OUT)
            && let Some(host) = &mut self.host
        {
            match host.flush() {
                Ok(sent) => self.forwarded(sent),
                Err(Gone) => self.host_takes_no_more(),
            }
            self.finish_flushing();
        }
        // A socket hangs up when nothing can be sent on it any more; there may still be bytes to
        // read, up to the end of the stream.
        let hung_up = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if hung_up {
            self.host_takes_no_more();
        }
        if self.to_guest == ToGuest::Idle && (hung_up || events.contains(EventSet::IN)) {
            self.to_guest = ToGuest::Readable;
        }
    }

    /// Which directions are over as the guest is to see it.
    fn shutdown_flags(&self) -> u32 {
        let send = if self.to_guest == ToGuest::Ended {
            SHUTDOWN_SEND
        } else {
            0
        };
        let receive = if self.to_host == ToHost::Discarding {
            SHUTDOWN_RECEIVE
        } else {
            0
        };
        self.told_shutdown | send | receive
    }

    /// Has the event loop wait for what the connection waits for, and closes the socket when it
    /// is of no more use. The device calls it at the end of each turn.
    pub(super) fn settle(&mut self, watch: &mut Watch) {
        let ended = self.to_guest == ToGuest::Ended
            && matches!(self.to_host, ToHost::Finished | ToHost::Discarding);
        if ended {
            if let Some(host) = self.host.take() {
                host.close(watch);
            }
            return;
        }
        let Some(host) = &mut self.host else {
            return;
        };
        let mut interest = EventSet::empty();
        if self.to_guest == ToGuest::Idle {
            interest |= EventSet::IN;
        }
        if host.backlog_bytes() > 0 {
            interest |= EventSet::OUT;
        }
        // Nothing to wait for but a hang-up: it is news only while the host takes bytes.
        let wanted = !interest.is_empty() || self.to_host == ToHost::Open;
        host.watch_for(wanted.then_some(interest), watch);
    }
}
