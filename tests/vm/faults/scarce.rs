//! A disk below the state root that is all but full: its room is stepped up from none until the verb
//! succeeds, so that it runs out at one point after the other.

use std::fs;

use anyhow::{Context, Result, ensure};
use harness::fault::{Fault, FaultyRegistry};
use harness::{Invocation, SmallDisk};

use super::{Verb, layout, nothing_is_left, one_sentence};
use crate::world::World;

crate::tests![
    room_for_a_run,
    room_for_a_pull,
    room_for_a_conversion,
    room_for_a_build
];

fn room_for_a_run(world: &World) -> Result<()> {
    room(world, Verb::Run)
}

fn room_for_a_pull(world: &World) -> Result<()> {
    room(world, Verb::Pull)
}

fn room_for_a_conversion(world: &World) -> Result<()> {
    room(world, Verb::Convert)
}

fn room_for_a_build(world: &World) -> Result<()> {
    room(world, Verb::Build)
}

/// Room of the disk below the state root, in MiB; it is filled but for what a step leaves.
const DISK_MIB: u32 = 64;

/// KiB of room, step by step.
const ROOM_KIB: [u32; 10] = [0, 4, 16, 40, 128, 512, 1024, 2048, 6144, 32_768];

fn room(world: &World, verb: Verb) -> Result<()> {
    let registry = FaultyRegistry::start(&layout()?, Fault::None)?;
    let name = registry.name("busybox:latest");
    let vm = verb.prepared(world)?;
    // Its root moves to a small disk of the same name.
    let kept = vm.folder().join("kept");
    fs::rename(vm.root(), &kept).context("move the state root")?;
    let disk = SmallDisk::mount(&vm.root(), DISK_MIB)?;
    Invocation::new("/bin/sh")
        .args(["-c", "cp -a --sparse=always \"$0\"/. \"$1\""])
        .args([kept.as_path(), disk.path()])
        .output()?
        .code(0)?;
    let filler = disk.path().join("filler");
    let fill = "dd if=/dev/zero of=\"$0\" bs=64k 2>/dev/null; \
                size=$(stat -c %s \"$0\"); truncate -s $((size - $1 * 1024)) \"$0\"";
    let mut failures = 0;
    for kib in ROOM_KIB {
        Invocation::new("/bin/sh")
            .args(["-c", fill])
            .arg(&filler)
            .arg(kib.to_string())
            .output()?
            .code(0)?;
        let output = vm.bulkhead(verb.words(&name)).output()?;
        let succeeds = verb.has_succeeded(&output);
        if !succeeds {
            failures += 1;
            one_sentence(verb, &output).with_context(|| format!("{kib} KiB"))?;
            let told = output.stderr.to_lowercase();
            // A step whose disk has no room is told of an error by the guest, and is what fails.
            let is_step = verb == Verb::Build && told.contains("did not complete successfully");
            let is_told = is_step || told.contains("no space left");
            ensure!(is_told, "{kib} KiB: {output}");
        }
        fs::remove_file(&filler).context("make room")?;
        nothing_is_left(&vm).with_context(|| format!("{kib} KiB: {output}"))?;
        if succeeds {
            ensure!(failures > 0, "{verb:?}: there was room enough");
            return verb.works(&vm, &name);
        }
    }
    verb.works(&vm, &name).context("with all the room")
}
