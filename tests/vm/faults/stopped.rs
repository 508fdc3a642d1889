//! Each process that a container has is stopped for a while (SIGSTOP) and goes on, or is killed then.

use std::fs;

use anyhow::{Context, Result, ensure};
use harness::registry::free_port;
use harness::{Output, Running, Sandbox};
use rustix::process::{Pid, Signal, kill_process};

use super::nothing_is_left;
use crate::life::until;
use crate::network::passts;
use crate::world::World;

crate::tests![processes_of_a_run_go_on_or_are_killed];

const SUPERVISOR: &str = "__supervisor";
const VMM: &str = "__vmm";
const FILES: &str = "__files";
const LAUNCHER: &str = "__launcher";

/// Who is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Command,
    Process(&'static str),
    Passt,
}

/// A process is stopped for so long: longer than any poll of the others, shorter than their time-outs.
const WHILE: std::time::Duration = std::time::Duration::from_secs(2);

fn id_of(vm: &Sandbox, running: &Running, who: Who) -> Result<u32> {
    match who {
        Who::Command => Ok(running.id()),
        Who::Process(verb) => Ok(vm.wait_for_process(verb)?.id),
        Who::Passt => {
            let supervisor = vm.wait_for_process(SUPERVISOR)?.id;
            until("passt", || Ok(passts(supervisor)?.first().copied()))
        }
    }
}

fn signal(id: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(id)?).context("a process id")?;
    match kill_process(pid, signal) {
        // It has ended by itself.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("send {signal:?} to {id}")),
    }
}

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
            let id = id_of(&vm, &running, who)?;
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
