//! The host's limits for the processes of a VM: a control group of its own (cgroup v2), below one that
//! this user may divide.
//!
//! ```text
//! root       /sys/fs/cgroup/bulkhead/<group>
//! others     beside the command's own group, where that is theirs, as below `systemd --user`
//! ```
//! Called by [`super::vm`]; [`super::vmm_process`] enters the group before it is shut in. It is no
//! wall: what the VMM may do is the jail's matter, and where there can be no group, there is none. It
//! knows no container.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use protocol::spec::Resources;
use rustix::process::{Pid, test_kill_process};

/// Where cgroup v2 is mounted.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// The group of all groups that root makes.
pub const OWN: &str = "bulkhead";

/// First letters of a group's name; the ids of its maker's process and of the group follow.
const PREFIX: &str = "bulkhead-vm-";

/// What is limited.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];

/// `cpu.max`: the period in microseconds, the kernel's own choice.
const PERIOD_US: u64 = 100_000;

/// `cpu.weight`: the kernel's own choice.
const WEIGHT: u64 = 100;

/// What a VM with `--cpus` has for its devices, in thousandths of a CPU.
const DEVICES_MILLIS: u64 = 250;

/// What one without has, for a thread that does nothing else.
const DEVICE_THREAD_MILLIS: u64 = 1000;

/// Tasks beside the vCPUs: the event loop, the starter and what a shutdown takes.
const OTHER_TASKS: u64 = 7;

/// Groups of killed supervisors that one start looks at.
const SWEEP_MAX: usize = 4096;

/// Numbers the groups of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// CPU time of a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuShare {
    /// `--cpus`, in thousandths of a CPU; `None` for all of its vCPUs.
    pub millis: Option<u64>,
    /// `--cpu-shares` as `cpu.weight` has it, next to other VMs.
    pub weight: Option<u64>,
}

impl From<&Resources> for CpuShare {
    fn from(resources: &Resources) -> Self {
        let millis = resources.cpu_quota_us.and_then(|quota_us| {
            let period_us = resources.cpu_period_us.unwrap_or(PERIOD_US);
            quota_us.saturating_mul(1000).checked_div(period_us)
        });
        Self {
            millis,
            weight: resources.cpu_weight,
        }
    }
}

/// What a VM may take of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of vCPUs.
    pub vcpu_count: u8,
    /// CPU time.
    pub cpu: CpuShare,
    /// Memory of its processes in bytes, the guest's included; `None` where disks are in memory, too.
    pub memory_bytes: Option<u64>,
}

impl Limits {
    /// Files of the group and what is written to them.
    fn files(&self) -> [(&'static str, String); 4] {
        let tasks = u64::from(self.vcpu_count).saturating_add(OTHER_TASKS);
        [
            ("memory.max", self.memory_max()),
            ("pids.max", tasks.to_string()),
            ("cpu.max", self.cpu_max()),
            ("cpu.weight", self.cpu_weight()),
        ]
    }

    fn memory_max(&self) -> String {
        let bytes = self.memory_bytes.map(|bytes| bytes.to_string());
        bytes.unwrap_or_else(|| "max".to_owned())
    }

    fn cpu_weight(&self) -> String {
        self.cpu.weight.unwrap_or(WEIGHT).to_string()
    }

    fn cpu_max(&self) -> String {
        let millis = match self.cpu.millis {
            Some(millis) => millis.saturating_add(DEVICES_MILLIS),
            None => u64::from(self.vcpu_count)
                .saturating_mul(1000)
                .saturating_add(DEVICE_THREAD_MILLIS),
        };
        let quota_us = millis.saturating_mul(PERIOD_US) / 1000;
        format!("{quota_us} {PERIOD_US}")
    }
}

/// A group; dropping it removes it, if nobody is left in it. That of a killed supervisor goes with the
/// next VM's start.
#[derive(Debug)]
pub struct ControlGroup(PathBuf);

impl ControlGroup {
    /// Makes one with these limits; `None` where this user may make none.
    #[must_use]
    pub fn make(limits: &Limits) -> Option<Self> {
        let parent = parent(Path::new(MOUNT))?;
        sweep(&parent);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        // One of that name is of a process that had this one's number, and is gone.
        let _ = fs::remove_dir(&path);
        fs::create_dir(&path).ok()?;
        let group = Self(path);
        group.limit(limits);
        Some(group)
    }

    /// Below the mount, as `/proc/PID/cgroup` shows it.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.0.strip_prefix(MOUNT).unwrap_or(&self.0);
        format!("/{}", name.display())
    }

    /// Where a process that writes `0` enters it.
    ///
    /// # Errors
    /// When it is gone.
    pub fn entrance(&self) -> Result<File> {
        let path = self.0.join("cgroup.procs");
        OpenOptions::new()
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))
    }

    /// Sets the limits, also for those who are in it.
    pub fn limit(&self, limits: &Limits) {
        for (name, value) in limits.files() {
            // A controller that is not there limits nothing.
            let _ = fs::write(self.0.join(name), value);
        }
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The folder of the group below which this user may make one.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    parent(Path::new(MOUNT))
}

/// The group below which this user may make one.
fn parent(mount: &Path) -> Option<PathBuf> {
    if !mount.join("cgroup.controllers").exists() {
        return None;
    }
    if nix::unistd::geteuid().is_root() {
        let own = mount.join(OWN);
        enable(mount);
        // How many VMs root has, and what they take, is no other user's to know.
        match DirBuilder::new().mode(0o700).create(&own) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return None,
            _ => {}
        }
        enable(&own);
        return Some(own);
    }
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let parent = mount.join(beside(&text)?);
    // Who moves a process must be able to write to the group above both.
    let may = |name: &str| access(&parent.join(name), AccessFlags::W_OK).is_ok();
    if !may("") || !may("cgroup.procs") {
        return None;
    }
    enable(&parent);
    Some(parent)
}

/// The group above the one that `/proc/self/cgroup` tells, which is not the root.
#[must_use]
pub fn beside(text: &str) -> Option<PathBuf> {
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let parent = Path::new(own).parent()?;
    (!parent.as_os_str().is_empty()).then(|| parent.to_owned())
}

/// Has the groups below one controlled, as far as it can be.
fn enable(group: &Path) {
    for controller in CONTROLLERS {
        // One that the host does not have, or denies, limits nothing.
        let _ = fs::write(
            group.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

/// Removes the groups of processes that were killed.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.take(SWEEP_MAX) {
        let name = entry.file_name();
        let maker = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'))
            .and_then(|(maker, _)| Pid::from_raw(maker.parse().ok()?));
        if maker.is_some_and(is_gone) {
            // The kernel keeps one that is in use.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn is_gone(process: Pid) -> bool {
    test_kill_process(process).is_err_and(|error| error.raw_os_error() == Errno::ESRCH as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let mut limits = Limits {
            vcpu_count: 2,
            cpu: CpuShare::default(),
            memory_bytes: Some(512 << 20),
        };
        assert_eq!(
            limits.files(),
            [
                ("memory.max", "536870912".to_owned()),
                ("pids.max", "9".to_owned()),
                ("cpu.max", "300000 100000".to_owned()),
                ("cpu.weight", "100".to_owned()),
            ]
        );
        let mut resources = Resources {
            cpu_quota_us: Some(25_000),
            cpu_period_us: Some(50_000),
            cpu_weight: Some(7),
            ..Resources::default()
        };
        limits.cpu = CpuShare::from(&resources);
        assert_eq!(limits.cpu_max(), "75000 100000");
        assert_eq!(limits.cpu_weight(), "7");
        resources.cpu_quota_us = Some(u64::MAX);
        limits.cpu = CpuShare::from(&resources);
        limits.memory_bytes = None;
        assert_eq!(limits.memory_max(), "max");
        assert!(limits.cpu_max().ends_with(" 100000"));
    }

    #[test]
    fn a_group_is_made_beside_the_own_one() {
        let beside = |text| beside(text).map(|path| path.display().to_string());
        assert_eq!(
            beside("0::/user.slice/user-1.slice/app.slice/run-1.scope\n").as_deref(),
            Some("user.slice/user-1.slice/app.slice")
        );
        // The root is nobody's to divide.
        assert_eq!(beside("0::/a\n"), None);
        assert_eq!(beside("0::/\n"), None);
        assert_eq!(beside("1:cpu:/x/y\n"), None);
    }

    #[test]
    fn groups_of_killed_processes_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| fs::create_dir(folder.path().join(name)).unwrap();
        // Beyond the largest number that a process can have.
        let dead = format!("{PREFIX}2147483647-0");
        let living = format!("{PREFIX}{}-0", std::process::id());
        for name in [
            dead.as_str(),
            living.as_str(),
            "system.slice",
            "bulkhead-vm-x",
        ] {
            make(name);
        }
        sweep(folder.path());
        let left = |name: &str| folder.path().join(name).exists();
        assert!(!left(&dead));
        assert!(left(&living) && left("system.slice") && left("bulkhead-vm-x"));
    }

    #[test]
    fn no_group_without_cgroup_v2() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(parent(folder.path()), None);
    }
}
