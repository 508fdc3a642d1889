//! One container's folder on the host, and finding containers by name or id.
//!
//! ```text
//! containers/<id>/
//!   config.json   written once: what was asked for
//!   state.json    replaced whole at each change: what became of it
//!   lock          held by its supervisor as long as that lives
//!   upper.img     the writable disk
//!   vm.log        early console of the guest and the VMM's own lines
//! ```
//! There is no daemon: what these files and the lock say is the truth. A state that says
//! `running` without a held lock belongs to a supervisor that died.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::launch::Launch;
use super::paths::Root;

/// Longest state file in bytes that is read: a configuration with all of its environment.
const STATE_BYTES_MAX: u64 = 4 << 20;

/// Length of an id in hex digits, and of its short form.
pub const ID_LEN: usize = 64;
/// See [`ID_LEN`].
pub const SHORT_ID_LEN: usize = 12;

/// What was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// 64 hex digits.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// RFC 3339.
    pub created: String,
    /// The image as the user named it.
    pub image: String,
    /// Its id.
    pub image_id: String,
    /// Labels of image and user.
    pub labels: std::collections::BTreeMap<String, String>,
    /// `--annotation`.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Ports of the image and `--expose`, such as `80/tcp`; nothing is published.
    pub exposed_ports: std::collections::BTreeSet<String>,
    /// What to start.
    pub launch: Launch,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Never started, or its start failed.
    Created,
    /// Its process runs.
    Running,
    /// Its process ended.
    Exited,
}

impl Status {
    /// Docker's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }
}

/// What became of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerState {
    /// Where it is in its life.
    pub status: Status,
    /// The VMM's process id while it runs, else 0.
    pub pid: u32,
    /// Docker's exit code.
    pub exit_code: u8,
    /// Why it did not start.
    pub error: String,
    /// Whether the guest's out-of-memory killer struck.
    pub oom_killed: bool,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub finished_at: String,
    /// When each step of the last start was done.
    pub phases: Phases,
    /// Exits to user space of the last run.
    pub exits: vmm::ExitCounts,
}

impl ContainerState {
    /// A container that was never started.
    #[must_use]
    pub fn created() -> Self {
        Self {
            status: Status::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: super::clock::ZERO_TIME.to_owned(),
            finished_at: super::clock::ZERO_TIME.to_owned(),
            phases: Phases::default(),
            exits: vmm::ExitCounts::default(),
        }
    }
}

/// Moments of a start on `CLOCK_MONOTONIC` in nanoseconds, 0 for what has not happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// The command's `main`.
    pub command: u64,
    /// Image found, layers and writable disk ready.
    pub disks: u64,
    /// The supervisor started the VMM process.
    pub vmm_spawn: u64,
    /// The VMM's `main`.
    pub vmm: u64,
    /// KVM's VM exists.
    pub vm_created: u64,
    /// Kernel and initramfs are in memory.
    pub loaded: u64,
    /// The guest's first instruction.
    pub first_instruction: u64,
    /// The agent said hello.
    pub agent: u64,
    /// The process was executed.
    pub started: u64,
    /// The process ended and its output was read.
    pub exited: u64,
    /// The VM is gone.
    pub gone: u64,
}

/// A container's folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder of the container `id`.
    #[must_use]
    pub fn of(root: &Root, id: &str) -> Self {
        Self(root.containers().join(id))
    }

    /// A folder by its path, as the supervisor is told.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The writable disk.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.0.join("upper.img")
    }

    /// Opens the VM's log for appending.
    ///
    /// # Errors
    /// When it can't be created.
    pub fn open_log(&self) -> Result<File> {
        let path = self.0.join("vm.log");
        OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))
    }

    /// Makes the folder with its configuration and first state. The name must be free, which the
    /// caller has checked under [`lock_names`].
    ///
    /// # Errors
    /// When it exists or the disk is full; nothing is left then.
    pub fn create(&self, config: &ContainerConfig) -> Result<()> {
        DirBuilder::new()
            .mode(0o700)
            .create(&self.0)
            .with_context(|| format!("create {}", self.0.display()))?;
        let written = self
            .write("state.json", &ContainerState::created())
            .and_then(|()| self.write("config.json", config));
        if written.is_err() {
            let _ = self.remove();
        }
        written
    }

    /// Takes the supervisor's lock, or `None` when another supervisor lives. It is held until the
    /// file is closed.
    ///
    /// # Errors
    /// When the lock file can't be opened.
    pub fn try_lock(&self) -> Result<Option<File>> {
        let (path, mut file) = self.open_lock()?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("lock {}", path.display())),
        }
        // Who holds it, for those who must end it.
        file.set_len(0)
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Some(file))
    }

    /// Waits for the supervisor's lock.
    fn lock(&self) -> Result<File> {
        let (path, file) = self.open_lock()?;
        fcntl(&file, FcntlArg::F_OFD_SETLKW(&whole_file(libc::F_WRLCK)))
            .with_context(|| format!("lock {}", path.display()))?;
        Ok(file)
    }

    /// Whether a supervisor lives. Asks without taking the lock, so that it is in nobody's way.
    fn is_locked(&self) -> Result<bool> {
        let (path, file) = self.open_lock()?;
        let mut found = whole_file(libc::F_WRLCK);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found))
            .with_context(|| format!("ask for the lock of {}", path.display()))?;
        Ok(i32::from(found.l_type) != libc::F_UNLCK)
    }

    fn open_lock(&self) -> Result<(PathBuf, File)> {
        let path = self.0.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        Ok((path, file))
    }

    /// Process id of the supervisor that holds the lock.
    fn supervisor(&self) -> Result<Pid> {
        let path = self.0.join("lock");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        match text.trim().parse() {
            Ok(pid) if pid > 1 => Ok(Pid::from_raw(pid)),
            _ => bail!("{} names no supervisor", path.display()),
        }
    }

    /// What was asked for.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn config(&self) -> Result<ContainerConfig> {
        self.read("config.json")
    }

    /// What became of it, as its supervisor left it: use [`Self::true_state`] to read.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn state(&self) -> Result<ContainerState> {
        self.read("state.json")
    }

    /// What became of it, corrected when its supervisor died without a word.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn true_state(&self) -> Result<ContainerState> {
        let state = self.state()?;
        if state.status != Status::Running {
            return Ok(state);
        }
        if self.is_locked()? {
            return Ok(state);
        }
        Ok(ContainerState {
            status: Status::Exited,
            pid: 0,
            exit_code: EXIT_CODE_KILLED,
            ..state
        })
    }

    /// Replaces the state.
    ///
    /// # Errors
    /// When the disk is full; the old state is kept then.
    pub fn set_state(&self, state: &ContainerState) -> Result<()> {
        self.write("state.json", state)
    }

    /// Removes the folder with everything in it.
    ///
    /// # Errors
    /// When a file can't be removed.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let path = self.0.join(name);
        let text = serde_json::to_vec(value).with_context(|| format!("write {name}"))?;
        let mut file = tempfile::Builder::new()
            .prefix(".new-")
            .tempfile_in(&self.0)
            .with_context(|| format!("write {}", path.display()))?;
        file.write_all(&text)
            .with_context(|| format!("write {}", path.display()))?;
        file.persist(&path)
            .with_context(|| format!("write {}", path.display()))?;
        Ok(())
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        use std::io::Read;
        let path = self.0.join(name);
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(STATE_BYTES_MAX).read_to_end(&mut text))
            .with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }
}

/// A lock on all of a file, as `fcntl` takes it.
fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        // F_RDLCK, F_WRLCK and F_UNLCK are 0, 1 and 2.
        l_type: i16::try_from(kind).unwrap_or(0),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// What a container whose supervisor was killed reports: as if its process had got SIGKILL.
const EXIT_CODE_KILLED: u8 = 137;

/// Adds a container under a name that no other has.
///
/// # Errors
/// Docker's conflict sentence when the name is taken; otherwise as [`Folder::create`].
pub fn create(root: &Root, config: &ContainerConfig) -> Result<Folder> {
    let _names = lock_names(root)?;
    let taken = list(root)?
        .into_iter()
        .find(|(_, other)| other.name == config.name);
    if let Some((_, other)) = taken {
        bail!(
            "Conflict. The container name \"/{}\" is already in use by container \"{}\". \
             You have to remove (or rename) that container to be able to reuse that name.",
            config.name,
            other.id
        );
    }
    let folder = Folder::of(root, &config.id);
    folder.create(config)?;
    Ok(folder)
}

/// Removes a container that does not run; with `force` also one that does, by killing its VM.
///
/// # Errors
/// Docker's sentence when it runs and `force` is not given.
pub fn remove(folder: &Folder, config: &ContainerConfig, force: bool) -> Result<()> {
    if let Some(_lock) = folder.try_lock()? {
        return folder.remove();
    }
    if !force {
        bail!(
            "cannot remove container \"/{}\": container is running: stop the container before \
             removing or force remove",
            config.name
        );
    }
    let supervisor = folder.supervisor()?;
    // The VM dies with its supervisor; the lock is free when both are gone.
    let _ = nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGKILL);
    let _lock = folder.lock()?;
    folder.remove()
}

/// Holds the right to add or rename containers.
///
/// # Errors
/// When the lock file can't be opened.
pub fn lock_names(root: &Root) -> Result<Flock<File>> {
    let path = root.containers().join(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("lock {}", path.display()))
}

/// Every container that has a readable configuration, newest first.
///
/// # Errors
/// When the folder of containers can't be read.
pub fn list(root: &Root) -> Result<Vec<(Folder, ContainerConfig)>> {
    let folder = root.containers();
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry.with_context(|| format!("read {}", folder.display()))?;
        let is_id = entry.file_name().to_str().is_some_and(is_full_id);
        if is_id {
            let folder = Folder(entry.path());
            if let Ok(config) = folder.config() {
                all.push((folder, config));
            }
        }
    }
    all.sort_by(|a, b| b.1.created.cmp(&a.1.created));
    Ok(all)
}

fn is_full_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Finds a container as Docker does: full id, then name, then an unambiguous start of an id.
///
/// # Errors
/// `No such container: X`, or that the id is ambiguous.
pub fn find(root: &Root, wanted: &str) -> Result<(Folder, ContainerConfig)> {
    let name = wanted.strip_prefix('/').unwrap_or(wanted);
    let mut all = list(root)?;
    if let Some(at) = all
        .iter()
        .position(|(_, config)| config.id == wanted)
        .or_else(|| all.iter().position(|(_, config)| config.name == name))
    {
        return Ok(all.swap_remove(at));
    }
    let mut matching = all
        .into_iter()
        .filter(|(_, c)| !wanted.is_empty() && c.id.starts_with(wanted));
    match (matching.next(), matching.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => bail!("multiple IDs found with provided prefix: {wanted}"),
        _ => bail!("No such container: {wanted}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::at(temp.path().join("c"));
        std::fs::create_dir(folder.path()).unwrap();
        (temp, folder)
    }

    #[test]
    fn a_running_container_without_a_supervisor_was_killed() {
        let (_temp, folder) = folder();
        let running = ContainerState {
            status: Status::Running,
            pid: 77,
            ..ContainerState::created()
        };
        folder.set_state(&running).unwrap();
        let held = folder.try_lock().unwrap().unwrap();
        assert_eq!(folder.true_state().unwrap().status, Status::Running);
        assert!(folder.try_lock().unwrap().is_none());
        assert_eq!(
            folder.supervisor().unwrap().as_raw(),
            i32::try_from(std::process::id()).unwrap()
        );
        drop(held);
        let state = folder.true_state().unwrap();
        assert_eq!(
            (state.status, state.pid, state.exit_code),
            (Status::Exited, 0, 137)
        );
    }

    #[test]
    fn a_damaged_state_is_an_error_that_names_the_file() {
        let (_temp, folder) = folder();
        std::fs::write(folder.path().join("state.json"), b"{").unwrap();
        let error = folder.state().unwrap_err().to_string();
        assert!(error.ends_with("state.json is damaged"), "{error}");
    }

    #[test]
    fn ids_are_sixty_four_lower_case_hex_digits() {
        assert!(is_full_id(&"a0".repeat(32)));
        for wrong in [
            "",
            "a0",
            &"A0".repeat(32),
            &"g0".repeat(32),
            &"a".repeat(65),
        ] {
            assert!(!is_full_id(wrong), "{wrong}");
        }
    }
}
