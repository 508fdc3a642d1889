//! The keeper of a plain container: what the command becomes, for as long as the container lives.
//!
//! It has one child, PID 1 of a pid namespace with a mount namespace of its own, which mounts the
//! overlay and becomes the OCI runtime. The kernel ends that namespace with the child, and the child
//! with the keeper. Signals that somebody sent to the keeper go on to the runtime, which hands them to
//! the container's process; those of a terminal's keys reach the runtime by themselves.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::super::control_group;
use super::jail;

/// Name of the hidden verb.
pub const KEEPER_VERB: &str = "__plain-keeper";

/// Bytes of the runtime's log that are read for why there is no process.
const LOG_MAX: u64 = 16 << 10;

/// What the keeper is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Keeper {
    pub(super) runtime: PathBuf,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    /// The image's file system.
    pub(super) lower: PathBuf,
    /// Numbers of the locks' descriptors: the bundle's and the image's.
    pub(super) locks: [i32; 2],
    /// Whether there is a control group.
    pub(super) limits: bool,
    /// Whether the process reads this command's input.
    pub(super) open_stdin: bool,
    /// `--sig-proxy`.
    pub(super) forward_signals: bool,
}

/// The hidden verb: the container's exit code.
///
/// # Errors
/// When the child can't be made.
pub fn main(config: &str) -> Result<u8> {
    let keeper: Keeper = serde_json::from_str(config).context("read the configuration")?;
    let locks = keeper.locks.map(jail::take_fd);
    for lock in &locks {
        // A folder of the host's would be in the runtime's hands (CVE-2024-21626).
        fcntl(lock, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("keep the locks")?;
    }
    let mask = SigSet::all();
    mask.thread_block().context("block signals")?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).context("watch signals")?;
    let is_root = nix::unistd::geteuid().is_root();
    let flags = jail::namespaces(!is_root, false);
    let pid = jail::child(flags, || {
        // crun takes signals when it is ready to; until then they wait. Go's programs never would.
        if !keeper.runtime.ends_with("crun") {
            mask.thread_unblock().context("unblock signals")?;
        }
        become_runtime(&keeper, is_root)
    });
    let code = pid.and_then(|pid| serve(pid, &signals, keeper.forward_signals));
    // The runtime has said itself why there is no process.
    let code = code.map(|code| match code {
        0 => 0,
        code => no_process(&keeper.bundle).unwrap_or(code),
    });
    remove_cgroup(&keeper.bundle);
    // What can't be removed is tried again with the next container.
    let _ = jail::remove(std::slice::from_ref(&keeper.bundle));
    drop(locks);
    code
}

fn become_runtime(keeper: &Keeper, is_root: bool) -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).context("keep mounts")?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), quiet, none).context("mount /proc")?;
    let folder = |name: &str| keeper.bundle.join(name);
    let mut options = format!(
        "lowerdir={},upperdir={},workdir={}",
        escaped(&keeper.lower)?,
        escaped(&folder("upper"))?,
        escaped(&folder("work"))?
    );
    if !is_root {
        options.push_str(",userxattr");
    }
    let flags = MsFlags::MS_NODEV;
    mount(
        Some("overlay"),
        &folder("rootfs"),
        Some("overlay"),
        flags,
        Some(options.as_str()),
    )
    .context("mount the container's files (overlay; the state root must not be on one itself)")?;
    let mut command = Command::new(&keeper.runtime);
    command.arg("--root").arg(folder("state"));
    command.arg("--log").arg(folder("log"));
    command.args(["--log-format", "json"]);
    if !keeper.limits && keeper.runtime.ends_with("crun") {
        command.args(["--cgroup-manager", "disabled"]);
    }
    command.args(["run", "--bundle"]);
    command.arg(&keeper.bundle).arg(&keeper.id);
    if !keeper.open_stdin {
        command.stdin(Stdio::null());
    }
    Err(command.exec()).with_context(|| format!("run {}", keeper.runtime.display()))
}

/// A path in the options of an overlay.
fn escaped(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .context("the state root's path is not UTF-8")?;
    if text.contains([',', ':', '\\']) {
        bail!(
            "the state root's path has a comma, a colon or a backslash, which overlay takes for its own"
        );
    }
    Ok(text.to_owned())
}

/// Hands signals on until the child has ended: its exit code.
fn serve(pid: Pid, signals: &SignalFd, forward: bool) -> Result<u8> {
    loop {
        let Some(signal) = signals.read_signal().context("read a signal")? else {
            continue;
        };
        let number = i32::try_from(signal.ssi_signo).context("read a signal")?;
        let sent = forward && signal.ssi_code <= 0;
        match Signal::try_from(number) {
            Ok(Signal::SIGCHLD) => match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => return Ok(u8::try_from(code).unwrap_or(1)),
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    let code = 128_i32.saturating_add(signal as i32);
                    return Ok(u8::try_from(code).unwrap_or(u8::MAX));
                }
                Ok(_) => {}
                Err(error) => return Err(error).context("wait for the runtime"),
            },
            // A key's signal went to the runtime, too.
            Ok(signal) if sent => {
                let _ = kill(pid, signal);
            }
            _ => {}
        }
    }
}

/// Docker's code for a process that never ran, if the runtime's log says so.
fn no_process(bundle: &Path) -> Option<u8> {
    let mut text = String::new();
    File::open(bundle.join("log"))
        .ok()?
        .take(LOG_MAX)
        .read_to_string(&mut text)
        .ok()?;
    code_of(&text)
}

/// The code for the last error of a runtime's log, one JSON object a line.
fn code_of(log: &str) -> Option<u8> {
    let message = log.lines().rev().find_map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_error = value.get("level")?.as_str()? == "error";
        is_error.then(|| value.get("msg")?.as_str().map(str::to_owned))?
    })?;
    let has = |text: &str| message.to_lowercase().contains(text);
    Some(if has("not found") || has("no such file") {
        127
    } else if has("permission denied") || has("exec format") || has("is a directory") {
        126
    } else {
        125
    })
}

/// Removes the control group of a bundle, which has nobody in it any more.
pub(super) fn remove_cgroup(bundle: &Path) {
    let Some(id) = bundle.file_name() else { return };
    let path = Path::new(control_group::MOUNT)
        .join(control_group::OWN)
        .join(id);
    if let Ok(entries) = fs::read_dir(&path) {
        for entry in entries.flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtimes_last_error_has_dockers_code() {
        let line =
            |text: &str| format!("{{\"msg\":\"{text}\",\"level\":\"error\",\"time\":\"x\"}}\n");
        let of = |text: &str| code_of(&line(text));
        assert_eq!(
            of("executable file `x` not found in $PATH: No such file"),
            Some(127)
        );
        assert_eq!(of("open executable: Permission denied"), Some(126));
        assert_eq!(of("mount `proc`: something"), Some(125));
        assert_eq!(
            code_of("{\"level\":\"warning\",\"msg\":\"x\"}\nnot json\n"),
            None
        );
        assert_eq!(code_of(""), None);
    }

    #[test]
    fn paths_that_overlay_would_misread_are_refused() {
        assert_eq!(escaped(Path::new("/a/b")).unwrap(), "/a/b");
        for path in ["/a,b", "/a:b", "/a\\b"] {
            escaped(Path::new(path)).unwrap_err();
        }
    }
}
