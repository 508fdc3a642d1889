//! Builds a VM: [`Vm::build`] reads down in boot order, for one that boots and for one that goes
//! on from a snapshot.
//!
//! ```text
//! VmConfig ── build ──► Vm (nothing runs yet) ── run ──────────────► VmEnd
//!     ▲                                      └── run_to_snapshot ──► Snapshot
//!     └───────────────────────────── Start::Restore ─────────────────────┘
//! ```

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use kvm_bindings::{
    KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::GuestMemory;
use crate::boot::{self, BootError};
use crate::bus::Bus;
use crate::cpu::{self, CpuidPolicy};
use crate::memory::{self, Backing, MMIO_START, MemoryError};
use crate::snapshot::Snapshot;
use crate::vcpu::{EndSignal, ExitCounters, Refusals, Vcpu};
use crate::virtio::mmio::{QUEUE_NOTIFY, REGION_LEN, Transport};
use crate::virtio::{Device, RestoreError, Worker};
use crate::vm::{EndListener, Vm};
use crate::watch::Notes;

/// Most vCPUs of a VM: what the MP table's KiB holds and the guest kernel is built for.
pub const VCPUS_MAX: u8 = 32;

/// First interrupt pin of a virtio device; below are the PC's own.
const FIRST_IRQ: u32 = 5;

/// Pins 5 to 23 of the IO-APIC.
pub const DEVICES_MAX: usize = 19;

/// Where KVM keeps the task state and the identity map it needs on Intel CPUs without unrestricted
/// guest mode: four pages below the end of the 32-bit space, where no RAM is.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// What every VM's command line begins with: `reboot=k` resets by the keyboard controller, `panic=-1`
/// at once after a panic; `no_timer_check`, `noreplace-smp` and `cryptomgr.notests` spare the boot what
/// needs no trying in a VM; of the serial port only the early console is there (`8250.nr_uarts=0`,
/// `earlycon`); `random.trust_cpu` seeds the kernel's generator at once.
const CMDLINE: &str = "reboot=k panic=-1 no_timer_check noreplace-smp 8250.nr_uarts=0 \
    earlycon=uart8250,io,0x3f8 random.trust_cpu=on cryptomgr.notests";

/// What to build.
pub struct VmConfig {
    /// From [`open_kvm`].
    pub kvm: Kvm,
    /// Number of vCPUs, 1 to [`VCPUS_MAX`].
    pub vcpu_count: u8,
    /// Memory in MiB, within [`memory::MEMORY_MIB`].
    pub memory_mib: u32,
    /// Where it begins.
    pub start: Start,
    /// In the order in which the guest numbers them.
    pub devices: Vec<DeviceMaker>,
    /// Takes what the early console prints.
    pub console: Box<dyn Write + Send>,
}

/// What a VM boots.
pub struct Kernel {
    /// ELF `vmlinux`.
    pub kernel: File,
    /// cpio archive, uncompressed.
    pub initramfs: File,
    /// Added to the kernel command line.
    pub cmdline: String,
}

/// Where a VM begins.
pub enum Start {
    /// At the kernel's first instruction.
    Boot(Kernel),
    /// So too, with its memory in this file, for [`Vm::run_to_snapshot`].
    BootInto(Kernel, File),
    /// Where a snapshot was taken, with a copy of the memory in this file. The VM must be as large
    /// and have the same devices.
    Restore(Box<Snapshot>, File),
}

/// Makes a device once guest memory exists (the balloon gives it back).
pub type DeviceMaker = Box<dyn FnOnce(&GuestMemory) -> std::io::Result<Box<dyn Device>>>;

/// Why a VM could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `/dev/kvm` can't be opened.
    #[error("open /dev/kvm: {0}")]
    OpenKvm(kvm_ioctls::Error),
    /// This KVM lacks something.
    #[error("KVM on this host lacks {0:?}")]
    MissingCapability(Cap),
    /// A KVM call failed.
    #[error("{operation}")]
    Kvm {
        /// Which.
        operation: &'static str,
        /// Why.
        source: kvm_ioctls::Error,
    },
    /// Outside 1 to [`VCPUS_MAX`].
    #[error("{0} vCPUs: must be 1 to {VCPUS_MAX}")]
    VcpuCount(u8),
    /// More than [`DEVICES_MAX`].
    #[error("{0} devices: at most {DEVICES_MAX}")]
    DeviceCount(usize),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel, initramfs or boot structures.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A device or a descriptor.
    #[error("{operation}")]
    Host {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The event loop.
    #[error("event loop: {0}")]
    EventLoop(event_manager::Error),
    /// What was saved here could not go on here.
    #[error("KVM on this host can't start time-stamp counters where they stopped: Linux 5.16 can")]
    NoSnapshot,
    /// The snapshot is of a VM of another shape.
    #[error("restore a VM: {0}")]
    Shape(&'static str),
    /// A device can't go on from the snapshot.
    #[error("restore a VM: {0}")]
    Restore(#[from] RestoreError),
}

pub(crate) fn kvm_error(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> BuildError {
    move |source| BuildError::Kvm { operation, source }
}

pub(crate) fn host_error(operation: &'static str) -> impl FnOnce(std::io::Error) -> BuildError {
    move |source| BuildError::Host { operation, source }
}

/// Time since the start of `build` at which each step was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildTimes {
    /// KVM's VM object exists.
    pub vm_created: Duration,
    /// Memory is mapped, kernel and initramfs are in it.
    pub loaded: Duration,
    /// Devices and vCPUs are there; the guest's first instruction is next.
    pub ready: Duration,
}

impl Vm {
    /// Builds a VM up to its first instruction.
    ///
    /// # Errors
    /// [`BuildError`]; nothing of the VM is left then.
    pub fn build(config: VmConfig) -> Result<Self, BuildError> {
        let start = Instant::now();
        let mut times = BuildTimes::default();
        check_limits(&config)?;
        let vm = create_vm(&config.kvm)?;
        times.vm_created = start.elapsed();

        let (backing, kernel, snapshot) = match &config.start {
            Start::Boot(kernel) => (Backing::Fresh, Some(kernel), None),
            Start::BootInto(kernel, file) => (Backing::Into(file), Some(kernel), None),
            Start::Restore(snapshot, file) => (Backing::From(file), None, Some(snapshot)),
        };
        if let Some(snapshot) = snapshot {
            check_shape(&config, snapshot)?;
        }
        let memory = memory::allocate(config.memory_mib, backing)?;
        map_memory(&vm, &memory)?;
        let entry = kernel
            .map(|kernel| load(&memory, kernel, config.vcpu_count, config.devices.len()))
            .transpose()?;
        times.loaded = start.elapsed();

        let mut devices = Vec::new();
        for (index, make) in config.devices.into_iter().enumerate() {
            let device = make(&memory).map_err(host_error("create a device"))?;
            devices.push(attach(&vm, &memory, index, device)?);
        }

        let cpuid =
            CpuidPolicy::new(&config.kvm, config.vcpu_count).map_err(kvm_error("read CPUID"))?;
        let mut fds = Vec::new();
        for index in 0..config.vcpu_count {
            fds.push(create_vcpu(&vm, &cpuid, index)?);
        }
        if matches!(config.start, Start::BootInto(..))
            && !fds.iter().all(crate::snapshot::is_possible)
        {
            return Err(BuildError::NoSnapshot);
        }
        match (entry, snapshot) {
            (_, Some(snapshot)) => restore(&vm, &fds, &mut devices, snapshot)?,
            (Some(entry), None) => boot_state(&fds, &cpuid, entry)?,
            (None, None) => {}
        }

        let end = Arc::new(EndSignal::new().map_err(host_error("create an eventfd"))?);
        let mut events: EventManager<Box<dyn MutEventSubscriber>> =
            EventManager::new().map_err(BuildError::EventLoop)?;
        events.add_subscriber(Box::new(EndListener(end.clone())));
        let (mut transports, mut alone) = (Vec::new(), Vec::new());
        for (transport, worker) in devices {
            transports.push(transport);
            if worker.device().waits_for_host() {
                let mut own = EventManager::new().map_err(BuildError::EventLoop)?;
                own.add_subscriber(worker);
                alone.push(own);
            } else {
                events.add_subscriber(Box::new(worker));
            }
        }
        let bus = Arc::new(Bus::new(transports, config.console));
        let exits = Arc::new(ExitCounters::default());
        let notes = Arc::new(Notes::default());
        let vcpus = (0..)
            .zip(fds)
            .map(|(index, fd)| Vcpu {
                index,
                fd,
                bus: bus.clone(),
                end: end.clone(),
                exits: exits.clone(),
                notes: notes.clone(),
                refusals: Refusals::default(),
            })
            .collect();
        times.ready = start.elapsed();
        Ok(Self {
            vcpus,
            threads: Arc::default(),
            events,
            alone,
            end,
            exits,
            notes,
            bus,
            memory_mib: config.memory_mib,
            times,
            kvm: config.kvm,
            vm,
            confine: Arc::new(|_| Ok(())),
        })
    }
}

fn check_limits(config: &VmConfig) -> Result<(), BuildError> {
    if !(1..=VCPUS_MAX).contains(&config.vcpu_count) {
        return Err(BuildError::VcpuCount(config.vcpu_count));
    }
    if config.devices.len() > DEVICES_MAX {
        return Err(BuildError::DeviceCount(config.devices.len()));
    }
    Ok(())
}

fn check_shape(config: &VmConfig, snapshot: &Snapshot) -> Result<(), BuildError> {
    if snapshot.memory_mib != config.memory_mib {
        return Err(BuildError::Shape("the snapshot has another size of memory"));
    }
    if snapshot.vcpus.len() != usize::from(config.vcpu_count) {
        return Err(BuildError::Shape(
            "the snapshot has another number of vCPUs",
        ));
    }
    if snapshot.devices.len() != config.devices.len() {
        return Err(BuildError::Shape(
            "the snapshot has another number of devices",
        ));
    }
    Ok(())
}

/// Puts kernel, initramfs and boot structures into memory; returns where the first vCPU begins.
fn load(
    memory: &GuestMemory,
    kernel: &Kernel,
    vcpu_count: u8,
    device_count: usize,
) -> Result<GuestAddress, BuildError> {
    let mut cmdline = format!("{CMDLINE} {}", kernel.cmdline);
    for index in 0..device_count {
        cmdline.push_str(&device_argument(index));
    }
    let entry = boot::load(
        memory,
        &kernel.kernel,
        &kernel.initramfs,
        cmdline.trim(),
        vcpu_count,
    )?;
    cpu::write_boot_tables(memory).map_err(BootError::from)?;
    Ok(entry)
}

/// vCPUs at the kernel's entry.
fn boot_state(fds: &[VcpuFd], cpuid: &CpuidPolicy, entry: GuestAddress) -> Result<(), BuildError> {
    for fd in fds {
        cpu::enable_extended_state(fd, cpuid.extended_state()).map_err(kvm_error("set XCR0"))?;
        cpu::setup_every_cpu(fd).map_err(kvm_error("set vCPU state"))?;
    }
    if let Some(first) = fds.first() {
        cpu::setup_boot_cpu(first, entry).map_err(kvm_error("set boot registers"))?;
    }
    Ok(())
}

/// vCPUs, interrupt controllers and devices where a snapshot has them. The devices come last: what
/// they tell their drivers goes to interrupt controllers that must not be overwritten then.
fn restore(
    vm: &VmFd,
    fds: &[VcpuFd],
    devices: &mut [(Transport, Worker)],
    snapshot: &Snapshot,
) -> Result<(), BuildError> {
    let machine = &snapshot.machine;
    let started = machine
        .start_time(fds)
        .map_err(kvm_error("start the time-stamp counters"))?;
    for (fd, state) in fds.iter().zip(&snapshot.vcpus) {
        state.restore(fd).map_err(kvm_error("restore a vCPU"))?;
    }
    machine
        .restore(vm, started)
        .map_err(kvm_error("restore the interrupt controllers"))?;
    for ((transport, worker), state) in devices.iter_mut().zip(&snapshot.devices) {
        transport.restore(state, worker)?;
    }
    Ok(())
}

/// Opens `/dev/kvm`, the one path that is used here.
///
/// # Errors
/// When this user may not, or it is no KVM that can run our VMs.
pub fn open_kvm() -> Result<Kvm, BuildError> {
    let kvm = Kvm::new().map_err(BuildError::OpenKvm)?;
    for cap in [
        Cap::Irqchip,
        Cap::Ioeventfd,
        Cap::Irqfd,
        Cap::UserMemory,
        Cap::SetTssAddr,
    ] {
        if !kvm.check_extension(cap) {
            return Err(BuildError::MissingCapability(cap));
        }
    }
    Ok(kvm)
}

fn create_vm(kvm: &Kvm) -> Result<VmFd, BuildError> {
    let vm = kvm.create_vm().map_err(kvm_error("create VM"))?;
    disable_pmu(&vm)?;
    vm.set_identity_map_address(IDENTITY_MAP_ADDRESS)
        .map_err(kvm_error("set identity map address"))?;
    vm.set_tss_address(TSS_ADDRESS)
        .map_err(kvm_error("set TSS address"))?;
    vm.create_irq_chip()
        .map_err(kvm_error("create interrupt controllers"))?;
    Ok(vm)
}

/// Takes the performance monitoring unit away, before there is a vCPU. CPUID alone does not: on an
/// AMD CPU KVM gives a guest the four counters of old, whatever that says. A KVM without this switch
/// (before Linux 5.18, or with `enable_pmu=0`) goes on with what CPUID hides.
fn disable_pmu(vm: &VmFd) -> Result<(), BuildError> {
    let can = vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into());
    let disable = u64::from(KVM_PMU_CAP_DISABLE);
    if u64::try_from(can).unwrap_or(0) & disable == 0 {
        return Ok(());
    }
    vm.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_PMU_CAPABILITY,
        args: [disable, 0, 0, 0],
        ..Default::default()
    })
    .map_err(kvm_error("disable performance monitoring"))
}

#[allow(unsafe_code)] // handing memory to KVM
fn map_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), BuildError> {
    for (slot, region) in (0_u32..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.get_mmap().as_ptr().expose_provenance() as u64,
        };
        // SAFETY: the range is mapped for as long as this process lives (see memory::allocate),
        // and nothing holds a Rust reference into it.
        unsafe { vm.set_user_memory_region(region) }.map_err(kvm_error("map guest memory"))?;
    }
    Ok(())
}

fn device_address(index: usize) -> u64 {
    MMIO_START + index as u64 * REGION_LEN
}

fn device_irq(index: usize) -> u32 {
    FIRST_IRQ + u32::try_from(index).unwrap_or(u32::MAX - FIRST_IRQ)
}

/// How Linux learns of a virtio-mmio device: `virtio_mmio.device=<size>@<address>:<irq>`.
fn device_argument(index: usize) -> String {
    format!(
        " virtio_mmio.device=4K@{:#x}:{}",
        device_address(index),
        device_irq(index)
    )
}

fn attach(
    vm: &VmFd,
    memory: &GuestMemory,
    index: usize,
    device: Box<dyn Device>,
) -> Result<(Transport, Worker), BuildError> {
    let irqfd = EventFd::new(EFD_NONBLOCK).map_err(host_error("create an eventfd"))?;
    vm.register_irqfd(&irqfd, device_irq(index))
        .map_err(kvm_error("register irqfd"))?;
    let (worker, link) = Worker::new(device, memory.clone(), irqfd)
        .map_err(host_error("create eventfds of a device"))?;
    let transport = Transport::new(worker.device(), link);
    let notify = IoEventAddress::Mmio(device_address(index) + QUEUE_NOTIFY);
    for (queue, event) in (0_u32..).zip(transport.queue_events()) {
        vm.register_ioevent(event, &notify, queue)
            .map_err(kvm_error("register ioeventfd"))?;
    }
    Ok((transport, worker))
}

fn create_vcpu(vm: &VmFd, cpuid: &CpuidPolicy, index: u8) -> Result<VcpuFd, BuildError> {
    let vcpu = vm
        .create_vcpu(u64::from(index))
        .map_err(kvm_error("create vCPU"))?;
    vcpu.set_cpuid2(&cpuid.for_vcpu(index))
        .map_err(kvm_error("set CPUID"))?;
    Ok(vcpu)
}
