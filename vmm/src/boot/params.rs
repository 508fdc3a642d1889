//! The zero page (`struct boot_params`), its memory map, the command line and the random seed.

use linux_loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{BootError, Ramdisk, layout, random_seed};
use crate::GuestMemory;
use crate::memory::HIMEM_START;

/// Longest command line the kernel takes, without its end (`COMMAND_LINE_SIZE` on x86 is 2048).
pub const CMDLINE_MAX: usize = 2047;

/// Setup header magic values (boot.rst).
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
const LOADER_UNDEFINED: u8 = 0xff;
const KERNEL_ALIGNMENT: u32 = 0x0100_0000;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// `SETUP_RNG_SEED`.
const SETUP_RNG_SEED: u32 = 9;

/// Bytes of the seed: what the kernel's generator takes in at once.
const SEED_LEN: u32 = 32;

/// Writes all of it.
pub(super) fn write(
    memory: &GuestMemory,
    cmdline: &str,
    ramdisk: Ramdisk,
) -> Result<(), BootError> {
    if cmdline.len() > CMDLINE_MAX || cmdline.contains('\0') {
        return Err(BootError::CommandLine { len: cmdline.len() });
    }
    memory.write_slice(cmdline.as_bytes(), GuestAddress(layout::CMDLINE))?;
    memory.write_obj(0_u8, GuestAddress(layout::CMDLINE + cmdline.len() as u64))?;
    write_seed(memory)?;

    let mut params = boot_params::default();
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.kernel_alignment = KERNEL_ALIGNMENT;
    params.hdr.cmd_line_ptr = low_address(layout::CMDLINE);
    params.hdr.cmdline_size = u32::try_from(cmdline.len()).unwrap_or(0) + 1;
    params.hdr.ramdisk_image = low_address(ramdisk.0.0);
    params.hdr.ramdisk_size = low_address(ramdisk.1);
    params.hdr.setup_data = layout::RNG_SEED;

    let map = memory_map(memory);
    for (entry, (addr, size, kind)) in params.e820_table.iter_mut().zip(&map) {
        *entry = boot_e820_entry {
            addr: *addr,
            size: *size,
            r#type: *kind,
        };
    }
    params.e820_entries = u8::try_from(map.len()).unwrap_or(0);
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))?;
    Ok(())
}

/// Everything that the zero page points to by 32 bits lies in low memory by construction.
fn low_address(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(0)
}

/// `(address, length, type)` of each e820 entry.
fn memory_map(memory: &GuestMemory) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, layout::MP_TABLE, E820_RAM),
        (
            layout::MP_TABLE,
            layout::CONVENTIONAL_END - layout::MP_TABLE,
            E820_RESERVED,
        ),
    ];
    for region in memory.iter() {
        let start = region.start_addr().0.max(HIMEM_START);
        let end = region.start_addr().0 + region.len();
        map.push((start, end - start, E820_RAM));
    }
    map
}

/// `struct setup_data { next: u64, type: u32, len: u32, data }`.
fn write_seed(memory: &GuestMemory) -> Result<(), BootError> {
    let seed = random_seed()?;
    let at = layout::RNG_SEED;
    memory.write_obj(0_u64, GuestAddress(at))?;
    memory.write_obj(SETUP_RNG_SEED, GuestAddress(at + 8))?;
    memory.write_obj(SEED_LEN, GuestAddress(at + 12))?;
    memory.write_slice(&seed, GuestAddress(at + 16))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{HIGH_RAM_START, MMIO_START};

    #[test]
    fn the_map_names_both_sides_of_the_gap_and_keeps_the_mp_table() {
        let memory = crate::memory::allocate(4096, crate::memory::Backing::Fresh).unwrap();
        assert_eq!(
            memory_map(&memory),
            [
                (0, 0x9_fc00, E820_RAM),
                (0x9_fc00, 0x400, E820_RESERVED),
                (HIMEM_START, MMIO_START - HIMEM_START, E820_RAM),
                (HIGH_RAM_START, (4 << 30) - MMIO_START, E820_RAM),
            ]
        );
    }

    #[test]
    fn the_zero_page_points_to_command_line_and_seed() {
        let memory = crate::memory::allocate(64, crate::memory::Backing::Fresh).unwrap();
        write(&memory, "quiet", (GuestAddress(0x30_0000), 77)).unwrap();
        let page: boot_params = memory.read_obj(GuestAddress(layout::ZERO_PAGE)).unwrap();
        let header = page.hdr;
        let (line, len, image, size) = (
            header.cmd_line_ptr,
            header.cmdline_size,
            header.ramdisk_image,
            header.ramdisk_size,
        );
        assert_eq!((len, image, size), (6, 0x30_0000, 77));
        let mut text = [0xff; 6];
        memory
            .read_slice(&mut text, GuestAddress(u64::from(line)))
            .unwrap();
        assert_eq!(&text, b"quiet\0");
        let mut seed = [0; 32];
        memory
            .read_slice(&mut seed, GuestAddress(layout::RNG_SEED + 16))
            .unwrap();
        assert_ne!(seed, [0; 32]);
    }

    #[test]
    fn a_command_line_beyond_the_kernels_limit_is_refused() {
        let memory = crate::memory::allocate(64, crate::memory::Backing::Fresh).unwrap();
        let long = "x".repeat(CMDLINE_MAX + 1);
        let error = write(&memory, &long, (GuestAddress(0), 0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "kernel command line of 2048 bytes, the limit is 2047"
        );
    }
}
