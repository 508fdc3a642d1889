//! One container's folder on the host, and what is on record of it.
//!
//! ```text
//! configs/<id>/
//!   config.json   what was asked for; replaced whole by rename and update
//!   lock          held by the command that makes the folder, then by its supervisor to its end
//! containers/<id>/
//!   state.json    replaced whole at each change: what became of it
//!   control.sock  where the supervisor listens, see client.rs
//!   upper.img     the writable disk
//!   <id>-json.log what the process wrote, see logs/
//!   vm.log        early console of the guest and the VMM's own lines
//! ```
//! There is no daemon: what these files and the lock say is the truth. A state that says
//! `running` without a held lock belongs to a supervisor that died. A folder has its name only
//! while it is whole: before, it is `.new-<id>`, and while it goes, `.old-<id>`. What was asked for and the
//! lock lie apart, since the supervisor may write in the folder and is to choose neither what the next
//! start has nor whether it is seen.
//! Called by [`super::containers`], which knows them all, and by [`super::supervisor`].

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

use super::given::Given;
use super::health::Health;
use super::launch::Launch;
use super::lock;
use super::network::NetworkState;
use super::paths::{self, Root};
use super::plain;
use super::volumes;

pub use super::lock::{Holder, Lock};

/// Longest state file in bytes that is read: a configuration with all of its environment.
const STATE_BYTES_MAX: u64 = 4 << 20;

/// Bytes of the VM's log that are there also when the disk is full.
const LOG_BYTES_RESERVED: libc::off_t = 16 << 10;

/// Time between two looks at whether somebody is still at a container's files.
const FILES_POLL: Duration = Duration::from_millis(20);

/// Length of an id in hex digits, and of its short form.
pub const ID_LEN: usize = 64;
/// See [`ID_LEN`].
pub const SHORT_ID_LEN: usize = 12;

/// What begins the names of folders that are being made, or that nobody finished.
pub const NEW: &str = ".new-";
/// What begins the names of folders that are being removed.
pub const OLD: &str = ".old-";

/// Name of the folder with what was asked for, beside that of containers.
const CONFIGS: &str = "configs";

/// Names of files in a container's there: what was asked for, and the lock.
const RECORD: &str = "config.json";
const LOCK: &str = "lock";

/// Where all that is on record lies.
#[must_use]
pub fn configs(root: &Root) -> PathBuf {
    root.path().join(CONFIGS)
}

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
    /// Variables of user and image, without those that every process gets.
    #[serde(default)]
    pub env: Vec<String>,
    /// Ports of the image and `--expose`, such as `80/tcp`.
    pub exposed_ports: std::collections::BTreeSet<String>,
    /// What to start.
    pub launch: Launch,
    /// What was given, for `inspect`.
    #[serde(default)]
    pub given: Given,
}

impl ContainerConfig {
    /// The id as lists and messages show it.
    #[must_use]
    pub fn short_id(&self) -> &str {
        self.id.get(..SHORT_ID_LEN).unwrap_or(&self.id)
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Never started, or its start failed.
    Created,
    /// Its process runs.
    Running,
    /// It runs, frozen.
    Paused,
    /// It ended and will be started again by its policy.
    Restarting,
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
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
        }
    }

    /// Whether there is a supervisor, as long as nobody killed it.
    #[must_use]
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
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
    /// Its network while it runs.
    #[serde(default)]
    pub network: Option<NetworkState>,
    /// When each step of the last start was done.
    pub phases: Phases,
    /// Exits to user space of the last run.
    pub exits: vmm::ExitCounts,
    /// What its health checks say.
    #[serde(default)]
    pub health: Option<Health>,
    /// How often its policy started it again.
    #[serde(default)]
    pub restart_count: u32,
    /// Whether a command is at starting it, or did.
    #[serde(default)]
    pub was_begun: bool,
    /// vCPUs and memory in MiB of its last VM, which `update` does not change.
    #[serde(default)]
    pub vm_size: (u8, u32),
    /// The host's control group of its last VM, where it had one.
    #[serde(default)]
    pub control_group: Option<String>,
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
            network: None,
            phases: Phases::default(),
            exits: vmm::ExitCounts::default(),
            health: None,
            restart_count: 0,
            was_begun: false,
            vm_size: (0, 0),
            control_group: None,
        }
    }

    /// Forgets the last run at the beginning of another.
    pub fn begin(&mut self, phases: Phases) {
        self.phases = phases;
        self.oom_killed = false;
        self.error.clear();
        self.was_begun = true;
    }

    /// What is left when its supervisor was killed.
    #[must_use]
    pub fn killed(self) -> Self {
        Self {
            status: Status::Exited,
            pid: 0,
            exit_code: EXIT_CODE_KILLED,
            finished_at: super::clock::now(),
            network: None,
            ..self
        }
    }

    /// Notes the end of a start: one whose process never ran stays `created`, whatever else went
    /// wrong is the end of one that ran.
    pub fn finish(&mut self, exit_code: u8, error: String) {
        self.pid = 0;
        self.network = None;
        self.exit_code = exit_code;
        self.status = if self.started_at == super::clock::ZERO_TIME {
            Status::Created
        } else {
            Status::Exited
        };
        self.error = error;
        self.finished_at = super::clock::now();
        self.phases.gone = super::clock::monotonic_ns();
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
    /// The VMM is in its namespaces, without privileges.
    #[serde(default)]
    pub jailed: u64,
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

    /// Bytes that the writable disk takes on the host; 0 before the first start.
    #[must_use]
    pub fn writable_bytes(&self) -> u64 {
        paths::space_of(&self.upper()).saturating_add(plain::writable_bytes(&self.0))
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
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))
    }

    /// Makes the folder with its configuration and first state, and its lock held, so that nobody
    /// takes it for one whose supervisor died. The caller keeps others from taking its name.
    ///
    /// # Errors
    /// When it exists or the disk is full; nothing is left then.
    pub fn create(&self, config: &ContainerConfig, begun: bool) -> Result<Lock> {
        if self.0.exists() {
            bail!("create {}: it is there", self.0.display());
        }
        let new = Self(self.beside(NEW));
        DirBuilder::new()
            .mode(0o700)
            .create(&new.0)
            .with_context(|| format!("create {}", new.0.display()))?;
        // What goes with its process is not to be there after a power cut.
        let is_durable = !config.launch.auto_remove;
        let made = new.fill(begun, is_durable).and_then(|()| {
            self.set_config(config)?;
            let lock = Lock::take(self.make_lock()?)?.context("lock a new container")?;
            std::fs::rename(&new.0, &self.0)
                .with_context(|| format!("create {}", self.0.display()))?;
            Ok(lock)
        });
        made.inspect_err(|_| {
            self.forget();
            let _ = std::fs::remove_dir_all(&new.0);
        })
    }

    /// Where what is kept is that its supervisor reads and does not change.
    #[must_use]
    pub fn kept(&self) -> PathBuf {
        // <root>/containers/<id>
        let root = self.0.ancestors().nth(2).unwrap_or(&self.0);
        root.join(CONFIGS)
            .join(self.0.file_name().unwrap_or_default())
    }

    /// What was asked for.
    fn record(&self) -> PathBuf {
        self.kept().join(RECORD)
    }

    fn forget(&self) {
        let kept = self.kept();
        // What stays goes with the next creation.
        for name in [RECORD, LOCK] {
            let _ = std::fs::remove_file(kept.join(name));
        }
        let _ = std::fs::remove_dir(kept);
    }

    fn fill(&self, begun: bool, is_durable: bool) -> Result<()> {
        let state = ContainerState {
            was_begun: begun,
            ..ContainerState::created()
        };
        write(&self.0.join("state.json"), &state, is_durable)?;
        // A container that fills the disk has room left to say so. Not every file system can reserve.
        let _ = fallocate(
            &self.open_log()?,
            FallocateFlags::FALLOC_FL_KEEP_SIZE,
            0,
            LOG_BYTES_RESERVED,
        );
        Ok(())
    }

    /// The path of a folder on its way to or from this one's name.
    fn beside(&self, prefix: &str) -> PathBuf {
        let name = self.0.file_name().unwrap_or_default().to_string_lossy();
        self.0.with_file_name(format!("{prefix}{name}"))
    }

    /// Takes the lock, or `None` when another holds it.
    ///
    /// # Errors
    /// When the lock file can't be opened.
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        Lock::take(self.open_lock()?)
    }

    /// Whether a supervisor lives. Asks without taking the lock, so that it is in nobody's way.
    ///
    /// # Errors
    /// When the lock file can't be read.
    pub fn is_locked(&self) -> Result<bool> {
        lock::is_held(&self.open_lock()?)
    }

    /// Opens the file of the lock.
    ///
    /// # Errors
    /// When it can't be opened, or the container is gone: then none is made, which nobody would remove.
    pub fn open_lock(&self) -> Result<File> {
        if let Err(error) = self.0.symlink_metadata() {
            return Err(error).with_context(|| format!("lock {}", self.0.display()));
        }
        self.open_lock_by(OpenOptions::new().read(true).write(true))
    }

    /// Where the lock is, for messages.
    #[must_use]
    pub fn lock_path(&self) -> PathBuf {
        self.kept().join(LOCK)
    }

    /// Opens the file of the lock, and makes it if there is none.
    pub(super) fn make_lock(&self) -> Result<File> {
        let path = self.lock_path();
        if let Some(folder) = path.parent() {
            paths::create_private(folder)?;
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(false);
        self.open_lock_by(options.read(true).write(true).mode(0o600))
    }

    fn open_lock_by(&self, options: &mut OpenOptions) -> Result<File> {
        let path = self.lock_path();
        options
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))
    }

    /// Who has its lock, if somebody has.
    ///
    /// # Errors
    /// When the lock file can't be read.
    pub fn holder(&self) -> Result<Option<Holder>> {
        let file = self.open_lock()?;
        match lock::is_held(&file)? {
            true => Holder::read(&file).map(Some),
            false => Ok(None),
        }
    }

    /// Whether a command is at the files of this container, which does not run then.
    ///
    /// # Errors
    /// When the lock file can't be read.
    pub fn is_looked_into(&self) -> Result<bool> {
        Ok(matches!(self.holder()?, Some(Holder::Files { .. })))
    }

    /// Waits as long as a command is at its files; whether one was.
    ///
    /// # Errors
    /// When the lock file can't be read.
    pub fn wait_for_files(&self) -> Result<bool> {
        let mut waited = false;
        while self.path().exists() && self.is_looked_into()? {
            waited = true;
            std::thread::sleep(FILES_POLL);
        }
        Ok(waited)
    }

    /// What was asked for.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn config(&self) -> Result<ContainerConfig> {
        let mut config: ContainerConfig = read(&self.record())?;
        // <root>/containers/<id>
        if let Some(root) = self.0.ancestors().nth(2) {
            volumes::relocate(&Root::at(root.to_owned()), &mut config.launch.mounts);
        }
        Ok(config)
    }

    /// What became of it, as its supervisor left it: use [`Self::true_state`] to read.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn state(&self) -> Result<ContainerState> {
        read(&self.0.join("state.json"))
    }

    /// What became of it, corrected when its supervisor died without a word.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn true_state(&self) -> Result<ContainerState> {
        let state = self.state()?;
        if !state.status.is_alive() {
            return Ok(state);
        }
        if self.is_locked()? {
            return Ok(state);
        }
        // It was killed, or wrote the end between the two looks. Who sees it first keeps the time.
        let Some(_lock) = self.try_lock()? else {
            return self.state();
        };
        let state = self.state()?;
        if !state.status.is_alive() {
            return Ok(state);
        }
        let state = state.killed();
        // On a disk that is full the next one sees it.
        let _ = self.set_state(&state);
        Ok(state)
    }

    /// Replaces what was asked for. The caller holds the lock of all containers.
    ///
    /// # Errors
    /// When the disk is full; the old one is kept then.
    pub fn set_config(&self, config: &ContainerConfig) -> Result<()> {
        let path = self.record();
        if let Some(folder) = path.parent() {
            paths::create_private(folder)?;
        }
        write(&path, config, !config.launch.auto_remove)
    }

    /// Replaces the state.
    ///
    /// # Errors
    /// When the disk is full; the old state is kept then.
    pub fn set_state(&self, state: &ContainerState) -> Result<()> {
        // It takes the place of one that the disk has: after a power cut one of them is there.
        write(&self.0.join("state.json"), state, false)
    }

    /// Removes the folder with everything in it. It loses its name first, so that nobody finds
    /// half of it.
    ///
    /// # Errors
    /// When a file can't be removed.
    pub fn remove(&self) -> Result<()> {
        self.remove_after(|| {})
    }

    /// As [`Self::remove`], and does `act` when the name is gone and the files are still there.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub fn remove_after(&self, act: impl FnOnce()) -> Result<()> {
        let old = self.beside(OLD);
        let removed = std::fs::rename(&self.0, &old).and_then(|()| {
            self.forget();
            act();
            self.remove_plain(&old);
            std::fs::remove_dir_all(&old)
        });
        match removed {
            // Another did it, or does the rest.
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes what may be somebody else's, of a plain container; what stays is told of by who removes
    /// the rest.
    fn remove_plain(&self, path: &Path) {
        let name = self.0.file_name().unwrap_or_default().to_string_lossy();
        let _ = plain::remove(path, &name);
    }
}

/// Replaces a file whole, by another in its folder; where it is to be durable the disk has it then.
fn write<T: Serialize>(path: &Path, value: &T, is_durable: bool) -> Result<()> {
    let about = || format!("write {}", path.display());
    let text = serde_json::to_vec(value).with_context(about)?;
    if text.len() as u64 > STATE_BYTES_MAX {
        bail!(
            "{}: it has {} bytes, more than the {STATE_BYTES_MAX} that are read again",
            about(),
            text.len()
        );
    }
    let mut file = tempfile::Builder::new()
        .prefix(NEW)
        .tempfile_in(path.parent().with_context(about)?)
        .with_context(about)?;
    file.write_all(&text).with_context(about)?;
    if is_durable {
        file.as_file().sync_all().with_context(about)?;
    }
    file.persist(path).with_context(about)?;
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    use std::io::Read;
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(STATE_BYTES_MAX).read_to_end(&mut text))
        .with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
}

/// What a container whose supervisor was killed reports: as if its process had got SIGKILL.
pub const EXIT_CODE_KILLED: u8 = 137;

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::at(temp.path().join("containers/c"));
        std::fs::create_dir_all(folder.path()).unwrap();
        folder.make_lock().unwrap();
        (temp, folder)
    }

    #[test]
    fn who_looks_for_the_lock_of_one_that_is_being_removed_makes_none() {
        let (_temp, folder) = folder();
        folder.forget();
        folder.open_lock().unwrap_err();
        assert!(!folder.kept().exists());
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let (_temp, folder) = folder();
        let before = ContainerState::created();
        folder.set_state(&before).unwrap();
        let long = ContainerState {
            error: "x".repeat(usize::try_from(STATE_BYTES_MAX).unwrap()),
            ..before
        };
        let error = folder.set_state(&long).unwrap_err().to_string();
        assert!(error.contains("are read again"), "{error}");
        assert_eq!(folder.true_state().unwrap().error, "");
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
            Holder::read(&folder.open_lock().unwrap()).unwrap(),
            Holder::Unsigned
        );
        held.sign().unwrap();
        assert!(matches!(
            Holder::read(&folder.open_lock().unwrap()).unwrap(),
            Holder::Supervisor(_)
        ));
        drop(held);
        let state = folder.true_state().unwrap();
        assert_eq!(
            (state.status, state.pid, state.exit_code),
            (Status::Exited, 0, 137)
        );
        assert_eq!(folder.state().unwrap().finished_at, state.finished_at);
        assert_ne!(state.finished_at, super::super::clock::ZERO_TIME);
    }

    #[test]
    fn only_one_that_never_ran_stays_created() {
        let mut state = ContainerState::created();
        state.finish(125, "no KVM".to_owned());
        assert_eq!((state.status, state.exit_code), (Status::Created, 125));
        let mut state = ContainerState {
            status: Status::Running,
            pid: 77,
            ..ContainerState::created()
        };
        state.started_at = "2025-01-01T00:00:00Z".to_owned();
        state.finish(125, "the VM ended".to_owned());
        assert_eq!((state.status, state.pid), (Status::Exited, 0));
        assert_eq!(state.error, "the VM ended");
    }

    #[test]
    fn a_damaged_state_is_an_error_that_names_the_file() {
        let (_temp, folder) = folder();
        std::fs::write(folder.path().join("state.json"), b"{").unwrap();
        let error = folder.state().unwrap_err().to_string();
        assert!(error.ends_with("state.json is damaged"), "{error}");
    }
}
