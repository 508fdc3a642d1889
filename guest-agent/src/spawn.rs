//! Cloning a child that becomes a process of the container, and what it reports until then.
//!
//! Called by [`crate::container`], and for the agent's own work by [`crate::tasks`]. The child runs code of the agent's until it executes the
//! program: it has everything that the agent has at hand, and no other process sees it yet. Its
//! report is a pipe that executing closes, so its end means success.
//!
//! ```text
//! child -> 'S' + 8 bytes of CLOCK_BOOTTIME      right before execve
//! child -> 'F' + kind + sentence                when anything failed, execve included
//! ```
// clone3 has no safe wrapper: it returns twice.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::message::FailureKind;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::{ClockId, clock_gettime};

use crate::failure::Failure;

/// Whether this process is such a child. A child that panics must not end the VM.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// Longest sentence in bytes; together with the rest it fits a pipe at once, so that a child never
/// waits for its report to be read.
const MAX_SENTENCE: usize = 4096;

/// Which kind a byte of a report stands for: the index.
const KINDS: [FailureKind; 8] = [
    FailureKind::NotFound,
    FailureKind::NotExecutable,
    FailureKind::BadConfig,
    FailureKind::CorruptLayer,
    FailureKind::LimitExceeded,
    FailureKind::DiskFull,
    FailureKind::NotRunning,
    FailureKind::Other,
];

/// The child's end of the report.
#[derive(Debug)]
pub struct Reporter(OwnedFd);

impl Reporter {
    /// Takes over the writing end of a report.
    #[must_use]
    pub fn new(pipe: OwnedFd) -> Self {
        Self(pipe)
    }

    /// Says that the program is about to be executed.
    pub fn started(&self) {
        let mut record = vec![b'S'];
        record.extend(boottime_ns().to_le_bytes());
        self.write(&record);
    }

    /// Says why it was not.
    pub fn failed(&self, failure: &Failure) {
        let kind = KINDS.iter().position(|kind| *kind == failure.kind);
        let kind = kind.and_then(|index| u8::try_from(index).ok());
        let mut record = vec![b'F', kind.unwrap_or(u8::MAX)];
        let sentence = failure.message.as_bytes();
        record.extend(sentence.get(..MAX_SENTENCE).unwrap_or(sentence));
        self.write(&record);
    }

    /// Says why it was not and ends the process.
    pub fn give_up(&self, failure: &Failure) -> ! {
        self.failed(failure);
        exit(1)
    }

    /// A report that can't be written has no other place to go to.
    fn write(&self, record: &[u8]) {
        let _ = rustix::io::write(&self.0, record);
    }
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What became of a child's way to its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The program runs.
    Started {
        /// `CLOCK_BOOTTIME` in nanoseconds just before `execve`.
        boottime_ns: u64,
    },
    /// It does not.
    Failed(Failure),
    /// The child ended without a word.
    Vanished,
}

/// The agent's end of the report.
#[derive(Debug)]
pub struct Report {
    pipe: OwnedFd,
    bytes: Vec<u8>,
}

impl Report {
    /// Reads what has arrived; the outcome once that is all.
    pub fn read(&mut self) -> Option<Outcome> {
        let mut buffer = [0; 1024];
        loop {
            match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(0) => return Some(outcome(&self.bytes)),
                Ok(len) => self
                    .bytes
                    .extend_from_slice(buffer.get(..len).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(_) => return Some(Outcome::Vanished),
            }
        }
    }
}

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

fn outcome(report: &[u8]) -> Outcome {
    let (started, rest) = match report.split_first() {
        Some((b'S', rest)) => match rest.split_first_chunk() {
            Some((time, rest)) => (Some(u64::from_le_bytes(*time)), rest),
            None => return Outcome::Vanished,
        },
        _ => (None, report),
    };
    match (rest, started) {
        ([b'F', kind, sentence @ ..], _) => Outcome::Failed(Failure::new(
            KINDS
                .get(usize::from(*kind))
                .copied()
                .unwrap_or(FailureKind::Other),
            String::from_utf8_lossy(sentence),
        )),
        (_, Some(boottime_ns)) => Outcome::Started { boottime_ns },
        _ => Outcome::Vanished,
    }
}

/// A child on its way to its program.
#[derive(Debug)]
pub struct Spawned {
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
    /// Its number in the agent's PID namespace.
    pub pid: i32,
    /// What it says until it executes the program.
    pub report: Report,
}

/// Clones a child into `cgroup` and new namespaces (`CLONE_NEW*` flags). It runs `body`, which
/// executes the program or reports, and never returns here.
///
/// # Errors
/// What `clone3` says; `EBUSY` when the group has groups of its own with processes in them.
pub fn spawn(
    cgroup: BorrowedFd<'_>,
    namespaces: libc::c_int,
    body: impl FnOnce(Reporter),
) -> Result<Spawned, Errno> {
    let (pipe, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let reporter = Reporter(theirs);
    let (pidfd, pid) = clone(Some(cgroup), namespaces, || body(reporter))?;
    Ok(Spawned {
        pidfd,
        pid,
        report: Report {
            pipe,
            bytes: Vec::new(),
        },
    })
}

/// Clones a child into `cgroup` as [`spawn`] does, in the namespaces that the agent chose for its next
/// one. It is born among the container's processes, one of which may be able to trace it: before
/// anything else it closes every descriptor but the standard ones, its report and `keep`, which keep
/// their numbers.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_among(
    cgroup: BorrowedFd<'_>,
    keep: &[BorrowedFd<'_>],
    body: impl FnOnce(Reporter),
) -> Result<Spawned, Errno> {
    spawn(cgroup, 0, |reporter| {
        let kept = keep.iter().copied().chain([reporter.as_fd()]);
        for (first, last) in gaps(kept.map(|fd| fd.as_raw_fd()).collect()) {
            // SAFETY: closes descriptors of the agent's that the child, which executes or exits,
            // neither uses nor drops.
            if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0 {
                reporter.give_up(&Failure::other("close the agent's descriptors"));
            }
        }
        body(reporter);
    })
}

/// First and last number of what is to be closed.
type Gap = (libc::c_uint, libc::c_uint);

/// The first and last numbers between these from [`FIRST_KEPT`] on.
fn gaps(mut kept: Vec<RawFd>) -> Vec<Gap> {
    kept.sort_unstable();
    let mut first = FIRST_KEPT.unsigned_abs();
    let mut gaps = Vec::new();
    for number in kept.into_iter().map(RawFd::unsigned_abs) {
        if first < number {
            gaps.push((first, number - 1));
        }
        first = first.max(number.saturating_add(1));
    }
    gaps.push((first, libc::c_uint::MAX));
    gaps
}

/// Clones a child for work of the agent's own, in the agent's own group. It keeps copies of `keep`,
/// which `body` gets in the same order, and of no other descriptor beyond the standard ones: streams
/// must end when the agent ends them. Returns what is readable once the child has ended.
///
/// # Errors
/// What `clone3` says.
pub fn fork(keep: &[BorrowedFd<'_>], body: impl FnOnce(Vec<OwnedFd>)) -> Result<OwnedFd, Errno> {
    let child = || {
        // SAFETY: sets the action of one signal; PID 1 ignores it anyway, its children do not.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        if let Ok(kept) = keep_only(keep) {
            body(kept);
        }
    };
    clone(None, 0, child).map(|(pidfd, _)| pidfd)
}

/// First descriptor behind the standard ones.
const FIRST_KEPT: RawFd = 3;

/// Closes all descriptors but the standard ones and copies of these. Nothing else in this process
/// may use a descriptor that it had before.
fn keep_only(keep: &[BorrowedFd<'_>]) -> Result<Vec<OwnedFd>, Errno> {
    let count = RawFd::try_from(keep.len()).map_err(|_| Errno::MFILE)?;
    let end = FIRST_KEPT + count;
    let mut copies = Vec::new();
    for fd in keep {
        copies.push(rustix::io::fcntl_dupfd_cloexec(fd, end)?);
    }
    for (number, copy) in (FIRST_KEPT..).zip(&copies) {
        // SAFETY: both are plain numbers; what `number` was is not used any more.
        if unsafe { libc::dup3(copy.as_raw_fd(), number, libc::O_CLOEXEC) } < 0 {
            return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
        }
    }
    // The copies behind `end` are closed below, not by these.
    std::mem::forget(copies);
    let first = libc::c_uint::try_from(end).map_err(|_| Errno::MFILE)?;
    // SAFETY: closes descriptors that nothing uses from here on.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    Ok((FIRST_KEPT..end)
        // SAFETY: made above, and owned by nobody else.
        .map(|number| unsafe { OwnedFd::from_raw_fd(number) })
        .collect())
}

/// Clones a child that runs `body` and ends; its pidfd and number.
fn clone(
    cgroup: Option<BorrowedFd<'_>>,
    namespaces: libc::c_int,
    body: impl FnOnce(),
) -> Result<(OwnedFd, i32), Errno> {
    let mut pidfd: RawFd = -1;
    let unsigned = |number: libc::c_int| u64::try_from(number).map_err(|_| Errno::INVAL);
    // SAFETY: all bits zero is a valid clone_args.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = unsigned(libc::CLONE_PIDFD | namespaces)?;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = unsigned(libc::SIGCHLD)?;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = unsigned(cgroup.as_raw_fd())?;
    }
    // SAFETY: the arguments are a whole clone_args whose one pointer leads to an int of ours. No
    // memory is shared with the child, which continues on a copy of this stack; the process has
    // one thread, so that no lock of the C library is held by another.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of_val(&arguments),
        )
    };
    match answer {
        0 => {
            IS_CHILD.store(true, Ordering::Relaxed);
            body();
            exit(1)
        }
        pid if pid > 0 => Ok((
            // SAFETY: the kernel made this descriptor for us in the call above.
            unsafe { OwnedFd::from_raw_fd(pidfd) },
            i32::try_from(pid).unwrap_or(0),
        )),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// Missing in the C library's headers as a number that fits its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Whether this process is a child of the agent that has not executed its program.
pub fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

/// Ends this process at once, without the clean-up that belongs to the agent.
pub fn exit(code: libc::c_int) -> ! {
    // SAFETY: ends the process; nothing is left to be kept valid.
    unsafe { libc::_exit(code) }
}

/// `CLOCK_BOOTTIME` in nanoseconds.
#[must_use]
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_between_those_kept_are_closed() {
        let end = libc::c_uint::MAX;
        let table: [(&[RawFd], &[Gap]); 5] = [
            (&[], &[(3, end)]),
            (&[3, 4], &[(5, end)]),
            (&[9, 5, 5, 6], &[(3, 4), (7, 8), (10, end)]),
            (&[0, 2, 4], &[(3, 3), (5, end)]),
            (&[RawFd::MAX], &[(3, 0x7fff_fffe), (0x8000_0000, end)]),
        ];
        for (kept, wanted) in table {
            assert_eq!(gaps(kept.to_vec()), wanted, "{kept:?}");
        }
    }

    /// What the agent makes of a report that `say` writes.
    fn told(say: impl FnOnce(&Reporter)) -> Outcome {
        let (pipe, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let bytes = Vec::new();
        let mut report = Report { pipe, bytes };
        let reporter = Reporter(theirs);
        say(&reporter);
        assert_eq!(report.read(), None);
        drop(reporter);
        report.read().unwrap()
    }

    #[test]
    fn the_end_of_the_report_after_the_start_means_success() {
        let outcome = told(Reporter::started);
        assert!(matches!(outcome, Outcome::Started { boottime_ns } if boottime_ns > 0));
    }

    #[test]
    fn a_failure_before_or_after_the_start_is_a_failure() {
        for kind in KINDS {
            let failure = Failure::new(kind, "exec: \"x\": no such file");
            let before = told(|reporter| reporter.failed(&failure));
            assert_eq!(before, Outcome::Failed(failure.clone()));
            let after = told(|reporter| {
                reporter.started();
                reporter.failed(&failure);
            });
            assert_eq!(after, Outcome::Failed(failure));
        }
    }

    #[test]
    fn long_sentences_are_cut_and_silence_is_no_success() {
        let long = Failure::other("é".repeat(MAX_SENTENCE));
        let Outcome::Failed(cut) = told(|reporter| reporter.failed(&long)) else {
            panic!("no failure");
        };
        assert_eq!(cut.message.chars().count(), MAX_SENTENCE / 2);
        assert_eq!(told(|_| ()), Outcome::Vanished);
        for junk in [&b"S123"[..], b"F", b"X", b"\0"] {
            assert_eq!(outcome(junk), Outcome::Vanished);
        }
        let unknown = outcome(b"F\xffwhat");
        assert_eq!(unknown, Outcome::Failed(Failure::other("what")));
    }
}
