//! What goes into /etc/hosts and resolv.conf, and exposed ports.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};

use crate::sandbox::network::GATEWAY_MAC;

/// What stands for the host's address in `--add-host`.
pub const HOST_GATEWAY: &str = "host-gateway";

/// Longest domain name in bytes (RFC 1035, section 2.3.4).
const DOMAIN_BYTES_MAX: usize = 253;

/// `--add-host HOST:IP` or `HOST=IP`, the address possibly in brackets.
///
/// # Errors
/// In Docker's words.
pub fn extra_host(text: &str) -> Result<(String, String)> {
    let (host, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .filter(|(host, _)| {
            !host.is_empty() && !host.contains(|c: char| c == ':' || c.is_whitespace())
        })
        .with_context(|| format!("bad format for add-host: \"{text}\""))?;
    let address = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    if address != HOST_GATEWAY && address.parse::<IpAddr>().is_err() {
        bail!("invalid IP address in add-host: \"{address}\"");
    }
    Ok((host.to_owned(), address.to_owned()))
}

/// `--dns`: an address.
///
/// # Errors
/// In Docker's words.
pub fn ip_address(text: &str) -> Result<IpAddr> {
    text.trim()
        .parse()
        .ok()
        .with_context(|| format!("IP address is not correctly formatted: {text}"))
}

/// `--dns-search`: a domain, or `.` for none.
///
/// # Errors
/// In Docker's words.
pub fn search_domain(text: &str) -> Result<String> {
    let domain = text.trim();
    if domain == "." {
        return Ok(domain.to_owned());
    }
    let bare = domain.strip_suffix('.').unwrap_or(domain);
    let label = |label: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        edge(label.as_bytes().first()) && edge(label.as_bytes().last()) && label.bytes().all(inner)
    };
    if bare.len() > DOMAIN_BYTES_MAX || !bare.split('.').all(label) {
        bail!("{text} is not a valid domain");
    }
    Ok(domain.to_owned())
}

/// `--mac-address`: six bytes in hexadecimal, with colons or dashes.
///
/// # Errors
/// In Docker's words; a multicast address is no interface's, and one is taken.
pub fn mac_address(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split([':', '-'])
        .map(|byte| {
            u8::from_str_radix(byte, 16)
                .ok()
                .filter(|_| byte.len() == 2)
        })
        .collect::<Option<_>>()
        .unwrap_or_default();
    let Ok(mac) = <[u8; 6]>::try_from(bytes) else {
        bail!("invalid MAC address: {text}");
    };
    let [first, ..] = mac;
    if first & 1 != 0 || mac == [0; 6] {
        bail!("invalid MAC address: {text}: it is a multicast address or zero");
    }
    if mac == GATEWAY_MAC {
        bail!("invalid MAC address: {text}: it is the gateway's");
    }
    Ok(mac)
}

/// `--expose PORT[-PORT][/PROTO]`: each port with its protocol, as `inspect` shows them.
///
/// # Errors
/// In Docker's words.
pub fn exposed_ports(text: &str) -> Result<Vec<String>> {
    if text.contains(':') {
        bail!("invalid port format for --expose: {text}");
    }
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let wrong =
        |cause: String| format!("invalid range format for --expose: {text}, error: {cause}");
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        bail!(wrong(format!("invalid proto: {protocol}")));
    }
    if range.is_empty() {
        bail!(wrong("empty string specified for ports".to_owned()));
    }
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| {
        text.parse::<u16>()
            .ok()
            .with_context(|| wrong(format!("parsing \"{text}\": not a port")))
    };
    let (from, to) = (port(from)?, port(to)?);
    if from > to {
        bail!(wrong(format!("invalid range specified for port: {range}")));
    }
    Ok((from..=to)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_hosts_take_both_separators_and_brackets() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        for (text, host, address) in [
            ("a:1.2.3.4", "a", "1.2.3.4"),
            ("a=1.2.3.4", "a", "1.2.3.4"),
            ("a=[::1]", "a", "::1"),
            ("a:[::1]", "a", "::1"),
            ("a:::1", "a", "::1"),
            ("a=[1.1.1.1]", "a", "1.1.1.1"),
            ("a:host-gateway", "a", "host-gateway"),
        ] {
            assert_eq!(extra_host(text).unwrap(), pair(host, address), "{text}");
        }
        for (text, want) in [
            ("a", "bad format for add-host: \"a\""),
            ("", "bad format for add-host: \"\""),
            ("=1.1.1.1", "bad format for add-host: \"=1.1.1.1\""),
            ("a b:1.1.1.1", "bad format for add-host: \"a b:1.1.1.1\""),
            ("a:b=1.1.1.1", "bad format for add-host: \"a:b=1.1.1.1\""),
            ("a:x", "invalid IP address in add-host: \"x\""),
            ("a:b:c", "invalid IP address in add-host: \"b:c\""),
            ("a:[]", "invalid IP address in add-host: \"\""),
        ] {
            let error = extra_host(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn dns_servers_are_addresses_and_search_domains_are_names() {
        assert_eq!(ip_address("::1").unwrap().to_string(), "::1");
        assert!(ip_address("1.2.3").is_err());
        assert!(ip_address("dns.example").is_err());
        for text in [".", "a", "example.org", "example.org.", "_tcp.x-y.z", "1.2"] {
            assert_eq!(search_domain(text).unwrap(), text);
        }
        for text in [
            "",
            "..x",
            "a..b",
            "-a.b",
            "a b",
            "a\nnameserver 1.1.1.1",
            "ä",
        ] {
            let error = search_domain(text).unwrap_err().to_string();
            assert_eq!(error, format!("{text} is not a valid domain"));
        }
        assert!(search_domain(&"a.".repeat(130)).is_err());
    }

    #[test]
    fn exposed_ports_are_single_ones_or_ranges() {
        assert_eq!(exposed_ports("80").unwrap(), ["80/tcp"]);
        assert_eq!(exposed_ports("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(exposed_ports("7-8/sctp").unwrap(), ["7/sctp", "8/sctp"]);
        for (text, want) in [
            ("1:2", "invalid port format for --expose: 1:2"),
            ("", "empty string specified for ports"),
            ("/tcp", "empty string specified for ports"),
            ("x", "parsing \"x\": not a port"),
            ("99999", "parsing \"99999\": not a port"),
            ("80-70", "invalid range specified for port: 80-70"),
            ("80/foo", "invalid proto: foo"),
        ] {
            let error = exposed_ports(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
