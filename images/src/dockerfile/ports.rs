//! EXPOSE: ports and ranges of them, as `port/protocol`.
//!
//! Used by `steps`. As in BuildKit, what `-p` has before the container's port is checked and left
//! out.

use std::net::IpAddr;

use crate::escape::printable;

/// `80`, `53/udp`, `8000-8010/tcp`, `127.0.0.1:8080:80`: each port with its protocol.
///
/// # Errors
/// In BuildKit's words.
pub(super) fn exposed(text: &str) -> Result<Vec<String>, String> {
    let parts: Vec<&str> = text.rsplitn(3, ':').collect();
    let (container, host, address) = match parts.as_slice() {
        [container] => (*container, "", ""),
        [container, host] => (*container, *host, ""),
        [container, host, address] => (*container, *host, *address),
        _ => ("", "", ""),
    };
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    let invalid = |why: String| format!("invalid port: \"{}\": {why}", printable(text));
    if range.is_empty() {
        return Err(invalid("no port specified".to_owned()));
    }
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        _ => return Err(invalid(format!("invalid proto: {}", printable(protocol)))),
    };
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if !address.is_empty() && bare.unwrap_or(address).parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {}", printable(address)));
    }
    let (first, last) =
        ports(range).ok_or_else(|| format!("invalid containerPort: {}", printable(range)))?;
    if !host.is_empty() {
        let (from, to) =
            ports(host).ok_or_else(|| format!("invalid hostPort: {}", printable(host)))?;
        if last - first != to - from && first != last {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {range} and {host}"
            ));
        }
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

/// A port or a range of them.
fn ports(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_number)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}
