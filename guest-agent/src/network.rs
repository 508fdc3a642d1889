//! The container's network interface: Ethernet address, IP addresses and default routes, as the host
//! says.
//!
//! Called by [`crate::container`] before the first process. A VM may have booted with another
//! Ethernet address than it is to have, in a template. It must not know who is on the other side.
//!
//! Talks rtnetlink (rtnetlink(7)): a request, and an answer with an error number, 0 for none.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use protocol::spec::NetworkSpec;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

use crate::failure::{Context, Failure};

/// What Linux calls the first network card.
pub const INTERFACE: &str = "eth0";

/// Request types and flags (linux/rtnetlink.h, linux/netlink.h).
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// The kernel makes no link-local address of its own, which it would first look for on the link.
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// There is nobody on the link who could have the address, too.
const IFA_F_NODAD: u8 = 2;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Bytes of an answer: an error has the request in it.
const ANSWER_BYTES_MAX: usize = 4096;

/// Sets the interface up and takes it up.
///
/// # Errors
/// What the kernel says.
pub fn up(spec: &NetworkSpec) -> Result<(), Failure> {
    let route = Route::open().context(|| "open a netlink socket".into())?;
    let index = name_to_index(&route.0, INTERFACE).context(|| format!("find {INTERFACE}"))?;
    // In this order: the kernel makes its link-local address when the interface comes up.
    for request in [link(index, spec.mac), link_up(index)] {
        route
            .ask(request)
            .context(|| format!("set up {INTERFACE}"))?;
    }
    for (address, prefix) in &spec.addresses {
        route
            .ask(self::address(index, *address, *prefix))
            .context(|| format!("give {INTERFACE} the address {address}/{prefix}"))?;
    }
    for gateway in &spec.gateways {
        route
            .ask(neighbour(index, *gateway, spec.gateway_mac))
            .context(|| format!("give {gateway} its Ethernet address"))?;
        route
            .ask(default_route(index, *gateway))
            .context(|| format!("route by {gateway}"))?;
    }
    Ok(())
}

struct Route(OwnedFd);

impl Route {
    fn open() -> Result<Self, Errno> {
        socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None, // NETLINK_ROUTE is protocol 0
        )
        .map(Self)
    }

    /// Sends a request to the kernel, which answers before the call returns.
    fn ask(&self, request: Request) -> Result<(), Errno> {
        send(&self.0, &request.finish(), SendFlags::empty())?;
        let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
        recv(&self.0, spare_capacity(&mut answer), RecvFlags::empty())?;
        parse_answer(&answer)
    }
}

/// The error number in an answer, which is negative.
fn parse_answer(answer: &[u8]) -> Result<(), Errno> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    let error = answer
        .get(HEADER..HEADER + 4)
        .and_then(|bytes| bytes.try_into().ok());
    match (kind.map(u16::from_ne_bytes), error.map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(number)) => {
            Err(Errno::from_raw_os_error(number.checked_neg().unwrap_or(0)))
        }
        _ => Err(Errno::BADMSG),
    }
}

/// A request as it grows: a header, a fixed part, attributes.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, fixed: &[&[u8]]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        // Sequence number and sender: there is one request at a time.
        bytes.extend([0; 8]);
        for part in fixed {
            bytes.extend_from_slice(part);
        }
        Self(bytes)
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        attribute(&mut self.0, kind, value);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(0).to_ne_bytes();
        for (to, from) in self.0.iter_mut().zip(len) {
            *to = from;
        }
        self.0
    }
}

/// `struct rtattr`: length, type, value, padding to four bytes.
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// `struct ifinfomsg`: family, type, index, flags, which of them to change.
fn link_message(index: u32, flags: u32) -> Request {
    let flags = flags.to_ne_bytes();
    let fixed = [
        &[AF_UNSPEC, 0, 0, 0][..],
        &index.to_ne_bytes(),
        &flags,
        &flags,
    ];
    Request::new(RTM_NEWLINK, 0, &fixed)
}

fn link_up(index: u32) -> Request {
    link_message(index, IFF_UP)
}

fn link(index: u32, mac: [u8; 6]) -> Request {
    let (mut mode, mut inet6) = (Vec::new(), Vec::new());
    attribute(
        &mut mode,
        IFLA_INET6_ADDR_GEN_MODE,
        &[IN6_ADDR_GEN_MODE_NONE],
    );
    attribute(&mut inet6, u16::from(AF_INET6), &mode);
    link_message(index, 0)
        .with(IFLA_AF_SPEC, &inet6)
        .with(IFLA_ADDRESS, &mac)
}

/// `struct ifaddrmsg`.
fn address(index: u32, address: IpAddr, prefix: u8) -> Request {
    let message = |family, flags| {
        let fixed = [
            &[family, prefix, flags, RT_SCOPE_UNIVERSE][..],
            &index.to_ne_bytes(),
        ];
        Request::new(RTM_NEWADDR, NLM_F_CREATE, &fixed)
    };
    match address {
        IpAddr::V4(v4) => {
            let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            let broadcast = (v4.to_bits() | host).to_be_bytes();
            message(AF_INET, 0)
                .with(IFA_LOCAL, &v4.octets())
                .with(IFA_ADDRESS, &v4.octets())
                .with(IFA_BROADCAST, &broadcast)
        }
        IpAddr::V6(v6) => message(AF_INET6, IFA_F_NODAD).with(IFA_ADDRESS, &v6.octets()),
    }
}

/// `struct ndmsg`: family, padding, interface, state, flags, type.
fn neighbour(index: u32, address: IpAddr, mac: [u8; 6]) -> Request {
    let message = |family| {
        let fixed = [
            &[family, 0, 0, 0][..],
            &index.to_ne_bytes(),
            &NUD_PERMANENT.to_ne_bytes(),
            &[0, RTN_UNICAST],
        ];
        Request::new(RTM_NEWNEIGH, NLM_F_CREATE, &fixed)
    };
    let request = match address {
        IpAddr::V4(v4) => message(AF_INET).with(NDA_DST, &v4.octets()),
        IpAddr::V6(v6) => message(AF_INET6).with(NDA_DST, &v6.octets()),
    };
    request.with(NDA_LLADDR, &mac)
}

/// `struct rtmsg`.
fn default_route(index: u32, gateway: IpAddr) -> Request {
    let message = |family| {
        let fixed = [
            &[family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT][..],
            &[RT_SCOPE_UNIVERSE, RTN_UNICAST, 0, 0, 0, 0],
        ];
        Request::new(RTM_NEWROUTE, NLM_F_CREATE, &fixed)
    };
    let request = match gateway {
        IpAddr::V4(v4) => message(AF_INET).with(RTA_GATEWAY, &v4.octets()),
        IpAddr::V6(v6) => message(AF_INET6).with(RTA_GATEWAY, &v6.octets()),
    };
    request.with(RTA_OIF, &index.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_header_a_fixed_part_and_attributes() {
        let bytes = address(3, "172.17.0.2".parse().unwrap(), 16).finish();
        let mut want = Vec::new();
        want.extend(48_u32.to_ne_bytes());
        want.extend(20_u16.to_ne_bytes());
        want.extend(0x405_u16.to_ne_bytes());
        want.extend([0; 8]);
        want.extend([2, 16, 0, 0, 3, 0, 0, 0]);
        for (kind, value) in [
            (2_u16, [172, 17, 0, 2]),
            (1, [172, 17, 0, 2]),
            (4, [172, 17, 255, 255]),
        ] {
            want.extend(8_u16.to_ne_bytes());
            want.extend(kind.to_ne_bytes());
            want.extend(value);
        }
        assert_eq!(bytes, want);
    }

    #[test]
    fn attributes_are_padded_and_their_length_is_without_padding() {
        let bytes = link(2, [2, 0x42, 0xac, 0x11, 0, 2]).finish();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(
            bytes[bytes.len() - 12..],
            [10, 0, 1, 0, 2, 0x42, 0xac, 0x11, 0, 2, 0, 0]
        );
        let whole = u32::try_from(bytes.len()).unwrap();
        assert_eq!(bytes[..4], whole.to_ne_bytes());
    }

    #[test]
    fn a_neighbour_is_an_address_and_an_ethernet_address_for_good() {
        let mac = [2, 0x42, 0xac, 0x11, 0, 1];
        let bytes = neighbour(3, "172.17.0.1".parse().unwrap(), mac).finish();
        let mut want = Vec::new();
        want.extend(48_u32.to_ne_bytes());
        want.extend(28_u16.to_ne_bytes());
        want.extend(0x405_u16.to_ne_bytes());
        want.extend([0; 8]);
        want.extend([2, 0, 0, 0, 3, 0, 0, 0, 0x80, 0, 0, 1]);
        want.extend([8, 0, 1, 0, 172, 17, 0, 1]);
        want.extend([10, 0, 2, 0, 2, 0x42, 0xac, 0x11, 0, 1, 0, 0]);
        assert_eq!(bytes, want);
        let v6 = neighbour(3, "fe80::1".parse().unwrap(), mac).finish();
        assert_eq!((v6[HEADER], v6.len()), (AF_INET6, 60));
    }

    #[test]
    fn routes_and_addresses_have_their_family() {
        let v6 = default_route(2, "fe80::1".parse().unwrap()).finish();
        assert_eq!(v6[HEADER], AF_INET6);
        let v6 = address(2, "fd00::2".parse().unwrap(), 64).finish();
        assert_eq!(v6[HEADER..HEADER + 4], [AF_INET6, 64, IFA_F_NODAD, 0]);
        let v4 = default_route(2, "172.17.0.1".parse().unwrap()).finish();
        assert_eq!(v4[HEADER], AF_INET);
    }

    #[test]
    fn an_answer_is_an_error_number() {
        let answer = |kind: u16, error: i32| {
            let mut bytes = vec![36, 0, 0, 0];
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(error.to_ne_bytes());
            parse_answer(&bytes)
        };
        assert_eq!(answer(2, 0), Ok(()));
        assert_eq!(answer(2, -17), Err(Errno::EXIST));
        assert_eq!(answer(3, 0), Err(Errno::BADMSG));
        assert_eq!(parse_answer(&[]), Err(Errno::BADMSG));
    }
}
