//! The Intel MultiProcessor table (specification 1.4): tells the kernel its vCPUs, the IO-APIC and
//! which pin each interrupt comes in on. It stands in for ACPI.

use vm_memory::{Bytes, GuestAddress};

use super::{BootError, layout};
use crate::GuestMemory;

/// Physical addresses of the APICs.
const IO_APIC: u32 = 0xfec0_0000;
const LOCAL_APIC: u32 = 0xfee0_0000;

/// Version register of KVM's local APIC and IO-APIC models.
const APIC_VERSION: u8 = 0x14;

/// Pins of KVM's IO-APIC.
const IO_APIC_PINS: u8 = 24;

/// Entry types.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC_ENTRY: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

const SPEC_REVISION: u8 = 4;

/// Writes floating pointer and table for `vcpu_count` processors; APIC ids are vCPU indexes.
pub(super) fn write(memory: &GuestMemory, vcpu_count: u8) -> Result<(), BootError> {
    let table = table(vcpu_count);
    let available = layout::CONVENTIONAL_END - layout::MP_TABLE;
    assert!(
        table.len() as u64 <= available,
        "MP table for {vcpu_count} vCPUs fits its KiB"
    );
    memory.write_slice(&table, GuestAddress(layout::MP_TABLE))?;
    Ok(())
}

/// Floating pointer (16 bytes) and, right behind it, the configuration table.
fn table(vcpu_count: u8) -> Vec<u8> {
    let io_apic_id = vcpu_count;
    let mut entries = Vec::new();
    let mut count: u16 = 0;
    let mut entry = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..vcpu_count {
        let enabled_and_boot = if id == 0 { 3 } else { 1 };
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&[PROCESSOR, id, APIC_VERSION, enabled_and_boot]);
        // Signature: family 6; features: FPU and APIC. The kernel reads CPUID instead.
        bytes[4..8].copy_from_slice(&0x600_u32.to_le_bytes());
        bytes[8..12].copy_from_slice(&0x201_u32.to_le_bytes());
        entry(&bytes);
    }
    entry(b"\x01\x00ISA   ");
    let mut io_apic = [IO_APIC_ENTRY, io_apic_id, APIC_VERSION, 1, 0, 0, 0, 0];
    io_apic[4..].copy_from_slice(&IO_APIC.to_le_bytes());
    entry(&io_apic);
    for pin in 0..IO_APIC_PINS {
        // Kind 0: vectored; flags 0: polarity and trigger as ISA has them (edge, high).
        entry(&[IO_INTERRUPT, 0, 0, 0, 0, pin, io_apic_id, pin]);
    }
    // ExtINT on LINT0 of the boot processor, NMI on LINT1 of all.
    entry(&[LOCAL_INTERRUPT, 3, 0, 0, 0, 0, 0, 0]);
    entry(&[LOCAL_INTERRUPT, 1, 0, 0, 0, 0, 0xff, 1]);
    debug_assert_eq!(BUS, 1, "the bus entry above spells its type out");

    let base_len = u16::try_from(44 + entries.len()).unwrap_or(u16::MAX);
    let mut header = Vec::with_capacity(44);
    header.extend_from_slice(b"PCMP");
    header.extend_from_slice(&base_len.to_le_bytes());
    header.extend_from_slice(&[SPEC_REVISION, 0]);
    header.extend_from_slice(b"BULKHEADMICROVM     ");
    header.extend_from_slice(&[0; 6]); // no OEM table
    header.extend_from_slice(&count.to_le_bytes());
    header.extend_from_slice(&LOCAL_APIC.to_le_bytes());
    header.extend_from_slice(&[0; 4]); // no extended entries
    header[7] = checksum([header.as_slice(), entries.as_slice()].concat().as_slice());

    let table_address = u32::try_from(layout::MP_TABLE + 16).unwrap_or(0);
    let mut pointer = Vec::with_capacity(16);
    pointer.extend_from_slice(b"_MP_");
    pointer.extend_from_slice(&table_address.to_le_bytes());
    pointer.extend_from_slice(&[1, SPEC_REVISION, 0, 0, 0, 0, 0, 0]);
    pointer[10] = checksum(&pointer);

    [pointer, header, entries].concat()
}

/// The byte that makes all bytes sum up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_sum_up_to_zero_and_lengths_agree() {
        for vcpus in [1, 2, 32] {
            let bytes = table(vcpus);
            let sum = |part: &[u8]| part.iter().fold(0_u8, |a, b| a.wrapping_add(*b));
            assert_eq!(sum(&bytes[..16]), 0);
            assert_eq!(sum(&bytes[16..]), 0);
            let len = u16::from_le_bytes([bytes[20], bytes[21]]);
            assert_eq!(usize::from(len), bytes.len() - 16);
            let entries = u16::from_le_bytes([bytes[16 + 34], bytes[16 + 35]]);
            assert_eq!(entries, u16::from(vcpus) + 1 + 1 + 24 + 2);
        }
    }

    #[test]
    fn thirty_two_processors_fit_the_last_kib() {
        let memory = crate::memory::allocate(64, crate::memory::Backing::Fresh).unwrap();
        write(&memory, 32).unwrap();
        let mut magic = [0; 4];
        memory
            .read_slice(&mut magic, GuestAddress(layout::MP_TABLE))
            .unwrap();
        assert_eq!(&magic, b"_MP_");
    }
}
