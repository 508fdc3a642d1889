//! The system calls of Linux 6.12: their numbers on x86-64 and i386, and when Docker's default
//! profile allows them.
//!
//! Read by [`super::default`] row by row and by [`super::profile`] name by name. The numbers are
//! those of the kernel's `arch/x86/entry/syscalls/syscall_{64,32}.tbl`, the last column is the
//! default profile of engine 28.2. A table and not the profile's JSON, since every container's
//! start would parse that.

use rustix::thread::CapabilitySet;

/// When the default profile allows a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Always.
    Always,
    /// Never.
    Never,
    /// When the process may have one of these capabilities.
    With(CapabilitySet),
    /// `socket`: any family but vsock.
    Socket,
    /// `personality`: the values that only change what `uname` and address layout say.
    Personality,
    /// `clone`: without `CAP_SYS_ADMIN` only when it makes no namespace.
    Clone,
    /// `clone3`: without `CAP_SYS_ADMIN` it does not exist, since a filter can't see its flags.
    Clone3,
}

/// A system call: its name, its numbers on x86-64 and i386, and when the default allows it.
pub(super) type Row = (&'static str, u16, u16, Allowed);

/// The number of a system call that an architecture lacks.
pub(super) const ABSENT: u16 = u16::MAX;

/// One more than the largest number in the table.
#[cfg(test)]
pub(super) const NUMBERS: usize = 463;

/// The row of a system call.
pub(super) fn row(name: &str) -> Option<&'static Row> {
    let index = TABLE.binary_search_by(|row| row.0.cmp(name)).ok()?;
    TABLE.get(index)
}

const fn with(set: CapabilitySet) -> Allowed {
    Allowed::With(set)
}

const X: u16 = ABSENT;
const Y: Allowed = Allowed::Always;
const N: Allowed = Allowed::Never;
const SOCKET: Allowed = Allowed::Socket;
const PERSONALITY: Allowed = Allowed::Personality;
const CLONE: Allowed = Allowed::Clone;
const CLONE3: Allowed = Allowed::Clone3;
const BPF: Allowed = with(CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN));
const DAC_READ_SEARCH: Allowed = with(CapabilitySet::DAC_READ_SEARCH);
const PERFMON: Allowed = with(CapabilitySet::PERFMON.union(CapabilitySet::SYS_ADMIN));
const SYSLOG: Allowed = with(CapabilitySet::SYSLOG.union(CapabilitySet::SYS_ADMIN));
const SYS_ADMIN: Allowed = with(CapabilitySet::SYS_ADMIN);
const SYS_BOOT: Allowed = with(CapabilitySet::SYS_BOOT);
const SYS_CHROOT: Allowed = with(CapabilitySet::SYS_CHROOT);
const SYS_MODULE: Allowed = with(CapabilitySet::SYS_MODULE);
const SYS_NICE: Allowed = with(CapabilitySet::SYS_NICE);
const SYS_PACCT: Allowed = with(CapabilitySet::SYS_PACCT);
const SYS_PTRACE: Allowed = with(CapabilitySet::SYS_PTRACE);
const SYS_RAWIO: Allowed = with(CapabilitySet::SYS_RAWIO);
const SYS_TIME: Allowed = with(CapabilitySet::SYS_TIME);
const SYS_TTY_CONFIG: Allowed = with(CapabilitySet::SYS_TTY_CONFIG);

/// Sorted by name.
#[rustfmt::skip]
pub(super) static TABLE: [Row; 462] = [
    ("_llseek", X, 140, Y), ("_newselect", X, 142, Y), ("_sysctl", 156, 149, N),
    ("accept", 43, X, Y), ("accept4", 288, 364, Y), ("access", 21, 33, Y),
    ("acct", 163, 51, SYS_PACCT), ("add_key", 248, 286, N), ("adjtimex", 159, 124, Y),
    ("afs_syscall", 183, 137, N), ("alarm", 37, 27, Y), ("arch_prctl", 158, 384, Y),
    ("bdflush", X, 134, N), ("bind", 49, 361, Y), ("bpf", 321, 357, BPF), ("break", X, 17, N),
    ("brk", 12, 45, Y), ("cachestat", 451, 451, Y), ("capget", 125, 184, Y),
    ("capset", 126, 185, Y), ("chdir", 80, 12, Y), ("chmod", 90, 15, Y), ("chown", 92, 182, Y),
    ("chown32", X, 212, Y), ("chroot", 161, 61, SYS_CHROOT), ("clock_adjtime", 305, 343, Y),
    ("clock_adjtime64", X, 405, Y), ("clock_getres", 229, 266, Y),
    ("clock_getres_time64", X, 406, Y), ("clock_gettime", 228, 265, Y),
    ("clock_gettime64", X, 403, Y), ("clock_nanosleep", 230, 267, Y),
    ("clock_nanosleep_time64", X, 407, Y), ("clock_settime", 227, 264, SYS_TIME),
    ("clock_settime64", X, 404, SYS_TIME), ("clone", 56, 120, CLONE), ("clone3", 435, 435, CLONE3),
    ("close", 3, 6, Y), ("close_range", 436, 436, Y), ("connect", 42, 362, Y),
    ("copy_file_range", 326, 377, Y), ("creat", 85, 8, Y), ("create_module", 174, 127, N),
    ("delete_module", 176, 129, SYS_MODULE), ("dup", 32, 41, Y), ("dup2", 33, 63, Y),
    ("dup3", 292, 330, Y), ("epoll_create", 213, 254, Y), ("epoll_create1", 291, 329, Y),
    ("epoll_ctl", 233, 255, Y), ("epoll_ctl_old", 214, X, Y), ("epoll_pwait", 281, 319, Y),
    ("epoll_pwait2", 441, 441, Y), ("epoll_wait", 232, 256, Y), ("epoll_wait_old", 215, X, Y),
    ("eventfd", 284, 323, Y), ("eventfd2", 290, 328, Y), ("execve", 59, 11, Y),
    ("execveat", 322, 358, Y), ("exit", 60, 1, Y), ("exit_group", 231, 252, Y),
    ("faccessat", 269, 307, Y), ("faccessat2", 439, 439, Y), ("fadvise64", 221, 250, Y),
    ("fadvise64_64", X, 272, Y), ("fallocate", 285, 324, Y), ("fanotify_init", 300, 338, SYS_ADMIN),
    ("fanotify_mark", 301, 339, Y), ("fchdir", 81, 133, Y), ("fchmod", 91, 94, Y),
    ("fchmodat", 268, 306, Y), ("fchmodat2", 452, 452, Y), ("fchown", 93, 95, Y),
    ("fchown32", X, 207, Y), ("fchownat", 260, 298, Y), ("fcntl", 72, 55, Y),
    ("fcntl64", X, 221, Y), ("fdatasync", 75, 148, Y), ("fgetxattr", 193, 231, Y),
    ("finit_module", 313, 350, SYS_MODULE), ("flistxattr", 196, 234, Y), ("flock", 73, 143, Y),
    ("fork", 57, 2, Y), ("fremovexattr", 199, 237, Y), ("fsconfig", 431, 431, SYS_ADMIN),
    ("fsetxattr", 190, 228, Y), ("fsmount", 432, 432, SYS_ADMIN), ("fsopen", 430, 430, SYS_ADMIN),
    ("fspick", 433, 433, SYS_ADMIN), ("fstat", 5, 108, Y), ("fstat64", X, 197, Y),
    ("fstatat64", X, 300, Y), ("fstatfs", 138, 100, Y), ("fstatfs64", X, 269, Y),
    ("fsync", 74, 118, Y), ("ftime", X, 35, N), ("ftruncate", 77, 93, Y),
    ("ftruncate64", X, 194, Y), ("futex", 202, 240, Y), ("futex_requeue", 456, 456, Y),
    ("futex_time64", X, 422, Y), ("futex_wait", 455, 455, Y), ("futex_waitv", 449, 449, Y),
    ("futex_wake", 454, 454, Y), ("futimesat", 261, 299, Y), ("get_kernel_syms", 177, 130, N),
    ("get_mempolicy", 239, 275, SYS_NICE), ("get_robust_list", 274, 312, Y),
    ("get_thread_area", 211, 244, Y), ("getcpu", 309, 318, Y), ("getcwd", 79, 183, Y),
    ("getdents", 78, 141, Y), ("getdents64", 217, 220, Y), ("getegid", 108, 50, Y),
    ("getegid32", X, 202, Y), ("geteuid", 107, 49, Y), ("geteuid32", X, 201, Y),
    ("getgid", 104, 47, Y), ("getgid32", X, 200, Y), ("getgroups", 115, 80, Y),
    ("getgroups32", X, 205, Y), ("getitimer", 36, 105, Y), ("getpeername", 52, 368, Y),
    ("getpgid", 121, 132, Y), ("getpgrp", 111, 65, Y), ("getpid", 39, 20, Y),
    ("getpmsg", 181, 188, N), ("getppid", 110, 64, Y), ("getpriority", 140, 96, Y),
    ("getrandom", 318, 355, Y), ("getresgid", 120, 171, Y), ("getresgid32", X, 211, Y),
    ("getresuid", 118, 165, Y), ("getresuid32", X, 209, Y), ("getrlimit", 97, 76, Y),
    ("getrusage", 98, 77, Y), ("getsid", 124, 147, Y), ("getsockname", 51, 367, Y),
    ("getsockopt", 55, 365, Y), ("gettid", 186, 224, Y), ("gettimeofday", 96, 78, Y),
    ("getuid", 102, 24, Y), ("getuid32", X, 199, Y), ("getxattr", 191, 229, Y), ("gtty", X, 32, N),
    ("idle", X, 112, N), ("init_module", 175, 128, SYS_MODULE), ("inotify_add_watch", 254, 292, Y),
    ("inotify_init", 253, 291, Y), ("inotify_init1", 294, 332, Y),
    ("inotify_rm_watch", 255, 293, Y), ("io_cancel", 210, 249, Y), ("io_destroy", 207, 246, Y),
    ("io_getevents", 208, 247, Y), ("io_pgetevents", 333, 385, Y),
    ("io_pgetevents_time64", X, 416, Y), ("io_setup", 206, 245, Y), ("io_submit", 209, 248, Y),
    ("io_uring_enter", 426, 426, N), ("io_uring_register", 427, 427, N),
    ("io_uring_setup", 425, 425, N), ("ioctl", 16, 54, Y), ("ioperm", 173, 101, SYS_RAWIO),
    ("iopl", 172, 110, SYS_RAWIO), ("ioprio_get", 252, 290, Y), ("ioprio_set", 251, 289, Y),
    ("ipc", X, 117, Y), ("kcmp", 312, 349, SYS_PTRACE), ("kexec_file_load", 320, X, N),
    ("kexec_load", 246, 283, N), ("keyctl", 250, 288, N), ("kill", 62, 37, Y),
    ("landlock_add_rule", 445, 445, Y), ("landlock_create_ruleset", 444, 444, Y),
    ("landlock_restrict_self", 446, 446, Y), ("lchown", 94, 16, Y), ("lchown32", X, 198, Y),
    ("lgetxattr", 192, 230, Y), ("link", 86, 9, Y), ("linkat", 265, 303, Y), ("listen", 50, 363, Y),
    ("listmount", 458, 458, Y), ("listxattr", 194, 232, Y), ("llistxattr", 195, 233, Y),
    ("lock", X, 53, N), ("lookup_dcookie", 212, 253, SYS_ADMIN), ("lremovexattr", 198, 236, Y),
    ("lseek", 8, 19, Y), ("lsetxattr", 189, 227, Y), ("lsm_get_self_attr", 459, 459, SYS_ADMIN),
    ("lsm_list_modules", 461, 461, SYS_ADMIN), ("lsm_set_self_attr", 460, 460, SYS_ADMIN),
    ("lstat", 6, 107, Y), ("lstat64", X, 196, Y), ("madvise", 28, 219, Y),
    ("map_shadow_stack", 453, 453, Y), ("mbind", 237, 274, SYS_NICE), ("membarrier", 324, 375, Y),
    ("memfd_create", 319, 356, Y), ("memfd_secret", 447, 447, Y), ("migrate_pages", 256, 294, N),
    ("mincore", 27, 218, Y), ("mkdir", 83, 39, Y), ("mkdirat", 258, 296, Y), ("mknod", 133, 14, Y),
    ("mknodat", 259, 297, Y), ("mlock", 149, 150, Y), ("mlock2", 325, 376, Y),
    ("mlockall", 151, 152, Y), ("mmap", 9, 90, Y), ("mmap2", X, 192, Y),
    ("modify_ldt", 154, 123, Y), ("mount", 165, 21, SYS_ADMIN),
    ("mount_setattr", 442, 442, SYS_ADMIN), ("move_mount", 429, 429, SYS_ADMIN),
    ("move_pages", 279, 317, N), ("mprotect", 10, 125, Y), ("mpx", X, 56, N),
    ("mq_getsetattr", 245, 282, Y), ("mq_notify", 244, 281, Y), ("mq_open", 240, 277, Y),
    ("mq_timedreceive", 243, 280, Y), ("mq_timedreceive_time64", X, 419, Y),
    ("mq_timedsend", 242, 279, Y), ("mq_timedsend_time64", X, 418, Y), ("mq_unlink", 241, 278, Y),
    ("mremap", 25, 163, Y), ("mseal", 462, 462, Y), ("msgctl", 71, 402, Y), ("msgget", 68, 399, Y),
    ("msgrcv", 70, 401, Y), ("msgsnd", 69, 400, Y), ("msync", 26, 144, Y), ("munlock", 150, 151, Y),
    ("munlockall", 152, 153, Y), ("munmap", 11, 91, Y), ("name_to_handle_at", 303, 341, Y),
    ("nanosleep", 35, 162, Y), ("newfstatat", 262, X, Y), ("nfsservctl", 180, 169, N),
    ("nice", X, 34, N), ("oldfstat", X, 28, N), ("oldlstat", X, 84, N), ("oldolduname", X, 59, N),
    ("oldstat", X, 18, N), ("olduname", X, 109, N), ("open", 2, 5, Y),
    ("open_by_handle_at", 304, 342, DAC_READ_SEARCH), ("open_tree", 428, 428, SYS_ADMIN),
    ("openat", 257, 295, Y), ("openat2", 437, 437, Y), ("pause", 34, 29, Y),
    ("perf_event_open", 298, 336, PERFMON), ("personality", 135, 136, PERSONALITY),
    ("pidfd_getfd", 438, 438, SYS_PTRACE), ("pidfd_open", 434, 434, Y),
    ("pidfd_send_signal", 424, 424, Y), ("pipe", 22, 42, Y), ("pipe2", 293, 331, Y),
    ("pivot_root", 155, 217, N), ("pkey_alloc", 330, 381, Y), ("pkey_free", 331, 382, Y),
    ("pkey_mprotect", 329, 380, Y), ("poll", 7, 168, Y), ("ppoll", 271, 309, Y),
    ("ppoll_time64", X, 414, Y), ("prctl", 157, 172, Y), ("pread64", 17, 180, Y),
    ("preadv", 295, 333, Y), ("preadv2", 327, 378, Y), ("prlimit64", 302, 340, Y),
    ("process_madvise", 440, 440, SYS_PTRACE), ("process_mrelease", 448, 448, Y),
    ("process_vm_readv", 310, 347, Y), ("process_vm_writev", 311, 348, Y), ("prof", X, 44, N),
    ("profil", X, 98, N), ("pselect6", 270, 308, Y), ("pselect6_time64", X, 413, Y),
    ("ptrace", 101, 26, Y), ("putpmsg", 182, 189, N), ("pwrite64", 18, 181, Y),
    ("pwritev", 296, 334, Y), ("pwritev2", 328, 379, Y), ("query_module", 178, 167, N),
    ("quotactl", 179, 131, SYS_ADMIN), ("quotactl_fd", 443, 443, SYS_ADMIN), ("read", 0, 3, Y),
    ("readahead", 187, 225, Y), ("readdir", X, 89, N), ("readlink", 89, 85, Y),
    ("readlinkat", 267, 305, Y), ("readv", 19, 145, Y), ("reboot", 169, 88, SYS_BOOT),
    ("recvfrom", 45, 371, Y), ("recvmmsg", 299, 337, Y), ("recvmmsg_time64", X, 417, Y),
    ("recvmsg", 47, 372, Y), ("remap_file_pages", 216, 257, Y), ("removexattr", 197, 235, Y),
    ("rename", 82, 38, Y), ("renameat", 264, 302, Y), ("renameat2", 316, 353, Y),
    ("request_key", 249, 287, N), ("restart_syscall", 219, 0, Y), ("rmdir", 84, 40, Y),
    ("rseq", 334, 386, Y), ("rt_sigaction", 13, 174, Y), ("rt_sigpending", 127, 176, Y),
    ("rt_sigprocmask", 14, 175, Y), ("rt_sigqueueinfo", 129, 178, Y), ("rt_sigreturn", 15, 173, Y),
    ("rt_sigsuspend", 130, 179, Y), ("rt_sigtimedwait", 128, 177, Y),
    ("rt_sigtimedwait_time64", X, 421, Y), ("rt_tgsigqueueinfo", 297, 335, Y),
    ("sched_get_priority_max", 146, 159, Y), ("sched_get_priority_min", 147, 160, Y),
    ("sched_getaffinity", 204, 242, Y), ("sched_getattr", 315, 352, Y),
    ("sched_getparam", 143, 155, Y), ("sched_getscheduler", 145, 157, Y),
    ("sched_rr_get_interval", 148, 161, Y), ("sched_rr_get_interval_time64", X, 423, Y),
    ("sched_setaffinity", 203, 241, Y), ("sched_setattr", 314, 351, Y),
    ("sched_setparam", 142, 154, Y), ("sched_setscheduler", 144, 156, Y),
    ("sched_yield", 24, 158, Y), ("seccomp", 317, 354, Y), ("security", 185, X, N),
    ("select", 23, 82, Y), ("semctl", 66, 394, Y), ("semget", 64, 393, Y), ("semop", 65, X, Y),
    ("semtimedop", 220, X, Y), ("semtimedop_time64", X, 420, Y), ("sendfile", 40, 187, Y),
    ("sendfile64", X, 239, Y), ("sendmmsg", 307, 345, Y), ("sendmsg", 46, 370, Y),
    ("sendto", 44, 369, Y), ("set_mempolicy", 238, 276, SYS_NICE),
    ("set_mempolicy_home_node", 450, 450, SYS_NICE), ("set_robust_list", 273, 311, Y),
    ("set_thread_area", 205, 243, Y), ("set_tid_address", 218, 258, Y),
    ("setdomainname", 171, 121, SYS_ADMIN), ("setfsgid", 123, 139, Y), ("setfsgid32", X, 216, Y),
    ("setfsuid", 122, 138, Y), ("setfsuid32", X, 215, Y), ("setgid", 106, 46, Y),
    ("setgid32", X, 214, Y), ("setgroups", 116, 81, Y), ("setgroups32", X, 206, Y),
    ("sethostname", 170, 74, SYS_ADMIN), ("setitimer", 38, 104, Y), ("setns", 308, 346, SYS_ADMIN),
    ("setpgid", 109, 57, Y), ("setpriority", 141, 97, Y), ("setregid", 114, 71, Y),
    ("setregid32", X, 204, Y), ("setresgid", 119, 170, Y), ("setresgid32", X, 210, Y),
    ("setresuid", 117, 164, Y), ("setresuid32", X, 208, Y), ("setreuid", 113, 70, Y),
    ("setreuid32", X, 203, Y), ("setrlimit", 160, 75, Y), ("setsid", 112, 66, Y),
    ("setsockopt", 54, 366, Y), ("settimeofday", 164, 79, SYS_TIME), ("setuid", 105, 23, Y),
    ("setuid32", X, 213, Y), ("setxattr", 188, 226, Y), ("sgetmask", X, 68, N),
    ("shmat", 30, 397, Y), ("shmctl", 31, 396, Y), ("shmdt", 67, 398, Y), ("shmget", 29, 395, Y),
    ("shutdown", 48, 373, Y), ("sigaction", X, 67, N), ("sigaltstack", 131, 186, Y),
    ("signal", X, 48, N), ("signalfd", 282, 321, Y), ("signalfd4", 289, 327, Y),
    ("sigpending", X, 73, N), ("sigprocmask", X, 126, Y), ("sigreturn", X, 119, Y),
    ("sigsuspend", X, 72, N), ("socket", 41, 359, SOCKET), ("socketcall", X, 102, Y),
    ("socketpair", 53, 360, Y), ("splice", 275, 313, Y), ("ssetmask", X, 69, N),
    ("stat", 4, 106, Y), ("stat64", X, 195, Y), ("statfs", 137, 99, Y), ("statfs64", X, 268, Y),
    ("statmount", 457, 457, Y), ("statx", 332, 383, Y), ("stime", X, 25, SYS_TIME),
    ("stty", X, 31, N), ("swapoff", 168, 115, N), ("swapon", 167, 87, N), ("symlink", 88, 83, Y),
    ("symlinkat", 266, 304, Y), ("sync", 162, 36, Y), ("sync_file_range", 277, 314, Y),
    ("syncfs", 306, 344, Y), ("sysfs", 139, 135, N), ("sysinfo", 99, 116, Y),
    ("syslog", 103, 103, SYSLOG), ("tee", 276, 315, Y), ("tgkill", 234, 270, Y),
    ("time", 201, 13, Y), ("timer_create", 222, 259, Y), ("timer_delete", 226, 263, Y),
    ("timer_getoverrun", 225, 262, Y), ("timer_gettime", 224, 261, Y),
    ("timer_gettime64", X, 408, Y), ("timer_settime", 223, 260, Y), ("timer_settime64", X, 409, Y),
    ("timerfd_create", 283, 322, Y), ("timerfd_gettime", 287, 326, Y),
    ("timerfd_gettime64", X, 410, Y), ("timerfd_settime", 286, 325, Y),
    ("timerfd_settime64", X, 411, Y), ("times", 100, 43, Y), ("tkill", 200, 238, Y),
    ("truncate", 76, 92, Y), ("truncate64", X, 193, Y), ("tuxcall", 184, X, N),
    ("ugetrlimit", X, 191, Y), ("ulimit", X, 58, N), ("umask", 95, 60, Y),
    ("umount", X, 22, SYS_ADMIN), ("umount2", 166, 52, SYS_ADMIN), ("uname", 63, 122, Y),
    ("unlink", 87, 10, Y), ("unlinkat", 263, 301, Y), ("unshare", 272, 310, SYS_ADMIN),
    ("uretprobe", 335, X, Y), ("uselib", 134, 86, N), ("userfaultfd", 323, 374, N),
    ("ustat", 136, 62, N), ("utime", 132, 30, Y), ("utimensat", 280, 320, Y),
    ("utimensat_time64", X, 412, Y), ("utimes", 235, 271, Y), ("vfork", 58, 190, Y),
    ("vhangup", 153, 111, SYS_TTY_CONFIG), ("vm86", X, 166, N), ("vm86old", X, 113, N),
    ("vmsplice", 278, 316, Y), ("vserver", 236, 273, N), ("wait4", 61, 114, Y),
    ("waitid", 247, 284, Y), ("waitpid", X, 7, Y), ("write", 1, 4, Y), ("writev", 20, 146, Y),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_numbers_are_unique_and_in_range() {
        assert!(TABLE.is_sorted_by(|one, next| one.0 < next.0));
        for column in [|row: &Row| row.1, |row: &Row| row.2] {
            let mut numbers: Vec<u16> = TABLE
                .iter()
                .map(column)
                .filter(|nr| *nr != ABSENT)
                .collect();
            numbers.sort_unstable();
            assert!(numbers.is_sorted_by(|one, next| one < next));
            assert_eq!(numbers.last().map(|nr| usize::from(*nr) + 1), Some(NUMBERS));
        }
    }

    #[test]
    fn the_numbers_are_the_c_librarys() {
        let table = [
            ("read", libc::SYS_read),
            ("execve", libc::SYS_execve),
            ("socket", libc::SYS_socket),
            ("clone3", libc::SYS_clone3),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("umount2", libc::SYS_umount2),
        ];
        for (name, number) in table {
            assert_eq!(
                row(name).map(|row| i64::from(row.1)),
                Some(number),
                "{name}"
            );
        }
        assert_eq!(
            row("socketcall").map(|row| (row.1, row.2)),
            Some((ABSENT, 102))
        );
        assert_eq!(row("no_such_call"), None);
    }
}
