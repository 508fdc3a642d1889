//! Limits on the command that are all but reached: open files, processes and threads, memory. Each is
//! stepped up from next to none until the verb succeeds, so that it is reached at one point after the
//! other. As root the VMM, passt and the file server leave the command's control group for one of their
//! own: what is above that has limits, too.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::fault::{Fault, FaultyRegistry};
use harness::registry::free_port;
use harness::{Invocation, Sandbox};

use super::{INGEST, LAYERS, Verb, layout, nothing_is_left, nothing_is_left_but, one_sentence};
use crate::life::until;
use crate::tenant::needs_root;
use crate::world::World;

crate::tests![
    open_files,
    processes,
    memory,
    processes_of_the_vm,
    memory_of_the_vm
];

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
    let group = Group::make("attached")?;
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
    let group = Group::make(&format!("{limit:?}"))?;
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
                // These go with the next one, a download when that has made use of it.
                true => nothing_is_left_but(&vm, &[INGEST, LAYERS]).with_context(about)?,
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

fn processes_of_the_vm(world: &World) -> Result<()> {
    let values = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 100];
    step_of_the_vm(world, Limit::Processes, &values)
}

fn memory_of_the_vm(world: &World) -> Result<()> {
    let values = [2, 6, 8, 12, 16, 24, 32, 64, 8192].map(|mib| mib << 10);
    step_of_the_vm(world, Limit::Memory, &values)
}

/// The command has no limit, and all processes that it has for a VM have one together.
fn step_of_the_vm(world: &World, limit: Limit, values: &[u64]) -> Result<()> {
    needs_root()?;
    let group = Group::make(&format!("{limit:?}-of-the-vm"))?;
    for verb in [Verb::Run, Verb::Convert, Verb::Build] {
        let vm = verb.prepared(world)?;
        let mut words: Vec<_> = verb.words("").into_iter().map(str::to_owned).collect();
        if verb == Verb::Run {
            // A published port has passt, a share has a file server.
            let port = format!("127.0.0.1:{}:80", free_port()?);
            let share = format!("{}:/share", vm.work().display());
            let flags = ["-p", &port, "-v", &share].map(str::to_owned);
            words.splice(1..1, flags);
        }
        let mut failures = 0;
        let mut succeeds = false;
        for value in values {
            let output = limit.of_the_vm(&group, *value, &vm, &words)?.output()?;
            let about = || format!("{limit:?} {value} of the VM, {verb:?}: {output}");
            succeeds = verb.has_succeeded(&output);
            println!(
                "{limit:?} {value}, {verb:?}: {} {}",
                output.code, output.stderr
            );
            if !succeeds {
                failures += 1;
                one_sentence(verb, &output).with_context(about)?;
            }
            nothing_is_left(&vm).with_context(about)?;
            group.wait_until_empty().with_context(about)?;
            if succeeds {
                break;
            }
        }
        ensure!(succeeds, "{limit:?} of the VM, {verb:?}: it never succeeds");
        ensure!(
            failures > 0,
            "{limit:?} of the VM, {verb:?}: it never fails"
        );
        verb.works(&vm, "")?;
    }
    Ok(())
}

impl Limit {
    /// The command, to which the group is the host's root of all groups, with a limit.
    fn of_the_vm(
        self,
        group: &Group,
        value: u64,
        vm: &Sandbox,
        words: &[String],
    ) -> Result<Invocation> {
        match self {
            Self::OpenFiles => anyhow::bail!("no group has a limit of open files"),
            Self::Processes => group.limit("pids.max", value)?,
            Self::Memory => group.limit("memory.max", value << 10)?,
        };
        let show = format!("mount --bind {} /sys/fs/cgroup", group.0.display());
        let script = format!("{show} && exec bulkhead {}", words.join(" "));
        Ok(vm.shell(&format!("exec unshare --mount sh -c '{script}'")))
    }

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
    fn make(name: &str) -> Result<Self> {
        let all = PathBuf::from("/sys/fs/cgroup");
        let controllers = all.join("cgroup.subtree_control");
        fs::write(controllers, "+memory +pids").context("control what is below the root")?;
        let group = Self(all.join(format!("limited-{}-{name}", std::process::id())));
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
        let events = self.0.join("cgroup.events");
        until("the end of all processes of a group", || {
            let told = fs::read_to_string(&events).context("read a group")?;
            Ok(told.contains("populated 0").then_some(()))
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let _ = self.wait_until_empty();
        remove(&self.0);
    }
}

/// Removes a group and those below it.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
