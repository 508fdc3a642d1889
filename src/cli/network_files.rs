//! /etc/hosts and /etc/resolv.conf of a container, as Docker writes them. Pure: what is the host's is
//! an input.

use std::net::IpAddr;

use anyhow::{Context, Result};

use super::merge::Host;
use super::options::{Mode, RunOptions};
use super::values::network::HOST_GATEWAY;
use crate::sandbox::network::{CONTAINER_V4, CONTAINER_V6, GATEWAY_V4, is_forbidden, resolver_v4};

/// Servers when the host has none that a container can reach: Docker's own choice.
const FALLBACK_SERVERS: [&str; 2] = ["nameserver 8.8.8.8", "nameserver 8.8.4.4"];

/// What every /etc/hosts begins with.
const LOCAL_HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    ff00::0\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// /etc/hosts with the names and addresses of `--add-host`, and the container's own.
///
/// # Errors
/// When the host has no address that `host-gateway` could stand for.
pub fn hosts(options: &RunOptions, hostname: &str, host: &Host) -> Result<String> {
    let mut text = LOCAL_HOSTS.to_owned();
    for (name, address) in &options.names.hosts {
        let address = match address.as_str() {
            HOST_GATEWAY => host
                .address
                .context("unable to derive the IP value for host-gateway: the host has no address but its loopback's")?
                .to_string(),
            address => address.to_owned(),
        };
        text += &format!("{address}\t{name}\n");
    }
    if options.network.mode == Mode::Bridge {
        let domain = &options.names.domainname;
        let whole = if domain.is_empty() {
            hostname.to_owned()
        } else {
            format!("{hostname}.{domain}")
        };
        // As in Docker, a name with a dot has a short one, whichever flag brought the dot.
        let names = match whole.split_once('.') {
            Some((short, _)) => format!("{whole} {short}"),
            None => whole,
        };
        text += &format!("{CONTAINER_V4}\t{names}\n");
        if host.has_v6 {
            text += &format!("{CONTAINER_V6}\t{names}\n");
        }
    }
    Ok(text)
}

/// The host's resolv.conf without servers that a container can't reach, each kind of line replaced by
/// what the flags say of it. Where the host's first server is one of those, passt forwards to it what
/// is asked of the gateway.
#[must_use]
pub fn resolv_conf(options: &RunOptions, host: &str) -> String {
    let names = &options.names;
    let first_v4 = resolver_v4(host);
    let host: Vec<&str> = host
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        .collect();
    let is_forwarded = options.network.mode == Mode::Bridge
        && first_v4.is_some_and(|first| is_forbidden(first.into()));
    let host: Vec<&str> = host
        .into_iter()
        .filter(|line| !server(line).is_some_and(is_forbidden))
        .collect();
    let of = |keyword: &str| -> Vec<String> {
        let is = |line: &&&str| line.split_whitespace().next() == Some(keyword);
        host.iter()
            .filter(is)
            .map(|line| (*line).to_owned())
            .collect()
    };
    let mut search = of("search");
    if !names.dns_search.is_empty() {
        let domains: Vec<&str> = names.dns_search.iter().map(String::as_str).collect();
        search = match domains.as_slice() {
            ["."] => Vec::new(),
            some => vec![format!("search {}", some.join(" "))],
        };
    }
    let mut servers = of("nameserver");
    if is_forwarded {
        servers.insert(0, format!("nameserver {GATEWAY_V4}"));
    }
    if !names.dns.is_empty() {
        servers = names
            .dns
            .iter()
            .map(|ip| format!("nameserver {ip}"))
            .collect();
    } else if servers.is_empty() {
        servers = FALLBACK_SERVERS.map(str::to_owned).to_vec();
    }
    let mut options = of("options");
    if !names.dns_options.is_empty() {
        options = vec![format!("options {}", names.dns_options.join(" "))];
    }
    let lines = search.into_iter().chain(servers).chain(options);
    lines.map(|line| line + "\n").collect()
}

/// The address of a line that names a server; a zone, which only the host knows, is left out.
fn server(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    words.next().filter(|word| *word == "nameserver")?;
    let word = words.next()?;
    word.split_once('%')
        .map_or(word, |(address, _)| address)
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::tests::options;

    const HOST: &str = "# by hand\nnameserver 127.0.0.53\n nameserver 192.0.2.1 \n\
        nameserver ::1\nsearch example.org\n; more\noptions edns0\n";

    fn names(args: &[&str]) -> RunOptions {
        options(&[args, &["--network", "none"]].concat()).unwrap()
    }

    fn host(address: Option<&str>, has_v6: bool) -> Host<'static> {
        Host {
            resolv_conf: "",
            address: address.map(|address| address.parse().unwrap()),
            has_v6,
            window: protocol::message::WindowSize {
                rows: 24,
                columns: 80,
            },
        }
    }

    #[test]
    fn a_container_with_a_network_has_its_own_lines() {
        let own = |args: &[&str], has_v6| {
            let text = hosts(&options(args).unwrap(), "h", &host(None, has_v6)).unwrap();
            text.strip_prefix(LOCAL_HOSTS).unwrap().to_owned()
        };
        assert_eq!(own(&[], false), "172.17.0.2\th\n");
        assert_eq!(
            own(&["--domainname", "d"], true),
            "172.17.0.2\th.d h\nfd62:756c:6b68::2\th.d h\n"
        );
        let args = options(&["--add-host", "x:host-gateway"]).unwrap();
        let text = hosts(&args, "h", &host(Some("192.0.2.9"), false)).unwrap();
        assert!(text.ends_with("\n192.0.2.9\tx\n172.17.0.2\th\n"), "{text}");
        let error = hosts(&args, "h", &host(None, false)).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("unable to derive the IP value for host-gateway")
        );
    }

    #[test]
    fn a_server_that_only_the_host_reaches_is_asked_through_the_gateway() {
        let bridge = options(&[]).unwrap();
        for (text, want) in [
            ("nameserver 127.0.0.53\n", "nameserver 172.17.0.1\n"),
            (
                "nameserver 169.254.169.254\nnameserver 192.0.2.1\n",
                "nameserver 172.17.0.1\nnameserver 192.0.2.1\n",
            ),
            (
                "nameserver 192.0.2.1\nnameserver 127.0.0.1\n",
                "nameserver 192.0.2.1\n",
            ),
            (
                "nameserver fe80::1%eth0\nnameserver 192.0.2.1\n",
                "nameserver 192.0.2.1\n",
            ),
            (
                "nameserver ::1\n",
                "nameserver 8.8.8.8\nnameserver 8.8.4.4\n",
            ),
        ] {
            assert_eq!(resolv_conf(&bridge, text), want, "{text}");
        }
        let own = options(&["--dns", "192.0.2.7"]).unwrap();
        assert_eq!(
            resolv_conf(&own, "nameserver 127.0.0.53\n"),
            "nameserver 192.0.2.7\n"
        );
    }

    #[test]
    fn hosts_have_the_local_names_and_the_added_ones_in_order() {
        let names = names(&["--add-host", "x:1.2.3.4", "--add-host", "y=[::1]"]);
        let text = hosts(&names, "h", &host(None, true)).unwrap();
        assert_eq!(text, format!("{LOCAL_HOSTS}1.2.3.4\tx\n::1\ty\n"));
        assert_eq!(text.lines().count(), 8);
        assert!(text.lines().all(|line| line.matches('\t').count() == 1));
    }

    #[test]
    fn resolv_conf_is_the_hosts_without_comments_and_loopback_servers() {
        let text = resolv_conf(&names(&[]), HOST);
        assert_eq!(
            text,
            "search example.org\nnameserver 192.0.2.1\noptions edns0\n"
        );
    }

    #[test]
    fn a_host_that_resolves_for_itself_gives_the_fallback() {
        for host in ["", "nameserver 127.0.0.1\n"] {
            let text = resolv_conf(&names(&[]), host);
            assert_eq!(text, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        }
    }

    #[test]
    fn flags_replace_lines_of_their_kind() {
        let args = [
            "--dns",
            "192.0.2.9",
            "--dns",
            "::1",
            "--dns-search",
            "a.b",
            "--dns-search",
            "c",
            "--dns-opt",
            "ndots:3",
            "--dns-option",
            "rotate",
        ];
        assert_eq!(
            resolv_conf(&names(&args), HOST),
            "search a.b c\nnameserver 192.0.2.9\nnameserver ::1\noptions ndots:3 rotate\n"
        );
        let text = resolv_conf(&names(&["--dns-search", "."]), HOST);
        assert_eq!(text, "nameserver 192.0.2.1\noptions edns0\n");
    }
}
