//! What a request carries: nothing, a form, a document, or a part of a file that is streamed.
//!
//! Used by `http` for uploads and logins. A part of a file is read while it is sent, a piece at a time,
//! so that an upload of any size needs little memory; how much was sent, which is what the client took to send,
//! is counted here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Bytes of a file that are read at once. What was taken is counted in these: on a slow line a large piece
/// looks as if nothing went.
const PIECE_BYTES: u64 = 16 << 10;

/// Told how many bytes of a part were sent; `false` ends the request.
pub(super) type Watch<'a> = dyn Fn(u64) -> bool + Sync + 'a;

/// The body of a request.
#[derive(Clone)]
pub(super) enum Content<'a> {
    /// None.
    Nothing,
    /// `application/x-www-form-urlencoded`.
    Form(String),
    /// A document of this media type.
    Document(&'a str, Bytes),
    /// Opaque bytes from a file.
    Part(Part<'a>),
}

/// The bytes of a file from one position up to another.
#[derive(Clone)]
pub(super) struct Part<'a> {
    pub(super) file: Arc<File>,
    pub(super) from: u64,
    /// The first byte that isn't of it.
    pub(super) to: u64,
    pub(super) watch: &'a Watch<'a>,
}

impl Part<'_> {
    pub(super) fn len(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }

    /// A body of it, and the count of what was sent.
    pub(super) fn stream(&self) -> (PartBody, Arc<AtomicU64>) {
        let sent = Arc::new(AtomicU64::new(0));
        let body = PartBody {
            file: Arc::clone(&self.file),
            at: self.from,
            to: self.to,
            sent: Arc::clone(&sent),
        };
        (body, sent)
    }
}

/// Reads a part while it is sent. The reads are of a file of the store, in the page cache as a rule, so
/// they may block the runtime's thread.
pub(super) struct PartBody {
    file: Arc<File>,
    at: u64,
    to: u64,
    sent: Arc<AtomicU64>,
}

impl Body for PartBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let left = this.to.saturating_sub(this.at);
        if left == 0 {
            return Poll::Ready(None);
        }
        let len = usize::try_from(left.min(PIECE_BYTES)).unwrap_or(0);
        let mut piece = vec![0; len];
        Poll::Ready(Some(this.file.read_exact_at(&mut piece, this.at).map(
            |()| {
                let len = left.min(PIECE_BYTES);
                this.at = this.at.saturating_add(len);
                this.sent.fetch_add(len, Ordering::Relaxed);
                Frame::data(Bytes::from(piece))
            },
        )))
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.to
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.to.saturating_sub(self.at))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_part_is_counted_in_pieces_that_a_slow_line_takes_in_seconds() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        let part = Part {
            file: Arc::new(file),
            from: 1_000,
            to: 99_000,
            watch: &|_| true,
        };
        let (mut body, sent) = part.stream();
        let mut whole = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut context) {
            let piece = frame.unwrap().into_data().unwrap();
            // Two seconds at 64 kbit/s.
            assert!(piece.len() <= 16 << 10, "{}", piece.len());
            whole.extend_from_slice(&piece);
            assert_eq!(sent.load(Ordering::Relaxed), whole.len() as u64);
        }
        assert!(body.is_end_stream());
        assert_eq!(whole, [7; 98_000]);
    }
}
