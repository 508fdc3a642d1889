//! What of the host hostile images aim at: a folder for them, the files that every system has, and places
//! where a file that got out would lie.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use harness::Sandbox;
use hostile_images::{CANARY, PWNED};

/// Files of every system.
const FILES: [&str; 7] = [
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/null",
];

/// Names of files that images and tests make besides [`PWNED`], none of which may be on the host.
const STRANGERS: [&str; 5] = ["copied", "devnode", "stolen", "triggered", "innocent"];

/// Name, or what else there is of a file, by path.
type Files = BTreeMap<PathBuf, String>;

/// So many families of images aim at the folder now: on a host with several CPUs side by side.
static AIMED_AT: Mutex<usize> = Mutex::new(0);

/// The host at one moment. The folder is there until the last one is dropped.
pub(super) struct Host {
    files: Files,
}

impl Host {
    pub(super) fn look() -> Result<Self> {
        let mut count = AIMED_AT.lock().unwrap_or_else(PoisonError::into_inner);
        if *count == 0 {
            make_canary().with_context(|| format!("make {CANARY}"))?;
        }
        *count += 1;
        drop(count);
        let host = Self { files: files()? };
        let below = host.files.keys().filter(|path| path.starts_with(CANARY));
        ensure!(below.count() == CANARY_FILES, "{CANARY} is not all there");
        Ok(host)
    }

    /// Checks that nothing of it has changed.
    pub(super) fn is_as_it_was(&self, vm: &Sandbox) -> Result<()> {
        let now = files()?;
        for (path, what) in &self.files {
            let after = now.get(path);
            ensure!(
                after == Some(what),
                "{} was {what}, is {after:?}",
                path.display()
            );
        }
        if let Some(path) = now.keys().find(|path| !self.files.contains_key(*path)) {
            bail!("{} is new", path.display());
        }
        let folders = [vm.folder().to_owned(), vm.work(), vm.home(), vm.root()];
        let places = ["/", "/tmp", "/etc", "/dev", "/usr", "/bin", "."].map(PathBuf::from);
        for place in folders.iter().chain(&places) {
            for entry in fs::read_dir(place).context("look for strangers")? {
                let name = entry.context("look for strangers")?.file_name();
                let name = name.to_string_lossy();
                let stranger = name.starts_with(PWNED) || STRANGERS.contains(&&*name);
                ensure!(!stranger, "{}/{name} is on the host", place.display());
            }
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let mut count = AIMED_AT.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        if *count == 0 {
            let _ = fs::remove_dir_all(CANARY);
        }
    }
}

/// With the folder itself.
const CANARY_FILES: usize = 7;

fn make_canary() -> Result<()> {
    let folder = Path::new(CANARY);
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder.join("folder"))?;
    fs::write(folder.join("file"), "the host's\n")?;
    fs::write(folder.join("passwd"), "app:x:0:0::/:/bin/sh\n")?;
    // Whoever runs it says so.
    let script = format!("#!/bin/sh\necho run >{CANARY}/pwned-by-evil\n");
    fs::write(folder.join("evil"), script)?;
    fs::set_permissions(folder.join("evil"), fs::Permissions::from_mode(0o4755))?;
    fs::write(folder.join("evil.so"), "no library")?;
    symlink("file", folder.join("link"))?;
    Ok(())
}

fn files() -> Result<Files> {
    let mut found = Files::new();
    let mut pending: Vec<PathBuf> = FILES.iter().map(PathBuf::from).collect();
    pending.push(CANARY.into());
    while let Some(path) = pending.pop() {
        let Ok(metadata) = path.symlink_metadata() else {
            // Not every system has every file.
            continue;
        };
        let kind = metadata.file_type();
        let content = if kind.is_symlink() {
            fs::read_link(&path)?.display().to_string()
        } else if kind.is_file() {
            String::from_utf8_lossy(&fs::read(&path)?).into_owned()
        } else {
            if kind.is_dir() {
                for entry in fs::read_dir(&path)? {
                    pending.push(entry?.path());
                }
            }
            String::new()
        };
        let what = format!(
            "{:o} {}:{} links {} device {} at {}.{}: {content}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.nlink(),
            metadata.rdev(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        found.insert(path, what);
    }
    Ok(found)
}
