//! The smallest VM: boots a kernel and an initramfs without any device and shows the early console.
//!
//! `cargo run -p vmm --example boot -- vmlinux initramfs.cpio [vCPUs] [MiB] [kernel arguments]`

use std::fs::File;
use std::time::Instant;

use vmm::builder::Kernel;
use vmm::{Start, Vm, VmConfig, open_kvm};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: boot VMLINUX INITRAMFS [VCPUS] [MIB] [KERNEL ARGUMENTS]";
    let kernel = File::open(args.next().ok_or(usage)?)?;
    let initramfs = File::open(args.next().ok_or(usage)?)?;
    let vcpu_count = args.next().map_or(Ok(1), |text| text.parse())?;
    let memory_mib = args.next().map_or(Ok(128), |text| text.parse())?;
    // There is no other console to print to.
    let cmdline = format!("keep_bootcon {}", args.next().unwrap_or_default());
    let mut vm = Vm::build(VmConfig {
        kvm: open_kvm()?,
        vcpu_count,
        memory_mib,
        start: Start::Boot(Kernel {
            kernel,
            initramfs,
            cmdline,
        }),
        devices: Vec::new(),
        console: Box::new(std::io::stdout()),
    })?;
    let times = vm.times();
    let start = Instant::now();
    let (end, exits) = vm.run()?;
    eprintln!("{end} after {:?}; {times:?}; {exits:?}", start.elapsed());
    Ok(())
}
