//! Paths of a tar: bytes between slashes, cleaned by their text alone.
//!
//! Called by [`super::apply`] and [`super::tree`]. No path is ever given to a file system.

use super::UnpackError;
use tarball::shown;

/// Bytes of a name in a directory (`NAME_MAX`, and EROFS's own limit).
pub(super) const NAME_MAX: usize = 255;

/// Bytes of a path or of a symbolic link's target, without the NUL (`PATH_MAX`): what no program
/// could name, no archiver wrote.
pub(super) const PATH_MAX: usize = 4095;

/// The components of `path`, without empty ones and `.`.
///
/// # Errors
/// A name or path that is too long, or a NUL.
pub(super) fn split(path: &[u8]) -> Result<impl DoubleEndedIterator<Item = &[u8]>, UnpackError> {
    if path.len() > PATH_MAX {
        return Err(UnpackError::corrupt(format!(
            "a path of {} bytes, {PATH_MAX} are possible",
            path.len()
        )));
    }
    if path.contains(&0) {
        return Err(UnpackError::corrupt("a NUL byte in a name"));
    }
    let components = || {
        path.split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
    };
    if let Some(long) = components().find(|part| part.len() > NAME_MAX) {
        return Err(UnpackError::corrupt(format!(
            "a name of {} bytes, {NAME_MAX} are possible: {}",
            long.len(),
            shown(long)
        )));
    }
    Ok(components())
}

/// As [`split`], with each `..` taken together with the component before it, as Docker does. A
/// path that leads out of the root is refused, also where Docker would take `/..` for `/`.
///
/// # Errors
/// As [`split`], and a path that leads out of the layer.
pub(super) fn clean(path: &[u8]) -> Result<Vec<&[u8]>, UnpackError> {
    let mut clean = Vec::new();
    for part in split(path)? {
        if part != b".." {
            clean.push(part);
        } else if clean.pop().is_none() {
            return Err(UnpackError::corrupt(format!(
                "{} leads out of the layer",
                shown(path)
            )));
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_their_text() {
        for (path, want) in [
            ("", ""),
            ("/", ""),
            ("./", ""),
            ("a", "a"),
            ("//a///b/", "a|b"),
            ("./a/./b/.", "a|b"),
            ("a/../b", "b"),
            ("a/b/../../c", "c"),
            ("a/..", ""),
            ("...", "..."),
            ("/..a/b..", "..a|b.."),
        ] {
            let parts: Vec<String> = clean(path.as_bytes())
                .unwrap()
                .iter()
                .map(|part| String::from_utf8_lossy(part).into_owned())
                .collect();
            assert_eq!(parts.join("|"), want, "{path:?}");
        }
        assert_eq!(clean(b"\xff\xfe/\n").unwrap(), [b"\xff\xfe", &b"\n"[..]]);
    }

    #[test]
    fn what_leads_out_or_is_too_long_is_refused() {
        for path in ["..", "/..", "../x", "a/../../x", "/a/../../x", "./../a"] {
            let error = clean(path.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, format!("{path} leads out of the layer"));
        }
        assert!(clean(b"a\0b").is_err());
        assert!(clean(&[b'n'; NAME_MAX]).is_ok());
        assert!(clean(&[b'n'; NAME_MAX + 1]).is_err());
        let deep = "a/".repeat(PATH_MAX / 2);
        assert_eq!(clean(deep.as_bytes()).unwrap().len(), PATH_MAX / 2);
        assert!(clean(format!("{deep}ab").as_bytes()).is_err());
    }
}
