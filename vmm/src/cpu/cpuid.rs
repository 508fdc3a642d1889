//! Which CPU features a guest sees: what KVM supports, less what a container has no use for and an
//! attacker has (virtualization extensions, the performance monitoring unit, which the builder also
//! has KVM take away) or takes more than a saved state has room for (AMX), with the topology of this VM.
//! Bits: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

/// Leaf 1 ECX.
const ECX1_MONITOR: u32 = 1 << 3;
const ECX1_VMX: u32 = 1 << 5;
const ECX1_SMX: u32 = 1 << 6;
const ECX1_PDCM: u32 = 1 << 15;
const ECX1_TSC_DEADLINE: u32 = 1 << 24;
const ECX1_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: more than one logical processor per package.
const EDX1_HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001 ECX.
const ECX81_CMP_LEGACY: u32 = 1 << 1;
const ECX81_SVM: u32 = 1 << 2;
const ECX81_PERFCTR: u32 = 1 << 23 | 1 << 24 | 1 << 28;
const ECX81_TOPOEXT: u32 = 1 << 22;

/// Leaf 7 EDX: AMX-BF16, AMX-TILE, AMX-INT8.
const EDX7_AMX: u32 = 1 << 22 | 1 << 24 | 1 << 25;
/// Leaf 7, subleaf 1: AMX-FP16; AMX-COMPLEX.
const EAX71_AMX: u32 = 1 << 21;
const EDX71_AMX: u32 = 1 << 8;
/// Leaf 0xd EAX, and its subleaves of these numbers: the tiles' configuration and data. A process has to
/// ask for them before KVM gives them to its guests; Linux 5.17 to 6.3 lists the first all the same, and
/// refuses an XCR0 with one of the two.
const XTILE_CFG: u32 = 17;
const XTILE_DATA: u32 = 18;
/// Leaf 0xd, subleaf 1 EAX: extended feature disable, which is for the tiles.
const EAXD1_XFD: u32 = 1 << 4;
/// Bytes of the legacy region and the header of an XSAVE area (SDM volume 1, 13.4).
const XSAVE_BYTES_MIN: u32 = 576;

/// KVM's list of supported leaves, filtered once and then numbered for each vCPU.
#[derive(Debug, Clone)]
pub struct CpuidPolicy {
    entries: Vec<kvm_cpuid_entry2>,
    vcpu_count: u8,
}

impl CpuidPolicy {
    /// The policy on this host for a VM of `vcpu_count` vCPUs.
    ///
    /// # Errors
    /// When KVM does not tell what it supports.
    pub fn new(kvm: &Kvm, vcpu_count: u8) -> Result<Self, kvm_ioctls::Error> {
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        Ok(Self {
            entries: filter(supported.as_slice(), vcpu_count, deadline),
            vcpu_count,
        })
    }

    /// The register sets that XCR0 may enable (leaf 0xd), 0 without XSAVE.
    #[must_use]
    pub fn extended_state(&self) -> u64 {
        self.entries
            .iter()
            .find(|entry| entry.function == 0xd && entry.index == 0)
            .map_or(0, |entry| u64::from(entry.edx) << 32 | u64::from(entry.eax))
    }

    /// The leaves of vCPU `index`.
    ///
    /// # Panics
    /// Never: KVM listed no more entries than it takes.
    #[must_use]
    pub fn for_vcpu(&self, index: u8) -> CpuId {
        let mut entries = self.entries.clone();
        number(&mut entries, index, self.vcpu_count);
        match CpuId::from_entries(&entries) {
            Ok(cpuid) => cpuid,
            Err(error) => panic!("{} CPUID entries: {error:?}", entries.len()),
        }
    }
}

/// Drops and clears what no guest of ours gets.
fn filter(supported: &[kvm_cpuid_entry2], vcpu_count: u8, deadline: bool) -> Vec<kvm_cpuid_entry2> {
    let mut entries = Vec::with_capacity(supported.len());
    for entry in supported {
        let mut entry = *entry;
        match entry.function {
            0x1 => {
                entry.ecx &= !(ECX1_MONITOR | ECX1_VMX | ECX1_SMX | ECX1_PDCM);
                entry.ecx |= ECX1_HYPERVISOR;
                if deadline {
                    entry.ecx |= ECX1_TSC_DEADLINE;
                }
                if vcpu_count > 1 {
                    entry.edx |= EDX1_HTT;
                }
            }
            // MONITOR/MWAIT; architectural performance monitoring; its AMD and LBR counterparts;
            // SVM; processor trace; SGX; AMX's tiles and their multiplier; encrypted guests.
            0x5 | 0xa | 0x12 | 0x14 | 0x1c | 0x1d | 0x1e | 0x8000_000a | 0x8000_001f
            | 0x8000_0022 => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            }
            0x7 if entry.index == 0 => entry.edx &= !EDX7_AMX,
            0x7 if entry.index == 1 => {
                entry.eax &= !EAX71_AMX;
                entry.edx &= !EDX71_AMX;
            }
            0xd if entry.index == 0 => {
                entry.eax &= !(1 << XTILE_CFG | 1 << XTILE_DATA);
                entry.ecx = xsave_bytes(supported, entry.eax).min(entry.ecx);
            }
            0xd if entry.index == 1 => entry.eax &= !EAXD1_XFD,
            0xd if [XTILE_CFG, XTILE_DATA].contains(&entry.index) => continue,
            0x8000_0001 => {
                entry.ecx &= !(ECX81_SVM | ECX81_PERFCTR | ECX81_TOPOEXT);
                if vcpu_count > 1 {
                    entry.ecx |= ECX81_CMP_LEGACY;
                }
            }
            // Topology by vCPU: made anew below.
            0xb | 0x1f | 0x8000_001e => continue,
            _ => {}
        }
        entries.push(entry);
    }
    for index in 0..2 {
        entries.push(kvm_cpuid_entry2 {
            function: 0xb,
            index,
            flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            ..Default::default()
        });
    }
    entries
}

/// Bytes of an XSAVE area for these components of XCR0: where the last of them ends.
fn xsave_bytes(supported: &[kvm_cpuid_entry2], components: u32) -> u32 {
    let of = |entry: &&kvm_cpuid_entry2| {
        let bit = 1_u32.checked_shl(entry.index).unwrap_or(0);
        entry.function == 0xd && entry.index > 1 && components & bit != 0
    };
    let ends = supported.iter().filter(of);
    let ends = ends.map(|entry| entry.ebx.saturating_add(entry.eax));
    ends.fold(XSAVE_BYTES_MIN, u32::max)
}

/// Writes the APIC id and the topology (one package, one thread a core) of vCPU `index`.
fn number(entries: &mut [kvm_cpuid_entry2], index: u8, vcpu_count: u8) {
    let apic_id = u32::from(index);
    let count = u32::from(vcpu_count);
    // Bits of an APIC id that tell the cores of the package apart.
    let core_bits = count.next_power_of_two().trailing_zeros();
    for entry in entries {
        match (entry.function, entry.index) {
            (0x1, _) => entry.ebx = entry.ebx & 0x0000_ffff | apic_id << 24 | count << 16,
            // Cache leaves: cores that share a package.
            (0x4, _) if entry.eax & 0x1f != 0 => {
                entry.eax = entry.eax & 0x0000_3fff | (count - 1) << 26;
            }
            (0xb, 0) => {
                // Thread level: one thread a core.
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 1, 0x100, apic_id);
            }
            (0xb, 1) => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (core_bits, count, 0x201, apic_id);
            }
            (0x8000_0008, _) => entry.ecx = core_bits << 12 | (count - 1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            eax: !0,
            ebx: !0,
            ecx: !0,
            edx: !0,
            ..Default::default()
        }
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries
            .iter()
            .find(|e| e.function == function && e.index == index)
            .unwrap()
    }

    #[test]
    fn virtualization_and_performance_counters_are_hidden() {
        let all = [0x1, 0x5, 0xa, 0x8000_0001, 0x8000_000a, 0x8000_0022].map(leaf);
        let entries = filter(&all, 2, true);
        let one = find(&entries, 1, 0);
        assert_eq!(one.ecx & (ECX1_VMX | ECX1_MONITOR | ECX1_PDCM), 0);
        assert_eq!(one.ecx & ECX1_HYPERVISOR, ECX1_HYPERVISOR);
        assert_eq!(
            find(&entries, 0x8000_0001, 0).ecx & (ECX81_SVM | ECX81_PERFCTR),
            0
        );
        for function in [0x5, 0xa, 0x8000_000a, 0x8000_0022] {
            let e = find(&entries, function, 0);
            assert_eq!(
                (e.eax, e.ebx, e.ecx, e.edx),
                (0, 0, 0, 0),
                "leaf {function:#x}"
            );
        }
    }

    /// As Linux 6.1 lists a Sapphire Rapids to a process that has not asked for AMX.
    #[test]
    fn tiles_are_hidden_with_their_part_of_the_saved_state() {
        let part = |function, index, [eax, ebx, ecx, edx]: [u32; 4]| kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        let all = [
            part(0x7, 0, [2, !0, !0, !0]),
            part(0x7, 1, [!0, 0, 0, !0]),
            part(0xd, 0, [0x2_02e7, 2816, 2816, 0]),
            part(0xd, 1, [0x1f, 0, 0, 0]),
            part(0xd, 2, [256, 576, 0, 0]),
            part(0xd, 7, [1024, 1664, 0, 0]),
            part(0xd, 9, [8, 2688, 0, 0]),
            part(0xd, 11, [16, 0, 1, 0]),
            part(0xd, 17, [64, 2752, 2, 0]),
            part(0xd, 18, [8192, 2816, 6, 0]),
            leaf(0x1d),
            leaf(0x1e),
        ];
        let entries = filter(&all, 1, true);
        assert_eq!(find(&entries, 0x7, 0).edx & EDX7_AMX, 0);
        assert_eq!(find(&entries, 0x7, 0).ecx, !0);
        assert_eq!(find(&entries, 0x7, 1).eax, !EAX71_AMX);
        assert_eq!(find(&entries, 0x7, 1).edx, !EDX71_AMX);
        let state = find(&entries, 0xd, 0);
        assert_eq!((state.eax, state.ecx), (0x2e7, 2696));
        assert_eq!(find(&entries, 0xd, 1).eax, 0xf);
        let has = |index| {
            let mut parts = entries.iter().filter(|entry| entry.function == 0xd);
            parts.any(|entry| entry.index == index)
        };
        assert!(has(9) && has(11) && !has(XTILE_CFG) && !has(XTILE_DATA));
        assert_eq!(find(&entries, 0x1d, 0).eax, 0);
        let policy = CpuidPolicy {
            entries,
            vcpu_count: 1,
        };
        assert_eq!(policy.extended_state(), 0x2e7);
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id_and_sees_the_same_package() {
        let policy = CpuidPolicy {
            entries: filter(&[leaf(1), leaf(0xb)], 3, false),
            vcpu_count: 3,
        };
        for index in 0..3 {
            let cpuid = policy.for_vcpu(index);
            let entries = cpuid.as_slice();
            assert_eq!(find(entries, 1, 0).ebx >> 24, u32::from(index));
            assert_eq!(find(entries, 0xb, 1).edx, u32::from(index));
            assert_eq!(find(entries, 0xb, 1).ebx, 3);
            assert_eq!(find(entries, 0xb, 1).eax, 2, "two bits hold three cores");
            assert_eq!(entries.iter().filter(|e| e.function == 0xb).count(), 2);
        }
    }
}
