//! A conversation with one registry about one repository: scheme, login, retries, and what a status means.
//!
//! Used by `pull` and `download`, which get replies whose status is good, and by `push`, `upload` and
//! `login`, which get any that isn't the start of a login. What is in a reply is the caller's business.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::RETRY_AFTER;
use serde::Deserialize;

use super::auth::{self, Challenge, Purpose};
use super::credentials;
use super::error::{Astray, RegistryError};
use super::http::{Authorization, Http, Reply, Request, host_of, is_loopback, same_server};
use super::tls::{self, Authorities};
use super::{Patience, RegistryOptions};
use crate::digest::Digest;
use crate::escape::printable;
use crate::json;
use crate::limits::{BACKOFF_MAX, ERROR_BYTES};
use crate::manifest;
use crate::reference::Reference;

/// One step of the pauses in a back-off, after which a stop is noticed.
const SLEEP_STEP: Duration = Duration::from_millis(50);

/// What is asked of the registry.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// A manifest by tag or digest.
    Manifest(&'a str),
    /// A blob, from a byte on.
    Blob(&'a Digest, u64),
}

/// What a session is for: which rights it asks for, and in whose words it is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Intent {
    /// Reading the repository.
    Pull,
    /// Writing to it, and reading from these others of the registry.
    Push(Vec<String>),
}

impl Intent {
    /// The scopes of tokens (distribution's token specification), the repository's own first.
    fn scopes(&self, repository: &str) -> Vec<String> {
        match self {
            Self::Pull => vec![format!("repository:{repository}:pull")],
            Self::Push(sources) => std::iter::once(format!("repository:{repository}:pull,push"))
                .chain(sources.iter().map(|from| format!("repository:{from}:pull")))
                .collect(),
        }
    }
}

/// Our login, and how often it changed, so that several threads answer one challenge once.
#[derive(Debug, Default)]
struct Login {
    generation: u64,
    authorization: Option<Authorization>,
    with_credentials: bool,
    /// Whether there was no token for the other repositories as well.
    is_without_sources: bool,
}

/// See the module's doc.
#[derive(Debug)]
pub(super) struct Session<'a> {
    http: Http,
    reference: &'a Reference,
    options: &'a RegistryOptions,
    intent: Intent,
    login: Mutex<Login>,
    /// Whether the registry ever answered. Before that, a refused connection is final: it is more likely
    /// a wrong name than a passing fault.
    answered: AtomicBool,
}

impl<'a> Session<'a> {
    /// Sets a session up. For a registry that may be plain HTTP this asks it which of the two it speaks.
    pub(super) fn new(
        reference: &'a Reference,
        options: &'a RegistryOptions,
        intent: Intent,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            http: connect(reference.host(), options)?,
            reference,
            options,
            intent,
            login: Mutex::default(),
            answered: AtomicBool::new(false),
        })
    }

    /// The registry, for messages.
    pub(super) fn host(&self) -> String {
        host_of(self.http.base())
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.options.patience
    }

    /// Asks for a small document and reads it whole, again after a pause while that may help.
    pub(super) fn document(
        &self,
        what: &str,
        wanted: Wanted<'_>,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        self.with_retries(|| self.get_once(what, wanted)?.read(limit))
    }

    /// An address below the registry's own. A reference's path and tag and a digest have no character
    /// that means something in a URL.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.http.base().clone();
        url.set_path(path);
        url
    }

    /// The address that a reply from `from` names.
    pub(super) fn location(
        &self,
        from: &Url,
        location: &reqwest::header::HeaderValue,
    ) -> Result<Url, RegistryError> {
        self.http.location(from, location)
    }

    /// Tries again after a pause while that may help.
    pub(super) fn with_retries<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut pauses = Pauses::new(self.patience());
        loop {
            match attempt() {
                Err(error)
                    if self.may_retry(&error)
                        && pauses.wait(error.retry_after(), &AtomicBool::new(false)) => {}
                result => return result,
            }
        }
    }

    /// Whether `error` may pass.
    pub(super) fn may_retry(&self, error: &RegistryError) -> bool {
        let is_first_contact = matches!(error, RegistryError::Unreachable { .. })
            && !self.answered.load(Ordering::Relaxed);
        error.is_transient() && !is_first_contact
    }

    /// Sends one request, logging in if the registry asks for it. The reply's status is 200, or for a
    /// blob from a byte on 206 or 416.
    pub(super) fn get_once(
        &self,
        what: &str,
        wanted: Wanted<'_>,
    ) -> Result<Reply<'_>, RegistryError> {
        let path = match wanted {
            Wanted::Manifest(name) => format!("v2/{}/manifests/{name}", self.reference.path()),
            Wanted::Blob(digest, _) => format!("v2/{}/blobs/{digest}", self.reference.path()),
        };
        let accepted = manifest::ACCEPTED.join(", ");
        let (accept, range_from) = match wanted {
            Wanted::Manifest(_) => (Some(accepted.as_str()), None),
            Wanted::Blob(_, from) => (None, (from > 0).then_some(from)),
        };
        let reply = self.ask(Request {
            accept,
            range_from,
            ..Request::get(what, self.url(&path))
        })?;
        self.judge(what, wanted, reply)
    }

    /// Sends one request and gives the reply, logging in if the registry asks for it. A request to another
    /// server, where the registry said that an upload goes on, bears no login.
    pub(super) fn ask(&self, request: Request<'_>) -> Result<Reply<'_>, RegistryError> {
        let is_own = same_server(&request.url, self.http.base());
        let (generation, authorization) = self.login();
        let reply = self.http.send(Request {
            authorization: authorization.filter(|_| is_own),
            ..request.clone()
        })?;
        self.answered.store(true, Ordering::Relaxed);
        if reply.status() != 401 || !reply.is_own || !is_own {
            return Ok(reply);
        }
        let Some(challenge) = Challenge::parse(reply.headers()) else {
            return Ok(reply);
        };
        drop(reply);
        let authorization = Some(self.log_in(generation, &challenge)?);
        self.http.send(Request {
            authorization,
            ..request
        })
    }

    /// Whether the other repositories that a push named may be read.
    pub(super) fn may_read_sources(&self) -> bool {
        let login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        !login.is_without_sources
    }

    fn login(&self) -> (u64, Option<Authorization>) {
        let login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        (login.generation, login.authorization.clone())
    }

    /// Answers a challenge, unless another thread did since `generation`.
    fn log_in(
        &self,
        generation: u64,
        challenge: &Challenge,
    ) -> Result<Authorization, RegistryError> {
        let mut login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        if login.generation != generation
            && let Some(authorization) = &login.authorization
        {
            return Ok(authorization.clone());
        }
        let config = self
            .options
            .docker_config
            .clone()
            .or_else(credentials::default_config);
        let found = config
            .map(|config| credentials::find(&config, self.reference.domain()))
            .transpose();
        let found = found
            .map_err(|source| RegistryError::Credentials {
                host: self.host(),
                source,
            })?
            .flatten();
        login.with_credentials = found.is_some();
        let scopes = self.intent.scopes(self.reference.path());
        let ask = |scopes: &[String]| {
            let purpose = Purpose::Scopes(scopes);
            auth::answer(&self.http, challenge, purpose, found.as_ref())
        };
        let own = scopes.get(..1).unwrap_or_default();
        let answer = match login.is_without_sources {
            true => ask(own)?,
            false => match ask(&scopes) {
                // Some refuse all of it where the user may not read one of them.
                Err(RegistryError::Unauthorized { .. }) if scopes.len() > 1 => {
                    let answer = ask(own)?;
                    login.is_without_sources = true;
                    answer
                }
                answer => answer?,
            },
        };
        let authorization = answer.authorization;
        login.generation = login.generation.saturating_add(1);
        login.authorization = Some(authorization.clone());
        Ok(authorization)
    }

    /// Turns a reply that brings no content into an error.
    fn judge<'r>(
        &self,
        what: &str,
        wanted: Wanted<'_>,
        reply: Reply<'r>,
    ) -> Result<Reply<'r>, RegistryError> {
        match (reply.status(), wanted) {
            (200, _) => Ok(reply),
            (206 | 416, Wanted::Blob(_, from)) if from > 0 => Ok(reply),
            _ => Err(self.refusal(what, reply, Some(wanted))),
        }
    }

    /// The error that a reply is which didn't do what was asked, of `wanted` or something else.
    pub(super) fn refusal(
        &self,
        what: &str,
        mut reply: Reply<'_>,
        wanted: Option<Wanted<'_>>,
    ) -> RegistryError {
        let status = reply.status();
        let host = reply.host().to_owned();
        let retry_after = retry_after(&reply);
        let body = reply.read(ERROR_BYTES).unwrap_or_default();
        let (code, message) = (code(&body), message(&body));
        let unexpected = |host, message| RegistryError::Status {
            host,
            what: what.to_owned(),
            status,
            message,
        };
        if !reply.is_own {
            return unexpected(host, message);
        }
        let denied = |message| match self.intent {
            Intent::Pull => RegistryError::Denied {
                repository: self.reference.familiar_repository(),
                host: self.reference.domain().to_owned(),
                message,
            },
            Intent::Push(_) => RegistryError::PushDenied {
                host: self.reference.domain().to_owned(),
                message,
            },
        };
        let login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        match (status, wanted) {
            // A token that was granted but isn't enough: the repository is private or not there.
            (401, _) if matches!(login.authorization, Some(Authorization::Bearer(_))) => {
                denied(message)
            }
            (401, _) => RegistryError::Unauthorized {
                host,
                message,
                with_credentials: login.with_credentials,
            },
            (403, _) => denied(message),
            (404, _) if code == "NAME_UNKNOWN" => denied(message),
            (404, Some(Wanted::Manifest(_))) => RegistryError::ManifestUnknown {
                reference: self.reference.familiar(),
            },
            (404, Some(Wanted::Blob(..))) => RegistryError::BlobUnknown {
                what: what.to_owned(),
                host,
            },
            (429, _) => RegistryError::TooManyRequests {
                host,
                message,
                retry_after,
            },
            _ => unexpected(host, message),
        }
    }
}

/// Sets up the conversation with the registry at `host`. One that may be plain HTTP is asked which of the
/// two it speaks.
pub(super) fn connect(host: &str, options: &RegistryOptions) -> Result<Http, RegistryError> {
    let base = |scheme: &str| {
        Url::parse(&format!("{scheme}://{host}/")).map_err(|_| RegistryError::Forbidden {
            host: host.to_owned(),
            target: printable(host),
            reason: Astray::HostName,
        })
    };
    let https = base("https")?;
    let authorities = Authorities {
        files: &options.ca_files,
        directories: &options.certs_dirs,
    };
    let tls = tls::config(&authorities, host)?;
    let may_be_plain =
        is_loopback(&https) || options.insecure.iter().any(|insecure| insecure == host);
    let mut http = Http::new(https.clone(), tls, options.patience)?;
    if may_be_plain && !speaks_tls(&http, &https)? {
        http.rebase(base("http")?);
    }
    Ok(http)
}

/// Seconds that a reply asks us to wait (RFC 9110, 10.2.3). Its other form, a date, is not used by
/// registries.
fn retry_after(reply: &Reply<'_>) -> Option<Duration> {
    let value = reply.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// Asks a registry on this machine, or one named as insecure, whether it speaks TLS. A certificate that
/// isn't trusted is an error even there: whoever has TLS wants it to mean something.
fn speaks_tls(http: &Http, base: &Url) -> Result<bool, RegistryError> {
    let mut url = base.clone();
    url.set_path("v2/");
    match http.send(Request::get("its version", url)) {
        Ok(_) => Ok(true),
        Err(error @ (RegistryError::Certificate { .. } | RegistryError::Proxy { .. })) => {
            Err(error)
        }
        Err(_) => Ok(false),
    }
}

/// The pauses between tries: doubling, bounded in number.
#[derive(Debug)]
pub(super) struct Pauses {
    left: u32,
    next: Duration,
    base: Duration,
    attempts: u32,
}

impl Pauses {
    pub(super) fn new(patience: &Patience) -> Self {
        let (base, attempts) = (patience.backoff, patience.attempts);
        Self {
            left: attempts.saturating_sub(1),
            next: base,
            base,
            attempts,
        }
    }

    /// Forgets the tries so far, after one that got somewhere.
    pub(super) fn reset(&mut self) {
        self.left = self.attempts.saturating_sub(1);
        self.next = self.base;
    }

    /// Sleeps before the next try; `false` where there is none, or `stop` was set meanwhile.
    /// It is no shorter than `least`, what the registry asked for.
    pub(super) fn wait(&mut self, least: Duration, stop: &AtomicBool) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let mut pause = self.next.max(least);
        self.next = self.next.saturating_mul(2).min(BACKOFF_MAX);
        while !pause.is_zero() && !stop.load(Ordering::Relaxed) {
            let step = pause.min(SLEEP_STEP);
            std::thread::sleep(step);
            pause = pause.saturating_sub(step);
        }
        !stop.load(Ordering::Relaxed)
    }
}

/// The form of errors (distribution spec, "Error Codes"); token servers send `details` alone.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Errors {
    errors: Vec<ErrorEntry>,
    details: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorEntry {
    code: Option<String>,
    message: Option<String>,
}

fn code(body: &[u8]) -> String {
    let errors: Errors = json::parse(body, ERROR_BYTES).unwrap_or_default();
    errors
        .errors
        .into_iter()
        .next()
        .and_then(|error| error.code)
        .unwrap_or_default()
}

/// The first message in an error reply, fit for a terminal; empty where there is none.
pub(super) fn message(body: &[u8]) -> String {
    let errors: Errors = json::parse(body, ERROR_BYTES).unwrap_or_default();
    let first = errors
        .errors
        .into_iter()
        .find_map(|error| error.message.or(error.code));
    printable(first.or(errors.details).unwrap_or_default().trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_are_read_and_defused() {
        let body = br#"{"errors":[{"code":"DENIED","message":"go \u001b[2J away","detail":[1]},{"code":"X"}]}"#;
        assert_eq!(
            (code(body).as_str(), message(body).as_str()),
            ("DENIED", "go \\u{1b}[2J away")
        );
        assert_eq!(
            message(br#"{"details":"incorrect username or password"}"#),
            "incorrect username or password"
        );
        for body in [
            &b""[..],
            b"<html>",
            b"{\"errors\":7}",
            b"{\"errors\":[]}",
            b"\xff\xff",
        ] {
            assert_eq!((code(body).as_str(), message(body).as_str()), ("", ""));
        }
    }

    #[test]
    fn pauses_are_bounded_and_start_over_after_progress() {
        let patience = Patience {
            attempts: 3,
            backoff: Duration::from_millis(1),
            ..Patience::default()
        };
        let mut pauses = Pauses::new(&patience);
        let go_on = AtomicBool::new(false);
        assert_eq!(
            [
                pauses.wait(Duration::ZERO, &go_on),
                pauses.wait(Duration::ZERO, &go_on),
                pauses.wait(Duration::ZERO, &go_on)
            ],
            [true, true, false]
        );
        pauses.reset();
        assert!(pauses.wait(Duration::ZERO, &go_on));
        assert!(!pauses.wait(Duration::ZERO, &AtomicBool::new(true)));
    }
}
