//! Faults of the host: processes that stop or are killed, too little of what there is a limit for, a clock
//! that jumps. Nothing leaks, what is said is one sentence, and the same command without the fault works.
//! kill -9 of processes of a container is in `kills` and `races`, too, of commands in `pulling` and `build`.

pub(crate) mod clock;
mod killed;
mod limited;
mod scarce;
mod stopped;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use harness::{Output, Running, Sandbox, images};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::Test;
use crate::life::until;
use crate::network::passts;
use crate::past;
use crate::world::World;

/// The tests of this folder.
pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    [
        stopped::tests(),
        killed::tests(),
        scarce::tests(),
        limited::tests(),
        clock::tests(),
    ]
    .concat()
}

/// What is to be done under a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    /// A container of an image whose layers are unpacked.
    Run,
    /// An image from a registry.
    Pull,
    /// A container of an image that was loaded and not unpacked.
    Convert,
    /// An image with a step that writes some MiB.
    Build,
}

/// What is built.
const DOCKERFILE: &str =
    "FROM busybox\nRUN dd if=/dev/urandom of=/some bs=64k count=32 conv=fsync 2>/dev/null\n";

impl Verb {
    /// A sandbox in which it is still to be done.
    fn prepared(self, world: &World) -> Result<Sandbox> {
        Ok(match self {
            Self::Run => world.own()?,
            Self::Pull => Sandbox::empty()?,
            Self::Convert => Sandbox::with_busybox()?,
            Self::Build => {
                let vm = world.own()?;
                fs::write(vm.work().join("Dockerfile"), DOCKERFILE).context("write a file")?;
                vm
            }
        })
    }

    /// The arguments of the command; `registry` is the name of an image in one.
    fn words(self, registry: &str) -> Vec<&str> {
        match self {
            Self::Run | Self::Convert => vec!["run", "--rm", "busybox", "echo", "done"],
            Self::Pull => vec!["pull", "-q", registry],
            // Its steps are run again each time.
            Self::Build => vec!["build", "-q", "--no-cache", "."],
        }
    }

    /// Docker's exit code of one that fails on the host's side.
    fn failure(self) -> i32 {
        match self {
            Self::Run | Self::Convert => 125,
            Self::Pull | Self::Build => 1,
        }
    }

    /// Whether it did what it is there for.
    fn has_succeeded(self, output: &Output) -> bool {
        output.code == 0
            && match self {
                Self::Run | Self::Convert => output.stdout == "done\n",
                Self::Pull => !output.stdout.is_empty(),
                Self::Build => output.stdout.starts_with("sha256:"),
            }
    }

    /// It works, now that the fault is gone.
    fn works(self, vm: &Sandbox, registry: &str) -> Result<()> {
        let output = vm.bulkhead(self.words(registry)).output()?;
        ensure!(self.has_succeeded(&output), "without the fault: {output}");
        vm.wait_for_no_process()
    }
}

/// Where what a killed command had of an image is kept, for the next one to go on with or to remove.
const INGEST: &str = "images/ingest";
const LAYERS: &str = "images/layers";

/// Whether a file of this name is one that is still being made.
fn is_half(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".tmp")
}

/// No process, no container, no half of a file, no mount, and `ps` says so at once.
fn nothing_is_left(vm: &Sandbox) -> Result<()> {
    nothing_is_left_but(vm, &[])
}

/// The same, where there may be halves of files in some folders.
fn nothing_is_left_but(vm: &Sandbox, halves: &[&str]) -> Result<()> {
    vm.wait_for_no_process()?;
    let listed = vm.bulkhead(["ps", "-aq"]).output()?.only_stdout()?;
    ensure!(listed.is_empty(), "containers are left: {listed}");
    let mut left = Vec::new();
    let is_looked_at = |folder: &&str| !halves.contains(folder);
    let empty = ["configs", "containers", INGEST, "build-contexts", "volumes"];
    for folder in empty.into_iter().filter(is_looked_at) {
        let folder = vm.root().join(folder);
        for entry in fs::read_dir(folder).into_iter().flatten() {
            left.push(entry.context("read the state root")?.path());
        }
    }
    let whole = ["disks", LAYERS, "images/images", "templates"];
    for folder in whole.into_iter().filter(is_looked_at) {
        let folder = vm.root().join(folder);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if is_half(&entry.file_name().to_string_lossy()) {
                left.push(entry.path());
            }
        }
    }
    ensure!(left.is_empty(), "files are left: {left:?}");
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let name = vm.root().display().to_string();
    let own = |mount: &&str| mount.split(' ').nth(1) != Some(&name) && mount.contains(&name);
    if let Some(mount) = mounts.lines().find(own) {
        bail!("a mount is left: {mount}");
    }
    Ok(())
}

/// A command that failed said why in one sentence. A build shows before what it failed at.
fn one_sentence(verb: Verb, output: &Output) -> Result<()> {
    let lines: Vec<_> = output
        .stderr
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("hint: "))
        .filter(|line| !line.starts_with("See 'bulkhead"))
        .filter(|line| verb != Verb::Build || line.starts_with("bulkhead: "))
        .collect();
    let is_told = output.code == verb.failure() && lines.len() == 1;
    ensure!(
        is_told && !output.stderr.contains("panicked"),
        "not one sentence, or a wrong code: {output}"
    );
    Ok(())
}

/// Where the busybox image is, as a registry serves it.
fn layout() -> Result<PathBuf> {
    images::path(fixtures::Recipe::Busybox, "busybox-oci")
}

const SUPERVISOR: &str = "__supervisor";
const VMM: &str = "__vmm";
const FILES: &str = "__files";
const LAUNCHER: &str = "__launcher";

/// To whom something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Command,
    Process(&'static str),
    Passt,
}

impl Who {
    /// Its process, once it is there.
    fn id(self, vm: &Sandbox, running: &Running) -> Result<u32> {
        match self {
            Self::Command => Ok(running.id()),
            Self::Process(verb) => Ok(vm.wait_for_process(verb)?.id),
            Self::Passt => {
                let supervisor = vm.wait_for_process(SUPERVISOR)?.id;
                until("passt", || Ok(passts(supervisor)?.first().copied()))
            }
        }
    }

    /// Its process, if it is still there.
    fn id_now(self, vm: &Sandbox, running: &Running) -> Result<Option<u32>> {
        let processes = vm.processes()?;
        let of = |verb| processes.iter().find(|process| process.has_verb(verb));
        Ok(match self {
            Self::Command => Some(running.id()),
            Self::Process(verb) => of(verb).map(|process| process.id),
            Self::Passt => match of(SUPERVISOR) {
                Some(supervisor) => passts(supervisor.id)?.first().copied(),
                None => None,
            },
        })
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

/// Bytes of a file that takes its time, and has no holes.
const NOISE_BYTES: usize = 32 << 20;

fn noise() -> Vec<u8> {
    // Xorshift (Marsaglia).
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(NOISE_BYTES / 8).flatten().collect()
}

/// A sandbox with a busybox image that is not unpacked, of a layer that takes its time.
fn with_a_large_layer() -> Result<Sandbox> {
    let vm = Sandbox::empty()?;
    past::load(&vm, "busybox:latest", json!({}), |layer| {
        layer.file("noise", fixtures::layer::root(0o644), &noise())
    })?;
    Ok(vm)
}

/// Bytes that what is in a folder has on the disk, as far as it is of such a name.
fn bytes_of(folder: &Path, is_one: fn(&str) -> bool) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let ones = entries.filter(|entry| is_one(&entry.file_name().to_string_lossy()));
    ones.map(|entry| match entry.metadata() {
        // What is spooled has a folder of its own.
        Ok(there) if there.is_dir() => bytes_of(&entry.path(), |_| true),
        Ok(there) => there.blocks() * 512,
        Err(_) => 0,
    })
    .sum()
}

/// Waits until so much of a layer's disk is there.
fn wait_for_layer_disk(vm: &Sandbox, running: &mut Running, bytes: u64) -> Result<()> {
    let layers = vm.root().join(LAYERS);
    wait_for_bytes(running, bytes, || bytes_of(&layers, is_half))
}

/// Waits until so much of what comes into the store is there.
fn wait_for_ingest(vm: &Sandbox, running: &mut Running, bytes: u64) -> Result<()> {
    let ingest = vm.root().join(INGEST);
    wait_for_bytes(running, bytes, || bytes_of(&ingest, |_| true))
}

fn wait_for_bytes(running: &mut Running, bytes: u64, there: impl Fn() -> u64) -> Result<()> {
    until("a part of a file", || {
        if there() >= bytes {
            return Ok(Some(()));
        }
        ensure!(!running.has_ended()?, "it ended before that was seen");
        Ok(None)
    })
}
