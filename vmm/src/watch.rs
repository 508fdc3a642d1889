//! What the event loop learns of vCPUs that are inside `KVM_RUN`: a signal kicks each of them out,
//! and each notes whether it waits.
//!
//! ```text
//! kick every vCPU thread ──► each notes: waits for an interrupt │ waits for ever │ runs
//! ```
//!
//! [`HaltWatch`] does so all the time, to notice a VM that halted for ever: every vCPU stopped with
//! its interrupts off, so that nothing can wake any of them again. Linux ends so when its init
//! calls for a halt; a broken kernel too. The builder asks when it takes a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};
use vmm_sys_util::timerfd::TimerFd;

use crate::vcpu::{EndSignal, VcpuEnd, VmEnd};

/// Time between two rounds. A round costs each vCPU one exit, so an idle VM hardly notices, and a
/// VM that is over is gone within three of them.
const ROUND: Duration = Duration::from_secs(5);

/// A vCPU that is kicked right before it enters the guest misses the round, and one that another
/// wakes meanwhile is seen running in the next: all stopped in two rounds on end is for good.
const ROUNDS: u32 = 2;

/// RFLAGS: interrupts are taken (SDM volume 1, section 3.4.3.3).
const RFLAGS_IF: u64 = 1 << 9;

/// What the vCPUs noted, a bit each (there are at most 32), and whether they are to pause.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    stopped: AtomicU32,
    waiting: AtomicU32,
    pause: AtomicBool,
}

impl Notes {
    /// A vCPU that was kicked notes what it is at.
    pub(crate) fn take_down(&self, vcpu: u8, fd: &VcpuFd) {
        let bit = 1 << (vcpu % 32);
        let (stopped, waiting) = match wait_of(fd) {
            Wait::None => (false, false),
            Wait::Interrupt => (false, true),
            Wait::ForEver => (true, true),
        };
        for (set, slot) in [(stopped, &self.stopped), (waiting, &self.waiting)] {
            if set {
                slot.fetch_or(bit, Ordering::Relaxed);
            } else {
                slot.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }

    /// Whether the vCPU threads are to end with their state.
    pub(crate) fn is_pausing(&self) -> bool {
        self.pause.load(Ordering::Acquire)
    }

    /// Has them do so; each must be kicked then.
    pub(crate) fn pause(&self) {
        self.pause.store(true, Ordering::Release);
    }

    /// Whether all of `count` vCPUs waited for an interrupt at their last kick, since the last call.
    pub(crate) fn all_wait(&self, count: usize) -> bool {
        all(&self.waiting, count)
    }

    fn all_stopped(&self, count: usize) -> bool {
        all(&self.stopped, count)
    }
}

fn all(notes: &AtomicU32, count: usize) -> bool {
    let said = notes.swap(0, Ordering::Relaxed);
    usize::try_from(said.count_ones()).is_ok_and(|said| said == count)
}

/// What a vCPU outside of `KVM_RUN` waits for.
enum Wait {
    /// It runs.
    None,
    /// It executed `hlt`.
    Interrupt,
    /// Only another vCPU can wake it: it never started, or it executed `hlt` with interrupts off.
    /// No device of ours raises an NMI.
    ForEver,
}

fn wait_of(fd: &VcpuFd) -> Wait {
    match fd.get_mp_state().map(|state| state.mp_state) {
        Ok(KVM_MP_STATE_HALTED) => match fd.get_regs() {
            Ok(registers) if registers.rflags & RFLAGS_IF == 0 => Wait::ForEver,
            _ => Wait::Interrupt,
        },
        Ok(KVM_MP_STATE_RUNNABLE) | Err(_) => Wait::None,
        // Waiting for INIT or SIPI.
        Ok(_) => Wait::ForEver,
    }
}

/// Kicks every vCPU out of `KVM_RUN`.
pub(crate) fn kick(threads: &[JoinHandle<VcpuEnd>]) {
    for thread in threads {
        // A thread that has ended has told why.
        let _ = thread.kill(SIGRTMIN());
    }
}

/// The event loop's part.
pub(crate) struct HaltWatch {
    timer: TimerFd,
    threads: Arc<Vec<JoinHandle<VcpuEnd>>>,
    notes: Arc<Notes>,
    end: Arc<EndSignal>,
    rounds: u32,
}

impl HaltWatch {
    /// Watches these vCPU threads.
    ///
    /// # Errors
    /// When there is no timer or no signal to be had.
    pub(crate) fn new(
        threads: Arc<Vec<JoinHandle<VcpuEnd>>>,
        notes: Arc<Notes>,
        end: Arc<EndSignal>,
    ) -> std::io::Result<Self> {
        let mut timer = TimerFd::new().map_err(std::io::Error::from)?;
        timer
            .reset(ROUND, Some(ROUND))
            .map_err(std::io::Error::from)?;
        Ok(Self {
            timer,
            threads,
            notes,
            end,
            rounds: 0,
        })
    }

    fn round(&mut self) {
        self.rounds = if self.notes.all_stopped(self.threads.len()) {
            self.rounds + 1
        } else {
            0
        };
        if self.rounds >= ROUNDS {
            self.end.set(VmEnd::Halted);
            return;
        }
        kick(&self.threads);
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
        let park = || {
            std::thread::park();
            VcpuEnd::Told
        };
        let threads = Arc::new((0..3).map(|_| std::thread::spawn(park)).collect());
        let end = Arc::new(EndSignal::new().unwrap());
        HaltWatch::new(threads, Arc::default(), end).unwrap()
    }

    #[test]
    fn all_stopped_twice_on_end_is_the_end() {
        let mut watch = watch();
        for _ in 0..ROUNDS {
            assert_eq!(watch.end.take(), None);
            watch.notes.stopped.store(0b111, Ordering::Relaxed);
            watch.round();
        }
        assert_eq!(watch.end.take(), Some(VmEnd::Halted));
    }

    #[test]
    fn one_that_runs_or_says_nothing_keeps_the_vm() {
        let mut watch = watch();
        for said in [0b111, 0b110, 0b111, 0, 0b111, 0b011] {
            watch.notes.stopped.store(said, Ordering::Relaxed);
            watch.round();
            assert_eq!(watch.end.take(), None, "{said:#b}");
        }
    }
}
