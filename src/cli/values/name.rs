//! Names of containers.

use anyhow::{Result, bail};

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, possibly behind the slash that `inspect` shows.
///
/// # Errors
/// In Docker's words.
pub fn container_name(text: &str) -> Result<&str> {
    let name = text.strip_prefix('/').unwrap_or(text);
    let good = match name.as_bytes() {
        [first, rest @ ..] => {
            first.is_ascii_alphanumeric()
                && !rest.is_empty()
                && rest
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        }
        [] => false,
    };
    if !good {
        bail!("Invalid container name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_names_are_dockers() {
        assert_eq!(container_name("/web-1").unwrap(), "web-1");
        assert_eq!(container_name("0a.b_c-d").unwrap(), "0a.b_c-d");
        for text in ["", "a", "-a", "a b", "ä1", "../x", "a/b", "//ab"] {
            let error = container_name(text).unwrap_err().to_string();
            assert!(error.starts_with("Invalid container name ("), "{error}");
        }
    }
}
