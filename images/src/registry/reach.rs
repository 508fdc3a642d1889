//! Which addresses a registry may send us to: none that is more private than its own.
//!
//! Used by `http` for redirects and token addresses. A server on the Internet must not make this machine
//! ask its own loopback, its local network or a cloud's metadata address for something; a registry on
//! the local network may well have its storage there. Names are checked after they were looked up, by
//! the resolver that the connection uses, so a second look-up can't bring another address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, OnceLock};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::proxy::Proxies;
use super::runtime;

/// How far an address can be reached from, widest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// The Internet.
    Public,
    /// A site's own network: RFC 1918, RFC 6598, RFC 4193.
    Private,
    /// This machine.
    Loopback,
    /// Link-local and other addresses of metadata services, multicast, unspecified, broadcast: never a registry.
    Special,
}

/// Where clouds keep metadata and credentials of their machines, beyond link-local addresses: Alibaba,
/// Oracle, Azure; and Amazon and Google over IPv6. No container gets there either.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

impl Reach {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if METADATA.contains(&address) => Self::Special,
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [first, second, ..] = address.octets();
        let is_shared = first == 100 && (64..128).contains(&second);
        if address.is_loopback() {
            Self::Loopback
        } else if address.is_link_local() || address.is_multicast() || first == 0 || first >= 240 {
            Self::Special
        } else if address.is_private() || is_shared {
            Self::Private
        } else {
            Self::Public
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056) carry an IPv4 address that is reached in the end.
        match address.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
                let [a, b] = high.to_be_bytes();
                let [c, d] = low.to_be_bytes();
                Self::of(Ipv4Addr::new(a, b, c, d).into())
            }
            _ if address.is_loopback() => Self::Loopback,
            [first, ..]
                if address.is_unspecified()
                    || address.is_multicast()
                    || address.is_unicast_link_local()
                    || first == 0 =>
            {
                Self::Special
            }
            _ if address.is_unique_local() => Self::Private,
            _ => Self::Public,
        }
    }

    /// Whether a server at `self` may send us to one at `target`.
    pub(super) fn may_lead_to(self, target: Self) -> bool {
        target != Self::Special && target <= self
    }
}

/// Where the registry itself turned out to be. Until that is known it counts as public.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin(Arc<OnceLock<Reach>>);

impl Origin {
    pub(super) fn learn(&self, address: IpAddr) {
        self.settle(Reach::of(address));
    }

    /// Takes it for known. The first answer stays: a name that leads elsewhere the next time gains nothing.
    pub(super) fn settle(&self, reach: Reach) {
        let _ = self.0.set(reach);
    }

    pub(super) fn reach(&self) -> Reach {
        self.0.get().copied().unwrap_or(Reach::Public)
    }
}

/// Looks names up.
#[derive(Debug, Clone)]
pub(super) struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move { Ok(Box::new(look_up(&name).await?) as Addrs) })
    }
}

async fn look_up(name: &Name) -> io::Result<std::vec::IntoIter<SocketAddr>> {
    let name = name.as_str().to_owned();
    runtime::apart(move || (name, 0).to_socket_addrs()).await
}

/// Looks names up and leaves out addresses that the registry may not send us to. The user's proxies may be
/// anywhere.
#[derive(Debug, Clone)]
pub(super) struct GuardedResolver(pub(super) Origin, pub(super) Proxies);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let origin = self.0.reach();
        let is_proxy = self.1.have_name(name.as_str());
        Box::pin(async move {
            let found = look_up(&name).await?;
            let allowed: Vec<SocketAddr> = found
                .filter(|address| is_proxy || origin.may_lead_to(Reach::of(address.ip())))
                .collect();
            if allowed.is_empty() {
                return Err(
                    "the name leads to an address that the registry may not send us to".into(),
                );
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(address: &str) -> Reach {
        Reach::of(address.parse().unwrap())
    }

    #[test]
    fn addresses_are_classed() {
        for (address, expected) in [
            ("8.8.8.8", Reach::Public),
            ("2606:4700::1111", Reach::Public),
            ("10.1.2.3", Reach::Private),
            ("172.31.0.1", Reach::Private),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("fd00::1", Reach::Private),
            ("127.0.0.1", Reach::Loopback),
            ("127.9.9.9", Reach::Loopback),
            ("::1", Reach::Loopback),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("64:ff9b::7f00:1", Reach::Loopback),
            ("2002:c0a8:0101::1", Reach::Private),
            ("169.254.169.254", Reach::Special),
            ("::ffff:169.254.169.254", Reach::Special),
            ("fe80::1", Reach::Special),
            ("0.0.0.0", Reach::Special),
            ("::", Reach::Special),
            ("::169.254.169.254", Reach::Special),
            ("224.0.0.1", Reach::Special),
            ("255.255.255.255", Reach::Special),
        ] {
            assert_eq!(reach(address), expected, "{address}");
        }
    }

    #[test]
    fn nobody_leads_to_something_more_private_than_itself() {
        use Reach::*;
        for (from, to, allowed) in [
            (Public, Public, true),
            (Public, Private, false),
            (Public, Loopback, false),
            (Private, Public, true),
            (Private, Private, true),
            (Private, Loopback, false),
            (Loopback, Private, true),
            (Loopback, Loopback, true),
            (Loopback, Special, false),
            (Special, Special, false),
        ] {
            assert_eq!(from.may_lead_to(to), allowed, "{from:?} to {to:?}");
        }
    }

    #[test]
    fn the_resolver_leaves_forbidden_addresses_out() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let origin = Origin::default();
        let resolver = GuardedResolver(origin.clone(), Proxies::none());
        let look_up = |resolver: &GuardedResolver| {
            runtime
                .block_on(resolver.resolve("localhost".parse().unwrap()))
                .map(Iterator::count)
        };
        assert!(look_up(&resolver).is_err());
        let proxies = Proxies::new(("", ""), ("HTTPS_PROXY", "http://localhost:3128"), "");
        let proxied = GuardedResolver(origin.clone(), proxies);
        assert!(look_up(&proxied).unwrap() > 0);
        origin.learn("127.0.0.1".parse().unwrap());
        assert!(look_up(&resolver).unwrap() > 0);
    }
}
