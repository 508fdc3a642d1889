//! The steps of a build: files that are put into a root, and processes that run in it, each on top
//! of what the last one left.
//!
//! Called by [`crate::init`] when the host builds an image. What a step writes is the writable layer
//! of an overlay; when the host has taken it as an archive it is sealed: it becomes the topmost of the
//! layers below, and the next step begins with an empty one. All of them lie on the VM's writable disk,
//! which nobody wants afterwards.
//!
//! ```text
//! upper      what the current step writes
//! sealed/1   what the second step wrote
//! sealed/0   what the first step wrote
//! layers     the base image's
//! ```

use std::os::fd::{AsFd, BorrowedFd};

use protocol::message::{Event, Request};
use protocol::spec::RunSpec;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use crate::container;
use crate::control::{Control, ControlError};
use crate::copy_up;
use crate::failure::{Context, Failure};
use crate::hold;
use crate::init_layer::Places;
use crate::layers::{self, SCRATCH, SEALED, Stack, UPPER};
use crate::network;
use crate::paths::{self, Want};
use crate::tasks::{self, Tasks, View};

/// Serves the host's steps until it has enough.
///
/// # Errors
/// Only those of the control connection.
pub fn run(
    spec: RunSpec,
    requests: impl Iterator<Item = Request>,
    control: &mut Control,
) -> Result<(), ControlError> {
    let mut build = match Build::new(spec) {
        Ok(build) => build,
        Err(failure) => return control.send(&failed(failure)),
    };
    control.send(&Event::Held)?;
    let outcome = build.serve(requests, control);
    for event in build.tasks.kill_all() {
        if outcome.is_ok() {
            control.send(&event)?;
        }
    }
    outcome
}

fn failed(failure: Failure) -> Event {
    Event::Failed {
        process: 0,
        kind: failure.kind,
        message: failure.message,
    }
}

struct Build {
    spec: RunSpec,
    /// The files as tasks see them: nothing of ours is among the image's. A process sees them in a
    /// stack of its own, and there is one at a time. `None` when the last could not be made.
    stack: Option<Stack>,
    tasks: Tasks,
    /// Steps that have run something.
    runs: u32,
}

impl Build {
    fn new(spec: RunSpec) -> Result<Self, Failure> {
        spec.network.as_ref().map_or(Ok(()), network::up)?;
        Ok(Self {
            stack: Some(layers::stack(&spec, Places::None)?),
            spec,
            tasks: Tasks::default(),
            runs: 0,
        })
    }

    fn serve(
        &mut self,
        requests: impl Iterator<Item = Request>,
        control: &mut Control,
    ) -> Result<(), ControlError> {
        let mut requests: Vec<Request> = requests.collect();
        loop {
            for request in requests.drain(..) {
                match request {
                    Request::Task { id, task, port } => {
                        let view = self.stack.as_ref().map(|stack| View {
                            spec: &self.spec,
                            stack,
                            main: None,
                            cgroup: None,
                        });
                        let answer = match view {
                            Some(view) => self.tasks.start(id, &task, port, view),
                            None => Some(tasks::refused(id, "the files of the last step are gone")),
                        };
                        if let Some(event) = answer {
                            control.send(&event)?;
                        }
                    }
                    Request::Run(spec) => self.step(*spec, control)?,
                    Request::Seal => {
                        let sealed = self.seal().err().map(|failure| failure.message);
                        control.send(&Event::Sealed(sealed))?;
                    }
                    Request::Shutdown => return Ok(()),
                    // There is no process that the others could be for.
                    _ => {}
                }
            }
            requests = hold::wait(&mut self.tasks, control)?;
        }
    }

    /// Runs a step's process to its end.
    fn step(&mut self, mut spec: RunSpec, control: &mut Control) -> Result<(), ControlError> {
        spec.layers.clone_from(&self.spec.layers);
        spec.sealed = self.spec.sealed;
        spec.upper_disk = true;
        self.runs = self.runs.saturating_add(1);
        let stubs = match &self.stack {
            Some(stack) => stubs(stack.root.as_fd(), &spec),
            None => Vec::new(),
        };
        self.stack = None;
        container::step(&spec, self.runs, std::iter::empty(), control)?;
        match layers::stack(&self.spec, Places::None) {
            Ok(stack) => {
                remove(stack.root.as_fd(), &stubs);
                // It was this step's to see.
                if let Some(disk) = stack.disk() {
                    clear_scratch(disk);
                }
                self.stack = Some(stack);
                Ok(())
            }
            Err(failure) => control.send(&failed(failure)),
        }
    }

    /// Makes what was written a layer below.
    fn seal(&mut self) -> Result<(), Failure> {
        let about = || "seal the layer of a step".to_owned();
        let disk = self.stack.take().and_then(Stack::into_disk);
        let disk = disk.ok_or_else(|| Failure::other("there is no writable disk"))?;
        match mkdirat(&disk, SEALED, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).context(about),
        }
        let number = self.spec.sealed;
        renameat(&disk, UPPER, &disk, format!("{SEALED}/{number}")).context(about)?;
        self.spec.sealed = number.saturating_add(1);
        self.stack = Some(layers::stack(&self.spec, Places::None)?);
        Ok(())
    }
}

/// Removes what was put aside for a step. What can't be removed takes room until the VM ends.
fn clear_scratch(disk: BorrowedFd<'_>) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(scratch) = openat(disk, SCRATCH, flags, Mode::empty()) {
        let _ = copy_up::clear(scratch.as_fd());
    }
}

/// What will have to be made to mount on for a step: paths, those above first.
fn stubs(root: BorrowedFd<'_>, spec: &RunSpec) -> Vec<String> {
    let of_shares = spec.mounts.iter().map(|mount| &mount.target);
    let of_step = spec.step_mounts.iter().map(|mount| &mount.target);
    let targets = of_shares.chain(of_step).chain(spec.tmpfs.keys());
    let mut missing = Vec::new();
    for target in targets {
        let ends = target.match_indices('/').map(|(index, _)| index);
        for end in ends.chain([target.len()]) {
            let path = target.get(..end).unwrap_or_default();
            if matches!(paths::open(root, path, Want::Directory), Err(Errno::NOENT)) {
                missing.push(path.to_owned());
            }
        }
    }
    missing.sort();
    missing.dedup();
    missing
}

/// Removes what nothing was put into.
fn remove(root: BorrowedFd<'_>, stubs: &[String]) {
    for path in stubs.iter().rev() {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Ok(above) = paths::open(root, above, Want::Directory) else {
            continue;
        };
        let Ok(found) = statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        // A directory with something in it says no; that is as it should be.
        let _ = match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => unlinkat(&above, name, AtFlags::REMOVEDIR),
            FileType::RegularFile if found.st_size == 0 => unlinkat(&above, name, AtFlags::empty()),
            _ => Ok(()),
        };
    }
}
