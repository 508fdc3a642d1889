//! The state a vCPU starts with: CPUID, model-specific registers, long mode, local APIC.
//!
//! Called by the builder for each vCPU, before it runs.

mod cpuid;
mod registers;

pub use cpuid::CpuidPolicy;
pub(crate) use registers::{
    enable_extended_state, setup_boot_cpu, setup_every_cpu, write_boot_tables,
};
