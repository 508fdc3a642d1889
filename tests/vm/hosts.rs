//! What changes of a host under containers, and hosts that lack what others have: the command is
//! replaced, the state root is moved, nobody reads what is printed, no user has a name, files have a
//! limit, there is no `/proc`.

use std::fs;

use anyhow::Result;
use harness::{Invocation, Sandbox};

use crate::life::{begin, status, text, until};
use crate::world::World;

crate::tests![
    an_upgrade_ends_no_container,
    a_state_root_that_was_moved_has_its_volumes,
    what_nobody_reads_is_done_all_the_same,
    users_without_names_have_vms,
    a_limit_of_files_is_told,
    a_host_without_proc_is_told,
];

fn an_upgrade_ends_no_container(world: &World) -> Result<()> {
    let vm = world.own()?;
    let share = format!("{}:/m:ro", vm.work().display());
    begin(&vm, "again", &["-v", &share], "sleep 1000")?;
    let lives = ["--restart", "always"];
    begin(
        &vm,
        "lives",
        &lives,
        "until [ -e /go ]; do sleep 0.1; done; rm /go; exit 3",
    )?;
    // As a package manager does: another file of that name.
    let new = vm.folder().join("bin/new");
    fs::copy(vm.program(), &new)?;
    fs::rename(&new, vm.program())?;
    text(&vm, &["exec", "-d", "lives", "touch", "/go"])?;
    until("its next life", || {
        let format = "{{.RestartCount}} {{.State.Status}}";
        let now = text(&vm, &["inspect", "-f", format, "lives"])?;
        Ok((now == "1 running\n").then_some(()))
    })?;
    text(&vm, &["restart", "-t", "0", "again"])?;
    assert_eq!(status(&vm, "again")?, "running true 0");
    text(&vm, &["exec", "again", "ls", "/m"])?;
    text(&vm, &["rm", "-f", "again", "lives"])?;
    vm.wait_for_no_process()
}

fn a_state_root_that_was_moved_has_its_volumes(world: &World) -> Result<()> {
    let vm = world.own()?;
    let script = "echo life >> /v/file; echo life >> /w/file; cat /v/file /w/file";
    begin(&vm, "vv", &["-v", "vol:/v", "-v", "/w"], script)?;
    text(&vm, &["wait", "vv"])?;
    let moved = vm.folder().join("moved");
    fs::rename(vm.root(), &moved)?;
    let bulkhead = |words: &[&str]| {
        let command = vm.bulkhead(words).env("BULKHEAD_ROOT", &moved);
        command.output()?.only_stdout()
    };
    assert_eq!(bulkhead(&["start", "-a", "vv"])?, "life\n".repeat(4));
    let place = bulkhead(&["inspect", "-f", "{{(index .Mounts 0).Source}}", "vv"])?;
    assert!(
        place.starts_with(&format!("{}/", moved.display())),
        "{place}"
    );
    bulkhead(&["rm", "-v", "vv"])?;
    assert_eq!(bulkhead(&["volume", "ls", "-q"])?, "vol\n");
    fs::rename(&moved, vm.root())?;
    Ok(())
}

fn what_nobody_reads_is_done_all_the_same(world: &World) -> Result<()> {
    let vm = world.own()?;
    let unread = |line: &str| {
        let script = format!("{{ sleep 0.5; {line}; }} | true");
        vm.shell(&script).output()?.code(0)
    };
    unread("bulkhead run -d --name one busybox sleep 1000")?;
    assert_eq!(status(&vm, "one")?, "running true 0");
    vm.shell(
        "bulkhead create --name two busybox > /dev/null; bulkhead create --name three busybox",
    )
    .output()?
    .code(0)?;
    unread("bulkhead stop -t 0 one two")?;
    assert_eq!(status(&vm, "one")?, "exited false 137");
    unread("bulkhead rm one two three")?;
    assert_eq!(text(&vm, &["ps", "-aq"])?, "");
    // A failure all the same where the reader is there and can't take it.
    vm.shell("bulkhead create --name full busybox > /dev/full")
        .output()?
        .code(125)?;
    text(&vm, &["rm", "full"])?;
    Ok(())
}

/// A script in a mount namespace of its own.
fn apart(vm: &Sandbox, script: &str) -> Invocation {
    let unshare = Invocation::new("/usr/bin/unshare");
    vm.equipped(unshare.args(["--mount", "sh", "-c", script]))
}

fn users_without_names_have_vms(world: &World) -> Result<()> {
    let vm = world.own()?;
    let script =
        "mount -t tmpfs none /etc && exec bulkhead run --rm --network none busybox echo ran";
    assert_eq!(apart(&vm, script).output()?.only_stdout()?, "ran\n");
    Ok(())
}

fn a_limit_of_files_is_told(world: &World) -> Result<()> {
    let vm = world.own()?;
    let out = vm
        .shell("exec prlimit --fsize=1000:1000 bulkhead run --rm busybox true")
        .output()?
        .code(125)?;
    assert!(out.stderr.contains("File too large"), "{out}");
    Ok(())
}

fn a_host_without_proc_is_told(world: &World) -> Result<()> {
    let vm = world.own()?;
    let script = "mount -t tmpfs none /proc && exec bulkhead run --rm busybox true";
    let out = apart(&vm, script).output()?.code(125)?;
    assert!(out.stderr.contains("/proc is not mounted"), "{out}");
    Ok(())
}
