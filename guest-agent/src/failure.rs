//! Why a request could not be carried out, as the host is told.
//!
//! Every module that works for a request ends in a [`Failure`]: a kind, which decides Docker's exit
//! code, and one sentence. Modules that parse have their own error types and become one here. It
//! must not know the control connection: a container is set up in a child, which reports through a
//! pipe.

use protocol::message::FailureKind;
use rustix::io::Errno;

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What decides the exit code.
    pub kind: FailureKind,
    /// One sentence for the user, lower case, its cause included.
    pub message: String,
}

impl Failure {
    /// A failure of `kind` with the sentence `message`.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// A name, number or path of the image or the command line that can't be used.
    pub fn bad_config(message: impl Into<String>) -> Self {
        Self::new(FailureKind::BadConfig, message)
    }

    /// What was asked for needs the container's process, and that has ended.
    pub fn not_running() -> Self {
        Self::new(FailureKind::NotRunning, "the container is not running")
    }

    /// Anything that no other kind fits.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Other, message)
    }
}

/// Turns the error of a system call into a [`Failure`] that says what was attempted.
pub trait Context<T> {
    /// Prefixes the error's text with `what` and a colon. A full disk keeps its kind, all else is
    /// [`FailureKind::Other`].
    ///
    /// # Errors
    /// The failure, when `self` is an error.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure>;

    /// The same for what the user or the image asked for: [`FailureKind::BadConfig`].
    ///
    /// # Errors
    /// The failure, when `self` is an error.
    fn config(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<std::io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| {
            let error = error.into();
            let kind = match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOSPC | Errno::DQUOT) => FailureKind::DiskFull,
                _ => FailureKind::Other,
            };
            Failure::new(kind, format!("{}: {}", what(), text(&error)))
        })
    }

    fn config(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.context(what)
            .map_err(|failure| Failure::bad_config(failure.message))
    }
}

/// The text of a system call's error as Go programs print it, which is what Docker's users know
/// and its command line matches: the C library's, in lower case and without the number.
#[must_use]
pub fn errno_text(errno: Errno) -> String {
    text(&errno.into())
}

fn text(error: &std::io::Error) -> String {
    let full = error.to_string();
    let plain = full
        .split_once(" (os error")
        .map_or(full.as_str(), |(text, _)| text);
    let mut characters = plain.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_dockers_do() {
        let wanted = [
            (Errno::NOENT, "no such file or directory"),
            (Errno::ACCESS, "permission denied"),
            (Errno::ISDIR, "is a directory"),
            (Errno::NOEXEC, "exec format error"),
        ];
        for (errno, text) in wanted {
            assert_eq!(errno_text(errno), text);
        }
    }

    #[test]
    fn a_full_disk_keeps_its_kind_and_the_cause() {
        let failed: Result<(), Errno> = Err(Errno::NOSPC);
        let failure = failed.context(|| "create /etc/hosts".into()).unwrap_err();
        assert_eq!(failure.kind, FailureKind::DiskFull);
        assert_eq!(
            failure.message,
            "create /etc/hosts: no space left on device"
        );
    }

    #[test]
    fn what_the_user_asked_for_is_bad_config() {
        let failed: Result<(), Errno> = Err(Errno::INVAL);
        let failure = failed.config(|| "write sysctl a.b".into()).unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadConfig);
    }
}
