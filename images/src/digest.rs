//! A content digest as 32 bytes, so that no text of a stranger ever names a file or part of a URL.
//!
//! Used everywhere in this crate and by its callers. Only sha256 is known: it is what registries,
//! Docker and the OCI tools write, and a second algorithm would give a blob two names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::escape::quoted;

const PREFIX: &str = "sha256:";
const HEX_LEN: usize = 64;

/// A text that is no digest this program knows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DigestError {
    /// Not of the form `algorithm:hex`, or not exactly 64 lower-case hex digits.
    #[error("invalid digest {}: want sha256: and 64 lower-case hex digits", quoted(.0))]
    Malformed(String),
    /// A digest of another algorithm.
    #[error("digest {} uses an algorithm other than sha256, which is not supported", quoted(.0))]
    Algorithm(String),
}

/// A sha256 digest (OCI image spec, descriptor.md).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Parses `sha256:` and 64 lower-case hex digits; anything else is an error, upper case too.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        match text.strip_prefix(PREFIX) {
            Some(hex) => Self::from_hex(hex).ok_or_else(|| DigestError::Malformed(text.to_owned())),
            None if is_other_algorithm(text) => Err(DigestError::Algorithm(text.to_owned())),
            None => Err(DigestError::Malformed(text.to_owned())),
        }
    }

    /// The digest whose hex form is `hex`, if that is 64 lower-case hex digits.
    pub fn from_hex(hex: &str) -> Option<Self> {
        if hex.len() != HEX_LEN {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let [high, low] = pair else { return None };
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Some(Self(bytes))
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// What a running hash has come to.
    pub(crate) fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The 64 hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        use fmt::Write;
        self.0
            .iter()
            .fold(String::with_capacity(HEX_LEN), |mut out, byte| {
                // Writing to a string can't fail.
                let _ = write!(out, "{byte:02x}");
                out
            })
    }

    /// The first 12 hex digits, as `docker images` shows them.
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }
}

/// Whether `text` has the shape of a digest at all (`word:word`), so that the error can be about the
/// algorithm alone.
fn is_other_algorithm(text: &str) -> bool {
    let word =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    text.split_once(':').is_some_and(|(algorithm, value)| {
        word(algorithm) && word(value) && !algorithm.eq_ignore_ascii_case("sha256")
    })
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PREFIX}{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn parses_and_prints_the_same() {
        let digest = Digest::parse(EMPTY).unwrap();
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert_eq!(
            serde_json::from_str::<Digest>(&format!("\"{EMPTY}\"")).unwrap(),
            digest
        );
    }

    #[test]
    fn hostile_forms_are_refused() {
        let hex = &EMPTY[7..];
        for text in [
            "",
            "sha256:",
            "sha256:../x",
            "sha256:../../../../../../../../../../../../../../../etc/passwd-0000000",
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{}/", &hex[1..]),
            &format!("sha256:{hex}0"),
            &format!("sha256:{}", &hex[1..]),
            &format!("sha256:{}\0", &hex[1..]),
            &format!(" sha256:{hex}"),
            &format!("SHA256:{hex}"),
            &format!("sha256:{}é", &hex[2..]),
            hex,
        ] {
            assert!(
                matches!(Digest::parse(text), Err(DigestError::Malformed(_))),
                "{text:?}"
            );
        }
    }

    #[test]
    fn other_algorithms_have_their_own_error() {
        let error = Digest::parse("sha512:00").unwrap_err();
        assert_eq!(
            error.to_string(),
            "digest \"sha512:00\" uses an algorithm other than sha256, which is not supported"
        );
        assert!(matches!(
            Digest::parse("md5:abc"),
            Err(DigestError::Algorithm(_))
        ));
    }

    #[test]
    fn an_error_holds_no_terminal_escapes() {
        let error = Digest::parse("sha256:\x1b[2J").unwrap_err().to_string();
        assert!(!error.contains('\x1b'), "{error}");
    }
}
