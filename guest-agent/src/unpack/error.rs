//! Why a layer can't be unpacked, in words that are fit for a terminal.
//!
//! Made everywhere in [`crate::unpack`], read by [`crate::convert`]. Names that come from the
//! layer are escaped by [`shown`] before they get into a message.

use protocol::message::FailureKind;

use tarball::{TarError, shown};

use crate::failure::Failure;

/// Why a layer can't be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The bytes are not what they should be.
    #[error("{0}")]
    Corrupt(String),
    /// A named limit was exceeded.
    #[error("the layer exceeds the limit of {limit} {what}")]
    Limit {
        /// What is limited, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The output takes no more.
    #[error("the disk is full")]
    Full,
    /// A device failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// One of the others, and where in the tar.
    #[error("tar header at byte {offset}: {source}")]
    Header {
        /// Offset of the header in the uncompressed tar.
        offset: u64,
        /// What is wrong with it.
        source: Box<UnpackError>,
    },
    /// One of the others, and which entry.
    #[error("entry {path}: {source}")]
    Entry {
        /// The entry's path, escaped.
        path: String,
        /// What is wrong with it.
        source: Box<UnpackError>,
    },
}

impl UnpackError {
    /// What decides the exit code.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Corrupt(_) => FailureKind::CorruptLayer,
            Self::Limit { .. } => FailureKind::LimitExceeded,
            Self::Full => FailureKind::DiskFull,
            Self::Io { .. } => FailureKind::Other,
            Self::Header { source, .. } | Self::Entry { source, .. } => source.kind(),
        }
    }

    pub(super) fn corrupt(message: impl Into<String>) -> Self {
        Self::Corrupt(message.into())
    }

    /// Names the entry, when it is the entry's fault.
    pub(super) fn in_entry(self, path: &[u8]) -> Self {
        match self {
            Self::Corrupt(_) | Self::Limit { .. } => Self::Entry {
                path: shown(path),
                source: Box::new(self),
            },
            other => other,
        }
    }
}

impl From<TarError> for UnpackError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Corrupt(message) => Self::Corrupt(message),
            TarError::Limit { what, limit } => Self::Limit { what, limit },
            TarError::Read(source) => Self::Io {
                operation: "read the layer",
                source,
            },
            TarError::Header { offset, source } => Self::Header {
                offset,
                source: Box::new((*source).into()),
            },
            TarError::Entry { path, source } => Self::Entry {
                path,
                source: Box::new((*source).into()),
            },
        }
    }
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_faults_of_an_entry_name_it() {
        let limit = UnpackError::Limit {
            what: "bytes of one file",
            limit: 7,
        };
        let error = limit.in_entry(b"a/b");
        assert_eq!(
            error.to_string(),
            "entry a/b: the layer exceeds the limit of 7 bytes of one file"
        );
        assert_eq!(error.kind(), FailureKind::LimitExceeded);
        let error = UnpackError::from(TarError::Header {
            offset: 512,
            source: Box::new(TarError::Corrupt("damaged".to_owned())),
        });
        assert_eq!(error.to_string(), "tar header at byte 512: damaged");
        assert_eq!(error.kind(), FailureKind::CorruptLayer);
        assert_eq!(
            UnpackError::Full.in_entry(b"a").to_string(),
            "the disk is full"
        );
    }
}
