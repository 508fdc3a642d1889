//! A container's life around its process: names, ids, lists, removal, what `inspect` says.

use std::fs;

use anyhow::{Context, Result};

use crate::world::World;

crate::tests![
    rm_leaves_nothing,
    of_rm_nothing_is_there_when_the_command_returns,
    without_rm_it_is_kept_until_removed,
    a_taken_name_is_refused,
    the_id_goes_to_the_cidfile,
    a_running_one_is_removed_by_force_only,
    labels_and_configuration_are_inspected,
    a_start_records_its_phases,
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

fn of_rm_nothing_is_there_when_the_command_returns(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.run(["busybox", "true"])?.code(0)?;
    let before = vm.snapshot()?;
    for code in [0, 3, 127] {
        let script = format!("exit {code}");
        let command = match code {
            127 => vec!["no-such-program"],
            _ => vec!["sh", "-c", &script],
        };
        // Its VM may still be on its way out, but nothing of it is in the next one's way.
        vm.run(["--name", "again", "busybox"].into_iter().chain(command))?
            .code(code)?;
        assert_eq!(fs::read_dir(vm.root().join("containers"))?.count(), 0);
    }
    before.no_leftovers(&vm)
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

fn a_running_one_is_removed_by_force_only(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.run(["busybox", "true"])?.code(0)?;
    let before = vm.snapshot()?;
    let mut running = vm
        .bulkhead([
            "run",
            "--name",
            "runs",
            "busybox",
            "sh",
            "-c",
            "echo ready; sleep 1000",
        ])
        .spawn()?;
    running.wait_for_stdout("ready\n")?;
    assert_eq!(
        vm.bulkhead(["ps", "--format", "{{.Names}}"])
            .output()?
            .only_stdout()?,
        "runs\n"
    );
    let refused = vm.bulkhead(["rm", "runs"]).output()?.code(1)?;
    assert!(refused.stderr.contains("container is running"), "{refused}");
    vm.bulkhead(["rm", "-f", "runs"]).output()?.code(0)?;
    let out = running.wait()?;
    assert_eq!(out.code, 137, "{out}");
    before.no_leftovers(&vm)
}

fn labels_and_configuration_are_inspected(world: &World) -> Result<()> {
    let vm = world.own()?;
    fs::write(vm.work().join("labels"), "from.file=yes\n")?;
    vm.bulkhead([
        "run",
        "--name",
        "labelled",
        "-l",
        "one=1",
        "-l",
        "bare",
        "--label-file",
        "labels",
    ])
    .args([
        "-e",
        "A=b",
        "-w",
        "/tmp",
        "variant:stop",
        "sh",
        "-c",
        "exit 9",
    ])
    .output()?
    .code(9)?;
    for (format, expected) in [
        ("{{.State.Status}} {{.State.ExitCode}}", "exited 9"),
        (
            "{{json .Config.Labels}}",
            r#"{"bare":"","from.file":"yes","maker":"fixtures","one":"1"}"#,
        ),
        ("{{json .Config.Cmd}}", r#"["sh","-c","exit 9"]"#),
        (
            "{{.Config.WorkingDir}} {{.Config.StopSignal}}",
            "/tmp SIGUSR1",
        ),
        ("{{.Config.Image}}", "variant:stop"),
    ] {
        let out = vm
            .bulkhead(["inspect", "-f", format, "labelled"])
            .output()?;
        assert_eq!(out.only_stdout()?.trim_end(), expected, "{format}");
    }
    let missing = vm.bulkhead(["inspect", "nothing"]).output()?.code(1)?;
    assert_eq!(missing.stdout.trim(), "[]");
    assert!(
        missing.stderr.contains("No such object: nothing"),
        "{missing}"
    );
    Ok(())
}

fn a_start_records_its_phases(world: &World) -> Result<()> {
    let vm = world.own()?;
    vm.bulkhead(["run", "--name", "timed", "busybox", "true"])
        .output()?
        .code(0)?;
    let text = vm.bulkhead(["inspect", "timed"]).output()?.only_stdout()?;
    let value: serde_json::Value = serde_json::from_str(&text)?;
    let phases = value[0]["Bulkhead"]["PhasesMs"].as_object();
    let phases = phases.with_context(|| format!("no phases in {text}"))?;
    assert!(phases.len() >= 6, "{phases:?}");
    assert!(
        phases
            .values()
            .all(|value| value.as_f64().is_some_and(|time| time >= 0.0)),
        "{phases:?}"
    );
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
