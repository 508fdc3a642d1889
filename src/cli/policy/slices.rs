//! What of a policy the kernel keeps, whatever the user runs: limits of users' slices.
//!
//! ```text
//! systemd     /etc/systemd/system/user-.slice.d/60-bulkhead-policy.conf      [default]
//!             /etc/systemd/system/user-UID.slice.d/60-bulkhead-policy.conf   who has other limits
//! cgroup v2   /sys/fs/cgroup/user.slice/user-UID.slice/memory.max, cpu.max, pids.max
//! ```
//! A drop-in of one user hides that of all, as it has the same name (systemd.unit(5)), so that it has all
//! limits of its user. The groups themselves are written where there is no systemd, which would undo it.
//! Called by [`super::verb`]; it knows no user but by number.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::limits::{Limits, PERIOD_US};
use crate::sandbox::control_group;

/// Behind those that distributions ship (10-) and `systemctl set-property` makes (50-): the last one counts.
const DROP_IN: &str = "60-bulkhead-policy.conf";

/// The slice of all users that have none of their own here.
const OF_ALL: &str = "user-.slice";

/// Below it each user has a slice.
const USERS: &str = "user.slice";

/// Limits of all users but root, whom a slice would not hold.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Of those without a section.
    pub of_all: Limits,
    /// Of the others, by number.
    pub of_users: BTreeMap<u32, Limits>,
}

/// Who has the kernel keep limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// systemd, which makes the slices.
    Systemd,
    /// This command: somebody else made groups of these names.
    Groups,
}

/// Where things are on the host.
#[derive(Debug)]
pub struct Host {
    /// There when systemd runs (sd_booted(3)).
    systemd: PathBuf,
    /// Units of the administrator.
    units: PathBuf,
    /// Where cgroup v2 is mounted.
    groups: PathBuf,
    /// Files of groups that this command has written, until the host is down.
    record: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            systemd: "/run/systemd/system".into(),
            units: "/etc/systemd/system".into(),
            groups: control_group::MOUNT.into(),
            record: "/run/bulkhead-policy".into(),
        }
    }
}

/// A step that makes the kernel keep what is wanted.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// A drop-in of this text.
    Write(PathBuf, String),
    /// A drop-in that is wanted no more.
    Remove(PathBuf),
    /// A file of a control group: what it has, and what it is to have.
    Set(PathBuf, String, String),
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(path, text) => {
                let properties = text
                    .lines()
                    .filter(|line| line.contains('='))
                    .collect::<Vec<_>>();
                let none = ["no limit"].as_slice();
                let properties = if properties.is_empty() {
                    none
                } else {
                    &properties
                };
                write!(f, "write {}: {}", path.display(), properties.join(" "))
            }
            Self::Remove(path) => write!(f, "remove {}", path.display()),
            Self::Set(path, from, to) => write!(f, "set {}: {from} -> {to}", path.display()),
        }
    }
}

impl Host {
    /// Who keeps limits of slices here, if somebody does.
    #[must_use]
    pub fn keeper(&self) -> Option<Keeper> {
        if self.systemd.is_dir() {
            return Some(Keeper::Systemd);
        }
        let users = self.groups.join(USERS);
        let is_there = self.groups.join("cgroup.controllers").exists() && users.is_dir();
        is_there.then_some(Keeper::Groups)
    }

    /// Users that have a slice now.
    #[must_use]
    pub fn slices(&self) -> BTreeSet<u32> {
        let entries = fs::read_dir(self.groups.join(USERS));
        let names = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name());
        names.filter_map(|name| uid_of(name.to_str()?)).collect()
    }

    /// What is to be done for what is wanted; nothing when it is so already.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn changes(&self, keeper: Keeper, wanted: &Wanted) -> Result<Vec<Change>> {
        match keeper {
            Keeper::Systemd => self.drop_ins(wanted),
            Keeper::Groups => {
                let mut changes = self.different(wanted)?;
                let ours = self.recorded()?;
                for path in ours.difference(&self.limited(wanted)) {
                    let none = match path.ends_with("cpu.max") {
                        true => format!("max {PERIOD_US}"),
                        false => "max".to_owned(),
                    };
                    match read(path)? {
                        Some(now) if now != none => {
                            changes.push(Change::Set(path.clone(), now, none));
                        }
                        _ => {}
                    }
                }
                Ok(changes)
            }
        }
    }

    fn drop_ins(&self, wanted: &Wanted) -> Result<Vec<Change>> {
        let mut files = BTreeMap::new();
        let path = |slice: &str| self.units.join(format!("{slice}.d")).join(DROP_IN);
        if wanted.of_all != Limits::default() {
            files.insert(path(OF_ALL), wanted.of_all.drop_in());
            // It is a user, too, by its name.
            files.insert(path(&slice(0)), Limits::default().drop_in());
        }
        for (uid, limits) in wanted
            .of_users
            .iter()
            .filter(|(_, own)| **own != wanted.of_all)
        {
            files.insert(path(&slice(*uid)), limits.drop_in());
        }
        let mut changes = Vec::new();
        for entry in fs::read_dir(&self.units).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let slice = name.to_str().and_then(|name| name.strip_suffix(".d"));
            let is_a_users = slice.is_some_and(|slice| slice == OF_ALL || uid_of(slice).is_some());
            let path = entry.path().join(DROP_IN);
            if is_a_users && path.exists() && !files.contains_key(&path) {
                changes.push(Change::Remove(path));
            }
        }
        for (path, text) in files {
            if read(&path)?.as_deref() != Some(text.trim_end()) {
                changes.push(Change::Write(path, text));
            }
        }
        Ok(changes)
    }

    /// Files of slices that have something else than what is wanted.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn different(&self, wanted: &Wanted) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for (path, value) in self.values(wanted) {
            let now = read(&path)?.unwrap_or_else(|| "nothing".to_owned());
            if now != value {
                changes.push(Change::Set(path, now, value));
            }
        }
        Ok(changes)
    }

    /// What is wanted of slices that are there.
    fn values(&self, wanted: &Wanted) -> Vec<(PathBuf, String)> {
        let mut values = Vec::new();
        for uid in self.slices().into_iter().filter(|uid| *uid != 0) {
            let group = self.groups.join(USERS).join(slice(uid));
            let limits = wanted.of_users.get(&uid).unwrap_or(&wanted.of_all);
            for (name, value) in limits.files() {
                values.extend(value.map(|value| (group.join(name), value)));
            }
        }
        values
    }

    fn limited(&self, wanted: &Wanted) -> BTreeSet<PathBuf> {
        self.values(wanted)
            .into_iter()
            .map(|(path, _)| path)
            .collect()
    }

    /// Does it, and tells each step that is done.
    ///
    /// # Errors
    /// The first step that fails; those before it hold.
    pub fn apply(
        &self,
        keeper: Keeper,
        wanted: &Wanted,
        changes: &[Change],
        tell: &dyn Fn(&Change) -> Result<()>,
    ) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let limited = self.limited(wanted);
        if keeper == Keeper::Groups {
            // Also what this one does not come to is known to the next.
            self.record(&self.recorded()?.union(&limited).cloned().collect())?;
            self.enable();
        }
        for change in changes {
            change.make().with_context(|| change.to_string())?;
            tell(change)?;
        }
        match keeper {
            Keeper::Systemd => Ok(()),
            Keeper::Groups => self.record(&limited),
        }
    }

    /// Has slices controlled; what the host does not have is told by the file that is not there then.
    fn enable(&self) {
        for group in [self.groups.clone(), self.groups.join(USERS)] {
            for controller in ["+memory", "+cpu", "+pids"] {
                let _ = set(&group.join("cgroup.subtree_control"), controller);
            }
        }
    }

    fn recorded(&self) -> Result<BTreeSet<PathBuf>> {
        let text = read(&self.record)?.unwrap_or_default();
        Ok(text.lines().map(PathBuf::from).collect())
    }

    fn record(&self, files: &BTreeSet<PathBuf>) -> Result<()> {
        let lines = files.iter().map(|path| format!("{}\n", path.display()));
        write(&self.record, &lines.collect::<String>())
    }
}

impl Change {
    fn make(&self) -> Result<()> {
        match self {
            Self::Write(path, text) => write(path, text),
            Self::Remove(path) => {
                fs::remove_file(path)?;
                // With drop-ins of others it stays.
                let _ = path.parent().map(fs::remove_dir);
                Ok(())
            }
            Self::Set(path, _, value) => set(path, value),
        }
    }
}

fn slice(uid: u32) -> String {
    format!("user-{uid}.slice")
}

fn uid_of(slice: &str) -> Option<u32> {
    let number = slice.strip_prefix("user-")?.strip_suffix(".slice")?;
    number.parse().ok()
}

/// What a file has, but for the end of its last line.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Writes to a file that the kernel has.
fn set(path: &Path, value: &str) -> Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    Ok(file.write_all(value.as_bytes())?)
}

/// Puts a file in its place in one step, for all to read.
fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().context("a file has a folder")?;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(".bulkhead-")
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file()
        .set_permissions(Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests;
