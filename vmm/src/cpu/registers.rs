//! Registers of a vCPU at its first instruction: long mode with the first GiB mapped one to one, as
//! the 64-bit boot protocol asks (Linux Documentation/arch/x86/boot.rst), MSRs (SDM volume 4),
//! FPU and local APIC (SDM volume 3A, chapter 11).

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, Msrs, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::GuestMemory;
use crate::boot::layout;

/// GDT: null, unused, 64-bit code, data, task state.
const GDT: [u64; 5] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x008f_8b00_0000_ffff,
];
const CODE_SELECTOR: u16 = 2 << 3;
const DATA_SELECTOR: u16 = 3 << 3;
const TASK_SELECTOR: u16 = 4 << 3;

/// Page table entries: present and writable; a 2 MiB page.
const TABLE: u64 = 0x3;
const LARGE_PAGE: u64 = 0x83;

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, default type write-back: all memory is RAM of the host.
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;

/// Local vector table entries and their delivery modes.
const APIC_LVT0: usize = 0x350;
const APIC_LVT1: usize = 0x360;
const APIC_MODE_NMI: u32 = 4 << 8;
const APIC_MODE_EXTINT: u32 = 7 << 8;

/// Writes GDT, IDT and page tables of the boot processor.
pub(crate) fn write_boot_tables(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    for (index, entry) in (0_u64..).zip(GDT) {
        memory.write_obj(entry, GuestAddress(layout::GDT + index * 8))?;
    }
    memory.write_obj(0_u64, GuestAddress(layout::IDT))?;
    memory.write_obj(layout::PDPT | TABLE, GuestAddress(layout::PML4))?;
    memory.write_obj(layout::PD | TABLE, GuestAddress(layout::PDPT))?;
    for index in 0..512 {
        let entry = index << 21 | LARGE_PAGE;
        memory.write_obj(entry, GuestAddress(layout::PD + index * 8))?;
    }
    Ok(())
}

/// State of every vCPU: MSRs, FPU, local APIC.
pub(crate) fn setup_every_cpu(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let wanted = [
        entry(MSR_IA32_TSC, 0),
        entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK),
    ];
    // Three entries always fit KVM's list.
    let msrs = Msrs::from_entries(&wanted).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    if vcpu.set_msrs(&msrs)? != wanted.len() {
        return Err(kvm_ioctls::Error::new(libc::EINVAL));
    }
    vcpu.set_fpu(&kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    })?;
    let mut lapic = vcpu.get_lapic()?;
    set_delivery_mode(&mut lapic, APIC_LVT0, APIC_MODE_EXTINT);
    set_delivery_mode(&mut lapic, APIC_LVT1, APIC_MODE_NMI);
    vcpu.set_lapic(&lapic)
}

/// Switches on every register set of `mask` (XCR0, SDM volume 1 section 13.3), as the kernel does
/// itself a little later. A host hypervisor that does not tell KVM of that later write would
/// otherwise leave the guest with a CPUID that contradicts its registers.
pub(crate) fn enable_extended_state(vcpu: &VcpuFd, mask: u64) -> Result<(), kvm_ioctls::Error> {
    if mask == 0 {
        return Ok(());
    }
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0].value = mask;
    vcpu.set_xcrs(&xcrs)
}

fn set_delivery_mode(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes = &mut lapic.regs[register..register + 4];
    let mut value = 0_u32;
    for (shift, byte) in bytes.iter().enumerate() {
        value |= u32::from(byte.cast_unsigned()) << (shift * 8);
    }
    value = value & !0x700 | mode;
    for (byte, new) in bytes.iter_mut().zip(value.to_le_bytes()) {
        *byte = new.cast_signed();
    }
}

/// The boot processor's registers for entering the kernel at `entry`. The others wait for it.
pub(crate) fn setup_boot_cpu(vcpu: &VcpuFd, entry: GuestAddress) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    let code = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: CODE_SELECTOR,
        type_: 11,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment {
        selector: DATA_SELECTOR,
        type_: 3,
        l: 0,
        db: 1,
        ..code
    };
    let task = kvm_segment {
        selector: TASK_SELECTOR,
        type_: 11,
        s: 0,
        l: 0,
        ..code
    };
    (sregs.cs, sregs.tr) = (code, task);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 5 * 8 - 1;
    sregs.idt.base = layout::IDT;
    sregs.idt.limit = 7;
    sregs.cr3 = layout::PML4;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rflags: 2,
        rip: entry.0,
        rsp: layout::STACK,
        rbp: layout::STACK,
        rsi: layout::ZERO_PAGE,
        ..Default::default()
    })?;
    vcpu.set_mp_state(kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    })
}
