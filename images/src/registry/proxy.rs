//! The proxies that the user's environment names for what this host asks.
//!
//! Used by `http`, whose client is told what is said here, so that both mean the same. Which servers have no
//! proxy before them is read as Docker reads it (golang.org/x/net/http/httpproxy), what a proxy's address
//! means as the client does. ALL_PROXY is nothing to Docker, and so nothing here. A proxy's address is not
//! that of the server behind it, and its name is the user's, not a registry's.

use std::net::IpAddr;
use std::sync::Arc;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{ClientBuilder, Url};

use super::error::RegistryError;
use super::http::literal_address;
use crate::escape::printable;

/// See the module's doc.
#[derive(Debug, Clone)]
pub(super) struct Proxies(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    /// At most one for a scheme.
    proxies: Vec<Proxy>,
    exceptions: Vec<Exception>,
}

/// The proxy of one scheme.
#[derive(Debug)]
struct Proxy {
    /// Of the addresses that it is for.
    scheme: &'static str,
    /// What named it.
    variable: &'static str,
    /// Where it is, or the scheme of an address that is no HTTP.
    place: Result<Place, String>,
}

#[derive(Debug)]
struct Place {
    url: Url,
    /// Of the user's login there.
    login: Option<reqwest::header::HeaderValue>,
}

/// An entry of NO_PROXY.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    /// `*`
    All,
    /// `10.0.0.0/8`
    Network(IpAddr, u32),
    /// `10.0.0.1`, `10.0.0.1:5000`
    Address(IpAddr, Option<u16>),
    /// `corp.example`, `.corp.example`, `*.corp.example`, each also with a port.
    Domain {
        /// With a dot before it.
        end: String,
        /// Whether the domain itself is meant besides those in it.
        itself: bool,
        port: Option<u16>,
    },
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return Some(Self::All);
        }
        if let Some((address, bits)) = entry.split_once('/')
            && let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse())
        {
            return Some(Self::Network(address, bits));
        }
        let (host, port) = host_and_port(&entry)?;
        if let Ok(address) = host.parse() {
            return Some(Self::Address(address, port));
        }
        let host = host
            .strip_prefix('*')
            .filter(|rest| rest.starts_with('.'))
            .unwrap_or(host);
        let itself = !host.starts_with('.');
        let end = match itself {
            true => format!(".{host}"),
            false => host.to_owned(),
        };
        (end.len() > 1).then_some(Self::Domain { end, itself, port })
    }

    /// Whether it is of the server with this name or `address`.
    fn is_of(&self, name: &str, address: Option<IpAddr>, port: Option<u16>) -> bool {
        let is_port = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        match self {
            Self::All => true,
            Self::Network(network, bits) => {
                address.is_some_and(|address| is_in(address, *network, *bits))
            }
            Self::Address(wanted, wanted_port) => {
                address.is_some_and(|address| address.to_canonical() == wanted.to_canonical())
                    && is_port(wanted_port)
            }
            Self::Domain { end, itself, port } => {
                let is_it = *itself && end.strip_prefix('.') == Some(name);
                (is_it || name.ends_with(end.as_str())) && is_port(port)
            }
        }
    }
}

/// `host`, `host:port`, `[::1]:port`, and an IPv6 address as it is; nothing where there is no such port.
fn host_and_port(entry: &str) -> Option<(&str, Option<u16>)> {
    if entry.parse::<IpAddr>().is_ok() {
        return Some((entry, None));
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (entry, None),
    };
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = inner.unwrap_or(host);
    (!host.is_empty()).then_some((host, port))
}

/// Whether an address is in the network of those that have the first `bits` in common.
fn is_in(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let is_same = |differing: u128, all: u32| {
        let rest = all.checked_sub(bits);
        rest.is_some_and(|rest| differing.checked_shr(rest).unwrap_or(0) == 0)
    };
    match (address.to_canonical(), network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            is_same(u128::from(address.to_bits() ^ network.to_bits()), u32::BITS)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            is_same(address.to_bits() ^ network.to_bits(), u128::BITS)
        }
        _ => false,
    }
}

impl Proxy {
    fn new(scheme: &'static str, variable: &'static str, value: &str) -> Option<Self> {
        let proxy = |place| Self {
            scheme,
            variable,
            place,
        };
        if let Some((of_proxy, _)) = value.split_once("://")
            && !["http", "https"]
                .iter()
                .any(|known| of_proxy.eq_ignore_ascii_case(known))
        {
            return Some(proxy(Err(printable(of_proxy))));
        }
        let matcher = Matcher::builder().all(value).build();
        // Nobody's own server (RFC 6761 section 6.4).
        let found = matcher.intercept(&"http://stranger.invalid/".parse().ok()?)?;
        Some(proxy(Ok(Place {
            url: Url::parse(&found.uri().to_string()).ok()?,
            login: found.basic_auth().cloned(),
        })))
    }
}

impl Proxies {
    /// Those of the variables that Docker reads.
    pub(super) fn of_environment() -> Self {
        let first = |names: [&'static str; 2]| {
            let set = names
                .into_iter()
                .filter_map(|name| Some((name, std::env::var(name).ok()?)));
            set.into_iter()
                .find(|(_, value)| !value.is_empty())
                .unwrap_or_default()
        };
        let http = first(["HTTP_PROXY", "http_proxy"]);
        // There a header of a request may have set it (httpoxy, CVE-2016-5385).
        let is_cgi = std::env::var_os("REQUEST_METHOD").is_some();
        let http = if is_cgi { Default::default() } else { http };
        let https = first(["HTTPS_PROXY", "https_proxy"]);
        let (_, no) = first(["NO_PROXY", "no_proxy"]);
        Self::new((http.0, &http.1), (https.0, &https.1), &no)
    }

    /// None at all.
    pub(super) fn none() -> Self {
        Self::new(("", ""), ("", ""), "")
    }

    /// Those of the variables of these names and values, but not for the servers that `no` lists.
    pub(super) fn new(http: (&'static str, &str), https: (&'static str, &str), no: &str) -> Self {
        let named = [("http", http), ("https", https)].into_iter();
        let proxies = named.filter_map(|(scheme, (variable, value))| {
            let value = value.trim();
            (!value.is_empty()).then(|| Proxy::new(scheme, variable, value))?
        });
        Self(Arc::new(Rules {
            proxies: proxies.collect(),
            exceptions: no.split(',').filter_map(Exception::parse).collect(),
        }))
    }

    /// Has a client ask these and no others.
    pub(super) fn of_client(&self, mut builder: ClientBuilder) -> ClientBuilder {
        builder = builder.no_proxy();
        for proxy in &self.0.proxies {
            let Ok(Place { url, login }) = &proxy.place else {
                continue;
            };
            let (rules, scheme, url) = (self.clone(), proxy.scheme, url.clone());
            let chosen = reqwest::Proxy::custom(move |asked: &Url| {
                let is_it = rules
                    .before(asked)
                    .is_some_and(|proxy| proxy.scheme == scheme);
                is_it.then(|| url.clone())
            });
            builder = builder.proxy(match login {
                Some(login) => chosen.custom_http_auth(login.clone()),
                None => chosen,
            });
        }
        builder
    }

    /// The proxy that is asked for `url`.
    fn before(&self, url: &Url) -> Option<&Proxy> {
        let mut proxies = self.0.proxies.iter();
        let proxy = proxies.find(|proxy| proxy.scheme == url.scheme())?;
        let name = url.host_str()?.to_ascii_lowercase();
        let address = literal_address(url);
        // This machine's own servers have none in Docker either.
        if name == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return None;
        }
        let port = url.port_or_known_default();
        let mut exceptions = self.0.exceptions.iter();
        let is_excepted = exceptions.any(|exception| exception.is_of(&name, address, port));
        (!is_excepted).then_some(proxy)
    }

    /// Whether a proxy is asked for `url`.
    pub(super) fn stand_before(&self, url: &Url) -> bool {
        self.before(url).is_some()
    }

    /// Checks that the proxy for `url`, if there is one, is of a kind that can be asked.
    pub(super) fn check(&self, url: &Url) -> Result<(), RegistryError> {
        match self.before(url) {
            Some(Proxy {
                variable,
                place: Err(scheme),
                ..
            }) => Err(RegistryError::Proxy {
                variable,
                scheme: scheme.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether a proxy has this name.
    pub(super) fn have_name(&self, host: &str) -> bool {
        let places = self.0.proxies.iter().flat_map(|proxy| &proxy.place);
        let mut names = places.filter_map(|place| place.url.host_str());
        names.any(|name| name.eq_ignore_ascii_case(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn https(proxy: &str, no: &str) -> Proxies {
        Proxies::new(("HTTP_PROXY", ""), ("HTTPS_PROXY", proxy), no)
    }

    #[test]
    fn exceptions_are_those_of_docker() {
        for (no, url, is_excepted) in [
            ("*", "https://any.example", true),
            ("corp.example", "https://corp.example", true),
            ("CORP.example", "https://a.corp.Example", true),
            ("corp.example", "https://notcorp.example", false),
            (".corp.example", "https://a.corp.example", true),
            (".corp.example", "https://corp.example", false),
            ("*.corp.example", "https://a.b.corp.example", true),
            ("*.corp.example", "https://corp.example", false),
            (
                "x, *.corp.example:5000 ,y",
                "https://a.corp.example:5000",
                true,
            ),
            ("*.corp.example:5000", "https://a.corp.example", false),
            ("corp.example:443", "https://corp.example", true),
            ("corp.example:5000", "https://corp.example:5001", false),
            ("10.0.0.0/8", "https://10.1.2.3:5000", true),
            ("10.0.0.0/8", "https://11.1.2.3", false),
            ("0.0.0.0/0", "https://11.1.2.3", true),
            ("10.0.0.0/33", "https://10.0.0.0", false),
            ("10.0.0.0/8", "https://10.corp.example", false),
            ("fd00::/8", "https://[fd12::1]:5000", true),
            ("fd00::/8", "https://10.0.0.1", false),
            ("10.0.0.1", "https://10.0.0.1:5000", true),
            ("10.0.0.1:5000", "https://10.0.0.1:5000", true),
            ("10.0.0.1:5000", "https://10.0.0.1", false),
            ("fd00::1", "https://[fd00::1]", true),
            ("[fd00::1]:5000", "https://[fd00::1]:5000", true),
            ("[fd00::1]:5000", "https://[fd00::1]:5001", false),
            (",:,:80,.,*.,[],a:b,a:99999", "https://a.b", false),
            ("", "https://localhost:5000", true),
            ("", "https://127.1.2.3", true),
            ("", "https://[::1]", true),
            ("", "https://a.b", false),
        ] {
            let proxies = https("http://proxy:3128", no);
            let found = proxies.stand_before(&Url::parse(url).unwrap());
            assert_eq!(found, !is_excepted, "{no}: {url}");
        }
    }

    #[test]
    fn a_proxy_that_is_no_http_is_refused_for_what_it_is_for() {
        let proxies = https("socks5://proxy:1080", "near.corp");
        let check = |url: &str| proxies.check(&Url::parse(url).unwrap());
        assert_eq!(
            check("https://far.example/v2/").unwrap_err().to_string(),
            "the proxy in HTTPS_PROXY is of the kind socks5, which is not supported: http and https are"
        );
        check("https://near.corp/v2/").unwrap();
        check("http://far.example/v2/").unwrap();
        let http = https("proxy:3128", "");
        http.check(&Url::parse("https://a.b").unwrap()).unwrap();
        assert!(http.have_name("proxy"));
    }

    #[test]
    fn proxies_stand_before_what_the_client_asks_them_for() {
        let proxies = https("http://Proxy.corp:3128", "near.corp");
        for (url, expected) in [
            ("https://far.example/v2/", true),
            ("https://near.corp/v2/", false),
            ("http://far.example/v2/", false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(proxies.stand_before(&url), expected, "{url}");
            assert!(!Proxies::none().stand_before(&url));
        }
        assert!(proxies.have_name("proxy.corp"));
        assert!(!proxies.have_name("far.example") && !Proxies::none().have_name("proxy.corp"));
    }
}
