//! VMs that are no container's but a build's: each has a file that its command keeps locked.
//!
//! ```text
//! <root>/build-vms/<process>-<number>     "<process> <vCPUs> <MiB>"
//! ```
//! Made and counted by `cli/policy`, where the host limits how many there are, under a lock of its caller's:
//! of two who look for room at once, the second sees the first.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::paths::{self, Root};

/// Numbers those of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// One VM that is counted until this is dropped, or its process has ended.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _lock: Flock<File>,
}

/// What a VM has that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Whose it is.
    pub process: u32,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
}

impl Claim {
    /// Counts a VM of this process from now on.
    ///
    /// # Errors
    /// When its file can't be made.
    pub fn make(root: &Root, vcpus: u8, memory_mib: u32) -> Result<Self> {
        let folder = root.build_vms();
        paths::create_private(&folder)?;
        let process = std::process::id();
        let path = folder.join(format!(
            "{process}-{}",
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        let about = || format!("create {}", path.display());
        let mut open = OpenOptions::new();
        let open = open.write(true).create(true).truncate(true).mode(0o600);
        let file = open.open(&path).with_context(about)?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(about)?;
        write!(lock, "{process} {vcpus} {memory_mib}").with_context(about)?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // One that stays goes when somebody counts.
        let _ = fs::remove_file(&self.path);
    }
}

/// All that are counted now. Files of processes that were killed are removed.
///
/// # Errors
/// When a file can't be read.
pub fn claimed(root: &Root) -> Result<Vec<Size>> {
    let entries = match fs::read_dir(root.build_vms()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("count the VMs of builds"),
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.context("count the VMs of builds")?.path();
        all.extend(size(&path).with_context(|| format!("read {}", path.display()))?);
    }
    Ok(all)
}

fn size(path: &Path) -> Result<Option<Size>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => {
            let _ = fs::remove_file(path);
            return Ok(None);
        }
        Err((_, Errno::EWOULDBLOCK)) => {}
        Err((_, error)) => return Err(error.into()),
    }
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut words = text.split(' ');
    let mut word = || words.next().context("three numbers are missing");
    Ok(Some(Size {
        process: word()?.parse()?,
        vcpus: word()?.parse()?,
        memory_mib: word()?.parse()?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_is_counted_until_it_is_dropped_or_nobody_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(folder.path().to_owned());
        assert_eq!(claimed(&root).unwrap(), []);
        let one = Claim::make(&root, 2, 512).unwrap();
        let other = Claim::make(&root, 1, 64).unwrap();
        fs::write(root.build_vms().join("7-0"), "7 1 64").unwrap();
        let size = |vcpus, memory_mib| Size {
            process: std::process::id(),
            vcpus,
            memory_mib,
        };
        let mut all = claimed(&root).unwrap();
        all.sort_by_key(|size| size.vcpus);
        assert_eq!(all, [size(1, 64), size(2, 512)]);
        assert!(!root.build_vms().join("7-0").exists());
        drop(one);
        assert_eq!(claimed(&root).unwrap(), [size(1, 64)]);
        drop(other);
        assert_eq!(fs::read_dir(root.build_vms()).unwrap().count(), 0);
    }
}
