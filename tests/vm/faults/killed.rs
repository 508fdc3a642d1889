//! kill -9 of each process of a build, a conversion and a container, at points of their work that are seen
//! from outside. `kills` and `races` have those of the command, the supervisor and the VMM of a container.

use std::fs;

use anyhow::{Context, Result, ensure};
use harness::registry::free_port;
use harness::{Output, Running, Sandbox};
use rustix::process::Signal;

use super::{
    FILES, INGEST, LAUNCHER, LAYERS, NOISE_BYTES, VMM, Verb, Who, noise, nothing_is_left,
    nothing_is_left_but, one_sentence, signal, wait_for_ingest, wait_for_layer_disk,
    with_a_large_layer,
};
use crate::world::World;

crate::tests![
    processes_of_a_build,
    processes_of_a_conversion,
    processes_of_a_run_while_it_boots,
    processes_of_a_run_while_it_ends,
];

/// What a verb has come to when one of its processes is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// A step of a build begins to take files of its context.
    Copying,
    /// A part of what a step changed is in the store.
    Packing,
    /// A part of a layer's disk is there.
    Converting,
    /// All of a layer's disk is there, and it remains to be flushed and named.
    Converted,
}

impl Moment {
    fn wait(self, vm: &Sandbox, running: &mut Running) -> Result<()> {
        match self {
            Self::Copying => running.wait_for_stderr("COPY large /"),
            Self::Packing => wait_for_ingest(vm, running, 1 << 20),
            Self::Converting => wait_for_layer_disk(vm, running, 1),
            Self::Converted => wait_for_layer_disk(vm, running, NOISE_BYTES as u64),
        }
    }

    /// Whether it may be over before the signal is there.
    fn is_short(self) -> bool {
        self == Self::Converted
    }
}

fn processes_of_a_build(world: &World) -> Result<()> {
    // Its VM is there for the first step, so that the copy begins when it is told.
    let dockerfile = "FROM busybox\nRUN echo first\nCOPY large /\n";
    let words = ["build", "--progress=plain", "--no-cache", "."];
    for moment in [Moment::Copying, Moment::Packing] {
        for who in [Who::Command, Who::Process(VMM)] {
            let vm = world.own()?;
            fs::write(vm.work().join("Dockerfile"), dockerfile).context("write a file")?;
            fs::write(vm.work().join("large"), noise()).context("write a file")?;
            kill(&vm, Verb::Build, &words, moment, who)?;
        }
    }
    Ok(())
}

fn processes_of_a_conversion(_: &World) -> Result<()> {
    let words = Verb::Convert.words("");
    for moment in [Moment::Converting, Moment::Converted] {
        for who in [Who::Command, Who::Process(VMM)] {
            kill(&with_a_large_layer()?, Verb::Convert, &words, moment, who)?;
        }
    }
    Ok(())
}

fn kill(vm: &Sandbox, verb: Verb, words: &[&str], moment: Moment, who: Who) -> Result<()> {
    let context = || format!("{verb:?}, {moment:?}, {who:?}");
    let mut running = vm.bulkhead(words).spawn()?;
    moment.wait(vm, &mut running).with_context(context)?;
    let id = match moment.is_short() {
        true => who.id_now(vm, &running)?,
        false => Some(who.id(vm, &running)?),
    };
    if let Some(id) = id {
        signal(id, Signal::KILL)?;
    }
    let output = running.wait()?;
    let about = || format!("{}: {output}", context());
    println!("{}, code {}", context(), output.code);
    if moment.is_short() && verb.has_succeeded(&output) {
        nothing_is_left(vm).with_context(about)?;
    } else if who == Who::Command {
        ensure!(output.code == -9, "{}", about());
        // The next one removes these.
        nothing_is_left_but(vm, &[INGEST, LAYERS]).with_context(about)?;
    } else {
        one_sentence(verb, &output).with_context(about)?;
        nothing_is_left(vm).with_context(about)?;
    }
    verb.works(vm, "").with_context(about)?;
    nothing_is_left(vm).with_context(about)
}

/// Those beside the supervisor and the VMM.
const BESIDE: [Who; 3] = [Who::Process(LAUNCHER), Who::Process(FILES), Who::Passt];

/// A container with each kind of process: a published port has passt, a share has a file server.
fn start(vm: &Sandbox, script: &str) -> Result<Running> {
    let port = format!("127.0.0.1:{}:80", free_port()?);
    let share = format!("{}:/share", vm.work().display());
    vm.bulkhead(["run", "--rm", "-p", &port, "-v", &share])
        .args(["busybox", "sh", "-c", script])
        .spawn()
}

fn processes_of_a_run_while_it_boots(world: &World) -> Result<()> {
    let vm = world.own()?;
    for who in BESIDE {
        let running = start(&vm, "echo ready; exit 7")?;
        signal(who.id(&vm, &running)?, Signal::KILL)?;
        check_run(&vm, who, &running.wait()?)?;
    }
    Ok(())
}

/// The process has ended, and what it wrote is on its way to the disk and the share.
fn processes_of_a_run_while_it_ends(world: &World) -> Result<()> {
    let vm = world.own()?;
    for who in BESIDE {
        let script = "dd if=/dev/zero of=/big bs=1M count=64 2>/dev/null
            dd if=/dev/zero of=/share/big bs=1M count=8 2>/dev/null
            echo ready; exit 7";
        let mut running = start(&vm, script)?;
        running.wait_for_stdout("ready\n")?;
        // It may have gone meanwhile, which is as good an end.
        if let Some(id) = who.id_now(&vm, &running)? {
            signal(id, Signal::KILL)?;
        }
        check_run(&vm, who, &running.wait()?)?;
        fs::remove_file(vm.work().join("big")).context("remove a file")?;
    }
    Ok(())
}

/// It ended as if nothing was, or was told why not; nothing is left, and the next one works.
fn check_run(vm: &Sandbox, who: Who, output: &Output) -> Result<()> {
    let about = || format!("{who:?}: {output}");
    println!("{who:?}, code {}", output.code);
    if output.code == 7 {
        ensure!(output.stdout == "ready\n", "{}", about());
        ensure!(!output.stderr.contains("panicked"), "{}", about());
    } else {
        one_sentence(Verb::Run, output).with_context(about)?;
    }
    nothing_is_left(vm).with_context(about)?;
    Verb::Run.works(vm, "").with_context(about)
}
