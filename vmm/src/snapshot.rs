//! The state of a VM that is stopped: what KVM holds of it, and what its devices do. Guest memory
//! is apart, in a file of its own (see [`crate::memory`]).
//!
//! ```text
//! run_to_snapshot ─► every vCPU waits ─► Snapshot::save ─► serde ─► Snapshot ─► restore
//! ```
//! [`crate::builder`] takes and restores it. It must not know what a device is for.

use std::time::Instant;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_VCPU_TSC_CTRL,
    KVM_VCPU_TSC_OFFSET, Msrs, kvm_clock_data, kvm_debugregs, kvm_device_attr, kvm_irqchip,
    kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
    kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use vmm_sys_util::ioctl::ioctl_with_ref;

use crate::virtio::TransportState;

/// Everything of a stopped VM but its memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// One per vCPU, in order.
    pub vcpus: Vec<VcpuState>,
    /// One per device, in the guest's order.
    pub devices: Vec<TransportState>,
    /// Interrupt controllers and clock.
    pub machine: MachineState,
}

/// What the vCPUs share.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    irqchips: Vec<kvm_irqchip>,
    clock: kvm_clock_data,
    /// Every vCPU's time-stamp counter at the moment of `clock`.
    tsc: u64,
}

/// Registers of one vCPU.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
}

const IRQCHIPS: [u32; 3] = [
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_IRQCHIP_IOAPIC,
];

/// Model-specific registers of one call; KVM takes 256.
const MSRS_PER_CALL: usize = 128;

/// Time-stamp counter (SDM volume 4).
const MSR_TSC: u32 = 0x10;

/// The default memory type is set at the start and not in KVM's list.
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;

/// Registers of Hyper-V's interface, which no guest of ours is shown.
const MSRS_HYPERV: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4000_0200;

impl MachineState {
    /// Reads it. No vCPU may run; `vcpu` is any of them.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn save(vm: &VmFd, vcpu: &VcpuFd) -> Result<Self, kvm_ioctls::Error> {
        let mut irqchips = Vec::new();
        for chip_id in IRQCHIPS {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip)?;
            irqchips.push(chip);
        }
        let (guest, at) = timed(|| get_msr(vcpu, MSR_TSC))?;
        let offset = guest
            .ok_or_else(|| kvm_ioctls::Error::new(libc::EINVAL))?
            .data
            .wrapping_sub(at);
        let (clock, at) = timed(|| vm.get_clock())?;
        Ok(Self {
            irqchips,
            clock,
            tsc: at.wrapping_add(offset),
        })
    }

    /// Starts the time-stamp counters of all vCPUs where they stopped, and returns when. Before
    /// anything else is restored, since timers count by them.
    ///
    /// Not by writing the register: KVM takes a value near what another vCPU has, or near the zero
    /// that a new one begins with, for an attempt to synchronize, and keeps what was there.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn start_time(&self, fds: &[VcpuFd]) -> Result<Instant, kvm_ioctls::Error> {
        let started = Instant::now();
        let offset = self.tsc.wrapping_sub(host_tsc());
        for fd in fds {
            set_tsc_offset(fd, offset)?;
        }
        Ok(started)
    }

    /// Writes it, after the vCPUs' own state. The guest's clock goes on where it stopped, with what
    /// has passed since its counters did.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn restore(&self, vm: &VmFd, started: Instant) -> Result<(), kvm_ioctls::Error> {
        for chip in &self.irqchips {
            vm.set_irqchip(chip)?;
        }
        let passed = u64::try_from(started.elapsed().as_nanos()).unwrap_or(0);
        vm.set_clock(&kvm_clock_data {
            clock: self.clock.clock.saturating_add(passed),
            ..Default::default()
        })
    }
}

/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)` (Linux uapi/linux/kvm.h).
const SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;

/// `KVM_HAS_DEVICE_ATTR`.
const HAS_DEVICE_ATTR: libc::c_ulong = 0x4018_aee3;

/// Whether a VM can go on from a state here: its counters could be started where they stopped. Linux 5.16
/// and later can.
#[allow(unsafe_code)] // kvm-ioctls has this call for other CPUs only
pub(crate) fn is_possible(fd: &VcpuFd) -> bool {
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        ..Default::default()
    };
    // SAFETY: the descriptor is a vCPU's, and the attribute lives over the call, which reads nothing else.
    unsafe { ioctl_with_ref(fd, HAS_DEVICE_ATTR, &attribute) == 0 }
}

/// What a vCPU's time-stamp counter is ahead of the host's (Linux Documentation/virt/kvm/devices/
/// vcpu.rst, `KVM_VCPU_TSC_OFFSET`).
#[allow(unsafe_code)] // kvm-ioctls has this call for other CPUs only
fn set_tsc_offset(fd: &VcpuFd, offset: u64) -> Result<(), kvm_ioctls::Error> {
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: (&raw const offset).expose_provenance() as u64,
        ..Default::default()
    };
    // SAFETY: the descriptor is a vCPU's, and both the attribute and the 8 bytes that KVM reads
    // from its address live over the call.
    match unsafe { ioctl_with_ref(fd, SET_DEVICE_ATTR, &attribute) } {
        0 => Ok(()),
        _ => Err(kvm_ioctls::Error::last()),
    }
}

/// So often something is read, to have been quick once: a host may do something else in between,
/// and Linux gives up a counter that is some 100 microseconds off its clock.
const TRIES: usize = 16;

/// What `read` returned, and the host's time-stamp counter at that moment: of the quickest try.
fn timed<T>(
    read: impl Fn() -> Result<T, kvm_ioctls::Error>,
) -> Result<(T, u64), kvm_ioctls::Error> {
    let once = || -> Result<_, kvm_ioctls::Error> {
        let before = host_tsc();
        let value = read()?;
        Ok((value, before, host_tsc().wrapping_sub(before)))
    };
    let mut best = once()?;
    for _ in 1..TRIES {
        let next = once()?;
        if next.2 < best.2 {
            best = next;
        }
    }
    let (value, before, took) = best;
    Ok((value, before.wrapping_add(took / 2)))
}

#[allow(unsafe_code)] // an instruction
fn host_tsc() -> u64 {
    // SAFETY: every x86-64 CPU has it, and Linux lets user space execute it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

impl VcpuState {
    /// Reads it; `fd` is outside of `KVM_RUN` with no access under way.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn save(fd: &VcpuFd, msr_indices: &[u32]) -> Result<Self, kvm_ioctls::Error> {
        // First: asking for it may settle an INIT or SIPI that is pending.
        let mp_state = fd.get_mp_state()?;
        // Before the APIC: its timer may end in between, on some hosts without the vCPU. Then it is in both,
        // and not in neither.
        let msrs = restorable_msrs(fd, msr_indices)?;
        Ok(Self {
            mp_state,
            regs: fd.get_regs()?,
            sregs: fd.get_sregs()?,
            xsave: fd.get_xsave()?,
            xcrs: fd.get_xcrs()?,
            debug_regs: fd.get_debug_regs()?,
            lapic: fd.get_lapic()?,
            msrs,
            events: fd.get_vcpu_events()?,
        })
    }

    /// Writes it to a new vCPU that has its CPUID and whose time has been started.
    ///
    /// # Errors
    /// What KVM says; `EINVAL` for a register that it refuses.
    pub(crate) fn restore(&self, fd: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        fd.set_mp_state(self.mp_state)?;
        fd.set_regs(&self.regs)?;
        fd.set_sregs(&self.sregs)?;
        set_xsave(fd, &self.xsave)?;
        fd.set_xcrs(&self.xcrs)?;
        fd.set_debug_regs(&self.debug_regs)?;
        // Before the MSRs: the deadline of its timer is one of them.
        fd.set_lapic(&self.lapic)?;
        for chunk in self.msrs.chunks(MSRS_PER_CALL) {
            if set_msrs(fd, chunk)? != chunk.len() {
                return Err(kvm_ioctls::Error::new(libc::EINVAL));
            }
        }
        fd.set_vcpu_events(&self.events)
    }
}

#[allow(unsafe_code)] // the size of the state depends on features that are on
fn set_xsave(fd: &VcpuFd, xsave: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: KVM reads 4 KiB unless a feature with a larger state was asked for by
    // arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM), which this process never does.
    unsafe { fd.set_xsave(xsave) }
}

fn set_msrs(fd: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<usize, kvm_ioctls::Error> {
    let msrs = Msrs::from_entries(entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    fd.set_msrs(&msrs)
}

fn get_msr(fd: &VcpuFd, index: u32) -> Result<Option<kvm_msr_entry>, kvm_ioctls::Error> {
    let asked = kvm_msr_entry {
        index,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[asked]).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    let given = fd.get_msrs(&mut msrs)?;
    Ok(msrs.as_slice().first().copied().filter(|_| given == 1))
}

/// The registers that KVM both gives and takes back. It lists some that it refuses for want of a
/// CPU feature; those hold nothing.
fn restorable_msrs(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, kvm_ioctls::Error> {
    let mut kept = Vec::new();
    for index in indices {
        if let Some(entry) = get_msr(fd, *index)?
            && set_msrs(fd, &[entry]).is_ok_and(|taken| taken == 1)
        {
            kept.push(entry);
        }
    }
    Ok(kept)
}

/// Indices of the registers that are a vCPU's state, by KVM's own list, but for the time-stamp
/// counter, which is apart.
///
/// # Errors
/// What KVM says.
pub(crate) fn msr_indices(kvm: &Kvm) -> Result<Vec<u32>, kvm_ioctls::Error> {
    let listed = kvm.get_msr_index_list()?;
    let mut indices: Vec<u32> = listed
        .as_slice()
        .iter()
        .copied()
        .filter(|index| *index != MSR_TSC && !MSRS_HYPERV.contains(index))
        .collect();
    if !indices.contains(&MSR_MTRR_DEF_TYPE) {
        indices.push(MSR_MTRR_DEF_TYPE);
    }
    Ok(indices)
}
