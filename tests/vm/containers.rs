//! A container's life around its process: names, ids, lists, removal, what `inspect` says.

use std::fs;

use anyhow::Result;

use crate::world::World;

crate::tests![
    rm_leaves_nothing,
    without_rm_it_is_kept_until_removed,
    a_taken_name_is_refused,
    the_id_goes_to_the_cidfile,
    a_failed_start_is_kept_as_created,
];

fn rm_leaves_nothing(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.run(["busybox", "true"])?.code(0)?;
    let before = vm.snapshot()?;
    vm.run(["busybox", "sh", "-c", "echo data >/file; exit 5"])?
        .code(5)?;
    before.no_leftovers(&vm)?;
    assert_eq!(vm.bulkhead(["ps", "-aq"]).output()?.only_stdout()?, "");
    Ok(())
}

fn without_rm_it_is_kept_until_removed(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.run(["busybox", "true"])?.code(0)?;
    let before = vm.snapshot()?;
    vm.bulkhead(["run", "--name", "kept", "busybox", "sh", "-c", "exit 3"])
        .output()?
        .code(3)?;
    let format = "{{.Names}} {{.Image}} {{.State}} {{.Status}}";
    let list = vm
        .bulkhead(["ps", "-a", "--format", format])
        .output()?
        .only_stdout()?;
    assert!(
        list.starts_with("kept busybox exited Exited (3) "),
        "{list}"
    );
    assert_eq!(vm.bulkhead(["ps", "-q"]).output()?.only_stdout()?, "");
    assert_eq!(
        vm.bulkhead(["rm", "kept"]).output()?.only_stdout()?,
        "kept\n"
    );
    before.no_leftovers(&vm)
}

fn a_taken_name_is_refused(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.bulkhead(["run", "--name", "taken", "busybox", "true"])
        .output()?
        .code(0)?;
    let before = vm.snapshot()?;
    vm.bulkhead(["run", "--name", "taken", "busybox", "true"])
        .output()?
        .refusal("The container name \"/taken\" is already in use")?;
    vm.bulkhead(["run", "--name", "no spaces", "busybox", "true"])
        .output()?
        .refusal("no spaces")?;
    before.no_leftovers(&vm)
}

fn the_id_goes_to_the_cidfile(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.bulkhead([
        "run",
        "--cidfile",
        "id",
        "--name",
        "named",
        "busybox",
        "true",
    ])
    .output()?
    .code(0)?;
    let id = fs::read_to_string(vm.work().join("id"))?;
    assert!(
        id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{id:?}"
    );
    let inspect = vm
        .bulkhead(["inspect", "-f", "{{.Id}} {{.Name}}", &id[..12]])
        .output()?;
    assert_eq!(inspect.only_stdout()?, format!("{id} /named\n"));
    vm.bulkhead(["run", "--cidfile", "id", "busybox", "true"])
        .output()?
        .refusal("container ID file found")?;
    assert_eq!(fs::read_to_string(vm.work().join("id"))?, id);
    // Of a container that could not be made there is no id.
    vm.bulkhead([
        "run",
        "--cidfile",
        "other",
        "--name",
        "named",
        "busybox",
        "true",
    ])
    .output()?
    .refusal("already in use")?;
    assert!(!vm.work().join("other").exists());
    Ok(())
}

fn a_failed_start_is_kept_as_created(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.bulkhead(["run", "--name", "failed", "busybox", "no-such-program"])
        .output()?
        .code(127)?;
    let format = "{{.State.Status}} {{.State.ExitCode}} {{.State.Running}}";
    let out = vm.bulkhead(["inspect", "-f", format, "failed"]).output()?;
    assert_eq!(out.only_stdout()?, "created 127 false\n");
    vm.bulkhead(["rm", "failed"]).output()?.code(0)?;
    Ok(())
}
