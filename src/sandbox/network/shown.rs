//! What `inspect`, `ps` and `port` show of a network. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value, json};

use super::passt::mac_text;
use super::{
    CONTAINER_V4, CONTAINER_V6, GATEWAY_V4, GATEWAY_V6, NetworkConfig, NetworkState, PREFIX_V4,
    PREFIX_V6, Protocol,
};

/// One port of the host on one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Address.
    pub host_ip: IpAddr,
    /// Port.
    pub host_port: u16,
    /// The container's.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

impl Binding {
    /// `80/tcp`.
    #[must_use]
    pub fn container(&self) -> String {
        format!("{}/{}", self.container_port, self.protocol.word())
    }

    /// `0.0.0.0:8080`, `[::]:8080`.
    #[must_use]
    pub fn host(&self) -> String {
        std::net::SocketAddr::new(self.host_ip, self.host_port).to_string()
    }
}

/// What is published, by address: all addresses are two, where there is IPv6.
#[must_use]
pub fn bindings(network: &NetworkState) -> Vec<Binding> {
    let mut all = Vec::new();
    for port in &network.ports {
        let every = [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        let addresses = match port.host_ip {
            Some(ip) => vec![ip],
            None if network.v6 => every.to_vec(),
            None => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
        };
        all.extend(addresses.into_iter().map(|host_ip| Binding {
            host_ip,
            host_port: port.host_port,
            container_port: port.container_port,
            protocol: port.protocol,
        }));
    }
    all.sort_by_key(|binding| (binding.container_port, binding.protocol, binding.host_port));
    all
}

/// `HostConfig.NetworkMode`, and the name in `NetworkSettings.Networks`.
#[must_use]
pub fn mode(config: Option<&NetworkConfig>) -> &'static str {
    if config.is_some() { "bridge" } else { "none" }
}

/// `HostConfig.PortBindings`: what was asked for.
#[must_use]
pub fn port_bindings(config: Option<&NetworkConfig>) -> Value {
    let mut all = Map::new();
    for port in config
        .map(|config| config.ports.as_slice())
        .unwrap_or_default()
    {
        let host_port = match port.host_ports {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        let binding = json!({
            "HostIp": port.host_ip.map_or(String::new(), |ip| ip.to_string()),
            "HostPort": host_port,
        });
        push(
            &mut all,
            &format!("{}/{}", port.container_port, port.protocol.word()),
            binding,
        );
    }
    Value::Object(all)
}

/// `NetworkSettings`; empty values where the container does not run.
#[must_use]
pub fn settings(
    config: Option<&NetworkConfig>,
    state: Option<&NetworkState>,
    exposed: &BTreeSet<String>,
) -> Value {
    let running = config.zip(state);
    let v6 = running.filter(|(_, state)| state.v6);
    let mut endpoint = json!({
        "EndpointID": "",
        "Gateway": text(running, GATEWAY_V4),
        "GlobalIPv6Address": text(v6, CONTAINER_V6),
        "GlobalIPv6PrefixLen": if v6.is_some() { PREFIX_V6 } else { 0 },
        "IPAddress": text(running, CONTAINER_V4),
        "IPPrefixLen": if running.is_some() { PREFIX_V4 } else { 0 },
        "IPv6Gateway": text(v6, GATEWAY_V6),
        "MacAddress": running.map_or(String::new(), |(config, _)| mac_text(config.mac())),
    });
    let mut settings = json!({
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": "",
        "Ports": state.map_or_else(|| json!({}), |state| ports(state, exposed)),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
    });
    if let (Some(into), Some(from)) = (settings.as_object_mut(), endpoint.as_object()) {
        into.extend(from.clone());
    }
    if let Some(more) = endpoint.as_object_mut() {
        for key in ["IPAMConfig", "Links", "Aliases", "DriverOpts", "DNSNames"] {
            more.insert(key.to_owned(), Value::Null);
        }
        more.insert("NetworkID".to_owned(), json!(""));
    }
    let mut networks = Map::new();
    networks.insert(mode(config).to_owned(), endpoint);
    if let Some(into) = settings.as_object_mut() {
        into.insert("Networks".to_owned(), Value::Object(networks));
    }
    settings
}

fn text<T>(known: Option<T>, value: impl ToString) -> String {
    known.map_or(String::new(), |_| value.to_string())
}

fn ports(state: &NetworkState, exposed: &BTreeSet<String>) -> Value {
    let mut all: Map<String, Value> = exposed
        .iter()
        .map(|port| (port.clone(), Value::Null))
        .collect();
    for binding in bindings(state) {
        let entry = json!({
            "HostIp": binding.host_ip.to_string(),
            "HostPort": binding.host_port.to_string(),
        });
        push(&mut all, &binding.container(), entry);
    }
    Value::Object(all)
}

fn push(all: &mut Map<String, Value>, port: &str, entry: Value) {
    match all.get_mut(port) {
        Some(Value::Array(list)) => list.push(entry),
        _ => drop(all.insert(port.to_owned(), json!([entry]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::network::{PortRequest, PublishedPort};

    fn config() -> NetworkConfig {
        NetworkConfig {
            mac: None,
            ports: vec![PortRequest {
                host_ip: None,
                host_ports: None,
                container_port: 80,
                protocol: Protocol::Tcp,
            }],
        }
    }

    #[test]
    fn settings_are_those_of_dockers_bridge() {
        let state = NetworkState {
            v6: true,
            ports: vec![PublishedPort {
                host_ip: None,
                host_port: 32768,
                container_port: 80,
                protocol: Protocol::Tcp,
            }],
        };
        let exposed = ["80/tcp".to_owned(), "443/tcp".to_owned()].into();
        let shown = settings(Some(&config()), Some(&state), &exposed);
        assert_eq!(shown["IPAddress"], "172.17.0.2");
        assert_eq!(shown["MacAddress"], "02:42:ac:11:00:02");
        assert_eq!(shown["Networks"]["bridge"]["Gateway"], "172.17.0.1");
        assert_eq!(
            shown["Ports"],
            json!({"443/tcp": null, "80/tcp": [
                {"HostIp": "0.0.0.0", "HostPort": "32768"}, {"HostIp": "::", "HostPort": "32768"},
            ]})
        );
        let asked = port_bindings(Some(&config()));
        assert_eq!(asked, json!({"80/tcp": [{"HostIp": "", "HostPort": ""}]}));
    }

    #[test]
    fn what_does_not_run_has_no_addresses() {
        let shown = settings(Some(&config()), None, &BTreeSet::new());
        assert_eq!(
            (&shown["IPAddress"], &shown["Ports"]),
            (&json!(""), &json!({}))
        );
        let shown = settings(None, None, &BTreeSet::new());
        assert_eq!(shown["Networks"]["none"]["IPAddress"], "");
    }
}
