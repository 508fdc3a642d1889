//! What a filter lets through and what it kills, asked of the kernel: a child installs it and makes
//! one system call.
#![allow(unsafe_code)] // fork, syscall, waitpid

use bulkhead_jail::filter::Filter;
use bulkhead_jail::table::{Call, Check, TABLES, Thread};

/// Beyond the last number of any kernel so far.
const NUMBERS: std::ops::Range<libc::c_long> = 0..600;

/// `uretprobe` and `uprobe`, which newer kernels make in a traced program's place and end with a signal
/// of their own where they did not: no filter is asked.
const OF_THE_KERNEL: [libc::c_long; 2] = [335, 336];

/// The signal that a child under this filter dies of when it makes the call, 0 for none.
fn signal_of(filter: &Filter, number: libc::c_long, arguments: [u64; 6]) -> i32 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: a call whose arguments no test gives the memory of this process.
    signal_of_child(Some(filter), || unsafe {
        libc::syscall(number, a, b, c, d, e, f);
    })
}

/// The same of a child that makes a call some other way.
fn signal_of_child(filter: Option<&Filter>, act: impl FnOnce()) -> i32 {
    // SAFETY: the child makes system calls only and leaves; this process waits for it.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "fork");
        if child == 0 {
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            if filter.is_some_and(|filter| filter.install().is_err()) {
                libc::_exit(99);
            }
            act();
            libc::_exit(0);
        }
        let mut status = 0;
        while libc::waitpid(child, &raw mut status, 0) < 0 {}
        assert!(
            !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 99,
            "the filter was refused"
        );
        if libc::WIFSIGNALED(status) {
            libc::WTERMSIG(status)
        } else {
            0
        }
    }
}

/// No descriptor and no address; what the checks of a call ask for: of each list of values all, one at a
/// time.
fn arguments(call: &Call) -> Vec<[u64; 6]> {
    let mut all = vec![[u64::MAX, 0, 0, 0, 0, 0]];
    for check in call.checks {
        let (at, values) = match check {
            Check::OneOf(at, values) => {
                let values = values.iter().map(|(_, value)| u64::from(*value));
                (at, values.collect())
            }
            Check::Bits(at, _, value, _) => (at, vec![*value]),
        };
        all = all
            .iter()
            .flat_map(|before| {
                values.iter().map(|value| {
                    let mut with = *before;
                    with[usize::from(*at)] = *value;
                    with
                })
            })
            .collect();
    }
    all
}

/// Another value that its check does not allow.
fn wrong(check: &Check) -> (usize, u64) {
    match check {
        Check::OneOf(at, _) => (usize::from(*at), 0x7fff_fff0),
        Check::Bits(at, mask, value, _) => (usize::from(*at), mask & !value | value & !mask),
    }
}

fn threads() -> impl Iterator<Item = Thread> {
    // A supervisor's calls fail; the third table is of all of these again.
    let own = TABLES.iter().take(2);
    own.flat_map(|(_, _, threads)| *threads).copied()
}

#[test]
fn what_is_in_the_table_passes_and_all_else_kills() {
    for thread in threads() {
        let filter = Filter::new(thread).unwrap();
        let own: Vec<&Call> = thread.calls().collect();
        for number in NUMBERS.filter(|number| !OF_THE_KERNEL.contains(number)) {
            let name = format!("{thread:?}: call {number}");
            let Some(call) = own.iter().find(|call| call.number == number) else {
                assert_eq!(signal_of(&filter, number, [0; 6]), libc::SIGSYS, "{name}");
                continue;
            };
            // There is no frame to return to, so that what comes of it is anyone's guess; the VM tests
            // kick vCPUs, which return by it.
            if number == libc::SYS_rt_sigreturn {
                continue;
            }
            for arguments in arguments(call) {
                let signal = signal_of(&filter, number, arguments);
                assert_ne!(signal, libc::SIGSYS, "{name} {arguments:?}");
            }
        }
    }
}

#[test]
fn each_checked_argument_is_looked_at() {
    for thread in threads() {
        let filter = Filter::new(thread).unwrap();
        for call in thread.calls() {
            for check in call.checks {
                let (at, value) = wrong(check);
                let mut all = arguments(call)[0];
                all[at] = value;
                let signal = signal_of(&filter, call.number, all);
                assert_eq!(signal, libc::SIGSYS, "{thread:?}: {} {check}", call.name());
            }
        }
    }
}

/// The error of a call under a supervisor's filter, 0 for none.
fn error_of(filter: &Filter, number: libc::c_long, arguments: [u64; 6]) -> i32 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: as above.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "fork");
        if child == 0 {
            if filter.install().is_err() {
                libc::_exit(255);
            }
            let failed = libc::syscall(number, a, b, c, d, e, f) == -1;
            libc::_exit(if failed { *libc::__errno_location() } else { 0 });
        }
        let mut status = 0;
        while libc::waitpid(child, &raw mut status, 0) < 0 {}
        assert!(libc::WIFEXITED(status), "call {number}: {status:#x}");
        libc::WEXITSTATUS(status)
    }
}

#[test]
fn a_supervisors_calls_fail_where_they_are_not_in_its_table() {
    let filter = Filter::new(Thread::Supervisor).unwrap();
    let own: Vec<&Call> = Thread::Supervisor.calls().collect();
    for number in NUMBERS.filter(|number| !OF_THE_KERNEL.contains(number)) {
        if own.iter().all(|call| call.number != number) {
            let error = error_of(&filter, number, [0; 6]);
            assert_eq!(error, libc::ENOSYS, "call {number}");
        }
    }
    let mut checked = 0;
    for call in own {
        for check in call.checks {
            let (at, value) = wrong(check);
            let mut all = arguments(call)[0];
            all[at] = value;
            let error = error_of(&filter, call.number, all);
            assert_eq!(error, libc::ENOSYS, "{} {check}", call.name());
            checked += 1;
        }
    }
    assert!(checked >= 5, "{checked}");
    // As it is with those that it may make.
    assert_eq!(
        error_of(&filter, libc::SYS_close, [u64::MAX; 6]),
        libc::EBADF
    );
}

#[test]
fn calls_of_the_other_abis_of_this_cpu_kill() {
    const X32: libc::c_long = 0x4000_0000;
    // A kernel without 32-bit programs has no such entry.
    let has_32_bits = signal_of_child(None, getpid_of_32_bits) == 0;
    for thread in threads() {
        let filter = Filter::new(thread).unwrap();
        let signal = signal_of(&filter, X32 | libc::SYS_close, [u64::MAX; 6]);
        assert_eq!(signal, libc::SIGSYS, "{thread:?}: x32");
        let signal = signal_of_child(Some(&filter), getpid_of_32_bits);
        if has_32_bits {
            assert_eq!(signal, libc::SIGSYS, "{thread:?}: 32 bits");
        } else {
            assert_ne!(signal, 0, "{thread:?}: 32 bits");
        }
    }
}

/// `getpid` by the entry of 32-bit programs.
fn getpid_of_32_bits() {
    const NUMBER: u32 = 20;
    // SAFETY: the call takes no arguments and touches no memory; what it may change is named.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("eax") NUMBER => _,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
}
