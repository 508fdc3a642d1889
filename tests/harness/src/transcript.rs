//! What a process has written so far, collected by a thread, and waiting for text in it.

use std::io::{ErrorKind, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A shared, growing record of one stream.
#[derive(Clone, Default)]
pub(crate) struct Transcript {
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

impl Transcript {
    /// Reads `from` to its end in a thread of its own.
    pub(crate) fn of(mut from: impl Read + Send + 'static) -> Self {
        let transcript = Self::default();
        let filled = transcript.clone();
        thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            loop {
                match from.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(count) => filled.update(|state| state.bytes.extend(&chunk[..count])),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // A terminal whose other side is closed says so with EIO.
                    Err(_) => break,
                }
            }
            filled.update(|state| state.ended = true);
        });
        transcript
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let (state, changed) = &*self.state;
        change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_all();
    }

    /// Waits until `found` is, or until the stream ends or the time is up, which is `None`.
    fn wait<T>(&self, timeout: Duration, found: impl Fn(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let (state, changed) = &*self.state;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(value) = found(&state) {
                return Some(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            (state, _) = changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for `text` at or behind the byte `from`; the position just after it.
    pub(crate) fn wait_for(&self, text: &str, from: usize, timeout: Duration) -> Option<usize> {
        self.wait(timeout, |state| {
            let searched = state.bytes.get(from..)?;
            let at = find(searched, text.as_bytes())?;
            Some(from + at + text.len())
        })
    }

    /// Waits for the end of the stream; whether it came in time.
    pub(crate) fn wait_for_end(&self, timeout: Duration) -> bool {
        self.wait(timeout, |state| state.ended.then_some(()))
            .is_some()
    }

    /// All of it so far.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (state, _) = &*self.state;
        state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .bytes
            .clone()
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    if text.is_empty() {
        return Some(0);
    }
    bytes.windows(text.len()).position(|window| window == text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn text_is_found_behind_the_cursor_and_the_end_is_seen() {
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        let transcript = Transcript::of(reader);
        writer.write_all(b"one two one").expect("write");
        let first = transcript.wait_for("one", 0, LONG).expect("first");
        assert_eq!(first, 3);
        assert_eq!(transcript.wait_for("one", first, LONG), Some(11));
        assert!(!transcript.wait_for_end(Duration::ZERO));
        drop(writer);
        assert!(transcript.wait_for_end(LONG));
        assert_eq!(transcript.wait_for("three", 0, LONG), None);
        assert_eq!(transcript.bytes(), b"one two one");
    }
}
