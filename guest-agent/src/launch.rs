//! From a child of the agent's inside the container to the process that was asked for: streams,
//! user, working directory, limits, capabilities, system call filter, program.
//!
//! Called by [`crate::container`] in the child, after [`crate::rootfs`] or after joining a running
//! container. Nothing here runs in the agent itself. The order matters and is runc's: first what
//! needs privilege, then the user, then what the user may do, and last the program.
// dup2 onto given numbers and close_range have no safe wrappers.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use protocol::message::FailureKind;
use protocol::spec::{ProcessSpec, Seccomp};
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, openat};
use rustix::io::Errno;
use rustix::process::{fchdir, ioctl_tiocsctty, setsid};
use rustix::thread::{
    CapabilitySet, set_keep_capabilities, set_no_new_privs, set_thread_gid, set_thread_groups,
    set_thread_uid,
};

use crate::caps;
use crate::failure::{Context, Failure};
use crate::paths::{self, ReadError, Want};
use crate::program::{self, Program};
use crate::reaper;
use crate::rlimits;
use crate::seccomp;
use crate::spawn::Reporter;
use crate::stdio::ChildIo;
use crate::user::{self, Identity};

/// Largest passwd or group file in bytes; large sites have some megabytes.
const MAX_USER_FILE: usize = 8 << 20;

/// Who becomes PID 1 of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstProcess {
    /// The program itself, or nobody new in a running container.
    Program,
    /// [`crate::reaper`].
    Reaper,
}

/// What a child needs to become its process.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What was asked for.
    pub spec: &'a ProcessSpec,
    /// The container's root, which is also this process's.
    pub root: BorrowedFd<'a>,
    /// Its working directory, if that is known to exist already.
    pub cwd: Option<OwnedFd>,
    /// The root of a procfs that shows this process.
    pub proc: Option<BorrowedFd<'a>>,
    /// Its standard streams.
    pub io: &'a ChildIo,
    /// Every capability, whatever the specification says.
    pub privileged: bool,
    /// Whether something stays in front of the program.
    pub first: FirstProcess,
}

/// Becomes the process, or says why not and ends.
pub fn become_process(launch: &Launch<'_>, reporter: Reporter) -> ! {
    match prepare(launch) {
        Ok(ready) => ready.go(launch, reporter),
        Err(failure) => reporter.give_up(&failure),
    }
}

/// The agent's own program, which no path of the container leads to.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// All that is left to do without looking at the container's files.
struct Ready {
    program: Program,
    /// What stays in front of it, if anything does.
    init: Program,
    capabilities: CapabilitySet,
    filter: Option<seccomp::Program>,
    no_new_privileges: bool,
    uid: u32,
}

fn prepare(launch: &Launch<'_>) -> Result<Ready, Failure> {
    let spec = launch.spec;
    let identity = identity(launch)?;
    attach_streams(launch.io, identity.uid)?;
    enter_directory(launch)?;
    rlimits::apply(&spec.rlimits)?;
    set_oom_score(launch)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));

    let capabilities = if launch.privileged {
        caps::all()
    } else {
        caps::parse(&spec.capabilities).map_err(|error| Failure::bad_config(error.to_string()))?
    };
    let filter = filter(launch, capabilities)?;
    caps::bound(capabilities).context(|| "drop capabilities from the bounding set".into())?;
    assume_user(&identity)?;
    // Until the filter is loaded the process also has what loading it takes; nothing more, so that
    // the program is looked up as the user would.
    let for_now = capabilities | CapabilitySet::SYS_ADMIN;
    caps::assume(if identity.uid == 0 {
        for_now
    } else {
        CapabilitySet::SYS_ADMIN
    })
    .context(|| "set capabilities".into())?;

    let env = environment(spec, &identity);
    let path = variable(&spec.env, "PATH");
    let name = spec.args.first().map_or("", String::as_str);
    let program = match spec.probe {
        Some(_) => PathBuf::from(OWN_PROGRAM),
        None => program::find(name, path)?,
    };
    let init = reaper::ARGUMENTS.map(str::to_owned);
    let init = [init.as_slice(), spec.args.as_slice()].concat();
    Ok(Ready {
        init: Program::new(Path::new(OWN_PROGRAM), &init, env.clone())?,
        program: Program::new(&program, &spec.args, env)?,
        // Executing takes them from other users than root; PID 1 may not come to it.
        capabilities: if identity.uid == 0 {
            capabilities
        } else {
            CapabilitySet::empty()
        },
        filter,
        no_new_privileges: spec.no_new_privileges,
        uid: identity.uid,
    })
}

impl Ready {
    fn go(&self, launch: &Launch<'_>, reporter: Reporter) -> ! {
        let reporter = match only_reporter(reporter) {
            Ok(reporter) => reporter,
            Err((reporter, failure)) => reporter.give_up(&failure),
        };
        if let Err(failure) = self.confine() {
            reporter.give_up(&failure);
        }
        match launch.first {
            FirstProcess::Reaper => {
                let terminal = matches!(launch.io, ChildIo::Terminal(_));
                reaper::run(&self.program, &self.init, reporter, terminal)
            }
            FirstProcess::Program => {
                reporter.started();
                reporter.give_up(&self.program.exec())
            }
        }
    }

    /// The last steps. With `no_new_privs` the filter comes last of all; without, loading it needs
    /// a capability.
    fn confine(&self) -> Result<(), Failure> {
        let drop_rest = || caps::assume(self.capabilities).context(|| "set capabilities".into());
        let load = || match &self.filter {
            Some(filter) => seccomp::load(filter).context(|| "load the seccomp filter".into()),
            None => Ok(()),
        };
        if self.no_new_privileges {
            set_no_new_privs(true).context(|| "set no_new_privs".into())?;
            drop_rest()?;
            load()
        } else {
            load()?;
            drop_rest()
        }
        .map_err(|failure| Failure {
            message: format!("{failure} (as user {})", self.uid),
            ..failure
        })
    }
}

fn identity(launch: &Launch<'_>) -> Result<Identity, Failure> {
    identify(launch.root, &launch.spec.user, &launch.spec.group_add)
}

/// Looks a user up in the image's files, which may be missing, and may be anything.
///
/// # Errors
/// There is no such user or group, or a file is too large.
pub fn identify(
    root: BorrowedFd<'_>,
    user: &str,
    group_add: &[String],
) -> Result<Identity, Failure> {
    let file = |path: &str| match paths::read(root, path, MAX_USER_FILE) {
        Ok(bytes) => Ok(bytes),
        Err(ReadError::Io(_)) => Ok(Vec::new()),
        Err(error @ ReadError::TooLarge(_)) => Err(Failure::new(
            FailureKind::LimitExceeded,
            format!("read {path} of the image: {error}"),
        )),
    };
    let (passwd, group) = (file("/etc/passwd")?, file("/etc/group")?);
    user::resolve(user, group_add, &passwd, &group)
        .map_err(|error| Failure::bad_config(error.to_string()))
}

/// Leads a new session and makes the streams descriptors 0, 1 and 2, owned by the user so that it
/// can open them again by their names in `/dev`.
fn attach_streams(io: &ChildIo, uid: u32) -> Result<(), Failure> {
    let about = || "attach the standard streams".to_owned();
    setsid().context(about)?;
    match io {
        ChildIo::Terminal(terminal) => {
            ioctl_tiocsctty(terminal).context(|| "make the terminal the controlling one".into())?;
            own(terminal, uid).context(about)?;
            for number in 0..3 {
                duplicate(terminal.as_fd(), number).context(about)?;
            }
        }
        ChildIo::Pipes(ends) => {
            for (end, number) in ends.iter().zip(0..) {
                if let Some(end) = end {
                    own(end, uid).context(about)?;
                    duplicate(end.as_fd(), number).context(about)?;
                } else {
                    let flags = if number == 0 {
                        OFlags::RDONLY
                    } else {
                        OFlags::WRONLY
                    };
                    let null =
                        rustix::fs::open("/dev/null", flags | OFlags::CLOEXEC, Mode::empty())
                            .context(|| "open /dev/null".into())?;
                    duplicate(null.as_fd(), number).context(about)?;
                }
            }
        }
    }
    Ok(())
}

fn own(end: &OwnedFd, uid: u32) -> Result<(), Errno> {
    fchown(end, Some(Uid::from_raw(uid)), None::<Gid>)
}

/// Makes `number` a copy of `from` that survives executing.
fn duplicate(from: BorrowedFd<'_>, number: libc::c_int) -> Result<(), Errno> {
    // SAFETY: a system call on descriptors; 0, 1 and 2 are owned by nobody in this process.
    if unsafe { libc::dup2(from.as_raw_fd(), number) } < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// As root, so that a directory which the user may not read is still a working directory.
fn enter_directory(launch: &Launch<'_>) -> Result<(), Failure> {
    let path = &launch.spec.cwd;
    let opened = match &launch.cwd {
        Some(_) => None,
        None => Some(paths::open(launch.root, path, Want::Directory)),
    };
    let about = || format!("chdir to cwd ({path:?}) failed");
    match (&launch.cwd, opened) {
        (Some(cwd), _) => fchdir(cwd).config(about),
        (None, Some(Ok(cwd))) => fchdir(cwd).config(about),
        (None, Some(Err(errno))) => Err(errno).config(about),
        (None, None) => Ok(()),
    }
}

fn set_oom_score(launch: &Launch<'_>) -> Result<(), Failure> {
    let (Some(score), Some(proc)) = (launch.spec.oom_score_adj, launch.proc) else {
        return Ok(());
    };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    openat(proc, "self/oom_score_adj", flags, Mode::empty())
        .and_then(|file| rustix::io::write(&file, score.to_string().as_bytes()))
        .map(|_| ())
        .config(|| format!("set the out-of-memory score to {score}"))
}

fn filter(
    launch: &Launch<'_>,
    capabilities: CapabilitySet,
) -> Result<Option<seccomp::Program>, Failure> {
    let policy = match &launch.spec.seccomp {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::Default => seccomp::Policy::docker_default(capabilities),
        Seccomp::Profile(json) => {
            let context = seccomp::Context {
                capabilities,
                kernel: kernel_version(),
            };
            seccomp::Policy::from_profile(json, &context)
                .map_err(|error| Failure::bad_config(error.to_string()))?
        }
    };
    seccomp::Program::new(&policy)
        .map(Some)
        .map_err(|error| Failure::bad_config(error.to_string()))
}

/// Major and minor version of the kernel.
fn kernel_version() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    let mut next = || numbers.next().and_then(|digits| digits.parse().ok());
    (next().unwrap_or(0), next().unwrap_or(0))
}

fn assume_user(identity: &Identity) -> Result<(), Failure> {
    let groups: Vec<Gid> = identity
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    let about = || format!("become user {} of group {}", identity.uid, identity.gid);
    set_keep_capabilities(true).context(about)?;
    set_thread_groups(&groups).context(about)?;
    set_thread_gid(Gid::from_raw(identity.gid)).context(about)?;
    set_thread_uid(Uid::from_raw(identity.uid)).context(about)
}

/// The environment as it was asked for, and HOME when that names none.
fn environment(spec: &ProcessSpec, identity: &Identity) -> Vec<OsString> {
    let mut env: Vec<OsString> = spec.env.iter().map(OsString::from).collect();
    if variable(&spec.env, "HOME").is_none_or(str::is_empty) {
        env.retain(|entry| entry != "HOME=");
        let mut home = b"HOME=".to_vec();
        home.extend(&identity.home);
        env.push(OsString::from_vec(home));
    }
    env
}

/// The last value of a variable.
fn variable<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter()
        .rev()
        .filter_map(|entry| entry.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// Closes every descriptor but the standard ones and the report, which moves to the first free
/// number. They all close on executing; this is for what runs until then.
fn only_reporter(reporter: Reporter) -> Result<Reporter, (Reporter, Failure)> {
    const NUMBER: libc::c_int = 3;
    let from = reporter.as_fd().as_raw_fd();
    // SAFETY: a system call on descriptors. Whatever owned the number before is never used or
    // dropped from here on: this process executes or exits.
    if from != NUMBER && unsafe { libc::dup3(from, NUMBER, libc::O_CLOEXEC) } < 0 {
        return Err((reporter, Failure::other("move the report's descriptor")));
    }
    std::mem::forget(reporter);
    // SAFETY: the number is now the report's, and nothing else's.
    let reporter = Reporter::new(unsafe { OwnedFd::from_raw_fd(NUMBER) });
    // SAFETY: as above: nothing that owns one of the other descriptors is used again.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, NUMBER + 1, libc::c_uint::MAX, 0) };
    if closed != 0 {
        return Err((reporter, Failure::other("close the agent's descriptors")));
    }
    Ok(reporter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::spec::Stdio;

    fn spec(env: &[&str]) -> ProcessSpec {
        ProcessSpec {
            args: vec!["x".into()],
            env: env.iter().map(ToString::to_string).collect(),
            user: String::new(),
            group_add: Vec::new(),
            cwd: "/".into(),
            terminal: None,
            stdio: Stdio {
                stdin: None,
                stdout: None,
                stderr: None,
            },
            rlimits: Vec::new(),
            capabilities: Vec::new(),
            no_new_privileges: false,
            seccomp: Seccomp::Default,
            oom_score_adj: None,
            probe: None,
        }
    }

    fn identity_with_home(home: &str) -> Identity {
        user::resolve("0", &[], format!("r:x:0:0::{home}:").as_bytes(), b"").unwrap()
    }

    #[test]
    fn home_is_added_when_it_is_missing_or_empty() {
        let table: [(&[&str], &[&str]); 4] = [
            (&["A=1"], &["A=1", "HOME=/root"]),
            (&["HOME=/x"], &["HOME=/x"]),
            (&["HOME=", "A=1"], &["A=1", "HOME=/root"]),
            (&["HOMER=1"], &["HOMER=1", "HOME=/root"]),
        ];
        for (given, want) in table {
            let got = environment(&spec(given), &identity_with_home("/root"));
            assert_eq!(got, want.iter().map(OsString::from).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_last_value_of_a_variable_counts() {
        let env = ["PATH=/a", "X", "PATH=/b=c", "PATHS=/d"].map(String::from);
        assert_eq!(variable(&env, "PATH"), Some("/b=c"));
        assert_eq!(variable(&env, "X"), None);
    }

    #[test]
    fn the_kernels_version_is_read() {
        assert!(kernel_version() > (4, 0));
    }
}
