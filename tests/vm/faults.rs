//! Faults of the host: processes that stop, too little of what there is a limit for, a clock that jumps. Nothing leaks,
//! what is said is one sentence, and the same command without the fault works. kill -9 is in `kills`, `races`,
//! `pulling` and `build`.

mod clock;
mod limited;
mod scarce;
mod stopped;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use harness::{Output, Sandbox, images};

use crate::Test;
use crate::world::World;

/// The tests of this folder.
pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    [
        stopped::tests(),
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

/// No process, no container, no half of a file, no mount, and `ps` says so at once.
fn nothing_is_left(vm: &Sandbox) -> Result<()> {
    vm.wait_for_no_process()?;
    let listed = vm.bulkhead(["ps", "-aq"]).output()?.only_stdout()?;
    ensure!(listed.is_empty(), "containers are left: {listed}");
    let mut left = Vec::new();
    for folder in [
        "configs",
        "containers",
        "images/ingest",
        "build-contexts",
        "volumes",
    ] {
        let folder = vm.root().join(folder);
        for entry in fs::read_dir(folder).into_iter().flatten() {
            left.push(entry.context("read the state root")?.path());
        }
    }
    for folder in ["disks", "images/layers", "images/images", "templates"] {
        let folder = vm.root().join(folder);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with('.') {
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
