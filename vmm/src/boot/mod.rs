//! What the first vCPU finds in memory: kernel, initramfs, command line, boot parameters, MP table.
//!
//! The kernel is an ELF `vmlinux` entered by the 64-bit boot protocol (Linux
//! Documentation/arch/x86/boot.rst); nothing is decompressed. Called once by the builder, before
//! any vCPU runs. Kernel and initramfs are ours, not the image's.

mod mptable;
mod params;

use std::fs::File;
use std::io::{Seek, SeekFrom};

use linux_loader::loader::{KernelLoader, elf::Elf};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, ReadVolatile};

pub use params::CMDLINE_MAX;

use crate::GuestMemory;
use crate::memory::{HIMEM_START, MMIO_START};

/// Guest addresses of the boot structures, all in the first 640 KiB.
pub(crate) mod layout {
    /// Global descriptor table.
    pub(crate) const GDT: u64 = 0x500;
    /// Interrupt descriptor table: empty.
    pub(crate) const IDT: u64 = 0x520;
    /// `struct boot_params`, one page.
    pub(crate) const ZERO_PAGE: u64 = 0x7000;
    /// Initial stack pointer.
    pub(crate) const STACK: u64 = 0x8ff0;
    /// Page tables: level 4, level 3, level 2.
    pub(crate) const PML4: u64 = 0x9000;
    pub(crate) const PDPT: u64 = 0xa000;
    pub(crate) const PD: u64 = 0xb000;
    /// Seed for the kernel's random number generator, as `struct setup_data`.
    pub(crate) const RNG_SEED: u64 = 0x1_0000;
    /// Command line.
    pub(crate) const CMDLINE: u64 = 0x2_0000;
    /// Last KiB of conventional memory, where the kernel looks for the MP floating pointer.
    pub(crate) const MP_TABLE: u64 = 0x9_fc00;
    /// First address beyond conventional memory.
    pub(crate) const CONVENTIONAL_END: u64 = 0xa_0000;
}

/// Why a VM can't be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel file is no ELF kernel or does not fit.
    #[error("load kernel: {0}")]
    Kernel(linux_loader::loader::Error),
    /// The initramfs can't be read.
    #[error("load initramfs: {0}")]
    Initramfs(std::io::Error),
    /// The initramfs does not fit between kernel and end of low memory.
    #[error("initramfs of {bytes} bytes does not fit into the VM's memory")]
    InitramfsTooBig {
        /// Its length.
        bytes: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("kernel command line of {len} bytes, the limit is {CMDLINE_MAX}")]
    CommandLine {
        /// Its length.
        len: usize,
    },
    /// A boot structure could not be written.
    #[error("write boot structures: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// No random bytes.
    #[error("seed the guest's random numbers: {0}")]
    Seed(std::io::Error),
}

/// Loads everything and returns the address of the kernel's 64-bit entry point.
///
/// # Errors
/// [`BootError`] when a file is unusable or the memory too small.
pub fn load(
    memory: &GuestMemory,
    mut kernel: &File,
    initramfs: &File,
    cmdline: &str,
    vcpu_count: u8,
) -> Result<GuestAddress, BootError> {
    let loaded = Elf::load(memory, None, &mut kernel, Some(GuestAddress(HIMEM_START)))
        .map_err(BootError::Kernel)?;
    let ramdisk = load_initramfs(memory, initramfs, loaded.kernel_end)?;
    mptable::write(memory, vcpu_count)?;
    params::write(memory, cmdline, ramdisk)?;
    Ok(loaded.kernel_load)
}

/// Address and length of the initramfs in guest memory.
type Ramdisk = (GuestAddress, u64);

/// Places the initramfs at the end of low memory, page-aligned, above the kernel.
fn load_initramfs(
    memory: &GuestMemory,
    mut file: &File,
    kernel_end: u64,
) -> Result<Ramdisk, BootError> {
    let bytes = file.seek(SeekFrom::End(0)).map_err(BootError::Initramfs)?;
    file.rewind().map_err(BootError::Initramfs)?;
    let low_end = memory
        .iter()
        .map(|region| region.start_addr().0 + region.len())
        .filter(|end| *end <= MMIO_START)
        .max()
        .unwrap_or(0);
    let too_big = BootError::InitramfsTooBig { bytes };
    let Some(start) = low_end.checked_sub(bytes).map(|at| at & !0xfff) else {
        return Err(too_big);
    };
    if start <= kernel_end {
        return Err(too_big);
    }
    let len = usize::try_from(bytes).map_err(|_| too_big)?;
    let mut slice = memory.get_slice(GuestAddress(start), len)?;
    file.read_exact_volatile(&mut slice)
        .map_err(|e| BootError::Initramfs(std::io::Error::other(e)))?;
    Ok((GuestAddress(start), bytes))
}

/// Random bytes for the guest kernel's first seed.
fn random_seed() -> Result<[u8; 32], BootError> {
    let mut seed = [0; 32];
    crate::virtio::rng::random(&mut seed).map_err(BootError::Seed)?;
    Ok(seed)
}
