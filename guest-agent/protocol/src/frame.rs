//! Framing: a 32-bit little-endian length, then that many bytes of JSON.
//!
//! Called with bytes that the other side chose. A frame longer than [`MAX_FRAME`] ends the
//! conversation: there is no resynchronising with a peer that lies about lengths.

use serde::{Serialize, de::DeserializeOwned};

/// Longest payload of one frame in bytes. A run request with the largest argument list and
/// environment that Linux would take anyway (128 KiB a string, about 2 MiB in all by default) does
/// not fit, one of a size that people use does; what a guest may make the host buffer is bounded by it.
pub const MAX_FRAME: usize = 1 << 20;

/// Bytes in front of every payload.
pub const HEADER_LEN: usize = 4;

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length field exceeds [`MAX_FRAME`].
    #[error("frame of {len} bytes, the limit is {MAX_FRAME}")]
    TooLong {
        /// What the length field said.
        len: usize,
    },
    /// The payload is no such message.
    #[error("frame of {len} bytes is no valid message")]
    Malformed {
        /// Length of the payload in bytes.
        len: usize,
        /// What the JSON reader said.
        source: serde_json::Error,
    },
}

/// Encodes `message` as one frame, header included.
///
/// # Errors
/// [`FrameError::TooLong`] when the payload would exceed [`MAX_FRAME`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER_LEN];
    serde_json::to_writer(&mut bytes, message)
        .map_err(|source| FrameError::Malformed { len: 0, source })?;
    let len = bytes.len() - HEADER_LEN;
    match u32::try_from(len) {
        Ok(short) if len <= MAX_FRAME => {
            bytes[..HEADER_LEN].copy_from_slice(&short.to_le_bytes());
            Ok(bytes)
        }
        _ => Err(FrameError::TooLong { len }),
    }
}

/// Collects bytes as they arrive and yields whole messages.
///
/// It never holds more than one frame and one read beyond it.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// An empty decoder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// Both kinds of [`FrameError`]; the stream is of no use afterwards.
    pub fn decode<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let announced = u32::from_le_bytes(*header);
        let len = usize::try_from(announced).unwrap_or(usize::MAX);
        if len > MAX_FRAME {
            return Err(FrameError::TooLong { len });
        }
        let end = HEADER_LEN + len;
        let Some(payload) = self.buffer.get(HEADER_LEN..end) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(payload)
            .map_err(|source| FrameError::Malformed { len, source })?;
        self.buffer.drain(..end);
        Ok(Some(message))
    }

    /// Whether bytes of an unfinished frame are held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Event, Request};

    #[test]
    fn a_message_survives_any_split() {
        let bytes = encode(&Request::Signal {
            process: 0,
            signal: 15,
        })
        .unwrap();
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::new();
            decoder.push(&bytes[..cut]);
            assert!(
                decoder.decode::<Request>().unwrap().is_none(),
                "cut at {cut}"
            );
            decoder.push(&bytes[cut..]);
            let message = decoder.decode::<Request>().unwrap();
            assert!(matches!(
                message,
                Some(Request::Signal {
                    process: 0,
                    signal: 15
                })
            ));
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn two_messages_in_one_read_come_out_in_order() {
        let mut bytes = encode(&Event::Converting { bytes: 1 }).unwrap();
        bytes.extend(encode(&Event::Converting { bytes: 2 }).unwrap());
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        for want in 1..=2 {
            match decoder.decode::<Event>().unwrap() {
                Some(Event::Converting { bytes }) => assert_eq!(bytes, want),
                other => panic!("{other:?}"),
            }
        }
        assert!(decoder.decode::<Event>().unwrap().is_none());
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_the_payload_arrives() {
        let mut decoder = Decoder::new();
        decoder.push(&u32::MAX.to_le_bytes());
        let error = decoder.decode::<Event>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "frame of 4294967295 bytes, the limit is 1048576"
        );
    }

    #[test]
    fn a_payload_that_is_no_message_is_an_error() {
        for payload in [&b""[..], b"{}", b"null", b"{\"nonsense\":1}", b"\xff\xfe"] {
            let mut decoder = Decoder::new();
            decoder.push(&u32::try_from(payload.len()).unwrap().to_le_bytes());
            decoder.push(payload);
            assert!(matches!(
                decoder.decode::<Event>(),
                Err(FrameError::Malformed { .. })
            ));
        }
    }

    #[test]
    fn encoding_refuses_what_decoding_would() {
        let huge = Event::Failed {
            process: 0,
            kind: crate::message::FailureKind::Other,
            message: "x".repeat(MAX_FRAME),
        };
        assert!(matches!(encode(&huge), Err(FrameError::TooLong { .. })));
    }
}
