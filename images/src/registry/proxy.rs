//! The proxies that the user's environment names for what this host asks.
//!
//! Used by `http`. Which of them stands before a server is said by the rules of the HTTP client itself, so
//! that both mean the same. A proxy's address is not that of the server behind it, and its name is the
//! user's, not a registry's.

use std::sync::Arc;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

/// See the module's doc.
#[derive(Debug, Clone)]
pub(super) struct Proxies {
    matcher: Arc<Matcher>,
    /// Host names of the proxies.
    names: Arc<[String]>,
}

impl Proxies {
    /// Those that the client takes when nothing else is said.
    pub(super) fn of_environment() -> Self {
        Self::new(Matcher::from_system())
    }

    /// None at all.
    pub(super) fn none() -> Self {
        Self::new(Matcher::builder().build())
    }

    pub(super) fn new(matcher: Matcher) -> Self {
        // Nobody's own server (RFC 6761 section 6.4).
        let of_scheme = |scheme: &str| {
            let uri = format!("{scheme}://stranger.invalid/").parse().ok()?;
            let proxy = matcher.intercept(&uri)?;
            proxy.uri().host().map(str::to_owned)
        };
        let names = ["http", "https"]
            .into_iter()
            .filter_map(of_scheme)
            .collect();
        Self {
            matcher: Arc::new(matcher),
            names,
        }
    }

    /// Whether a proxy is asked for `url`.
    pub(super) fn stand_before(&self, url: &Url) -> bool {
        let uri = url.as_str().parse().ok();
        uri.is_some_and(|uri| self.matcher.intercept(&uri).is_some())
    }

    /// Whether a proxy has this name.
    pub(super) fn have_name(&self, host: &str) -> bool {
        self.names
            .iter()
            .any(|name| name.eq_ignore_ascii_case(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_stand_before_what_the_client_asks_them_for() {
        let proxies = Proxies::new(
            Matcher::builder()
                .https("http://Proxy.corp:3128")
                .no("near.corp")
                .build(),
        );
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
