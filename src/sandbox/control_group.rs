//! The host's limits for the processes of a VM: a control group of its own (cgroup v2), below one that
//! this user may divide.
//!
//! ```text
//! root       /sys/fs/cgroup/bulkhead/<group>
//! others     beside the command's own group, where that is theirs, as below `systemd --user`
//! ```
//! Who starts a VM makes it; [`super::launcher`] has the VMM, passt and the file server enter it before
//! they execute their programs. That of a container is kept for all lives that its supervisor has: once
//! that is shut in it may write the files of limits ([`ControlGroup::files`]), and its launcher alone has
//! processes enter and removes the group, since who can move any process there can end it. It is no wall:
//! what each may do is its jail's matter, and where there can be no group, there is none. It knows no
//! container.
//!
//! All three are in one group, and its limits are the sum of what each needs. A group for each would
//! leave the whole without a limit, or take one more above them, and gain little: what one of them
//! takes too much of is lacking to this VM alone, and the VMM, for which it counts most, has limits of
//! its own for memory and tasks in its jail.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ::jail::landlock::Rights;
use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use protocol::spec::Resources;
use rustix::process::{Pid, test_kill_process};

use super::block_io::{self, Controls};

/// Where cgroup v2 is mounted.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// The group of all groups that root makes.
pub const OWN: &str = "bulkhead";

/// First letters of a group's name; the ids of its maker's process and of the group follow.
const PREFIX: &str = "bulkhead-vm-";

/// Files of limits, as far as the host has them.
const LIMITS: [&str; 7] = [
    "memory.max",
    "pids.max",
    "cpu.max",
    "cpu.weight",
    "io.max",
    "io.weight",
    "io.bfq.weight",
];

/// What is limited.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];

/// `cpu.max`: the period in microseconds, the kernel's own choice.
const PERIOD_US: u64 = 100_000;

/// `cpu.weight`: the kernel's own choice.
const WEIGHT: u64 = 100;

/// What a VM with `--cpus` has for its devices, in thousandths of a CPU; so much again for passt, and
/// for the file server.
const DEVICES_MILLIS: u64 = 250;

/// What one without has, for threads that do nothing else, and mostly wait; again so.
const DEVICE_THREAD_MILLIS: u64 = 1000;

/// Tasks beside the vCPUs: the event loop, two disks, the starter and what a shutdown takes.
const OTHER_TASKS: u64 = 9;

/// passt, and what it may make while it starts.
const PASST_TASKS: u64 = 4;

/// The file server's two processes, its four threads, and the program that maps users for it.
const FILE_SERVER_TASKS: u64 = 8;

/// Memory of passt in bytes: its own buffers, and the kernel's for its connections.
const PASST_BYTES: u64 = 256 << 20;

/// Memory of a file server in bytes: a million files that the guest knows, each of which takes a descriptor,
/// an inode and an entry of its directory, some 1.8 KiB of the kernel's. Cached content comes and goes.
const FILE_SERVER_BYTES: u64 = 2 << 30;

/// From the end of the last process that is waited for to the end of the others, which end with it.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(1);
const REMOVE_POLL: Duration = Duration::from_millis(1);

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Number of vCPUs.
    pub vcpu_count: u8,
    /// CPU time.
    pub cpu: CpuShare,
    /// Memory of its VMM in bytes, the guest's included; `None` where disks are in memory, too.
    pub memory_bytes: Option<u64>,
    /// Whether it may have a passt.
    pub network: bool,
    /// Whether it has a file server.
    pub shares: bool,
    /// Of the host's disks.
    pub block_io: Controls,
}

impl Limits {
    /// Files of the group and what is written to them.
    fn files(&self) -> [(&'static str, String); 4] {
        [
            ("memory.max", self.memory_max()),
            ("pids.max", self.pids_max()),
            ("cpu.max", self.cpu_max()),
            ("cpu.weight", self.cpu_weight()),
        ]
    }

    /// What the processes beside the VMM take, of so much for each.
    fn beside(&self, of_passt: u64, of_file_server: u64) -> u64 {
        let of = |is_there: bool, each: u64| if is_there { each } else { 0 };
        of(self.network, of_passt).saturating_add(of(self.shares, of_file_server))
    }

    fn memory_max(&self) -> String {
        let Some(bytes) = self.memory_bytes else {
            return "max".to_owned();
        };
        let beside = self.beside(PASST_BYTES, FILE_SERVER_BYTES);
        bytes.saturating_add(beside).to_string()
    }

    fn pids_max(&self) -> String {
        let own = u64::from(self.vcpu_count).saturating_add(OTHER_TASKS);
        let beside = self.beside(PASST_TASKS, FILE_SERVER_TASKS);
        own.saturating_add(beside).to_string()
    }

    fn cpu_weight(&self) -> String {
        self.cpu.weight.unwrap_or(WEIGHT).to_string()
    }

    fn cpu_max(&self) -> String {
        let (own, each) = match self.cpu.millis {
            Some(millis) => (millis, DEVICES_MILLIS),
            None => {
                let own = u64::from(self.vcpu_count).saturating_mul(1000);
                (own, DEVICE_THREAD_MILLIS)
            }
        };
        let beside = self.beside(each, each);
        let millis = own.saturating_add(each).saturating_add(beside);
        let quota_us = millis.saturating_mul(PERIOD_US) / 1000;
        format!("{quota_us} {PERIOD_US}")
    }
}

/// A group, or none where this user may make none, held by all who start processes in it. The last one
/// that lets go of it removes it, if it may; that of a killed supervisor goes with the next VM's start.
#[derive(Debug, Clone)]
pub struct ControlGroup(Arc<Group>);

#[derive(Debug)]
struct Group {
    path: Option<PathBuf>,
    limits: Mutex<Limits>,
}

impl ControlGroup {
    /// Makes one with these limits, but for the rates of block I/O, which [`Self::hold_rates`] sets.
    ///
    /// # Errors
    /// Limits of block I/O that it would not hold. The others are held as far as can be.
    pub fn make(limits: Limits) -> Result<Self> {
        let group = Self(Arc::new(Group {
            path: make_folder(),
            limits: Mutex::new(limits),
        }));
        group.write();
        group.limits().block_io.prepare(group.0.path.as_deref())?;
        Ok(group)
    }

    /// Has it hold other limits from now on, for another VM, as [`Self::make`] does.
    ///
    /// # Errors
    /// As [`Self::make`].
    pub fn renew(&self, limits: Limits) -> Result<()> {
        *self.limits() = limits;
        self.write();
        // What the one before had and this one has not.
        block_io::set_weight(None, self.path())?;
        self.limits().block_io.prepare(self.path())
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// What who limits its VM does with its files.
    pub fn files(&self) -> impl Iterator<Item = (PathBuf, Rights)> {
        let writes = LIMITS.map(|name| (name, Rights::ReadAndWrite));
        let reads = ["cgroup.procs", "io.stat"].map(|name| (name, Rights::Read));
        let path = self.path();
        writes
            .into_iter()
            .chain(reads)
            .filter_map(move |(name, rights)| Some((path?.join(name), rights)))
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        let limits = self.0.limits.lock();
        limits.unwrap_or_else(PoisonError::into_inner)
    }

    /// Below the mount, as `/proc/PID/cgroup` shows it.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let path = self.0.path.as_ref()?;
        let name = path.strip_prefix(MOUNT).unwrap_or(path);
        Some(format!("/{}", name.display()))
    }

    /// What it has read and written, where writes are limited.
    #[must_use]
    pub fn io_stat(&self) -> Option<OwnedFd> {
        let path = self.0.path.as_ref()?;
        if !self.limits().block_io.limits_writes() {
            return None;
        }
        Some(File::open(path.join("io.stat")).ok()?.into())
    }

    /// Whether a process is in it, where that was asked for: by a limit of block I/O.
    ///
    /// # Errors
    /// It is not.
    pub fn check_member(&self, process: u32) -> Result<()> {
        if self.limits().block_io.is_empty() {
            return Ok(());
        }
        let path = self.0.path.iter().map(|path| path.join("cgroup.procs"));
        let members: String = path.flat_map(fs::read_to_string).collect();
        if !members.lines().any(|line| line == process.to_string()) {
            bail!("limit block I/O: the VMM may not enter the control group that was made for it");
        }
        Ok(())
    }

    /// Gives those who are in it another share of CPU time.
    pub fn set_cpu(&self, cpu: CpuShare) {
        self.limits().cpu = cpu;
        self.write();
    }

    /// Gives them another weight of block I/O.
    ///
    /// # Errors
    /// One that it would not hold.
    pub fn set_weight(&self, weight: Option<u16>) -> Result<()> {
        block_io::set_weight(weight, self.0.path.as_deref())
    }

    /// Limits block I/O from now on. Before, the VM's process had its disk accounted to the group, which
    /// takes some of a disk's full speed ([`super::writeback`]).
    ///
    /// # Errors
    /// One that the kernel refuses.
    pub fn hold_rates(&self) -> Result<()> {
        let path = self.0.path.as_deref();
        path.map_or(Ok(()), |path| self.limits().block_io.hold(path))
    }

    /// Lifts the rates when the VM has ended: the kernel writes the rest of its disk back, and the
    /// container's next life has its disk accounted to the group before there is a rate.
    pub fn lift_rates(&self) {
        if let Some(path) = self.path() {
            self.0.lift_rates(path);
        }
    }

    fn write(&self) {
        let Some(path) = &self.0.path else { return };
        for (name, value) in self.limits().files() {
            // A controller that is not there limits nothing.
            let _ = fs::write(path.join(name), value);
        }
    }
}

impl Group {
    /// The kernel keeps a removed group for what was written on its account, and holds that to its limits:
    /// the container's next life would wait for it.
    fn lift_rates(&self, path: &Path) {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        for line in limits.block_io.lifted() {
            let _ = fs::write(path.join("io.max"), line);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(path) = &self.path else { return };
        self.lift_rates(path);
        // By who is shut in, its launcher removes it.
        remove(path);
    }
}

/// Removes the group of this folder, as soon as its processes have ended.
pub fn remove(group: &Path) {
    let until = Instant::now() + REMOVE_TIMEOUT;
    while fs::remove_dir(group).is_err_and(|error| error.kind() == ErrorKind::ResourceBusy)
        && Instant::now() < until
    {
        thread::sleep(REMOVE_POLL);
    }
}

/// Where a process that writes `0` enters the group of this folder.
#[must_use]
pub fn entrance(group: Option<&Path>) -> Option<OwnedFd> {
    let path = group?.join("cgroup.procs");
    let file = OpenOptions::new().write(true).open(path).ok()?;
    Some(file.into())
}

/// Makes the folder of a group.
fn make_folder() -> Option<PathBuf> {
    let parent = parent(Path::new(MOUNT))?;
    sweep(&parent);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
    // One of that name is of a process that had this one's number, and is gone.
    let _ = fs::remove_dir(&path);
    fs::create_dir(&path).ok()?;
    Some(path)
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
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return None,
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
            network: false,
            shares: false,
            block_io: Controls::default(),
        };
        assert_eq!(
            limits.files(),
            [
                ("memory.max", "536870912".to_owned()),
                ("pids.max", "11".to_owned()),
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
        assert!(limits.cpu_max().ends_with(" 100000"));
        limits.memory_bytes = None;
        assert_eq!(limits.memory_max(), "max");
    }

    #[test]
    fn passt_and_the_file_server_have_their_share() {
        let limits = |network, shares, millis| Limits {
            vcpu_count: 2,
            cpu: CpuShare {
                millis,
                weight: None,
            },
            memory_bytes: Some(512 << 20),
            network,
            shares,
            block_io: Controls::default(),
        };
        let of = |limits: Limits| [limits.memory_max(), limits.pids_max(), limits.cpu_max()];
        let mib = |mib: u64| (mib << 20).to_string();
        assert_eq!(
            of(limits(true, false, None)),
            [&mib(768), "15", "400000 100000"]
        );
        assert_eq!(
            of(limits(false, true, Some(500))),
            [&mib(2560), "19", "100000 100000"]
        );
        assert_eq!(
            of(limits(true, true, Some(500))),
            [&mib(2816), "23", "125000 100000"]
        );
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
