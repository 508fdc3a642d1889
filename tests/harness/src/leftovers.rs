//! What a run left behind, or changed: processes, mounts of the host, files in the state root. A
//! snapshot before, a comparison after.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{POLL_INTERVAL, Sandbox, below, process};

/// The last steps of a run are after the command's own end; they may take so long.
const SETTLING: std::time::Duration = std::time::Duration::from_secs(30);

/// What belongs to a state root, whatever it holds, and is made when first used.
const OF_THE_ROOT: [&str; 4] = ["configs", "containers", "events", "images/build-cache"];

/// What containers that run write to meanwhile, and what was half downloaded.
const WRITTEN_MEANWHILE: [&str; 4] = ["configs", "containers", "events", "images/ingest"];

/// The names of all images, replaced as a whole for each that comes and goes: its text counts.
const NAMES: &str = "images/index.json";

/// What there is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// With what tells that a file is another one now.
    files: BTreeMap<PathBuf, String>,
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

    /// As [`Self::no_leftovers`], and also no file of the state root is gone or another than it was,
    /// but for those of containers that run.
    ///
    /// # Errors
    ///
    /// One is; the message lists it.
    pub fn no_change(&self, sandbox: &Sandbox) -> Result<()> {
        self.no_leftovers(sandbox)?;
        let now = files(&sandbox.root())?;
        let before = self.files.iter().filter(|(path, _)| {
            let mut written = WRITTEN_MEANWHILE.iter();
            !written.any(|folder| path.starts_with(folder))
        });
        let changed: Vec<_> = before
            .filter_map(|(path, was)| match now.get(path) {
                Some(is) if is == was => None,
                Some(is) => Some(format!("{} was {was}, is {is}", path.display())),
                None => Some(format!("{} is gone, was {was}", path.display())),
            })
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        bail!("changed:\n  {}", changed.join("\n  "))
    }

    fn difference(&self, sandbox: &Sandbox) -> Result<Vec<String>> {
        let now = Self::of(sandbox)?;
        let mut left: Vec<_> = process::executing(&sandbox.program())?
            .iter()
            .filter(|process| !self.kept.contains(&process.id))
            .map(|process| format!("{process:?}"))
            .collect();
        let files = now
            .files
            .keys()
            .filter(|path| !self.files.contains_key(*path));
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

/// Paths of all files and folders below `root`, relative to it, with what they are.
fn files(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    below::walk(root, |path, metadata| {
        let below = path.strip_prefix(root).unwrap_or(path);
        let is = match below == Path::new(NAMES) {
            true => fs::read_to_string(path).unwrap_or_default(),
            false => below::shape(metadata),
        };
        found.insert(below.to_owned(), is);
        true
    })?;
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
        let found: Vec<_> = files(folder.path()).expect("files").into_keys().collect();
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

    #[test]
    fn a_changed_file_is_told() {
        let sandbox = Sandbox::of_program(Path::new("/bin/true")).expect("sandbox");
        for folder in ["images", "containers"] {
            fs::create_dir(sandbox.root().join(folder)).expect("mkdir");
        }
        let path = |name: &str| sandbox.root().join(name);
        for name in ["images/blob", "images/gone", NAMES, "containers/disk"] {
            fs::write(path(name), "as it was").expect("write");
        }
        let before = Snapshot::of(&sandbox).expect("snapshot");
        // The same names once more, and what a container writes.
        fs::write(path("new"), "as it was").expect("write");
        fs::rename(path("new"), path(NAMES)).expect("rename");
        fs::write(path("containers/disk"), "more").expect("write");
        before.no_change(&sandbox).expect("no change");
        fs::write(path("images/blob"), "as it is now").expect("write");
        fs::remove_file(path("images/gone")).expect("remove");
        let error = before.no_change(&sandbox).expect_err("a change");
        let error = error.to_string();
        let told = ["images/blob was", "images/gone is gone"].map(|text| error.contains(text));
        assert!(told == [true, true] && !error.contains("disk"), "{error}");
        fs::write(path(NAMES), "another").expect("write");
        let error = before.no_change(&sandbox).expect_err("a change");
        assert!(error.to_string().contains(NAMES), "{error}");
    }
}
