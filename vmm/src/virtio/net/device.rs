//! The network device itself: its features, and what it waits for. The worker calls it.

use std::os::fd::OwnedFd;

use event_manager::EventSet;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

use super::MTU;
use super::filter::{Endpoint, Filter};
use super::receive::{self, Manner, Receiver};
use super::socket::Socket;
use super::transmit::{self, Transmitter};
use crate::virtio::{ConfigSpace, Device, DeviceError, DeviceKind, Io, Watch, WatchChange};

/// `receiveq1` and `transmitq1` (section 5.1.2).
pub const RX: usize = 0;
/// See [`RX`].
pub const TX: usize = 1;

/// Entries of each queue: a megabyte of Linux's page-sized buffers.
pub(super) const QUEUE_SIZE: u16 = 256;

/// The one descriptor it watches.
const TOKEN_SOCKET: u32 = 0;

/// The device.
#[derive(Debug)]
pub struct NetDevice {
    mac: [u8; 6],
    /// Gone when the other side is, and never there in a template's VM.
    socket: Option<Socket>,
    filter: Filter,
    receiver: Receiver,
    transmitter: Transmitter,
    /// Features that the driver took.
    features: u64,
    /// What the event loop waits for on the socket.
    watched: EventSet,
    /// The driver has buffers, as far as is known.
    has_buffers: bool,
    /// Frames wait for room in the socket.
    is_full: bool,
}

impl NetDevice {
    /// The network card of `endpoint` on `socket`, a connected stream socket that does not block;
    /// without one nothing is received and all that is sent is dropped.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(endpoint: Endpoint, socket: Option<OwnedFd>) -> std::io::Result<Self> {
        Ok(Self {
            mac: endpoint.mac,
            socket: socket.map(Socket::new).transpose()?,
            filter: Filter::new(endpoint),
            receiver: Receiver::new(),
            transmitter: Transmitter::default(),
            features: 0,
            watched: EventSet::empty(),
            has_buffers: false,
            is_full: false,
        })
    }

    fn manner(&self) -> Manner {
        let has = |bit: u32| self.features & 1 << bit != 0;
        Manner {
            mergeable: has(VIRTIO_NET_F_MRG_RXBUF),
            trusts_checksums: has(VIRTIO_NET_F_GUEST_CSUM),
        }
    }

    fn receive(&mut self, io: &mut Io) -> Result<(), DeviceError> {
        let manner = self.manner();
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        io.disable_kicks(RX)?;
        let wait = self.receiver.run(socket, &mut self.filter, manner, io)?;
        self.has_buffers = wait != receive::Wait::Buffers;
        match wait {
            receive::Wait::Socket | receive::Wait::Buffers => {}
            receive::Wait::Turn => io.call_again(RX),
            receive::Wait::Gone => {
                self.let_go(io.watch);
                if self.is_full {
                    // There will be no room to wait for.
                    self.transmit(io)?;
                }
            }
        }
        Ok(())
    }

    /// Nothing goes over the socket any more.
    fn let_go(&mut self, watch: &mut Watch) {
        crate::say(format_args!("net: the other side of the network is gone"));
        self.watch(EventSet::empty(), watch);
        watch.close.extend(self.socket.take().map(Socket::into));
    }

    fn transmit(&mut self, io: &mut Io) -> Result<(), DeviceError> {
        let socket = self.socket.as_ref();
        let mut wait = self.transmitter.run(socket, &self.filter, io)?;
        if wait == transmit::Wait::Gone {
            self.let_go(io.watch);
            wait = self.transmitter.run(None, &self.filter, io)?;
        }
        self.is_full = wait == transmit::Wait::Socket;
        if wait == transmit::Wait::Turn {
            io.call_again(TX);
        }
        Ok(())
    }

    /// Waits for what is wanted now.
    fn watch_socket(&mut self, watch: &mut Watch) {
        let mut wanted = EventSet::empty();
        if self.has_buffers {
            wanted |= EventSet::IN;
        }
        if self.is_full {
            wanted |= EventSet::OUT;
        }
        self.watch(wanted, watch);
    }

    fn watch(&mut self, events: EventSet, watch: &mut Watch) {
        let Some(socket) = &self.socket else {
            return;
        };
        let (fd, token) = (socket.fd(), TOKEN_SOCKET);
        if events == self.watched {
            return;
        }
        watch.changes.push(if events.is_empty() {
            WatchChange::Remove { fd }
        } else if self.watched.is_empty() {
            WatchChange::Add { fd, token, events }
        } else {
            WatchChange::Modify { fd, token, events }
        });
        self.watched = events;
    }
}

impl Device for NetDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn name(&self) -> &str {
        "net"
    }

    fn features(&self) -> u64 {
        [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_MTU,
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_RING_F_INDIRECT_DESC,
        ]
        .into_iter()
        .fold(0, |features, bit| features | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    /// `struct virtio_net_config` up to `mtu` (section 5.1.4).
    fn config(&self) -> ConfigSpace {
        let mut bytes = self.mac.to_vec();
        bytes.extend([0; 4]); // status, max_virtqueue_pairs: no such features
        bytes.extend(MTU.to_le_bytes());
        ConfigSpace::new(bytes, 0..0)
    }

    fn activate(&mut self, features: u64, io: &mut Io) -> Result<(), DeviceError> {
        self.features = features;
        // The driver kicks when it gives buffers.
        self.has_buffers = false;
        self.watch_socket(io.watch);
        Ok(())
    }

    fn queue_ready(&mut self, queue: usize, io: &mut Io) -> Result<(), DeviceError> {
        match queue {
            RX => self.receive(io)?,
            _ if self.is_full => {}
            _ => self.transmit(io)?,
        }
        self.watch_socket(io.watch);
        Ok(())
    }

    fn fd_ready(&mut self, _: u32, events: EventSet, io: &mut Io) -> Result<(), DeviceError> {
        // Whoever is gone is found by reading.
        if events.intersects(EventSet::IN | EventSet::HANG_UP | EventSet::ERROR) {
            self.receive(io)?;
        }
        if self.is_full {
            self.transmit(io)?;
        }
        self.watch_socket(io.watch);
        Ok(())
    }

    fn reset(&mut self, watch: &mut Watch) {
        self.watch(EventSet::empty(), watch);
        self.receiver.reset();
        self.transmitter.reset();
        self.features = 0;
        self.has_buffers = false;
        self.is_full = false;
    }
}
