//! A file from an address: one that the user typed, for `import`, and one that a Dockerfile names, for
//! `ADD`.
//!
//! Called by the command. It is a plain download with the rules of `http`: redirects within bounds and to
//! nowhere more private than the address itself, a time limit on silence, the same certificates. No login
//! is sent, and an address with one in it is refused. What a Dockerfile names is a stranger's wish, and is asked for on this host: it may be where a
//! container gets to, so neither on this machine's loopback nor on a link-local address.

use std::fs::File;
use std::io::{self, Read};

use reqwest::Url;
use reqwest::header::LAST_MODIFIED;

use super::RegistryOptions;
use super::error::{Astray, RegistryError};
use super::http::{Http, Reply, Request};
use super::tls::{self, Authorities};
use crate::digest::Digest;
use crate::escape::printable;
use crate::limits::LAYER_BYTES;
use crate::store::{Store, StoreError};

/// Gets `address` and lets `take` read what comes.
///
/// # Errors
/// The address is none, or its server doesn't give what it leads to. A failure on the way is an error of
/// the reader.
pub fn fetch<T>(
    address: &str,
    options: &RegistryOptions,
    take: impl FnOnce(&mut dyn Read) -> T,
) -> Result<T, RegistryError> {
    let (url, host) = parse(address)?;
    let mut base = url.clone();
    base.set_path("/");
    base.set_query(None);
    let tls = tls::config(&authorities(options), &host)?;
    let http = Http::new(base, tls, options.patience)?;
    let reply = get(&http, url, address)?;
    Ok(take(&mut Body::new(reply)))
}

/// A file that a Dockerfile named.
#[derive(Debug)]
pub struct Download {
    /// Its content, from the beginning; it goes when it is closed.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
    /// Of its content.
    pub digest: Digest,
    /// When it was changed, as the server says it (RFC 9110 section 5.6.7), if it does.
    pub modified: Option<String>,
}

/// Gets the file at an address that a Dockerfile names; it is kept on the store's disk meanwhile.
///
/// # Errors
/// The address is none or out of a build's reach, its server doesn't give what it leads to, there is more
/// of it than [`LAYER_BYTES`], or no room for it.
pub fn download(
    store: &Store,
    address: &str,
    options: &RegistryOptions,
) -> Result<Download, RegistryError> {
    let (url, host) = parse(address)?;
    let tls = tls::config(&authorities(options), &host)?;
    let http = Http::of_strangers(url.scheme(), tls, options.patience)?;
    http.check_target(&url)
        .and_then(|()| get(&http, url, address))
        .and_then(|reply| keep(store, reply, address))
        .map_err(|error| of_stranger(error, address))
}

/// What is said of an address that leads astray: there is no registry that did.
fn of_stranger(error: RegistryError, address: &str) -> RegistryError {
    match error {
        RegistryError::Forbidden {
            target,
            reason: Astray::Reach,
            ..
        } => RegistryError::OutOfReach(target),
        RegistryError::Forbidden { target, reason, .. } => RegistryError::LedAstray {
            address: printable(address),
            target,
            reason,
        },
        error => error,
    }
}

fn keep(store: &Store, reply: Reply<'_>, address: &str) -> Result<Download, RegistryError> {
    let modified = reply.headers().get(LAST_MODIFIED);
    let modified = modified.and_then(|text| text.to_str().ok());
    let modified = modified.map(str::to_owned);
    let mut spool = store.spool()?;
    let kept = spool.copy(&mut Body::new(reply), LAYER_BYTES);
    let kept = kept.map_err(|error| match error {
        StoreError::Read(source) => RegistryError::Download {
            address: printable(address),
            source,
        },
        error => error.into(),
    })?;
    Ok(Download {
        // Its name goes with the spool.
        file: kept.open()?,
        size: kept.size,
        digest: kept.digest,
        modified,
    })
}

fn parse(address: &str) -> Result<(Url, String), RegistryError> {
    // What is before it may be a password.
    let shown = address.rsplit_once('@').map_or(address, |(_, rest)| rest);
    let invalid = || RegistryError::Address(printable(shown));
    let url = Url::parse(address).map_err(|_| invalid())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(RegistryError::AddressLogin);
    }
    let host = url.host_str().ok_or_else(invalid)?.to_owned();
    match url.scheme() {
        "http" | "https" => Ok((url, host)),
        _ => Err(invalid()),
    }
}

fn authorities(options: &RegistryOptions) -> Authorities<'_> {
    Authorities {
        files: &options.ca_files,
        directories: &options.certs_dirs,
    }
}

fn get<'a>(http: &'a Http, url: Url, address: &str) -> Result<Reply<'a>, RegistryError> {
    let reply = http.send(Request::get("the file", url))?;
    match reply.status() {
        200 => Ok(reply),
        _ => Err(RegistryError::Fetch {
            address: printable(address),
            status: reply.status_text(),
        }),
    }
}

/// The body of a reply.
struct Body<'a> {
    reply: Reply<'a>,
    piece: Vec<u8>,
    /// What was given of it.
    at: usize,
}

impl<'a> Body<'a> {
    fn new(reply: Reply<'a>) -> Self {
        Self {
            reply,
            piece: Vec::new(),
            at: 0,
        }
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.piece.len() {
            match self.reply.chunk().map_err(io::Error::other)? {
                Some(piece) => self.piece = piece.as_ref().to_vec(),
                None => return Ok(0),
            }
            self.at = 0;
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.at = self.at.saturating_add(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Patience, one_reply};
    use super::*;

    /// What a server's reply becomes, from a server that `download` itself would not ask.
    fn kept(store: &Store, reply: &'static [u8]) -> Result<Download, RegistryError> {
        let (place, server) = one_reply::start(reply);
        let address = format!("http://{place}/x");
        let (url, host) = parse(&address).unwrap();
        let options = RegistryOptions::default();
        let tls = tls::config(&authorities(&options), &host).unwrap();
        let http = Http::new(url.clone(), tls, options.patience).unwrap();
        let kept = keep(store, get(&http, url, &address).unwrap(), &address);
        server.join().unwrap();
        kept
    }

    #[test]
    fn a_download_is_kept_on_the_stores_disk_and_leaves_nothing_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let ingest = || {
            std::fs::read_dir(dir.path().join("ingest"))
                .unwrap()
                .count()
        };
        let mut whole = kept(
            &store,
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nConnection: close\r\n\r\nfour",
        )
        .unwrap();
        let mut content = String::new();
        whole.file.read_to_string(&mut content).unwrap();
        assert_eq!((content.as_str(), whole.size), ("four", 4));
        assert_eq!(whole.digest, Digest::of(b"four"));
        let modified = whole.modified.as_deref();
        assert_eq!(modified, Some("Mon, 01 Jan 2024 00:00:00 GMT"));
        assert_eq!(ingest(), 0);
        let cut = kept(
            &store,
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfour",
        );
        let error = cut.unwrap_err();
        assert!(matches!(error, RegistryError::Download { .. }), "{error}");
        assert_eq!(ingest(), 0);
    }

    #[test]
    fn only_what_is_out_of_reach_is_said_to_be() {
        let address = "https://example.org/x";
        let told = |target: &str| {
            let tls = tls::config(&Authorities::default(), "example.org").unwrap();
            let http = Http::of_strangers("https", tls, Patience::default()).unwrap();
            let error = http.check_target(&Url::parse(target).unwrap()).unwrap_err();
            of_stranger(error, address).to_string()
        };
        for (target, sentence) in [
            (
                "https://127.0.0.1/",
                "https://127.0.0.1/ is out of a build's reach: this host's loopback and link-local addresses are",
            ),
            (
                "ftp://example.org/",
                "https://example.org/x leads to ftp://example.org/, which is not followed: it is neither HTTP nor HTTPS",
            ),
            (
                "https://me@example.org/",
                "https://example.org/x leads to https://me@example.org/, which is not followed: it has a user name in it",
            ),
        ] {
            assert_eq!(told(target), sentence);
        }
    }

    #[test]
    fn an_address_with_a_login_is_refused_and_its_password_told_to_nobody() {
        for address in [
            "https://me:secret@example.org/x",
            "http://me@example.org/x",
            "https://:secret@example.org/x",
            "ftp://me:secret@example.org/x",
            "https:me:secret@example.org",
        ] {
            let error = parse(address).unwrap_err();
            assert!(
                matches!(error, RegistryError::AddressLogin),
                "{address}: {error}"
            );
        }
        for address in ["https://me:secret@example.org:x/", "https://me:secret@"] {
            let error = parse(address).unwrap_err();
            assert!(
                matches!(error, RegistryError::Address(_)),
                "{address}: {error}"
            );
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(parse("https://example.org/@me:x").is_ok());
    }
}
