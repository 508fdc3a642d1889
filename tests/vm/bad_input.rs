//! Bad images and bad hosts: one clear sentence, the right exit code, nothing left behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fixtures::hostile::{self, Wrong};
use harness::{Sandbox, SmallDisk, images};

use crate::world::World;

crate::tests![
    a_bomb_that_fills_the_disk_is_told,
    a_full_disk_in_the_store_is_told,
    a_host_that_fills_up_under_a_container_is_told,
    templates_without_room_are_done_without,
    an_image_without_a_command_is_refused,
    a_missing_guest_kernel_is_told,
    a_name_that_is_no_name_is_refused,
];

/// How long a refusal may take at most: unpacking may have to read all of a layer.
const PATIENCE: Duration = Duration::from_secs(600);

/// The only line on standard error but for a hint.
fn one_sentence(out: &harness::Output) -> Result<String> {
    let lines: Vec<_> = out
        .stderr
        .lines()
        .filter(|line| !line.starts_with("hint: "))
        .collect();
    match lines.as_slice() {
        [sentence] if !sentence.contains("panicked") => Ok((*sentence).to_owned()),
        _ => bail!("not one sentence of {out}"),
    }
}

fn a_bomb_that_fills_the_disk_is_told(_: &World) -> Result<()> {
    let vm = Sandbox::empty()?;
    let layout = vm.work().join("bomb");
    hostile::write(&layout, Wrong::GzipBomb)?;
    let disk = SmallDisk::mount(&vm.folder().join("small"), 256)?;
    let on_disk = |arguments: &[&str]| {
        vm.bulkhead(arguments)
            .env("BULKHEAD_ROOT", disk.path())
            .env("BULKHEAD_TEMPLATES", "off")
            .timeout(PATIENCE)
            .output()
    };
    on_disk(&["load", "-i", &layout.to_string_lossy()])?.code(0)?;
    let used = || files_below(disk.path());
    on_disk(&["images"])?.code(0)?;
    let before = used()?;
    on_disk(&["run", "--rm", hostile::IMAGE])?.refusal("space")?;
    let after = used()?;
    assert!(
        after <= before + 1024 * 1024,
        "{before} bytes before, {after} after"
    );
    // The host can go on.
    on_disk(&["load", "-i", &images::busybox()?.to_string_lossy()])?.code(0)?;
    let out = on_disk(&["run", "--rm", "busybox", "echo", "alive"])?;
    assert_eq!(out.only_stdout()?, "alive\n");
    Ok(())
}

/// Bytes that the files below a folder take.
fn files_below(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(folder).context("read a folder")? {
        let path = entry.context("read a folder")?.path();
        let metadata = path.symlink_metadata().context("look at a file")?;
        bytes += if metadata.is_dir() {
            files_below(&path)?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(bytes)
}

fn a_full_disk_in_the_store_is_told(_: &World) -> Result<()> {
    let vm = Sandbox::empty()?;
    let disk = SmallDisk::mount(&vm.folder().join("small"), 1)?;
    let out = vm
        .bulkhead(["load", "-i"])
        .arg(images::busybox()?)
        .env("BULKHEAD_ROOT", disk.path())
        .output()?
        .code(1)?;
    let sentence = one_sentence(&out)?;
    assert!(
        sentence.to_lowercase().contains("no space left"),
        "{sentence}"
    );
    assert!(
        files_below(disk.path())? < 256 * 1024,
        "the half of an image stays"
    );
    Ok(())
}

/// The writable layer is sparse, so that a guest may write what the host has no room for.
fn a_host_that_fills_up_under_a_container_is_told(_: &World) -> Result<()> {
    let vm = Sandbox::empty()?;
    let disk = SmallDisk::mount(&vm.folder().join("small"), 48)?;
    let on_disk = |arguments: &[&str]| {
        vm.bulkhead(arguments)
            .env("BULKHEAD_ROOT", disk.path())
            .output()
    };
    on_disk(&["load", "-i", &images::busybox()?.to_string_lossy()])?.code(0)?;
    let script = "dd if=/dev/zero of=/fill bs=1M count=200 conv=fsync 2>&1 | grep -o 'I/O error\\|Input/output error'; echo goes on";
    let out = on_disk(&["run", "--name", "filler", "busybox", "sh", "-c", script])?;
    let text = out.code(0)?.stdout;
    assert!(
        text.contains("/O error") || text.contains("/output error"),
        "{text}"
    );
    assert!(text.ends_with("goes on\n"), "{text}");
    let log = fs::read_dir(disk.path().join("containers"))?
        .map(|entry| Ok(fs::read_to_string(entry?.path().join("vm.log"))?))
        .collect::<Result<String>>()?;
    assert!(log.contains("the host's disk is full"), "{log}");
    // Its room comes back with it.
    on_disk(&["rm", "filler"])?.code(0)?;
    let out = on_disk(&["run", "--rm", "busybox", "echo", "alive"])?;
    assert_eq!(out.only_stdout()?, "alive\n");
    Ok(())
}

fn templates_without_room_are_done_without(world: &World) -> Result<()> {
    let vm = world.own()?;
    let disk = SmallDisk::mount(&vm.folder().join("small"), 8)?;
    let out = vm
        .bulkhead(["run", "--rm", "busybox", "echo", "booted"])
        .env("BULKHEAD_TEMPLATES", disk.path())
        .output()?;
    assert_eq!(out.only_stdout()?, "booted\n");
    let left = files_below(disk.path())?;
    assert!(left < 64 * 1024, "{left} bytes of half a template stay");
    Ok(())
}

fn an_image_without_a_command_is_refused(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    vm.run(["variant:bare"])?.refusal("no command specified")?;
    vm.run(["--entrypoint", "", "busybox"])?
        .refusal("no command specified")?;
    before.no_leftovers(&vm)
}

fn a_missing_guest_kernel_is_told(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    vm.bulkhead(["run", "--rm", "busybox", "true"])
        .env("BULKHEAD_GUEST", "/nowhere")
        .output()?
        .refusal("vmlinux")?;
    // No kernel at all, and none that can be loaded.
    let guest = vm.work().join("guest");
    fs::create_dir(&guest)?;
    fs::write(guest.join("vmlinux"), "no kernel")?;
    fs::write(guest.join("initramfs.cpio"), "no agent")?;
    vm.bulkhead(["run", "--rm", "busybox", "true"])
        .env("BULKHEAD_GUEST", &guest)
        .output()?
        .refusal("kernel")?;
    before.no_leftovers(&vm)
}

fn a_name_that_is_no_name_is_refused(world: &World) -> Result<()> {
    let vm = world.own()?;
    for name in ["UPPER", "a//b", "a:b:c", "busybox@sha256:12", "../x", ":x"] {
        vm.run(["-q", name, "true"])?
            .refusal("invalid reference format")?;
    }
    Ok(())
}
