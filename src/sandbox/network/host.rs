//! What the host's own network is like: whether it leads anywhere, and who answers its questions of
//! names. Read from /proc and /etc; it starts nothing.
//! Called for passt's arguments, and by `cli` for a container's `/etc/hosts` and `/etc/resolv.conf`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use serde::{Deserialize, Serialize};

/// Where the host's default routes lead.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// Interface of IPv4's.
    pub(super) v4: Option<String>,
    /// Interface of IPv6's.
    pub(super) v6: Option<String>,
    /// Whether the host asks an IPv4 address for names.
    pub(super) has_v4_resolver: bool,
}

impl Routes {
    /// As they are now.
    #[must_use]
    pub fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            v4: default_v4(&text("/proc/net/route")),
            v6: default_v6(&text("/proc/net/ipv6_route")),
            has_v4_resolver: resolver_v4(&text("/etc/resolv.conf")).is_some(),
        }
    }
}

/// Whether containers get IPv6: where the host has a route for it.
#[must_use]
pub fn has_v6() -> bool {
    Routes::read().v6.is_some()
}

/// An address by which the host's own services are reached that listen on all addresses: the one
/// that it would be seen with from outside. `None` where it has none but its loopback's.
#[must_use]
pub fn address() -> Option<IpAddr> {
    // Connecting a datagram socket sends nothing, it only looks for the route; the addresses are
    // those reserved for documentation (RFC 5737, RFC 3849).
    ["192.0.2.1:9", "[2001:db8::1]:9"]
        .into_iter()
        .filter_map(|target| {
            let any = if target.starts_with('[') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(any).ok()?;
            socket.connect(target).ok()?;
            Some(socket.local_addr().ok()?.ip())
        })
        .find(|address| !super::is_forbidden(*address))
}

/// The interface of a default route in `/proc/net/route`: name, destination, gateway, flags, three
/// counters, mask, in columns with a heading; numbers are hexadecimal.
fn default_v4(text: &str) -> Option<String> {
    text.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let (name, destination) = (words.next()?, words.next()?);
        let mask = words.nth(5)?;
        (destination == "00000000" && mask == "00000000").then(|| name.to_owned())
    })
}

/// The same of `/proc/net/ipv6_route`: destination, length of its prefix, …, name, without heading.
/// The kernel's own entry for what is unreachable is on the loopback.
fn default_v6(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(destination), Some(&"00"), Some(name)) =
            (words.first(), words.get(1), words.last())
        else {
            return None;
        };
        let is_default = destination.bytes().all(|byte| byte == b'0') && *name != "lo";
        is_default.then(|| (*name).to_owned())
    })
}

/// The IPv4 address that passt asks for names, of a resolv.conf. It reads a line less freely than the C library:
/// where the two differ passt has none, and what it is to forward would reach the host's loopback.
#[must_use]
pub fn resolver_v4(resolv_conf: &str) -> Option<Ipv4Addr> {
    resolv_conf.lines().find_map(|line| {
        let rest = line.strip_prefix("nameserver ")?;
        let word = rest.rsplit(' ').next()?;
        word.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_found_among_others() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
            eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(default_v4(v4).as_deref(), Some("eth0"));
        assert_eq!(default_v4(""), None);
        assert_eq!(default_v4("Iface\neth0 00000000"), None);
        let zero = "0".repeat(32);
        let rest = format!("{zero} 00 {zero} 00000400 00000001 00000000 00000003");
        let lo = format!("{zero} 00 {rest}     lo\n");
        assert_eq!(default_v6(&lo), None);
        let both = format!(
            "{lo}fe80{} 40 {rest} eth1\n{zero} 00 {rest} eth0\n",
            "0".repeat(28)
        );
        assert_eq!(default_v6(&both).as_deref(), Some("eth0"));
    }

    #[test]
    fn only_an_ipv4_resolver_can_be_forwarded_to() {
        assert_eq!(
            resolver_v4("search a\nnameserver ::1\nnameserver 127.0.0.53\n"),
            Some(Ipv4Addr::new(127, 0, 0, 53))
        );
        for none in [
            "nameserver fe80::1%eth0\n# nameserver 192.0.2.1\n",
            "nameserver\t127.0.0.53\n",
            "nameserver 127.0.0.53 \n",
            "nameserver 127.0.0.53 # the stub\n",
            " nameserver 127.0.0.53\n",
        ] {
            assert_eq!(resolver_v4(none), None, "{none:?}");
        }
    }
}
