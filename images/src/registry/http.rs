//! One HTTP request to a registry, redirects included, with a limit on everything that comes back.
//!
//! Used by `session`. It knows which server is the registry and which others it sent us to, and keeps
//! credentials from the latter; it knows nothing of manifests, tokens or retries.
//!
//! Redirects are followed by hand, since each has to pass the same checks: at most [`REDIRECTS`], never
//! from HTTPS to HTTP, never with user info in the address, never to somewhere more private than the
//! registry (see `reach`), and without `Authorization` from the first step away from the registry.
//! What is sent goes along with a redirect only where that asks for the same again (307, 308); a part of a
//! file is sent as long as some of it is taken in the time of a stalled upload.
//! Where the user's environment names a proxy, the proxy looks names up, so that only literal addresses
//! can be checked, and where the registry is stays unknown; a registry on this machine is never asked through
//! a proxy.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Body, Client, Method, Response, StatusCode, Url, redirect};
use tokio::time::timeout;

use super::Patience;
use super::content::{Content, Part};
use super::error::{Astray, Cause, RegistryError};
use super::proxy::Proxies;
use super::reach::{GuardedResolver, Origin, Reach, Resolver};
use super::runtime::Runtime;
use super::tls;
use crate::escape::printable;
use crate::limits::{CONNECT_TIMEOUT, REDIRECTS, STALL_BYTES, UPLOAD_TICK};

const USER_AGENT: &str = concat!("bulkhead/", env!("CARGO_PKG_VERSION"));

/// Who we say we are.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Authorization {
    /// User name and password.
    Basic(String, String),
    /// A token.
    Bearer(String),
}

/// Secrets don't get into logs.
impl std::fmt::Debug for Authorization {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Basic(user, _) => write!(out, "Basic({user:?}, …)"),
            Self::Bearer(_) => write!(out, "Bearer(…)"),
        }
    }
}

/// What is asked for.
#[derive(Clone)]
pub(super) struct Request<'a> {
    /// For messages.
    pub(super) what: &'a str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) accept: Option<&'a str>,
    /// The first byte wanted, if not all are.
    pub(super) range_from: Option<u64>,
    /// Goes to the server of `url` only.
    pub(super) authorization: Option<Authorization>,
    pub(super) content: Content<'a>,
    /// Which bytes of an upload the content is: from the first up to, without, the second.
    pub(super) content_range: Option<(u64, u64)>,
    /// Until the head of the reply, if not as long as for others.
    pub(super) patience: Option<Duration>,
}

impl<'a> Request<'a> {
    pub(super) fn new(what: &'a str, method: Method, url: Url) -> Self {
        Self {
            what,
            method,
            url,
            accept: None,
            range_from: None,
            authorization: None,
            content: Content::Nothing,
            content_range: None,
            patience: None,
        }
    }

    pub(super) fn get(what: &'a str, url: Url) -> Self {
        Self::new(what, Method::GET, url)
    }
}

/// The HTTP clients of one session.
#[derive(Debug)]
pub(super) struct Http {
    runtime: Runtime,
    /// For the registry itself, wherever that is: the user named it.
    own: Client,
    /// For servers that the registry names.
    other: Client,
    origin: Origin,
    proxies: Proxies,
    patience: Patience,
    base: Url,
}

impl Http {
    /// Sets clients up for the registry at `base`; connects to nothing.
    pub(super) fn new(
        base: Url,
        tls: tls::Settings,
        patience: Patience,
    ) -> Result<Self, RegistryError> {
        let proxies = match is_loopback(&base) {
            true => Proxies::none(),
            false => Proxies::of_environment(),
        };
        Self::behind(base, tls, patience, proxies)
    }

    fn behind(
        base: Url,
        tls: tls::Settings,
        patience: Patience,
        proxies: Proxies,
    ) -> Result<Self, RegistryError> {
        let origin = Origin::default();
        let builder = |tls: rustls::ClientConfig| {
            let builder = Client::builder()
                .tls_backend_preconfigured(tls)
                .user_agent(USER_AGENT)
                .redirect(redirect::Policy::none())
                .referer(false)
                .connect_timeout(CONNECT_TIMEOUT);
            proxies.of_client(builder)
        };
        let build = |builder: reqwest::ClientBuilder| {
            builder
                .build()
                .map_err(|error| RegistryError::Setup(Cause::of(&error)))
        };
        let own = build(builder(tls.own).dns_resolver(Resolver))?;
        let other = build(
            builder(tls.other).dns_resolver(GuardedResolver(origin.clone(), proxies.clone())),
        )?;
        let runtime = Runtime::start().map_err(|error| RegistryError::Setup(Cause::of(&error)))?;
        Ok(Self {
            runtime,
            own,
            other,
            origin,
            proxies,
            patience,
            base,
        })
    }

    /// Sets clients up for addresses that a stranger names: what a container gets to, no more.
    pub(super) fn of_strangers(
        scheme: &str,
        tls: tls::Settings,
        patience: Patience,
    ) -> Result<Self, RegistryError> {
        // Nobody's own server (RFC 6761 section 6.4), so that every address is a stranger's.
        let base = Url::parse(&format!("{scheme}://stranger.invalid/"))
            .map_err(|error| RegistryError::Setup(Cause::of(&error)))?;
        let http = Self::new(base, tls, patience)?;
        http.origin.settle(Reach::Private);
        Ok(http)
    }

    /// The registry's address, for building others on it.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// Goes on with another scheme, once it turned out which one the registry speaks.
    pub(super) fn rebase(&mut self, base: Url) {
        self.base = base;
    }

    /// Sends a request and gives the head of the reply, whatever its status but a redirect.
    pub(super) fn send(&self, request: Request<'_>) -> Result<Reply<'_>, RegistryError> {
        let Request {
            what,
            method,
            mut url,
            accept,
            range_from,
            mut authorization,
            content,
            content_range,
            patience,
        } = request;
        let patience = patience.unwrap_or(self.patience.reply);
        // A login is never sent on: the token server is where the registry said it is.
        let may_be_sent_on = !matches!(content, Content::Form(_));
        let first = url.clone();
        for _ in 0..=REDIRECTS {
            let is_own = same_server(&url, &self.base);
            if !same_server(&url, &first) {
                authorization = None;
            }
            if !is_own {
                self.check_target(&url)?;
            }
            self.proxies.check(&url)?;
            let client = if is_own { &self.own } else { &self.other };
            let mut builder = client.request(method.clone(), url.clone());
            if let Some(accept) = accept {
                builder = builder.header(header::ACCEPT, accept);
            }
            if let Some(from) = range_from {
                builder = builder.header(header::RANGE, format!("bytes={from}-"));
            }
            if let Some((from, to)) = content_range {
                // Without the unit, as the distribution spec has it.
                let range = format!("{from}-{}", to.saturating_sub(1));
                builder = builder.header(header::CONTENT_RANGE, range);
            }
            builder = match &authorization {
                Some(Authorization::Basic(user, password)) => {
                    builder.basic_auth(user, Some(password))
                }
                Some(Authorization::Bearer(token)) => builder.bearer_auth(token),
                None => builder,
            };
            let response = match &content {
                Content::Part(part) => self.head_of_upload(what, &url, builder, part, patience)?,
                _ => self.head(
                    what,
                    &url,
                    with_content(builder, &method, &content),
                    patience,
                )?,
            };
            if is_own && let Some(address) = response.remote_addr() {
                self.learn(&url, address.ip());
            }
            let location = response.headers().get(header::LOCATION);
            match location {
                Some(location)
                    if response.status().is_redirection()
                        && may_be_sent_on
                        && keeps_method(response.status(), &method) =>
                {
                    url = self.location(&url, location)?;
                }
                _ => return Ok(Reply::new(self, what, url, is_own, response)),
            }
        }
        Err(self.forbidden(&url, Astray::TooManyRedirects))
    }

    /// Takes the address that answered for `url` for the registry's, where it is not a proxy's.
    fn learn(&self, url: &Url, address: IpAddr) {
        if !self.proxies.stand_before(url) {
            self.origin.learn(address);
        }
    }

    fn head(
        &self,
        what: &str,
        url: &Url,
        builder: reqwest::RequestBuilder,
        patience: Duration,
    ) -> Result<Response, RegistryError> {
        let host = host_of(url);
        match self
            .runtime
            .block_on(async { timeout(patience, builder.send()).await })
        {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(connection_error(host, what, &error)),
            Err(_) => Err(RegistryError::Stalled {
                host,
                what: what.to_owned(),
            }),
        }
    }

    /// Sends a part of a file and waits for the head of the reply: as long as bytes go, and for the reply
    /// when all went.
    fn head_of_upload(
        &self,
        what: &str,
        url: &Url,
        builder: reqwest::RequestBuilder,
        part: &Part<'_>,
        patience: Duration,
    ) -> Result<Response, RegistryError> {
        let (body, sent) = part.stream();
        let builder = builder
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(Body::wrap(body));
        let stalled = || RegistryError::NotTaken {
            host: host_of(url),
            what: what.to_owned(),
        };
        self.runtime.block_on(async {
            let mut sending = std::pin::pin!(builder.send());
            let (mut before, mut quiet) = (0, Duration::ZERO);
            loop {
                if let Ok(result) = timeout(UPLOAD_TICK, &mut sending).await {
                    (part.watch)(load(&sent));
                    return result.map_err(|error| upload_error(host_of(url), what, &error));
                }
                let now = load(&sent);
                if !(part.watch)(now) {
                    return Err(RegistryError::Stopped);
                }
                quiet = match now == before {
                    true => quiet.saturating_add(UPLOAD_TICK),
                    false => Duration::ZERO,
                };
                before = now;
                let limit = match now == part.len() {
                    // The last of it is on its way for as long as any other.
                    true => patience.saturating_add(self.patience.upload),
                    false => self.patience.upload,
                };
                if quiet >= limit {
                    return Err(stalled());
                }
            }
        })
    }

    /// The address that a reply from `from` names: a redirect's, or where an upload goes on.
    pub(super) fn location(
        &self,
        from: &Url,
        location: &HeaderValue,
    ) -> Result<Url, RegistryError> {
        let target = location
            .to_str()
            .ok()
            .and_then(|location| from.join(location).ok());
        let Some(mut target) = target else {
            return Err(self.forbidden(from, Astray::NoAddress));
        };
        target.set_fragment(None);
        if from.scheme() == "https" && target.scheme() != "https" {
            return Err(self.forbidden(&target, Astray::LeavesHttps));
        }
        Ok(target)
    }

    /// Checks an address that the registry chose: a redirect's or a token server's.
    pub(super) fn check_target(&self, url: &Url) -> Result<(), RegistryError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(self.forbidden(url, Astray::Scheme));
        }
        if url.scheme() == "http" && self.base.scheme() == "https" {
            return Err(self.forbidden(url, Astray::Plain));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(self.forbidden(url, Astray::UserName));
        }
        if let Some(address) = literal_address(url)
            && !self.origin.reach().may_lead_to(Reach::of(address))
        {
            return Err(self.forbidden(url, Astray::Reach));
        }
        // Its name is looked up unguarded, for the user's sake alone.
        if !self.proxies.stand_before(url)
            && url
                .host_str()
                .is_some_and(|host| self.proxies.have_name(host))
        {
            return Err(self.forbidden(url, Astray::Proxy));
        }
        Ok(())
    }

    fn forbidden(&self, url: &Url, reason: Astray) -> RegistryError {
        let mut shown = url.clone();
        let _ = shown.set_password(None);
        shown.set_query(None);
        RegistryError::Forbidden {
            host: host_of(&self.base),
            target: printable(shown.as_str()),
            reason,
        }
    }
}

/// The head of a reply, with its body to be read.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    http: &'a Http,
    response: Response,
    what: String,
    /// The server that answered, for messages.
    host: String,
    /// The address that answered.
    pub(super) url: Url,
    /// Whether the registry itself answered, not a server that it sent us to.
    pub(super) is_own: bool,
    /// Time spent waiting for the bytes in `brought`.
    waited: Duration,
    brought: u64,
}

impl<'a> Reply<'a> {
    fn new(http: &'a Http, what: &str, url: Url, is_own: bool, response: Response) -> Self {
        let (what, host) = (what.to_owned(), host_of(&url));
        Self {
            http,
            response,
            what,
            host,
            url,
            is_own,
            waited: Duration::ZERO,
            brought: 0,
        }
    }

    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The status as Go prints it: `401 Unauthorized`.
    pub(super) fn status_text(&self) -> String {
        let status = self.response.status();
        let reason = status.canonical_reason().unwrap_or_default();
        format!("{} {reason}", status.as_u16())
            .trim_end()
            .to_owned()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The server that answered, for messages.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The next bytes of the body, `None` at its end. A body that brings fewer than [`STALL_BYTES`] in
    /// the stall time is an error; time that the caller takes in between doesn't count.
    pub(super) fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, RegistryError> {
        let left = self.http.patience.stall.saturating_sub(self.waited);
        let started = Instant::now();
        let response = &mut self.response;
        let chunk = self
            .http
            .runtime
            .block_on(async { timeout(left, response.chunk()).await });
        let stalled = || RegistryError::Stalled {
            host: self.host.clone(),
            what: self.what.clone(),
        };
        let chunk = chunk
            .map_err(|_| stalled())?
            .map_err(|error| connection_error(self.host.clone(), &self.what, &error))?;
        self.waited = self.waited.saturating_add(started.elapsed());
        let len = chunk
            .as_ref()
            .map_or(0, |chunk| u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        self.brought = self.brought.saturating_add(len);
        if self.brought >= STALL_BYTES {
            self.waited = Duration::ZERO;
            self.brought = 0;
        }
        Ok(chunk)
    }

    /// The whole body, which may have at most `limit` bytes and has a time limit of its own.
    pub(super) fn read(&mut self, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let started = Instant::now();
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk()? {
            body.extend_from_slice(chunk.as_ref());
            if u64::try_from(body.len()).is_ok_and(|len| len > limit) {
                return Err(RegistryError::TooLarge {
                    host: self.host.clone(),
                    what: self.what.clone(),
                    limit,
                });
            }
            if started.elapsed() > self.http.patience.document {
                return Err(RegistryError::Stalled {
                    host: self.host.clone(),
                    what: self.what.clone(),
                });
            }
        }
        Ok(body)
    }
}

fn load(count: &Arc<AtomicU64>) -> u64 {
    count.load(Ordering::Relaxed)
}

/// Puts all but a part of a file into a request.
fn with_content(
    builder: reqwest::RequestBuilder,
    method: &Method,
    content: &Content<'_>,
) -> reqwest::RequestBuilder {
    match content {
        Content::Form(form) => builder
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.clone()),
        Content::Document(media_type, bytes) => builder
            .header(header::CONTENT_TYPE, *media_type)
            .body(bytes.clone()),
        // Some registries want a length where a method could have content (RFC 9110, 8.6).
        Content::Nothing if *method == Method::POST || *method == Method::PUT => {
            builder.header(header::CONTENT_LENGTH, "0")
        }
        Content::Nothing | Content::Part(_) => builder,
    }
}

/// Whether a redirect with `status` asks for the same again (RFC 9110, 15.4); another would make a GET
/// of an upload.
fn keeps_method(status: StatusCode, method: &Method) -> bool {
    let is_read = *method == Method::GET || *method == Method::HEAD;
    is_read
        || matches!(
            status,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
        )
}

/// An error of a connection that bytes were sent over.
fn upload_error(host: String, what: &str, error: &reqwest::Error) -> RegistryError {
    match connection_error(host, what, error) {
        RegistryError::Broken { host, what, source } => {
            RegistryError::SendBroken { host, what, source }
        }
        other => other,
    }
}

fn connection_error(host: String, what: &str, error: &reqwest::Error) -> RegistryError {
    let source = Cause::of(error);
    if is_certificate_error(error) {
        RegistryError::Certificate { host, source }
    } else if error.is_connect() {
        RegistryError::Unreachable { host, source }
    } else {
        RegistryError::Broken {
            host,
            what: what.to_owned(),
            source,
        }
    }
}

/// Whether somewhere in the causes TLS refused the server's certificate. An `io::Error` hides the error
/// that it was made of from `source`.
fn is_certificate_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(|error| error.get_ref());
        let tls = error
            .downcast_ref::<rustls::Error>()
            .or_else(|| inner?.downcast_ref::<rustls::Error>());
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

pub(super) fn same_server(left: &Url, right: &Url) -> bool {
    left.scheme() == right.scheme()
        && left.host_str() == right.host_str()
        && left.port_or_known_default() == right.port_or_known_default()
}

/// `host[:port]` as in the address.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    printable(
        &url.port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
    )
}

pub(super) fn literal_address(url: &Url) -> Option<IpAddr> {
    url.host_str()?
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

/// Whether an address is on this machine: `localhost`, 127.0.0.0/8 or [::1].
pub(super) fn is_loopback(url: &Url) -> bool {
    url.host_str() == Some("localhost")
        || literal_address(url).is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {

    use super::super::one_reply;
    use super::super::tls::Authorities;
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn http_behind(proxy: &str, no: &str) -> (Http, Url) {
        let url = Url::parse("https://registry.example/v2/").unwrap();
        let tls = tls::config(&Authorities::default(), "registry.example").unwrap();
        let proxies = Proxies::new(("HTTP_PROXY", proxy), ("HTTPS_PROXY", proxy), no);
        let http = Http::behind(url.clone(), tls, Patience::default(), proxies);
        (http.unwrap(), url)
    }

    #[test]
    fn the_client_asks_the_proxies_that_are_meant() {
        let reply = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        let (proxy, server) = (one_reply::start(reply), one_reply::start(reply));
        let (http, _) = http_behind(&format!("http://me:secret@{}", proxy.0), "");
        let get = |url: &str| {
            let request = Request::get("x", Url::parse(url).unwrap());
            http.head(
                request.what,
                &request.url,
                http.own.get(request.url.clone()),
                SOON,
            )
            .unwrap()
            .status()
            .as_u16()
        };
        assert_eq!(get("http://registry.invalid/v2/"), 204);
        assert_eq!(get(&format!("http://{}/v2/", server.0)), 204);
        let heard = proxy.1.join().unwrap();
        assert!(
            heard.starts_with("GET http://registry.invalid/v2/ "),
            "{heard}"
        );
        // me:secret
        assert!(heard.contains("Basic bWU6c2VjcmV0"), "{heard}");
        let heard = server.1.join().unwrap();
        assert!(
            heard.starts_with("GET /v2/ ") && !heard.contains("Basic"),
            "{heard}"
        );
    }

    #[test]
    fn the_address_of_a_proxy_is_not_the_registrys() {
        let behind = |no: &str| {
            let (http, url) = http_behind("http://127.0.0.1:3128", no);
            http.learn(&url, IpAddr::from([127, 0, 0, 1]));
            http.check_target(&Url::parse("https://10.0.0.1/x").unwrap())
        };
        assert!(behind("").is_err());
        behind("registry.example").unwrap();
    }

    #[test]
    fn nobody_leads_to_the_users_proxy() {
        let (http, _) = http_behind("http://localhost:3128", "");
        let target = Url::parse("https://localhost/x").unwrap();
        let error = http.check_target(&target).unwrap_err();
        assert!(matches!(error, RegistryError::Forbidden { .. }), "{error}");
    }
}
