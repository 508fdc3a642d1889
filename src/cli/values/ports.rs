//! `-p`: which ports of the host lead to which of the container.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};

use crate::sandbox::network::{PortRequest, Protocol};

/// Ports of one `-p` at most: passt has a socket or two for each.
const PORTS_MAX: usize = 4096;

/// One `-p`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedRange {
    host_ip: Option<IpAddr>,
    /// First and last.
    host: Option<(u16, u16)>,
    container: (u16, u16),
    protocol: Protocol,
}

impl PublishedRange {
    /// Each of its ports.
    #[must_use]
    pub fn ports(&self) -> Vec<PortRequest> {
        let (first, last) = self.container;
        (first..=last)
            .enumerate()
            .map(|(index, container_port)| PortRequest {
                host_ip: self.host_ip,
                host_ports: self.host.map(|(from, to)| {
                    if first == last {
                        // Any of the host's ports will do.
                        (from, to)
                    } else {
                        // As many as the container's, pairwise.
                        let port =
                            u16::try_from(index).map_or(to, |index| from.saturating_add(index));
                        (port, port)
                    }
                }),
                container_port,
                protocol: self.protocol,
            })
            .collect()
    }
}

/// `[IP:][HOST[-HOST]:]CONTAINER[-CONTAINER][/PROTOCOL]`, or
/// `published=HOST,target=CONTAINER,protocol=PROTOCOL`.
///
/// # Errors
/// In Docker's words.
pub fn published(text: &str) -> Result<PublishedRange> {
    if text.contains('=') {
        return published(&short_form(text)?);
    }
    let (ip, host, container) = split(text);
    let (container, protocol) = container.split_once('/').unwrap_or((container, "tcp"));
    let host_ip = match ip
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(ip)
    {
        "" => None,
        bare => Some(
            bare.parse()
                .ok()
                .with_context(|| format!("invalid IP address: {bare}"))?,
        ),
    };
    if container.is_empty() {
        bail!("no port specified: {text}<empty>");
    }
    let container_ports = range(container)
        .filter(|(first, _)| *first > 0)
        .with_context(|| format!("invalid containerPort: {container}"))?;
    let host_ports = match host {
        "" => None,
        host => Some(range(host).with_context(|| format!("invalid hostPort: {host}"))?),
    };
    let count = |(first, last): (u16, u16)| last - first;
    if let Some(host_ports) = host_ports
        && count(host_ports) != count(container_ports)
        && count(container_ports) > 0
    {
        bail!("invalid ranges specified for container and host Ports: {container} and {host}");
    }
    if usize::from(count(container_ports)) >= PORTS_MAX {
        bail!("too many ports: {container}: at most {PORTS_MAX} at once");
    }
    Ok(PublishedRange {
        host_ip,
        // Port 0 is any.
        host: host_ports.filter(|ports| *ports != (0, 0)),
        container: container_ports,
        protocol: self::protocol(protocol)?,
    })
}

/// A protocol whose ports can be published.
///
/// # Errors
/// In Docker's words, or that passt knows no SCTP.
pub fn protocol(text: &str) -> Result<Protocol> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => bail!(
            "publishing sctp ports is not supported: passt, which connects containers, knows TCP \
             and UDP"
        ),
        _ => bail!("invalid proto: {text}"),
    }
}

/// Address, port of the host, port of the container: the last two have no colons.
fn split(text: &str) -> (&str, &str, &str) {
    let (front, container) = match text.rsplit_once(':') {
        Some(parts) => parts,
        None => ("", text),
    };
    let (ip, host) = match front.rsplit_once(':') {
        Some(parts) => parts,
        None => ("", front),
    };
    (ip, host, container)
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    // Port 0 is any, and in no range.
    (first <= last && (first > 0 || last == 0)).then_some((first, last))
}

fn short_form(text: &str) -> Result<String> {
    let mut fields = BTreeMap::from([("protocol", "tcp"), ("published", "")]);
    for field in text.split(',') {
        let Some((key, value)) = field.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            bail!("invalid publish opts format (should be name=value but got '{field}')");
        };
        match key {
            "protocol" | "published" | "target" => drop(fields.insert(key, value)),
            // What it says of a swarm's load balancer has no meaning for a single container.
            "mode" if matches!(value, "ingress" | "host") => {}
            _ => bail!("invalid publish option: {field}"),
        }
    }
    let of = |key| fields.get(key).copied().unwrap_or_default();
    Ok(format!(
        "{}:{}/{}",
        of("published"),
        of("target"),
        of("protocol")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let show = |port: PortRequest| {
            let ip = port.host_ip.map_or("*".to_owned(), |ip| ip.to_string());
            let host = match port.host_ports {
                None => "?".to_owned(),
                Some((first, last)) if first == last => first.to_string(),
                Some((first, last)) => format!("{first}-{last}"),
            };
            format!(
                "{ip} {host} {}/{}",
                port.container_port,
                port.protocol.word()
            )
        };
        let range = published(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        range.ports().into_iter().map(show).collect()
    }

    #[test]
    fn all_of_dockers_forms_are_read() {
        for (text, want) in [
            ("80", &["* ? 80/tcp"][..]),
            ("8080:80", &["* 8080 80/tcp"]),
            ("53:53/UDP", &["* 53 53/udp"]),
            ("127.0.0.1:8080:80", &["127.0.0.1 8080 80/tcp"]),
            ("127.0.0.1::80", &["127.0.0.1 ? 80/tcp"]),
            ("[::1]:8080:80", &["::1 8080 80/tcp"]),
            ("::1:8080:80", &["::1 8080 80/tcp"]),
            ("[::1]::80/udp", &["::1 ? 80/udp"]),
            ("0:80", &["* ? 80/tcp"]),
            (
                "7000-7002:9000-9002",
                &["* 7000 9000/tcp", "* 7001 9001/tcp", "* 7002 9002/tcp"],
            ),
            ("7000-7002:9000", &["* 7000-7002 9000/tcp"]),
            ("9000-9001", &["* ? 9000/tcp", "* ? 9001/tcp"]),
            ("published=8080,target=80,protocol=udp", &["* 8080 80/udp"]),
            ("target=80", &["* ? 80/tcp"]),
            ("target=80,published=8080,mode=host", &["* 8080 80/tcp"]),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_dockers_words() {
        for (text, want) in [
            ("", "no port specified: <empty>"),
            ("80:", "no port specified: 80:<empty>"),
            ("80:/tcp", "no port specified: 80:/tcp<empty>"),
            ("x", "invalid containerPort: x"),
            ("0", "invalid containerPort: 0"),
            ("70000", "invalid containerPort: 70000"),
            ("x:80", "invalid hostPort: x"),
            ("90-80:80", "invalid hostPort: 90-80"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("localhost:80:80", "invalid IP address: localhost"),
            ("80:80/foo", "invalid proto: foo"),
            ("80/sctp", "publishing sctp ports is not supported"),
            (
                "7000-7001:9000-9002",
                "invalid ranges specified for container and host Ports: 9000-9002 and 7000-7001",
            ),
            ("1-60000", "too many ports"),
            ("a=b", "invalid publish option: a=b"),
            ("target=80,x", "(should be name=value but got 'x')"),
        ] {
            let error = published(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
