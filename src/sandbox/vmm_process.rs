//! The hidden verb `__vmm`: one VM in a process of its own.
//!
//! Ordered by [`super::vm`] with a [`VmmConfig`] on a descriptor and every file it needs but /dev/kvm
//! already open. It knows numbers and descriptors, no container, no image and no path but that.
#![allow(unsafe_code)] // takes ownership of inherited descriptors by number

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use vmm::builder::Kernel;
use vmm::virtio::{StandIn, balloon, block, console, fs, net, rng, vsock};
use vmm::{DeviceMaker, EFD_NONBLOCK, EventFd, ExitCounts, Snapshot, Start, Vm, VmConfig, VmEnd};

/// Longest configuration in bytes: 127 layers take some 10 KiB.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Longest state of a template in bytes: some 30 KiB a vCPU.
const STATE_BYTES_MAX: u64 = 4 << 20;

/// The serial port is for what the kernel says before it has the virtio console.
const CMDLINE: &str = "console=hvc0";

/// What the VMM process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmmConfig {
    /// Process id of the process that starts it, and whose end is its own.
    pub supervisor: u32,
    /// `io.stat` of its control group, where that limits block I/O.
    pub io_stat: Option<RawFd>,
    /// Number of vCPUs.
    pub vcpu_count: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Host CPUs the vCPUs may run on; empty for all.
    pub host_cpus: Vec<usize>,
    /// Where the VM begins.
    pub start: StartConfig,
    /// Block devices in the guest's order.
    pub disks: Vec<DiskConfig>,
    /// The network card, if there is one.
    pub card: Option<CardConfig>,
    /// Streams by vsock port.
    pub streams: Vec<StreamConfig>,
    /// The file system device, if there is one.
    pub files: Option<FilesConfig>,
    /// Where more of them come from.
    pub offers: Option<RawFd>,
    /// Takes what kernel and agent print, each with a limit.
    pub console: RawFd,
    /// Takes one [`VmReport`] as JSON when the VM ended.
    pub report: RawFd,
}

/// Where a VM begins.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartConfig {
    /// At its kernel's first instruction.
    Boot(KernelConfig),
    /// So too; it ends when its agent calls the host, with its memory and state in these files.
    MakeTemplate {
        /// What it boots.
        kernel: KernelConfig,
        /// Empty, for its memory.
        memory: RawFd,
        /// Empty, for its state as JSON.
        state: RawFd,
    },
    /// Where a template's VM ended.
    Template {
        /// Its memory, read-only.
        memory: RawFd,
        /// Its state, read-only.
        state: RawFd,
    },
}

/// What a VM boots.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct KernelConfig {
    /// An ELF file.
    pub kernel: RawFd,
    /// initramfs.
    pub initramfs: RawFd,
}

/// A block device.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskConfig {
    /// Files end to end, each opened read-only.
    ReadOnly(Vec<SegmentConfig>),
    /// One of no size, in a template's VM: where it goes on, there is a disk.
    Absent {
        /// Whether that one is written to; then an empty file.
        writable: Option<RawFd>,
    },
    /// One file of so many bytes.
    Writable {
        /// Opened for reading and writing.
        file: RawFd,
        /// Size of the device.
        bytes: u64,
        /// Whether a flush reaches the host's disk.
        durable: bool,
    },
}

/// A file on a read-only disk.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SegmentConfig {
    /// Opened read-only.
    pub file: RawFd,
    /// Its length in bytes.
    pub len: u64,
    /// Bytes it takes on the device; what lies beyond its end reads as zero.
    pub capacity: u64,
}

/// A network card.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct CardConfig {
    /// A connected stream socket to passt; none in a template's VM.
    pub socket: Option<RawFd>,
    /// The guest's addresses on its network.
    pub endpoint: net::Endpoint,
    /// A pipe: the guest begins when a byte comes, and never if none does.
    pub go: Option<RawFd>,
}

/// The file system device.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilesConfig {
    /// Without a server, in a template's VM.
    Absent,
    /// With one.
    Served {
        /// Sequential-packet socket to it.
        socket: RawFd,
        /// Memory shared with it.
        area: RawFd,
    },
}

/// One vsock port.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct StreamConfig {
    /// Port on the host's side.
    pub port: u32,
    /// A connected stream socket.
    pub socket: RawFd,
}

/// What the process tells when the VM ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmReport {
    /// Whether the process said so itself; one that was killed had no time to.
    #[serde(skip, default = "said")]
    pub by_itself: bool,
    /// How it ended, or why it never began.
    pub end: Result<VmEnd, String>,
    /// Exits to user space.
    pub exits: ExitCounts,
    /// `CLOCK_MONOTONIC` in nanoseconds: this process began, VM created, memory loaded, first
    /// instruction.
    pub times: VmTimes,
}

fn said() -> bool {
    true
}

/// Moments of a VM's start on `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmTimes {
    /// The VMM process's `main`.
    pub process: u64,
    /// It is in its namespaces, without privileges.
    pub jailed: u64,
    /// KVM's VM exists.
    pub created: u64,
    /// Kernel and initramfs are in memory.
    pub loaded: u64,
    /// The guest's first instruction.
    pub first_instruction: u64,
}

/// Runs the VM that the configuration on descriptor `config` describes and reports its end.
///
/// # Errors
/// When the configuration can't be read; anything later is in the report.
pub fn main(config: RawFd) -> Result<()> {
    let process = super::clock::monotonic_ns();
    die_with_supervisor()?;
    // What came before that call is seen by the check below.
    let mut text = String::new();
    // SAFETY: the supervisor passed this descriptor for this use only.
    let file = unsafe { File::from_raw_fd(config) };
    file.take(CONFIG_BYTES_MAX)
        .read_to_string(&mut text)
        .context("read the VM's configuration")?;
    let config: VmmConfig = serde_json::from_str(&text).context("parse the VM's configuration")?;
    check_parent(config.supervisor)?;
    pin(&config.host_cpus)?;
    super::vmm_jail::end_on_panic();
    // SAFETY: as above; each number in the configuration is named once.
    let mut report_to = unsafe { File::from_raw_fd(config.report) };
    let mut times = VmTimes {
        process,
        ..VmTimes::default()
    };
    let mut ended = None;
    let (end, exits) = match run(&config, &mut times, &mut ended) {
        Ok((end, exits)) => (Ok(end), exits),
        Err(error) => (Err(format!("{error:#}")), ExitCounts::default()),
    };
    let report = serde_json::to_vec(&VmReport {
        by_itself: true,
        end,
        exits,
        times,
    })?;
    report_to
        .write_all(&report)
        .context("report the end of the VM")?;
    if let Some(mut vm) = ended {
        // Whoever does not want the rest ends this process.
        vm.deliver()?;
    }
    Ok(())
}

/// Runs the VM; one whose output may not be delivered yet is put into `ended`.
fn run(
    config: &VmmConfig,
    times: &mut VmTimes,
    ended: &mut Option<Vm>,
) -> Result<(VmEnd, ExitCounts)> {
    if let Some(stat) = config.io_stat {
        // SAFETY: the supervisor passed this descriptor for this use only.
        let mut stat = unsafe { File::from_raw_fd(stat) };
        claim_disks(&config.disks, &mut stat).context("limit block I/O")?;
    }
    let kvm = vmm::open_kvm()?;
    super::vmm_jail::enter(config)?;
    times.jailed = super::clock::monotonic_ns();
    let called = EventFd::new(EFD_NONBLOCK).context("create an eventfd")?;
    let makes_template = matches!(config.start, StartConfig::MakeTemplate { .. });
    let mut devices: Vec<DeviceMaker> = Vec::new();
    for (index, disk) in config.disks.iter().enumerate() {
        let device = open_disk(index, disk)?;
        devices.push(Box::new(move |_| Ok(Box::new(device))));
    }
    let streams = config
        .streams
        .iter()
        // SAFETY: the supervisor passed these descriptors, each named once.
        .map(|stream| (stream.port, unsafe { OwnedFd::from_raw_fd(stream.socket) }))
        .collect();
    let offers = config
        .offers
        // SAFETY: as above.
        .map(|socket| unsafe { OwnedFd::from_raw_fd(socket) });
    let vsock =
        vsock::VsockDevice::new(protocol::GUEST_CID, streams, offers).context("set up vsock")?;
    if makes_template {
        // The agent's call stays in the queue, for the host of each VM that goes on from there.
        let called = called.try_clone().context("share an eventfd")?;
        devices.push(Box::new(|_| {
            Ok(Box::new(StandIn::new(Box::new(vsock), vsock::TX, called)))
        }));
    } else {
        devices.push(Box::new(move |_| Ok(Box::new(vsock))));
    }
    devices.push(Box::new(|_| Ok(Box::new(rng::RngDevice::new()))));
    // Memory that the guest has freed goes back to the host by free page reporting.
    devices.push(Box::new(|_| Ok(Box::new(balloon::BalloonDevice::new()?.0))));

    // SAFETY: as above.
    let log = unsafe { File::from_raw_fd(config.console) };
    let console = log.try_clone().context("share the log")?;
    devices.push(Box::new(|_| {
        Ok(Box::new(console::ConsoleDevice::new(console)))
    }));
    if let Some(card) = config.card {
        // SAFETY: as above.
        let socket = card.socket.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let device = net::NetDevice::new(card.endpoint, socket).context("set up the network")?;
        devices.push(Box::new(move |_| Ok(Box::new(device))));
    }
    if let Some(files) = config.files {
        let device = open_files(files)?;
        devices.push(Box::new(move |_| Ok(Box::new(device))));
    }
    let (begin, state) = begin(config.start)?;
    let start = super::clock::monotonic_ns();
    let mut vm = Vm::build(VmConfig {
        kvm,
        vcpu_count: config.vcpu_count,
        memory_mib: config.memory_mib,
        start: begin,
        devices,
        console: Box::new(log),
    })?;
    let since = |duration: Duration| {
        start.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    };
    let built = vm.times();
    times.created = since(built.vm_created);
    times.loaded = since(built.loaded);
    if let Some(go) = config.card.and_then(|card| card.go) {
        // SAFETY: as above. It is closed before descriptors are counted.
        let mut go = unsafe { File::from_raw_fd(go) };
        go.read_exact(&mut [0])
            .context("wait for the network: the supervisor gave up")?;
    }
    vm.set_confinement(super::vmm_jail::confinement(config)?);
    times.first_instruction = super::clock::monotonic_ns();
    let Some(state) = state else {
        let end = vm.run()?;
        *ended = Some(vm);
        return Ok(end);
    };
    let end = match vm.run_to_snapshot(&called)? {
        Ok(snapshot) => {
            let text = serde_json::to_vec(&snapshot).context("write the state of the VM")?;
            (&state)
                .write_all(&text)
                .context("write the state of the VM")?;
            VmEnd::Saved
        }
        Err(end) => end,
    };
    Ok((end, ExitCounts::default()))
}

/// Opens what the VM begins with; a template that is made also has a file for its state.
fn begin(config: StartConfig) -> Result<(Start, Option<File>)> {
    // SAFETY: the supervisor passed these descriptors, each named once.
    let open = |fd| unsafe { File::from_raw_fd(fd) };
    let kernel = |config: KernelConfig| Kernel {
        kernel: open(config.kernel),
        initramfs: open(config.initramfs),
        cmdline: CMDLINE.to_owned(),
    };
    Ok(match config {
        StartConfig::Boot(config) => (Start::Boot(kernel(config)), None),
        StartConfig::MakeTemplate {
            kernel: config,
            memory,
            state,
        } => (
            Start::BootInto(kernel(config), open(memory)),
            Some(open(state)),
        ),
        StartConfig::Template { memory, state } => {
            let mut text = Vec::new();
            open(state)
                .take(STATE_BYTES_MAX)
                .read_to_end(&mut text)
                .context("read the template's state")?;
            let snapshot: Snapshot =
                serde_json::from_slice(&text).context("parse the template's state")?;
            (Start::Restore(Box::new(snapshot), open(memory)), None)
        }
    })
}

fn open_files(config: FilesConfig) -> Result<fs::FsDevice> {
    let backend = match config {
        FilesConfig::Absent => None,
        FilesConfig::Served { socket, area } => Some(fs::Backend {
            // SAFETY: the supervisor passed these descriptors, each named once.
            socket: unsafe { OwnedFd::from_raw_fd(socket) },
            // SAFETY: as above.
            area: unsafe { File::from_raw_fd(area) },
            slot_count: file_server::server::SLOT_COUNT,
            slot_bytes: file_server::server::SLOT_BYTES,
        }),
    };
    fs::FsDevice::new(protocol::FILES_TAG, backend).context("set up the file system device")
}

fn open_disk(index: usize, disk: &DiskConfig) -> Result<block::BlockDevice> {
    // SAFETY: the supervisor passed these descriptors, each named once.
    let open = |fd| unsafe { File::from_raw_fd(fd) };
    let backend = match disk {
        DiskConfig::ReadOnly(segments) => block::Disk::read_only(
            segments
                .iter()
                .map(|segment| block::Segment {
                    file: open(segment.file),
                    len: segment.len,
                    capacity: segment.capacity,
                })
                .collect(),
        ),
        DiskConfig::Absent { writable } => Ok(block::Disk::absent(writable.map(open))),
        DiskConfig::Writable {
            file,
            bytes,
            durable,
        } => {
            let flush = if *durable {
                block::Flush::Durable
            } else {
                block::Flush::Ignore
            };
            block::Disk::writable(open(*file), *bytes, flush)
        }
    };
    Ok(block::BlockDevice::new(
        index,
        backend.with_context(|| format!("set up disk {index}"))?,
    ))
}

/// Has what will be written to these disks counted for this process's control group.
fn claim_disks(disks: &[DiskConfig], stat: &mut File) -> Result<()> {
    for disk in disks {
        if let DiskConfig::Writable { file, .. } = disk {
            // SAFETY: the supervisor passed this descriptor, and it is open until the VM is built.
            let file = unsafe { BorrowedFd::borrow_raw(*file) };
            let file = File::from(file.try_clone_to_owned().context("share a disk")?);
            super::writeback::claim(&file, stat, super::writeback::TIMEOUT)?;
        }
    }
    Ok(())
}

/// Dies when the supervisor does, however it dies.
fn die_with_supervisor() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("tie the VM to its supervisor")
}

/// Whether the supervisor died before this process was tied to it: then another has adopted this
/// process, init or whoever reaps for it.
pub(super) fn check_parent(supervisor: u32) -> Result<()> {
    if std::os::unix::process::parent_id() != supervisor {
        anyhow::bail!("the supervisor is gone");
    }
    Ok(())
}

fn pin(cpus: &[usize]) -> Result<()> {
    match cpus {
        [] => Ok(()),
        some => pin_thread(0, some),
    }
}

/// Lets every thread of a VM's process run on these host CPUs only.
///
/// # Errors
/// When one of them is none, or the process is gone.
pub fn pin_threads(pid: u32, cpus: &[usize]) -> Result<()> {
    let tasks = format!("/proc/{pid}/task");
    let threads = std::fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))?;
    for thread in threads.flatten() {
        let name = thread.file_name();
        if let Some(id) = name.to_str().and_then(|name| name.parse().ok()) {
            pin_thread(id, cpus)?;
        }
    }
    Ok(())
}

/// 0 is the calling thread.
fn pin_thread(id: i32, cpus: &[usize]) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)
            .with_context(|| format!("use host CPU {cpu}"))?;
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(id), &set)
        .with_context(|| format!("run on host CPUs {cpus:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_another_adopted_has_no_supervisor() {
        check_parent(std::os::unix::process::parent_id()).unwrap();
        let error = check_parent(std::process::id()).unwrap_err().to_string();
        assert_eq!(error, "the supervisor is gone");
    }
}
