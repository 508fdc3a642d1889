//! The lock of a container, `configs/<id>/lock`: who has it says so in the file.
//!
//! ```text
//! (nothing)          a command that is about to hand it to a supervisor, or has just taken it
//! +                  the same, and the host's policy has room for its VM
//! <pid>              the container's supervisor
//! <pid> files <vm>   a command that is at the files of a container that is stopped, and its VM
//! ```
//! An open file description lock (fcntl(2)), so that it goes with the last process that has it.
//! Called by [`super::state`] and by those who read a [`Holder`].

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::proc;
use super::vm::VMM_VERB;

/// Longest text in bytes: two numbers and a word.
const TEXT_BYTES_MAX: usize = 64;

/// Of a command whose VM has room. Each number that may follow hides it.
const ADMITTED: &str = "+";

/// The word behind a command's number.
const FILES: &str = "files";

/// The lock of a container, in `configs/<id>`, held until it is dropped by everyone it was handed to.
#[derive(Debug)]
pub struct Lock(File);

/// Who holds a container's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A command that has not handed it over yet.
    Unsigned,
    /// So, and its VM is counted already.
    Admitted,
    /// The supervisor.
    Supervisor(Pid),
    /// A command that is at the files of a container that is stopped.
    Files {
        /// The command.
        command: Pid,
        /// Its VM, once there is one.
        vm: Option<Pid>,
    },
}

impl Lock {
    /// Takes the lock in `file`, or `None` when another holds it.
    ///
    /// # Errors
    /// When the kernel can't lock, or the file can't be written.
    pub fn take(file: File) -> Result<Option<Self>> {
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
            Err(error) => return Err(error).context("lock a container"),
        }
        // Whoever held it before does not any more.
        file.set_len(0).context("write the lock of a container")?;
        Ok(Some(Self(file)))
    }

    /// The lock as a process got it that it was handed to.
    #[must_use]
    pub fn inherited(file: File) -> Self {
        Self(file)
    }

    /// Says that there is room for the VM that is about to be started: from now on it is counted.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn admit(&self) -> Result<()> {
        self.write(ADMITTED)
    }

    /// Names this process as the container's supervisor, for those who must end it.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn sign(&self) -> Result<()> {
        self.write(&std::process::id().to_string())
    }

    /// Says that this process is at the container's files, and by which VM.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn sign_for_files(&self, vm: Option<u32>) -> Result<()> {
        let vm = vm.map(|pid| format!(" {pid}")).unwrap_or_default();
        self.write(&format!("{} {FILES}{vm}", std::process::id()))
    }

    fn write(&self, text: &str) -> Result<()> {
        self.0
            .write_all_at(text.as_bytes(), 0)
            .context("write the lock of a container")
    }
}

impl From<Lock> for OwnedFd {
    fn from(lock: Lock) -> Self {
        lock.0.into()
    }
}

impl Holder {
    /// Who says in `file` that it holds the lock.
    ///
    /// # Errors
    /// When the file can't be read, or says something else.
    pub fn read(file: &File) -> Result<Self> {
        let mut bytes = [0; TEXT_BYTES_MAX];
        let len = file
            .read_at(&mut bytes, 0)
            .context("read the lock of a container")?;
        let text = String::from_utf8_lossy(bytes.get(..len).unwrap_or_default());
        let words: Vec<&str> = text.split_whitespace().collect();
        let pid = |word: &str| match word.parse() {
            Ok(pid) if pid > 1 => Ok(Pid::from_raw(pid)),
            _ => bail!("the lock of a container says {text:?}"),
        };
        match words.as_slice() {
            [] => Ok(Self::Unsigned),
            [word] if *word == ADMITTED => Ok(Self::Admitted),
            [supervisor] => Ok(Self::Supervisor(pid(supervisor)?)),
            [command, word] if *word == FILES => Ok(Self::Files {
                command: pid(command)?,
                vm: None,
            }),
            [command, word, vm] if *word == FILES => Ok(Self::Files {
                command: pid(command)?,
                vm: Some(pid(vm)?),
            }),
            _ => bail!("the lock of a container says {text:?}"),
        }
    }

    /// Ends a supervisor, or the VM of a command, and whether there was one: `file` says so, in words of
    /// the container's supervisor, which may name anybody when it was taken over. So it is only ended
    /// if it has that file open, or is a VMM and the child of who has.
    ///
    /// # Errors
    /// When this user may not end it.
    pub fn end(self, file: &File) -> Result<bool> {
        let (holder, victim) = match self {
            Self::Supervisor(supervisor) => (supervisor, supervisor),
            Self::Files {
                command,
                vm: Some(vm),
            } => (command, vm),
            Self::Unsigned | Self::Admitted | Self::Files { vm: None, .. } => return Ok(false),
        };
        let about = || format!("end process {victim}");
        let number = rustix::process::Pid::from_raw(victim.as_raw()).with_context(about)?;
        // From here on the number is no other process's, or the descriptor is of none.
        let process = match pidfd_open(number, PidfdFlags::empty()) {
            // Linux before 6.16 says INVAL of one that has ended while its number is a session's still.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(false),
            process => process.with_context(about)?,
        };
        let is_vm = || parent(victim) == Some(holder) && has_argument(victim, VMM_VERB);
        let is_its = has_open(holder, file) && (victim == holder || is_vm());
        if is_its {
            match pidfd_send_signal(&process, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error).with_context(about),
            }
        }
        Ok(is_its)
    }
}

/// Whether a process has this very file open. One that has ended has none.
fn has_open(process: Pid, file: &File) -> bool {
    let Ok(wanted) = file.metadata() else {
        return false;
    };
    let open = std::fs::read_dir(format!("/proc/{process}/fd"));
    // What a descriptor stands for, as the kernel leads there.
    let mut found = open
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| std::fs::metadata(entry.path()).ok());
    found.any(|it| (it.dev(), it.ino()) == (wanted.dev(), wanted.ino()))
}

fn has_argument(process: Pid, argument: &str) -> bool {
    let arguments = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let mut arguments = arguments.split(|byte| *byte == 0);
    arguments.any(|one| one == argument.as_bytes())
}

fn parent(process: Pid) -> Option<Pid> {
    let parent = proc::parent(process.as_raw().try_into().ok()?)?;
    Some(Pid::from_raw(parent.try_into().ok()?))
}

/// Whether anybody holds the lock in `file`. Asks without taking it, so that it is in nobody's way.
///
/// # Errors
/// When the kernel can't tell.
pub fn is_held(file: &File) -> Result<bool> {
    let mut found = whole_file(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).context("ask for the lock of a container")?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

/// A lock on all of a file, as `fcntl` takes it.
fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        // F_RDLCK, F_WRLCK and F_UNLCK are 0, 1 and 2.
        l_type: i16::try_from(kind).unwrap_or(0),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn the_holder_says_what_it_is() {
        let file = tempfile::tempfile().unwrap();
        assert!(!is_held(&file).unwrap());
        let lock = Lock::take(file.try_clone().unwrap()).unwrap().unwrap();
        let holder = || Holder::read(&file).unwrap();
        assert_eq!(holder(), Holder::Unsigned);
        lock.sign_for_files(None).unwrap();
        let command = Pid::this();
        assert_eq!(holder(), Holder::Files { command, vm: None });
        lock.sign_for_files(Some(77)).unwrap();
        let vm = Some(Pid::from_raw(77));
        assert_eq!(holder(), Holder::Files { command, vm });
        let lock = Lock::take(OwnedFd::from(lock).into()).unwrap().unwrap();
        assert_eq!(holder(), Holder::Unsigned);
        lock.admit().unwrap();
        assert_eq!(holder(), Holder::Admitted);
        lock.sign().unwrap();
        assert_eq!(holder(), Holder::Supervisor(Pid::this()));
    }

    #[test]
    fn only_who_has_the_lock_is_ended_or_its_child() {
        let start = |stdin: Stdio, name: &str| {
            let mut sleep = Command::new("sleep");
            sleep.arg0(name).arg("600").stdin(stdin).spawn().unwrap()
        };
        let file = tempfile::tempfile().unwrap();
        let mut owner = start(file.try_clone().unwrap().into(), "sleep");
        let mut stranger = start(Stdio::null(), "sleep");
        let mut vm = start(Stdio::null(), VMM_VERB);
        let pid = |child: &Child| Pid::from_raw(child.id().try_into().unwrap());
        // Its arguments come after the file that it executes.
        while !has_argument(pid(&vm), VMM_VERB) {
            std::thread::yield_now();
        }
        // Both are this process's children, which has the file open; neither is the other's.
        let names = |holder: Holder| holder.end(&file).unwrap();
        let at_files = |command, vm| Holder::Files { command, vm };
        assert!(!names(Holder::Unsigned));
        assert!(!names(Holder::Supervisor(pid(&stranger))));
        assert!(!names(at_files(pid(&owner), Some(pid(&stranger)))));
        assert!(!names(at_files(pid(&stranger), Some(pid(&owner)))));
        assert!(!names(at_files(pid(&owner), None)));
        assert!(stranger.try_wait().unwrap().is_none() && owner.try_wait().unwrap().is_none());
        assert!(names(Holder::Supervisor(pid(&owner))));
        assert_eq!(owner.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(!names(Holder::Supervisor(pid(&owner))));
        assert!(!names(at_files(Pid::this(), Some(pid(&stranger)))));
        assert!(names(at_files(Pid::this(), Some(pid(&vm)))));
        assert_eq!(vm.wait().unwrap().signal(), Some(libc::SIGKILL));
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    /// Its number is its session's still, as a supervisor's is while a process of its is there.
    #[test]
    fn who_has_ended_is_nobody_while_its_session_lives() {
        let file = tempfile::tempfile().unwrap();
        let mut leader = Command::new("setsid")
            .args(["sh", "-c", "sleep 600 > /dev/null & echo $!"])
            .stdin(file.try_clone().unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = String::new();
        let mut told = leader.stdout.take().unwrap();
        std::io::Read::read_to_string(&mut told, &mut child).unwrap();
        let number = leader.id().try_into().unwrap();
        assert!(leader.wait().unwrap().success());
        let child = Pid::from_raw(child.trim().parse().unwrap());
        assert_eq!(nix::unistd::getsid(Some(child)), Ok(Pid::from_raw(number)));
        let ended = Holder::Supervisor(Pid::from_raw(number)).end(&file);
        nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
        assert!(!ended.unwrap());
    }

    #[test]
    fn what_names_nobody_is_an_error() {
        for text in ["x", "1", "-5", "77 vm", "77 files 0", "77 files 78 79"] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(text.as_bytes(), 0).unwrap();
            Holder::read(&file).unwrap_err();
        }
    }
}
