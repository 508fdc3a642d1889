//! Guests that are no Linux: a few instructions in the kernel's place. Whatever they do, their VM
//! ends with one clear line and the next one runs.

use std::fs;

use anyhow::{Context, Result};
use harness::{Sandbox, bare};

use crate::world::World;

crate::tests![
    a_guest_that_halts_for_ever_is_ended,
    a_triple_fault_is_told,
    a_guest_that_gropes_around_only_spends_its_own_time,
];

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
