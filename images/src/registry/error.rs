//! What can go wrong with a registry, in the user's terms, with a hint each.
//!
//! Used by all of `registry`; the command prints the message, its causes and the hint. Nothing that a
//! server wrote gets in unescaped or unbounded.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::config::ConfigError;
use crate::digest::Digest;
use crate::json::JsonError;
use crate::limits::RETRY_AFTER_MAX;
use crate::manifest::ManifestError;
use crate::store::StoreError;

/// The innermost reason of a failed connection, without the layers of HTTP library around it.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Cause(String);

impl Cause {
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut innermost = error;
        while let Some(next) = innermost.source() {
            innermost = next;
        }
        Self(crate::escape::printable(&innermost.to_string()))
    }
}

/// Why an address that somebody else named isn't asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Astray {
    /// It can't be read.
    #[error("the redirect has no valid address")]
    NoAddress,
    /// A redirect from HTTPS to HTTP.
    #[error("the redirect would leave HTTPS")]
    LeavesHttps,
    /// One more than are followed.
    #[error("there were too many redirects")]
    TooManyRedirects,
    /// Another protocol.
    #[error("it is neither HTTP nor HTTPS")]
    Scheme,
    /// An address that is less safe than the registry's.
    #[error("it is not HTTPS, but the registry is")]
    Plain,
    /// User info, which would be a login.
    #[error("it has a user name in it")]
    UserName,
    /// An address that is more private than the one that named it.
    #[error("the address is not on the registry's network")]
    Reach,
    /// The proxy of the user's environment.
    #[error("it is the user's proxy")]
    Proxy,
    /// What was named as a registry.
    #[error("it is no valid host name")]
    HostName,
}

/// A failed pull, push or login.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// The repository isn't there, or not for everyone. The words are Docker's.
    #[error(
        "pull access denied for {repository}, repository does not exist or may require 'docker login'{}",
        said(message)
    )]
    Denied {
        /// As users write it.
        repository: String,
        /// Where it was looked for.
        host: String,
        /// The registry's words, escaped; may be empty.
        message: String,
    },
    /// The repository may be there, but not this tag or digest. The words are Docker's.
    #[error("manifest for {reference} not found: manifest unknown")]
    ManifestUnknown {
        /// As users write it.
        reference: String,
    },
    /// A blob that the manifest lists isn't there.
    #[error("{what} is not on {host}, though the image lists it")]
    BlobUnknown {
        /// Which blob.
        what: String,
        /// The registry.
        host: String,
    },
    /// Who we are was asked, and there was no answer, or it was not taken.
    #[error("{host} {}: unauthorized{}", if *with_credentials { "refused the login" } else { "wants a login" }, said(message))]
    Unauthorized {
        /// The registry.
        host: String,
        /// The registry's words, escaped; may be empty.
        message: String,
        /// Whether credentials were sent.
        with_credentials: bool,
    },
    /// Too many requests; trying again at once would not help.
    #[error("{host} refused the request: too many requests{}", said(message))]
    TooManyRequests {
        /// The registry.
        host: String,
        /// The registry's words, escaped; may be empty.
        message: String,
        /// How long it asks us to wait, if it says.
        retry_after: Option<Duration>,
    },
    /// A server error, or any reply that has no place in the protocol.
    #[error(
        "{host} answered the request for {what} with HTTP status {status}{}",
        said(message)
    )]
    Status {
        /// Which server.
        host: String,
        /// What was asked for.
        what: String,
        /// The status code.
        status: u16,
        /// The server's words, escaped; may be empty.
        message: String,
    },
    /// No connection.
    #[error("cannot reach {host}")]
    Unreachable {
        /// Which server.
        host: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A connection that didn't stay, or a reply that is no HTTP.
    #[error("the connection to {host} broke while {what} was read")]
    Broken {
        /// Which server.
        host: String,
        /// What was being read.
        what: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A connection that didn't stay while bytes were sent.
    #[error("the connection to {host} broke while {what} was sent")]
    SendBroken {
        /// Which server.
        host: String,
        /// What was being sent.
        what: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// Nothing of what we sent was taken for too long.
    #[error("{host} stopped taking {what}")]
    NotTaken {
        /// Which server.
        host: String,
        /// What was being sent.
        what: String,
    },
    /// A push without the right to it. The words are Docker's.
    #[error("denied: {}", if message.is_empty() { "requested access to the resource is denied" } else { message })]
    PushDenied {
        /// The registry.
        host: String,
        /// The registry's words, escaped; may be empty.
        message: String,
    },
    /// A user name and password that the registry doesn't take. The words are Docker's.
    #[error("login attempt to {url} failed with status: {status}")]
    LoginRefused {
        /// What was asked for.
        url: String,
        /// Code and meaning.
        status: String,
    },
    /// A user name and password that the registry's token server doesn't take. The words are Docker's.
    #[error("Get \"{url}\": unauthorized: {message}")]
    LoginDenied {
        /// What was asked for.
        url: String,
        /// The server's words, escaped.
        message: String,
    },
    /// A proxy of the environment that can't be asked.
    #[error(
        "the proxy in {variable} is of the kind {scheme}, which is not supported: http and https are"
    )]
    Proxy {
        /// What named it.
        variable: &'static str,
        /// Its address's, escaped.
        scheme: String,
    },
    /// An address that is none, or of another protocol.
    #[error("{} is no address of HTTP", .0)]
    Address(String),
    /// An address with user info (RFC 3986 section 3.2.1), which is not repeated.
    #[error("an address with a user name or a password in it is not supported")]
    AddressLogin,
    /// An address that a Dockerfile may not have this host ask.
    #[error("{0} is out of a build's reach: this host's loopback and link-local addresses are")]
    OutOfReach(String),
    /// A file that did not come whole.
    #[error("download {address}")]
    Download {
        /// Escaped.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An address that leads to nothing. The words are Docker's.
    #[error("failed to GET {address} with status {status}")]
    Fetch {
        /// As typed, escaped.
        address: String,
        /// Code and meaning.
        status: String,
    },
    /// A reply to an upload that has no place in the protocol.
    #[error("{host} answered the upload of {what} with {answer}")]
    UploadReply {
        /// Which server.
        host: String,
        /// What was sent.
        what: String,
        /// What is wrong with the answer.
        answer: &'static str,
    },
    /// The registry stored something under another digest than what it was sent has.
    #[error("{host} stored {what} as {actual} where {expected} was sent")]
    StoredDigest {
        /// Which server.
        host: String,
        /// What was sent.
        what: String,
        /// Of what was sent.
        expected: Digest,
        /// The registry's answer, escaped.
        actual: String,
    },
    /// A body that ended early.
    #[error("{host} sent {got} of the {expected} bytes of {what} and closed the connection")]
    Short {
        /// Which server.
        host: String,
        /// What was being read.
        what: String,
        /// Bytes that came in all.
        got: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// Nothing, or next to nothing, came for too long.
    #[error("{host} stopped sending {what}")]
    Stalled {
        /// Which server.
        host: String,
        /// What was being read.
        what: String,
    },
    /// A reply above its limit.
    #[error("{host} sent more than {limit} bytes of {what}")]
    TooLarge {
        /// Which server.
        host: String,
        /// What was being read.
        what: String,
        /// Bytes it may have.
        limit: u64,
    },
    /// The server's certificate is not trusted, or not for this host.
    #[error("the certificate of {host} is not trusted")]
    Certificate {
        /// Which server.
        host: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A redirect or token address that isn't followed.
    #[error("{host} sent us to {target}, which is not allowed: {reason}")]
    Forbidden {
        /// Which server.
        host: String,
        /// Where to, escaped.
        target: String,
        /// Why not.
        reason: Astray,
    },
    /// An address of a Dockerfile's whose server sends on to one that isn't followed.
    #[error("{address} leads to {target}, which is not followed: {reason}")]
    LedAstray {
        /// As typed, escaped.
        address: String,
        /// Where to, escaped.
        target: String,
        /// Why not.
        reason: Astray,
    },
    /// A login request that can't be read, or a method of login that isn't known.
    #[error("{host} asks for a login in a way that is not supported: {challenge}")]
    Challenge {
        /// The registry.
        host: String,
        /// Its header, escaped.
        challenge: String,
    },
    /// A token reply that can't be used.
    #[error("cannot read the token that {host} sent")]
    Token {
        /// The token server.
        host: String,
        /// Why.
        #[source]
        source: JsonError,
    },
    /// Docker's config.json or a credential helper failed.
    #[error("cannot get the login for {host}")]
    Credentials {
        /// The registry.
        host: String,
        /// Why.
        #[source]
        source: super::credentials::CredentialsError,
    },
    /// A file of CA certificates that can't be used.
    #[error("cannot use the CA certificates in {}", path.display())]
    Ca {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate of who we are that can't be used.
    #[error("cannot use the client certificate {}", path.display())]
    ClientCertificate {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The HTTP client or its runtime could not be set up.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] Cause),
    /// Content that differs from its digest.
    #[error("digest mismatch for {what}: got {actual} where {expected} was expected")]
    DigestMismatch {
        /// Which document.
        what: String,
        /// As asked for or listed.
        expected: Digest,
        /// Of the bytes that came.
        actual: Digest,
    },
    /// A document of another length than listed.
    #[error("size mismatch for {what}: got {actual} bytes where {expected} were expected")]
    SizeMismatch {
        /// Which document.
        what: String,
        /// As listed.
        expected: u64,
        /// That came.
        actual: u64,
    },
    /// Indexes inside indexes, too deep.
    #[error(
        "the image index leads to further indexes more than {} times",
        crate::limits::INDEX_DEPTH
    )]
    IndexDepth,
    /// Another layer failed first, so this one was stopped. Never what a user sees.
    #[error("stopped, since another layer failed")]
    Stopped,
    /// A manifest that can't be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A config that can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn said(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

impl RegistryError {
    /// What the user can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Denied { host, .. } => {
                format!("check the name; if it is private, log in with: bulkhead login {host}")
            }
            Self::ManifestUnknown { .. } => "check the tag; without one it is latest".to_owned(),
            Self::Unauthorized {
                host,
                with_credentials: false,
                ..
            } => {
                format!("log in with: bulkhead login {host}")
            }
            Self::Unauthorized { host, .. } => {
                format!(
                    "check the user name and password in Docker's config.json, or log in again: bulkhead login {host}"
                )
            }
            Self::TooManyRequests { .. } => "wait, or log in for a higher limit".to_owned(),
            Self::Status { status: 500.., .. } => {
                "the registry has a problem; try again later".to_owned()
            }
            Self::Unreachable { .. } => {
                "check the registry's name and port, the network, and whether the registry runs"
                    .to_owned()
            }
            Self::Broken { .. } | Self::Short { .. } | Self::Stalled { .. } => {
                "try again: what was downloaded so far is kept".to_owned()
            }
            Self::SendBroken { .. } | Self::NotTaken { .. } => {
                "try again: layers that the registry has are not sent twice".to_owned()
            }
            Self::PushDenied { host, .. } => {
                format!("check the name; to push under it, log in with: bulkhead login {host}")
            }
            Self::Certificate { host, .. } => format!(
                "put the CA's certificate in /etc/docker/certs.d/{host}/ca.crt or ~/.docker/certs.d/{host}/ca.crt"
            ),
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => {
                "the content was changed on its way or in the registry; try again".to_owned()
            }
            Self::Credentials { source, .. } => return source.hint(),
            Self::Manifest(error) => return error.hint(),
            Self::Config(error) => return error.hint(),
            Self::Store(error) => return error.hint(),
            _ => return None,
        };
        Some(text)
    }

    /// How long the registry asked us to wait.
    pub(super) fn retry_after(&self) -> Duration {
        match self {
            Self::TooManyRequests {
                retry_after: Some(pause),
                ..
            } => *pause,
            _ => Duration::ZERO,
        }
    }

    /// Whether the same request may well succeed a little later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Short { .. }
            | Self::Stalled { .. }
            | Self::SendBroken { .. }
            | Self::NotTaken { .. }
            | Self::UploadReply { .. } => true,
            Self::TooManyRequests { retry_after, .. } => {
                retry_after.is_some_and(|pause| pause <= RETRY_AFTER_MAX)
            }
            // Those above 511 are of networks of caches, whose registry is away or slow just now; 507 is of
            // storage that is full, which somebody empties.
            Self::Status { status, .. } => {
                matches!(status, 408 | 500 | 502..=504 | 507 | 520..=526 | 530)
            }
            _ => false,
        }
    }
}
