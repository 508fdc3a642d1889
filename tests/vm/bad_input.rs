//! Bad images and bad hosts: one clear sentence, the right exit code, nothing left behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fixtures::hostile::{self, Wrong};
use harness::{Invocation, Sandbox, images};

use crate::world::World;

crate::tests![
    layers_that_are_damaged_do_not_run,
    a_bomb_that_fills_the_disk_is_told,
    a_full_disk_in_the_store_is_told,
    an_image_without_a_command_is_refused,
    a_missing_guest_kernel_is_told,
    a_name_that_is_no_name_is_refused,
];

/// How long a refusal may take at most: unpacking may have to read all of a layer.
const PATIENCE: Duration = Duration::from_secs(600);

/// Writes a hostile image and loads it.
fn load(vm: &Sandbox, wrong: Wrong) -> Result<harness::Output> {
    let layout = vm.work().join(format!("{wrong:?}"));
    hostile::write(&layout, wrong)?;
    let out = vm
        .bulkhead(["load", "-i"])
        .arg(&layout)
        .timeout(PATIENCE)
        .output();
    fs::remove_dir_all(&layout).context("remove a layout")?;
    out
}

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

fn layers_that_are_damaged_do_not_run(world: &World) -> Result<()> {
    let vm = world.own()?;
    let before = vm.snapshot()?;
    for (wrong, text) in [
        (Wrong::CutGzip, "truncated"),
        (Wrong::CorruptGzip, "corrupt"),
        (Wrong::NotATar, "checksum is wrong"),
        (Wrong::CutTar, "truncated"),
        (Wrong::DiffId, "diff_id"),
        (Wrong::HugeEntry, "exceeds the limit"),
    ] {
        load(&vm, wrong)?
            .code(0)
            .with_context(|| format!("{wrong:?}"))?;
        let out = vm
            .bulkhead(["run", "--rm", hostile::IMAGE])
            .timeout(PATIENCE)
            .output()?;
        let sentence = out.refusal("layer").with_context(|| format!("{wrong:?}"))?;
        assert!(sentence.contains(text), "{wrong:?}: {sentence}");
        vm.bulkhead(["rmi", hostile::IMAGE]).output()?.code(0)?;
        before
            .no_leftovers(&vm)
            .with_context(|| format!("{wrong:?}"))?;
    }
    Ok(())
}

/// A state root of its own with so much room. Dropped, it is unmounted.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, mib: u32) -> Result<Self> {
        fs::create_dir(folder).context("create a mount point")?;
        Invocation::new("/bin/mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(folder)
            .output()?
            .code(0)?;
        Ok(Self(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Invocation::new("/bin/umount").arg(&self.0).output();
    }
}

fn a_bomb_that_fills_the_disk_is_told(_: &World) -> Result<()> {
    let vm = Sandbox::empty()?;
    let layout = vm.work().join("bomb");
    hostile::write(&layout, Wrong::GzipBomb)?;
    let disk = SmallDisk::mount(&vm.folder().join("small"), 256)?;
    let on_disk = |arguments: &[&str]| {
        vm.bulkhead(arguments)
            .env("BULKHEAD_ROOT", &disk.0)
            .env("BULKHEAD_TEMPLATES", "off")
            .timeout(PATIENCE)
            .output()
    };
    on_disk(&["load", "-i", &layout.to_string_lossy()])?.code(0)?;
    let used = || files_below(&disk.0);
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
        .env("BULKHEAD_ROOT", &disk.0)
        .output()?
        .code(1)?;
    let sentence = one_sentence(&out)?;
    assert!(
        sentence.to_lowercase().contains("no space left"),
        "{sentence}"
    );
    assert!(
        files_below(&disk.0)? < 256 * 1024,
        "the half of an image stays"
    );
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
