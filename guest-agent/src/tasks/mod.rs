//! What the host asks about a container beside running it: its files, its changes, its processes.
//!
//! Called by [`crate::container`], [`crate::hold`] and [`crate::build`]. Each task is a child of the agent's own, so
//! that a long one holds up neither streams nor signals, and whatever goes wrong in it ends it
//! alone. A child has every privilege of the agent: what it opens in the container it finds by
//! [`place`], and what it writes there by [`extract`], which never leave the container's root.
//!
//! ```text
//! agent -- fork --> child: connects its stream, works, writes one Outcome into a pipe, ends
//!   \-- reads the pipe to its end --> Event::TaskEnded
//! ```

mod archive;
mod changes;
mod extract;
mod gather;
mod place;
mod processes;
mod put;
mod unpacked;
mod usage;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::frame::{self, Decoder};
use protocol::message::{Event, FailureKind};
use protocol::spec::RunSpec;
use protocol::task::{Outcome, Task, TaskId};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, WaitId, WaitIdOptions, setrlimit, waitid};

use crate::failure::{Context, Failure};
use crate::layers;
use crate::mount::Detached;
use crate::namespaces;
use crate::spawn;
use crate::vsock;

/// Tasks at once: each may take some memory and a connection.
const MAX_TASKS: usize = 16;

/// Open files of a task: a directory for each level of the deepest path.
const MAX_FILES: u64 = 4096;

/// Longest sentence of a failure in bytes: an outcome fits a pipe at once.
const MAX_SENTENCE: usize = 4096;

/// The container as tasks find it.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What it was made from.
    pub spec: &'a RunSpec,
    /// The root of its layers.
    pub stack: &'a layers::Stack,
    /// Its main process while that runs: what is mounted in the container is mounted for it.
    pub main: Option<BorrowedFd<'a>>,
    /// Its control group, if it has one.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A task under way.
#[derive(Debug)]
struct Running {
    pidfd: OwnedFd,
    report: OwnedFd,
    bytes: Vec<u8>,
}

/// The tasks under way.
#[derive(Debug, Default)]
pub struct Tasks(BTreeMap<TaskId, Running>);

impl Tasks {
    /// Begins a task. The event is for the host when it can't be begun.
    #[must_use]
    pub fn start(
        &mut self,
        id: TaskId,
        task: &Task,
        port: Option<u32>,
        view: View<'_>,
    ) -> Option<Event> {
        if self.0.contains_key(&id) || self.0.len() >= MAX_TASKS {
            let failure = Failure::other(format!(
                "task {id} exists, or there are {MAX_TASKS} already"
            ));
            hang_up(port);
            return Some(ended(id, failed(&failure)));
        }
        match begin(task, port, view) {
            Ok(running) => {
                self.0.insert(id, running);
                None
            }
            Err(failure) => {
                hang_up(port);
                Some(ended(id, failed(&failure)))
            }
        }
    }

    /// What to poll for reading; then [`Self::advance`] goes on with it.
    pub fn interests(&self) -> impl Iterator<Item = (TaskId, BorrowedFd<'_>)> {
        self.0
            .iter()
            .map(|(id, running)| (*id, running.report.as_fd()))
    }

    /// Reads what a task says; the event when it is over.
    #[must_use]
    pub fn advance(&mut self, id: TaskId) -> Option<Event> {
        let running = self.0.get_mut(&id)?;
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&running.report, &mut buffer) {
                Ok(0) => break,
                Ok(len) => running
                    .bytes
                    .extend_from_slice(buffer.get(..len).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(_) => break,
            }
        }
        let running = self.0.remove(&id)?;
        // Its pipe ends with it, so this takes no time.
        let _ = waitid(WaitId::PidFd(running.pidfd.as_fd()), WaitIdOptions::EXITED);
        Some(ended(id, outcome(&running.bytes)))
    }

    /// Ends all tasks; the events for the host.
    pub fn kill_all(&mut self) -> Vec<Event> {
        let ids: Vec<TaskId> = self.0.keys().copied().collect();
        let mut events = Vec::new();
        for id in ids {
            if let Some(running) = self.0.remove(&id) {
                let signal = rustix::process::Signal::KILL;
                let _ = rustix::process::pidfd_send_signal(&running.pidfd, signal);
                let _ = waitid(WaitId::PidFd(running.pidfd.as_fd()), WaitIdOptions::EXITED);
                events.push(ended(id, failed(&Failure::other("the container ended"))));
            }
        }
        events
    }
}

/// What the host is told of a task that can't be begun.
#[must_use]
pub fn refused(id: TaskId, why: &str) -> Event {
    ended(id, failed(&Failure::other(why)))
}

fn ended(id: TaskId, outcome: Outcome) -> Event {
    Event::TaskEnded { id, outcome }
}

fn failed(failure: &Failure) -> Outcome {
    let mut message = failure.message.clone();
    let end = (0..=MAX_SENTENCE.min(message.len()))
        .rev()
        .find(|end| message.is_char_boundary(*end));
    message.truncate(end.unwrap_or(0));
    Outcome::Failed {
        kind: failure.kind,
        message,
    }
}

fn outcome(report: &[u8]) -> Outcome {
    let mut decoder = Decoder::new();
    decoder.push(report);
    match decoder.decode() {
        Ok(Some(outcome)) => outcome,
        _ => Outcome::Failed {
            kind: FailureKind::Other,
            message: "the agent's task ended without a word".to_owned(),
        },
    }
}

fn begin(task: &Task, port: Option<u32>, view: View<'_>) -> Result<Running, Failure> {
    let about = || "begin a task".to_owned();
    let (report, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).context(about)?;
    let stack = view.stack;
    let mut keep = vec![theirs.as_fd(), stack.root.as_fd(), stack.changes.as_fd()];
    // What is not there stands for itself by the pipe, which is never taken for it.
    keep.push(stack.disk().unwrap_or(theirs.as_fd()));
    keep.push(view.main.unwrap_or(theirs.as_fd()));
    keep.push(view.cgroup.unwrap_or(theirs.as_fd()));
    let pidfd = spawn::fork(&keep, |kept| {
        let Ok([theirs, root, changes, disk, main, cgroup]) = <[OwnedFd; 6]>::try_from(kept) else {
            return;
        };
        let inside = Inside {
            spec: view.spec,
            root: Detached::from_mount(root),
            changes,
            disk: stack.disk().is_some().then_some(disk),
            main: view.main.is_some().then_some(main),
            cgroup: view.cgroup.is_some().then_some(cgroup),
        };
        // Before anything can go wrong: the host waits for the stream's end.
        let outcome = port
            .map(connect)
            .transpose()
            .and_then(|stream| inside.work(task, stream))
            .unwrap_or_else(|failure| failed(&failure));
        if let Ok(bytes) = frame::encode(&outcome) {
            let _ = rustix::io::write(&theirs, &bytes);
            spawn::exit(0);
        }
    })
    .context(about)?;
    Ok(Running {
        pidfd,
        report,
        bytes: Vec::new(),
    })
}

/// The container as a task's child has it.
#[derive(Debug)]
struct Inside<'a> {
    spec: &'a RunSpec,
    root: Detached,
    changes: OwnedFd,
    disk: Option<OwnedFd>,
    main: Option<OwnedFd>,
    cgroup: Option<OwnedFd>,
}

impl Inside<'_> {
    fn work(self, task: &Task, stream: Option<File>) -> Result<Outcome, Failure> {
        let files = MAX_FILES.into();
        let limit = Rlimit {
            current: files,
            maximum: files,
        };
        setrlimit(Resource::Nofile, limit).context(|| "raise the limit of open files".into())?;
        match task {
            Task::Stat { path, follow } => {
                let root = self.with_mounts()?;
                Ok(match place::look_at(root.as_fd(), path, *follow) {
                    Ok(found) => Outcome::Stat(found.path_stat()),
                    Err(errno) => return not_found(errno, path),
                })
            }
            Task::Archive { path, follow, name } => {
                let root = self.with_mounts()?;
                let found = match place::look_at(root.as_fd(), path, *follow) {
                    Ok(found) => found,
                    Err(errno) => return not_found(errno, path),
                };
                archive::of_one(found, name.as_bytes(), connected(stream)?)?;
                Ok(Outcome::Done)
            }
            Task::Export => {
                let root = self.without_mounts()?;
                archive::of_root(root.as_fd(), connected(stream)?)?;
                Ok(Outcome::Done)
            }
            Task::Layer { latest } => {
                archive::of_changes(self.changes.as_fd(), *latest, connected(stream)?)?;
                Ok(Outcome::Done)
            }
            Task::Gather(gather) => {
                gather::from(self.root.as_fd(), gather, connected(stream)?)?;
                Ok(Outcome::Done)
            }
            Task::Place(place) => {
                let disk = self.disk.as_ref().map(AsFd::as_fd);
                put::into(self.root.as_fd(), disk, place, connected(stream)?)?;
                Ok(Outcome::Done)
            }
            Task::MakeDirectory { path, owner } => {
                put::make_directory(self.root.as_fd(), path, owner.as_deref())?;
                Ok(Outcome::Done)
            }
            Task::Extract {
                path,
                decompress,
                owner,
            } => {
                let root = self.with_mounts()?;
                let from = connected(stream)?;
                extract::into(root.as_fd(), path, owner.as_deref(), *decompress, from)?;
                Ok(Outcome::Done)
            }
            Task::Changes => {
                namespaces::own_mounts().context(|| "make a mount namespace".into())?;
                let before = layers::unchanged(self.spec)?;
                changes::list(self.changes.as_fd(), before.as_fd(), connected(stream)?)?;
                Ok(Outcome::Done)
            }
            Task::Processes => {
                processes::list(self.root.as_fd(), connected(stream)?)?;
                Ok(Outcome::Done)
            }
            Task::Usage => match &self.cgroup {
                Some(cgroup) => Ok(Outcome::Usage(usage::read(cgroup.as_fd())?)),
                None => Err(Failure::not_running()),
            },
        }
    }

    /// The root as the container's processes see it, with what is mounted in it.
    fn with_mounts(&self) -> Result<OwnedFd, Failure> {
        let about = || "join the container".to_owned();
        match self.join()? {
            true => place::directory("/").context(about),
            false => self.root.as_fd().try_clone_to_owned().context(about),
        }
    }

    /// The layers' root alone.
    fn without_mounts(self) -> Result<Detached, Failure> {
        match self.join()? {
            true => Detached::clone_of(self.root.as_fd(), "")
                .context(|| "clone the container's root".into()),
            false => Ok(self.root),
        }
    }

    /// Enters the mounts of the main process, if one runs.
    fn join(&self) -> Result<bool, Failure> {
        let Some(main) = &self.main else {
            return Ok(false);
        };
        match namespaces::join_mounts(main.as_fd()) {
            Ok(()) => Ok(true),
            // It ended meanwhile, and its mounts with it.
            Err(Errno::SRCH) => Ok(false),
            Err(errno) => Err(errno).context(|| "join the container".into()),
        }
    }
}

/// What the host is told when a path leads nowhere.
fn not_found(errno: Errno, path: &str) -> Result<Outcome, Failure> {
    match errno {
        Errno::NOENT | Errno::NOTDIR => Ok(Outcome::NotFound),
        errno => Err(errno).config(|| format!("look at {path}")),
    }
}

/// The stream that a task needs.
fn connected(stream: Option<File>) -> Result<File, Failure> {
    stream.ok_or_else(|| Failure::other("the task has no stream"))
}

/// A stream of the host's, which waits for it.
pub(crate) fn connect(port: u32) -> Result<File, Failure> {
    let about = || format!("connect stream port {port}");
    let socket = vsock::connect(port)
        .and_then(vsock::Connecting::finish)
        .context(about)?;
    let flags = fcntl_getfl(&socket).context(about)?;
    fcntl_setfl(&socket, flags - OFlags::NONBLOCK).context(about)?;
    Ok(socket.into())
}

/// Ends the stream of a task that could not be begun.
fn hang_up(port: Option<u32>) {
    drop(port.map(connect));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_task_says_is_its_outcome() {
        let bytes = frame::encode(&Outcome::Done).unwrap();
        assert_eq!(outcome(&bytes), Outcome::Done);
        for junk in [&b""[..], b"x", &bytes[1..], b"\xff\xff\xff\xff"] {
            assert!(matches!(outcome(junk), Outcome::Failed { .. }));
        }
    }

    #[test]
    fn long_sentences_are_cut_between_characters() {
        let failure = Failure::other(format!("x{}", "é".repeat(MAX_SENTENCE)));
        let Outcome::Failed { message, .. } = failed(&failure) else {
            panic!("no failure");
        };
        assert_eq!(message.len(), MAX_SENTENCE - 1);
        assert!(frame::encode(&failed(&failure)).unwrap().len() < 64 << 10);
    }
}
