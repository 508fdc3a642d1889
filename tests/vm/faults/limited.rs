//! Limits on the command that are all but reached: open files, processes and threads, memory. Each is
//! stepped up from next to none until the verb succeeds, so that it is reached at one point after the
//! other.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use harness::fault::{Fault, FaultyRegistry};
use harness::{Invocation, Sandbox};

use super::{Verb, layout, nothing_is_left, one_sentence};
use crate::life::until;
use crate::tenant::needs_root;
use crate::world::World;

crate::tests![open_files, processes, memory];

/// What there is a limit for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// `RLIMIT_NOFILE` of each process.
    OpenFiles,
    /// `pids.max` of a control group: processes and threads.
    Processes,
    /// `memory.max` of a control group, in KiB.
    Memory,
}

/// All that is done under a limit.
const VERBS: [Verb; 4] = [Verb::Run, Verb::Pull, Verb::Convert, Verb::Build];

fn open_files(world: &World) -> Result<()> {
    step(world, Limit::OpenFiles, &[4, 8, 12, 16, 24, 32, 48, 1024])
}

fn processes(world: &World) -> Result<()> {
    step(world, Limit::Processes, &[1, 2, 3, 4, 5, 6, 8, 10, 100])?;
    // A container that its command can't be attached to does not go on.
    let group = Group::make(Limit::Processes)?;
    let vm = world.own()?;
    let words = ["run", "--rm", "busybox", "sleep", "100000"];
    for value in 3..=5 {
        let output = Limit::Processes.command(&group, value, &vm, &words)?;
        one_sentence(Verb::Run, &output.output()?)?;
        nothing_is_left(&vm)?;
    }
    // The wheel of a build at a terminal turns in a thread, if there is one to be had.
    let vm = Verb::Build.prepared(world)?;
    let words = ["build", "--no-cache", "--progress", "tty", "."];
    for value in 3..=8 {
        let output = Limit::Processes.command(&group, value, &vm, &words)?;
        let output = output.output()?;
        let is_told = matches!(output.code, 0 | 1) && !output.stderr.contains("panicked");
        ensure!(is_told, "{value} processes: {output}");
        nothing_is_left(&vm)?;
    }
    Ok(())
}

fn memory(world: &World) -> Result<()> {
    step(world, Limit::Memory, &[256, 1024, 2048, 4096, 262_144])
}

fn step(world: &World, limit: Limit, values: &[u64]) -> Result<()> {
    needs_root()?;
    let group = Group::make(limit)?;
    let registry = FaultyRegistry::start(&layout()?, Fault::None)?;
    let name = registry.name("busybox:latest");
    for verb in VERBS {
        let vm = verb.prepared(world)?;
        let mut failures = 0;
        let mut succeeds = false;
        for value in values {
            let output = limit.command(&group, *value, &vm, &verb.words(&name))?;
            let output = output.output()?;
            let about = || format!("{limit:?} {value}, {verb:?}: {output}");
            succeeds = verb.has_succeeded(&output);
            // By the kernel, where its group has no memory.
            let is_killed = limit == Limit::Memory && output.code == -9;
            failures += usize::from(!succeeds);
            if !succeeds && !is_killed {
                one_sentence(verb, &output).with_context(about)?;
            }
            match is_killed {
                // What it leaves goes with the next one, a download when that has made use of it.
                true => vm.wait_for_no_process().with_context(about)?,
                false => nothing_is_left(&vm).with_context(about)?,
            }
            group.wait_until_empty().with_context(about)?;
            if succeeds {
                break;
            }
        }
        ensure!(succeeds, "{limit:?}, {verb:?}: it never succeeds");
        ensure!(failures > 0, "{limit:?}, {verb:?}: it never fails");
    }
    Ok(())
}

impl Limit {
    /// The command with this limit.
    fn command(
        self,
        group: &Group,
        value: u64,
        vm: &Sandbox,
        words: &[&str],
    ) -> Result<Invocation> {
        let limit = match self {
            Self::OpenFiles => format!("ulimit -n {value}"),
            Self::Processes => group.limit("pids.max", value)?,
            Self::Memory => group.limit("memory.max", value << 10)?,
        };
        Ok(vm.shell(&format!("{limit} && exec bulkhead {}", words.join(" "))))
    }
}

/// A control group for a command; dropped, it goes.
struct Group(PathBuf);

impl Group {
    fn make(limit: Limit) -> Result<Self> {
        let all = PathBuf::from("/sys/fs/cgroup");
        let controllers = all.join("cgroup.subtree_control");
        fs::write(controllers, "+memory +pids").context("control what is below the root")?;
        let group = Self(all.join(format!("limited-{}-{limit:?}", std::process::id())));
        fs::create_dir(&group.0).context("make a group")?;
        Ok(group)
    }

    /// Sets a limit; what a shell does to be under it.
    fn limit(&self, name: &str, value: u64) -> Result<String> {
        // No other than this one.
        for name in ["pids.max", "memory.max"] {
            fs::write(self.0.join(name), "max").context("take a limit away")?;
        }
        fs::write(self.0.join(name), value.to_string()).context("set a limit")?;
        Ok(format!("echo 0 > {}/cgroup.procs", self.0.display()))
    }

    fn wait_until_empty(&self) -> Result<()> {
        let processes = self.0.join("cgroup.procs");
        until("the end of all processes of a group", || {
            let left = fs::read_to_string(&processes).context("read a group")?;
            Ok(left.is_empty().then_some(()))
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let _ = fs::remove_dir(&self.0);
    }
}
