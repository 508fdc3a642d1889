//! Why a tar can't be read, in words that are fit for a terminal.
//!
//! Names that come from an archive are escaped by [`shown`] before they get into a message.

/// Why a tar can't be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes are not what they should be.
    #[error("{0}")]
    Corrupt(String),
    /// A named limit was exceeded.
    #[error("the archive exceeds the limit of {limit} {what}")]
    Limit {
        /// What is limited, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The source failed.
    #[error("read the archive: {0}")]
    Read(#[source] std::io::Error),
    /// One of the others, and where in the tar.
    #[error("tar header at byte {offset}: {source}")]
    Header {
        /// Offset of the header in the tar.
        offset: u64,
        /// What is wrong with it.
        source: Box<TarError>,
    },
    /// One of the others, and which entry.
    #[error("entry {path}: {source}")]
    Entry {
        /// The entry's path, escaped.
        path: String,
        /// What is wrong with it.
        source: Box<TarError>,
    },
}

impl TarError {
    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::Corrupt(message.into())
    }

    /// Names the header, when it is the header's fault.
    pub(crate) fn at_header(self, offset: u64) -> Self {
        match self {
            Self::Corrupt(_) | Self::Limit { .. } => Self::Header {
                offset,
                source: Box::new(self),
            },
            other => other,
        }
    }

    /// Names the entry, when it is the entry's fault.
    pub(crate) fn in_entry(self, path: &[u8]) -> Self {
        match self {
            Self::Corrupt(_) | Self::Limit { .. } => Self::Entry {
                path: shown(path),
                source: Box::new(self),
            },
            other => other,
        }
    }
}

/// Longest name in a message, in characters.
const SHOWN_MAX: usize = 200;

/// A name of a stranger, fit for a message: printable ASCII, the rest escaped.
#[must_use]
pub fn shown(name: &[u8]) -> String {
    let text: String = name
        .escape_ascii()
        .map(char::from)
        .take(SHOWN_MAX + 1)
        .collect();
    match text.get(..SHOWN_MAX) {
        Some(short) if text.len() > SHOWN_MAX => format!("{short}…"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_cut() {
        assert_eq!(shown(b"a\x1b[2J\xff\n"), "a\\x1b[2J\\xff\\n");
        assert_eq!(shown(&[b'x'; 200]), "x".repeat(200));
        assert_eq!(shown(&[b'x'; 201]), format!("{}…", "x".repeat(200)));
    }

    #[test]
    fn only_faults_of_a_header_name_it() {
        let error = TarError::corrupt("damaged").at_header(512);
        assert_eq!(error.to_string(), "tar header at byte 512: damaged");
        let error = TarError::Read(std::io::Error::other("gone")).at_header(512);
        assert_eq!(error.to_string(), "read the archive: gone");
    }
}
