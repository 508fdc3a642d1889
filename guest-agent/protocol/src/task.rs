//! What the host may ask about a container besides running it: its files and its processes.
//!
//! A task is answered by one [`crate::message::Event::TaskEnded`]. What may be long goes over a
//! stream of its own: the guest connects to the vsock port that the request names, as for the
//! streams of a process, and the event comes after the stream's last byte.

use serde::{Deserialize, Serialize};

use crate::message::FailureKind;
use crate::mode::Mode;

/// Names a task; chosen by the host, used once.
pub type TaskId = u32;

/// What to do. Paths are of the container: links are followed as inside it, and none leads out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Say what is at a path: [`Outcome::Stat`].
    Stat {
        /// Where.
        path: String,
        /// Whether a link at its end is followed.
        follow: bool,
    },
    /// Write a tar of what is at a path to the stream.
    Archive {
        /// Where.
        path: String,
        /// Whether a link at its end is followed.
        follow: bool,
        /// What it is called in the archive; what is in a directory is below that name.
        name: String,
    },
    /// Write a tar of the whole root file system to the stream, without what is mounted in it.
    Export,
    /// Write a tar of what the container changed to the stream, as an OCI layer (image
    /// specification, layer.md).
    Layer {
        /// Times after this one, in seconds since 1970, become this one (`SOURCE_DATE_EPOCH`).
        #[serde(default)]
        latest: Option<i64>,
    },
    /// Write a tar of what patterns match to the stream, as [`Task::Place`] takes it.
    Gather(Gather),
    /// Put what comes over the stream into a step's files, by the rules of `COPY` and `ADD`.
    Place(Place),
    /// Make a directory and those above it, if it is missing; what `WORKDIR` does.
    MakeDirectory {
        /// Where.
        path: String,
        /// Whom what is made is to belong to, in Docker's user syntax.
        owner: Option<String>,
    },
    /// Unpack a tar from the stream into a directory. A directory never takes the place of something else, nor the
    /// other way round.
    Extract {
        /// The directory; it exists.
        path: String,
        /// Whether the tar may be compressed.
        decompress: bool,
        /// Whom everything is to belong to, in Docker's user syntax; as the tar says without it.
        owner: Option<String>,
    },
    /// Say on the stream what the container changed, as [`Change`] records.
    Changes,
    /// Say on the stream what processes there are, as frames of [`ProcessInfo`].
    Processes,
    /// Say what the container uses: [`Outcome::Usage`].
    Usage,
}

/// What a `COPY --from` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gather {
    /// Paths from the root on, each a pattern ([`crate::pattern::Pattern::shallow`]). One without
    /// wildcards that matches nothing is an error.
    pub sources: Vec<String>,
    /// What to leave out: patterns of names as they would be in the archive
    /// ([`crate::pattern::Pattern::deep`]).
    pub excludes: Vec<String>,
    /// Whether a source keeps the directories above it, from `/./` on or all of them: `--parents`.
    pub parents: bool,
}

/// Where and how a `COPY` or `ADD` puts its files.
///
/// The archive says what each source was: a directory begins with an entry for the root, and what is
/// in it follows; a file is one entry of its base name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where to.
    pub target: PlaceTarget,
    /// Whom everything is to belong to, in Docker's user syntax.
    pub owner: Option<String>,
    /// `--chmod`: the permissions of everything that is no link.
    pub mode: Option<Mode>,
    /// Whether files that are archives are unpacked.
    pub unpack: bool,
    /// Whether links in the way are replaced by directories instead of followed: `--link`.
    pub replace_links: bool,
}

/// Where a [`Place`] puts its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaceTarget {
    /// Into the step's root.
    Root {
        /// Absolute path.
        path: String,
        /// Whether that is a directory, whatever comes; else a sole file takes its place.
        is_directory: bool,
    },
    /// Into an empty directory beside it, for [`crate::spec::StepSource::Scratch`].
    Scratch(u32),
}

/// How a task went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Well; its stream has everything.
    Done,
    /// What is at the path.
    Stat(PathStat),
    /// What the container uses.
    Usage(Usage),
    /// Nothing is at the path.
    NotFound,
    /// It could not be done; what was streamed is not all.
    Failed {
        /// What kind of failure it was.
        kind: FailureKind,
        /// One sentence for the user, lower case.
        message: String,
    },
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    /// `st_mode`, type bits included.
    pub mode: u32,
    /// Bytes of a file.
    pub size: u64,
    /// Target of a symbolic link, as far as it is UTF-8.
    pub link: String,
}

impl Task {
    /// Whether it takes a stream.
    #[must_use]
    pub fn has_stream(&self) -> bool {
        !matches!(
            self,
            Self::Stat { .. } | Self::Usage | Self::MakeDirectory { .. }
        )
    }
}

impl PathStat {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.mode & TYPE_BITS == 0o040_000
    }

    /// Whether it is a symbolic link.
    #[must_use]
    pub fn is_link(&self) -> bool {
        self.mode & TYPE_BITS == 0o120_000
    }
}

/// `S_IFMT` of `st_mode`.
const TYPE_BITS: u32 = 0o170_000;

/// Longest path in a [`Change`] in bytes (`PATH_MAX`).
pub const CHANGE_PATH_MAX: usize = 4096;

/// What happened to a path. On the stream it is one of `A`, `C` and `D`, the path from the root on
/// with a slash in front and without `..`, and a NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `A` for added, `C` for changed, `D` for deleted.
    pub kind: u8,
    /// Any bytes but NUL.
    pub path: Vec<u8>,
}

/// What is no [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The kind is none.
    #[error("the guest told a change of the unknown kind {0:#04x}")]
    Kind(u8),
    /// The path does not begin with a slash.
    #[error("the guest told a change of a path without a root")]
    Path,
    /// A name in the path is `..`, which no file is called.
    #[error("the guest told a change of a path that leads out")]
    LeadsOut,
    /// The path is longer than [`CHANGE_PATH_MAX`].
    #[error("the guest told a change of a path of more than {CHANGE_PATH_MAX} bytes")]
    TooLong,
}

/// Collects bytes as they arrive and yields whole changes.
#[derive(Debug, Default)]
pub struct ChangeDecoder {
    buffer: Vec<u8>,
    /// Bytes of the buffer that were decoded.
    done: usize,
}

impl ChangeDecoder {
    /// An empty decoder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that were read. What was decoded is forgotten.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.done);
        self.done = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether all that was read was decoded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done == self.buffer.len()
    }

    /// The next whole change, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`ChangeError`]; the stream is of no use afterwards.
    pub fn decode(&mut self) -> Result<Option<Change>, ChangeError> {
        let rest = self.buffer.get(self.done..).unwrap_or_default();
        let window = rest.get(..CHANGE_PATH_MAX + 2).unwrap_or(rest);
        let Some(end) = window.iter().position(|byte| *byte == 0) else {
            return match rest.len() > window.len() {
                true => Err(ChangeError::TooLong),
                false => Ok(None),
            };
        };
        let (kind, path) = match rest.get(..end) {
            Some([kind, path @ ..]) => (*kind, path),
            _ => return Err(ChangeError::Path),
        };
        if !matches!(kind, b'A' | b'C' | b'D') {
            return Err(ChangeError::Kind(kind));
        }
        if path.first() != Some(&b'/') {
            return Err(ChangeError::Path);
        }
        if path.split(|byte| *byte == b'/').any(|name| name == b"..") {
            return Err(ChangeError::LeadsOut);
        }
        let change = Change {
            kind,
            path: path.to_vec(),
        };
        self.done += end + 1;
        Ok(Some(change))
    }
}

/// One process of the container, of `/proc` (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Process id in the container.
    pub pid: u32,
    /// Its parent's; 0 when that is outside of the container.
    pub parent: u32,
    /// Process group.
    pub group: u32,
    /// Session.
    pub session: u32,
    /// Effective user id.
    pub uid: u32,
    /// Its name in the container's passwd file, else the number.
    pub user: String,
    /// State, one letter.
    pub state: char,
    /// Controlling terminal: the number below `/dev/pts`.
    pub terminal: Option<u32>,
    /// CPU time used in milliseconds.
    pub cpu_ms: u64,
    /// Age in milliseconds.
    pub age_ms: u64,
    /// Virtual memory in bytes.
    pub virtual_bytes: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Nice value.
    pub nice: i32,
    /// Number of threads.
    pub threads: u32,
    /// Name of the program, at most 15 bytes.
    pub name: String,
    /// Arguments joined by blanks; the name in brackets when there are none.
    pub command: String,
}

/// What a container uses, of its control group (Linux admin-guide/cgroup-v2.rst).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// `CLOCK_BOOTTIME` in nanoseconds when it was read.
    pub boottime_ns: u64,
    /// CPU time used in microseconds.
    pub cpu_us: u64,
    /// Memory in bytes, without page cache that was not used of late.
    pub memory_bytes: u64,
    /// Its limit in bytes: the group's, or the memory of the VM.
    pub memory_limit_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from disks.
    pub read_bytes: u64,
    /// Bytes written to disks.
    pub written_bytes: u64,
    /// Bytes received on all interfaces but the loopback.
    pub received_bytes: u64,
    /// Bytes sent on them.
    pub sent_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_survive_any_split() {
        let bytes = b"A/a\0C/b c\0D/\xff\0";
        for cut in 0..bytes.len() {
            let mut decoder = ChangeDecoder::new();
            let mut found = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                decoder.push(part);
                while let Some(change) = decoder.decode().unwrap() {
                    found.push((change.kind, change.path));
                }
            }
            assert!(decoder.is_empty());
            decoder.push(b"A/half");
            assert!(decoder.decode().unwrap().is_none() && !decoder.is_empty());
            let want = [(b'A', &b"/a"[..]), (b'C', b"/b c"), (b'D', b"/\xff")];
            assert_eq!(found, want.map(|(kind, path)| (kind, path.to_vec())));
        }
    }

    #[test]
    fn what_is_no_change_is_refused() {
        let long = [b"A/".to_vec(), vec![b'x'; CHANGE_PATH_MAX + 1]].concat();
        for (bytes, want) in [
            (&b"X/a\0"[..], ChangeError::Kind(b'X')),
            (b"Aa\0", ChangeError::Path),
            (b"A\0", ChangeError::Path),
            (b"\0", ChangeError::Path),
            (b"A/a/../../b\0", ChangeError::LeadsOut),
            (b"D/..\0", ChangeError::LeadsOut),
            (&long, ChangeError::TooLong),
        ] {
            let mut decoder = ChangeDecoder::new();
            decoder.push(bytes);
            assert_eq!(decoder.decode().unwrap_err(), want);
        }
        let mut decoder = ChangeDecoder::new();
        decoder.push(&[&b"A/"[..], &[b'x'; CHANGE_PATH_MAX - 1], b"\0"].concat());
        assert_eq!(
            decoder.decode().unwrap().unwrap().path.len(),
            CHANGE_PATH_MAX
        );
    }

    #[test]
    fn only_what_is_long_has_a_stream() {
        let stat = Task::Stat {
            path: String::new(),
            follow: true,
        };
        assert!(!stat.has_stream() && !Task::Usage.has_stream());
        let make = Task::MakeDirectory {
            path: String::new(),
            owner: None,
        };
        assert!(!make.has_stream());
        assert!(Task::Export.has_stream() && Task::Processes.has_stream());
    }
}
