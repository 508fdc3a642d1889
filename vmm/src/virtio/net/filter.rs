//! Which frames may leave a guest: those of its own addresses, to what is neither the host's
//! loopback, nor link-local, nor where clouds keep their machines' secrets.
//!
//! [`super::transmit`] asks with the bytes that are sent, copied out of guest memory before, and
//! [`super::receive`] shows it what arrives. passt connects wherever a guest says, so this is where
//! a guest is held. Pure; it must not know sockets or queues.
//!
//! **The gateway.** A guest's gateway stands for the host where it can only answer: passt gives
//! connections from the host's loopback the gateway's address, and would take new ones to that
//! address to the host's loopback. So only answers pass: TCP that opens no connection, and datagrams
//! to a port that sent one before. Domain name questions (UDP port 53) pass when passt forwards them.
//! IPv4 fragments and IPv6 extension headers never pass to the gateway or to link-local addresses,
//! so that what is looked at is what passt looks at.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// `EtherType`s (IEEE 802).
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// IP protocols.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Offset of what follows the Ethernet header.
const NETWORK: usize = 14;
const IPV4_HEADER_MIN: usize = 20;
const IPV6_HEADER: usize = 40;

/// TCP flags (RFC 9293 section 3.1).
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// Neighbor solicitation and advertisement (RFC 4861).
const NEIGHBOR: [u8; 2] = [135, 136];

const DNS_PORT: u16 = 53;

/// Datagram flows with the host that are remembered; the oldest is forgotten. As many programs of
/// the host talk to one container's published UDP ports at a time.
const FLOWS_MAX: usize = 256;

/// Where clouds keep metadata and credentials of their machines, beyond 169.254.0.0/16: Alibaba,
/// Oracle, Azure; and Amazon and Google over IPv6.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Addresses that stand for the host towards the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayAddresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
    /// Whether passt forwards questions to port 53 of the first.
    pub dns: bool,
}

/// A guest on its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Length of the network's prefix.
    pub v4_prefix: u8,
    /// Its IPv6 address, where it has one.
    pub v6: Option<Ipv6Addr>,
    /// The host's side.
    pub gateway: GatewayAddresses,
}

impl Endpoint {
    /// The link-local address that the kernel makes of an Ethernet address (RFC 4291 appendix A).
    #[must_use]
    pub fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            word(a ^ 2, b),
            word(c, 0xff),
            word(0xfe, d),
            word(e, f),
        )
    }

    fn v4_broadcast(&self) -> Ipv4Addr {
        let host = u32::MAX.checked_shr(u32::from(self.v4_prefix)).unwrap_or(0);
        Ipv4Addr::from_bits(self.v4.to_bits() | host)
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It is gone.
    Drop,
}

/// Whether no guest may reach this address: the host's own loopback and "this host" addresses,
/// link-local ones, clouds' metadata, and what is no single host's.
#[must_use]
pub fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            // 0.0.0.0/8 is the host itself for connect(2); 240.0.0.0/4 is reserved.
            first == 0
                || first >= 240
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || METADATA_V4.contains(&v4)
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            // ::/64 has the unspecified address, the loopback and each form of IPv4 addresses (RFC 4291
            // section 2.5.5, RFC 2765 section 2.1); what else is in it was never given to anybody.
            let is_reserved = [a, b, c, d] == [0; 4];
            is_reserved
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || METADATA_V6.contains(&v6)
                || nat64(v6).is_some_and(|v4| is_forbidden(v4.into()))
        }
    }
}

/// The IPv4 address behind a translator's well-known prefix (RFC 6052).
fn nat64(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = v6.segments() else {
        return None;
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

/// Datagrams between one port of the guest and one of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    v6: bool,
    guest: u16,
    host: u16,
}

/// The filter of one guest.
#[derive(Debug)]
pub struct Filter {
    endpoint: Endpoint,
    /// Oldest first.
    flows: VecDeque<Flow>,
}

/// The front of a frame; reading beyond it gives nothing.
#[derive(Clone, Copy)]
struct Front<'a>(&'a [u8]);

impl Front<'_> {
    fn array<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    fn byte(self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    fn word(self, offset: usize) -> Option<u16> {
        self.array(offset).map(u16::from_be_bytes)
    }

    fn v4(self, offset: usize) -> Option<Ipv4Addr> {
        self.array::<4>(offset).map(Ipv4Addr::from)
    }

    fn v6(self, offset: usize) -> Option<Ipv6Addr> {
        self.array::<16>(offset).map(Ipv6Addr::from)
    }
}

/// Where the transport header begins, and what it is; `None` when it is not the packet's first.
type Transport = Option<(u8, usize)>;

impl Filter {
    /// The filter of a guest with these addresses.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            flows: VecDeque::new(),
        }
    }

    /// Judges a frame of the guest by its front: all of it, or at least 128 bytes.
    #[must_use]
    pub fn outgoing(&self, front: &[u8]) -> Verdict {
        match self.judge(Front(front)) {
            Some(true) => Verdict::Pass,
            // What is cut off is not what it says.
            Some(false) | None => Verdict::Drop,
        }
    }

    fn judge(&self, frame: Front) -> Option<bool> {
        if frame.array::<6>(6)? != self.endpoint.mac {
            return Some(false);
        }
        match frame.word(12)? {
            ETHERTYPE_ARP => self.judge_arp(frame),
            ETHERTYPE_IPV4 => self.judge_v4(frame),
            ETHERTYPE_IPV6 => self.judge_v6(frame),
            _ => Some(false),
        }
    }

    /// Questions and answers of the guest's own (RFC 826).
    fn judge_arp(&self, frame: Front) -> Option<bool> {
        const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
        let sender = frame.v4(NETWORK + 14)?;
        Some(
            frame.array::<6>(NETWORK)? == ETHERNET_IPV4
                && frame.array::<6>(NETWORK + 8)? == self.endpoint.mac
                && (sender == self.endpoint.v4 || sender.is_unspecified()),
        )
    }

    fn judge_v4(&self, frame: Front) -> Option<bool> {
        let transport = v4_transport(frame)?;
        let (source, destination) = (frame.v4(NETWORK + 12)?, frame.v4(NETWORK + 16)?);
        if source != self.endpoint.v4
            || is_forbidden(destination.into())
            || destination == self.endpoint.v4_broadcast()
        {
            return Some(false);
        }
        if destination != self.endpoint.gateway.v4 {
            return Some(true);
        }
        let dns = self.endpoint.gateway.dns;
        match transport {
            Some((ICMP, _)) => Some(true),
            Some((UDP, at)) if dns && frame.word(at + 2)? == DNS_PORT => Some(true),
            other => self.is_answer(frame, false, other),
        }
    }

    fn judge_v6(&self, frame: Front) -> Option<bool> {
        let transport = v6_transport(frame)?;
        let (source, destination) = (frame.v6(NETWORK + 8)?, frame.v6(NETWORK + 24)?);
        let own = Some(source) == self.endpoint.v6 || source == self.endpoint.link_local();
        if self.endpoint.v6.is_none() || !own {
            return Some(false);
        }
        let to_gateway = destination == self.endpoint.gateway.v6;
        if let Some((ICMPV6, at)) = transport
            && NEIGHBOR.contains(&frame.byte(at)?)
        {
            return Some(
                to_gateway || destination.is_multicast() || !is_forbidden(destination.into()),
            );
        }
        if to_gateway {
            return self.is_answer(frame, true, transport);
        }
        Some(!is_forbidden(destination.into()))
    }

    /// Whether a packet to the host answers one of it.
    fn is_answer(&self, frame: Front, v6: bool, transport: Transport) -> Option<bool> {
        match transport {
            Some((TCP, at)) => Some(frame.byte(at + 13)? & (TCP_SYN | TCP_ACK) != TCP_SYN),
            Some((UDP, at)) => {
                let (guest, host) = (frame.word(at)?, frame.word(at + 2)?);
                Some(self.flows.contains(&Flow { v6, guest, host }))
            }
            _ => Some(false),
        }
    }

    /// Takes note of a frame for the guest, by its front as in [`Self::outgoing`].
    pub fn incoming(&mut self, front: &[u8]) {
        if let Some(flow) = self.flow(Front(front))
            && !self.flows.contains(&flow)
        {
            if self.flows.len() == FLOWS_MAX {
                self.flows.pop_front();
            }
            self.flows.push_back(flow);
        }
    }

    /// The flow of a datagram from the host.
    fn flow(&self, frame: Front) -> Option<Flow> {
        let (v6, from_host, transport) = match frame.word(12)? {
            ETHERTYPE_IPV4 => {
                let from_host = frame.v4(NETWORK + 12)? == self.endpoint.gateway.v4;
                (false, from_host, v4_transport(frame)?)
            }
            ETHERTYPE_IPV6 => {
                let from_host = frame.v6(NETWORK + 8)? == self.endpoint.gateway.v6;
                (true, from_host, v6_transport(frame)?)
            }
            _ => return None,
        };
        let (UDP, at) = transport.filter(|_| from_host)? else {
            return None;
        };
        Some(Flow {
            v6,
            guest: frame.word(at + 2)?,
            host: frame.word(at)?,
        })
    }
}

/// `None` when it is no IPv4 header.
fn v4_transport(frame: Front) -> Option<Transport> {
    let first = frame.byte(NETWORK)?;
    let header = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || header < IPV4_HEADER_MIN {
        return None;
    }
    // More fragments, or an offset.
    let is_fragment = frame.word(NETWORK + 6)? & 0x3fff != 0;
    let protocol = frame.byte(NETWORK + 9)?;
    Some((!is_fragment).then_some((protocol, NETWORK + header)))
}

/// `None` when it is no IPv6 header.
fn v6_transport(frame: Front) -> Option<Transport> {
    if frame.byte(NETWORK)? >> 4 != 6 {
        return None;
    }
    let next = frame.byte(NETWORK + 6)?;
    let known = matches!(next, TCP | UDP | ICMPV6);
    Some(known.then_some((next, NETWORK + IPV6_HEADER)))
}
