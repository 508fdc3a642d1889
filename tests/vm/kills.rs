//! kill -9 of each process at each phase: nothing stays, and the next command works.

use std::fs;

use anyhow::{Context, Result};
use harness::{Sandbox, images};
use rustix::process::Signal;

use crate::world::World;

crate::tests![
    the_command_while_unpacking,
    the_converter_while_unpacking,
    the_command_while_booting,
    the_supervisor_while_booting,
    the_vmm_while_booting,
    the_command_while_running,
    the_supervisor_while_running,
    the_vmm_while_running,
    the_supervisor_of_rm_while_booting,
    the_vmm_of_rm_while_booting,
    the_supervisor_of_rm_while_running,
    the_vmm_of_rm_while_running,
    the_supervisor_while_ending,
    the_vmm_while_ending,
    the_command_while_loading,
];

/// Hidden verbs of the command's own processes.
const SUPERVISOR: &str = "__supervisor";
const VMM: &str = "__vmm";

/// When it is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Booting,
    Running,
}

/// Who is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Command,
    Process(&'static str),
}

fn the_command_while_unpacking(_: &World) -> Result<()> {
    kill_while_unpacking(Victim::Command)
}

fn the_converter_while_unpacking(_: &World) -> Result<()> {
    kill_while_unpacking(Victim::Process(VMM))
}

fn the_command_while_booting(world: &World) -> Result<()> {
    kill_and_clean(world, Phase::Booting, Victim::Command)
}

fn the_supervisor_while_booting(world: &World) -> Result<()> {
    kill_and_clean(world, Phase::Booting, Victim::Process(SUPERVISOR))
}

fn the_vmm_while_booting(world: &World) -> Result<()> {
    kill_and_clean(world, Phase::Booting, Victim::Process(VMM))
}

fn the_command_while_running(world: &World) -> Result<()> {
    kill_and_clean(world, Phase::Running, Victim::Command)
}

fn the_supervisor_while_running(world: &World) -> Result<()> {
    kill_and_clean(world, Phase::Running, Victim::Process(SUPERVISOR))
}

fn the_vmm_while_running(world: &World) -> Result<()> {
    kill_and_clean(world, Phase::Running, Victim::Process(VMM))
}

fn the_supervisor_of_rm_while_booting(world: &World) -> Result<()> {
    kill_one_of_rm(world, Phase::Booting, SUPERVISOR)
}

fn the_vmm_of_rm_while_booting(world: &World) -> Result<()> {
    kill_one_of_rm(world, Phase::Booting, VMM)
}

fn the_supervisor_of_rm_while_running(world: &World) -> Result<()> {
    kill_one_of_rm(world, Phase::Running, SUPERVISOR)
}

fn the_vmm_of_rm_while_running(world: &World) -> Result<()> {
    kill_one_of_rm(world, Phase::Running, VMM)
}

fn the_supervisor_while_ending(world: &World) -> Result<()> {
    kill_while_ending(world, SUPERVISOR)
}

fn the_vmm_while_ending(world: &World) -> Result<()> {
    kill_while_ending(world, VMM)
}

/// The process has ended, and what it wrote is on its way to the disk.
fn kill_while_ending(world: &World, verb: &'static str) -> Result<()> {
    let vm = world.own()?;
    vm.run(["busybox", "true"])?.code(0)?;
    let before = vm.snapshot()?;
    vm.wait_for_no_process()?;
    let script = "dd if=/dev/zero of=/big bs=1M count=64 2>/dev/null; echo ending";
    let mut running = vm
        .bulkhead(["run", "--name", "victim", "busybox", "sh", "-c", script])
        .spawn()?;
    running.wait_for_stdout("ending\n")?;
    // It may have gone meanwhile, which is as good an end.
    if let Some(process) = vm
        .processes()?
        .iter()
        .find(|process| process.has_verb(verb))
    {
        let _ = process.kill();
    }
    let out = running.wait()?;
    assert!(!out.stderr.contains("panicked"), "{out}");
    vm.wait_for_no_process()?;
    let state = ["inspect", "-f", "{{.State.Status}}", "victim"];
    let state = vm.bulkhead(state).output()?.only_stdout()?;
    assert_eq!(state, "exited\n");
    vm.bulkhead(["rm", "victim"]).output()?.code(0)?;
    before.no_leftovers(&vm)?;
    assert_eq!(
        vm.run(["busybox", "echo", "next"])?.only_stdout()?,
        "next\n"
    );
    before.no_leftovers(&vm)
}

/// Half of an archive has come, and then the command is gone.
fn the_command_while_loading(_: &World) -> Result<()> {
    let vm = Sandbox::empty()?;
    let archive = images::busybox()?;
    let half = fs::metadata(&archive).context("look at the archive")?.len() / 2;
    let script = format!(
        "{{ head -c {half} {}; sleep 1000; }} | exec bulkhead load",
        archive.display()
    );
    let load = vm.shell(&script).spawn()?;
    let begun = || {
        let files = fs::read_dir(vm.root().join("images/ingest"));
        files.is_ok_and(|mut files| files.next().is_some())
    };
    crate::life::until("a part of the archive", || Ok(begun().then_some(())))?;
    vm.wait_for_process("load")?.kill()?;
    vm.wait_for_no_process()?;
    drop(load);
    assert_eq!(vm.bulkhead(["images", "-q"]).output()?.only_stdout()?, "");
    vm.load(&archive)?;
    assert_eq!(
        vm.run(["busybox", "echo", "whole"])?.only_stdout()?,
        "whole\n"
    );
    let left = fs::read_dir(vm.root().join("images/ingest"))?.count();
    assert_eq!(left, 0, "what was half loaded stays");
    Ok(())
}

/// Starts a container called `victim` that would run for long.
fn start(vm: &Sandbox, options: &[&str]) -> Result<harness::Running> {
    vm.bulkhead(["run", "--name", "victim"])
        .args(options)
        .args(["busybox", "sh", "-c", "echo ready; sleep 1000"])
        .spawn()
}

/// Starts it, with its layers unpacked already, and waits until it is there.
fn start_until(vm: &Sandbox, phase: Phase, options: &[&str]) -> Result<harness::Running> {
    // So that the processes that are found are its own, and its VM goes on from a template: one that
    // was killed takes it along.
    vm.run(["busybox", "true"])?.code(0)?;
    vm.wait_for_no_process()?;
    let mut running = start(vm, options)?;
    match phase {
        Phase::Booting => drop(vm.wait_for_process(VMM)?),
        Phase::Running => running.wait_for_stdout("ready\n")?,
    }
    Ok(running)
}

/// Kills the victim and waits for the command's end, which tells who is gone.
fn kill(vm: &Sandbox, running: harness::Running, victim: Victim) -> Result<harness::Output> {
    match victim {
        Victim::Command => running.signal(Signal::KILL)?,
        Victim::Process(verb) => vm.wait_for_process(verb)?.kill()?,
    }
    let out = running.wait()?;
    let sentence = match victim {
        Victim::Command => {
            assert_eq!(out.code, -9, "{out}");
            return Ok(out);
        }
        Victim::Process(SUPERVISOR) => "the container's supervisor died; it may have been killed",
        Victim::Process(_) => "its process ended with signal: 9 (SIGKILL)",
    };
    assert_eq!(out.code, 125, "{out}");
    assert_eq!(out.stderr.matches("bulkhead: ").count(), 1, "{out}");
    assert!(out.stderr.contains(sentence), "{out}");
    assert!(!out.stderr.contains("panicked"), "{out}");
    Ok(out)
}

fn kill_while_unpacking(victim: Victim) -> Result<()> {
    let vm = Sandbox::with_busybox()?;
    let running = start(&vm, &["--cidfile", "id"])?;
    vm.wait_for_process(VMM)?;
    kill(&vm, running, victim)?;
    vm.wait_for_no_process()?;
    assert!(!vm.work().join("id").exists(), "the id of no container");
    let out = vm.run(["busybox", "echo", "next"])?;
    assert_eq!(out.code(0)?.stdout, "next\n");
    let count = |folder: &str| {
        fs::read_dir(vm.root().join(folder))
            .with_context(|| format!("read {folder}"))
            .map(Iterator::count)
    };
    assert_eq!(count("images/layers")?, 1, "a half-made layer disk stays");
    assert_eq!(count("images/ingest")?, 0);
    assert_eq!(count("containers")?, 0);
    vm.wait_for_no_process()
}

fn kill_and_clean(world: &World, phase: Phase, victim: Victim) -> Result<()> {
    let vm = world.own()?;
    vm.run(["busybox", "true"])?.code(0)?;
    let before = vm.snapshot()?;
    let running = start_until(&vm, phase, &[])?;
    kill(&vm, running, victim)?;
    clean(&vm, phase, victim)?;
    before.no_leftovers(&vm)?;
    assert_eq!(
        vm.run(["busybox", "echo", "next"])?.only_stdout()?,
        "next\n"
    );
    before.no_leftovers(&vm)
}

/// Nobody has to remove one of `--rm`: the next command that looks at containers does, and may have
/// its name.
fn kill_one_of_rm(world: &World, phase: Phase, verb: &'static str) -> Result<()> {
    let vm = world.own()?;
    vm.run(["busybox", "true"])?.code(0)?;
    let before = vm.snapshot()?;
    for next in [
        &["ps", "-aq"][..],
        &["run", "--rm", "--name", "victim", "busybox", "true"],
    ] {
        let running = start_until(&vm, phase, &["--rm"])?;
        kill(&vm, running, Victim::Process(verb))?;
        vm.wait_for_no_process()?;
        assert_eq!(vm.bulkhead(next).output()?.only_stdout()?, "", "{next:?}");
        before.no_leftovers(&vm)?;
    }
    Ok(())
}

/// What is listed is removed as any other container. As with docker, a container outlives the
/// command that started it; without its supervisor or VMM it has ended.
fn clean(vm: &Sandbox, phase: Phase, victim: Victim) -> Result<()> {
    if victim != Victim::Command {
        vm.wait_for_no_process()?;
        let running = vm.bulkhead(["ps", "-q"]).output()?.only_stdout()?;
        assert_eq!(running, "", "it counts as running");
        let state = [
            "inspect",
            "-f",
            "{{.State.Status}} {{.State.Running}}",
            "victim",
        ];
        let state = vm.bulkhead(state).output()?.only_stdout()?;
        // A VM that boots may be quicker than its murderer.
        let may_be_created = phase == Phase::Booting && state == "created false\n";
        assert!(state == "exited false\n" || may_be_created, "{state}");
    }
    let listed = vm.bulkhead(["ps", "-aq"]).output()?.only_stdout()?;
    if !listed.is_empty() {
        vm.bulkhead(["rm", "-f", "victim"]).output()?.code(0)?;
    }
    Ok(())
}
