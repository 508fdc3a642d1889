//! What is to be seen of the system by reading files.

use std::fs::{self, File};
use std::io::Read;
use std::net::Ipv4Addr;

use protocol::probe::{Kernel, LIST_MAX, Seen, Shown, TEXT_BYTES_MAX};
use rustix::process::{getgid, getuid};

use super::one_line;
use crate::spawn;

/// Bytes that are read of a file.
const FILE_MAX: u64 = 1 << 20;

/// Bytes of a file that its text in the report is made of.
const SHOWN_MAX: usize = 4096;

/// Files that tell of the machine: its hardware, its kernel's settings, its load, its disks, its log.
const FILES: [&str; 18] = [
    "/proc/cmdline",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/modules",
    "/proc/version",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/stat",
    "/proc/diskstats",
    "/proc/partitions",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/config.gz",
    "/proc/sys/kernel/random/boot_id",
    "/sys/class/dmi/id/product_name",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/virtual/dmi/id/bios_version",
    "/sys/kernel/vmcoreinfo",
];

pub(super) fn kernel() -> Kernel {
    Kernel {
        release: one_line(&rustix::system::uname().release().to_string_lossy()),
        boot_id: one_line(&text("/proc/sys/kernel/random/boot_id")),
        uptime_ms: spawn::boottime_ns() / 1_000_000,
    }
}

pub(super) fn seen() -> Seen {
    let is_number = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    Seen {
        processes: count(names("/proc").iter().filter(|name| is_number(name)).count()),
        mounts: lines("/proc/self/mountinfo"),
        user: (getuid().as_raw(), getgid().as_raw()),
        uid_map: one_line(&text("/proc/self/uid_map")),
        system_users: lines("/etc/passwd"),
        hostname: one_line(&rustix::system::uname().nodename().to_string_lossy()),
        addresses: addresses(&text("/proc/net/fib_trie")),
        devices: listed(names("/dev")),
        disks: listed(names("/sys/block")),
    }
}

pub(super) fn files() -> Vec<Shown> {
    let shown = |path: &str| {
        let text = text(path);
        let mut end = text.len().min(SHOWN_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let line = one_line(text.get(..end).unwrap_or_default());
        Shown {
            path: path.to_owned(),
            text: (!line.is_empty()).then_some(line),
        }
    };
    FILES.iter().map(|path| shown(path)).collect()
}

/// A file's beginning; nothing when it can't be read.
pub(super) fn text(path: &str) -> String {
    let mut bytes = Vec::new();
    // What was read before an error counts.
    let _ = File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lines(path: &str) -> u64 {
    count(text(path).lines().count())
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Names within the limits of a report.
fn listed(names: Vec<String>) -> Vec<String> {
    let fits = |name: &String| name.len() <= TEXT_BYTES_MAX;
    names.into_iter().filter(fits).take(LIST_MAX).collect()
}

/// Own addresses in the kernel's routing table: the line behind an address says `host LOCAL`.
fn addresses(trie: &str) -> Vec<String> {
    let mut last: Option<Ipv4Addr> = None;
    let mut found = Vec::new();
    for line in trie.lines() {
        if let Some((_, word)) = line.rsplit_once("|-- ") {
            last = word.trim().parse().ok();
        } else if line.contains("host LOCAL") {
            found.extend(last.take());
        }
    }
    found.sort_unstable();
    found.dedup();
    let own = found.into_iter().filter(|address| !address.is_loopback());
    listed(own.map(|address| address.to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_those_of_the_local_table() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                    |-- 10.0.2.15\n        /32 host LOCAL\n     |-- 10.0.2.255\n        /32 link \
                    BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\nLocal:\n     |-- \
                    10.0.2.15\n        /32 host LOCAL\n";
        assert_eq!(addresses(trie), ["10.0.2.15"]);
        assert!(addresses("|-- x\n /32 host LOCAL").is_empty());
    }
}
