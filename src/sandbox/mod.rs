//! One container's life: from the user's flags and an image to a VM, and back to an exit code.
//!
//! ```text
//! command: start ──► disks (layers ready?) ──► folder ──► supervisor ◄──► attach (stdio, signals)
//!                                                            │
//!                                 template ◄── vm ──► vmm_process (the VM)
//!                                              └────► files (folders of the host, if it has any)
//! ```
//! Called by `cli` and `doctor`; uses vmm, file-server, jail, images, protocol and tar. It knows no clap and
//! prints nothing.

pub mod access;
pub mod accounts;
pub mod agent;
pub mod attach;
pub mod block_io;
pub mod build;
mod child;
pub mod client;
pub mod clock;
pub mod containers;
pub mod control_group;
pub mod decompress;
pub mod disks;
pub mod enclosure;
pub mod events;
pub mod files;
pub mod given;
pub mod health;
pub mod inspect;
pub mod launch;
pub mod launcher;
mod lock;
pub mod logs;
pub mod network;
pub mod paths;
pub mod plain;
mod poll;
mod proc;
pub mod program;
pub mod receive;
pub mod removal;
pub mod restart;
pub mod room;
pub mod start;
pub mod state;
mod stop;
mod stream_ports;
mod streams;
pub mod supervisor;
pub mod template;
mod trust;
pub mod vm;
mod vmm_child;
pub mod vmm_jail;
pub mod vmm_process;
pub mod volumes;
pub mod wire;
mod writeback;

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use protocol::message::Request;

/// Checks that the agent speaks our version.
fn check_version(version: u32) -> Result<()> {
    if version != protocol::PROTOCOL_VERSION {
        bail!(
            "the guest's agent speaks protocol {version}, this command {}; they were not built together",
            protocol::PROTOCOL_VERSION
        );
    }
    Ok(())
}

/// What the agent of a VM that may have slept is told first: the time, and randomness that no other
/// VM of its template has.
///
/// # Errors
/// When the host has no random bytes.
fn wake() -> Result<Request> {
    let mut entropy = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut entropy))
        .context("read /dev/urandom")?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Request::Wake {
        entropy,
        realtime_ns: u64::try_from(now.as_nanos()).unwrap_or(0),
    })
}

/// Whether whoever was at the other end of a stream has closed it; with data that was not read that is a
/// reset.
#[must_use]
pub fn has_gone_away(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    )
}

/// Longest text of a guest that goes into a message, in characters.
const GUEST_TEXT_MAX: usize = 512;

/// Text that a guest chose, fit for a terminal: one line, no control characters, bounded.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .take(GUEST_TEXT_MAX)
        .map(|c| {
            if c.is_control() || turns_text(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// What is said of an event that must not come where it came; as long as a sentence, whatever is in it.
fn unexpected(event: &protocol::message::Event) -> String {
    let event = printable(&format!("{event:?}"));
    format!("the agent broke the protocol: unexpected {event}")
}

/// Whether a terminal would show what follows in another direction or on another line (Unicode, UAX 9).
fn turns_text(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes of a VM's log that are looked at for its last lines.
const LOG_TAIL: i64 = 4096;

/// The last lines of a VM's log, to explain why it ended; empty when it printed nothing.
fn log_tail(log: &mut File) -> String {
    let mut bytes = Vec::new();
    let from = log
        .seek(SeekFrom::End(-LOG_TAIL))
        .or_else(|_| log.seek(SeekFrom::Start(0)));
    if from.is_err()
        || log
            .take(LOG_TAIL.unsigned_abs())
            .read_to_end(&mut bytes)
            .is_err()
    {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = lines
        .get(lines.len().saturating_sub(3)..)
        .unwrap_or_default();
    if last.is_empty() {
        return String::new();
    }
    format!("; its console ends with: {}", printable(&last.join(" | ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_guests_text_cannot_move_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(printable("a\u{202e}b\u{2066}"), "a\u{fffd}b\u{fffd}");
        assert_eq!(printable(&"x".repeat(5000)).len(), GUEST_TEXT_MAX);
    }

    #[test]
    fn an_unexpected_event_is_told_in_a_sentence() {
        let kernel = "\u{1b}[2J\n".repeat(1 << 16);
        let hello = protocol::message::Event::Hello {
            version: 1,
            kernel,
            boottime_ns: 0,
        };
        let text = unexpected(&hello);
        assert!(text.chars().count() < GUEST_TEXT_MAX + 100, "{text}");
        assert!(!text.chars().any(char::is_control), "{text}");
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_three_lines() {
        let mut log = tempfile::tempfile().unwrap();
        assert_eq!(log_tail(&mut log), "");
        log.write_all(b"one\ntwo\n\nthree\nfour\n").unwrap();
        assert_eq!(
            log_tail(&mut log),
            "; its console ends with: two | three | four"
        );
    }

    #[test]
    fn another_protocol_version_is_refused() {
        check_version(protocol::PROTOCOL_VERSION).unwrap();
        let error = check_version(99).unwrap_err().to_string();
        assert!(error.contains("protocol 99"), "{error}");
    }
}
