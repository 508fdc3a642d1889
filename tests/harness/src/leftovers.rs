//! What a run left behind: processes, mounts of the host, files in the state root. A snapshot
//! before, a comparison after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{POLL_INTERVAL, Sandbox, process};

/// The last steps of a run are after the command's own end; they may take so long.
const SETTLING: std::time::Duration = std::time::Duration::from_secs(30);

/// What belongs to a state root, whatever it holds, and is made when first used.
const OF_THE_ROOT: [&str; 4] = ["configs", "containers", "events", "images/build-cache"];

/// What there is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    files: BTreeSet<PathBuf>,
    mounts: BTreeSet<String>,
    /// Processes that stay.
    kept: BTreeSet<u32>,
}

impl Snapshot {
    /// What there is in `sandbox` now.
    ///
    /// # Errors
    ///
    /// The state root or the mounts can't be read.
    pub fn of(sandbox: &Sandbox) -> Result<Self> {
        Ok(Self {
            files: files(&sandbox.root())?,
            mounts: mounts()?,
            kept: BTreeSet::new(),
        })
    }

    /// As [`Self::of`], where what runs now goes on running: another container.
    ///
    /// # Errors
    ///
    /// See [`Self::of`].
    pub fn with_what_runs(sandbox: &Sandbox) -> Result<Self> {
        let processes = process::executing(&sandbox.program())?;
        Ok(Self {
            kept: processes.iter().map(|process| process.id).collect(),
            ..Self::of(sandbox)?
        })
    }

    /// Checks that no process of the command runs and that there is no file and no mount more.
    ///
    /// # Errors
    ///
    /// There is; the message lists it.
    pub fn no_leftovers(&self, sandbox: &Sandbox) -> Result<()> {
        let begun = Instant::now();
        loop {
            let left = self.difference(sandbox)?;
            if left.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > SETTLING {
                bail!("left behind:\n  {}", left.join("\n  "));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn difference(&self, sandbox: &Sandbox) -> Result<Vec<String>> {
        let now = Self::of(sandbox)?;
        let mut left: Vec<_> = process::executing(&sandbox.program())?
            .iter()
            .filter(|process| !self.kept.contains(&process.id))
            .map(|process| format!("{process:?}"))
            .collect();
        let files = now.files.difference(&self.files);
        let files = files.filter(|path| {
            !OF_THE_ROOT
                .iter()
                .any(|known| path.as_path() == Path::new(known))
        });
        left.extend(files.map(|path| format!("file {}", path.display())));
        // Tests run side by side, and some of them mount: only ours count.
        let name = sandbox.folder().to_string_lossy().into_owned();
        let mounts = now.mounts.difference(&self.mounts);
        left.extend(
            mounts
                .filter(|mount| mount.contains(&name) || mount.contains("bulkhead"))
                .map(|mount| format!("mount {mount}")),
        );
        Ok(left)
    }
}

/// Paths of all files and folders below `root`, relative to it.
fn files(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Removed while we look.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
        };
        for entry in entries {
            let Ok(entry) = entry else { continue };
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(path.clone());
            }
            found.insert(path.strip_prefix(root).unwrap_or(&path).to_owned());
        }
    }
    Ok(found)
}

fn mounts() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_at_every_depth() {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(folder.path().join("a/b")).expect("mkdir");
        fs::write(folder.path().join("a/b/c"), "").expect("write");
        let found: Vec<_> = files(folder.path()).expect("files").into_iter().collect();
        assert_eq!(found, ["a", "a/b", "a/b/c"].map(PathBuf::from));
    }

    #[test]
    fn a_new_file_is_told() {
        let sandbox = Sandbox::of_program(Path::new("/bin/true")).expect("sandbox");
        let before = Snapshot::of(&sandbox).expect("snapshot");
        assert_eq!(
            before.difference(&sandbox).expect("compare"),
            Vec::<String>::new()
        );
        fs::write(sandbox.root().join("new"), "").expect("write");
        assert_eq!(before.difference(&sandbox).expect("compare"), ["file new"]);
    }
}
