//! The state of a VM that is stopped: what KVM holds of it, and what its devices do. Guest memory
//! is apart, in a file of its own (see [`crate::memory`]).
//!
//! ```text
//! run_to_snapshot ─► every vCPU waits ─► Snapshot::save ─► serde ─► Snapshot ─► restore
//! ```
//! [`crate::builder`] takes and restores it. It must not know what a device is for.

use std::time::Instant;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_clock_data,
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

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
    /// Time-stamp counter.
    tsc: u64,
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
    /// Reads it, and has the saved time-stamp counters tell the same moment as the clock. No vCPU
    /// may run.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn save(
        vm: &VmFd,
        fds: &[VcpuFd],
        vcpus: &mut [VcpuState],
    ) -> Result<Self, kvm_ioctls::Error> {
        let mut irqchips = Vec::new();
        for chip_id in IRQCHIPS {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip)?;
            irqchips.push(chip);
        }
        for (fd, state) in fds.iter().zip(vcpus) {
            state.read_tsc(fd)?;
        }
        let clock = vm.get_clock()?;
        Ok(Self { irqchips, clock })
    }

    /// Writes it, after the vCPUs' own state, the first of which has had its time-stamp counter
    /// since `since`. The guest's clock goes on where it stopped.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn restore(&self, vm: &VmFd, since: Instant) -> Result<(), kvm_ioctls::Error> {
        for chip in &self.irqchips {
            vm.set_irqchip(chip)?;
        }
        let passed = u64::try_from(since.elapsed().as_nanos()).unwrap_or(0);
        vm.set_clock(&kvm_clock_data {
            clock: self.clock.clock.saturating_add(passed),
            ..Default::default()
        })
    }
}

impl VcpuState {
    /// Reads it; `fd` is outside of `KVM_RUN` with no access under way.
    ///
    /// # Errors
    /// What KVM says.
    pub(crate) fn save(fd: &VcpuFd, msr_indices: &[u32]) -> Result<Self, kvm_ioctls::Error> {
        // First: asking for it may settle an INIT or SIPI that is pending.
        let mp_state = fd.get_mp_state()?;
        Ok(Self {
            mp_state,
            regs: fd.get_regs()?,
            sregs: fd.get_sregs()?,
            xsave: fd.get_xsave()?,
            xcrs: fd.get_xcrs()?,
            debug_regs: fd.get_debug_regs()?,
            lapic: fd.get_lapic()?,
            tsc: 0,
            msrs: restorable_msrs(fd, msr_indices)?,
            events: fd.get_vcpu_events()?,
        })
    }

    fn read_tsc(&mut self, fd: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        self.tsc = get_msr(fd, MSR_TSC)?
            .ok_or_else(|| kvm_ioctls::Error::new(libc::EINVAL))?
            .data;
        Ok(())
    }

    /// Writes it to a new vCPU that has its CPUID; returns when its time-stamp counter began.
    ///
    /// # Errors
    /// What KVM says; `EINVAL` for a register that it refuses.
    pub(crate) fn restore(&self, fd: &VcpuFd) -> Result<Instant, kvm_ioctls::Error> {
        let tsc = kvm_msr_entry {
            index: MSR_TSC,
            data: self.tsc,
            ..Default::default()
        };
        // KVM takes what is nearly the same value on another vCPU for an attempt to synchronize.
        let began = Instant::now();
        restore_msrs(fd, &[tsc])?;
        fd.set_mp_state(self.mp_state)?;
        fd.set_regs(&self.regs)?;
        fd.set_sregs(&self.sregs)?;
        set_xsave(fd, &self.xsave)?;
        fd.set_xcrs(&self.xcrs)?;
        fd.set_debug_regs(&self.debug_regs)?;
        // Before the MSRs: the deadline of its timer is one of them.
        fd.set_lapic(&self.lapic)?;
        for chunk in self.msrs.chunks(MSRS_PER_CALL) {
            restore_msrs(fd, chunk)?;
        }
        fd.set_vcpu_events(&self.events)?;
        Ok(began)
    }
}

fn restore_msrs(fd: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), kvm_ioctls::Error> {
    if set_msrs(fd, entries)? == entries.len() {
        Ok(())
    } else {
        Err(kvm_ioctls::Error::new(libc::EINVAL))
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
