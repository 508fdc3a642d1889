//! `bulkhead start`: containers that were made or have ended run, again.

use anyhow::{Result, bail};

use super::each::each;
use super::plain;
use super::policy::Policy;
use super::run::{detach_keys, exit_code, failure};
use crate::doctor;
use crate::sandbox::attach::Ended;
use crate::sandbox::clock::monotonic_ns;
use crate::sandbox::launch::Isolation;
use crate::sandbox::paths::Root;
use crate::sandbox::start::{AttachOptions, attach_to, run_attached, run_detached};
use crate::sandbox::state::{ContainerConfig, Folder, Lock, Phases, Status};
use crate::sandbox::volumes::Mount;
use crate::sandbox::wire::{ENDED, Link, StreamSet, ToCommand, ToSupervisor};
use crate::sandbox::{client, containers, disks};

/// Flags of `start`.
#[derive(Debug, clap::Args)]
pub struct StartArgs {
    /// Join its output and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Join its input
    #[arg(short, long)]
    interactive: bool,
    /// Keys that detach from a terminal
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Starts containers; an exit code: that of the one that is attached.
///
/// # Errors
/// The last that could not be started.
pub fn run(args: StartArgs) -> Result<u8> {
    let began = monotonic_ns();
    if !args.attach && !args.interactive {
        each(&args.containers, |root, name| {
            let (folder, config) = containers::find(root, name)?;
            start_detached(root, &folder, &config, began)?;
            Ok(name.to_owned())
        })?;
        return Ok(0);
    }
    let [name] = args.containers.as_slice() else {
        return Err(failure(
            "you cannot start and attach multiple containers at once".to_owned(),
        ));
    };
    let root = Root::of_user()?;
    let (folder, config) = containers::find(&root, name)?;
    let options = AttachOptions {
        stdin: args.interactive && config.launch.open_stdin,
        stdout: true,
        stderr: true,
        terminal: config.launch.run.process.terminal.is_some(),
        forward_signals: config.launch.run.process.terminal.is_none(),
        detach_keys: detach_keys(args.detach_keys.as_deref())?,
    };
    let ended = loop {
        match take(&folder)? {
            Taken::Lock(lock) => {
                prepare(&root, &folder.config()?, Some(&lock))?;
                break run_attached(&root, &folder, lock, phases(began), options)?;
            }
            Taken::Running(link) => match is_started(link) {
                // It was at its end.
                None => {}
                Some(Err((_, message))) => return Err(failure(message)),
                Some(Ok(())) => {
                    if let Some(link) = client::connect(&folder)? {
                        break attach_to(&folder, link, options)?;
                    }
                }
            },
        }
    };
    match ended {
        // As for one that nobody is attached to.
        Ended::Failed(_, message) => Err(failure(message)),
        ended => exit_code(ended),
    }
}

/// Starts a container and leaves it to itself. One that runs already is left alone.
///
/// # Errors
/// When its process can't be run.
pub fn start_detached(
    root: &Root,
    folder: &Folder,
    config: &ContainerConfig,
    began: u64,
) -> Result<()> {
    let failed = loop {
        match take(folder)? {
            Taken::Lock(lock) => {
                prepare(root, &folder.config()?, Some(&lock))?;
                break run_detached(root, folder, lock, phases(began))?;
            }
            // Another may be at starting it: with the same outcome.
            Taken::Running(link) => match is_started(link) {
                Some(Err(failed)) => break Some(failed),
                Some(Ok(())) => break None,
                // It was at its end.
                None => {}
            },
        }
    };
    match failed {
        Some((_, message)) => bail!("{message} (container {})", config.name),
        None => Ok(()),
    }
}

/// Waits until a container runs that has a supervisor, or fails to; `None` when it was at its end.
fn is_started(mut link: Link) -> Option<Result<(), (u8, String)>> {
    let attach = ToSupervisor::Attach(StreamSet::default());
    match link.send(&attach, &[]).and_then(|()| link.wait()) {
        Ok(Some(ToCommand::Failed { code, message })) => Some(Err((code, message))),
        Ok(Some(ToCommand::Refused(why))) if why == ENDED => None,
        Ok(Some(_)) => Some(Ok(())),
        Ok(None) | Err(_) => None,
    }
}

/// What is to be before a container starts: it is allowed, and its layers are there. Who has its lock
/// starts it.
///
/// # Errors
/// It is not allowed, or a layer that is there no more can't be unpacked again.
pub fn prepare(root: &Root, config: &ContainerConfig, lock: Option<&Lock>) -> Result<()> {
    check_policy(root, config, lock)?;
    // A supervisor that runs reaches none of them any more.
    let mut mounts = config.launch.mounts.iter();
    mounts.try_for_each(Mount::check_source)?;
    match config.launch.isolation {
        Isolation::Vm => disks::ensure(root, &config.launch.layers),
        // Its supervisor sees to the image's files.
        Isolation::Container => Ok(()),
    }
}

/// Whether the host runs it, and what the container has is allowed. Before a start it is asked with the
/// config as it is once the lock is this command's.
///
/// # Errors
/// It is not.
fn check_policy(root: &Root, config: &ContainerConfig, lock: Option<&Lock>) -> Result<()> {
    let policy = Policy::of_user()?;
    match config.launch.isolation {
        Isolation::Vm => doctor::can_run()?,
        Isolation::Container => plain::can_run()?,
    }
    policy.check_disk(root)?;
    policy.check_container(config)?;
    policy.check_room(root, config, lock)
}

/// Who a container belongs to now.
enum Taken {
    /// This command.
    Lock(Lock),
    /// Its supervisor.
    Running(Link),
}

fn take(folder: &Folder) -> Result<Taken> {
    take_if_there(folder).map_err(|error| match folder.path().exists() {
        true => error,
        false => failure("the container was removed meanwhile".to_owned()),
    })
}

fn take_if_there(folder: &Folder) -> Result<Taken> {
    loop {
        if let Some(lock) = folder.try_lock()? {
            return Ok(Taken::Lock(lock));
        }
        folder.wait_for_files()?;
        if let Some(link) = client::connect(folder)? {
            if folder.true_state()?.status == Status::Paused {
                bail!("cannot start a paused container, try unpause instead");
            }
            return Ok(Taken::Running(link));
        }
    }
}

fn phases(began: u64) -> Phases {
    Phases {
        command: began,
        disks: monotonic_ns(),
        ..Phases::default()
    }
}
