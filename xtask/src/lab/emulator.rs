//! Starts the emulated host: QEMU in software emulation of an AMD CPU with SVM, Debian's kernel
//! with kvm-amd, this machine's files over 9p. `lab` and `session` call it. It must not know
//! what runs inside.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::client::Address;
use super::host_kernel;
use super::initramfs::{self, Access, Mount};
use super::server::{Configuration, READY};
use super::spawn::{Lifetime, inherit, set_lifetime};
use crate::packages::Package;
use crate::paths;

/// What the emulated host needs.
pub(super) const PACKAGES: &[Package] = &[
    Package::file("qemu-system-x86", &["/usr/bin/qemu-system-x86_64"]),
    Package::file(
        "qemu-system-data",
        &[
            "/usr/share/seabios/bios-256k.bin",
            "/usr/share/qemu/bios-256k.bin",
        ],
    ),
    Package::static_file("busybox-static", "/bin/busybox"),
    Package::file("e2fsprogs", &["/sbin/mke2fs", "/usr/sbin/mke2fs"]),
    Package::file("xz-utils", &["/usr/bin/xz"]),
    Package::LAB_KERNEL,
];

/// Where the server listens inside.
const GUEST_PORT: u16 = 1;

/// Sparse: takes what is written to it.
const SCRATCH_DISK_BYTES: u64 = 16 << 30;

/// Enough for several Debian trees on the scratch disk.
const SCRATCH_DISK_INODES: u32 = 2_000_000;

/// Starting takes 4 s on two idle cores; a busy machine may take many times that.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// A host that went away is waited for so long, to see how it ended.
const END_TIMEOUT: Duration = Duration::from_secs(2);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Other processes take ports as well; so often another one is tried.
const PORT_ATTEMPTS: u32 = 5;

/// So much of the console's end is shown when the emulated host does not come up.
const CONSOLE_TAIL_LINES: usize = 30;

/// The size and shape of an emulated host.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) memory_mib: u32,
    pub(super) cpus: u32,
    /// The folder that is writable inside and outlives it.
    pub(super) out: PathBuf,
    pub(super) lifetime: Lifetime,
}

/// An emulated host that runs.
pub(super) struct Machine {
    pub(super) emulator: Child,
    pub(super) address: Address,
    console: File,
    messages: File,
    end: End,
}

/// What becomes of the emulator when its [`Machine`] is dropped.
enum End {
    Kill,
    LetRun,
}

impl Machine {
    /// Lets the emulator go on after this process.
    pub(super) fn detach(mut self) {
        self.end = End::LetRun;
    }

    /// Why a host that went away did: how the emulator ended, what it said, its console's end.
    pub(super) fn obituary(&mut self) -> String {
        let begun = Instant::now();
        let end = loop {
            match self.emulator.try_wait() {
                Ok(Some(status)) => break format!("the emulator ended with {status}"),
                Ok(None) if begun.elapsed() < END_TIMEOUT => thread::sleep(POLL_INTERVAL),
                Ok(None) => break "the emulator still runs".to_owned(),
                Err(error) => break format!("the emulator can't be watched: {error}"),
            }
        };
        format!("{end}\n{}", self.last_words())
    }

    /// What the emulator said, and the end of the console.
    fn last_words(&self) -> String {
        let messages = content(&self.messages);
        // What an emulated CPU lacks is known and harmless.
        let messages = messages
            .lines()
            .filter(|line| !line.contains("TCG doesn't support"));
        let console = content(&self.console);
        let console: Vec<_> = console.lines().collect();
        let tail = console.len().saturating_sub(CONSOLE_TAIL_LINES);
        let lines: Vec<_> = messages.chain(console.into_iter().skip(tail)).collect();
        lines.join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let End::Kill = self.end {
            // Both fail only when it has ended already.
            let _ = self.emulator.kill();
            let _ = self.emulator.wait();
        }
    }
}

/// Starts an emulated host and waits until commands can be run in it.
///
/// # Errors
///
/// Something it needs can't be made or read, or it does not come up in time; the message then
/// has the end of its console.
pub(super) fn start(options: &Options) -> Result<Machine> {
    for _ in 1..PORT_ATTEMPTS {
        if let Some(machine) = try_start(options)? {
            return Ok(machine);
        }
    }
    try_start(options)?.context("no port of the loopback could be had")
}

/// `None` when the port was taken meanwhile.
fn try_start(options: &Options) -> Result<Option<Machine>> {
    let folder = paths::lab();
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    fs::create_dir_all(&options.out)
        .with_context(|| format!("create {}", options.out.display()))?;
    let out = options
        .out
        .canonicalize()
        .context("resolve the writable folder")?;

    let kernel = host_kernel::find()?;
    let token = random_token()?;
    let configuration = Configuration {
        port: GUEST_PORT,
        token: token.clone(),
        out: out.clone(),
    };
    let mounts = mounts(out);
    let mut initrd = memory_file("initramfs")?;
    initrd
        .write_all(&initramfs::pack(&kernel, &mounts, &configuration)?)
        .context("write the initramfs")?;
    let disk = scratch_disk(&folder)?;
    let console = memory_file("console")?;
    let messages = memory_file("messages")?;
    let port = free_port()?;

    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-name",
        "bulkhead-lab",
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ])
    .args([
        "-machine",
        "pc",
        "-accel",
        "tcg,thread=multi,tb-size=1024",
        "-cpu",
        "EPYC,+svm",
    ])
    .args([
        "-smp",
        &options.cpus.to_string(),
        "-m",
        &options.memory_mib.to_string(),
    ])
    .arg("-kernel")
    .arg(kernel.bootable(&folder))
    .args(["-initrd", &by_descriptor(&initrd)])
    .args([
        "-append",
        "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check nokaslr",
    ])
    .args([
        "-chardev",
        &format!("file,id=console,path={}", by_descriptor(&console)),
        "-serial",
        "chardev:console",
    ])
    .args([
        "-drive",
        &format!(
            "file={},format=raw,if=none,id=disk,cache=unsafe,discard=unmap",
            by_descriptor(&disk)
        ),
    ])
    .args(["-device", "virtio-blk-pci,drive=disk"])
    .args([
        "-netdev",
        &format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:{GUEST_PORT}"),
    ])
    .args(["-device", "virtio-net-pci,netdev=net,romfile="]);
    let root = Mount {
        tag: "root".into(),
        folder: "/".into(),
        access: Access::ReadOnly,
    };
    for mount in std::iter::once(&root).chain(&mounts) {
        qemu.args(share(mount));
    }
    for file in [&initrd, &disk, &console] {
        inherit(file).context("pass a file on")?;
    }
    qemu.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(messages.try_clone().context("copy a descriptor")?);
    set_lifetime(&mut qemu, options.lifetime);
    let emulator = qemu.spawn().context("start qemu-system-x86_64")?;
    let mut machine = Machine {
        emulator,
        address: Address { port, token },
        console,
        messages,
        end: End::Kill,
    };

    match machine.wait_until_ready()? {
        Start::Ready => Ok(Some(machine)),
        Start::Failed(why) => {
            let said = machine.last_words();
            if said.contains("Could not set up host forwarding rule") {
                return Ok(None);
            }
            bail!("the emulated host {why}\n{said}");
        }
    }
}

enum Start {
    Ready,
    Failed(String),
}

impl Machine {
    fn wait_until_ready(&mut self) -> Result<Start> {
        let begun = Instant::now();
        loop {
            if content(&self.console).contains(READY) {
                return Ok(Start::Ready);
            }
            if let Some(status) = self.emulator.try_wait().context("watch the emulator")? {
                return Ok(Start::Failed(format!(
                    "ended while starting, with {status}"
                )));
            }
            if begun.elapsed() > START_TIMEOUT {
                return Ok(Start::Failed(format!(
                    "did not come up in {} s",
                    START_TIMEOUT.as_secs()
                )));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// The folders that are seen as they are: the work tree, cargo's target where that is
/// elsewhere, and the writable one last, since it may lie in the others.
fn mounts(out: PathBuf) -> Vec<Mount> {
    let workspace = paths::workspace();
    let target = paths::target();
    let mut mounts = Vec::new();
    for folder in [&workspace, &target] {
        if folder == &workspace || !folder.starts_with(&workspace) {
            let tag = format!("live{}", mounts.len());
            mounts.push(Mount {
                tag,
                folder: folder.clone(),
                access: Access::ReadOnly,
            });
        }
    }
    mounts.push(Mount {
        tag: "out".into(),
        folder: out,
        access: Access::ReadWrite,
    });
    mounts
}

/// QEMU's arguments to share a folder.
fn share(mount: &Mount) -> [String; 4] {
    let Mount {
        tag,
        folder,
        access,
    } = mount;
    // A comma is doubled in QEMU's option strings.
    let path = folder.to_string_lossy().replace(',', ",,");
    let readonly = match access {
        Access::ReadOnly => ",readonly=on",
        Access::ReadWrite => "",
    };
    [
        "-fsdev".into(),
        format!("local,id={tag},path={path},security_model=none,multidevs=remap{readonly}"),
        "-device".into(),
        format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]
}

/// A disk that nobody can see and that goes with the last process that has it open.
fn scratch_disk(folder: &Path) -> Result<File> {
    let disk = tempfile::tempfile_in(folder)
        .with_context(|| format!("create a disk in {}", folder.display()))?;
    disk.set_len(SCRATCH_DISK_BYTES).context("size the disk")?;
    inherit(&disk).context("pass the disk on")?;
    let output = Command::new("mke2fs")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "0",
            "-O",
            "^has_journal",
            "-N",
            &SCRATCH_DISK_INODES.to_string(),
        ])
        .args([
            "-E",
            "nodiscard,lazy_itable_init=1,assume_storage_prezeroed=1",
        ])
        .arg(by_descriptor(&disk))
        .output()
        .context("start mke2fs")?;
    if !output.status.success() {
        bail!(
            "mke2fs ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(disk)
}

fn memory_file(name: &str) -> Result<File> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC)
        .with_context(|| format!("create the {name} in memory"))?
        .into())
}

/// The name under which a child that inherits `file` can open it.
fn by_descriptor(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn content(file: &File) -> String {
    let mut bytes = Vec::new();
    let mut file = file;
    // What can't be read is not there; the caller decides by what it finds.
    let _ = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

fn random_token() -> Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_only_unless_asked_and_commas_are_doubled() {
        let mount = Mount {
            tag: "t".into(),
            folder: "/a,b".into(),
            access: Access::ReadOnly,
        };
        let [_, fsdev, _, device] = share(&mount);
        assert_eq!(
            fsdev,
            "local,id=t,path=/a,,b,security_model=none,multidevs=remap,readonly=on"
        );
        assert_eq!(device, "virtio-9p-pci,fsdev=t,mount_tag=t");
        let [_, fsdev, ..] = share(&Mount {
            access: Access::ReadWrite,
            ..mount
        });
        assert!(!fsdev.contains("readonly"));
    }

    #[test]
    fn the_writable_folder_is_mounted_last() {
        let mounts = mounts("/out".into());
        assert_eq!(
            mounts.last().map(|mount| mount.access),
            Some(Access::ReadWrite)
        );
        assert_eq!(
            mounts.first().map(|mount| mount.folder.clone()),
            Some(paths::workspace())
        );
    }

    #[test]
    fn tokens_differ() {
        let (a, b) = (
            random_token().expect("token"),
            random_token().expect("token"),
        );
        assert_eq!(a.len(), 64);
        assert_ne!(a, b);
    }
}
