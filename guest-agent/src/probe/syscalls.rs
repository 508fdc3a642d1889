//! Which system calls get to the kernel's code: each is made once, with arguments that are wrong.
//!
//! Every argument is -1: no descriptor, no address, no flag that is known, so that a call which the
//! kernel looks at fails with another error than those of a filter (`EPERM`, `ENOSYS`), or does
//! something harmless to the child that makes it. They are made by both of the kernel's entries: that
//! of 64-bit programs, and `int 0x80`, the one of 32-bit programs, which has numbers of its own.
#![allow(unsafe_code)] // fork, and system calls by number

use std::arch::asm;
use std::io::{PipeReader, PipeWriter, Read, Write};

use protocol::probe::{Ia32, Interface, InterfaceName, SYSCALLS_END, Syscalls};

use crate::spawn;

/// A way into the kernel.
struct Entry {
    /// Calls that are not made, and why.
    skipped: &'static [(u16, &'static str)],
    /// Makes one; the error's number, 0 without one.
    make: fn(u16) -> u16,
}

/// `syscall`, with the numbers of x86-64.
#[rustfmt::skip]
const LONG: Entry = Entry {
    skipped: &[
        (15, "rt_sigreturn: takes the stack for a saved state"),
        (34, "pause: waits for a signal"),
        (56, "clone: a second process"),
        (57, "fork: a second process"),
        (58, "vfork: a second process"),
        (60, "exit: ends"),
        (162, "sync: writes all disks back"),
        (230, "clock_nanosleep: may wait"),
        (231, "exit_group: ends"),
    ],
    make,
};

/// `int 0x80`, with the numbers of i386.
#[rustfmt::skip]
const IA32: Entry = Entry {
    skipped: &[
        (1, "exit: ends"),
        (2, "fork: a second process"),
        (29, "pause: waits for a signal"),
        (36, "sync: writes all disks back"),
        (69, "ssetmask: blocks the alarm"),
        (72, "sigsuspend: waits for a signal"),
        (119, "sigreturn: takes the stack for a saved state"),
        (120, "clone: a second process"),
        (173, "rt_sigreturn: takes the stack for a saved state"),
        (190, "vfork: a second process"),
        (252, "exit_group: ends"),
        (267, "clock_nanosleep: may wait"),
        (407, "clock_nanosleep_time64: may wait"),
    ],
    make: make_ia32,
};

/// A call of i386 that every kernel with that entry answers: `getpid`.
const IA32_GETPID: u16 = 20;

/// Seconds after which a child that hangs in a call is ended; the call was reached.
const HANG_S: libc::c_uint = 2;

/// Most children, should one after the other be killed.
const CHILDREN_MAX: u16 = 512;

/// Bytes that say of a call what became of it: its number, and the error's.
const RECORD: usize = 4;

/// By the entry of 64-bit programs.
pub(super) fn tried() -> Syscalls {
    LONG.tried()
}

/// By the entry of 32-bit programs, if there is one.
pub(super) fn tried_ia32() -> Ia32 {
    let alone = in_child(&IA32, IA32_GETPID, IA32_GETPID.saturating_add(1));
    match alone {
        Ok((records, _)) if !records.is_empty() => Ia32::Tried(IA32.tried()),
        Ok((_, Some(libc::SIGSYS))) => Ia32::Killed,
        // The kernel takes the instruction for a fault where it has no such entry.
        _ => Ia32::Absent,
    }
}

impl Entry {
    fn tried(&self) -> Syscalls {
        let end = SYSCALLS_END;
        let mut outcome = Syscalls {
            reached: Vec::new(),
            refused: Vec::new(),
            absent: Vec::new(),
            killed: Vec::new(),
            skipped: Vec::new(),
        };
        let mut next = 0;
        for _ in 0..CHILDREN_MAX {
            if next >= end {
                break;
            }
            let Ok((records, signal)) = in_child(self, next, end) else {
                break;
            };
            if let Some((last, _)) = records.last() {
                next = last.saturating_add(1);
            }
            sort(&records, &mut outcome);
            // Those that are not made say nothing.
            while self.skips(next) {
                next = next.saturating_add(1);
            }
            if next < end {
                // The child ended in this one.
                if signal == Some(libc::SIGALRM) {
                    outcome.reached.push(next);
                } else {
                    outcome.killed.push(next);
                }
                next = next.saturating_add(1);
            }
        }
        outcome.skipped = self.skipped.iter().map(|(number, _)| *number).collect();
        outcome
    }

    fn skips(&self, number: u16) -> bool {
        self.skipped.iter().any(|(skipped, _)| *skipped == number)
    }
}

/// Puts each call where its error says.
fn sort(records: &[(u16, u16)], outcome: &mut Syscalls) {
    for (number, errno) in records {
        match i32::from(*errno) {
            libc::EPERM => outcome.refused.push(*number),
            libc::ENOSYS => outcome.absent.push(*number),
            _ => outcome.reached.push(*number),
        }
    }
}

/// What a child said, and the signal that ended it, if one did.
type Said = (Vec<(u16, u16)>, Option<libc::c_int>);

/// Makes the calls from `next` on in a child, which a hanging call ends with `SIGALRM`.
fn in_child(entry: &Entry, next: u16, end: u16) -> std::io::Result<Said> {
    let (reader, writer) = std::io::pipe()?;
    // SAFETY: the probe has one thread here, so the child may go on as any process.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => {
            drop(reader);
            make_all(entry, next, end, writer);
            spawn::exit(0)
        }
        pid if pid > 0 => {
            drop(writer);
            let records = read_all(reader);
            let mut status = 0;
            // SAFETY: waits for the child above; the status is an int of ours.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
            Ok((records, signal))
        }
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn make_all(entry: &Entry, next: u16, end: u16, mut writer: PipeWriter) {
    for number in next..end {
        if entry.skips(number) {
            continue;
        }
        // SAFETY: sets this process's alarm.
        unsafe { libc::alarm(HANG_S) };
        let errno = (entry.make)(number);
        let mut record = [0; RECORD];
        let (first, second) = record.split_at_mut(2);
        first.copy_from_slice(&number.to_le_bytes());
        second.copy_from_slice(&errno.to_le_bytes());
        if writer.write_all(&record).is_err() {
            return;
        }
    }
}

/// See [`LONG`].
fn make(number: u16) -> u16 {
    let number = i64::from(number);
    // SAFETY: no argument is an address that this process has memory at, so nothing of it is written
    // or unmapped; the calls that would end or copy the process are not made.
    let answer = unsafe { libc::syscall(number, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64) };
    if answer != -1 {
        return 0;
    }
    let errno = std::io::Error::last_os_error().raw_os_error();
    errno
        .and_then(|errno| u16::try_from(errno).ok())
        .unwrap_or(0)
}

/// See [`IA32`].
fn make_ia32(number: u16) -> u16 {
    let answer: i32;
    // SAFETY: as in `make`; the kernel gives back all registers but `eax`, and the two that the compiler
    // wants for itself are put back from the stack.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "mov ebx, -1",
            "mov ebp, -1",
            "int 0x80",
            "pop rbp",
            "pop rbx",
            inlateout("eax") i32::from(number) => answer,
            in("ecx") -1_i32,
            in("edx") -1_i32,
            in("esi") -1_i32,
            in("edi") -1_i32,
            lateout("r8") _,
            lateout("r9") _,
            lateout("r10") _,
            lateout("r11") _,
        );
    }
    // The kernel's errors are -1 to -4095; every other number is an answer.
    answer
        .checked_neg()
        .and_then(|errno| u16::try_from(errno).ok())
        .filter(|errno| *errno < 4096)
        .unwrap_or(0)
}

fn read_all(mut reader: PipeReader) -> Vec<(u16, u16)> {
    let mut bytes = Vec::new();
    let _ = reader.read_to_end(&mut bytes);
    let (records, _) = bytes.as_chunks::<RECORD>();
    records
        .iter()
        .map(|[a, b, c, d]| (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d])))
        .collect()
}

/// Tries the interfaces that attackers of kernels look for, each in a child.
pub(super) fn interfaces() -> Vec<Interface> {
    use InterfaceName::{Bpf, IoUring, Keyrings, Netfilter, Perf, UserNamespaces};
    [
        // KEYCTL_GET_KEYRING_ID of the session's keyring.
        (Keyrings, [libc::SYS_keyctl, 0, -3, 1]),
        // BPF_MAP_CREATE with attributes of no size.
        (Bpf, [libc::SYS_bpf, 0, 0, 0]),
        (IoUring, [libc::SYS_io_uring_setup, 1, 0, 0]),
        (
            UserNamespaces,
            [libc::SYS_unshare, i64::from(libc::CLONE_NEWUSER), 0, 0],
        ),
        (Perf, [libc::SYS_perf_event_open, 0, 0, -1]),
        (
            Netfilter,
            [
                libc::SYS_socket,
                i64::from(libc::AF_NETLINK),
                i64::from(libc::SOCK_RAW),
                i64::from(libc::NETLINK_NETFILTER),
            ],
        ),
    ]
    .into_iter()
    .map(|(name, [number, a, b, c])| Interface {
        name,
        errno: match in_one_child(number, a, b, c) {
            // Nothing but wrong arguments stood in the way.
            Some(0 | libc::EFAULT | libc::EINVAL | libc::ENOKEY) => None,
            Some(errno) => Some(errno),
            // Killed for it.
            None => Some(libc::EPERM),
        },
    })
    .collect()
}

fn in_one_child(number: i64, a: i64, b: i64, c: i64) -> Option<i32> {
    // SAFETY: as in `in_child`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: the arguments are numbers or null, which the kernel checks.
        let answer = unsafe { libc::syscall(number, a, b, c, 0_i64, 0_i64) };
        let errno = std::io::Error::last_os_error().raw_os_error();
        let errno = if answer == -1 {
            errno.unwrap_or(libc::EIO)
        } else {
            0
        };
        spawn::exit(errno)
    }
    let mut status = 0;
    // SAFETY: waits for the child above; the status is an int of ours.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    (waited == pid && libc::WIFEXITED(status)).then(|| libc::WEXITSTATUS(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_where_its_error_says() {
        let mut outcome = protocol::probe::sample().syscalls;
        outcome.reached.clear();
        outcome.refused.clear();
        outcome.absent.clear();
        sort(&[(0, 9), (1, 0), (2, 1), (3, 38)], &mut outcome);
        assert_eq!(outcome.reached, [0, 1]);
        assert_eq!(outcome.refused, [2]);
        assert_eq!(outcome.absent, [3]);
    }

    #[test]
    fn a_wrong_call_fails_with_the_kernels_own_error() {
        // read and fsync of no descriptor.
        assert_eq!((make(0), make(74)), (9, 9));
    }

    #[test]
    fn skipped_calls_are_in_order_and_have_a_reason() {
        for entry in [LONG, IA32] {
            let skipped = entry.skipped;
            assert!(skipped.is_sorted());
            assert!(skipped.iter().all(|(_, why)| why.contains(": ")));
            assert!(skipped.iter().all(|(number, _)| *number < SYSCALLS_END));
        }
    }

    #[test]
    fn the_32_bit_entry_has_numbers_of_its_own() {
        match tried_ia32() {
            Ia32::Tried(calls) => {
                // read (3) and close (6) of no descriptor; 17 was `break`, which no kernel has.
                assert!(calls.reached.contains(&3) && calls.reached.contains(&6));
                assert!(calls.absent.contains(&17), "{:?}", calls.absent);
                assert!(calls.killed.is_empty(), "{:?}", calls.killed);
                let tried = calls.reached.len() + calls.refused.len() + calls.absent.len();
                assert_eq!(tried + IA32.skipped.len(), usize::from(SYSCALLS_END));
            }
            // What a kernel without it does with the instruction.
            Ia32::Absent => {
                let (records, signal) = in_child(&IA32, 3, 4).unwrap();
                assert_eq!((records.len(), signal), (0, Some(libc::SIGSEGV)));
            }
            Ia32::Killed => {
                let (records, signal) = in_child(&IA32, 3, 4).unwrap();
                assert_eq!((records.len(), signal), (0, Some(libc::SIGSYS)));
            }
        }
    }
}
