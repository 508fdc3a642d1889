//! A file from an address: one that the user typed, for `import`, and one that a Dockerfile names, for
//! `ADD`.
//!
//! Called by the command. It is a plain download with the rules of `http`: redirects within bounds and to
//! nowhere more private than the address itself, a time limit on silence, the same certificates. No login
//! is sent. What a Dockerfile names is a stranger's wish, and is asked for on this host: it may be where a
//! container gets to, so neither on this machine's loopback nor on a link-local address.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use reqwest::Url;
use reqwest::header::LAST_MODIFIED;
use sha2::{Digest as _, Sha256};

use super::RegistryOptions;
use super::error::RegistryError;
use super::http::{Http, Reply, Request};
use super::tls::{self, Authorities};
use crate::digest::Digest;
use crate::escape::printable;
use crate::limits::LAYER_BYTES;

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

/// Gets the file at an address that a Dockerfile names.
///
/// # Errors
/// The address is none or out of a build's reach, its server doesn't give what it leads to, or there is
/// more of it than [`LAYER_BYTES`].
pub fn download(address: &str, options: &RegistryOptions) -> Result<Download, RegistryError> {
    let (url, host) = parse(address)?;
    let tls = tls::config(&authorities(options), &host)?;
    let http = Http::of_strangers(url.scheme(), tls, options.patience)?;
    http.check_target(&url)
        .and_then(|()| get(&http, url, address))
        .and_then(|reply| keep(reply, address))
        .map_err(|error| match error {
            RegistryError::Forbidden { target, .. } => RegistryError::OutOfReach(target),
            error => error,
        })
}

fn keep(reply: Reply<'_>, address: &str) -> Result<Download, RegistryError> {
    let failed = |source| RegistryError::Download {
        address: printable(address),
        source,
    };
    let modified = reply.headers().get(LAST_MODIFIED);
    let modified = modified.and_then(|text| text.to_str().ok());
    let modified = modified.map(str::to_owned);
    let mut file = tempfile::tempfile().map_err(failed)?;
    let mut body = Body::new(reply).take(LAYER_BYTES.saturating_add(1));
    let mut hash = Sha256::new();
    let mut size = 0_u64;
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let len = body.read(&mut buffer).map_err(failed)?;
        let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        file.write_all(bytes).map_err(failed)?;
        hash.update(bytes);
        size = size.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
    }
    if size > LAYER_BYTES {
        return Err(failed(io::Error::other(format!(
            "it has more than {LAYER_BYTES} bytes"
        ))));
    }
    file.rewind().map_err(failed)?;
    Ok(Download {
        file,
        size,
        digest: Digest::finish(hash),
        modified,
    })
}

fn parse(address: &str) -> Result<(Url, String), RegistryError> {
    let invalid = || RegistryError::Address(printable(address));
    let url = Url::parse(address).map_err(|_| invalid())?;
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

/// Bytes that are kept at once.
const BUFFER_LEN: usize = 128 << 10;

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
