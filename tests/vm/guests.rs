//! Guests that are no Linux: a few instructions in the kernel's place. Whatever they do, their VM
//! ends with one clear line and the next one runs. And the largest VM there is.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use harness::{Invocation, Sandbox, bare};
use vmm::builder::Kernel;
use vmm::{Start, Vm, VmConfig, VmEnd};

use crate::world::World;

crate::tests![
    a_guest_that_halts_for_ever_is_ended,
    a_triple_fault_is_told,
    a_guest_that_gropes_around_only_spends_its_own_time,
    a_vm_of_32_vcpus_boots,
];

/// Makes this binary a VMM: `KERNEL INITRAMFS VCPUS` follow.
pub(crate) const BOOT: &str = "--boot";

/// Runs a container whose kernel is this code: one sentence with `text`, and nothing left.
fn refusal_of(world: &World, code: &[u8], text: &str) -> Result<()> {
    refusal(&world.own()?, code, text, "off")
}

fn refusal(vm: &Sandbox, code: &[u8], text: &str, templates: &str) -> Result<()> {
    let before = vm.snapshot()?;
    let guest = vm.work().join("guest");
    fs::create_dir(&guest).context("create a guest's folder")?;
    fs::write(guest.join("vmlinux"), bare::kernel(code)).context("write a kernel")?;
    for name in ["initramfs.cpio", "kernel.json"] {
        fs::copy(vm.guest().join(name), guest.join(name)).context("copy a guest's file")?;
    }
    vm.bulkhead(["run", "--rm", "busybox", "true"])
        .env("BULKHEAD_GUEST", &guest)
        .env("BULKHEAD_TEMPLATES", templates)
        .output()?
        .refusal(text)?;
    fs::remove_dir_all(&guest).context("remove a guest's folder")?;
    before.no_leftovers(vm)?;
    let out = vm.run(["busybox", "echo", "alive"])?;
    assert_eq!(out.only_stdout()?, "alive\n");
    Ok(())
}

fn a_guest_that_halts_for_ever_is_ended(world: &World) -> Result<()> {
    refusal_of(world, bare::HALT_FOR_EVER, "halted for ever")
}

fn a_triple_fault_is_told(world: &World) -> Result<()> {
    refusal_of(world, bare::TRIPLE_FAULT, "triple fault")?;
    // A kernel that makes no template is booted, and says the same.
    let vm = world.own()?;
    let templates = vm.work().join("templates");
    refusal(
        &vm,
        bare::TRIPLE_FAULT,
        "triple fault",
        &templates.to_string_lossy(),
    )
}

fn a_guest_that_gropes_around_only_spends_its_own_time(world: &World) -> Result<()> {
    refusal_of(world, bare::TOUCH_EVERYTHING_THEN_RESET, "reset itself")
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
    let mut vm = Vm::build(VmConfig {
        kvm: vmm::open_kvm()?,
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
