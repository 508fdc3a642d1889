//! What the host makes of a registry's words besides documents: challenges, error bodies, ranges of
//! content and of uploads. What it repeats is short and fit for a terminal; a range is one within the whole.
//!
//! ```text
//! input: a header's value on each line, an empty line, a body
//! ```
#![no_main]

use bulkhead_fuzz::words::assert_text_printable;
use images::limits::{CHALLENGE_BYTES, MESSAGE_CHARS};
use images::registry::fuzz::{Answer, challenge, content_range, message, upload_range};
use libfuzzer_sys::fuzz_target;

/// An escaped character has at most this many (`\u{10ffff}`).
const ESCAPE_CHARS: usize = 10;

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.windows(2).position(|two| two == b"\n\n");
    let (head, body) = bytes.split_at(end.unwrap_or(bytes.len()));
    let values = || head.split(|byte| *byte == b'\n');
    if let Some(Answer::Token(address)) = challenge(values()) {
        assert!(address.len() <= CHALLENGE_BYTES);
    }
    for value in values() {
        let range = std::str::from_utf8(value).ok().and_then(content_range);
        if let Some((first, Some(total))) = range {
            assert!(first < total);
        }
        let last = std::str::from_utf8(value).ok().and_then(upload_range);
        if let Some(last) = last {
            assert_eq!(upload_range(&format!("0-{last}")), Some(last));
        }
    }
    let said = message(body.strip_prefix(b"\n\n").unwrap_or(body));
    assert_text_printable(&said);
    assert!(said.chars().count() <= MESSAGE_CHARS * ESCAPE_CHARS + 1);
});
