//! `bulkhead port`, and the PORTS column of `ps`: what of a container is published where.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use anyhow::{Result, bail};

use super::output;
use crate::sandbox::containers;
use crate::sandbox::network::{Binding, NetworkState, bindings};
use crate::sandbox::paths::Root;

/// Flags of `port`.
#[derive(Debug, clap::Args)]
pub struct PortArgs {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// One port of the container; without it all are listed
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

/// Prints where ports of a container are published.
///
/// # Errors
/// When there is no such container, or the port is not published.
pub fn run(args: &PortArgs) -> Result<()> {
    let (folder, config) = containers::find(&Root::of_user()?, &args.container)?;
    let state = folder.true_state()?;
    let all = state.network.as_ref().map(bindings).unwrap_or_default();
    let Some(wanted) = &args.port else {
        for binding in &all {
            output::line(&format!("{} -> {}", binding.container(), binding.host()))?;
        }
        return Ok(());
    };
    let wanted = match wanted.split_once('/') {
        Some((port, protocol)) => format!("{port}/{}", protocol.to_ascii_lowercase()),
        None => format!("{wanted}/tcp"),
    };
    let mut found = false;
    for binding in all.iter().filter(|binding| binding.container() == wanted) {
        found = true;
        output::line(&binding.host())?;
    }
    if !found {
        bail!("no public port '{wanted}' published for {}", config.name);
    }
    Ok(())
}

/// The PORTS column: what is published, and what is exposed only. Neighbours are drawn together where
/// the host's port is the container's, as Docker does.
#[must_use]
pub fn column(network: Option<&NetworkState>, exposed: &BTreeSet<String>) -> String {
    let all = network.map(bindings).unwrap_or_default();
    let mut entries: Vec<(u16, Option<&Binding>, &str)> = all
        .iter()
        .map(|binding| {
            (
                binding.container_port,
                Some(binding),
                binding.protocol.word(),
            )
        })
        .collect();
    let published: HashSet<String> = all.iter().map(Binding::container).collect();
    for port in exposed {
        if published.contains(port) {
            continue;
        }
        if let Some((number, protocol)) = port.split_once('/')
            && let Ok(number) = number.parse()
        {
            entries.push((number, None, protocol));
        }
    }
    entries.sort_by_key(|(port, binding, protocol)| {
        let host = binding.map(|binding| (binding.host_ip.to_string(), binding.host_port));
        (*port, host, *protocol)
    });
    let (mut done, mut mapped) = (Vec::new(), Vec::new());
    let mut open: BTreeMap<(Option<IpAddr>, &str), (u16, u16)> = BTreeMap::new();
    let mut order = Vec::new();
    for (port, binding, protocol) in entries {
        if let Some(binding) = binding
            && binding.host_port != port
        {
            mapped.push(format!("{}->{port}/{protocol}", binding.host()));
            continue;
        }
        let key = (binding.map(|binding| binding.host_ip), protocol);
        match open.get_mut(&key) {
            Some((_, last)) if port == last.saturating_add(1) => *last = port,
            Some(group) => {
                done.push(group_text(key, *group));
                *group = (port, port);
            }
            None => {
                order.push(key);
                open.insert(key, (port, port));
            }
        }
    }
    for key in order {
        if let Some(group) = open.get(&key) {
            done.push(group_text(key, *group));
        }
    }
    done.extend(mapped);
    done.join(", ")
}

fn group_text((ip, protocol): (Option<IpAddr>, &str), (first, last): (u16, u16)) -> String {
    let range = if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    };
    match ip {
        None => format!("{range}/{protocol}"),
        Some(IpAddr::V4(ip)) => format!("{ip}:{range}->{range}/{protocol}"),
        Some(IpAddr::V6(ip)) => format!("[{ip}]:{range}->{range}/{protocol}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::network::{Protocol, PublishedPort};

    fn port(host_ip: Option<&str>, host_port: u16, container_port: u16) -> PublishedPort {
        PublishedPort {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port,
            protocol: Protocol::Tcp,
        }
    }

    fn shown(v6: bool, ports: Vec<PublishedPort>, exposed: &[&str]) -> String {
        let exposed = exposed.iter().map(|port| (*port).to_owned()).collect();
        column(Some(&NetworkState { v6, ports }), &exposed)
    }

    #[test]
    fn the_column_is_dockers() {
        assert_eq!(shown(true, vec![], &[]), "");
        assert_eq!(
            shown(true, vec![], &["80/tcp", "81/tcp", "53/udp"]),
            "53/udp, 80-81/tcp"
        );
        assert_eq!(
            shown(true, vec![port(None, 8080, 80)], &["80/tcp", "443/tcp"]),
            "443/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
        assert_eq!(
            shown(false, vec![port(None, 8080, 80)], &[]),
            "0.0.0.0:8080->80/tcp"
        );
        let some = vec![
            port(Some("127.0.0.1"), 7000, 7000),
            port(Some("127.0.0.1"), 7001, 7001),
        ];
        assert_eq!(shown(true, some, &[]), "127.0.0.1:7000-7001->7000-7001/tcp");
        assert_eq!(
            shown(true, vec![port(Some("::1"), 1, 2)], &[]),
            "[::1]:1->2/tcp"
        );
        assert_eq!(column(None, &["80/tcp".to_owned()].into()), "80/tcp");
    }
}
