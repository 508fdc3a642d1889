//! The container's control group (version 2): limits, the device filter, freezing, killing, and
//! whether the kernel ran out of memory in it.
//!
//! Called by [`crate::container`]. The hierarchy is mounted for the agent's own use, as a
//! descriptor that nobody else sees; the container mounts its own view of its group.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use protocol::spec::Resources;
use rustix::fs::{Dir, FileType, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::failure::{Context, Failure};
use crate::mount::{Detached, Setup};

/// How the group is called, followed by the number of its life; the container sees it as `/`.
const NAME: &str = "container-";

/// What is switched on for the group, so that a container finds the files it looks for.
const CONTROLLERS: &str = "+cpuset +cpu +io +memory +pids";

/// Longest file that is read in bytes: the members of a group with thousands of processes.
const MAX_FILE: usize = 64 << 10;

/// Groups of the workload's making that are searched for a process.
const MAX_GROUPS: usize = 1000;

/// Time between two looks at whether a group is frozen.
const FREEZE_LOOK: Duration = Duration::from_millis(1);

/// Looks before waiting is given up: a second.
const FREEZE_LOOKS: usize = 1000;

/// Files of limits that can be replaced, with what says that there is none.
const NO_LIMITS: [(&str, &str); 5] = [
    ("memory.low", "0"),
    ("memory.max", "max"),
    ("cpu.weight", "100"),
    ("cpu.max", "max 100000"),
    ("pids.max", "max"),
];

/// The container's group.
#[derive(Debug)]
pub struct Cgroup {
    directory: OwnedFd,
}

/// The mounted hierarchy, before the container has its group.
#[derive(Debug)]
pub struct Hierarchy(Detached);

impl Hierarchy {
    /// Mounts it and switches the controllers on.
    ///
    /// # Errors
    /// What mounting or writing says.
    pub fn mount() -> Result<Self, Failure> {
        let hierarchy = Setup::new("cgroup2", "cgroup")?;
        hierarchy.flag("nsdelegate")?;
        hierarchy.flag("memory_recursiveprot")?;
        let root = hierarchy.create(MountAttrFlags::empty())?;
        write(root.as_fd(), "cgroup.subtree_control", CONTROLLERS)?;
        Ok(Self(root))
    }
}

impl Cgroup {
    /// Makes the group with its limits.
    ///
    /// # Errors
    /// What the kernel refuses, such as a limit below what it can keep.
    pub fn create(
        hierarchy: &Hierarchy,
        number: u32,
        resources: &Resources,
    ) -> Result<Self, Failure> {
        let root = &hierarchy.0;
        let name = format!("{NAME}{number}");
        let about = || format!("make cgroup {name}");
        mkdirat(root, &name, Mode::from_raw_mode(0o755)).context(about)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(root, &name, flags, Mode::empty()).context(about)?;
        let cgroup = Self { directory };
        for (file, value) in limits(resources) {
            write(cgroup.as_fd(), file, &value)?;
        }
        Ok(cgroup)
    }

    /// Replaces the limits: those that are absent are taken away. What the kernel refuses stays as
    /// it was, and what comes behind it, too.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn update(&self, resources: &Resources) -> Result<(), Failure> {
        let limits = limits(resources);
        for (file, none) in NO_LIMITS {
            let wanted = limits.iter().find(|(name, _)| *name == file);
            let value = wanted.map_or(none, |(_, value)| value.as_str());
            write(self.as_fd(), file, value)?;
        }
        Ok(())
    }

    /// Freezes or thaws every process of the group, and waits until that is so.
    ///
    /// # Errors
    /// When one can't be frozen, as it is in the middle of a system call which can't be interrupted:
    /// all of them are thawed then.
    pub fn freeze(&self, frozen: bool) -> Result<(), Failure> {
        let digit = u64::from(frozen);
        write(self.as_fd(), "cgroup.freeze", &digit.to_string())?;
        for _ in 0..FREEZE_LOOKS {
            if counter(
                &read(self.as_fd(), "cgroup.events").unwrap_or_default(),
                "frozen",
            ) == digit
            {
                return Ok(());
            }
            std::thread::sleep(FREEZE_LOOK);
        }
        if !frozen {
            // Those that it can thaw, it has.
            return Ok(());
        }
        write(self.as_fd(), "cgroup.freeze", "0")?;
        Err(Failure::other(
            "a process is in a system call that can't be interrupted",
        ))
    }

    /// Kills every process of the group and of those below it, frozen ones too.
    ///
    /// # Errors
    /// What writing says.
    pub fn kill(&self) -> Result<(), Failure> {
        write(self.as_fd(), "cgroup.kill", "1")
    }

    /// The group below this one that a process is in.
    ///
    /// # Errors
    /// `ESRCH` when it is in none of the first [`MAX_GROUPS`].
    pub fn group_of(&self, pid: i32) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut queue = vec![String::from(".")];
        for _ in 0..MAX_GROUPS {
            let Some(path) = queue.pop() else { break };
            let group = openat(self, path.as_str(), flags, Mode::empty())?;
            let members = read(group.as_fd(), "cgroup.procs")?;
            if members.lines().any(|line| line.parse() == Ok(pid)) {
                return Ok(group);
            }
            for entry in Dir::read_from(&group)?.flatten() {
                if let Ok(name) = entry.file_name().to_str()
                    && entry.file_type() == FileType::Directory
                    && !name.starts_with('.')
                    && queue.len() < MAX_GROUPS
                {
                    queue.push(format!("{path}/{name}"));
                }
            }
        }
        Err(Errno::SRCH)
    }

    /// Whether the out-of-memory killer ended a process of the group.
    #[must_use]
    pub fn was_out_of_memory(&self) -> bool {
        read(self.as_fd(), "memory.events")
            .map(|events| counter(&events, "oom_kill"))
            .is_ok_and(|kills| kills > 0)
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// The files to write for `resources`.
fn limits(resources: &Resources) -> Vec<(&'static str, String)> {
    /// Docker's period when only a quota is given, in microseconds.
    const DEFAULT_PERIOD: u64 = 100_000;
    let mut files = Vec::new();
    let numbers = [
        ("memory.max", resources.memory_max),
        ("memory.low", resources.memory_low),
        ("memory.swap.max", resources.swap_max),
        ("cpu.weight", resources.cpu_weight),
        ("pids.max", resources.pids_max),
    ];
    for (file, number) in numbers {
        files.extend(number.map(|number| (file, number.to_string())));
    }
    let period = resources.cpu_period_us.unwrap_or(DEFAULT_PERIOD);
    match (resources.cpu_quota_us, resources.cpu_period_us) {
        (Some(quota), _) => files.push(("cpu.max", format!("{quota} {period}"))),
        (None, Some(period)) => files.push(("cpu.max", format!("max {period}"))),
        (None, None) => {}
    }
    files
}

/// The number behind `name` in a file of lines of a name and a number; 0 without one.
#[must_use]
pub fn counter(file: &str, name: &str) -> u64 {
    file.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0)
}

fn write(group: BorrowedFd<'_>, file: &str, value: &str) -> Result<(), Failure> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    openat(group, file, flags, Mode::empty())
        .and_then(|fd| rustix::io::write(&fd, value.as_bytes()))
        .map(|_| ())
        .context(|| format!("write {value:?} to {file}"))
}

/// Reads a file of a group.
///
/// # Errors
/// What reading says.
pub fn read(group: BorrowedFd<'_>, file: &str) -> Result<String, Errno> {
    let fd = openat(group, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel gives a page at a time.
    let mut bytes = vec![0; MAX_FILE];
    let mut filled = 0;
    while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
        match rustix::io::read(&fd, room)? {
            0 => break,
            len => filled += len,
        }
    }
    bytes.truncate(filled);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_limited_is_written() {
        assert_eq!(limits(&Resources::default()), []);
        let resources = Resources {
            memory_max: Some(1 << 20),
            memory_low: Some(5),
            swap_max: Some(0),
            cpu_quota_us: Some(150_000),
            cpu_period_us: None,
            cpu_weight: Some(39),
            pids_max: Some(100),
        };
        let wanted = [
            ("memory.max", "1048576"),
            ("memory.low", "5"),
            ("memory.swap.max", "0"),
            ("cpu.weight", "39"),
            ("pids.max", "100"),
            ("cpu.max", "150000 100000"),
        ];
        assert_eq!(
            limits(&resources),
            wanted.map(|(file, value)| (file, value.to_owned()))
        );
        let period = Resources {
            cpu_period_us: Some(50_000),
            ..Resources::default()
        };
        assert_eq!(limits(&period), [("cpu.max", "max 50000".to_owned())]);
    }

    #[test]
    fn every_limit_but_swaps_can_be_taken_away() {
        let all = Resources {
            memory_max: Some(1),
            memory_low: Some(1),
            swap_max: None,
            cpu_quota_us: Some(1),
            cpu_period_us: Some(1),
            cpu_weight: Some(1),
            pids_max: Some(1),
        };
        for (file, _) in limits(&all) {
            assert!(NO_LIMITS.iter().any(|(name, _)| *name == file), "{file}");
        }
    }

    #[test]
    fn kills_are_counted_by_name() {
        let events = "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n";
        assert_eq!(counter(events, "oom_kill"), 5);
        assert_eq!(counter(events, "oom"), 4);
        assert_eq!(counter(events, "none"), 0);
        assert_eq!(counter("oom_kill x\n", "oom_kill"), 0);
    }
}
