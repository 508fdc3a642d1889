//! Each process that a container, a pull, a conversion or a build has is stopped for a while (SIGSTOP) and
//! goes on, or is killed then.

use std::fs;

use anyhow::{Context, Result, ensure};
use harness::fault::{Fault, FaultyRegistry};
use harness::registry::free_port;
use harness::{Output, Running, Sandbox};
use rustix::process::Signal;

use super::{
    FILES, INGEST, LAUNCHER, LAYERS, SUPERVISOR, VMM, Verb, Who, layout, nothing_is_left,
    nothing_is_left_but, one_sentence, signal, wait_for_ingest, wait_for_layer_disk,
    with_a_large_layer,
};
use crate::world::World;

crate::tests![
    processes_of_a_run_go_on_or_are_killed,
    pulls_conversions_and_builds_go_on_or_are_killed,
];

/// A process is stopped for so long: longer than any poll of the others, shorter than their time-outs.
const WHILE: std::time::Duration = std::time::Duration::from_secs(2);

/// A container with each kind of process: a published port has passt, a share has a file server.
fn start(vm: &Sandbox) -> Result<Running> {
    let port = format!("127.0.0.1:{}:80", free_port()?);
    let share = format!("{}:/share", vm.work().display());
    let script = "wait_for() { while ! test -e /share/$1; do sleep 0.1; done; }; \
                  echo ready; wait_for go; echo done; wait_for end; exit 7";
    vm.bulkhead(["run", "--rm", "--name", "one", "-p", &port, "-v", &share])
        .args(["busybox", "sh", "-c", script])
        .spawn()
}

/// All processes of a run.
const OF_A_RUN: [Who; 6] = [
    Who::Command,
    Who::Process(SUPERVISOR),
    Who::Process(VMM),
    Who::Process(FILES),
    Who::Process(LAUNCHER),
    Who::Passt,
];

/// While it boots, and while its process runs.
const PHASES: [bool; 2] = [false, true];

fn processes_of_a_run_go_on_or_are_killed(world: &World) -> Result<()> {
    let vm = world.own()?;
    let [go, end] = ["go", "end"].map(|name| vm.work().join(name));
    for who in OF_A_RUN {
        for runs in PHASES {
            let mut running = start(&vm)?;
            if runs {
                running.wait_for_stdout("ready\n")?;
            }
            let id = who.id(&vm, &running)?;
            signal(id, Signal::STOP)?;
            // Whoever looks is told at once, whoever is stopped.
            vm.bulkhead(["ps", "-q"]).output()?.code(0)?;
            std::thread::sleep(WHILE);
            signal(id, Signal::CONT)?;
            running.wait_for_stdout("ready\n")?;
            fs::write(&go, "")?;
            running.wait_for_stdout("done\n")?;
            if runs {
                signal(id, Signal::STOP)?;
                vm.bulkhead(["ps", "-q"]).output()?.code(0)?;
                signal(id, Signal::KILL)?;
                if who == Who::Process(FILES) {
                    // Its share is gone for good, and nothing else.
                    vm.bulkhead(["stop", "-t", "1", "one"]).output()?.code(0)?;
                }
            }
            fs::write(&end, "")?;
            let output = running.wait()?;
            let about = || format!("{who:?}, runs: {runs}, {output}");
            ensure!(output.stdout == "ready\ndone\n", "{}", about());
            ensure!(is_the_end(who, runs, &output), "{}", about());
            nothing_is_left(&vm).with_context(about)?;
            fs::remove_file(&go)?;
            fs::remove_file(&end)?;
        }
    }
    Ok(())
}

/// Whether it ended as it does when that one is killed, if it was.
fn is_the_end(who: Who, killed: bool, output: &Output) -> bool {
    let says = |code: i32, words: &str| output.code == code && output.stderr.contains(words);
    match who {
        Who::Command if killed => says(-9, ""),
        Who::Process(SUPERVISOR) if killed => says(125, "supervisor died"),
        Who::Process(VMM) if killed => says(125, "SIGKILL"),
        // By `stop`.
        Who::Process(FILES) if killed => says(137, ""),
        _ => says(7, ""),
    }
}

/// Who does what.
const AT_WORK: [(Verb, Who); 5] = [
    (Verb::Pull, Who::Command),
    (Verb::Convert, Who::Command),
    (Verb::Convert, Who::Process(VMM)),
    (Verb::Build, Who::Command),
    (Verb::Build, Who::Process(VMM)),
];

/// Starts it, and waits until it is in the middle of its work.
fn at_work(world: &World, verb: Verb, registry: &str) -> Result<(Sandbox, Running)> {
    let vm = match verb {
        Verb::Convert => with_a_large_layer()?,
        _ => verb.prepared(world)?,
    };
    let words = match verb {
        Verb::Build => {
            let dockerfile = "FROM busybox\nRUN echo underway; sleep 2; echo over > /over\n";
            fs::write(vm.work().join("Dockerfile"), dockerfile).context("write a file")?;
            vec!["build", "--progress=plain", "--no-cache", "."]
        }
        _ => verb.words(registry),
    };
    let mut running = vm.bulkhead(words).spawn()?;
    match verb {
        Verb::Run => running.wait_for_stdout("done\n")?,
        Verb::Pull => wait_for_ingest(&vm, &mut running, 100_000)?,
        Verb::Convert => wait_for_layer_disk(&vm, &mut running, 1)?,
        Verb::Build => running.wait_for_stderr(" underway\n")?,
    }
    Ok((vm, running))
}

fn pulls_conversions_and_builds_go_on_or_are_killed(world: &World) -> Result<()> {
    let registry = FaultyRegistry::start(&layout()?, Fault::Slow)?;
    let name = registry.name("busybox:latest");
    for (verb, who) in AT_WORK {
        for end in [Signal::CONT, Signal::KILL] {
            registry.set_fault(Fault::Slow);
            let (vm, running) = at_work(world, verb, &name)
                .with_context(|| format!("{verb:?}, {who:?}, {end:?}"))?;
            let id = who.id(&vm, &running)?;
            signal(id, Signal::STOP)?;
            // Whoever looks is told at once, whoever is stopped.
            for words in [["ps", "-q"], ["images", "-q"]] {
                vm.bulkhead(words).output()?.code(0)?;
            }
            std::thread::sleep(WHILE);
            registry.set_fault(Fault::None);
            signal(id, end)?;
            let output = running.wait()?;
            let about = || format!("{verb:?}, {who:?}, {end:?}: {output}");
            if end == Signal::CONT {
                let is_done = output.code == 0 && verb == Verb::Build;
                ensure!(is_done || verb.has_succeeded(&output), "{}", about());
                nothing_is_left(&vm).with_context(about)?;
            } else if who == Who::Command {
                ensure!(output.code == -9, "{}", about());
                // The next one goes on with these, or removes them.
                nothing_is_left_but(&vm, &[INGEST, LAYERS]).with_context(about)?;
            } else {
                one_sentence(verb, &output).with_context(about)?;
                nothing_is_left(&vm).with_context(about)?;
            }
            verb.works(&vm, &name).with_context(about)?;
            nothing_is_left(&vm).with_context(about)?;
        }
    }
    Ok(())
}
