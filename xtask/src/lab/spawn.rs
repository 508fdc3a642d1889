//! Starts processes with what `std` can't set between fork and exec: the parent's death as a
//! signal, a session with its terminal, a control group. `emulator` and `server` call it.
#![allow(unsafe_code)] // Command::pre_exec is unsafe: it runs between fork and exec.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{self, Pid};

/// How long the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// It is killed when the calling thread ends, however that ends. It gets a group of its
    /// own, so that Ctrl-C goes to the command inside and not to it.
    OfCaller,
    /// It stays, in a session of its own.
    Detached,
}

/// Sets the lifetime of the process that `command` will start.
pub(super) fn set_lifetime(command: &mut Command, lifetime: Lifetime) {
    let parent = unistd::getpid();
    let hook = move || {
        match lifetime {
            Lifetime::Detached => {
                unistd::setsid()?;
            }
            Lifetime::OfCaller => {
                unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have ended before the line above.
                if unistd::getppid() != parent {
                    return Err(Errno::ESRCH.into());
                }
            }
        }
        Ok(())
    };
    // SAFETY: the hook makes system calls only and allocates nothing.
    unsafe { command.pre_exec(hook) };
}

/// Whether standard input is the process's controlling terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terminal {
    None,
    Stdin,
}

/// Puts the process that `command` will start into a session of its own and into the control
/// group whose `cgroup.procs` is `group`.
pub(super) fn set_session(command: &mut Command, terminal: Terminal, mut group: File) {
    let hook = move || {
        // "0" is the writing process itself (cgroup v2, "Processes").
        group.write_all(b"0")?;
        unistd::setsid()?;
        if terminal == Terminal::Stdin {
            // SAFETY: TIOCSCTTY takes an integer; descriptor 0 is the terminal's slave.
            let result = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) };
            Errno::result(result)?;
        }
        Ok(())
    };
    // SAFETY: the hook makes system calls only and allocates nothing.
    unsafe { command.pre_exec(hook) };
}

/// Lets `descriptor` survive exec, so that a child can name it as /proc/self/fd/N.
pub(super) fn inherit(descriptor: impl AsFd) -> nix::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).map(|_| ())
}
