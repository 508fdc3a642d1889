//! The one door through which JSON of strangers is read: size and nesting are checked before serde sees it.
//!
//! Called by the parsers of manifests, configs, tokens and the store's index. serde_json has a depth
//! limit of its own, but skips fields that it doesn't know without one, and its size is the caller's
//! business; here both have a name.

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::limits::JSON_DEPTH;

/// A document that is too large, too deep, or not what was expected.
#[derive(Debug, Error)]
pub enum JsonError {
    /// It has more bytes than its kind may have.
    #[error("it has {len} bytes, above the limit of {limit}")]
    TooLarge {
        /// Bytes it has.
        len: usize,
        /// Bytes it may have.
        limit: u64,
    },
    /// It nests deeper than [`JSON_DEPTH`].
    #[error("it is nested deeper than {JSON_DEPTH} levels")]
    TooDeep,
    /// It is no JSON, or a field is missing, there twice, or of the wrong type.
    #[error("it is not valid: {}", crate::escape::printable(.0))]
    Invalid(String),
}

/// Reads `bytes` as a `T`. A known field that is there twice is an error, so no two readers of the same
/// document can differ on it.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], limit: u64) -> Result<T, JsonError> {
    if u64::try_from(bytes.len()).is_ok_and(|len| len > limit) {
        return Err(JsonError::TooLarge {
            len: bytes.len(),
            limit,
        });
    }
    if depth(bytes) > JSON_DEPTH {
        return Err(JsonError::TooDeep);
    }
    serde_json::from_slice(bytes).map_err(|error| JsonError::Invalid(error.to_string()))
}

/// The deepest nesting of brackets outside strings. For bytes that are no JSON the number means
/// nothing, but then the parser refuses them.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let mut in_string = false;
    let mut escaped = false;
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Small {
        a: u64,
    }

    #[test]
    fn unknown_fields_are_skipped_but_not_at_any_depth() {
        let nested = |levels: usize| {
            format!(
                "{{\"a\":1,\"x\":{}{}}}",
                "[".repeat(levels),
                "]".repeat(levels)
            )
        };
        assert_eq!(
            parse::<Small>(nested(JSON_DEPTH - 1).as_bytes(), 1 << 20)
                .unwrap()
                .a,
            1
        );
        for levels in [JSON_DEPTH, 100_000] {
            let result = parse::<Small>(nested(levels).as_bytes(), 1 << 20);
            assert!(matches!(result, Err(JsonError::TooDeep)), "{levels}");
        }
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        let text = format!("{{\"a\":2,\"x\":\"\\\"{}\"}}", "[{".repeat(1000));
        assert_eq!(parse::<Small>(text.as_bytes(), 1 << 20).unwrap().a, 2);
    }

    #[test]
    fn size_duplicates_and_bad_numbers_are_errors() {
        assert!(matches!(
            parse::<Small>(b"{\"a\":1}", 6),
            Err(JsonError::TooLarge { len: 7, limit: 6 })
        ));
        for text in [
            "",
            "{",
            "[]",
            "{\"a\":-1}",
            "{\"a\":1.5}",
            "{\"a\":1e400}",
            "{\"a\":99999999999999999999}",
            "{\"a\":1,\"a\":2}",
        ] {
            assert!(
                matches!(
                    parse::<Small>(text.as_bytes(), 100),
                    Err(JsonError::Invalid(_))
                ),
                "{text}"
            );
        }
        assert!(matches!(
            parse::<Small>(b"{\"a\":1,\"\xff\":2}", 100),
            Err(JsonError::Invalid(_))
        ));
    }
}
