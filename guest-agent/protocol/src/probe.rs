//! What a container sees of the kernel below it: the report of the probe.
//!
//! Written by the agent's mode `probe` (`guest-agent/src/probe`), inside a container with that
//! container's own confinement; read by `bulkhead contrast` on the host, for which every byte is a
//! claim of an untrusted party. A report is one line of JSON behind the line [`READY`].

use serde::{Deserialize, Serialize};

/// `argv[0]` with which the agent's program is the probe.
pub const PROBE_NAME: &str = "bulkhead-probe";

/// First line of the probe, written before it measures anything: its time is the start time.
pub const READY: &str = "bulkhead-probe 1";

/// Longest report in bytes: the lists at their limits with room for names.
pub const REPORT_BYTES_MAX: usize = 256 << 10;

/// Longest text in a report in bytes.
pub const TEXT_BYTES_MAX: usize = 256;

/// Longest list in a report.
pub const LIST_MAX: usize = 512;

/// System call numbers that are tried: 0 to this, exclusive (x86-64 and i386, Linux 6.12).
pub const SYSCALLS_END: u16 = 463;

/// What becomes of the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// It runs in place of the image's program.
    Report,
    /// Instead of a container, the guest's kernel panics: PID 1 ends.
    Panic,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The kernel.
    pub kernel: Kernel,
    /// What is to be seen of the system.
    pub seen: Seen,
    /// System calls.
    pub syscalls: Syscalls,
    /// Those of 32-bit programs.
    pub ia32: Ia32,
    /// Kernel interfaces beyond plain files and processes.
    pub interfaces: Vec<Interface>,
    /// Files of `/proc` and `/sys` that tell of the machine.
    pub files: Vec<Shown>,
    /// Whether limits hold.
    pub quotas: Quotas,
    /// The command that was given, if one was.
    pub command: Option<CommandEnd>,
}

/// Whose kernel it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Milliseconds since it booted (`CLOCK_BOOTTIME`).
    pub uptime_ms: u64,
}

/// What is to be seen of the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Processes in `/proc`.
    pub processes: u64,
    /// Lines of `/proc/self/mountinfo`.
    pub mounts: u64,
    /// User and group of the probe.
    pub user: (u32, u32),
    /// `/proc/self/uid_map` in one line.
    pub uid_map: String,
    /// Lines of `/etc/passwd`.
    pub system_users: u64,
    /// Host name.
    pub hostname: String,
    /// Addresses of its interfaces, without the loopback's.
    pub addresses: Vec<String>,
    /// Names in `/dev`.
    pub devices: Vec<String>,
    /// Names in `/sys/block`.
    pub disks: Vec<String>,
}

/// What became of each system call, tried with arguments that are wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Syscalls {
    /// The kernel's own code answered.
    pub reached: Vec<u16>,
    /// `EPERM`: a filter or a missing capability.
    pub refused: Vec<u16>,
    /// `ENOSYS`: this kernel has it not, or a filter says so.
    pub absent: Vec<u16>,
    /// The process was killed for it.
    pub killed: Vec<u16>,
    /// Not tried: they end, stop or duplicate who calls them.
    pub skipped: Vec<u16>,
}

/// What became of the calls of 32-bit programs (`int 0x80`), a second way into the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ia32 {
    /// Each was tried; the numbers are those of i386.
    Tried(Syscalls),
    /// The kernel has no such entry.
    Absent,
    /// A process is killed for the first one.
    Killed,
}

/// A kernel interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Which.
    pub name: InterfaceName,
    /// Whether it could be used or its code was reached; else the error's number.
    pub errno: Option<i32>,
}

/// Interfaces that attackers of kernels look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterfaceName {
    /// `keyctl`.
    Keyrings,
    /// `bpf`.
    Bpf,
    /// `io_uring_setup`.
    IoUring,
    /// `unshare(CLONE_NEWUSER)`.
    UserNamespaces,
    /// `perf_event_open`.
    Perf,
    /// A netlink socket of netfilter.
    Netfilter,
}

/// A file that tells of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// Its path.
    pub path: String,
    /// Its beginning in one line; `None` when it can't be read or is empty.
    pub text: Option<String>,
}

/// Whether limits hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quotas {
    /// `memory.max` as text.
    pub memory_limit: String,
    /// MiB that a child had touched when it was killed, or when it gave up.
    pub memory_touched_mib: u32,
    /// Whether it was killed.
    pub memory_held: bool,
    /// `cpu.max` as text.
    pub cpu_limit: String,
    /// CPUs that the probe may run on.
    pub cpus: u32,
    /// CPU time that four spinning threads got, in microseconds …
    pub cpu_used_us: u64,
    /// … in this time.
    pub cpu_wall_us: u64,
    /// `pids.max` as text.
    pub pids_limit: String,
    /// Type of the file system at `/`.
    pub disk_type: String,
    /// Its size in bytes.
    pub disk_bytes: u64,
    /// What of it is free.
    pub disk_free_bytes: u64,
}

/// How the command that was given ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandEnd {
    /// Docker's code; `None` when it did not end in time.
    pub code: Option<u8>,
    /// Milliseconds that it took.
    pub wall_ms: u64,
}

/// Why bytes are no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Too many bytes.
    #[error("the probe's report has {0} bytes, at most {REPORT_BYTES_MAX} are read")]
    Long(usize),
    /// Not this JSON.
    #[error("the probe's report is none: {0}")]
    Form(serde_json::Error),
    /// A list or a text beyond its limit.
    #[error("the probe's report has {0} of more than its limit")]
    Limit(&'static str),
}

impl Report {
    /// Reads a report; every list and text is within its limit then.
    ///
    /// # Errors
    /// [`ReportError`]; nothing of the bytes is in its words but the place of a fault.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        if bytes.len() > REPORT_BYTES_MAX {
            return Err(ReportError::Long(bytes.len()));
        }
        let report: Self = serde_json::from_slice(bytes).map_err(|error| {
            // The words of an error may quote what was read.
            let place = format!("line {} column {}", error.line(), error.column());
            ReportError::Form(serde::de::Error::custom(place))
        })?;
        report.check()?;
        Ok(report)
    }

    fn check(&self) -> Result<(), ReportError> {
        let ia32 = match &self.ia32 {
            Ia32::Tried(calls) => Some(calls),
            Ia32::Absent | Ia32::Killed => None,
        };
        for calls in ia32.into_iter().chain([&self.syscalls]) {
            calls.check()?;
        }
        let lists = [
            self.seen.addresses.len(),
            self.seen.devices.len(),
            self.seen.disks.len(),
            self.interfaces.len(),
            self.files.len(),
        ];
        if lists.iter().any(|len| *len > LIST_MAX) {
            return Err(ReportError::Limit("a list"));
        }
        let texts = [
            &self.kernel.release,
            &self.kernel.boot_id,
            &self.seen.uid_map,
            &self.seen.hostname,
            &self.quotas.memory_limit,
            &self.quotas.cpu_limit,
            &self.quotas.pids_limit,
            &self.quotas.disk_type,
        ];
        let seen = &self.seen;
        let shown = self
            .files
            .iter()
            .flat_map(|file| std::iter::once(&file.path).chain(&file.text));
        let all = texts
            .into_iter()
            .chain(&seen.addresses)
            .chain(&seen.devices)
            .chain(&seen.disks)
            .chain(shown);
        for text in all {
            if text.len() > TEXT_BYTES_MAX {
                return Err(ReportError::Limit("a text"));
            }
        }
        Ok(())
    }
}

impl Syscalls {
    /// How many were tried.
    #[must_use]
    pub fn tried(&self) -> usize {
        [&self.reached, &self.refused, &self.absent, &self.killed]
            .map(Vec::len)
            .into_iter()
            .sum()
    }

    fn check(&self) -> Result<(), ReportError> {
        let lists = [
            &self.reached,
            &self.refused,
            &self.absent,
            &self.killed,
            &self.skipped,
        ];
        if lists.iter().any(|list| list.len() > LIST_MAX) {
            return Err(ReportError::Limit("a list"));
        }
        let mut numbers = lists.into_iter().flatten();
        if numbers.any(|number| *number >= SYSCALLS_END) {
            return Err(ReportError::Limit("a system call's number"));
        }
        Ok(())
    }
}

/// A report for tests.
#[must_use]
pub fn sample() -> Report {
    Report {
        kernel: Kernel {
            release: "6.12.1".to_owned(),
            boot_id: "b0b0".to_owned(),
            uptime_ms: 900,
        },
        seen: Seen {
            processes: 1,
            mounts: 20,
            user: (0, 0),
            uid_map: "0 0 4294967295".to_owned(),
            system_users: 10,
            hostname: "box".to_owned(),
            addresses: vec!["10.0.2.15".to_owned()],
            devices: vec!["null".to_owned()],
            disks: vec!["vda".to_owned()],
        },
        syscalls: Syscalls {
            reached: vec![0, 1],
            refused: vec![2],
            absent: vec![3],
            killed: Vec::new(),
            skipped: vec![60],
        },
        ia32: Ia32::Absent,
        interfaces: vec![Interface {
            name: InterfaceName::Bpf,
            errno: Some(1),
        }],
        files: vec![Shown {
            path: "/proc/cmdline".to_owned(),
            text: Some("quiet".to_owned()),
        }],
        quotas: Quotas {
            memory_limit: "67108864".to_owned(),
            memory_touched_mib: 61,
            memory_held: true,
            cpu_limit: "50000 100000".to_owned(),
            cpus: 1,
            cpu_used_us: 250_000,
            cpu_wall_us: 500_000,
            pids_limit: "max".to_owned(),
            disk_type: "overlay".to_owned(),
            disk_bytes: 20 << 30,
            disk_free_bytes: 19 << 30,
        },
        command: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let bytes = serde_json::to_vec(&sample()).unwrap();
        assert_eq!(Report::parse(&bytes).unwrap(), sample());
    }

    #[test]
    fn what_is_beyond_a_limit_is_refused() {
        let refused = |change: &dyn Fn(&mut Report)| {
            let mut report = sample();
            change(&mut report);
            let bytes = serde_json::to_vec(&report).unwrap();
            Report::parse(&bytes).unwrap_err().to_string()
        };
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        assert!(refused(&|r| r.seen.hostname.clone_from(&long)).contains("a text"));
        assert!(refused(&|r| r.seen.addresses.push(long.clone())).contains("a text"));
        assert!(refused(&|r| r.syscalls.reached = vec![1; LIST_MAX + 1]).contains("a list"));
        assert!(refused(&|r| r.syscalls.killed = vec![SYSCALLS_END]).contains("number"));
        let mut calls = sample().syscalls;
        calls.skipped = vec![SYSCALLS_END];
        assert!(refused(&|r| r.ia32 = Ia32::Tried(calls.clone())).contains("number"));
        let many = vec![b' '; REPORT_BYTES_MAX + 1];
        assert!(matches!(Report::parse(&many), Err(ReportError::Long(_))));
    }

    #[test]
    fn unknown_members_are_refused_and_not_quoted() {
        let mut value = serde_json::to_value(sample()).unwrap();
        value["kernel"]["evil\u{1b}[2J"] = 1.into();
        let error = Report::parse(value.to_string().as_bytes()).unwrap_err();
        assert!(!error.to_string().contains("evil"), "{error}");
    }
}
