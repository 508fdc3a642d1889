//! What a VM is asked to do: run a container ([`RunSpec`]) or unpack a layer ([`ConvertSpec`]).
//!
//! Built by `src/sandbox`, carried out by the agent. Every name in here that comes from an image
//! (user, paths, arguments, environment) is looked up in the guest only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::message::WindowSize;
use crate::probe::Probe;

/// A container to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Where the layers lie on the image device, lowest first. Each holds an EROFS.
    pub layers: Vec<LayerExtent>,
    /// Whether the second block device holds an ext4 for the writable layer; without it the
    /// writable layer is a tmpfs in the guest's memory.
    pub upper_disk: bool,
    /// `--read-only`.
    pub read_only_root: bool,
    /// Host name inside the container.
    pub hostname: String,
    /// NIS domain name, empty for none.
    pub domainname: String,
    /// Content of `/etc/hosts`.
    pub hosts: String,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// `--tmpfs`: target to mount options as the user wrote them.
    pub tmpfs: BTreeMap<String, String>,
    /// Folders and files of the host.
    #[serde(default)]
    pub mounts: Vec<MountSpec>,
    /// Size of `/dev/shm` in bytes.
    pub shm_bytes: u64,
    /// `--sysctl`.
    pub sysctls: BTreeMap<String, String>,
    /// Limits of the container's control group.
    pub resources: Resources,
    /// `--init`: a reaping, signal-forwarding PID 1 in front of the process.
    pub init: bool,
    /// `--privileged`: every capability, no seccomp filter, no masks, all of `/dev`; in the guest only.
    pub privileged: bool,
    /// `--security-opt systempaths=unconfined`: no masked and no read-only paths.
    pub system_paths_unconfined: bool,
    /// `--security-opt writable-cgroups=true`.
    pub writable_cgroups: bool,
    /// `--ipc none`: no `/dev/shm` and `/dev/mqueue`.
    pub ipc_none: bool,
    /// Guest device nodes that `--device` asks for.
    pub devices: Vec<DeviceNode>,
    /// The network card; without it there is only the loopback.
    #[serde(default)]
    pub network: Option<NetworkSpec>,
    /// Layers of earlier steps that lie on the writable disk, between the image's and this one's.
    #[serde(default)]
    pub sealed: u32,
    /// Whether its processes have a loopback only, whatever the VM has.
    #[serde(default)]
    pub network_none: bool,
    /// What a step of a build sees besides: `RUN --mount`.
    #[serde(default)]
    pub step_mounts: Vec<StepMount>,
    /// What to run as the main process.
    pub process: ProcessSpec,
}

/// Something that a step of a build sees and its layer does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepMount {
    /// Absolute path in the container; made when it is missing.
    pub target: String,
    /// What is there.
    pub source: StepSource,
    /// Whether it can't be changed. What is changed is lost.
    pub read_only: bool,
}

/// What a [`StepMount`] shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepSource {
    /// A path in what a [`crate::task::PlaceTarget::Scratch`] has put aside.
    Scratch {
        /// Its number.
        number: u32,
        /// The path in it.
        path: String,
    },
    /// A file of this content, in memory.
    Secret {
        /// At most [`SECRET_BYTES`].
        content: Vec<u8>,
        /// Permissions.
        mode: u16,
        /// Owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// Most bytes of all secrets of a step; the message that carries them, up to four characters each, fits a
/// frame.
pub const SECRET_BYTES: usize = 125_000;

/// The one network interface of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// IP addresses, each with the length of its network's prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default routes.
    pub gateways: Vec<IpAddr>,
    /// Ethernet address of all gateways: nobody has to be asked for it, so that the first packet may
    /// be the last.
    pub gateway_mac: [u8; 6],
}

/// A folder or file of the host in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Its name below the root of the file system device.
    pub share: u32,
    /// Absolute path in the container; made when it is missing.
    pub target: String,
    /// Whether the guest shows it as read-only. The host enforces it either way.
    pub read_only: bool,
    /// Whether it takes what the image has at the target.
    pub copy_up: CopyUp,
    /// Owner, group and permissions that an empty directory gets.
    #[serde(default)]
    pub owned: Option<Owned>,
}

/// Owner, group and permissions of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Permissions.
    pub mode: u16,
}

/// Whether a volume takes the image's content at its target before it is mounted there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyUp {
    /// It does not.
    #[default]
    No,
    /// If there is nothing in it.
    IfEmpty,
    /// A copy that broke off is in it: what is there goes first.
    Again,
}

/// One layer on the image device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerExtent {
    /// First byte, a multiple of 4096.
    pub offset: u64,
    /// Length in bytes, a multiple of 4096.
    pub len: u64,
}

/// A device node of the guest made visible in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Path in the guest's own `/dev`, such as `/dev/fuse`.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// Any of `r`, `w`, `m`.
    pub access: String,
}

/// A process of the container: the main one or an exec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments; the program is looked up in the container's PATH.
    pub args: Vec<String>,
    /// `K=V` strings. The agent adds HOME (and nothing else) when it is not there.
    pub env: Vec<String>,
    /// Docker's user syntax: empty, `name`, `uid`, `name:group`, `uid:gid` …
    pub user: String,
    /// `--group-add`: names or numbers.
    pub group_add: Vec<String>,
    /// Absolute; created when missing.
    pub cwd: String,
    /// A terminal of this size; its input comes from `stdin`, its output goes to `stdout`.
    pub terminal: Option<WindowSize>,
    /// Byte streams of the process.
    pub stdio: Stdio,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Capabilities by name without `CAP_`, upper case, sorted.
    pub capabilities: Vec<String>,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// Which system calls are allowed.
    pub seccomp: Seccomp,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// Runs in place of the image's program; the arguments are its own.
    #[serde(default)]
    pub probe: Option<Probe>,
}

/// vsock ports on the host that the guest connects to for a process's streams, before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// Bytes for stdin, end of stream closes it. Without it stdin is `/dev/null`.
    pub stdin: Option<u32>,
    /// Bytes of stdout; without it they are thrown away.
    pub stdout: Option<u32>,
    /// Bytes of stderr; without it they are thrown away. Absent with a terminal.
    pub stderr: Option<u32>,
}

/// A resource limit (`setrlimit`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Name as `--ulimit` writes it, such as `nofile`.
    pub name: String,
    /// Soft limit, `u64::MAX` for none.
    pub soft: u64,
    /// Hard limit, `u64::MAX` for none.
    pub hard: u64,
}

/// The system call filter of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// Docker's default profile for the process's capabilities.
    Default,
    /// No filter.
    Unconfined,
    /// A profile in Docker's JSON form.
    Profile(String),
}

/// Limits of the container's cgroup (version 2); absent means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// `memory.max` in bytes.
    pub memory_max: Option<u64>,
    /// `memory.low` in bytes.
    pub memory_low: Option<u64>,
    /// `memory.swap.max` in bytes.
    pub swap_max: Option<u64>,
    /// `cpu.max`: microseconds of CPU time per period.
    pub cpu_quota_us: Option<u64>,
    /// `cpu.max`: the period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// `cpu.weight`, 1 to 10000.
    pub cpu_weight: Option<u64>,
    /// `pids.max`.
    pub pids_max: Option<u64>,
}

/// A layer to unpack. Block device 1 holds the blob (read-only), block device 2 takes the EROFS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertSpec {
    /// Length of the blob in bytes; the device is this, rounded up to a sector.
    pub blob_bytes: u64,
    /// How the blob is compressed.
    pub compression: Compression,
    /// What the SHA-256 of the uncompressed tar must be: 64 lower-case hex digits.
    pub diff_id: String,
    /// When to give up.
    pub limits: ConvertLimits,
}

/// Compression of a layer blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip, any number of members.
    Gzip,
    /// zstd, any number of frames.
    Zstd,
    /// Not declared: told by its first bytes.
    Sniff,
}

/// Limits of a conversion, so that a bomb ends it and not the host's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertLimits {
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
    /// Bytes of the resulting file system.
    pub image_bytes: u64,
    /// Number of entries in the tar.
    pub entries: u64,
}
