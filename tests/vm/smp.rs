//! Several CPUs: these tests need a host that has two. The others also run where there is one.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use harness::Invocation;
use vmm::builder::Kernel;
use vmm::{Start, Vm, VmConfig, VmEnd};

use crate::world::World;

crate::tests![
    cpus_are_vcpus_and_a_quota,
    every_cpu_of_the_host_is_a_vcpu_that_works,
    a_vm_of_32_vcpus_boots,
];

/// Makes this binary a VMM: `KERNEL INITRAMFS VCPUS` follow.
pub(crate) const BOOT: &str = "--boot";

fn cpus_are_vcpus_and_a_quota(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "nproc; cat /sys/fs/cgroup/cpu.max";
    for (flags, expected) in [
        (&["--cpus", "1"][..], "1\n100000 100000\n"),
        (&["--cpus", "1.5"], "2\n150000 100000\n"),
        (&["--cpuset-cpus", "1"], "1\nmax 100000\n"),
        (&["--cpuset-cpus", "0,1"], "2\nmax 100000\n"),
    ] {
        let out = vm
            .bulkhead(["run", "--rm"])
            .args(flags)
            .args(["busybox", "sh", "-c", script])
            .output()?;
        assert_eq!(out.only_stdout()?, expected, "{flags:?}");
    }
    Ok(())
}

/// Two processes bound to a vCPU each hand a byte to and fro.
fn every_cpu_of_the_host_is_a_vcpu_that_works(world: &World) -> Result<()> {
    let vm = world.busybox()?;
    let script = "nproc; mkfifo /a /b;
        taskset 1 sh -c 'for i in $(seq 200); do echo $i >/a; read x </b; done; echo $x' &
        taskset 2 sh -c 'for i in $(seq 200); do read x </a; echo $x >/b; done'; wait";
    let text = vm.run(["busybox", "sh", "-c", script])?.only_stdout()?;
    let host = std::thread::available_parallelism().context("count the host's CPUs")?;
    assert_eq!(text, format!("{host}\n200\n"));
    Ok(())
}

/// More than the command gives on a small host, so without it; the kernel counts them itself.
fn a_vm_of_32_vcpus_boots(world: &World) -> Result<()> {
    let guest = world.busybox()?.guest();
    let binary = std::env::current_exe().context("find this binary")?;
    let out = Invocation::new(binary)
        .arg(BOOT)
        .args([guest.join("vmlinux"), guest.join("initramfs.cpio")])
        .arg(vmm::builder::VCPUS_MAX.to_string())
        .output()?
        .code(0)?;
    assert!(out.stdout.contains("Brought up 1 node, 32 CPUs"), "{out}");
    Ok(())
}

/// Boots without a device: the agent finds no host to talk to and resets the VM.
pub(crate) fn boot(kernel: &str, initramfs: &str, vcpus: &str) -> Result<()> {
    let open = |path: &str| File::open(Path::new(path)).with_context(|| format!("open {path}"));
    let vm = Vm::build(VmConfig {
        vcpu_count: vcpus.parse().context("read the number of vCPUs")?,
        memory_mib: 512,
        start: Start::Boot(Kernel {
            kernel: open(kernel)?,
            initramfs: open(initramfs)?,
            cmdline: "keep_bootcon loglevel=7".to_owned(),
        }),
        devices: Vec::new(),
        console: Box::new(std::io::stdout()),
    })?;
    let (end, _) = vm.run()?;
    anyhow::ensure!(end == VmEnd::Reset, "{end}");
    Ok(())
}
