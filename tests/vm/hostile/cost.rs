//! What one hostile image costs: the memory of each process, and space in the state root. The limits are
//! those of docs/hostile.md.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use harness::process::Process;
use harness::{Sandbox, below};
use hostile_images::limits::{COMMAND_MIB_MAX, ROOT_MIB_MAX, SUPERVISOR_MIB_MAX, VMM_MIB_MAX};

/// Between two looks at the processes. The kernel keeps the most that each ever had (`VmHWM`, proc(5)), so
/// that only what one takes right before its end is not seen.
const INTERVAL: Duration = Duration::from_millis(100);

/// The most there was in KiB, of all images, to be printed: by [`Kind`], and of the state root.
static MOST_KIB: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// What a process of the command is.
#[derive(Clone, Copy)]
enum Kind {
    Command,
    Supervisor,
    Vmm,
}

impl Kind {
    fn of(process: &Process) -> Self {
        match process.arguments.first().map(String::as_str) {
            Some("__vmm") => Self::Vmm,
            Some("__supervisor") => Self::Supervisor,
            _ => Self::Command,
        }
    }

    fn mib_max(self) -> u64 {
        match self {
            Self::Command => COMMAND_MIB_MAX,
            Self::Supervisor => SUPERVISOR_MIB_MAX,
            Self::Vmm => VMM_MIB_MAX,
        }
    }
}

fn note(which: usize, kib: u64) {
    if let Some(most) = MOST_KIB.get(which) {
        most.fetch_max(kib, Ordering::Relaxed);
    }
}

/// The most that there was so far, in words.
pub(super) fn most() -> String {
    let [command, supervisor, vmm, root] = &MOST_KIB;
    let mib = |kib: &AtomicU64| kib.load(Ordering::Relaxed).div_ceil(1 << 10);
    format!(
        "at most {} MiB for a command, {} for a supervisor, {} for a VMM, {} in the state root",
        mib(command),
        mib(supervisor),
        mib(vmm),
        mib(root)
    )
}

/// Checks the most memory that each process of the command has had so far, and counts the supervisors.
pub(super) fn of_processes(vm: &Sandbox) -> Result<usize> {
    let mut supervisors = 0;
    for process in vm.processes()? {
        // It may end while we look.
        let Some(kib) = peak_kib(process.id) else {
            continue;
        };
        let kind = Kind::of(&process);
        note(kind as usize, kib);
        ensure!(
            kib <= kind.mib_max() << 10,
            "{kib} KiB of memory for {process:?}"
        );
        supervisors += usize::from(matches!(kind, Kind::Supervisor));
    }
    Ok(supervisors)
}

fn peak_kib(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Does something while the memory of all processes of the command is looked at.
pub(super) fn watched<T>(vm: &Sandbox, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let (ended, end) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            loop {
                of_processes(vm)?;
                match end.recv_timeout(INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return of_processes(vm),
                }
            }
        });
        let done = act();
        drop(ended);
        match watcher.join() {
            Ok(watched) => drop(watched?),
            Err(_) => bail!("looking at processes panicked"),
        }
        done
    })
}

/// Space that the state root takes.
pub(super) struct Space {
    before_kib: u64,
}

impl Space {
    pub(super) fn look(vm: &Sandbox) -> Result<Self> {
        Ok(Self {
            before_kib: kib_below(&vm.root())?,
        })
    }

    /// Checks what it takes more now.
    pub(super) fn is_within_limits(&self, vm: &Sandbox) -> Result<()> {
        let kib = kib_below(&vm.root())?.saturating_sub(self.before_kib);
        note(3, kib);
        ensure!(
            kib <= ROOT_MIB_MAX << 10,
            "the state root takes {kib} KiB more"
        );
        Ok(())
    }
}

/// What the files below a folder take of the disk.
fn kib_below(folder: &Path) -> Result<u64> {
    let mut kib = 0;
    below::walk(folder, |_, metadata| {
        if !metadata.is_dir() {
            // Blocks of 512 bytes, stat(2). A name more takes nothing.
            kib += metadata.blocks() / 2 / metadata.nlink().max(1);
        }
        true
    })?;
    Ok(kib)
}
