//! Other ways to start something, for ratios: Firecracker booting the same kernel to an init that
//! resets at once, crun running the same busybox as a plain container, podman and buildah.
//! QEMU has a file of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tempfile::TempDir;

use crate::host::Host;

/// Debian's static busybox.
pub const BUSYBOX: &str = "/bin/busybox";

/// Firecracker set up to boot our kernel with an init that does nothing but reset.
pub struct Firecracker {
    binary: PathBuf,
    config: PathBuf,
}

impl Firecracker {
    /// Writes its configuration for a VM of `memory_mib` and `vcpus`.
    pub fn new(host: &Host, binary: &Path, memory_mib: u64, vcpus: u64) -> Result<Self> {
        let folder = host.scratch().join("firecracker");
        fs::create_dir_all(&folder)?;
        let initramfs = folder.join("initramfs.cpio");
        write_initramfs(&folder, &initramfs)?;
        let config = folder.join("config.json");
        let text = json!({
            "boot-source": {
                "kernel_image_path": host.guest.join("vmlinux"),
                "initrd_path": initramfs,
                // What Firecracker's own documentation and tests use, less its console output.
                "boot_args": "reboot=k panic=-1 quiet loglevel=1 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd",
            },
            "drives": [],
            "machine-config": { "vcpu_count": vcpus, "mem_size_mib": memory_mib },
        });
        fs::write(&config, text.to_string())?;
        Ok(Self {
            binary: binary.to_owned(),
            config,
        })
    }

    /// Boots and waits for the reset.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["--no-api", "--config-file"])
            .arg(&self.config);
        command
    }
}

fn write_initramfs(folder: &Path, archive: &Path) -> Result<()> {
    let root = folder.join("root");
    fs::create_dir_all(root.join("bin"))?;
    fs::copy(BUSYBOX, root.join("bin/busybox")).context("copy busybox")?;
    let init = root.join("init");
    fs::write(&init, "#!/bin/busybox sh\nexec /bin/busybox reboot -f\n")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    pack_initramfs(&root, archive)
}

/// A folder as an initramfs.
pub fn pack_initramfs(root: &Path, archive: &Path) -> Result<()> {
    let script = format!(
        "cd '{}' && find . | cpio -o -H newc --quiet > '{}'",
        root.display(),
        archive.display()
    );
    let status = Command::new("sh").args(["-c", &script]).status()?;
    if !status.success() {
        bail!("make an initramfs with cpio: {status}");
    }
    Ok(())
}

/// A crun bundle whose process is `true`.
pub struct Crun {
    bundle: PathBuf,
}

impl Crun {
    /// Writes the bundle.
    pub fn new(host: &Host) -> Result<Self> {
        let bundle = host.scratch().join("crun");
        let bin = bundle.join("rootfs/bin");
        fs::create_dir_all(&bin)?;
        fs::copy(BUSYBOX, bin.join("busybox")).context("copy busybox")?;
        if !bin.join("true").exists() {
            symlink("busybox", bin.join("true"))?;
        }
        let output = Command::new("crun")
            .arg("spec")
            .current_dir(&bundle)
            .output()
            .context("run crun (install the package crun)")?;
        let config = bundle.join("config.json");
        if !output.status.success() && !config.exists() {
            bail!("crun spec: {}", String::from_utf8_lossy(&output.stderr));
        }
        let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&config)?)?;
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["/bin/true"]);
        fs::write(&config, spec.to_string())?;
        Ok(Self { bundle })
    }

    /// Runs it to its end.
    pub fn command(&self) -> Command {
        let mut command = Command::new("crun");
        command
            .args(["run", "--bundle"])
            .arg(&self.bundle)
            .arg("bulkhead-bench");
        command.stdin(Stdio::null());
        command
    }
}

/// podman with crun on plain folders: what needs the least set-up.
pub struct Podman(PathBuf);

impl Podman {
    /// One with its storage in the host's scratch folder; all of a run share it.
    pub fn new(host: &Host) -> Self {
        Self(host.scratch().join("podman"))
    }

    /// The command.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command
            .args(["--runtime", "crun", "--storage-driver", "vfs"])
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"])
            .arg("--root")
            .arg(self.0.join("root"))
            .arg("--runroot")
            .arg(self.0.join("run"))
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Runs it; fails when it does.
    pub fn output(&self, args: &[&str]) -> Result<()> {
        succeed(&mut self.command(args))
    }

    /// Loads an image archive.
    pub fn load(&self, archive: &Path) -> Result<()> {
        let path = archive.to_str().context("archive path is not UTF-8")?;
        self.output(&["load", "-q", "-i", path])
    }
}

/// Where nothing is mounted above a disk: overlay does not go on overlay. The emulated host has it.
const DISK: &str = "/var/lib/containers";

/// buildah with the storage driver that it has by itself, overlay, and without namespaces of steps,
/// which is the quickest it has.
pub struct Buildah(TempDir);

impl Buildah {
    /// One with its storage on a disk.
    pub fn new() -> Result<Self> {
        fs::create_dir_all(DISK).context("create buildah's storage")?;
        let folder = tempfile::tempdir_in(DISK).context("create buildah's storage")?;
        Ok(Self(folder))
    }

    /// The command.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        command
            .args(["--storage-driver", "overlay", "--root"])
            .arg(self.0.path().join("root"))
            .arg("--runroot")
            .arg(self.0.path().join("run"))
            .args(args)
            .env("BUILDAH_ISOLATION", "chroot")
            .stdin(Stdio::null());
        command
    }

    /// Runs it; fails when it does.
    pub fn output(&self, args: &[&str]) -> Result<()> {
        succeed(&mut self.command(args))
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| {
        let program = command.get_program().display().to_string();
        format!("run {program} (install the package of that name)")
    })?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
