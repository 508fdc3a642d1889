//! A container's network: one passt process beside its VM, the addresses that the guest gets, and
//! the host's ports that lead to it.
//!
//! ```text
//! Launch.network ─► ports::resolve (busy? which of a range?) ─► passt ─► Network
//!                     Network.card ─► the VM's network card    Network.spec ─► the agent
//! ```
//! The supervisor starts passt beside the VM where ports are published; the guest begins when they are
//! bound, and never where one is taken. Elsewhere it is started when the guest has sent its
//! first frame. It ends with the VM. It knows neither flags nor images; what a guest may reach is held
//! in `vmm/src/virtio/net/filter.rs`.

mod host;
mod passt;
mod ports;
mod shown;

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::Flock;
use protocol::spec::NetworkSpec;
use serde::{Deserialize, Serialize};
use vmm::virtio::net::{Endpoint, GatewayAddresses};

use self::passt::{Passt, StartError};
use super::control_group::ControlGroup;
use super::launcher::Launcher;
use super::paths::{self, Root};

pub use self::host::Routes;
pub use self::host::{address as host_address, has_v6, resolver_v4};
pub(super) use self::passt::program;
pub use self::passt::{PASST, find as find_passt};
pub(super) use self::ports::{resolve, wait_until_free};
pub use self::shown::{Binding, bindings, mode, port_bindings, settings};
pub use vmm::virtio::net::is_forbidden;

/// Every container is alone on a network of its own, so that the same addresses do for all: those
/// that the first container of Docker's default bridge has.
pub const CONTAINER_V4: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
/// The host's side.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
/// Length of the network's prefix.
pub const PREFIX_V4: u8 = 16;
/// A unique local address (RFC 4193).
pub const CONTAINER_V6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x756c, 0x6b68, 0, 0, 0, 0, 2);
/// Link-local, as routers are; passt then answers for it what the host's loopback sends.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Length of the network's prefix.
pub const PREFIX_V6: u8 = 64;
/// Docker's way to make an Ethernet address of an IPv4 address.
const CONTAINER_MAC: [u8; 6] = [2, 0x42, 172, 17, 0, 2];
/// The host's side of it.
pub const GATEWAY_MAC: [u8; 6] = [2, 0x42, 172, 17, 0, 1];

/// How often other random ports are tried when some were taken just before passt bound them.
const ATTEMPTS: u32 = 8;

/// A protocol whose ports can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As it is written behind a port.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One port of the container that is to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// Address of the host; `None` for all of them.
    pub host_ip: Option<IpAddr>,
    /// First and last port of the host, any of which will do; `None` for any at all.
    pub host_ports: Option<(u16, u16)>,
    /// The container's port.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// `--mac-address`.
    pub mac: Option<[u8; 6]>,
    /// `-p` and `-P`.
    pub ports: Vec<PortRequest>,
}

impl PortRequest {
    /// Whether this port is one that was asked for.
    #[must_use]
    pub fn takes(&self, port: &PublishedPort) -> bool {
        let random = || (ports::random_first(), u16::MAX);
        let (first, last) = self.host_ports.unwrap_or_else(random);
        self.host_ip == port.host_ip
            && self.container_port == port.container_port
            && self.protocol == port.protocol
            && (first..=last).contains(&port.host_port)
    }
}

impl NetworkConfig {
    /// The container's Ethernet address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac.unwrap_or(CONTAINER_MAC)
    }
}

/// A port of the host that leads to the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Address of the host; `None` for all of them.
    pub host_ip: Option<IpAddr>,
    /// Port of the host.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// What a running container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// Whether it has IPv6.
    pub v6: bool,
    /// What is published.
    pub ports: Vec<PublishedPort>,
}

/// The VM's network card.
#[derive(Debug)]
pub struct Card {
    /// Its socket to passt.
    pub socket: OwnedFd,
    /// Its addresses.
    pub endpoint: Endpoint,
    /// A byte comes when the guest may begin; an end, when it may not.
    pub go: Option<PipeReader>,
}

/// The network of a life of a container; dropping it ends it, and its ports are free then.
#[derive(Debug)]
pub struct Network {
    /// Another hand on the socket's end of the VM.
    socket: UnixStream,
    endpoint: Endpoint,
    /// For the agent.
    pub spec: NetworkSpec,
    /// For the container's state.
    pub state: NetworkState,
    /// Waits for the process's end when it is dropped, after the socket was shut down.
    passt: Side,
    /// What passt is in: removed when it has ended, and the VM.
    group: ControlGroup,
}

/// What is at the other end of the VM's socket.
#[derive(Debug)]
enum Side {
    /// Nobody yet: nothing is published, and the guest has sent nothing. Most short runs end so.
    Asleep(UnixStream),
    /// passt, which binds its ports meanwhile.
    Starting(Box<Starting>),
    /// passt, whose end is waited for when it is dropped.
    Awake(Passt),
    /// Nobody any more.
    Gone,
}

/// What it takes to wait for passt, and to try again with other ports.
#[derive(Debug)]
struct Starting {
    passt: Passt,
    requests: Vec<PortRequest>,
    /// The other end of the VM's socket, for another passt.
    theirs: UnixStream,
    /// Lets the guest begin.
    go: PipeWriter,
    /// Where that is read, until the VM's process has it.
    gate: Option<PipeReader>,
    /// Two containers that start at once would find the same port free. This lock is for ports
    /// alone, so that nobody else waits for passt.
    _alone: Option<Flock<File>>,
}

/// For as long as ports are bound; without it who takes a port that was free loses a race.
const PORTS_PATIENCE: Duration = Duration::from_secs(20);

impl Network {
    /// Starts the network of a container, whose passt is in the control group of its VM;
    /// [`Self::beside`] says whether its ports could be bound.
    ///
    /// # Errors
    /// In Docker's words when a port is taken; when there is no passt.
    pub fn start(
        launcher: &Launcher,
        root: &Root,
        config: &NetworkConfig,
        group: ControlGroup,
    ) -> Result<Self> {
        let host = launcher.routes()?;
        let endpoint = endpoint(config.mac(), &host);
        let alone = match config.ports.is_empty() {
            true => None,
            false => paths::lock_within(&root.ports(), PORTS_PATIENCE)?,
        };
        let ports = match config.ports.as_slice() {
            [] => Vec::new(),
            requests => launcher.ports(requests, endpoint.v6.is_some(), 1)?,
        };
        let (mut socket, theirs) = passt::socket_pair()?;
        let passt = match config.ports.is_empty() {
            true if passt::find().is_none() => return Err(StartError::Missing.into()),
            true => Side::Asleep(theirs),
            false => {
                socket
                    .write_all(&passt::greeting(&endpoint))
                    .context("write to passt")?;
                let (gate, go) = std::io::pipe().context("create a pipe")?;
                let other = theirs.try_clone().context("share a socket")?;
                Side::Starting(Box::new(Starting {
                    passt: Passt::start(launcher, &group, other, &endpoint, &ports)?,
                    requests: config.ports.clone(),
                    theirs,
                    go,
                    gate: Some(gate),
                    _alone: alone,
                }))
            }
        };
        Ok(Self {
            socket,
            spec: spec(&endpoint),
            state: NetworkState {
                v6: endpoint.v6.is_some(),
                ports,
            },
            endpoint,
            passt,
            group,
        })
    }

    /// Starts the VM by `start` while passt binds the ports, and lets the guest begin when it has.
    /// Others who publish ports wait for passt, and not for the VM.
    ///
    /// # Errors
    /// In Docker's words when a port is taken; when passt fails; what `start` says.
    pub fn beside<T>(
        &mut self,
        launcher: &Launcher,
        start: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if !matches!(self.passt, Side::Starting(_)) {
            return start();
        }
        thread::scope(|scope| {
            let bound = thread::Builder::new()
                .spawn_scoped(scope, || self.ready(launcher))
                .context("start a thread")?;
            // In this thread, with which the VM's process ends.
            let started = start();
            bound
                .join()
                .unwrap_or_else(|_| Err(anyhow!("wait for passt")))?;
            started
        })
    }

    /// Waits until every port is bound, and lets the guest begin.
    fn ready(&mut self, launcher: &Launcher) -> Result<()> {
        let mut starting = match std::mem::replace(&mut self.passt, Side::Gone) {
            Side::Starting(starting) => starting,
            other => {
                self.passt = other;
                return Ok(());
            }
        };
        let mut attempt = 1;
        loop {
            match starting
                .passt
                .wait(launcher, &self.socket, &self.state.ports)
            {
                Ok(()) => break,
                // Random ones that somebody else took just before passt bound them.
                Err(StartError::PortTaken(_))
                    if ports::has_random(&starting.requests) && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
            let v6 = self.endpoint.v6.is_some();
            self.state.ports = launcher.ports(&starting.requests, v6, attempt)?;
            let theirs = starting.theirs.try_clone().context("share a socket")?;
            let ports = &self.state.ports;
            starting.passt = Passt::start(launcher, &self.group, theirs, &self.endpoint, ports)?;
        }
        // A VM that has ended meanwhile says so itself.
        let _ = starting.go.write_all(&[0]);
        self.passt = Side::Awake(starting.passt);
        Ok(())
    }

    /// What is readable when the guest's first frame has come and passt does not run yet.
    #[must_use]
    pub fn first_frame(&self) -> Option<BorrowedFd<'_>> {
        match &self.passt {
            Side::Asleep(theirs) => Some(theirs.as_fd()),
            Side::Starting(_) | Side::Awake(_) | Side::Gone => None,
        }
    }

    /// Starts passt if the guest has sent its first frame, which is waiting for it.
    ///
    /// # Errors
    /// What starting it says, once, and what it says itself when it has ended; the guest then has no
    /// network.
    pub fn wake(&mut self, launcher: &Launcher) -> Result<()> {
        if let Side::Awake(passt) = &mut self.passt
            && let Some(error) = passt.end_by_itself()
        {
            self.passt = Side::Gone;
            return Err(error.into());
        }
        let Some(fd) = self.first_frame() else {
            return Ok(());
        };
        if !super::poll::readable_until(fd, Some(Instant::now())).context("poll a socket")? {
            return Ok(());
        }
        if let Side::Asleep(theirs) = std::mem::replace(&mut self.passt, Side::Gone) {
            let passt = Passt::start(launcher, &self.group, theirs, &self.endpoint, &[])?;
            self.passt = Side::Awake(passt);
        }
        Ok(())
    }

    /// The VM's network card.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn card(&mut self) -> Result<Card> {
        let socket = self.socket.try_clone().context("share a socket")?;
        let go = match &mut self.passt {
            Side::Starting(starting) => starting.gate.take(),
            Side::Asleep(_) | Side::Awake(_) | Side::Gone => None,
        };
        Ok(Card {
            socket: socket.into(),
            endpoint: self.endpoint,
            go,
        })
    }
}

impl Network {
    /// Ends it as dropping it does, also where that takes more than this process may.
    pub fn end(mut self, launcher: &Launcher) {
        let _ = self.socket.shutdown(Shutdown::Both);
        match &mut self.passt {
            Side::Awake(passt) => passt.end(Some(launcher)),
            Side::Starting(starting) => starting.passt.end(Some(launcher)),
            Side::Asleep(_) | Side::Gone => {}
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What the guest sent is still read; passt ends when it finds no more.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// A guest's addresses on its network.
fn endpoint(mac: [u8; 6], host: &host::Routes) -> Endpoint {
    Endpoint {
        mac,
        v4: CONTAINER_V4,
        v4_prefix: PREFIX_V4,
        v6: host.v6.is_some().then_some(CONTAINER_V6),
        gateway: GatewayAddresses {
            v4: GATEWAY_V4,
            v6: GATEWAY_V6,
            dns: host.has_v4_resolver,
        },
    }
}

/// The card of a VM that no container runs in yet.
#[must_use]
pub fn template_endpoint() -> Endpoint {
    endpoint(CONTAINER_MAC, &host::Routes::default())
}

fn spec(endpoint: &Endpoint) -> NetworkSpec {
    let mut addresses = vec![(IpAddr::V4(endpoint.v4), endpoint.v4_prefix)];
    let mut gateways = vec![IpAddr::V4(endpoint.gateway.v4)];
    if let Some(v6) = endpoint.v6 {
        addresses.push((endpoint.link_local().into(), PREFIX_V6));
        addresses.push((v6.into(), PREFIX_V6));
        gateways.push(endpoint.gateway.v6.into());
    }
    NetworkSpec {
        mac: endpoint.mac,
        addresses,
        gateways,
        gateway_mac: GATEWAY_MAC,
    }
}
