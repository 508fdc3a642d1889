//! The control group of a plain container that root runs (cgroup v2): the runtime makes it, this reads and
//! changes it. An ordinary user's container has none.
//! Called by [`super`], by `bundle` and by the container's agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use protocol::spec::Resources;
use protocol::task::Usage;

use super::super::clock::monotonic_ns;
use super::super::control_group;

/// From the kill of a container's processes to their end, which the kernel may take its time for.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const END_POLL: Duration = Duration::from_millis(2);

/// Files of the control group with what is written to them; `None` where there is no limit.
pub(super) fn limits(limits: &Resources) -> [(&'static str, Option<String>); 6] {
    let text = |number: Option<u64>| number.map(|number| number.to_string());
    let cpu = limits.cpu_quota_us.map(|quota| {
        let period = limits.cpu_period_us.unwrap_or(100_000);
        format!("{quota} {period}")
    });
    [
        ("memory.max", text(limits.memory_max)),
        ("memory.low", text(limits.memory_low)),
        ("memory.swap.max", text(limits.swap_max)),
        ("cpu.weight", text(limits.cpu_weight)),
        ("pids.max", text(limits.pids_max)),
        ("cpu.max", cpu),
    ]
}

/// Where it is.
pub(super) fn folder(id: &str) -> PathBuf {
    Path::new(control_group::MOUNT)
        .join(control_group::OWN)
        .join(id)
}

/// Sets the limits of a container that runs.
///
/// # Errors
/// When the kernel refuses one.
pub(super) fn set_limits(id: &str, resources: &Resources) -> Result<()> {
    for (name, value) in limits(resources) {
        let none = match name {
            "memory.low" => "0",
            "cpu.weight" => "100",
            _ => "max",
        };
        let path = folder(id).join(name);
        if value.is_some() || path.exists() {
            fs::write(&path, value.as_deref().unwrap_or(none))
                .with_context(|| format!("write {name}"))?;
        }
    }
    Ok(())
}

/// Whether the kernel killed a process of the container for want of memory.
pub(super) fn was_out_of_memory(id: &str) -> bool {
    let events = fs::read_to_string(folder(id).join("memory.events")).unwrap_or_default();
    events
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .any(|count| count != "0")
}

/// Removes the control group of a container. Its processes have been killed, and may take a moment to go.
pub(super) fn remove(id: &str) {
    let path = folder(id);
    let until = Instant::now() + END_TIMEOUT;
    while let Ok(entries) = fs::read_dir(&path) {
        let _ = fs::write(path.join("cgroup.kill"), "1");
        for entry in entries.flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        if fs::remove_dir(&path).is_ok() || Instant::now() >= until {
            return;
        }
        thread::sleep(END_POLL);
    }
}

/// What the container uses.
pub(super) fn usage(id: &str) -> Usage {
    let read = |name: &str| fs::read_to_string(folder(id).join(name)).unwrap_or_default();
    let number = |name: &str| read(name).trim().parse().ok();
    let memory = number("memory.current").unwrap_or(0);
    let unused = field(&read("memory.stat"), "inactive_file");
    let total_kib = field(
        &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
        "MemTotal:",
    );
    let io = read("io.stat");
    Usage {
        boottime_ns: monotonic_ns(),
        cpu_us: field(&read("cpu.stat"), "usage_usec"),
        memory_bytes: u64::saturating_sub(memory, unused),
        memory_limit_bytes: number("memory.max").unwrap_or(total_kib.saturating_mul(1024)),
        pids: number("pids.current").unwrap_or(0),
        read_bytes: sum(&io, "rbytes="),
        written_bytes: sum(&io, "wbytes="),
        // The loopback does not count.
        received_bytes: 0,
        sent_bytes: 0,
    }
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .find(|(key, _)| *key == name)
        .and_then(|(_, rest)| rest.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The sum of all numbers behind a key.
fn sum(text: &str, key: &str) -> u64 {
    text.split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_names() {
        let text = "usage_usec 42\nuser_usec 7\nMemTotal:     2048 kB\n";
        assert_eq!(field(text, "usage_usec"), 42);
        assert_eq!(field(text, "MemTotal:"), 2048);
        assert_eq!(field(text, "usage"), 0);
        let io = "8:0 rbytes=1 wbytes=2 rios=3\n8:16 rbytes=10 wbytes=x\n";
        assert_eq!((sum(io, "rbytes="), sum(io, "wbytes=")), (11, 2));
    }
}
