//! Downloading layers: several at once, each resumed where a connection or an earlier pull left it.
//!
//! Used by `pull`. Bytes go from the socket to the store's `BlobWriter`, which hashes them and takes no
//! more than the manifest lists; nothing here looks at them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::CONTENT_RANGE;

use super::error::RegistryError;
use super::http::Reply;
use super::session::{Pauses, Session, Wanted};
use super::{LayerProgress, LayerState, Progress};
use crate::digest::Digest;
use crate::limits::{INGEST_WAIT, LOCK_POLL, PARALLEL_DOWNLOADS, PROGRESS_BYTES, RESUMES};
use crate::manifest::BlobRef;
use crate::store::{Begin, BlobWriter, Store, StoreError};

/// Downloads what the store lacks of `layers`. The first failure stops the others; what they brought so
/// far stays, for the next pull.
pub(super) fn layers(
    session: &Session<'_>,
    store: &Store,
    layers: &[BlobRef],
    progress: &Progress<'_>,
) -> Result<(), RegistryError> {
    let queue = Mutex::new(layers.iter().copied().collect::<VecDeque<_>>());
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let download = || {
        while let Some(blob) = next(&queue).filter(|_| !stop.load(Ordering::Relaxed)) {
            let layer = Layer {
                session,
                store,
                blob,
                progress,
                stop: &stop,
            };
            if let Err(error) = layer.download() {
                stop.store(true, Ordering::Relaxed);
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                if failure.is_none() || matches!(*failure, Some(RegistryError::Stopped)) {
                    *failure = Some(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        // Fewer at once where the host has no further thread; the first is this one.
        for _ in 1..PARALLEL_DOWNLOADS.min(layers.len()) {
            let _ = std::thread::Builder::new().spawn_scoped(scope, download);
        }
        download();
    });
    failure
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .map_or(Ok(()), Err)
}

fn next(queue: &Mutex<VecDeque<BlobRef>>) -> Option<BlobRef> {
    queue
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop_front()
}

struct Layer<'a> {
    session: &'a Session<'a>,
    store: &'a Store,
    blob: BlobRef,
    progress: &'a Progress<'a>,
    stop: &'a AtomicBool,
}

impl Layer<'_> {
    fn download(&self) -> Result<(), RegistryError> {
        let Some(mut writer) = self.writer()? else {
            self.tell(self.blob.size, LayerState::Exists);
            return Ok(());
        };
        loop {
            self.fill(&mut writer)?;
            self.tell(self.blob.size, LayerState::Verifying);
            // What an earlier pull left can be wrong after a power failure: that is worth a fresh start.
            let is_resumed = writer.is_resumed();
            match writer.commit() {
                Ok(()) => break,
                Err(StoreError::DigestMismatch { .. }) if is_resumed => {}
                Err(StoreError::DigestMismatch { expected, actual }) => {
                    return Err(RegistryError::DigestMismatch {
                        what: self.what(),
                        expected,
                        actual,
                    });
                }
                Err(error) => return Err(error.into()),
            }
            match self.writer()? {
                Some(again) => writer = again,
                None => break,
            }
        }
        self.tell(self.blob.size, LayerState::Done);
        Ok(())
    }

    /// The right to write the layer, or `None` where it is there, perhaps by another process meanwhile.
    fn writer(&self) -> Result<Option<Box<BlobWriter>>, RegistryError> {
        let started = Instant::now();
        loop {
            match self.store.begin(&self.blob.digest, self.blob.size)? {
                Begin::Present => return Ok(None),
                Begin::Writer(writer) => return Ok(Some(writer)),
                Begin::Busy if started.elapsed() > INGEST_WAIT => {
                    return Err(StoreError::Busy(self.blob.digest).into());
                }
                Begin::Busy => {
                    self.check_stop()?;
                    self.tell(0, LayerState::Waiting);
                    std::thread::sleep(LOCK_POLL);
                }
            }
        }
    }

    /// Downloads until every byte is there, through as many connections as it takes within bounds.
    fn fill(&self, writer: &mut BlobWriter) -> Result<(), RegistryError> {
        let mut pauses = Pauses::new(self.session.patience());
        let mut resumes = 0;
        let mut restarted = false;
        while writer.offset() < self.blob.size {
            let before = writer.offset();
            let from = if restarted { 0 } else { before };
            match self.try_once(writer, from) {
                Ok(Attempt::Whole) => {}
                // The server can't go on from here: from now on, everything or nothing.
                Ok(Attempt::BadRange) => {
                    writer.restart()?;
                    restarted = true;
                    if !pauses.wait(Duration::ZERO, self.stop) {
                        return Err(self.bad_range());
                    }
                }
                Err(error) if self.session.may_retry(&error) => {
                    if writer.offset().saturating_sub(before) >= PROGRESS_BYTES && resumes < RESUMES
                    {
                        resumes += 1;
                        pauses.reset();
                    }
                    self.tell(writer.offset(), LayerState::Retrying);
                    if !pauses.wait(error.retry_after(), self.stop) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One connection: asks for the bytes from `from` on, and writes what comes.
    fn try_once(&self, writer: &mut BlobWriter, from: u64) -> Result<Attempt, RegistryError> {
        self.check_stop()?;
        let what = self.what();
        let mut reply = self
            .session
            .get_once(&what, Wanted::Blob(&self.blob.digest, from))?;
        match reply.status() {
            206 if self.continues(&reply, from) => {}
            206 | 416 => return Ok(Attempt::BadRange),
            // The server doesn't do ranges, or this is the start: all of it comes.
            _ => writer.restart()?,
        }
        self.tell(writer.offset(), LayerState::Downloading);
        while let Some(chunk) = reply.chunk()? {
            writer.write(chunk.as_ref())?;
            self.tell(writer.offset(), LayerState::Downloading);
            self.check_stop()?;
        }
        if writer.offset() < self.blob.size {
            let (got, expected) = (writer.offset(), self.blob.size);
            return Err(RegistryError::Short {
                host: reply.host().to_owned(),
                what,
                got,
                expected,
            });
        }
        Ok(Attempt::Whole)
    }

    /// Whether a partial reply is the part that was asked for.
    fn continues(&self, reply: &Reply<'_>, from: u64) -> bool {
        let range = reply
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|range| range.to_str().ok());
        range
            .and_then(parse_content_range)
            .is_some_and(|(start, total)| {
                start == from && total.is_none_or(|total| total == self.blob.size)
            })
    }

    fn bad_range(&self) -> RegistryError {
        let (host, status) = (self.session.host(), 416);
        RegistryError::Status {
            host,
            what: self.what(),
            status,
            message: "a wrong range was sent".to_owned(),
        }
    }

    fn check_stop(&self) -> Result<(), RegistryError> {
        if self.stop.load(Ordering::Relaxed) {
            Err(RegistryError::Stopped)
        } else {
            Ok(())
        }
    }

    fn what(&self) -> String {
        format!("layer {}", self.blob.digest)
    }

    fn tell(&self, current: u64, state: LayerState) {
        (self.progress)(LayerProgress {
            digest: self.blob.digest,
            current,
            total: self.blob.size,
            state,
        });
    }
}

/// How one connection ended, if well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Whole,
    BadRange,
}

/// First byte and, if given, total length of `bytes first-last/total` (RFC 9110, 14.4).
pub(super) fn parse_content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse::<u64>().ok())?
    };
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = if total == "*" {
        None
    } else {
        Some(number(total)?)
    };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

/// Downloads a small blob, or reads it from the store, giving its bytes. The caller stores them once they
/// are found to be of use.
pub(super) fn document(
    session: &Session<'_>,
    store: &Store,
    what: &str,
    blob: &BlobRef,
) -> Result<Vec<u8>, RegistryError> {
    if let Ok(bytes) = store.document(&blob.digest, blob.size) {
        return Ok(bytes);
    }
    let bytes = session.document(what, Wanted::Blob(&blob.digest, 0), blob.size)?;
    let actual_size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if actual_size != blob.size {
        let (expected, actual) = (blob.size, actual_size);
        return Err(RegistryError::SizeMismatch {
            what: what.to_owned(),
            expected,
            actual,
        });
    }
    check_digest(what, &bytes, &blob.digest)?;
    Ok(bytes)
}

/// Checks that `bytes` are what `expected` names.
pub(super) fn check_digest(
    what: &str,
    bytes: &[u8],
    expected: &Digest,
) -> Result<(), RegistryError> {
    let actual = Digest::of(bytes);
    if actual != *expected {
        return Err(RegistryError::DigestMismatch {
            what: what.to_owned(),
            expected: *expected,
            actual,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, None)));
        for text in [
            "",
            "bytes",
            "bytes 5-9",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes +5-9/10",
            "bytes -9/10",
            "bytes */10",
            "items 5-9/10",
            "bytes 5-99999999999999999999/*",
        ] {
            assert_eq!(parse_content_range(text), None, "{text}");
        }
    }
}
