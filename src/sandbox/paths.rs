//! Where things lie on the host: the state root of this user, and the guest kernel and agent that
//! belong to this command.
//!
//! ```text
//! <root>/                       /var/lib/bulkhead for root, else $XDG_DATA_HOME/bulkhead
//!   images/                     content-addressed store and layer disks (crate images)
//!   plain/images/<key>/         unpacked images of plain containers, see plain/rootfs.rs
//!   plain/run/                  empty: where agents of plain containers mount, see plain/bundle.rs
//!   disks/                      blank writable disks, one per size
//!   containers/<id>/            one container's state, see state.rs
//!   configs/<id>/               what was asked for, and who has the container, see state.rs
//!   templates/<key>/            VMs that have booted already, see template.rs
//!   events/log, events/log.1    what happened, see events.rs
//!   build-contexts/             archives of build contexts, see cli/build/input.rs
//!   build-vms/<process>-<n>     builder VMs that are counted, see room.rs
//!   build-mounts/<digest>/      what RUN --mount=type=cache shares, see build/stage.rs
//!   volumes/<name>/             what containers share and leave, see volumes.rs
//!   ports.lock                  empty: whoever binds ports has its lock, see network/mod.rs
//! ```
//! Called by the verbs, by `doctor` and by all of this folder. It does not know what is in the files.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{AccessFlags, access};

/// Overrides the state root; tests and tenants of one account use it.
pub const ROOT_VARIABLE: &str = "BULKHEAD_ROOT";

/// Overrides the folder of kernel and agent.
pub const GUEST_VARIABLE: &str = "BULKHEAD_GUEST";

/// The state root.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// The root of this user, from the environment; created with mode 0700 when missing.
    ///
    /// # Errors
    /// When there is no home directory, it can't be created, or somebody else may change what is in it or
    /// which folder it is.
    pub fn of_user() -> Result<Self> {
        let path = match std::env::var_os(ROOT_VARIABLE) {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ if nix::unistd::geteuid().is_root() => PathBuf::from("/var/lib/bulkhead"),
            _ => user_data_home()?.join("bulkhead"),
        };
        let path = std::path::absolute(path).context("resolve the state root")?;
        let root = Self(path);
        create_private(&root.0)?;
        super::trust::check_own(&root.0).context("use the state root")?;
        let events = super::events::folder(&root.0);
        for folder in [root.containers(), root.disks(), root.volumes(), events] {
            create_private(&folder)?;
        }
        let ports = root.ports();
        if !ports.exists() {
            let mut options = OpenOptions::new();
            let opened = options.append(true).create(true).mode(0o600).open(&ports);
            opened.with_context(|| format!("create {}", ports.display()))?;
        }
        Ok(root)
    }

    /// A root that the command has found already.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// Blank writable disks.
    #[must_use]
    pub fn disks(&self) -> PathBuf {
        self.0.join("disks")
    }

    /// VMs that have booted already.
    #[must_use]
    pub fn templates(&self) -> PathBuf {
        self.0.join("templates")
    }

    /// One folder per volume.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }

    /// Folders of `RUN --mount=type=cache`.
    #[must_use]
    pub fn build_mounts(&self) -> PathBuf {
        self.0.join("build-mounts")
    }

    /// Build contexts that came as archives, while they are built.
    #[must_use]
    pub fn build_contexts(&self) -> PathBuf {
        self.0.join("build-contexts")
    }

    /// Who binds ports has the lock of this file.
    #[must_use]
    pub fn ports(&self) -> PathBuf {
        self.0.join("ports.lock")
    }

    /// Files of builder VMs that are counted.
    #[must_use]
    pub fn build_vms(&self) -> PathBuf {
        self.0.join("build-vms")
    }

    /// One folder per container.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }
}

fn user_data_home() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("XDG_DATA_HOME").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    match std::env::var_os("HOME").filter(|path| !path.is_empty()) {
        Some(home) => Ok(Path::new(&home).join(".local/share")),
        None => bail!("find the state root: neither {ROOT_VARIABLE} nor HOME is set"),
    }
}

/// Locks a folder of the state root against others who make something in it; dropped, it is free.
///
/// # Errors
/// When it can't be opened.
pub fn lock(folder: &Path) -> Result<Flock<File>> {
    let file = File::open(folder).with_context(|| format!("open {}", folder.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("lock {}", folder.display()))
}

/// Time between two tries to get a lock that is not waited for without end.
const LOCK_POLL: Duration = Duration::from_millis(5);

/// The same, or `None` when somebody has it all that time: the lock of a folder or file that also
/// supervisors reach, one of which may have been taken over and keep it.
///
/// # Errors
/// When it can't be opened.
pub fn lock_within(path: &Path, time: Duration) -> Result<Option<Flock<File>>> {
    let about = || format!("lock {}", path.display());
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let deadline = Instant::now() + time;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) if Instant::now() >= deadline => return Ok(None),
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, error)) => return Err(error).with_context(about),
        }
        std::thread::sleep(LOCK_POLL);
    }
}

/// Whether the files below a folder are in memory (tmpfs, ramfs).
#[must_use]
pub fn is_in_memory(folder: &Path) -> bool {
    use nix::sys::statfs::{TMPFS_MAGIC, statfs};
    /// linux/magic.h; not in nix.
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    statfs(folder).is_ok_and(|status| {
        let kind = status.filesystem_type();
        kind == TMPFS_MAGIC || kind.0 == RAMFS_MAGIC
    })
}

/// Where a program is, by PATH; without one, where execvp(3) looks then, and where administrators install.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").filter(|path| !path.is_empty());
    let path = path.unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| {
            file.is_absolute() && file.is_file() && access(file, AccessFlags::X_OK).is_ok()
        })
}

/// Bytes that the files below a folder take, each once however many names it has; what can't be read
/// counts for nothing.
#[must_use]
pub fn space_below(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0_u64;
    let mut seen = std::collections::HashSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(status) = entry.metadata() else {
                continue;
            };
            if status.is_dir() {
                folders.push(entry.path());
            } else if status.nlink() == 1 || seen.insert((status.dev(), status.ino())) {
                bytes = bytes.saturating_add(status.blocks().saturating_mul(512));
            }
        }
    }
    bytes
}

/// Bytes that a file takes, which may be sparse; 0 when it is not there.
#[must_use]
pub fn space_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    path.symlink_metadata()
        .map_or(0, |file| file.blocks().saturating_mul(512))
}

/// Makes a folder that is this user's alone, and those above it.
///
/// # Errors
/// When it can't be made.
pub fn create_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("create {}", path.display()))
}

/// The files a VM boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFiles {
    /// ELF kernel.
    pub kernel: PathBuf,
    /// cpio archive with the agent as `/init`.
    pub initramfs: PathBuf,
    /// What the kernel was built from.
    pub manifest: PathBuf,
}

impl GuestFiles {
    /// Looks for them: the folder named by [`GUEST_VARIABLE`], beside the command, in the
    /// `lib/bulkhead` of the prefix it is installed under.
    ///
    /// # Errors
    /// When no folder has both kernel and agent; the message names where it looked.
    pub fn find() -> Result<Self> {
        let mut tried = Vec::new();
        if let Some(folder) = std::env::var_os(GUEST_VARIABLE).filter(|f| !f.is_empty()) {
            tried.push(PathBuf::from(folder));
        } else {
            let command = std::env::current_exe().context("find the path of this command")?;
            if let Some(folder) = command.parent() {
                tried.push(folder.to_owned());
                if let Some(prefix) = folder.parent() {
                    tried.push(prefix.join("lib/bulkhead"));
                }
            }
        }
        for folder in &tried {
            let files = Self::in_folder(folder);
            if files.kernel.is_file() && files.initramfs.is_file() {
                return Ok(files);
            }
        }
        let list: Vec<String> = tried
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        bail!(
            "find the guest kernel (vmlinux) and agent (initramfs.cpio): not in {}",
            list.join(", ")
        )
    }

    fn in_folder(folder: &Path) -> Self {
        Self {
            kernel: folder.join("vmlinux"),
            initramfs: folder.join("initramfs.cpio"),
            manifest: folder.join("kernel.json"),
        }
    }
}
