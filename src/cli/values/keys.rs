//! `--detach-keys`: `ctrl-p,ctrl-q`.

use anyhow::{Result, bail};

/// What Docker takes when no keys are given: ctrl-p, ctrl-q.
const DEFAULT: [u8; 2] = [16, 17];

/// Keys as the bytes that a terminal sends for them; Docker's when there are none.
///
/// # Errors
/// In Docker's words.
pub fn detach_keys(text: &str) -> Result<Vec<u8>> {
    if text.is_empty() {
        return Ok(DEFAULT.to_vec());
    }
    text.split(',').map(key).collect()
}

fn key(text: &str) -> Result<u8> {
    let bytes = text.as_bytes();
    match (bytes, bytes.strip_prefix(b"ctrl-")) {
        ([byte], _) => Ok(*byte),
        (_, Some([letter @ b'a'..=b'z'])) => Ok(letter - b'a' + 1),
        (_, Some([sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => Ok(sign - b'@'),
        (b"DEL", _) => Ok(127),
        _ => bail!("invalid detach keys provided: Unknown character: '{text}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_bytes() {
        assert_eq!(detach_keys("ctrl-p,ctrl-q").unwrap(), DEFAULT);
        assert_eq!(detach_keys("").unwrap(), DEFAULT);
        assert_eq!(
            detach_keys("ctrl-@,a,ctrl-_,DEL,Z").unwrap(),
            [0, b'a', 31, 127, b'Z']
        );
        for text in ["ctrl-P", "shift-a", ",", "a,", "ab", "ctrl-", "ä"] {
            let error = detach_keys(text).unwrap_err().to_string();
            assert!(error.contains("Unknown character"), "{text}: {error}");
        }
    }
}
