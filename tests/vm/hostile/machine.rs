//! All of an emulated host that images could change: every file that was ever written there, every process,
//! every mount. The tests of one such host run one after the other and nothing else runs there, so that
//! whatever is different after a family of images is theirs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{POLL_INTERVAL, below, process};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// What is there for a while, or written by tests themselves, by how the path begins.
const LEFT_OUT: [(&str, &str); 3] = [
    (
        "/tmp/bulkhead-test-",
        "sandboxes: state root, home, work, logs; templates that all share",
    ),
    (
        "/tmp/docker-",
        "the real engine of other tests, with its log",
    ),
    (
        "/sys/fs/cgroup/bulkhead/bulkhead-vm-",
        "the group of a killed supervisor, which goes with the next VM's start",
    ),
];

/// File systems in memory, each walked without those in it.
const IN_MEMORY: [&str; 4] = ["/dev", "/dev/shm", "/dev/mqueue", "/run"];

/// Groups of processes: of these the folders are all there is to change.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Where the host's disk is mounted, in part (`xtask/src/lab/init.sh`). On it are the upper layer of the
/// overlay that `/` is, and folders that are mounted over it. All else is the machine's own, read-only.
const DISK: &str = "/scratch";

/// Folders of the disk in which paths of the host begin.
const ON_DISK: [&str; 2] = ["upper", "native"];

/// The last steps of a run are after the command's own end; they may take so long.
const SETTLING: Duration = Duration::from_secs(30);

/// Differences that are listed.
const SHOWN: usize = 20;

/// What there is, by name.
type Things = BTreeMap<String, String>;

/// The host at one moment.
pub(super) struct Machine {
    files: Things,
    running: Things,
}

impl Machine {
    pub(super) fn look() -> Result<Self> {
        Ok(Self {
            files: files()?,
            running: running()?,
        })
    }

    /// Checks that there are the same processes and mounts.
    pub(super) fn runs_the_same(&self) -> Result<()> {
        settled(&self.running, running)
    }

    /// Checks all of it.
    pub(super) fn is_as_it_was(&self) -> Result<()> {
        self.runs_the_same()?;
        let left = differences(&self.files, &files()?);
        ensure!(left.is_empty(), "on the host:\n  {}", left.join("\n  "));
        Ok(())
    }
}

fn settled(before: &Things, look: impl Fn() -> Result<Things>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let left = differences(before, &look()?);
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > SETTLING {
            bail!("on the host:\n  {}", left.join("\n  "));
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn differences(before: &Things, after: &Things) -> Vec<String> {
    let gone = before
        .iter()
        .filter_map(|(name, what)| match after.get(name) {
            None => Some(format!("{name} is gone, was {what}")),
            Some(now) if now != what => Some(format!("{name} was {what}, is {now}")),
            Some(_) => None,
        });
    let new = after
        .iter()
        .filter(|(name, _)| !before.contains_key(*name))
        .map(|(name, what)| format!("{name} is new: {what}"));
    gone.chain(new).take(SHOWN).collect()
}

/// Processes with what they execute, and mounts.
fn running() -> Result<Things> {
    let processes = process::all()?.into_iter();
    let mut found: Things = processes
        .map(|(id, program)| (format!("process {id}"), program.display().to_string()))
        .collect();
    for line in mounts()?.lines() {
        found.insert(format!("mount {line}"), String::new());
    }
    Ok(found)
}

fn mounts() -> Result<String> {
    fs::read_to_string("/proc/self/mountinfo").context("read the mounts")
}

/// Every file that was ever written.
fn files() -> Result<Things> {
    let mut found = on_disk()?;
    for folder in IN_MEMORY {
        walk(Path::new(folder), Path::new(folder), &mut found)?;
    }
    let mut groups = Things::new();
    walk(
        CONTROL_GROUPS.as_ref(),
        CONTROL_GROUPS.as_ref(),
        &mut groups,
    )?;
    groups.retain(|path, _| Path::new(path).is_dir());
    found.append(&mut groups);
    ensure!(
        found.contains_key(hostile_images::CANARY),
        "{} is not seen among {} files",
        hostile_images::CANARY,
        found.len()
    );
    Ok(found)
}

/// What is on the disk, which is mounted as a whole where nobody else sees it.
fn on_disk() -> Result<Things> {
    let device = device_of_disk()?;
    let place = tempfile::Builder::new()
        .prefix("bulkhead-test-disk-")
        .tempdir()
        .context("make a folder")?;
    let look = || {
        // Of this thread alone; what is mounted goes with it.
        unshare(CloneFlags::CLONE_NEWNS).context("leave the mounts")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .context("leave the mounts")?;
        let none = MsFlags::empty();
        mount(
            Some(&device),
            place.path(),
            Some("ext4"),
            none,
            None::<&str>,
        )
        .with_context(|| format!("mount {}", device.display()))?;
        let mut found = Things::new();
        for name in ON_DISK {
            walk(&place.path().join(name), Path::new("/"), &mut found)?;
        }
        Ok(found)
    };
    let looked = thread::scope(|scope| scope.spawn(look).join());
    looked.unwrap_or_else(|_| bail!("looking at the disk panicked"))
}

/// `36 35 254:0 /native/scratch /scratch rw - ext4 /dev/vda rw` is a line of proc(5).
fn device_of_disk() -> Result<PathBuf> {
    let mounts = mounts()?;
    let device = mounts.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let is_disk = head.split(' ').nth(4) == Some(DISK) && tail.starts_with("ext4 ");
        is_disk.then(|| tail.split(' ').nth(1)).flatten()
    });
    device
        .map(PathBuf::from)
        .with_context(|| format!("no disk is mounted on {DISK}: {mounts}"))
}

/// All below `folder` on its file system, by the names that it has below `shown`.
fn walk(folder: &Path, shown: &Path, found: &mut Things) -> Result<()> {
    let root = folder
        .symlink_metadata()
        .with_context(|| format!("look at {}", folder.display()))?;
    below::walk(folder, |path, metadata| {
        let path = path.strip_prefix(folder).unwrap_or(path);
        let name = shown.join(path).display().to_string();
        let is_left_out = |(begin, _): &(&str, &str)| name.starts_with(begin);
        if LEFT_OUT.iter().any(is_left_out) {
            return false;
        }
        found.insert(name, below::shape(metadata));
        metadata.dev() == root.dev()
    })
}
