//! Starts a container that exists: its supervisor, and the command's attachment to it.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use command_fds::{CommandFdExt, FdMapping};

use super::attach::{self, Attachment, Ended, SupervisorDied};
use super::paths::Root;
use super::state::{Folder, Lock, Phases};
use super::supervisor::{SUPERVISOR_VERB, SupervisorConfig};

/// First descriptor that a supervisor finds something on.
const FIRST_FD: RawFd = 3;

/// How the command attaches to what it starts.
#[derive(Debug, Clone)]
pub struct AttachOptions {
    /// Our stdin goes to the container's.
    pub stdin: bool,
    /// The container's stdout comes to ours.
    pub stdout: bool,
    /// The container's stderr comes to ours.
    pub stderr: bool,
    /// Whether the container has a terminal.
    pub terminal: bool,
    /// `--sig-proxy`.
    pub forward_signals: bool,
    /// Bytes that detach when typed at a terminal.
    pub detach_keys: Vec<u8>,
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
    let mut fds = Vec::new();
    let mut add = |fd: OwnedFd| {
        let child_fd = FIRST_FD + RawFd::try_from(fds.len()).unwrap_or(RawFd::MAX - FIRST_FD);
        fds.push(FdMapping {
            parent_fd: fd,
            child_fd,
        });
        child_fd
    };
    let (socket, theirs) = UnixStream::pair().context("create a socket pair")?;
    let attach = add(theirs.into());
    let lock = add(lock.into());
    let (mut stdin, mut stdout, mut stderr) = (None, None, None);
    let mut config = SupervisorConfig {
        root: root.path().to_owned(),
        folder: folder.path().to_owned(),
        lock,
        attach,
        stdin: None,
        stdout: None,
        stderr: None,
        phases,
    };
    if options.stdin {
        let (reader, writer) = pipe()?;
        config.stdin = Some(add(reader.into()));
        stdin = Some(writer.into());
    }
    if options.stdout {
        let (reader, writer) = pipe()?;
        config.stdout = Some(add(writer.into()));
        stdout = Some(reader.into());
    }
    if options.stderr && !options.terminal {
        let (reader, writer) = pipe()?;
        config.stderr = Some(add(writer.into()));
        stderr = Some(reader.into());
    }
    let text = serde_json::to_string(&config).context("configure the supervisor")?;
    let command = std::env::current_exe().context("find the path of this command")?;
    // Not waited for: it outlives a command that detaches, and init reaps it then.
    Command::new(command)
        .arg(SUPERVISOR_VERB)
        .arg(text)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .fd_mappings(fds)
        .context("pass descriptors to the supervisor")?
        .spawn()
        .context("start the supervisor")?;
    let attachment = Attachment {
        socket,
        stdin,
        stdout,
        stderr,
        terminal: options.terminal,
        forward_signals: options.forward_signals,
        detach_keys: options.detach_keys,
    };
    match attach::run(attachment, signals) {
        // As Docker tells it to whoever is attached to what `rm --force` takes away.
        Err(error) if error.is::<SupervisorDied>() && is_removed_soon(folder.path()) => {
            Ok(Ended::Exited {
                code: CODE_KILLED,
                trouble: None,
            })
        }
        ended => ended,
    }
}

/// Exit code of a process that got SIGKILL.
const CODE_KILLED: u8 = 128 + 9;

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

fn pipe() -> Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = std::io::pipe().context("create a pipe")?;
    // A larger pipe only saves switches; a host that refuses it is as good.
    let _ = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok((reader, writer))
}
