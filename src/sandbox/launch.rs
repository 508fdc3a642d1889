//! What a supervisor is told to start: the guest's part, the machine's size, the disks; or a plain
//! container. `cli/merge.rs` makes it from the user's flags and the image's configuration; it is kept in
//! `configs/<id>` so that it can be started again. The supervisor goes by it, and `inspect` shows it.

use protocol::spec::{CopyUp, MountSpec, RunSpec};
use serde::{Deserialize, Serialize};

use super::block_io::BlockIo;
use super::health::HealthConfig;
use super::logs::LogConfig;
use super::network::NetworkConfig;
use super::restart::RestartPolicy;
use super::volumes::Mount;

/// `--isolation`: what is between the process and the host's kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// A microVM.
    #[default]
    Vm,
    /// Nothing: a plain container.
    Container,
}

/// One container's VM, or a plain container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// What the guest is asked to do; its layer extents and stream ports are filled in at start.
    pub run: RunSpec,
    /// Whether there is a VM.
    #[serde(default)]
    pub isolation: Isolation,
    /// The network; without it there is only the loopback.
    #[serde(default)]
    pub network: Option<NetworkConfig>,
    /// Number of vCPUs.
    pub vcpu_count: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Host CPUs the VM may run on; empty for all.
    pub host_cpus: Vec<usize>,
    /// Limits of the host's disks.
    #[serde(default)]
    pub block_io: BlockIo,
    /// Layers, lowest first, as keys of the layer cache.
    pub layers: Vec<images::LayerKey>,
    /// Size of the writable disk in bytes.
    pub writable_bytes: u64,
    /// Volumes and binds, in the order of `run.mounts`.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// `--rm`.
    pub auto_remove: bool,
    /// Whether stdin is kept open (`-i`).
    pub open_stdin: bool,
    /// Signal that asks the process to end.
    pub stop_signal: i32,
    /// Seconds from that signal to SIGKILL; negative for ever.
    pub stop_timeout_s: i64,
    /// Whether stdin ends with the first command that is attached to it.
    #[serde(default)]
    pub stdin_once: bool,
    /// `--restart`.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// `--health-…` and the image's health check.
    #[serde(default)]
    pub health: Option<HealthConfig>,
    /// `--log-driver`, `--log-opt`.
    #[serde(default)]
    pub log: LogConfig,
}

impl Launch {
    /// Gives the container these mounts.
    pub fn set_mounts(&mut self, mounts: Vec<Mount>) {
        self.run.mounts = mounts
            .iter()
            .map(|mount| MountSpec {
                // Numbered when the VM starts.
                share: 0,
                target: mount.target.clone(),
                read_only: mount.read_only,
                copy_up: CopyUp::No,
                owned: None,
            })
            .collect();
        self.mounts = mounts;
    }
}

/// Seconds from the stop signal to SIGKILL without `--stop-timeout`.
pub const DEFAULT_STOP_TIMEOUT_S: i64 = 10;

/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;

/// Memory of a VM without `-m`, in MiB. Lazily backed: a VM costs what its guest touches.
pub const DEFAULT_MEMORY_MIB: u32 = 1024;

/// What a VM has beyond its container's `-m`, in MiB: the kernel, its page tables and caches, and
/// the agent. The container's own limit is enforced by its cgroup in the guest.
pub const GUEST_OVERHEAD_MIB: u32 = 64;

/// Smallest VM in MiB: below, the kernel has no room to unpack its initramfs and run a shell.
pub const MEMORY_FLOOR_MIB: u32 = 128;

/// Default size of a container's writable layer in bytes; sparse, so it costs what is written.
pub const DEFAULT_WRITABLE_BYTES: u64 = 20 << 30;

/// Memory of the VM for a container limit of `limit` bytes.
#[must_use]
pub fn memory_mib(limit: Option<u64>) -> u32 {
    match limit {
        None => DEFAULT_MEMORY_MIB,
        Some(bytes) => {
            let mib = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX);
            mib.saturating_add(GUEST_OVERHEAD_MIB).max(MEMORY_FLOOR_MIB)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_a_container_limit_and_its_overhead_but_not_below_the_floor() {
        assert_eq!(memory_mib(None), 1024);
        assert_eq!(memory_mib(Some(6 << 20)), 128);
        assert_eq!(memory_mib(Some(64 << 20)), 128);
        assert_eq!(memory_mib(Some((512 << 20) + 1)), 577);
        assert_eq!(memory_mib(Some(u64::MAX)), u32::MAX);
    }
}
