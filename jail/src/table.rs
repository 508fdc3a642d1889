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
    /// A VMM's main thread: serves the devices.
    EventLoop,
    /// The same of a VM of which a template is made: at the end it also reads the VM's state.
    TemplateMaker,
    /// Any thread of a file server.
    Files,
    /// The process that started a file server and waits for its end.
    Waiter,
}

/// Tables with the headings that they have in the documentation, and whose calls they are.
pub const TABLES: [(&str, &[Call], &[Thread]); 2] = [
    ("### System calls of a VMM\n", VMM, EVERY),
    ("### System calls of a file server\n", FILES, SERVERS),
];

impl Thread {
    fn table(self) -> &'static [Call] {
        match self {
            Self::Vcpu | Self::EventLoop | Self::TemplateMaker => VMM,
            Self::Files | Self::Waiter => FILES,
        }
    }

    /// The calls it may make.
    pub fn calls(self) -> impl Iterator<Item = &'static Call> {
        let table = self.table().iter();
        table.filter(move |call| call.threads.contains(&self))
    }

    /// Its name in the table of the documentation.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vcpu => "vcpu",
            Self::EventLoop => "loop",
            Self::TemplateMaker => "template",
            Self::Files => "files",
            Self::Waiter => "waiter",
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
    /// As in the kernel's tables.
    pub name: &'static str,
    /// Its number on x86-64.
    pub number: c_long,
    /// Who.
    pub threads: &'static [Thread],
    /// All must hold.
    pub checks: &'static [Check],
    /// What for.
    pub purpose: &'static str,
}

use Thread::{EventLoop, Files, TemplateMaker, Vcpu, Waiter};

/// Every thread of a VMM.
const EVERY: &[Thread] = &[Vcpu, EventLoop, TemplateMaker];
/// The main thread, whatever becomes of the VM.
const MAIN: &[Thread] = &[EventLoop, TemplateMaker];

/// Every thread of a file server's two processes.
const SERVERS: &[Thread] = &[Files, Waiter];

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

const fn call(
    name: &'static str,
    number: c_long,
    threads: &'static [Thread],
    purpose: &'static str,
) -> Call {
    Call {
        name,
        number,
        threads,
        checks: &[],
        purpose,
    }
}

const fn checked(
    name: &'static str,
    number: c_long,
    threads: &'static [Thread],
    checks: &'static [Check],
    purpose: &'static str,
) -> Call {
    Call {
        name,
        number,
        threads,
        checks,
        purpose,
    }
}

/// The threads of a VMM.
pub const VMM: &[Call] = &[
    checked(
        "ioctl",
        libc::SYS_ioctl,
        &[Vcpu],
        &[Check::OneOf(1, OF_A_VCPU)],
        "run the guest, and tell whether it waits",
    ),
    checked(
        "ioctl",
        libc::SYS_ioctl,
        &[TemplateMaker],
        &[Check::OneOf(1, READS_STATE)],
        "read the state of a VM whose vCPUs have ended",
    ),
    call("read", libc::SYS_read, MAIN, "eventfds and timers"),
    call(
        "write",
        libc::SYS_write,
        EVERY,
        "eventfds, the VM's log, the report at the end",
    ),
    call("readv", libc::SYS_readv, MAIN, "frames of the network"),
    call("preadv", libc::SYS_preadv, MAIN, "blocks of disks"),
    call("pwritev", libc::SYS_pwritev, MAIN, "blocks of disks"),
    checked(
        "fallocate",
        libc::SYS_fallocate,
        MAIN,
        &[Check::OneOf(
            1,
            &[
                ("PUNCH_HOLE + KEEP_SIZE", 3),
                ("ZERO_RANGE + KEEP_SIZE", 0x11),
            ],
        )],
        "discarded blocks",
    ),
    call("fdatasync", libc::SYS_fdatasync, MAIN, "flushed disks"),
    call(
        "recvmsg",
        libc::SYS_recvmsg,
        MAIN,
        "streams, offers of ports, replies of the file server",
    ),
    call(
        "recvfrom",
        libc::SYS_recvfrom,
        MAIN,
        "streams, replies of the file server",
    ),
    checked(
        "sendmsg",
        libc::SYS_sendmsg,
        MAIN,
        &[Check::Bits(2, 0x4000, 0x4000, "`MSG_NOSIGNAL`")],
        "streams, frames of the network",
    ),
    checked(
        "sendto",
        libc::SYS_sendto,
        MAIN,
        &[Check::OneOf(5, &[("addrlen 0", 0)])],
        "requests to the file server",
    ),
    call("shutdown", libc::SYS_shutdown, MAIN, "ends of streams"),
    call("close", libc::SYS_close, MAIN, "streams that ended"),
    checked(
        "fcntl",
        libc::SYS_fcntl,
        MAIN,
        &[Check::OneOf(
            1,
            &[("F_GETFD", 1), ("F_GETFL", 3), ("F_SETFL", 4)],
        )],
        "an offered stream does not block",
    ),
    call("epoll_wait", libc::SYS_epoll_wait, MAIN, "the event loop"),
    call("epoll_ctl", libc::SYS_epoll_ctl, MAIN, "the event loop"),
    checked(
        "tgkill",
        libc::SYS_tgkill,
        MAIN,
        &[Check::OneOf(2, &[("SIGRTMIN", 34)])],
        "kick a vCPU out of the guest",
    ),
    call("getpid", libc::SYS_getpid, MAIN, "name its process there"),
    call(
        "getrandom",
        libc::SYS_getrandom,
        MAIN,
        "the entropy device; keys of hash tables",
    ),
    call(
        "clock_nanosleep",
        libc::SYS_clock_nanosleep,
        &[TemplateMaker],
        "wait for vCPUs to pause",
    ),
    checked(
        "mmap",
        libc::SYS_mmap,
        EVERY,
        &[
            NOT_EXECUTABLE,
            Check::Bits(3, 0x23, 0x22, "`MAP_PRIVATE`, `MAP_ANONYMOUS`"),
        ],
        "the allocator",
    ),
    checked(
        "mprotect",
        libc::SYS_mprotect,
        EVERY,
        &[NOT_EXECUTABLE],
        "the allocator",
    ),
    call("mremap", libc::SYS_mremap, EVERY, "the allocator"),
    call(
        "munmap",
        libc::SYS_munmap,
        EVERY,
        "the allocator; a thread's end",
    ),
    call("brk", libc::SYS_brk, EVERY, "the allocator"),
    checked(
        "madvise",
        libc::SYS_madvise,
        EVERY,
        &[Check::OneOf(2, &[("MADV_DONTNEED", 4)])],
        "memory that the guest gave back; a thread's stack at its end",
    ),
    call("futex", libc::SYS_futex, EVERY, "locks and channels"),
    call(
        "sched_yield",
        libc::SYS_sched_yield,
        EVERY,
        "locks and channels",
    ),
    call(
        "clock_gettime",
        libc::SYS_clock_gettime,
        EVERY,
        "where the vDSO has no clock",
    ),
    call(
        "rt_sigprocmask",
        libc::SYS_rt_sigprocmask,
        EVERY,
        "a thread's end",
    ),
    call(
        "rt_sigreturn",
        libc::SYS_rt_sigreturn,
        EVERY,
        "return from the handler of a kick",
    ),
    call(
        "restart_syscall",
        libc::SYS_restart_syscall,
        EVERY,
        "go on waiting after a stop",
    ),
    call(
        "sigaltstack",
        libc::SYS_sigaltstack,
        EVERY,
        "a thread's end",
    ),
    call("exit", libc::SYS_exit, &[Vcpu], "a thread's end"),
    call(
        "exit_group",
        libc::SYS_exit_group,
        EVERY,
        "the process's end",
    ),
];

/// The processes of a file server. What names a file names it below its shares: there is nothing else
/// in its root.
pub const FILES: &[Call] = &[
    call("recvfrom", libc::SYS_recvfrom, &[Files], "requests"),
    call("sendto", libc::SYS_sendto, &[Files], "replies"),
    call("write", libc::SYS_write, SERVERS, "what went wrong"),
    call(
        "openat",
        libc::SYS_openat,
        &[Files],
        "a place that was looked up, for more",
    ),
    call(
        "openat2",
        libc::SYS_openat2,
        &[Files],
        "a name below a folder",
    ),
    call("close", libc::SYS_close, SERVERS, "what is forgotten"),
    call("statx", libc::SYS_statx, &[Files], "attributes"),
    call(
        "fstatfs",
        libc::SYS_fstatfs,
        &[Files],
        "room of a file system",
    ),
    call(
        "getdents64",
        libc::SYS_getdents64,
        &[Files],
        "names in a folder",
    ),
    call(
        "lseek",
        libc::SYS_lseek,
        &[Files],
        "places in a folder; holes of a file",
    ),
    call(
        "readlinkat",
        libc::SYS_readlinkat,
        &[Files],
        "links, which the guest follows",
    ),
    call("pread64", libc::SYS_pread64, &[Files], "data"),
    call("pwritev2", libc::SYS_pwritev2, &[Files], "data"),
    call(
        "copy_file_range",
        libc::SYS_copy_file_range,
        &[Files],
        "data",
    ),
    call("fallocate", libc::SYS_fallocate, &[Files], "room of a file"),
    call(
        "ftruncate",
        libc::SYS_ftruncate,
        &[Files],
        "a file's length",
    ),
    call(
        "fsync",
        libc::SYS_fsync,
        &[Files],
        "what is to be on the disk",
    ),
    call("fdatasync", libc::SYS_fdatasync, &[Files], "the same"),
    call("syncfs", libc::SYS_syncfs, &[Files], "the same"),
    call("mkdirat", libc::SYS_mkdirat, &[Files], "new names"),
    call(
        "mknodat",
        libc::SYS_mknodat,
        &[Files],
        "new names; no devices, for want of `CAP_MKNOD`",
    ),
    call("symlinkat", libc::SYS_symlinkat, &[Files], "new names"),
    call("linkat", libc::SYS_linkat, &[Files], "new names"),
    call("unlinkat", libc::SYS_unlinkat, &[Files], "names that go"),
    call(
        "renameat2",
        libc::SYS_renameat2,
        &[Files],
        "names that change",
    ),
    call("renameat", libc::SYS_renameat, &[Files], "the same"),
    call("fchmodat", libc::SYS_fchmodat, &[Files], "modes"),
    call("fchownat", libc::SYS_fchownat, &[Files], "owners"),
    call("utimensat", libc::SYS_utimensat, &[Files], "times"),
    call(
        "getxattr",
        libc::SYS_getxattr,
        &[Files],
        "extended attributes",
    ),
    call("setxattr", libc::SYS_setxattr, &[Files], "the same"),
    call("listxattr", libc::SYS_listxattr, &[Files], "the same"),
    call("removexattr", libc::SYS_removexattr, &[Files], "the same"),
    call(
        "setfsuid",
        libc::SYS_setfsuid,
        &[Files],
        "whose what is made is",
    ),
    call("setfsgid", libc::SYS_setfsgid, &[Files], "the same"),
    call(
        "capget",
        libc::SYS_capget,
        &[Files],
        "write without `CAP_FSETID`",
    ),
    call("capset", libc::SYS_capset, &[Files], "the same"),
    call(
        "getrandom",
        libc::SYS_getrandom,
        &[Files],
        "keys of hash tables",
    ),
    call("gettid", libc::SYS_gettid, &[Files], "a thread's end"),
    checked(
        "fcntl",
        libc::SYS_fcntl,
        SERVERS,
        &[Check::OneOf(
            1,
            &[("F_GETFD", 1), ("F_DUPFD_CLOEXEC", 1030)],
        )],
        "a second descriptor of a folder that is read",
    ),
    call("wait4", libc::SYS_wait4, &[Waiter], "the server's end"),
    checked(
        "mmap",
        libc::SYS_mmap,
        SERVERS,
        &[
            NOT_EXECUTABLE,
            Check::Bits(3, 0x23, 0x22, "`MAP_PRIVATE`, `MAP_ANONYMOUS`"),
        ],
        "the allocator",
    ),
    checked(
        "mprotect",
        libc::SYS_mprotect,
        SERVERS,
        &[NOT_EXECUTABLE],
        "the allocator",
    ),
    call("mremap", libc::SYS_mremap, SERVERS, "the allocator"),
    call(
        "munmap",
        libc::SYS_munmap,
        SERVERS,
        "the allocator; a thread's end",
    ),
    call("brk", libc::SYS_brk, SERVERS, "the allocator"),
    checked(
        "madvise",
        libc::SYS_madvise,
        SERVERS,
        &[Check::OneOf(2, &[("MADV_DONTNEED", 4)])],
        "a thread's stack at its end",
    ),
    call("futex", libc::SYS_futex, SERVERS, "locks"),
    call("sched_yield", libc::SYS_sched_yield, SERVERS, "locks"),
    call(
        "rt_sigprocmask",
        libc::SYS_rt_sigprocmask,
        SERVERS,
        "a thread's end",
    ),
    call(
        "restart_syscall",
        libc::SYS_restart_syscall,
        SERVERS,
        "go on waiting after a stop",
    ),
    call(
        "sigaltstack",
        libc::SYS_sigaltstack,
        SERVERS,
        "a thread's end",
    ),
    call("exit", libc::SYS_exit, &[Files], "a thread's end"),
    call(
        "exit_group",
        libc::SYS_exit_group,
        SERVERS,
        "the process's end",
    ),
];

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
                call.name,
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
