//! /etc/hosts and /etc/resolv.conf of a container, as Docker writes them where there is no network.
//! Pure: the host's resolv.conf is an input.

use std::net::IpAddr;

use super::options::NameOptions;

/// Servers when the host has none but on its loopback, which a container can't reach: Docker's own
/// choice.
const FALLBACK_SERVERS: [&str; 2] = ["nameserver 8.8.8.8", "nameserver 8.8.4.4"];

/// What every /etc/hosts begins with.
const LOCAL_HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    ff00::0\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// /etc/hosts with the names and addresses of `--add-host`.
#[must_use]
pub fn hosts(added: &[(String, String)]) -> String {
    let lines = added
        .iter()
        .map(|(name, address)| format!("{address}\t{name}\n"));
    std::iter::once(LOCAL_HOSTS.to_owned())
        .chain(lines)
        .collect()
}

/// The host's resolv.conf without servers on its loopback, each kind of line replaced by what the
/// flags say of it.
#[must_use]
pub fn resolv_conf(names: &NameOptions, host: &str) -> String {
    let host: Vec<&str> = host
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        .filter(|line| !is_loopback_server(line))
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

fn is_loopback_server(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("nameserver")
        && words
            .next()
            .and_then(|address| address.parse::<IpAddr>().ok())
            .is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::tests::options;

    const HOST: &str = "# by hand\nnameserver 127.0.0.53\n nameserver 192.0.2.1 \n\
        nameserver ::1\nsearch example.org\n; more\noptions edns0\n";

    fn names(args: &[&str]) -> NameOptions {
        options(args).unwrap().names
    }

    #[test]
    fn hosts_have_the_local_names_and_the_added_ones_in_order() {
        let names = names(&["--add-host", "x:1.2.3.4", "--add-host", "y=[::1]"]);
        let text = hosts(&names.hosts);
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
