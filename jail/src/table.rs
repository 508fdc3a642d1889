//! The system calls that threads may make, and with which arguments: the one place that says so.
//!
//! [`super::filter`] makes filters of it, and `tests/promise.rs` compares it with the table in
//! docs/security.md: whoever adds a call here changes the promise there.

use libc::c_long;

/// Who makes system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// Runs one vCPU.
    Vcpu,
    /// A VMM's main thread: serves the devices that never wait for the host.
    EventLoop,
    /// The same of a VM of which a template is made: at the end it also reads the VM's state.
    TemplateMaker,
    /// Serves one disk of a VM.
    Disk,
    /// Any thread of a file server.
    Files,
    /// The process that started a file server and waits for its end.
    Waiter,
    /// Any thread of a supervisor that has a VM. What it may not call fails.
    Supervisor,
}

/// Tables with the headings that they have in the documentation, and whose calls they are.
pub const TABLES: [(&str, &[Call], &[Thread]); 4] = [
    ("### System calls of a VMM\n", VMM, EVERY),
    ("### System calls of a file server\n", FILES, SERVERS),
    ("### System calls of both\n", EVERYONES, EVERYONE),
    (
        "### System calls of a supervisor\n",
        SUPERVISOR,
        SUPERVISORS,
    ),
];

impl Thread {
    fn table(self) -> &'static [Call] {
        match self {
            Self::Vcpu | Self::EventLoop | Self::TemplateMaker | Self::Disk => VMM,
            Self::Files | Self::Waiter => FILES,
            Self::Supervisor => SUPERVISOR,
        }
    }

    /// The calls it may make.
    pub fn calls(self) -> impl Iterator<Item = &'static Call> {
        let table = self.table().iter().chain(EVERYONES);
        table.filter(move |call| call.threads.contains(&self))
    }

    /// Its name in the table of the documentation.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vcpu => "vcpu",
            Self::EventLoop => "loop",
            Self::TemplateMaker => "template",
            Self::Disk => "disk",
            Self::Files => "files",
            Self::Waiter => "waiter",
            Self::Supervisor => "supervisor",
        }
    }
}

/// What an argument must be.
#[derive(Debug, Clone, Copy)]
pub enum Check {
    /// One of these 32-bit values.
    OneOf(u8, &'static [(&'static str, u32)]),
    /// Has these bits of the mask and no other of it; then the words for it.
    Bits(u8, u64, u64, &'static str),
}

/// A system call and who may make it.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Its number's name in C, such as `SYS_read`.
    constant: &'static str,
    /// Its number on x86-64.
    pub number: c_long,
    /// Who.
    pub threads: &'static [Thread],
    /// All must hold.
    pub checks: &'static [Check],
    /// What for.
    pub purpose: &'static str,
}

impl Call {
    /// As in the kernel's tables.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.constant.strip_prefix("SYS_").unwrap_or(self.constant)
    }
}

use Thread::{Disk, EventLoop, Files, Supervisor, TemplateMaker, Vcpu, Waiter};

/// Every thread of a VMM.
const EVERY: &[Thread] = &[Vcpu, EventLoop, TemplateMaker, Disk];
/// The main thread, whatever becomes of the VM.
const MAIN: &[Thread] = &[EventLoop, TemplateMaker];
/// Those that serve devices.
const LOOPS: &[Thread] = &[EventLoop, TemplateMaker, Disk];

/// Every thread of a file server's two processes.
const SERVERS: &[Thread] = &[Files, Waiter];
/// Those of a supervisor, which are all alike.
const SUPERVISORS: &[Thread] = &[Supervisor];
/// All threads of processes that a guest's bytes reach first.
const EVERYONE: &[Thread] = &[Vcpu, EventLoop, TemplateMaker, Disk, Files, Waiter];

/// `_IO(KVMIO, 0x80)` and others of `linux/kvm.h`.
const OF_A_VCPU: &[(&str, u32)] = &[
    ("KVM_RUN", 0xae80),
    ("KVM_GET_REGS", 0x8090_ae81),
    ("KVM_GET_MP_STATE", 0x8004_ae98),
];

const READS_STATE: &[(&str, u32)] = &[
    ("KVM_GET_MSR_INDEX_LIST", 0xc004_ae02),
    ("KVM_GET_MP_STATE", 0x8004_ae98),
    ("KVM_GET_REGS", 0x8090_ae81),
    ("KVM_GET_SREGS", 0x8138_ae83),
    ("KVM_GET_XSAVE", 0x9000_aea4),
    ("KVM_GET_XCRS", 0x8188_aea6),
    ("KVM_GET_DEBUGREGS", 0x8080_aea1),
    ("KVM_GET_LAPIC", 0x8400_ae8e),
    ("KVM_GET_MSRS", 0xc008_ae88),
    ("KVM_SET_MSRS", 0x4008_ae89),
    ("KVM_GET_VCPU_EVENTS", 0x8040_ae9f),
    ("KVM_GET_IRQCHIP", 0xc208_ae62),
    ("KVM_GET_CLOCK", 0x8030_ae7c),
];

const NOT_EXECUTABLE: Check = Check::Bits(2, 4, 0, "not `PROT_EXEC`");

/// Rows: a call, who makes it, what its arguments must be, what for.
macro_rules! calls {
    ($($call:ident, $threads:expr, [$($check:expr),*], $purpose:literal;)*) => {
        &[$(Call {
            constant: stringify!($call),
            number: libc::$call,
            threads: $threads,
            checks: &[$($check),*],
            purpose: $purpose,
        }),*]
    };
}

/// The threads of a VMM.
pub const VMM: &[Call] = calls! {
    SYS_ioctl, &[Vcpu], [Check::OneOf(1, OF_A_VCPU)], "run the guest, and tell whether it waits";
    SYS_ioctl, &[TemplateMaker], [Check::OneOf(1, READS_STATE)], "read the state of a VM whose vCPUs have ended";
    SYS_read, LOOPS, [], "eventfds and timers";
    SYS_write, EVERY, [], "eventfds, the VM's log, the report at the end";
    SYS_readv, MAIN, [], "frames of the network";
    SYS_preadv, &[Disk], [], "blocks of disks";
    SYS_pwritev, &[Disk], [], "blocks of disks";
    SYS_fallocate, &[Disk], [Check::OneOf( 1, &[ ("PUNCH_HOLE + KEEP_SIZE", 3), ("ZERO_RANGE + KEEP_SIZE", 0x11), ], )], "discarded blocks";
    SYS_fdatasync, &[Disk], [], "flushed disks";
    SYS_recvmsg, MAIN, [], "streams, offers of ports, replies of the file server";
    SYS_recvfrom, MAIN, [], "streams, replies of the file server";
    SYS_sendmsg, MAIN, [Check::Bits(2, 0x4000, 0x4000, "`MSG_NOSIGNAL`")], "streams, frames of the network";
    SYS_sendto, MAIN, [Check::OneOf(5, &[("addrlen 0", 0)])], "requests to the file server";
    SYS_shutdown, MAIN, [], "ends of streams";
    SYS_close, EVERY, [], "streams that ended; the end of a vCPU's or a disk's thread";
    SYS_fcntl, EVERY, [Check::OneOf(1, &[("F_GETFD", 1)])], "an unoptimized build looks before it closes";
    SYS_epoll_wait, LOOPS, [], "wait for events";
    SYS_epoll_ctl, LOOPS, [], "the same";
    SYS_tgkill, MAIN, [Check::OneOf(2, &[("SIGRTMIN", 34)])], "kick a vCPU out of the guest";
    SYS_getpid, MAIN, [], "name its process there";
    SYS_getrandom, MAIN, [], "the entropy device; keys of hash tables";
    SYS_clock_gettime, EVERY, [], "where the vDSO has no clock";
    SYS_rt_sigreturn, &[Vcpu, EventLoop, TemplateMaker], [], "return from the handler of a kick";
};

/// The processes of a file server. What names a file names it below its shares: there is nothing else
/// in its root.
pub const FILES: &[Call] = calls! {
    SYS_recvfrom, &[Files], [], "requests";
    SYS_sendto, &[Files], [], "replies";
    SYS_write, SERVERS, [], "what went wrong";
    SYS_openat, &[Files], [], "a place that was looked up, for more";
    SYS_openat2, &[Files], [], "a name below a folder";
    SYS_close, SERVERS, [], "what is forgotten";
    SYS_statx, &[Files], [], "attributes";
    SYS_fstatfs, &[Files], [], "room of a file system";
    SYS_getdents64, &[Files], [], "names in a folder";
    SYS_lseek, &[Files], [], "places in a folder; holes of a file";
    SYS_readlinkat, &[Files], [], "links, which the guest follows";
    SYS_pread64, &[Files], [], "data";
    SYS_pwritev2, &[Files], [], "data";
    SYS_copy_file_range, &[Files], [], "data";
    SYS_fallocate, &[Files], [], "room of a file";
    SYS_ftruncate, &[Files], [], "a file's length";
    SYS_fsync, &[Files], [], "what is to be on the disk";
    SYS_fdatasync, &[Files], [], "the same";
    SYS_syncfs, &[Files], [], "the same";
    SYS_mkdirat, &[Files], [], "new names";
    SYS_mknodat, &[Files], [], "new names; no devices, for want of `CAP_MKNOD`";
    SYS_symlinkat, &[Files], [], "new names";
    SYS_linkat, &[Files], [], "new names";
    SYS_unlinkat, &[Files], [], "names that go";
    SYS_renameat2, &[Files], [], "names that change";
    SYS_fchmodat, &[Files], [], "modes";
    SYS_fchownat, &[Files], [], "owners";
    SYS_utimensat, &[Files], [], "times";
    SYS_getxattr, &[Files], [], "extended attributes";
    SYS_setxattr, &[Files], [], "the same";
    SYS_listxattr, &[Files], [], "the same";
    SYS_removexattr, &[Files], [], "the same";
    SYS_setfsuid, &[Files], [], "whose what is made is";
    SYS_setfsgid, &[Files], [], "the same";
    SYS_capget, &[Files], [], "write without `CAP_FSETID`";
    SYS_capset, &[Files], [], "the same";
    SYS_getrandom, &[Files], [], "keys of hash tables";
    SYS_gettid, &[Files], [], "a thread's end";
    SYS_fcntl, SERVERS, [Check::OneOf( 1, &[("F_GETFD", 1), ("F_DUPFD_CLOEXEC", 1030)], )], "a second descriptor of a folder that is read";
    SYS_wait4, &[Waiter], [], "the server's end";
};

/// What memory, locks and the end of a thread take, whoever's it is.
pub const EVERYONES: &[Call] = calls! {
    SYS_mmap, EVERYONE, [NOT_EXECUTABLE, Check::Bits(3, 0x23, 0x22, "`MAP_PRIVATE`, `MAP_ANONYMOUS`")], "the allocator";
    SYS_mprotect, EVERYONE, [NOT_EXECUTABLE], "the allocator";
    SYS_mremap, EVERYONE, [], "the allocator";
    SYS_munmap, EVERYONE, [], "the allocator; a thread's end";
    SYS_brk, EVERYONE, [], "the allocator";
    SYS_madvise, EVERYONE, [Check::OneOf(2, &[("MADV_DONTNEED", 4)])], "memory that the guest gave back; a thread's stack at its end";
    SYS_futex, EVERYONE, [], "locks and channels";
    SYS_sched_yield, EVERYONE, [], "locks and channels";
    SYS_rt_sigprocmask, EVERYONE, [], "a thread's end";
    SYS_restart_syscall, EVERYONE, [], "go on waiting after a stop";
    SYS_sigaltstack, EVERYONE, [], "a thread's end";
    SYS_exit, &[Vcpu, Disk, Files], [], "a thread's end";
    SYS_exit_group, EVERYONE, [], "the process's end";
};

/// The calls of a supervisor. Which files it reaches is Landlock's to say; it executes nothing, makes no
/// process and no socket but of its own kind.
pub const SUPERVISOR: &[Call] = calls! {
    SYS_read, SUPERVISORS, [], "the agent's frames, streams, commands, files";
    SYS_write, SUPERVISORS, [], "the same; logs, state";
    SYS_readv, SUPERVISORS, [], "the same";
    SYS_writev, SUPERVISORS, [], "the same";
    SYS_pread64, SUPERVISORS, [], "files";
    SYS_pwrite64, SUPERVISORS, [], "files";
    SYS_openat, SUPERVISORS, [], "files of its container";
    SYS_close, SUPERVISORS, [], "what ended";
    SYS_fstat, SUPERVISORS, [], "files";
    SYS_newfstatat, SUPERVISORS, [], "files";
    SYS_statx, SUPERVISORS, [], "files";
    SYS_fstatfs, SUPERVISORS, [], "files";
    SYS_statfs, SUPERVISORS, [], "files";
    SYS_access, SUPERVISORS, [], "files";
    SYS_faccessat, SUPERVISORS, [], "files";
    SYS_faccessat2, SUPERVISORS, [], "files";
    SYS_readlink, SUPERVISORS, [], "where this command is";
    SYS_readlinkat, SUPERVISORS, [], "the same";
    SYS_lseek, SUPERVISORS, [], "logs";
    SYS_getdents64, SUPERVISORS, [], "folders";
    SYS_flock, SUPERVISORS, [], "locks";
    SYS_fsync, SUPERVISORS, [], "files";
    SYS_fdatasync, SUPERVISORS, [], "files";
    SYS_ftruncate, SUPERVISORS, [], "files";
    SYS_fallocate, SUPERVISORS, [], "a disk";
    SYS_copy_file_range, SUPERVISORS, [], "a disk";
    SYS_sendfile, SUPERVISORS, [], "a disk";
    SYS_splice, SUPERVISORS, [], "streams";
    SYS_mkdir, SUPERVISORS, [], "folders";
    SYS_mkdirat, SUPERVISORS, [], "folders";
    SYS_rmdir, SUPERVISORS, [], "folders";
    SYS_unlink, SUPERVISORS, [], "files";
    SYS_unlinkat, SUPERVISORS, [], "files";
    SYS_rename, SUPERVISORS, [], "files";
    SYS_renameat, SUPERVISORS, [], "files";
    SYS_renameat2, SUPERVISORS, [], "files";
    SYS_linkat, SUPERVISORS, [], "a temporary file's name";
    SYS_umask, SUPERVISORS, [], "files";
    SYS_poll, SUPERVISORS, [], "wait";
    SYS_ppoll, SUPERVISORS, [], "wait";
    SYS_epoll_create1, SUPERVISORS, [], "wait";
    SYS_epoll_ctl, SUPERVISORS, [], "wait";
    SYS_epoll_wait, SUPERVISORS, [], "wait";
    SYS_nanosleep, SUPERVISORS, [], "wait";
    SYS_clock_nanosleep, SUPERVISORS, [], "wait";
    SYS_fcntl, SUPERVISORS, [Check::OneOf(1, &[("F_GETFD", 1), ("F_SETFD", 2), ("F_GETFL", 3), ("F_SETFL", 4), ("F_DUPFD_CLOEXEC", 1030), ("F_ADD_SEALS", 1033)])], "flags of descriptors; no `F_SETOWN`, which has signals sent, and no lock of another container";
    SYS_ioctl, SUPERVISORS, [Check::OneOf(1, &[("FIONBIO", 0x5421), ("FIOCLEX", 0x5451)])], "the same";
    SYS_dup, SUPERVISORS, [], "descriptors";
    SYS_dup2, SUPERVISORS, [], "descriptors";
    SYS_dup3, SUPERVISORS, [], "descriptors";
    SYS_pipe2, SUPERVISORS, [], "streams";
    SYS_eventfd2, SUPERVISORS, [], "deliveries";
    SYS_signalfd4, SUPERVISORS, [], "that it is to end";
    SYS_timerfd_create, SUPERVISORS, [], "time";
    SYS_timerfd_settime, SUPERVISORS, [], "time";
    SYS_memfd_create, SUPERVISORS, [], "what passt says; memory of a file server";
    SYS_socketpair, SUPERVISORS, [Check::OneOf(0, &[("AF_UNIX", 1)]), Check::OneOf(1, &[("SOCK_STREAM, SOCK_CLOEXEC", 0x8_0001), ("SOCK_SEQPACKET, SOCK_CLOEXEC", 0x8_0005)])], "streams, a VM's connections";
    SYS_accept4, SUPERVISORS, [], "commands";
    SYS_setsockopt, SUPERVISORS, [], "sizes and times of its sockets";
    SYS_getsockopt, SUPERVISORS, [], "the same";
    SYS_sendmsg, SUPERVISORS, [], "commands, offers to a VM, orders to the launcher";
    SYS_recvmsg, SUPERVISORS, [], "the same";
    SYS_sendto, SUPERVISORS, [Check::OneOf(5, &[("addrlen 0", 0)])], "streams";
    SYS_recvfrom, SUPERVISORS, [], "streams";
    SYS_shutdown, SUPERVISORS, [], "ends of streams";
    SYS_pidfd_send_signal, SUPERVISORS, [Check::OneOf(1, &[("SIGKILL", 9)]), Check::OneOf(3, &[("no flags", 0)])], "the end of a VM, by the descriptor that it was handed";
    SYS_wait4, SUPERVISORS, [], "the end of a VM";
    SYS_waitid, SUPERVISORS, [], "the same";
    SYS_sched_getaffinity, SUPERVISORS, [], "how many CPUs there are";
    SYS_clone, SUPERVISORS, [Check::Bits(0, 0x7e02_0000 | 0x1_0900, 0x1_0900, "a thread: `CLONE_VM`, `CLONE_THREAD`, `CLONE_SIGHAND`, no namespace")], "threads of streams";
    SYS_prctl, SUPERVISORS, [Check::OneOf(0, &[("PR_SET_NAME", 15)])], "their names";
    SYS_set_robust_list, SUPERVISORS, [], "threads";
    SYS_rseq, SUPERVISORS, [], "threads";
    SYS_rt_sigaction, SUPERVISORS, [], "signals";
    SYS_rt_sigprocmask, SUPERVISORS, [], "signals";
    SYS_rt_sigreturn, SUPERVISORS, [], "signals";
    SYS_sigaltstack, SUPERVISORS, [], "threads";
    SYS_getpid, SUPERVISORS, [], "names of temporary files and groups";
    SYS_gettid, SUPERVISORS, [], "threads";
    SYS_getuid, SUPERVISORS, [], "whose it is";
    SYS_geteuid, SUPERVISORS, [], "the same";
    SYS_getgid, SUPERVISORS, [], "the same";
    SYS_getegid, SUPERVISORS, [], "the same";
    SYS_uname, SUPERVISORS, [], "the host's kernel, for the key of a template";
    SYS_sysinfo, SUPERVISORS, [], "memory";
    SYS_prlimit64, SUPERVISORS, [Check::Bits(2, u64::MAX, 0, "no new ones")], "limits, to read them";
    SYS_clock_gettime, SUPERVISORS, [], "where the vDSO has no clock";
    SYS_getrandom, SUPERVISORS, [], "names; keys of hash tables";
    SYS_mmap, SUPERVISORS, [NOT_EXECUTABLE], "the allocator; threads' stacks";
    SYS_mprotect, SUPERVISORS, [NOT_EXECUTABLE], "the same";
    SYS_mremap, SUPERVISORS, [], "the allocator";
    SYS_munmap, SUPERVISORS, [], "the same";
    SYS_brk, SUPERVISORS, [], "the same";
    SYS_madvise, SUPERVISORS, [], "the same";
    SYS_futex, SUPERVISORS, [], "locks";
    SYS_sched_yield, SUPERVISORS, [], "locks";
    SYS_restart_syscall, SUPERVISORS, [], "go on waiting after a stop";
    SYS_exit, SUPERVISORS, [], "a thread's end";
    SYS_exit_group, SUPERVISORS, [], "the process's end";
};

/// Calls in the union of a VMM's threads, and of a vCPU's: the bounds of the promise.
pub const UNION_MAX: usize = 40;
/// See [`UNION_MAX`].
pub const VCPU_MAX: usize = 20;

/// The rows of the documentation's table, in order.
#[must_use]
pub fn rows(calls: &[Call]) -> Vec<String> {
    calls
        .iter()
        .map(|call| {
            let threads: Vec<_> = call.threads.iter().map(|thread| thread.name()).collect();
            let checks: Vec<_> = call.checks.iter().map(|check| check.to_string()).collect();
            format!(
                "| `{}` | {} | {} | {} |",
                call.name(),
                threads.join(", "),
                checks.join("; "),
                call.purpose
            )
        })
        .collect()
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::OneOf(_, values) => {
                let names: Vec<_> = values.iter().map(|(name, _)| format!("`{name}`")).collect();
                f.write_str(&names.join(", "))
            }
            Self::Bits(_, _, _, words) => f.write_str(words),
        }
    }
}
