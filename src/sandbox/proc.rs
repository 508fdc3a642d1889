//! What the kernel tells of a process (proc(5)). It may have ended, or be another's.
//!
//! Called by those who check whose a process is before they do something to it.

use std::fs;
use std::path::Path;

/// The last word of a line of a file such as `/proc/PID/status`; `name` begins the line, colon included.
#[must_use]
pub fn field(path: impl AsRef<Path>, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next_back().map(str::to_owned)
}

/// The same of a process's status.
#[must_use]
pub fn status(pid: u32, name: &str) -> Option<String> {
    field(format!("/proc/{pid}/status"), name)
}

/// The process that waits for this one.
#[must_use]
pub fn parent(pid: u32) -> Option<u32> {
    status(pid, "PPid:")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_parent_until_it_has_ended() {
        let own = std::process::id();
        assert_eq!(parent(own), Some(std::os::unix::process::parent_id()));
        assert_eq!(status(own, "Tgid:"), Some(own.to_string()));
        assert_eq!(status(own, "Nothing:"), None);
        assert_eq!(parent(u32::MAX), None);
    }
}
