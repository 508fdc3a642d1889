//! What a registry says besides documents and blobs, each as its own reader takes it.
//!
//! Called by the fuzz target alone: inside the crate these readers see replies, which no fuzzer has.

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::auth::Challenge;
use super::{download, session, upload};

/// How a challenge asks to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// By name and password.
    Password,
    /// By a token from this address.
    Token(String),
}

/// What the values of a reply's challenge headers ask for, if anything.
pub fn challenge<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<Answer> {
    let mut headers = HeaderMap::new();
    for value in values {
        // What isn't a header's value ends the connection before anyone reads it.
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(value).ok()?);
    }
    Challenge::parse(&headers).map(|challenge| match challenge {
        Challenge::Basic => Answer::Password,
        Challenge::Bearer { realm, .. } => Answer::Token(realm),
    })
}

/// The message in the body of an error reply.
pub fn message(body: &[u8]) -> String {
    session::message(body)
}

/// First byte and, if given, total length of a Content-Range.
pub fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    download::parse_content_range(value)
}

/// How many bytes a registry says it has of an upload, less one.
pub fn upload_range(value: &str) -> Option<u64> {
    upload::parse_upload_range(value)
}
