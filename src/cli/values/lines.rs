//! Files of variables and labels, and single ones: `KEY=VALUE`, taken literally.

use anyhow::{Context, Result, bail};

/// Longest line of such a file in bytes, as in Docker.
const LINE_BYTES_MAX: usize = 64 << 10;

/// The value of a variable, if it is set.
pub type LookUp<'a> = dyn Fn(&str) -> Result<Option<String>> + Sync + 'a;

/// `KEY=VALUE` lines of a file; bare names are looked up with `bare`, and left out when that knows
/// nothing. A byte order mark, blanks in front, empty lines and lines that begin with `#` do not
/// count; quotes and blanks at the end do.
///
/// # Errors
/// In Docker's words, with the file's name.
pub fn file(path: &str, text: &str, bare: &LookUp) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for line in text.lines() {
        if line.len() > LINE_BYTES_MAX {
            bail!("invalid env file ({path}): a line is longer than {LINE_BYTES_MAX} bytes");
        }
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line.split_once('=').map_or(line, |(key, _)| key);
        if key.is_empty() {
            bail!("invalid env file ({path}): no variable name on line '{line}'");
        }
        if key.contains(char::is_whitespace) {
            bail!("invalid env file ({path}): variable '{key}' contains whitespaces");
        }
        if line.contains('=') {
            all.push(line.to_owned());
        } else {
            let value = bare(key).with_context(|| format!("invalid env file ({path})"))?;
            all.extend(value.map(|value| format!("{key}={value}")));
        }
    }
    Ok(all)
}

/// `-e`: `KEY=VALUE`, or `KEY` for the caller's value; without one the bare name stays, which takes
/// the image's variable away.
///
/// # Errors
/// In Docker's words.
pub fn variable(text: &str, known: &LookUp) -> Result<String> {
    let key = text.split_once('=').map_or(text, |(key, _)| key);
    if key.is_empty() {
        bail!("invalid environment variable: {text}");
    }
    if text.contains('=') {
        return Ok(text.to_owned());
    }
    Ok(known(key)?.map_or_else(|| text.to_owned(), |value| format!("{key}={value}")))
}

/// `--label`: `KEY=VALUE`, or `KEY` for an empty value.
///
/// # Errors
/// In Docker's words.
pub fn label(text: &str) -> Result<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        bail!("invalid label '{text}': empty name");
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `--sysctl`: `KEY=VALUE`.
///
/// # Errors
/// When it has no value.
pub fn sysctl(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => bail!("sysctl '{text}' is not of the form key=value"),
    }
}

/// A pair of `--log-opt`.
///
/// # Errors
/// When it is none.
pub fn log_option(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => bail!("invalid logging opt '{text}': it is not of the form key=value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "a look-up may fail")]
    fn home(name: &str) -> Result<Option<String>> {
        Ok((name == "HOME").then(|| "/h".to_owned()))
    }

    #[test]
    fn files_are_taken_literally() {
        let text = "\u{feff}A=1 \n# c\n\n  B=\"x\"\r\nHOME\nGONE\nC=\nD=a=b #x\n";
        let lines = file("f", text, &home).unwrap();
        assert_eq!(lines, ["A=1 ", "B=\"x\"", "HOME=/h", "C=", "D=a=b #x"]);
        for (text, want) in [
            ("=x", "no variable name on line '=x'"),
            ("A B=x", "variable 'A B' contains whitespaces"),
            ("A =x", "variable 'A ' contains whitespaces"),
            (
                &"x".repeat(LINE_BYTES_MAX + 1),
                "a line is longer than 65536 bytes",
            ),
        ] {
            let error = file("f", text, &home).unwrap_err().to_string();
            assert_eq!(error, format!("invalid env file (f): {want}"));
        }
    }

    #[test]
    fn a_bare_variable_is_the_callers_or_stays_bare() {
        assert_eq!(variable("A=1=2", &home).unwrap(), "A=1=2");
        assert_eq!(variable("A=", &home).unwrap(), "A=");
        assert_eq!(variable("HOME", &home).unwrap(), "HOME=/h");
        assert_eq!(variable("GONE", &home).unwrap(), "GONE");
        for text in ["", "=x"] {
            let error = variable(text, &home).unwrap_err().to_string();
            assert_eq!(error, format!("invalid environment variable: {text}"));
        }
    }

    #[test]
    fn labels_may_be_empty_and_sysctls_may_not() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(label("a=b=c").unwrap(), pair("a", "b=c"));
        assert_eq!(label("a").unwrap(), pair("a", ""));
        assert!(label("=b").is_err());
        assert_eq!(sysctl("kernel.x=1").unwrap(), pair("kernel.x", "1"));
        assert!(sysctl("kernel.x").is_err());
        assert!(sysctl("=1").is_err());
    }
}
