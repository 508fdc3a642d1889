//! A child in namespaces of its own, and what is done in one: the agent's program unpacks layers with
//! nothing of the host in reach; what a container left is removed by whoever owned it there.
//!
//! ```text
//! __plain-prepare ── clone ──► child: waits for its ids ─► pivots into the root ─► agent's program
//!    │ maps ids                        user, mount, pid, net, ipc, uts namespace
//!    └ waits; both die with the command
//! ```
//! In its user namespace the child is root over the ids of the container and nothing else; root's own
//! child has the same numbers as outside, and no right over anything that it can't name from there.
//! Called by `rootfs`, which has images unpacked, and by [`super`] for what is removed.
#![allow(unsafe_code)] // clone

use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use command_fds::{CommandFdExt, FdMapping};
use file_server::jail as ids;
use images::{Layer, Store};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, fexecve, geteuid, pivot_root};
use protocol::plain::{Answer, FIRST_FD, Job, MESSAGE_BYTES_MAX, PLAIN_NAME, Prepared};
use protocol::spec::{ConvertSpec, ProcessSpec};
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::sandbox::disks::{CONVERTER_MEMORY_MIB, LAYER_LIMITS, compression};
use crate::sandbox::files::subordinates;
use crate::sandbox::poll::readable_until;
use crate::sandbox::printable;
use crate::sandbox::program;
use crate::sandbox::removal::remove_tree;

/// Name of the hidden verb.
pub const PREPARE_VERB: &str = "__plain-prepare";

/// Bytes of memory of what unpacks.
const UNPACKER_BYTES: u64 = (CONVERTER_MEMORY_MIB as u64) << 20;

/// Bytes of what the child says on standard error.
const WORDS_MAX: u64 = 4 << 10;

/// What the hidden verb is told.
#[derive(Debug, Serialize, Deserialize)]
enum Work {
    /// Run the agent's program with this directory as its root.
    Agent {
        root: PathBuf,
        agent: PathBuf,
        /// How many descriptors it gets, from [`FIRST_FD`] on.
        descriptors: u32,
    },
    /// Remove these directories.
    Remove(Vec<PathBuf>),
}

/// Namespaces beyond the user's.
pub(super) fn namespaces(user: bool, all: bool) -> libc::c_int {
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    if all {
        flags |= libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    }
    if user {
        flags |= libc::CLONE_NEWUSER;
    }
    flags
}

/// Runs `body` in a child with these namespaces, which dies with this process; returns its id. The
/// process has one thread.
///
/// # Errors
/// When there can be none, or its ids can't be mapped.
pub(super) fn child(flags: libc::c_int, body: impl FnOnce() -> Result<()>) -> Result<Pid> {
    let (go, ready) = std::io::pipe().context("create a pipe")?;
    let parent = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .context("watch for this process's end")?;
    // SAFETY: without CLONE_VM this is a fork, and the process has this thread only.
    let answer = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
    if answer == 0 {
        drop(ready);
        let result = wait_for(go).and_then(|()| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("tie to the command")?;
            // It may have ended before that.
            if readable_until(parent.as_fd(), Some(Instant::now()))
                .context("look for the command")?
            {
                bail!("the command is gone");
            }
            drop(parent);
            body()
        });
        if let Err(error) = result {
            eprintln!("bulkhead: {error:#}");
        }
        std::process::exit(125);
    }
    if answer < 0 {
        return Err(std::io::Error::last_os_error()).context("create namespaces");
    }
    let pid = Pid::from_raw(i32::try_from(answer).context("read a process id")?);
    drop(go);
    if flags & libc::CLONE_NEWUSER != 0 {
        map(pid)?;
    }
    (&ready).write_all(b"g").context("start a child")?;
    Ok(pid)
}

fn wait_for(mut go: PipeReader) -> Result<()> {
    go.read_exact(&mut [0]).context("wait for a start")
}

/// Maps the ids of the child: all as they are for root, else the user's and its subordinate ones.
fn map(pid: Pid) -> Result<()> {
    if geteuid().is_root() {
        // Of a container's agent, that is the user itself, with what ids it has.
        let child = rustix::process::Pid::from_raw(pid.as_raw()).context("map ids")?;
        return ::jail::clone::map_all(child).context("map ids");
    }
    ids::map_ids(pid.as_raw(), &subordinates()).context("map ids")
}

/// The hidden verb.
///
/// # Errors
/// When the child can't be made; what goes wrong in it, it says itself.
pub fn main(config: &str) -> Result<u8> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("tie to the command")?;
    let work: Work = serde_json::from_str(config).context("read the configuration")?;
    let pid = child(namespaces(true, true), move || match work {
        Work::Agent {
            root,
            agent,
            descriptors,
        } => become_agent(&root, &agent, descriptors),
        Work::Remove(paths) => {
            let mut all = Ok(());
            for path in paths.iter().filter(|path| path.exists()) {
                let removed = remove_tree(path);
                // One that stays does not keep the others.
                all = all.and(removed.with_context(|| format!("remove {}", path.display())));
            }
            all?;
            std::process::exit(0)
        }
    })?;
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(u8::try_from(code).unwrap_or(1)),
            Ok(WaitStatus::Signaled(_, signal, _)) => bail!("the child was ended by {signal}"),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait for the child"),
        }
    }
}

fn become_agent(root: &Path, agent: &Path, descriptors: u32) -> Result<()> {
    let program = File::open(agent).with_context(|| format!("open {}", agent.display()))?;
    enter(root).with_context(|| format!("shut into {}", root.display()))?;
    nix::sys::prctl::set_no_new_privs().context("give up privileges")?;
    // As much memory as a converter's VM has; what it makes is in files.
    setrlimit(Resource::RLIMIT_AS, UNPACKER_BYTES, UNPACKER_BYTES).context("limit memory")?;
    // What whoever called this command left open is not the program's.
    let first = u32::try_from(FIRST_FD)?.saturating_add(descriptors);
    // SAFETY: it marks descriptors to be closed by the execution, and touches no memory.
    let closed = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if closed != 0 {
        return Err(std::io::Error::last_os_error()).context("keep descriptors from the program");
    }
    let name = std::ffi::CString::new(PLAIN_NAME).context("name the program")?;
    let environment: [&std::ffi::CStr; 0] = [];
    fexecve(program.as_fd(), &[name.as_c_str()], &environment)
        .context("run the agent's program")?;
    Ok(())
}

/// Makes `root` this process's root, without devices and set-id programs; the host's is out of reach.
fn enter(root: &Path) -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).context("keep mounts")?;
    mount(Some(root), root, none, MsFlags::MS_BIND, none).context("bind")?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | quiet;
    mount(none, root, none, again, none).context("bind without devices")?;
    chdir(root).context("enter")?;
    pivot_root(".", ".").context("pivot")?;
    umount2(".", MntFlags::MNT_DETACH).context("leave the host's tree")?;
    chdir("/").context("enter")
}

/// Removes directories that hold what containers wrote, as deep as those liked.
///
/// # Errors
/// When one can't be.
pub(super) fn remove(paths: &[PathBuf]) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let work = Work::Remove(paths.to_vec());
    let output = verb(&work)?
        .stdin(Stdio::null())
        .output()
        .context("start this command again")?;
    if !output.status.success() {
        bail!("{}", words(&output.stderr));
    }
    Ok(())
}

fn verb(work: &Work) -> Result<Command> {
    let config = serde_json::to_string(work).context("configure a child")?;
    let mut command = Command::new(program::own()?);
    command.arg(PREPARE_VERB).arg(config);
    Ok(command)
}

fn words(bytes: &[u8]) -> String {
    let end = bytes
        .len()
        .min(usize::try_from(WORDS_MAX).unwrap_or(usize::MAX));
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    printable(text.trim().trim_start_matches("bulkhead: "))
}

/// What layers to unpack, each with its blob, lowest first.
pub(super) type Layers = Vec<(ConvertSpec, OwnedFd)>;

/// Opens the blobs of an image's layers.
///
/// # Errors
/// When one is missing.
pub(super) fn open_layers(store: &Store, layers: &[Layer]) -> Result<Layers> {
    let open = |layer: &Layer| {
        let blob = store.blob(&layer.blob)?;
        let spec = ConvertSpec {
            blob_bytes: blob.metadata().context("read the size of the blob")?.len(),
            compression: compression(layer.compression),
            diff_id: layer.diff_id.hex(),
            limits: LAYER_LIMITS,
        };
        Ok((spec, blob.into()))
    };
    layers.iter().map(open).collect()
}

/// Unpacks layers into `root`; how many device nodes were left out.
///
/// # Errors
/// When the agent's program says so; its words are made fit for a terminal.
pub(super) fn unpack(program: &Path, root: &Path, scratch: &Path, layers: Layers) -> Result<u64> {
    let (specs, blobs): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
    let job = Job {
        layers: specs,
        user: String::new(),
        group_add: Vec::new(),
        capabilities: Vec::new(),
    };
    let scratch = tempfile::tempfile_in(scratch).context("create a scratch file")?;
    let files = std::iter::once(scratch.into()).chain(blobs).collect();
    Ok(prepare(program, root, &job, files)?.devices_left_out)
}

/// Looks up what the configuration of a process needs.
///
/// # Errors
/// As [`unpack`].
pub(super) fn look_up(program: &Path, root: &Path, process: &ProcessSpec) -> Result<Prepared> {
    let job = Job {
        layers: Vec::new(),
        user: process.user.clone(),
        group_add: process.group_add.clone(),
        capabilities: process.capabilities.clone(),
    };
    // Nothing is unpacked, so nothing is put aside.
    let scratch = File::open("/dev/null").context("open /dev/null")?;
    prepare(program, root, &job, vec![scratch.into()])
}

fn prepare(program: &Path, root: &Path, job: &Job, files: Vec<OwnedFd>) -> Result<Prepared> {
    let work = Work::Agent {
        root: root.to_owned(),
        agent: program.to_owned(),
        descriptors: u32::try_from(files.len())?,
    };
    let mappings = (FIRST_FD..)
        .zip(files)
        .map(|(child_fd, parent_fd)| FdMapping {
            parent_fd,
            child_fd,
        })
        .collect();
    let mut child = verb(&work)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .fd_mappings(mappings)
        .context("pass descriptors to a child")?
        .spawn()
        .context("start this command again")?;
    let mut stdin = child.stdin.take().context("speak to a child")?;
    let told = serde_json::to_writer(&mut stdin, job);
    drop(stdin);
    let mut answer = Vec::new();
    let stdout = child.stdout.take().context("hear a child")?;
    stdout
        .take(MESSAGE_BYTES_MAX)
        .read_to_end(&mut answer)
        .context("hear a child")?;
    let mut said = Vec::new();
    let stderr = child.stderr.take().context("hear a child")?;
    stderr
        .take(WORDS_MAX)
        .read_to_end(&mut said)
        .context("hear a child")?;
    let status = child.wait().context("wait for a child")?;
    if !status.success() || answer.is_empty() {
        return Err(match said.is_empty() {
            true => anyhow!("prepare the container's files: the child ended with {status}"),
            false => anyhow!("prepare the container's files: {}", words(&said)),
        });
    }
    told.context("speak to a child")?;
    match serde_json::from_slice(&answer).context("read what the agent's program says")? {
        Answer::Done(prepared) => Ok(prepared),
        Answer::Failed { message } => bail!("{}", printable(&message)),
    }
}

/// Takes a descriptor that was handed over by number.
pub(super) fn take_fd(number: i32) -> OwnedFd {
    // SAFETY: the command put a descriptor there for this process, which takes each number once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Sends a signal to a child of this process, which has not been reaped.
///
/// # Errors
/// A number that is no signal.
pub(super) fn signal(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: two numbers; the process is a child's, so nobody else has its number.
    nix::errno::Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}
