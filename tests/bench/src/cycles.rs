//! Many containers, one after the other: what the host has more of afterwards. Here figures have
//! limits, and a growth beyond one ends the run: what grows is a leak.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::table::Table;

/// Cycles before the first look: templates, caches and journals are there then.
const WARM_UP: u32 = 5;

/// The first look is after so many cycles; each further one after ten times as many, but never after so
/// many more than the last.
const FIRST_LOOK: u32 = 10;
const LONGEST_STRIDE: u32 = 100;

/// One VM in so many cycles may die like this, and leaves nothing either: where VMs are emulated that
/// happens now and then for no fault of their own (docs/adr/0005). Any other failure ends the run.
const CYCLES_PER_DEATH: u32 = 50;
const DEATH: &str = "the guest's CPU ended in a triple fault";

/// Of the host, published in each cycle.
const PORT: u16 = 18_080;

/// What is counted, its unit, and by how much it may grow however many cycles there are: the rest of
/// the host lives on meanwhile.
const LIMITS: [(&str, &str, u64); 7] = [
    ("processes", "", 4),
    ("open files of the host", "", 64),
    ("mounts", "", 0),
    ("control groups", "", 0),
    ("files of the state root", "", 0),
    // The journal of events may have two files of 4 MiB.
    ("disk of the state root", "KiB", 8 << 10),
    ("memory that is no cache", "KiB", 32 << 10),
];

/// Starts and stops so many containers and adds the rows. After 10, 100 … it says what there is by then,
/// so that a slow growth shows long before its limit, and a run that is ended early has told something.
///
/// # Errors
/// When something grows beyond its limit, or a cycle fails that may not.
pub fn measure(host: &Host, cycles: u32, table: &mut Table) -> Result<()> {
    let deaths_most = cycles.div_ceil(CYCLES_PER_DEATH);
    let mut deaths = 0;
    for _ in 0..WARM_UP {
        cycle(host)?;
    }
    let before = count(host)?;
    tell(0, &before);
    let mut next = FIRST_LOOK;
    for number in 1..=cycles {
        if let Err(error) = cycle(host) {
            if deaths == deaths_most || !format!("{error:#}").contains(DEATH) {
                return Err(
                    error.context(format!("start and stop {number}, {deaths} VMs died before"))
                );
            }
            eprintln!("start and stop {number}: {error:#}");
            deaths += 1;
            host.output(&["rm", "-f", "-v", "cycle"])?;
        }
        if number == next {
            tell(number, &count(host)?);
            next = next
                .saturating_mul(10)
                .min(next.saturating_add(LONGEST_STRIDE));
        }
    }
    let after = count(host)?;
    table.add(
        &format!("VMs that died, {cycles} starts and stops"),
        deaths.to_string(),
        &format!("at most {deaths_most}"),
        "",
    );
    let mut leaks = Vec::new();
    for (name, unit, limit) in LIMITS {
        let of = |all: &BTreeMap<&str, u64>| all.get(name).copied().context(name);
        let (old, new) = (of(&before)?, of(&after)?);
        let text = format!("{old} to {new} {unit}");
        table.add(
            &format!("{name}, {cycles} starts and stops"),
            text.trim_end().to_owned(),
            &format!("at most {limit} more"),
            "",
        );
        if new > old.saturating_add(limit) {
            leaks.push(format!("{name}: {text}"));
        }
    }
    if !leaks.is_empty() {
        bail!("grown by {cycles} starts and stops: {}", leaks.join(", "));
    }
    Ok(())
}

/// What there is after so many cycles, on standard error: the table comes at the end.
fn tell(cycles: u32, counted: &BTreeMap<&str, u64>) {
    let figures: Vec<_> = LIMITS
        .iter()
        .filter_map(|(name, unit, _)| Some(format!("{name} {} {unit}", counted.get(name)?)))
        .collect();
    eprintln!("after {cycles} starts and stops: {}", figures.join(", "));
}

/// A container's life, with each process that one has (a file server for its shares, passt for its port)
/// and a volume that goes with it: started in the background, used, restarted, stopped, removed.
fn cycle(host: &Host) -> Result<()> {
    let port = format!("127.0.0.1:{PORT}:80");
    let with = ["-p", &port, "-v", "/usr:/host:ro", "-v", "/data"];
    let run = [
        &["run", "-d", "--name", "cycle"],
        &with[..],
        &["busybox", "sleep", "1000"],
    ];
    host.output(&run.concat())?;
    host.output(&["exec", "cycle", "cp", "/host/bin/env", "/data/"])?;
    host.output(&["restart", "-t", "0", "cycle"])?;
    host.output(&["stop", "-t", "0", "cycle"])?;
    host.output(&["rm", "-v", "cycle"])?;
    Ok(())
}

/// What there is when no process of the command is left.
fn count(host: &Host) -> Result<BTreeMap<&'static str, u64>> {
    host.wait_until_idle()?;
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
    let number = |text: Option<&str>| -> Result<u64> {
        text.and_then(|text| text.parse().ok())
            .context("a number of the kernel's")
    };
    // The kernel's own come and go, and execute nothing.
    let processes = fs::read_dir("/proc")?
        .flatten()
        .filter(|entry| fs::read_link(entry.path().join("exe")).is_ok())
        .count();
    let memory = read("/proc/meminfo")?;
    let kib = |wanted: &str| -> Result<u64> {
        let line = memory.lines().find_map(|line| line.strip_prefix(wanted));
        number(line.and_then(|line| line.split_whitespace().next()))
    };
    let used = [
        "AnonPages:",
        "SUnreclaim:",
        "PageTables:",
        "Shmem:",
        "KernelStack:",
    ]
    .iter()
    .map(|name| kib(name))
    .sum::<Result<u64>>()?;
    Ok(BTreeMap::from([
        ("processes", u64::try_from(processes)?),
        (
            "open files of the host",
            number(read("/proc/sys/fs/file-nr")?.split_whitespace().next())?,
        ),
        (
            "mounts",
            u64::try_from(read("/proc/self/mounts")?.lines().count())?,
        ),
        ("control groups", entries(Path::new("/sys/fs/cgroup"), true)),
        (
            "files of the state root",
            entries(&host.state_root(), false),
        ),
        (
            "disk of the state root",
            blocks(&host.state_root()).div_ceil(2),
        ),
        ("memory that is no cache", used),
    ]))
}

/// Files and folders below one, or folders alone.
fn entries(folder: &Path, only_folders: bool) -> u64 {
    let mut count = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder {
                folders.push(entry.path());
            }
            count += u64::from(is_folder || !only_folders);
        }
    }
    count
}

/// Blocks of 512 bytes that the files below a folder take.
fn blocks(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut count = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        count += match metadata.is_dir() {
            true => blocks(&entry.path()),
            false => metadata.blocks(),
        };
    }
    count
}
