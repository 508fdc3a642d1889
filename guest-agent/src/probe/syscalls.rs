//! Which system calls get to the kernel's code: each is made once, with arguments that are wrong.
//!
//! Every argument is -1: no descriptor, no address, no flag that is known, so that a call which the
//! kernel looks at fails with another error than those of a filter (`EPERM`, `ENOSYS`), or does
//! something harmless to the child that makes it.
#![allow(unsafe_code)] // fork, and system calls by number

use std::io::{PipeReader, PipeWriter, Read, Write};

use protocol::probe::{Interface, InterfaceName, Syscalls};

use crate::spawn;

/// Calls that are not made, and why (x86-64).
#[rustfmt::skip]
const SKIPPED: [(u16, &str); 9] = [
    (15, "rt_sigreturn: takes the stack for a saved state"),
    (34, "pause: waits for a signal"),
    (56, "clone: a second process"),
    (57, "fork: a second process"),
    (58, "vfork: a second process"),
    (60, "exit: ends"),
    (162, "sync: writes all disks back"),
    (230, "clock_nanosleep: may wait"),
    (231, "exit_group: ends"),
];

/// Seconds after which a child that hangs in a call is ended; the call was reached.
const HANG_S: libc::c_uint = 2;

/// Most children, should one after the other be killed.
const CHILDREN_MAX: u16 = 512;

/// Bytes that say of a call what became of it: its number, and the error's.
const RECORD: usize = 4;

pub(super) fn tried(end: u16) -> Syscalls {
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
        let Ok((records, alarmed)) = in_child(next, end) else {
            break;
        };
        if let Some((last, _)) = records.last() {
            next = last.saturating_add(1);
        }
        sort(&records, &mut outcome);
        // Those that are not made say nothing.
        while is_skipped(next) {
            next = next.saturating_add(1);
        }
        if next < end {
            // The child ended in this one.
            if alarmed {
                outcome.reached.push(next);
            } else {
                outcome.killed.push(next);
            }
            next = next.saturating_add(1);
        }
    }
    outcome.skipped = SKIPPED
        .iter()
        .map(|(number, _)| *number)
        .filter(|number| *number < end)
        .collect();
    outcome
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

fn is_skipped(number: u16) -> bool {
    SKIPPED.iter().any(|(skipped, _)| *skipped == number)
}

/// Makes the calls from `next` on in a child: what it said, and whether a hanging call ended it.
fn in_child(next: u16, end: u16) -> std::io::Result<(Vec<(u16, u16)>, bool)> {
    let (reader, writer) = std::io::pipe()?;
    // SAFETY: the probe has one thread here, so the child may go on as any process.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => {
            drop(reader);
            make_all(next, end, writer);
            spawn::exit(0)
        }
        pid if pid > 0 => {
            drop(writer);
            let records = read_all(reader);
            let mut status = 0;
            // SAFETY: waits for the child above; the status is an int of ours.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            let alarmed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGALRM;
            Ok((records, alarmed))
        }
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn make_all(next: u16, end: u16, mut writer: PipeWriter) {
    for number in next..end {
        if is_skipped(number) {
            continue;
        }
        // SAFETY: sets this process's alarm.
        unsafe { libc::alarm(HANG_S) };
        let errno = make(i64::from(number));
        let mut record = [0; RECORD];
        let (first, second) = record.split_at_mut(2);
        first.copy_from_slice(&number.to_le_bytes());
        second.copy_from_slice(&errno.to_le_bytes());
        if writer.write_all(&record).is_err() {
            return;
        }
    }
}

/// Makes one call; the error's number, 0 without one.
fn make(number: i64) -> u16 {
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
        assert!(SKIPPED.is_sorted());
        assert!(SKIPPED.iter().all(|(_, why)| why.contains(": ")));
    }
}
