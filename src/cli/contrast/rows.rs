//! Two sets of measurements to rows: pure.

use std::fs;

use protocol::probe::{Ia32, InterfaceName, Report};
use serde::Serialize;
use serde_json::{Value, json};

use super::side::Measured;

/// What is compared, whole.
pub struct Contrast {
    /// As the user named it.
    pub image: String,
    /// The command that ran in both, if any.
    pub command: Vec<String>,
    /// Limits of both, as given.
    pub memory: String,
    /// See `memory`.
    pub cpus: String,
    /// The host.
    pub host: Host,
    /// In a microVM.
    pub vm: Measured,
    /// As a plain container, or why not.
    pub container: Result<Measured, String>,
    /// Host system calls that the VMM's filters let through.
    pub vmm_syscalls: usize,
}

/// What this host says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// `uname -r`.
    pub release: String,
    /// Of this boot.
    pub boot_id: String,
    /// Host name.
    pub hostname: String,
}

impl Host {
    /// Reads what this host shows.
    pub fn of_this() -> Self {
        let text = |path: &str| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        Self {
            release: text("/proc/sys/kernel/osrelease"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            hostname: text("/proc/sys/kernel/hostname"),
        }
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What it belongs to.
    pub group: &'static str,
    /// What is compared.
    pub name: &'static str,
    /// In the microVM.
    pub vm: String,
    /// In the plain container; empty when there is none.
    pub container: String,
}

const KERNEL: &str = "kernel";
const SEEN: &str = "what it sees";
const SURFACE: &str = "what it reaches";
const OWN: &str = "what is its own";
const COST: &str = "what it costs";

/// Longest value in a row, in characters; more is cut.
const VALUE_MAX: usize = 400;

/// All rows in order.
pub fn rows(contrast: &Contrast) -> Vec<Row> {
    let mut table = Table {
        rows: Vec::new(),
        vm: &contrast.vm,
        container: contrast.container.as_ref().ok(),
    };
    kernel(&mut table, &contrast.host);
    seen(&mut table);
    surface(&mut table, contrast);
    own(&mut table, contrast);
    cost(&mut table);
    table.rows
}

struct Table<'a> {
    rows: Vec<Row>,
    vm: &'a Measured,
    container: Option<&'a Measured>,
}

impl Table<'_> {
    /// The same question to both sides.
    fn both(&mut self, group: &'static str, name: &'static str, of: impl Fn(&Measured) -> String) {
        let vm = of(self.vm);
        let container = self.container.map(of).unwrap_or_default();
        self.put(group, name, vm, container);
    }

    fn put(&mut self, group: &'static str, name: &'static str, vm: String, container: String) {
        let container = match self.container {
            Some(_) => shown(&container),
            None => String::new(),
        };
        self.rows.push(Row {
            group,
            name,
            vm: shown(&vm),
            container,
        });
    }
}

/// What a stranger may have written, in one line and bounded.
fn shown(text: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut line: String = text.chars().take(VALUE_MAX).map(clean).collect();
    if text.chars().count() > VALUE_MAX {
        line.push('…');
    }
    line
}

fn kernel(table: &mut Table, host: &Host) {
    table.both(KERNEL, "whose", |side| {
        let own = side.report.kernel.boot_id != host.boot_id;
        if own { "its own" } else { "the host's" }.to_owned()
    });
    table.both(KERNEL, "release", |side| side.report.kernel.release.clone());
    table.both(KERNEL, "boot id", |side| side.report.kernel.boot_id.clone());
    table.both(KERNEL, "up for", |side| {
        seconds(side.report.kernel.uptime_ms)
    });
}

fn seen(table: &mut Table) {
    table.both(SEEN, "processes", |side| {
        side.report.seen.processes.to_string()
    });
    table.both(SEEN, "mounts", |side| side.report.seen.mounts.to_string());
    table.both(SEEN, "devices in /dev", |side| {
        count(&side.report.seen.devices)
    });
    table.both(SEEN, "disks in /sys/block", |side| {
        let disks = &side.report.seen.disks;
        if disks.is_empty() {
            "none".to_owned()
        } else {
            format!("{}: {}", disks.len(), disks.join(" "))
        }
    });
    table.both(SEEN, "files of /proc and /sys on the machine", |side| {
        let files = &side.report.files;
        let readable = files.iter().filter(|file| file.text.is_some()).count();
        format!("{readable} of {} readable", files.len())
    });
    for (name, path, words) in [
        ("memory of the machine", "/proc/meminfo", 1..3),
        (
            "CPU numbers of the machine",
            "/sys/devices/system/cpu/possible",
            0..1,
        ),
        ("load of the machine", "/proc/loadavg", 0..3),
        ("kernel's command line", "/proc/cmdline", 0..usize::MAX),
    ] {
        table.both(SEEN, name, |side| {
            words_of(&side.report, path, words.clone())
        });
    }
}

/// Some words of a file that the probe read.
fn words_of(report: &Report, path: &str, words: std::ops::Range<usize>) -> String {
    let file = report.files.iter().find(|file| file.path == path);
    let Some(text) = file.and_then(|file| file.text.as_ref()) else {
        return "not readable".to_owned();
    };
    let picked: Vec<&str> = text
        .split(' ')
        .skip(words.start)
        .take(words.len())
        .collect();
    picked.join(" ")
}

fn surface(table: &mut Table, contrast: &Contrast) {
    let of_kernel = |side: &Measured| {
        let calls = &side.report.syscalls;
        format!("{} of {}", calls.reached.len(), calls.tried())
    };
    table.both(
        SURFACE,
        "system calls that its kernel's code answers",
        of_kernel,
    );
    table.both(SURFACE, "the same of 32-bit programs", |side| {
        match &side.report.ia32 {
            Ia32::Tried(calls) => format!("{} of {}", calls.reached.len(), calls.tried()),
            Ia32::Absent => "none: its kernel has no entry for them".to_owned(),
            Ia32::Killed => "none: the first one kills".to_owned(),
        }
    });
    let vmm = format!("0 itself; {} by its VMM's filters", contrast.vmm_syscalls);
    let container = table.container.map(|side| reached(&side.report));
    table.put(
        SURFACE,
        "host system calls it reaches",
        vmm,
        container.unwrap_or_default(),
    );
    for (name, label) in [
        (InterfaceName::Keyrings, "keyrings"),
        (InterfaceName::Bpf, "bpf"),
        (InterfaceName::IoUring, "io_uring"),
        (InterfaceName::UserNamespaces, "user namespaces"),
        (InterfaceName::Perf, "perf events"),
        (InterfaceName::Netfilter, "netfilter"),
    ] {
        table.both(SURFACE, label, |side| interface(&side.report, name));
    }
}

/// How many system calls a probe reached; those of 32-bit programs are told apart, as many are the same
/// code behind another number.
fn reached(report: &Report) -> String {
    let own = report.syscalls.reached.len();
    match &report.ia32 {
        Ia32::Tried(calls) => format!("{own}, and {} of 32 bits", calls.reached.len()),
        Ia32::Absent | Ia32::Killed => own.to_string(),
    }
}

fn interface(report: &Report, name: InterfaceName) -> String {
    match report.interfaces.iter().find(|one| one.name == name) {
        None => "not tried".to_owned(),
        Some(one) => match one.errno {
            None => "open".to_owned(),
            Some(libc::ENOSYS | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
                "not in its kernel, or filtered".to_owned()
            }
            Some(libc::EPERM | libc::EACCES) => "refused".to_owned(),
            Some(errno) => format!("error {errno}"),
        },
    }
}

/// The list of what a container is said to have of its own.
fn own(table: &mut Table, contrast: &Contrast) {
    table.both(OWN, "system users", |side| {
        let seen = &side.report.seen;
        format!(
            "{} in /etc/passwd; runs as {}:{}, ids {}",
            seen.system_users, seen.user.0, seen.user.1, seen.uid_map
        )
    });
    table.both(OWN, "host name", |side| {
        let name = &side.report.seen.hostname;
        let own = *name != contrast.host.hostname;
        format!("{name} ({})", if own { "own" } else { "the host's" })
    });
    table.both(OWN, "IP addresses", |side| {
        let addresses = &side.report.seen.addresses;
        if addresses.is_empty() {
            "none but the loopback's".to_owned()
        } else {
            addresses.join(" ")
        }
    });
    table.both(OWN, "memory quota", |side| {
        let quotas = &side.report.quotas;
        let held = match quotas.memory_held {
            true => format!("killed after {} MiB", quotas.memory_touched_mib),
            false => format!("not held: took {} MiB", quotas.memory_touched_mib),
        };
        format!("{held}; memory.max {}", or_none(&quotas.memory_limit))
    });
    table.both(OWN, "CPU quota", |side| {
        let quotas = &side.report.quotas;
        format!(
            "{} CPUs got by 4 threads; cpu.max {}; {} CPUs",
            ratio(quotas.cpu_used_us, quotas.cpu_wall_us),
            or_none(&quotas.cpu_limit),
            quotas.cpus
        )
    });
    table.both(OWN, "process quota", |side| {
        or_none(&side.report.quotas.pids_limit).to_owned()
    });
    table.both(OWN, "file system segment", |side| {
        let quotas = &side.report.quotas;
        format!(
            "{}, {} free of {}",
            quotas.disk_type,
            bytes(quotas.disk_free_bytes),
            bytes(quotas.disk_bytes)
        )
    });
    let panic = table.vm.panic.as_ref().map_or_else(String::new, |panic| {
        let rest = if panic.other_lives {
            "went on"
        } else {
            "did not answer any more"
        };
        // Without the console's last lines, which are a stranger's.
        let words = panic
            .words
            .split("; its console")
            .next()
            .unwrap_or_default();
        format!(
            "its VM ended, code {}; the host and another VM {rest} ({words})",
            panic.code
        )
    });
    table.put(
        OWN,
        "a kernel panic in the workload",
        panic,
        "not tried: it would be the host's, and all containers'".to_owned(),
    );
}

/// Memory on the host, and what of it is not known.
fn memory(side: &Measured) -> String {
    let sum = bytes(side.memory_bytes);
    match side.unread {
        0 => format!("{sum} in {} processes", side.processes),
        unread => format!(
            "more than {sum}: only root may look into {unread} of {} processes",
            side.processes
        ),
    }
}

fn cost(table: &mut Table) {
    table.both(COST, "start to first output", |side| {
        format!("{} ms", side.start_ms)
    });
    table.both(COST, "memory on the host", memory);
    table.both(COST, "disk shared by the image's containers", |side| {
        bytes(side.disk_shared_bytes)
    });
    table.both(COST, "disk of its own", |side| bytes(side.disk_own_bytes));
    if table.vm.report.command.is_some() {
        table.both(COST, "the command", |side| match &side.report.command {
            Some(end) => match end.code {
                Some(code) => format!("{} ms, exit code {code}", end.wall_ms),
                None => format!("still ran after {} ms", end.wall_ms),
            },
            None => "did not run".to_owned(),
        });
    }
}

fn count(list: &[String]) -> String {
    list.len().to_string()
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "not shown" } else { text }
}

fn seconds(ms: u64) -> String {
    match ms / 1000 {
        0 => format!("{ms} ms"),
        s if s < 3600 => format!("{s} s"),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// Two decimals of a ratio.
fn ratio(part: u64, whole: u64) -> String {
    let hundredths = part.saturating_mul(100) / whole.max(1);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Bytes in the largest binary unit that leaves a whole number of them.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(number) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    match (unit, tenths >= 1000) {
        (0, _) | (_, true) => format!("{} {name}", tenths / 10),
        _ => format!("{}.{} {name}", tenths / 10, tenths % 10),
    }
}

/// The whole as JSON: the rows, and the measurements they are made of.
pub fn json(contrast: &Contrast) -> Value {
    json!({
        "image": contrast.image,
        "command": contrast.command,
        "limits": {"memory": contrast.memory, "cpus": contrast.cpus},
        "host": contrast.host,
        "rows": rows(contrast),
        "vm": contrast.vm,
        "container": contrast.container.as_ref().ok(),
        "container_error": contrast.container.as_ref().err(),
        "vmm_syscalls": contrast.vmm_syscalls,
    })
}

#[cfg(test)]
pub mod tests {
    use super::super::side::Panic;
    use super::*;

    /// Measurements of both sides.
    pub fn sample() -> Contrast {
        let vm = Measured {
            start_ms: 190,
            memory_bytes: 43 << 20,
            processes: 4,
            unread: 0,
            disk_shared_bytes: 4 << 20,
            disk_own_bytes: 300 << 10,
            panic: Some(Panic {
                words: "the VM ended early".to_owned(),
                code: 125,
                other_lives: true,
            }),
            report: protocol::probe::sample(),
        };
        let mut container = vm.clone();
        container.panic = None;
        container.start_ms = 90;
        container.report.kernel.boot_id = "host".to_owned();
        container.report.syscalls.reached = (0..300).collect();
        Contrast {
            image: "busybox".to_owned(),
            command: Vec::new(),
            memory: "64m".to_owned(),
            cpus: "0.5".to_owned(),
            host: Host {
                release: "6.1".to_owned(),
                boot_id: "host".to_owned(),
                hostname: "box".to_owned(),
            },
            vm,
            container: Ok(container),
            vmm_syscalls: 31,
        }
    }

    fn row(contrast: &Contrast, name: &str) -> (String, String) {
        let row = rows(contrast)
            .into_iter()
            .find(|row| row.name == name)
            .unwrap();
        (row.vm, row.container)
    }

    #[test]
    fn whose_kernel_it_is_is_told_by_the_boot_id() {
        let (vm, container) = row(&sample(), "whose");
        assert_eq!((vm.as_str(), container.as_str()), ("its own", "the host's"));
    }

    #[test]
    fn the_syscalls_of_a_container_are_the_hosts() {
        let (vm, container) = row(&sample(), "host system calls it reaches");
        assert_eq!(container, "300");
        assert_eq!(vm, "0 itself; 31 by its VMM's filters");
    }

    #[test]
    fn calls_of_32_bit_programs_are_told_apart() {
        let mut contrast = sample();
        let name = "the same of 32-bit programs";
        assert!(row(&contrast, name).0.starts_with("none: its kernel"));
        let mut calls = protocol::probe::sample().syscalls;
        calls.reached = (0..290).collect();
        let container = contrast.container.as_mut().unwrap();
        container.report.ia32 = Ia32::Tried(calls);
        assert_eq!(row(&contrast, name).1, "290 of 292");
        let (_, reached) = row(&contrast, "host system calls it reaches");
        assert_eq!(reached, "300, and 290 of 32 bits");
        contrast.vm.report.ia32 = Ia32::Killed;
        assert_eq!(row(&contrast, name).0, "none: the first one kills");
    }

    #[test]
    fn a_quota_that_does_not_hold_is_said() {
        let mut contrast = sample();
        let (vm, _) = row(&contrast, "memory quota");
        assert_eq!(vm, "killed after 61 MiB; memory.max 67108864");
        contrast.vm.report.quotas.memory_held = false;
        assert!(row(&contrast, "memory quota").0.starts_with("not held"));
        assert!(row(&contrast, "CPU quota").0.starts_with("0.50 CPUs"));
    }

    #[test]
    fn without_a_container_its_column_is_empty_and_the_rows_are_there() {
        let mut contrast = sample();
        contrast.container = Err("no runtime".to_owned());
        let all = rows(&contrast);
        assert!(all.iter().all(|row| row.container.is_empty()));
        assert!(all.len() > 20);
        assert_eq!(json(&contrast)["container_error"], "no runtime");
    }

    #[test]
    fn what_a_probe_claims_is_bounded_and_harmless() {
        let mut contrast = sample();
        contrast.vm.report.kernel.release = format!("\u{1b}[2J{}", "x".repeat(500));
        let (vm, _) = row(&contrast, "release");
        assert!(!vm.contains('\u{1b}') && vm.chars().count() == VALUE_MAX + 1);
    }

    #[test]
    fn memory_that_is_not_known_is_no_figure() {
        let mut contrast = sample();
        let of = |contrast: &Contrast| row(contrast, "memory on the host").0;
        assert_eq!(of(&contrast), "43.0 MiB in 4 processes");
        contrast.vm.unread = 1;
        assert!(of(&contrast).starts_with("more than 43.0 MiB: only root"));
    }

    #[test]
    fn bytes_have_a_binary_unit() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (300 << 10, "300 KiB"),
            (20 << 30, "20.0 GiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}
