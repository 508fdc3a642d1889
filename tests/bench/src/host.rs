//! The command under measurement, with a state root of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// The last VM is torn down after its command has ended.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_POLL: Duration = Duration::from_millis(20);

/// Where and how to measure.
pub struct Host {
    bulkhead: PathBuf,
    /// Folder of `vmlinux` and `initramfs.cpio`.
    pub guest: PathBuf,
    root: TempDir,
    /// Measurements of each kind.
    pub runs: usize,
}

impl Host {
    /// A fresh state root. Programs and guest files are copied beside it: where they come from may
    /// be a share of another machine's files, which no start-up is to be measured by.
    pub fn new(bulkhead: &Path, guest: &Path, runs: usize) -> Result<Self> {
        let root = tempfile::Builder::new()
            .prefix("bulkhead-bench-")
            .tempdir()?;
        let host = Self {
            bulkhead: root.path().join("bulkhead"),
            guest: root.path().join("guest"),
            root,
            runs,
        };
        fs::create_dir(&host.guest)?;
        fs::copy(bulkhead, &host.bulkhead).context("copy the command")?;
        for name in ["vmlinux", "initramfs.cpio", "kernel.json"] {
            fs::copy(guest.join(name), host.guest.join(name)).context("copy the guest's files")?;
        }
        Ok(host)
    }

    /// A copy of a peer's program, on the same disk as ours.
    pub fn adopt(&self, program: &Path) -> Result<PathBuf> {
        let name = program.file_name().context("a program has a name")?;
        let folder = self.root.path().join("programs");
        fs::create_dir_all(&folder)?;
        let copy = folder.join(name);
        fs::copy(program, &copy).with_context(|| format!("copy {}", program.display()))?;
        Ok(copy)
    }

    /// A folder for scratch files on the same disk as the state root.
    pub fn scratch(&self) -> &Path {
        self.root.path()
    }

    /// The command with its environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.bulkhead);
        command
            .args(args)
            .env("BULKHEAD_ROOT", self.state_root())
            .env("BULKHEAD_GUEST", &self.guest)
            .stdin(Stdio::null());
        command
    }

    /// Runs the command and returns its stdout; fails when it does.
    pub fn output(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output().context("run bulkhead")?;
        if !output.status.success() {
            bail!(
                "bulkhead {args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Its state root.
    pub fn state_root(&self) -> PathBuf {
        self.root.path().join("state")
    }

    /// Whether a container's VM has said this, on a console that its VMM writes to `vm.log`.
    pub fn vm_said(&self, container: &str, wanted: &str) -> Result<bool> {
        let id = self.output(&["inspect", "-f", "{{.Id}}", container]);
        // It may not be there yet.
        let Ok(id) = id else { return Ok(false) };
        let log = self.state_root().join("containers").join(id.trim());
        let log = fs::read(log.join("vm.log")).unwrap_or_default();
        Ok(String::from_utf8_lossy(&log).contains(wanted))
    }

    /// Waits until no process of the command is left.
    pub fn wait_until_idle(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let mut left = fs::read_dir("/proc")?.flatten().filter(|entry| {
                fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == self.bulkhead)
            });
            if left.next().is_none() {
                return Ok(());
            }
            if begun.elapsed() > IDLE_TIMEOUT {
                bail!("processes of the command are left");
            }
            std::thread::sleep(IDLE_POLL);
        }
    }

    /// Loads an image archive.
    pub fn load(&self, archive: &Path) -> Result<()> {
        let path = archive.to_str().context("archive path is not UTF-8")?;
        self.output(&["load", "-q", "-i", path]).map(drop)
    }
}

/// Wall time in seconds of a command that must succeed; its output is thrown away.
pub fn time(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    let output = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("run {command:?}"))?;
    let seconds = start.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(seconds)
}
