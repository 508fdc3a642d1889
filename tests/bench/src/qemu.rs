//! QEMU's microvm machine with our guest kernel, its network by passt: the peer of `network` and `web`.
//!
//! Its card is the best that this QEMU and passt have together: frames of up to 65520 bytes, as
//! ours. It can't have segmentation offload, as QEMU's stream sockets carry no virtio header.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use command_fds::{CommandFdExt, FdMapping};
use nix::sys::socket::{setsockopt, sockopt};

use crate::host::Host;
use crate::peers::{BUSYBOX, pack_initramfs};

/// What the VM does before and after the script.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox ip link set lo up
/bin/busybox ip link set eth0 up
/bin/busybox ip addr add 172.17.0.2/16 dev eth0
/bin/busybox ip route add default via 172.17.0.1
SCRIPT
/bin/busybox reboot -f
";

/// Where both find their end of the socket.
const SOCKET_FD: i32 = 3;

/// As large as that of our sockets: passt drops what has no room.
const BUFFER_BYTES: usize = 4 << 20;

/// A VM that is described, not started.
pub struct Qemu {
    folder: PathBuf,
    kernel: PathBuf,
    memory_mib: u64,
}

/// One that runs, with its passt. Dropped, both are killed.
pub struct Running {
    pub qemu: Child,
    passt: Child,
}

impl Qemu {
    /// Set up to boot our kernel with these programs, busybox beside them, in its root folder.
    pub fn new(host: &Host, programs: &[&Path], memory_mib: u64) -> Result<Self> {
        let folder = host.scratch().join("qemu");
        let root = folder.join("root");
        fs::create_dir_all(root.join("bin")).context("create a root folder")?;
        fs::copy(BUSYBOX, root.join("bin/busybox")).context("copy busybox")?;
        for program in programs {
            let name = program.file_name().context("a program has a name")?;
            fs::copy(program, root.join(name)).context("copy a program")?;
        }
        Ok(Self {
            folder,
            kernel: host.guest.join("vmlinux"),
            memory_mib,
        })
    }

    /// Boots, runs the script and resets; `ports` is passt's list of what is published.
    pub fn run(&self, script: &str, ports: &str) -> Result<Running> {
        let root = self.folder.join("root");
        let init = root.join("init");
        fs::write(&init, INIT.replace("SCRIPT", script)).context("write init")?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let initramfs = self.folder.join("initramfs.cpio");
        pack_initramfs(&root, &initramfs)?;
        let (qemu_end, passt_end) = UnixStream::pair().context("create a socket pair")?;
        for end in [&qemu_end, &passt_end] {
            setsockopt(end, sockopt::SndBufForce, &BUFFER_BYTES).context("enlarge a socket")?;
        }
        let mut passt = Command::new("passt")
            .args(["--foreground", "--quiet", "--stderr", "--fd"])
            .arg(SOCKET_FD.to_string())
            .args(["--no-dhcp", "--no-dhcpv6", "--no-ra", "--ipv4-only"])
            .args(["--mtu", "65520", "--address", "172.17.0.2"])
            .args(["--netmask", "16", "--gateway", "172.17.0.1"])
            .args(["--tcp-ports", ports])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // It complains of a host without a system log.
            .stderr(Stdio::null())
            .fd_mappings(vec![at_socket_fd(passt_end)])?
            .spawn()
            .context("start passt")?;
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-accel", "kvm", "-cpu", "host", "-smp", "1", "-m"])
            .arg(self.memory_mib.to_string())
            .args(["-machine", "microvm,acpi=off,rtc=off,isa-serial=on"])
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1 reboot=t"])
            .arg("-netdev")
            .arg(format!(
                "stream,id=net,server=off,addr.type=fd,addr.str={SOCKET_FD}"
            ))
            .args(["-device", "virtio-net-device,netdev=net,host_mtu=65520"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .fd_mappings(vec![at_socket_fd(qemu_end)])?
            .spawn()
            .context("start qemu-system-x86_64");
        match qemu {
            Ok(qemu) => Ok(Running { qemu, passt }),
            Err(error) => {
                let _ = passt.kill();
                passt.wait()?;
                Err(error)
            }
        }
    }
}

fn at_socket_fd(socket: UnixStream) -> FdMapping {
    FdMapping {
        parent_fd: socket.into(),
        child_fd: SOCKET_FD,
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in [&mut self.qemu, &mut self.passt] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
