//! `bulkhead cp`: files into and out of a container, by Docker's rules.
//!
//! What a name at either end means depends on what is there: [`plan`] is Docker's table of it.

mod local;

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{BufWriter, ErrorKind, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use protocol::task::{Outcome, PathStat, Task};

use super::output;
use super::policy::Policy;
use crate::sandbox::access::{self, Access};
use crate::sandbox::agent::AgentError;
use crate::sandbox::containers;
use crate::sandbox::has_gone_away;
use crate::sandbox::paths::Root;
use crate::sandbox::receive::{self, Owners};
use crate::sandbox::state::{ContainerConfig, Lock};
use crate::sandbox::volumes::Mount;

/// Links that a destination on the host may lead through, as in Docker.
const LINKS_MAX: usize = 10;

/// Name of an archive's entry for a directory of which only the content counts.
const CONTENT: &str = ".";

/// Flags of `cp`.
#[derive(Debug, clap::Args)]
pub struct CpArgs {
    /// Keep owners: files out of a container keep its user ids (as root), files into it get its user
    #[arg(short, long)]
    archive: bool,
    /// Follow a symbolic link at the end of the source
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Don't say what was copied
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, PATH, or - for a tar archive on standard input
    #[arg(value_name = "SRC_PATH", allow_hyphen_values = true)]
    source: String,
    /// PATH, CONTAINER:PATH, or - for a tar archive on standard output
    #[arg(value_name = "DEST_PATH", allow_hyphen_values = true)]
    destination: String,
}

/// Copies.
///
/// # Errors
/// Docker's sentences for paths that don't fit each other.
pub fn run(args: &CpArgs) -> Result<()> {
    match (split(&args.source), split(&args.destination)) {
        ((Some(_), _), (Some(_), _)) => {
            bail!("copying between containers is not supported")
        }
        ((_, ""), _) => bail!("source can not be empty"),
        (_, (_, "")) => bail!("destination can not be empty"),
        ((Some(container), source), (None, target)) => out(args, container, source, target),
        ((None, source), (Some(container), target)) => into(args, container, source, target),
        ((None, _), (None, _)) => bail!("must specify at least one container source"),
    }
}

/// The container of an argument, if it has one, and the path.
fn split(argument: &str) -> (Option<&str>, &str) {
    if argument.starts_with('/') {
        return (None, argument);
    }
    match argument.split_once(':') {
        // `./file:name` is a path.
        Some((container, path)) if !container.starts_with('.') => (Some(container), path),
        _ => (None, argument),
    }
}

/// Something at an end of the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    File,
    Directory,
}

impl There {
    fn of(is_dir: bool) -> Self {
        if is_dir { Self::Directory } else { Self::File }
    }
}

/// Where what is copied goes.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// The directory, which exists.
    folder: String,
    /// The name in it; only the content goes there without one.
    name: Option<String>,
}

/// Docker's table: what a source becomes at a destination.
fn plan(source: &str, is_dir: bool, target: &str, there: There) -> Result<Plan> {
    let (folder, base) = parts(target);
    Ok(match there {
        There::Directory => Plan {
            folder: target.to_owned(),
            name: match parts(source) {
                (_, base) if is_dir && matches!(base.as_str(), CONTENT | "/") => None,
                (_, base) => Some(base),
            },
        },
        There::File if is_dir => bail!("cannot copy directory"),
        There::Nothing if !is_dir && is_folder_like(target) => bail!("no such directory"),
        There::File | There::Nothing => Plan {
            folder,
            name: Some(base),
        },
    })
}

/// Whether a path says of itself that it is a directory.
fn is_folder_like(path: &str) -> bool {
    path.ends_with('/') || path == "." || path.ends_with("/.")
}

/// The folder of a path and its last name; `.` at its end is a name, slashes there are none.
fn parts(path: &str) -> (String, String) {
    let path = match path.trim_end_matches('/') {
        "" => return ("/".to_owned(), "/".to_owned()),
        path => path,
    };
    match path.rsplit_once('/') {
        Some(("", name)) => ("/".to_owned(), name.to_owned()),
        Some((folder, name)) => (folder.to_owned(), name.to_owned()),
        None => (".".to_owned(), path.to_owned()),
    }
}

/// A path in a container: from its root on.
fn in_container(path: &str) -> String {
    cleaned(&format!("/{path}"), path)
}

/// An absolute path without names that say nothing and with each `..` taken together with what is
/// before it; the end of `as_written`, a slash or a `.`, is kept.
fn cleaned(path: &str, as_written: &str) -> String {
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    // Slashes behind a `.` change nothing: `./` is the content, too.
    let last = as_written.trim_end_matches('/').rsplit('/').next();
    let end = match last {
        Some(".") => "/.",
        _ if as_written.ends_with('/') && !names.is_empty() => "/",
        _ => "",
    };
    match names.is_empty() && end.is_empty() {
        true => "/".to_owned(),
        false => format!("/{}{end}", names.join("/")).replace("//", "/"),
    }
}

/// A link's target, seen from the folder of the link.
fn through(path: &str, link: &str) -> String {
    let full = match link.starts_with('/') {
        true => link.to_owned(),
        false => format!("{}/{link}", parts(path).0),
    };
    cleaned(&full, &full)
}

fn stat(access: &mut Access, path: &str, follow: bool) -> Result<Option<PathStat>> {
    let task = Task::Stat {
        path: path.to_owned(),
        follow,
    };
    match access.ask(task)? {
        Outcome::Stat(stat) => Ok(Some(stat)),
        Outcome::NotFound => Ok(None),
        other => bail!("the agent broke the protocol: unexpected {other:?}"),
    }
}

/// Does `work` with the files of a container.
fn with_files<T>(
    container: &str,
    work: impl FnOnce(&mut Access, &ContainerConfig) -> Result<T>,
) -> Result<T> {
    let root = Root::of_user()?;
    let (folder, config) = containers::find(&root, container)?;
    let admit = |lock: &Lock| Policy::admit_files(&root, &config, lock);
    access::with_files(&root, &folder, &config, &admit, |access| {
        work(access, &config)
    })
}

/// Out of a container.
fn out(args: &CpArgs, container: &str, source: &str, target: &str) -> Result<()> {
    let to_stdout = target == "-";
    if to_stdout && std::io::stdout().is_terminal() {
        bail!("refusing to write an archive to a terminal; redirect standard output");
    }
    let target = (!to_stdout).then(|| Target::find(target)).transpose()?;
    with_files(container, |access, _| {
        take_out(access, args, container, source, target.as_ref())
    })
}

fn take_out(
    access: &mut Access,
    args: &CpArgs,
    container: &str,
    source: &str,
    target: Option<&Target>,
) -> Result<()> {
    let source = in_container(source);
    let Some(there) = stat(access, &source, args.follow_link)? else {
        bail!("Could not find the file {source} in container {container}");
    };
    let top = match parts(&source).1 {
        base if there.is_dir() && base == "/" => CONTENT.to_owned(),
        base => base,
    };
    let plan = match target {
        Some(target) => Some((
            target,
            plan(&source, there.is_dir(), &target.path, target.there)?,
        )),
        None => None,
    };
    let stream = access.begin_reading(Task::Archive {
        path: source,
        follow: args.follow_link,
        name: top.clone(),
    })?;
    let mut counted = Counted {
        inner: stream,
        bytes: 0,
    };
    match plan {
        None => {
            std::io::copy(&mut counted, &mut std::io::stdout().lock())?;
            access.end()?;
        }
        Some((target, plan)) => {
            let folder =
                File::open(&plan.folder).with_context(|| format!("open {}", plan.folder))?;
            let owners = match args.archive && nix::unistd::geteuid().is_root() {
                true => Owners::Kept,
                false => Owners::Own,
            };
            let name = plan.name.as_deref().map(OsStr::new);
            let received = receive::receive(&folder, &top, name, owners, &mut counted);
            if received.is_ok() {
                // What is behind the end of the archive is nothing.
                std::io::copy(&mut counted, &mut std::io::sink())?;
            }
            let left_out = match received {
                Ok(left_out) => {
                    access.end()?;
                    left_out
                }
                Err(error) => {
                    drop(counted);
                    // An agent that failed says why its archive is not whole, if it says anything more.
                    let soon = Some(Instant::now() + access::ANSWER_TIMEOUT);
                    return Err(match access.end_until(soon) {
                        Err(why) if !is_timeout(&why) => why,
                        _ => error.into(),
                    });
                }
            };
            if left_out.devices > 0 {
                output::note(&format!(
                    "bulkhead: {} devices were left out: none is made on the host",
                    left_out.devices
                ));
            }
            say(args, counted.bytes, &target.path);
        }
    }
    Ok(())
}

/// Into a container.
fn into(args: &CpArgs, container: &str, source: &str, target: &str) -> Result<()> {
    let local = match source {
        "-" => None,
        path => Some(Source::find(path, args.follow_link)?),
    };
    with_files(container, |access, config| {
        put_in(access, config, args, container, local.as_ref(), target)
    })
}

fn put_in(
    access: &mut Access,
    config: &ContainerConfig,
    args: &CpArgs,
    container: &str,
    local: Option<&Source>,
    target: &str,
) -> Result<()> {
    let mut path = in_container(target);
    let mut there = stat(access, &path, false)?;
    if let Some(link) = there.take_if(|there| there.is_link()) {
        path = through(&path, &link.link);
        there = stat(access, &path, true)?;
    }
    let there = there.map_or(There::Nothing, |there| There::of(there.is_dir()));
    let plan = match local {
        Some(local) => plan(&local.shown, local.is_dir, &path, there)?,
        None if there != There::Directory => {
            bail!("destination \"{container}:{target}\" must be a directory")
        }
        None => Plan {
            folder: path.clone(),
            name: None,
        },
    };
    // Its volumes are there while it runs. What a link of its own leads to is the guest's to refuse.
    let in_volume = |mount: &Mount| {
        !mount.read_only && Path::new(&plan.folder).starts_with(Path::new(&mount.target))
    };
    if config.launch.run.read_only_root
        && !(access.is_running() && config.launch.mounts.iter().any(in_volume))
    {
        bail!("container rootfs is marked read-only");
    }
    if stat(access, &plan.folder, true)?.is_none_or(|there| !there.is_dir()) {
        bail!(
            "Could not find the file {} in container {container}",
            plan.folder
        );
    }
    let user = &config.launch.run.process.user;
    let owner = (args.archive && !user.is_empty()).then(|| user.clone());
    let stream = access.begin(Task::Extract {
        path: plan.folder,
        decompress: local.is_none(),
        owner,
    })?;
    let mut counted = Counted {
        inner: stream,
        bytes: 0,
    };
    let sent = match local {
        Some(local) => {
            let name = plan.name.as_deref().unwrap_or(CONTENT);
            local::write(&local.path, name.as_bytes(), BufWriter::new(&mut counted))
        }
        None => std::io::copy(&mut std::io::stdin().lock(), &mut counted)
            .map(drop)
            .map_err(Into::into),
    };
    // An agent that takes no more says why.
    if let Err(error) = &sent
        && !is_gone(error)
    {
        return sent;
    }
    // Fails only when the agent is gone already.
    let _ = counted.inner.shutdown(Shutdown::Write);
    access.end()?;
    // What is behind the end of an archive of the user's is nothing, and not taken.
    if local.is_some() && sent.is_err() {
        bail!("the container's agent took only a part of it, and says that this was all");
    }
    say(args, counted.bytes, &format!("{container}:{path}"));
    Ok(())
}

fn say(args: &CpArgs, bytes: u64, to: &str) {
    // As Docker's, which says nothing to scripts.
    if !args.quiet && std::io::stdout().is_terminal() {
        let size = output::size(bytes);
        output::note(&format!("Successfully copied {size} to {to}"));
    }
}

fn is_timeout(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(AgentError::Timeout))
}

fn is_gone(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(has_gone_away)
}

/// Counts what passes.
struct Counted<T> {
    inner: T,
    bytes: u64,
}

impl<T: Read> Read for Counted<T> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.bytes += len as u64;
        Ok(len)
    }
}

impl<T: Write> Write for Counted<T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = self.inner.write(bytes)?;
        self.bytes += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// A path on the host, absolute and cleaned, with a `.` or a slash at its end kept.
fn absolute(path: &str) -> Result<String> {
    let full = std::path::absolute(path).with_context(|| format!("resolve {path}"))?;
    let text = full.to_str().context("a path that is not UTF-8")?;
    Ok(cleaned(text, path))
}

/// What is to be copied into a container.
#[derive(Debug)]
struct Source {
    /// What it is read from.
    path: PathBuf,
    /// As the user named it.
    shown: String,
    is_dir: bool,
}

impl Source {
    fn find(path: &str, follow: bool) -> Result<Self> {
        let shown = absolute(path)?;
        let looked = |look: fn(&Path) -> std::io::Result<Metadata>| {
            look(Path::new(&shown))
                .map_err(|error| anyhow::anyhow!("lstat {shown}: {}", plain(&error)))
        };
        let (path, found) = if follow {
            let found = looked(|path| path.metadata())?;
            let path = std::fs::canonicalize(&shown).with_context(|| format!("resolve {shown}"))?;
            (path, found)
        } else {
            (
                PathBuf::from(&shown),
                looked(|path| path.symlink_metadata())?,
            )
        };
        if found.file_type().is_socket() {
            bail!("{shown} is a socket: an archive has no kind for it");
        }
        Ok(Self {
            path,
            is_dir: found.is_dir(),
            shown,
        })
    }
}

/// Where something is to be copied to on the host.
#[derive(Debug)]
struct Target {
    path: String,
    there: There,
}

impl Target {
    fn find(path: &str) -> Result<Self> {
        let mut path = absolute(path)?;
        let folder = parts(&path).0;
        if !Path::new(&folder).exists() {
            bail!("invalid output path: directory \"{folder}\" does not exist");
        }
        // A link at the end is followed, also one that leads to nothing.
        for _ in 0..LINKS_MAX {
            match Path::new(&path).symlink_metadata() {
                Ok(there) if there.is_symlink() => {
                    let link: OsString = std::fs::read_link(&path)
                        .with_context(|| format!("read the link {path}"))?
                        .into();
                    let link = link.to_str().context("a link that is not UTF-8")?;
                    path = through(&path, link);
                }
                Ok(there) if there.is_dir() || there.is_file() => {
                    let there = There::of(there.is_dir());
                    return Ok(Self { path, there });
                }
                Ok(_) => {
                    bail!("invalid output path: \"{path}\" must be a directory or a regular file")
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let there = There::Nothing;
                    return Ok(Self { path, there });
                }
                Err(error) => return Err(error).with_context(|| format!("look at {path}")),
            }
        }
        bail!("too many links in \"{path}\"")
    }
}

/// An error of the system in the words of its manual, without Rust's number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests;
