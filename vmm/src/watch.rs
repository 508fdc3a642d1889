//! Notices a VM that halted for ever: every vCPU stopped with its interrupts off, so that nothing
//! can wake any of them again. Linux ends so when its init calls for a halt; a broken kernel too.
//!
//! ```text
//! timer ──► kick every vCPU thread out of KVM_RUN ──► each notes whether it is stopped for good
//!   ▲                                                            │
//!   └── nobody ran since the last round, twice in a row: the end ◄┘
//! ```
//! The builder starts it, a vCPU answers it. It must not know devices or exits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};
use vmm_sys_util::timerfd::TimerFd;

use crate::vcpu::{EndSignal, VmEnd};

/// Time between two rounds. A round costs each vCPU one exit, so an idle VM hardly notices, and a
/// VM that is over is gone within three of them.
const ROUND: Duration = Duration::from_secs(5);

/// A vCPU that is kicked right before it enters the guest misses the round, and one that another
/// wakes meanwhile is seen running in the next: all stopped in two rounds on end is for good.
const ROUNDS: u32 = 2;

/// RFLAGS: interrupts are taken (SDM volume 1, section 3.4.3.3).
const RFLAGS_IF: u64 = 1 << 9;

/// A bit per vCPU; there are at most 32.
#[derive(Debug, Default)]
pub(crate) struct Stopped(AtomicU32);

impl Stopped {
    /// A vCPU that was kicked notes what it is at.
    pub(crate) fn note(&self, vcpu: u8, fd: &VcpuFd) {
        let bit = 1 << (vcpu % 32);
        if is_stopped_for_good(fd) {
            self.0.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether all of `count` vCPUs said so since the last call.
    fn take_all(&self, count: usize) -> bool {
        let said = self.0.swap(0, Ordering::Relaxed);
        usize::try_from(said.count_ones()).is_ok_and(|said| said == count)
    }
}

/// Whether a vCPU outside of KVM_RUN can only be woken by another: it never started, or it
/// executed `hlt` with interrupts off. No device of ours raises an NMI.
fn is_stopped_for_good(fd: &VcpuFd) -> bool {
    match fd.get_mp_state().map(|state| state.mp_state) {
        Ok(KVM_MP_STATE_HALTED) => fd
            .get_regs()
            .is_ok_and(|registers| registers.rflags & RFLAGS_IF == 0),
        // Waiting for INIT or SIPI.
        Ok(state) => state != KVM_MP_STATE_RUNNABLE,
        Err(_) => false,
    }
}

/// The event loop's part.
pub(crate) struct HaltWatch {
    timer: TimerFd,
    threads: Vec<JoinHandle<()>>,
    stopped: Arc<Stopped>,
    end: Arc<EndSignal>,
    rounds: u32,
}

impl HaltWatch {
    /// Watches these vCPU threads.
    ///
    /// # Errors
    /// When there is no timer or no signal to be had.
    pub(crate) fn new(
        threads: Vec<JoinHandle<()>>,
        stopped: Arc<Stopped>,
        end: Arc<EndSignal>,
    ) -> std::io::Result<Self> {
        let error = |error: vmm_sys_util::errno::Error| std::io::Error::from(error);
        let mut timer = TimerFd::new().map_err(error)?;
        timer.reset(ROUND, Some(ROUND)).map_err(error)?;
        Ok(Self {
            timer,
            threads,
            stopped,
            end,
            rounds: 0,
        })
    }

    fn round(&mut self) {
        self.rounds = if self.stopped.take_all(self.threads.len()) {
            self.rounds + 1
        } else {
            0
        };
        if self.rounds >= ROUNDS {
            self.end.set(VmEnd::Halted);
            return;
        }
        for thread in &self.threads {
            // A thread that has ended has told why.
            let _ = thread.kill(SIGRTMIN());
        }
    }
}

impl MutEventSubscriber for HaltWatch {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.timer, EventSet::IN)) {
            crate::say(format_args!("watch for a halt: {error}"));
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps) {
        if self.timer.wait().is_ok() {
            self.round();
        }
    }
}

/// Makes the signal that kicks a vCPU thread do nothing but that.
///
/// # Errors
/// When the kernel refuses the handler.
pub(crate) fn take_kick_signal() -> std::io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), nothing).map_err(std::io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> HaltWatch {
        take_kick_signal().unwrap();
        let threads = (0..3)
            .map(|_| std::thread::spawn(std::thread::park))
            .collect();
        let end = Arc::new(EndSignal::new().unwrap());
        HaltWatch::new(threads, Arc::default(), end).unwrap()
    }

    #[test]
    fn all_stopped_twice_on_end_is_the_end() {
        let mut watch = watch();
        for _ in 0..ROUNDS {
            assert_eq!(watch.end.take(), None);
            watch.stopped.0.store(0b111, Ordering::Relaxed);
            watch.round();
        }
        assert_eq!(watch.end.take(), Some(VmEnd::Halted));
    }

    #[test]
    fn one_that_runs_or_says_nothing_keeps_the_vm() {
        let mut watch = watch();
        for said in [0b111, 0b110, 0b111, 0, 0b111, 0b011] {
            watch.stopped.0.store(said, Ordering::Relaxed);
            watch.round();
            assert_eq!(watch.end.take(), None, "{said:#b}");
        }
    }
}
