//! An archive from an address that the user typed, for `import`.
//!
//! Called by the command. It is a plain download with the rules of `http`: redirects within bounds and to
//! nowhere more private than the address itself, a time limit on silence, the same certificates. No login
//! is sent, and nothing is kept here.

use std::io::{self, Read};

use reqwest::Url;

use super::RegistryOptions;
use super::error::RegistryError;
use super::http::{Http, Reply, Request};
use super::tls::{self, Authorities};
use crate::escape::printable;

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
    let invalid = || RegistryError::Address(printable(address));
    let url = Url::parse(address).map_err(|_| invalid())?;
    let host = url.host_str().ok_or_else(invalid)?.to_owned();
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid());
    }
    let mut base = url.clone();
    base.set_path("/");
    base.set_query(None);
    let authorities = Authorities {
        files: &options.ca_files,
        directories: &options.certs_dirs,
    };
    let http = Http::new(base, tls::config(&authorities, &host)?, options.patience)?;
    let reply = http.send(Request::get("the archive", url))?;
    if reply.status() != 200 {
        return Err(RegistryError::Fetch {
            address: printable(address),
            status: reply.status_text(),
        });
    }
    Ok(take(&mut Download {
        reply,
        piece: Vec::new(),
        at: 0,
    }))
}

/// The body of a reply.
struct Download<'a> {
    reply: Reply<'a>,
    piece: Vec<u8>,
    /// What was given of it.
    at: usize,
}

impl Read for Download<'_> {
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
