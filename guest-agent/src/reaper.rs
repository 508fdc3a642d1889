//! `--init`: PID 1 of the container in front of its process.
//!
//! Called by [`crate::launch`] in the child, after it has given up everything that the container
//! may not have. It starts the program and executes this program's file under another name, which
//! [`crate::mode`] knows: so that its streams, environment and arguments can be looked at in `/proc/1` as
//! those of any process, and none of the agent's memory. There it reaps what is orphaned, forwards
//! signals, and ends as the program ends. No path of the container leads to that file.
// Signal sets and fork have no safe wrappers.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use rustix::io::Errno;

use crate::failure::{Context, Failure};
use crate::program::Program;
use crate::spawn::{self, Reporter};

/// Its name in `/proc/1`, as Docker's has it.
pub const NAME: &str = "docker-init";

/// The words in front of the program's own in `/proc/1/cmdline`.
pub const ARGUMENTS: [&str; 2] = ["/sbin/docker-init", "--"];

/// Signals that tell this process of its own faults or belong to terminal handling: never forwarded.
const OWN: [libc::c_int; 9] = [
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Descriptors from here on are closed in PID 1.
const FIRST_PRIVATE: libc::c_uint = 3;

/// Where it is told, when it has executed, which child the program is.
const CHILD: libc::c_int = 3;

/// Starts the program in a child and becomes its PID 1, which is `own`.
///
/// `terminal` says whether standard input is a terminal, which the program's process group then gets.
pub fn run(program: &Program, own: &Program, reporter: Reporter, terminal: bool) -> ! {
    let blocked = all_signals();
    let mut before = MaybeUninit::uninit();
    // SAFETY: both pointers are to whole signal sets, the second for the kernel to fill.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const blocked, before.as_mut_ptr()) };
    // SAFETY: this process has one thread, so that the child may go on with everything it finds.
    let child = unsafe { libc::fork() };
    match child {
        0 => {
            // A group of its own, so that a signal for it is not one for PID 1.
            // SAFETY: plain system calls on this process and its terminal, and sets that were filled
            // before.
            unsafe {
                libc::setpgid(0, 0);
                if terminal {
                    // A background group that takes the terminal is stopped by this signal, unless
                    // it is blocked.
                    let stop = only(libc::SIGTTOU);
                    libc::sigprocmask(libc::SIG_BLOCK, &raw const stop, std::ptr::null_mut());
                    libc::tcsetpgrp(0, libc::getpgrp());
                }
                libc::sigprocmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
            }
            reporter.started();
            reporter.give_up(&program.exec())
        }
        child if child > 0 => {
            drop(reporter);
            // SAFETY: closes descriptors that nothing in this function uses from here on.
            unsafe { libc::syscall(libc::SYS_close_range, FIRST_PRIVATE, libc::c_uint::MAX, 0) };
            if tell(child) {
                // What is left where a filter of the user's denies it: what it is already.
                let _ = own.exec();
                // SAFETY: as above.
                unsafe { libc::close(CHILD) };
            }
            begin(child)
        }
        _ => {
            let errno = Errno::from_io_error(&std::io::Error::last_os_error());
            let failed: Result<(), Errno> = Err(errno.unwrap_or(Errno::IO));
            let failure = failed.context(|| "fork the process behind init".into());
            reporter.give_up(&failure.err().unwrap_or_else(|| Failure::other("fork")))
        }
    }
}

/// Leaves the child's number where [`go_on`] finds it.
fn tell(child: libc::pid_t) -> bool {
    let mut ends = [0; 2];
    // SAFETY: the array is for two descriptors, which nothing in this process owns; a pipe takes four
    // bytes at once.
    unsafe {
        if libc::pipe(ends.as_mut_ptr()) != 0 {
            return false;
        }
        let [read, write] = ends;
        let bytes = child.to_ne_bytes();
        let written = libc::write(write, bytes.as_ptr().cast(), bytes.len());
        libc::close(write);
        // Everything from here on was closed.
        read == CHILD && usize::try_from(written) == Ok(bytes.len())
    }
}

/// PID 1 once it has executed. Whoever else starts the agent's file by this name has a process that does
/// no more than its caller may.
pub fn go_on() -> ! {
    let mut bytes = [0; size_of::<libc::pid_t>()];
    // SAFETY: the buffer is as long as it says; the descriptor is used by nothing else.
    let read = unsafe {
        let read = libc::read(CHILD, bytes.as_mut_ptr().cast(), bytes.len());
        libc::close(CHILD);
        read
    };
    let child = libc::pid_t::from_ne_bytes(bytes);
    // Never a group, nor everybody.
    if usize::try_from(read) != Ok(bytes.len()) || child < 1 {
        spawn::exit(1);
    }
    begin(child)
}

fn begin(child: libc::pid_t) -> ! {
    let _ = rustix::thread::set_name(c"docker-init");
    let signals = all_signals();
    // SAFETY: the set is a whole one. They have been blocked since before the child was made.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const signals, std::ptr::null_mut()) };
    supervise(child, &signals)
}

/// Waits for signals until `child` has ended, and ends like it.
fn supervise(child: libc::pid_t, signals: &libc::sigset_t) -> ! {
    loop {
        // SAFETY: the set is valid; no information about the signal is asked for.
        let signal = unsafe { libc::sigwaitinfo(signals, std::ptr::null_mut()) };
        if signal == libc::SIGCHLD {
            if let Some(code) = reap(child) {
                spawn::exit(code);
            }
        } else if signal > 0 {
            // SAFETY: sends a signal to a process that has not been waited for.
            unsafe { libc::kill(child, signal) };
        }
    }
}

/// Reaps what has ended; the exit code once `child` has.
fn reap(child: libc::pid_t) -> Option<libc::c_int> {
    let mut code = None;
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to an int of ours.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid <= 0 {
            return code;
        }
        if pid == child {
            code = Some(exit_code(status));
        }
    }
}

/// What a shell would report: the code, or 128 plus the signal.
fn exit_code(status: libc::c_int) -> libc::c_int {
    if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    }
}

/// Every signal but those of [`OWN`].
fn all_signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the whole set, sigdelset works on an initialised one.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for signal in OWN {
            libc::sigdelset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// One signal.
fn only(signal: libc::c_int) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set, sigaddset works on an initialised one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_a_shells() {
        assert_eq!(exit_code(0), 0);
        assert_eq!(exit_code(7 << 8), 7);
        assert_eq!(exit_code(libc::SIGTERM), 143);
        assert_eq!(exit_code(libc::SIGKILL), 137);
    }

    #[test]
    fn signals_of_its_own_faults_are_not_forwarded() {
        let set = all_signals();
        // SAFETY: the set is initialised.
        let has = |signal| unsafe { libc::sigismember(&raw const set, signal) } == 1;
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD, libc::SIGWINCH] {
            assert!(has(signal));
        }
        assert!(OWN.iter().all(|signal| !has(*signal)));
    }
}
