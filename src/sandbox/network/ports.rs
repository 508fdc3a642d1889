//! Which ports of the host are published: those that were asked for, if they are free, and free ones
//! where any will do. It binds to find out, and lets go again.
//! Called by [`super`] and by the launcher, for the supervisor of a container that has some. It does not know
//! passt.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{CONTAINER_V4, CONTAINER_V6, NetworkState, PortRequest, Protocol, PublishedPort};

/// Where random ports begin when the kernel does not say.
const RANDOM_FIRST: u16 = 32768;

/// What the system says of a port below 1024, and what may be done.
const DENIED: &str = "permission denied";
const DENIED_HINT: &str = "\nhint: use a port of 1024 or more, or allow lower ones \
     (sysctl net.ipv4.ip_unprivileged_port_start=PORT)";

/// Time between two looks at ports that are about to be free.
const FREE_POLL: Duration = Duration::from_millis(5);

/// Whether any of these leaves the choice.
pub(super) fn has_random(requests: &[PortRequest]) -> bool {
    requests
        .iter()
        .any(|request| request.host_ports.is_none_or(|(first, last)| first < last))
}

/// Chooses the host's ports. Random ones are the first free ones of the kernel's range for them, from
/// the `attempt`th on.
///
/// # Errors
/// In Docker's words when one is taken, or all of a range are.
pub(in super::super) fn resolve(
    requests: &[PortRequest],
    v6: bool,
    attempt: u32,
) -> Result<Vec<PublishedPort>> {
    let mut taken = Taken::default();
    let mut all = Vec::with_capacity(requests.len());
    // Those with one choice first, so that none of the others takes it.
    for request in requests {
        if let Some((first, last)) = request.host_ports
            && first == last
        {
            taken.claim(request, first, v6)?;
        }
    }
    for request in requests {
        let host_port = match request.host_ports {
            Some((first, last)) if first == last => first,
            Some((first, last)) => taken.first_free(request, first, last, v6)?,
            None => {
                let first = random_first().saturating_add(u16::try_from(attempt - 1)?);
                taken.first_free(request, first, u16::MAX, v6)?
            }
        };
        all.push(PublishedPort {
            host_ip: request.host_ip,
            host_port,
            container_port: request.container_port,
            protocol: request.protocol,
        });
    }
    Ok(all)
}

/// Ports that this container has already, each on whatever address: passt keeps one list of them.
#[derive(Default)]
struct Taken(BTreeSet<(Protocol, u16)>);

impl Taken {
    fn claim(&mut self, request: &PortRequest, port: u16, v6: bool) -> Result<()> {
        if !self.0.insert((request.protocol, port)) {
            bail!(
                "port {port}/{} of the host is published twice: passt publishes a port on one \
                 address or on all\n\
                 hint: leave the address out, or use another port",
                request.protocol.word()
            );
        }
        match probe(request.host_ip, port, request.protocol, v6) {
            Ok(()) => Ok(()),
            Err(error) => bail!("{}", refusal(request, port, &plain(&error))),
        }
    }

    fn first_free(
        &mut self,
        request: &PortRequest,
        first: u16,
        last: u16,
        v6: bool,
    ) -> Result<u16> {
        for port in first..=last {
            if self.0.contains(&(request.protocol, port)) {
                continue;
            }
            match probe(request.host_ip, port, request.protocol, v6) {
                Ok(()) => {
                    self.0.insert((request.protocol, port));
                    return Ok(port);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => bail!("{}", refusal(request, port, &plain(&error))),
            }
        }
        bail!("all ports are allocated: none of {first}-{last} is free")
    }
}

/// Waits until the ports are free that a container had whose passt is about to end. Another may have
/// taken one at once, so no longer than `time`.
pub(in super::super) fn wait_until_free(state: &NetworkState, time: Duration) {
    let until = Instant::now() + time;
    let is_taken = |port: &PublishedPort| {
        probe(port.host_ip, port.host_port, port.protocol, state.v6)
            .is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    while state.ports.iter().any(is_taken) && Instant::now() < until {
        std::thread::sleep(FREE_POLL);
    }
}

/// Docker's sentence, whose end scripts look for, and what to do where Docker's daemon would not ask.
pub(super) fn refusal(request: &PortRequest, port: u16, cause: &str) -> String {
    let (host, container) = match request.host_ip {
        Some(ip @ IpAddr::V6(_)) => (format!("[{ip}]"), format!("[{CONTAINER_V6}]")),
        Some(ip) => (ip.to_string(), CONTAINER_V4.to_string()),
        None => (Ipv4Addr::UNSPECIFIED.to_string(), CONTAINER_V4.to_string()),
    };
    format!(
        "driver failed programming external connectivity on endpoint: failed to bind host port for \
         {host}:{port}:{container}:{}/{}: {cause}{}",
        request.container_port,
        request.protocol.word(),
        if cause == DENIED { DENIED_HINT } else { "" },
    )
}

/// Whether a port can be had, on all addresses also of the other family: passt is content with half.
fn probe(ip: Option<IpAddr>, port: u16, protocol: Protocol, v6: bool) -> io::Result<()> {
    let all: &[IpAddr] = match (ip, v6) {
        (Some(ip), _) => &[ip],
        (None, false) => &[IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
        // A socket of IPv6 for both, unless the host is set up otherwise.
        (None, true) => &[
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ],
    };
    all.iter().try_for_each(|ip| match protocol {
        Protocol::Tcp => TcpListener::bind((*ip, port)).map(drop),
        // Without SO_REUSEADDR, by which passt's would share the port with another's.
        Protocol::Udp => UdpSocket::bind((*ip, port)).map(drop),
    })
}

/// The first port of those that any may have.
pub(super) fn random_first() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range
        .split_whitespace()
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(RANDOM_FIRST)
}

/// The system's words, without Rust's number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error")
        .map_or(text.as_str(), |(words, _)| words)
        .to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host_ports: Option<(u16, u16)>, container_port: u16) -> PortRequest {
        PortRequest {
            host_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host_ports,
            container_port,
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn a_port_that_is_taken_is_refused_in_dockers_words() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let error = resolve(&[request(Some((port, port)), 80)], false, 1).unwrap_err();
        let want = format!(
            "failed to bind host port for 127.0.0.1:{port}:172.17.0.2:80/tcp: address already in use"
        );
        assert!(error.to_string().ends_with(&want), "{error}");
    }

    #[test]
    fn of_a_range_the_first_free_one_is_taken() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port().min(u16::MAX - 50);
        let range = Some((port, port + 50));
        let ports = resolve(&[request(range, 80), request(range, 81)], false, 1).unwrap();
        assert!(ports[0].host_port > port && ports[1].host_port > ports[0].host_port);
        assert_eq!((ports[0].container_port, ports[1].container_port), (80, 81));
    }

    #[test]
    fn random_ports_are_of_the_kernels_range_and_differ() {
        let ports = resolve(&[request(None, 80), request(None, 81)], false, 1).unwrap();
        assert!(ports[0].host_port >= random_first());
        assert!(ports[1].host_port > ports[0].host_port);
        assert!(has_random(&[request(None, 1)]) && !has_random(&[request(Some((5, 5)), 1)]));
    }

    #[test]
    fn ports_that_are_about_to_be_free_are_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let host_port = listener.local_addr().unwrap().port();
        let state = NetworkState {
            v6: false,
            ports: vec![PublishedPort {
                host_ip: Some(Ipv4Addr::LOCALHOST.into()),
                host_port,
                container_port: 80,
                protocol: Protocol::Tcp,
            }],
        };
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, host_port));
        // One that stays taken is not waited for without end.
        wait_until_free(&state, Duration::ZERO);
        bind().unwrap_err();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(FREE_POLL * 10);
                drop(listener);
            });
            wait_until_free(&state, Duration::from_secs(600));
            bind().unwrap();
        });
    }

    #[test]
    fn one_port_can_not_be_published_twice() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        drop(other);
        let twice = [
            request(Some((port, port)), 80),
            request(Some((port, port)), 81),
        ];
        let error = resolve(&twice, false, 1).unwrap_err().to_string();
        assert!(error.contains("published twice"), "{error}");
    }
}
