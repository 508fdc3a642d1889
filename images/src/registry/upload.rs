//! Sending one blob: asked for, mounted, or uploaded, and resumed where a connection broke.
//!
//! Used by `push`. It sends opaque bytes of a file under a digest that the caller is sure of, and has no
//! say in what they are (distribution spec 1.1, "Pushing blobs").
//!
//! ```text
//! HEAD blob ── there ──────────────────────────────────────────> Exists
//!  └ POST uploads/?mount=&from= ── 201 ────────────────────────> Mounted
//!     └ 202, Location ─ PATCH bytes from-to ┬ 202, Range ─┬─ PUT ?digest= ─ 201 ─> Sent
//!          ▲     ▲                          ├ 404,405,501 ── one PUT with all of it
//!          │     └── GET Location: Range <──┴ broken, 416, 5xx (a pause before)
//!          └──────── gone, or what was resumed has another digest
//! ```
//!
//! The Location may be on another server: `http` checks where, and no login goes there. Ranges are the
//! registry's word: one that can't be right makes the upload begin anew, a bounded number of times.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::header::{HeaderName, LOCATION, RANGE};
use reqwest::{Method, Url};

use super::content::{Content, Part};
use super::error::RegistryError;
use super::http::{Reply, Request};
use super::session::{Pauses, Session};
use crate::digest::Digest;
use crate::escape::printable;
use crate::limits::{CHUNK_BYTES, COMMIT_TIMEOUT, PROGRESS_BYTES, RESUMES, WHOLE_UPLOAD_BYTES};
use crate::manifest::BlobRef;

/// Where a registry says what it stored.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Told of bytes that were sent of the blob, and whether that is after a failure.
pub(super) type Tell<'a> = dyn Fn(u64, bool) + Sync + 'a;

/// One blob on its way to a repository.
pub(super) struct Upload<'a> {
    pub(super) session: &'a Session<'a>,
    /// The repository's path.
    pub(super) repository: &'a str,
    /// For messages.
    pub(super) what: &'a str,
    pub(super) blob: BlobRef,
    pub(super) stop: &'a AtomicBool,
    pub(super) tell: &'a Tell<'a>,
}

/// What a request to begin an upload brought.
pub(super) enum Begun {
    /// The blob was taken over from the other repository.
    Mounted,
    /// Bytes are to be sent there.
    At(Url),
}

/// How far an upload is, as far as we know.
struct Progress {
    /// Where it goes on; `None` before it begins.
    location: Option<Url>,
    /// Bytes that the registry has.
    offset: u64,
    /// Whether the registry has to be asked how many that are.
    is_unsure: bool,
    /// Whether some were sent over an earlier connection, so that a wrong digest may be that one's fault.
    is_resumed: bool,
    /// Whether all bytes go with one PUT.
    in_one: bool,
    /// Bytes to send at once.
    chunk: u64,
}

/// What a step of an upload came to.
enum Step {
    Done,
    Further,
    /// It has to begin anew, for this reason.
    Anew(RegistryError),
}

impl Upload<'_> {
    /// Whether the repository has the blob.
    pub(super) fn exists(&self) -> Result<bool, RegistryError> {
        self.session.with_retries(|| self.exists_once())
    }

    fn exists_once(&self) -> Result<bool, RegistryError> {
        let url = self.url(&format!("blobs/{}", self.blob.digest));
        let reply = self
            .session
            .ask(Request::new(self.what, Method::HEAD, url))?;
        match reply.status() {
            // One that says it has something else under this digest doesn't have it.
            200 => Ok(stored_digest(&reply).is_none_or(|stored| stored == self.blob.digest)),
            404 | 405 => Ok(false),
            // Storage that it sent us to may take reads only.
            _ if !reply.is_own => Ok(false),
            _ => Err(self.session.refusal(self.what, reply, None)),
        }
    }

    /// Asks once for an upload, or for the blob of another repository, if that may be there.
    pub(super) fn begin(&self, mount: Option<&str>) -> Result<Begun, RegistryError> {
        let mut url = self.url("blobs/uploads/");
        if let Some(from) = mount {
            url.query_pairs_mut()
                .append_pair("mount", &self.blob.digest.to_string())
                .append_pair("from", from);
        }
        let reply = self
            .session
            .ask(Request::new(self.what, Method::POST, url))?;
        match reply.status() {
            201 if mount.is_some() => {
                self.check_stored(&reply)?;
                Ok(Begun::Mounted)
            }
            202 => match self.location(&reply)? {
                Some(location) => Ok(Begun::At(location)),
                None => Err(self.bad_reply(&reply, "no location")),
            },
            _ => Err(self.session.refusal(self.what, reply, None)),
        }
    }

    /// Sends the blob's bytes to `location`, where that is open, or to another one where it has to begin
    /// anew.
    pub(super) fn send(
        &self,
        location: Option<Url>,
        file: &Arc<File>,
    ) -> Result<(), RegistryError> {
        let mut progress = Progress {
            location,
            offset: 0,
            is_unsure: false,
            is_resumed: false,
            in_one: self.blob.size <= WHOLE_UPLOAD_BYTES,
            chunk: u64::MAX,
        };
        let mut pauses = Pauses::new(self.session.patience());
        let mut resumes = 0;
        // The farthest that it was when a connection broke: what is sent once more is no progress.
        let mut before = 0;
        loop {
            let error = match self.step(&mut progress, file) {
                Ok(Step::Done) => return Ok(()),
                Ok(Step::Further) => continue,
                Ok(Step::Anew(error)) => {
                    self.cancel(&mut progress);
                    error
                }
                Err(error) if self.session.may_retry(&error) => {
                    progress.is_unsure = progress.location.is_some();
                    error
                }
                Err(error) => {
                    self.cancel(&mut progress);
                    return Err(error);
                }
            };
            if progress.offset.saturating_sub(before) >= PROGRESS_BYTES && resumes < RESUMES {
                resumes += 1;
                before = progress.offset;
                pauses.reset();
            }
            (self.tell)(progress.offset, true);
            if !pauses.wait(error.retry_after(), self.stop) {
                self.cancel(&mut progress);
                return Err(error);
            }
        }
    }

    /// One request of an upload, and what its reply says.
    fn step(&self, progress: &mut Progress, file: &Arc<File>) -> Result<Step, RegistryError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(RegistryError::Stopped);
        }
        if progress.is_unsure {
            return self.recover(progress);
        }
        let Some(location) = progress.location.clone() else {
            progress.offset = 0;
            progress.is_resumed = false;
            return Ok(match self.begin(None)? {
                Begun::Mounted => Step::Done,
                Begun::At(location) => {
                    progress.location = Some(location);
                    Step::Further
                }
            });
        };
        if progress.in_one || progress.offset == self.blob.size {
            self.finish(progress, location, file)
        } else {
            self.send_chunk(progress, location, file)
        }
    }

    fn send_chunk(
        &self,
        progress: &mut Progress,
        location: Url,
        file: &Arc<File>,
    ) -> Result<Step, RegistryError> {
        let from = progress.offset;
        let to = self.blob.size.min(from.saturating_add(progress.chunk));
        let watch = |sent| self.watch(from, sent);
        let part = Part {
            file: Arc::clone(file),
            from,
            to,
            watch: &watch,
        };
        let reply = self.session.ask(Request {
            content: Content::Part(part),
            content_range: Some((from, to)),
            ..Request::new(self.what, Method::PATCH, location)
        })?;
        let anew = |reply: &Reply<'_>, answer| Ok(Step::Anew(self.bad_reply(reply, answer)));
        match reply.status() {
            // The spec has 202; Amazon's registry says 201, and docker takes each of these.
            200..=202 | 204 => {
                if let Some(next) = self.location(&reply)? {
                    progress.location = Some(next);
                }
                progress.offset = match range_end(&reply) {
                    // Some say nothing, and of nothing it is said that it goes from 0 to 0.
                    None => to,
                    // With a few bytes a time it could take any number of requests.
                    Some(last) => match last.checked_add(1) {
                        Some(next) if next == to => next,
                        Some(next) if next < to && next.saturating_sub(from) >= PROGRESS_BYTES => {
                            next
                        }
                        Some(next) if next > from && next < to => {
                            return anew(&reply, "a range that hardly grew");
                        }
                        _ => return anew(&reply, "a range of bytes that were not sent"),
                    },
                };
                Ok(Step::Further)
            }
            404 | 405 | 501 if from == 0 && !progress.in_one => {
                // It may not know chunks at all.
                self.cancel(progress);
                progress.in_one = true;
                Ok(Step::Further)
            }
            404 => anew(&reply, "that it is unknown"),
            413 if progress.chunk > CHUNK_BYTES => {
                progress.chunk = CHUNK_BYTES;
                progress.is_unsure = true;
                Ok(Step::Further)
            }
            // It has other bytes than we thought.
            416 => Err(self.bad_reply(&reply, "that bytes are missing")),
            _ => Err(self.session.refusal(self.what, reply, None)),
        }
    }

    /// The last request: names the digest, with all of the bytes where they go with one.
    fn finish(
        &self,
        progress: &mut Progress,
        mut location: Url,
        file: &Arc<File>,
    ) -> Result<Step, RegistryError> {
        location
            .query_pairs_mut()
            .append_pair("digest", &self.blob.digest.to_string());
        let watch = |sent| self.watch(0, sent);
        let content = match progress.in_one && self.blob.size > 0 {
            true => Content::Part(Part {
                file: Arc::clone(file),
                from: 0,
                to: self.blob.size,
                watch: &watch,
            }),
            false => Content::Nothing,
        };
        let reply = self.session.ask(Request {
            content,
            patience: Some(COMMIT_TIMEOUT),
            ..Request::new(self.what, Method::PUT, location)
        })?;
        match reply.status() {
            200..=202 | 204 => {
                self.check_stored(&reply)?;
                Ok(Step::Done)
            }
            400 | 404 | 416 if progress.is_resumed => Ok(Step::Anew(self.bad_reply(
                &reply,
                "that what was sent in parts is not what it should be",
            ))),
            404 | 416 => Ok(Step::Anew(self.bad_reply(&reply, "that it is unknown"))),
            _ => Err(self.session.refusal(self.what, reply, None)),
        }
    }

    /// Asks how much of an upload arrived, after a connection that broke.
    fn recover(&self, progress: &mut Progress) -> Result<Step, RegistryError> {
        // The last request may have been done and its reply lost.
        if (progress.in_one || progress.offset == self.blob.size) && self.exists_once()? {
            return Ok(Step::Done);
        }
        progress.is_unsure = false;
        if progress.in_one {
            self.cancel(progress);
            return Ok(Step::Further);
        }
        let Some(location) = progress.location.clone() else {
            return Ok(Step::Further);
        };
        let asked = self.session.ask(Request::get(self.what, location));
        let reply = asked.inspect_err(|_| progress.is_unsure = true)?;
        match (reply.status(), range_end(&reply)) {
            // `0-0` is what some say of one byte and of none.
            (200 | 202 | 204, Some(last)) if last > 0 && last < self.blob.size => {
                if let Some(next) = self.location(&reply)? {
                    progress.location = Some(next);
                }
                progress.offset = last.saturating_add(1);
                progress.is_resumed = true;
            }
            _ => self.cancel(progress),
        }
        Ok(Step::Further)
    }

    fn cancel(&self, progress: &mut Progress) {
        if let Some(location) = progress.location.take() {
            self.forget(location);
        }
        progress.is_unsure = false;
    }

    /// Tells the registry to forget what it has of an upload. It would by itself after some days, and
    /// that it can't be told changes nothing.
    pub(super) fn forget(&self, location: Url) {
        let _ = self
            .session
            .ask(Request::new(self.what, Method::DELETE, location));
    }

    fn watch(&self, from: u64, sent: u64) -> bool {
        (self.tell)(from.saturating_add(sent), false);
        !self.stop.load(Ordering::Relaxed)
    }

    fn url(&self, below: &str) -> Url {
        self.session.url(&format!("v2/{}/{below}", self.repository))
    }

    fn location(&self, reply: &Reply<'_>) -> Result<Option<Url>, RegistryError> {
        reply
            .headers()
            .get(LOCATION)
            .map(|location| self.session.location(&reply.url, location))
            .transpose()
    }

    /// What the registry says it stored has to be what was sent.
    fn check_stored(&self, reply: &Reply<'_>) -> Result<(), RegistryError> {
        check_stored(reply, self.what, &self.blob.digest)
    }

    fn bad_reply(&self, reply: &Reply<'_>, answer: &'static str) -> RegistryError {
        RegistryError::UploadReply {
            host: reply.host().to_owned(),
            what: self.what.to_owned(),
            answer,
        }
    }
}

/// What a registry says it stored has to be `expected`; that it says nothing is fine, as the
/// distribution spec doesn't ask for it.
pub(super) fn check_stored(
    reply: &Reply<'_>,
    what: &str,
    expected: &Digest,
) -> Result<(), RegistryError> {
    let Some(header) = reply.headers().get(CONTENT_DIGEST) else {
        return Ok(());
    };
    if stored_digest(reply).as_ref() == Some(expected) {
        return Ok(());
    }
    Err(RegistryError::StoredDigest {
        host: reply.host().to_owned(),
        what: what.to_owned(),
        expected: *expected,
        actual: printable(&String::from_utf8_lossy(header.as_bytes())),
    })
}

fn stored_digest(reply: &Reply<'_>) -> Option<Digest> {
    let header = reply.headers().get(CONTENT_DIGEST)?.to_str().ok()?;
    Digest::parse(header).ok()
}

fn range_end(reply: &Reply<'_>) -> Option<u64> {
    let range = reply.headers().get(RANGE)?.to_str().ok()?;
    parse_upload_range(range)
}

/// Last byte of `0-last`, how registries say what they have of an upload; `bytes=` before it is what some
/// add.
pub(super) fn parse_upload_range(value: &str) -> Option<u64> {
    let value = value.strip_prefix("bytes=").unwrap_or(value);
    let last = value.strip_prefix("0-")?;
    let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| last.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upload_ranges() {
        assert_eq!(parse_upload_range("0-9"), Some(9));
        assert_eq!(parse_upload_range("bytes=0-9"), Some(9));
        for text in [
            "",
            "0",
            "0-",
            "1-9",
            "0-+9",
            "0-9/10",
            "0--1",
            "0-99999999999999999999",
        ] {
            assert_eq!(parse_upload_range(text), None, "{text}");
        }
    }
}
