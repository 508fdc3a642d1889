//! Starts a container that exists: its supervisor, and the command's attachment to it; attaches to
//! one that runs, or to another process in it.
//! Called by `run`, `start`, `restart`, `attach` and `exec`. It knows neither flags nor images.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::SigSet;
use protocol::spec::ProcessSpec;

use super::attach::{self, Attachment, Ended, SupervisorDied};
use super::client;
use super::paths::{GUEST_VARIABLE, Root};
use super::program;
use super::state::{EXIT_CODE_KILLED, Folder, Lock, Phases};
use super::supervisor::{SUPERVISOR_VERB, SupervisorConfig};
use super::template::{TEMPLATES_OFF, TEMPLATES_VARIABLE};
use super::wire::{Link, StreamSet, ToCommand, ToSupervisor};

/// First descriptor that a supervisor finds something on.
const FIRST_FD: RawFd = 3;

/// How the command attaches to a process.
#[derive(Debug, Clone)]
pub struct AttachOptions {
    /// Our stdin goes to the process's.
    pub stdin: bool,
    /// Its stdout comes to ours.
    pub stdout: bool,
    /// Its stderr comes to ours.
    pub stderr: bool,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// `--sig-proxy`.
    pub forward_signals: bool,
    /// Bytes that detach when typed at a terminal.
    pub detach_keys: Vec<u8>,
}

/// A command's ends of the streams that it shares, and what it hands over.
struct Pipes {
    set: StreamSet,
    ours: [Option<OwnedFd>; 3],
    theirs: Vec<OwnedFd>,
}

impl Pipes {
    fn new(options: &AttachOptions) -> Result<Self> {
        let set = StreamSet {
            stdin: options.stdin,
            stdout: options.stdout,
            // A terminal has one output.
            stderr: options.stderr && !options.terminal,
        };
        let mut pipes = Self {
            set,
            ours: [None, None, None],
            theirs: Vec::new(),
        };
        let wanted = [set.stdin, set.stdout, set.stderr];
        for (number, slot) in pipes.ours.iter_mut().enumerate() {
            if !wanted.get(number).copied().unwrap_or(false) {
                continue;
            }
            let (reader, writer) = pipe()?;
            let (ours, theirs) = match number {
                0 => (writer, reader),
                _ => (reader, writer),
            };
            *slot = Some(ours);
            pipes.theirs.push(theirs);
        }
        Ok(pipes)
    }

    fn theirs(&self) -> Vec<BorrowedFd<'_>> {
        self.theirs.iter().map(AsFd::as_fd).collect()
    }

    /// What the command's side goes on with; the other ends are closed here.
    fn attachment(self, link: Link, options: AttachOptions) -> Attachment {
        let [stdin, stdout, stderr] = self.ours;
        Attachment {
            link,
            stdin,
            stdout,
            stderr,
            terminal: options.terminal,
            forward_signals: options.forward_signals,
            detach_keys: options.detach_keys,
        }
    }
}

/// Starts the container in `folder`, whose lock the supervisor gets, and stays attached until it
/// ends or the user detaches.
///
/// # Errors
/// When the supervisor can't be started or dies; what goes wrong with the container itself is
/// [`Ended::Failed`].
pub fn run_attached(
    root: &Root,
    folder: &Folder,
    lock: Lock,
    phases: Phases,
    options: AttachOptions,
) -> Result<Ended> {
    let signals = attach::block_signals(options.forward_signals)?;
    let pipes = Pipes::new(&options)?;
    let first = ToSupervisor::Attach(pipes.set);
    let link = spawn(root, folder, lock, phases, &first, &pipes.theirs())?;
    let served = serve(folder, pipes.attachment(link, options), signals);
    if let Err(error) = &served
        && !error.is::<SupervisorDied>()
    {
        // What is told to have failed does not go on with nobody attached.
        let _ = client::ask(folder, &ToSupervisor::Kill(libc::SIGKILL));
    }
    served
}

/// Starts the container in `folder` and leaves it to itself as soon as its process runs; `Some` when
/// that fails: Docker's code and one sentence.
///
/// # Errors
/// When the supervisor can't be started or dies.
pub fn run_detached(
    root: &Root,
    folder: &Folder,
    lock: Lock,
    phases: Phases,
) -> Result<Option<(u8, String)>> {
    let first = ToSupervisor::Attach(StreamSet::default());
    let mut link = spawn(root, folder, lock, phases, &first, &[])?;
    match link.wait()? {
        Some(ToCommand::Failed { code, message }) => Ok(Some((code, message))),
        Some(_) => Ok(None),
        None if is_removed_soon(folder.path()) => bail!("the container was removed meanwhile"),
        None => Err(SupervisorDied.into()),
    }
}

/// Attaches to a container that runs.
///
/// # Errors
/// When its supervisor dies.
pub fn attach_to(folder: &Folder, link: Link, options: AttachOptions) -> Result<Ended> {
    let signals = attach::block_signals(options.forward_signals)?;
    let pipes = Pipes::new(&options)?;
    link.send(&ToSupervisor::Attach(pipes.set), &pipes.theirs())?;
    serve(folder, pipes.attachment(link, options), signals)
}

/// Runs another process in a container and stays attached to it.
///
/// # Errors
/// When the container's supervisor dies.
pub fn exec_attached(
    folder: &Folder,
    link: Link,
    spec: ProcessSpec,
    options: AttachOptions,
) -> Result<Ended> {
    let signals = attach::block_signals(options.forward_signals)?;
    let pipes = Pipes::new(&options)?;
    let request = ToSupervisor::Exec {
        spec: Box::new(spec),
        streams: pipes.set,
    };
    link.send(&request, &pipes.theirs())?;
    serve(folder, pipes.attachment(link, options), signals)
}

fn serve(folder: &Folder, attachment: Attachment, signals: SigSet) -> Result<Ended> {
    match attach::run(attachment, signals) {
        // As Docker tells it to whoever is attached to what `rm --force` takes away.
        Err(error) if error.is::<SupervisorDied>() && is_removed_soon(folder.path()) => {
            Ok(Ended::Exited {
                code: EXIT_CODE_KILLED,
                trouble: None,
            })
        }
        ended => ended,
    }
}

/// Starts a supervisor, with the first message of its command on the way.
fn spawn(
    root: &Root,
    folder: &Folder,
    lock: Lock,
    phases: Phases,
    first: &ToSupervisor,
    descriptors: &[BorrowedFd],
) -> Result<Link> {
    let (ours, theirs) = UnixStream::pair().context("create a socket pair")?;
    let link = Link::new(ours);
    link.send(first, descriptors)?;
    let mut fds = Vec::new();
    let mut add = |fd: OwnedFd| {
        let child_fd = FIRST_FD + RawFd::try_from(fds.len()).unwrap_or(RawFd::MAX - FIRST_FD);
        fds.push(FdMapping {
            parent_fd: fd,
            child_fd,
        });
        child_fd
    };
    // Not an argument, which every user of the host could read.
    let (reader, mut writer) = std::io::pipe().context("create a pipe")?;
    let argument = add(reader.into());
    let config = SupervisorConfig {
        root: root.path().to_owned(),
        folder: folder.path().to_owned(),
        lock: add(lock.into()),
        command: add(theirs.into()),
        phases,
    };
    let text = serde_json::to_vec(&config).context("configure the supervisor")?;
    let command = program::own()?;
    let mut supervisor = Command::new(command);
    // It keeps no file system from being unmounted, and finds what the environment names all the same.
    supervisor.current_dir("/");
    for variable in [GUEST_VARIABLE, TEMPLATES_VARIABLE] {
        let path = std::env::var_os(variable);
        if let Some(path) = path.filter(|path| !path.is_empty() && path != TEMPLATES_OFF) {
            let path = std::path::absolute(path).with_context(|| format!("resolve {variable}"))?;
            supervisor.env(variable, path);
        }
    }
    // Not waited for: it outlives a command that detaches, and init reaps it then.
    supervisor
        .arg(SUPERVISOR_VERB)
        .arg(argument.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(folder.open_log()?)
        .fd_mappings(fds)
        .context("pass descriptors to the supervisor")?
        .spawn()
        .context("start the supervisor")?;
    // That it has ended by now is what the link tells.
    let _ = writer.write_all(&text);
    Ok(link)
}

/// `rm --force` kills the supervisor and then removes the folder.
const REMOVAL_TIME: Duration = Duration::from_secs(2);

fn is_removed_soon(folder: &Path) -> bool {
    let begun = Instant::now();
    while folder.exists() {
        if begun.elapsed() > REMOVAL_TIME {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Capacity of a stream's pipe in bytes, the most that an ordinary user may ask for.
const PIPE_BYTES: i32 = 1 << 20;

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = std::io::pipe().context("create a pipe")?;
    // A larger pipe only saves switches; a host that refuses it is as good.
    let _ = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok((reader.into(), writer.into()))
}
