//! The run loop of one vCPU: enters the guest, serves its exits, and says when the VM ends.
//!
//! Started by the builder, one thread each. It knows the bus and nothing behind it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::Bus;
use crate::watch::Notes;

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmEnd {
    /// The guest pulled the reset line: its orderly end, or a kernel panic (the console tells).
    Reset,
    /// The guest lost control of its CPU: a fault while handling a double fault.
    TripleFault,
    /// Every vCPU stopped with its interrupts off: nothing can wake the guest again.
    Halted,
    /// Its state was saved, to go on from another time.
    Saved,
    /// KVM could not go on with the guest's state.
    KvmFailure(String),
    /// The thread of a device could not go on.
    DeviceFailure(String),
}

impl std::fmt::Display for VmEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Reset => f.write_str("the guest reset itself"),
            Self::TripleFault => f.write_str("the guest's CPU ended in a triple fault"),
            Self::Halted => f.write_str("the guest halted for ever"),
            Self::Saved => f.write_str("the guest's state was saved"),
            Self::KvmFailure(reason) => write!(f, "KVM can't run the guest: {reason}"),
            Self::DeviceFailure(reason) => {
                write!(f, "the guest's devices can't be served: {reason}")
            }
        }
    }
}

/// Where threads report the end; the first one wins, the event loop listens.
#[derive(Debug)]
pub(crate) struct EndSignal {
    end: Mutex<Option<VmEnd>>,
    event: EventFd,
}

impl EndSignal {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            end: Mutex::new(None),
            event: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    pub(crate) fn set(&self, end: VmEnd) {
        let mut slot = self
            .end
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        slot.get_or_insert(end);
        let _ = self.event.write(1);
    }

    pub(crate) fn take(&self) -> Option<VmEnd> {
        self.end
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
    }
}

/// Exits to user space so far, over all vCPUs. ioeventfds and irqfds cause none.
#[derive(Debug, Default)]
pub struct ExitCounters {
    /// Port I/O.
    pub port_io: AtomicU64,
    /// Memory-mapped I/O.
    pub mmio: AtomicU64,
    /// Anything else.
    pub other: AtomicU64,
}

/// A copy of [`ExitCounters`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitCounts {
    /// Port I/O.
    pub port_io: u64,
    /// Memory-mapped I/O.
    pub mmio: u64,
    /// Anything else.
    pub other: u64,
}

impl ExitCounters {
    /// The counts at this moment.
    #[must_use]
    pub fn snapshot(&self) -> ExitCounts {
        ExitCounts {
            port_io: self.port_io.load(Ordering::Relaxed),
            mmio: self.mmio.load(Ordering::Relaxed),
            other: self.other.load(Ordering::Relaxed),
        }
    }
}

/// Entries in a row that KVM refused for now. A vCPU that waits to be started has some, each after it
/// was woken; without end they are a fault of the host's, which would keep a CPU busy.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    first: Option<Instant>,
    count: u32,
}

/// So many refusals in so short a time are without end.
const REFUSALS_MAX: u32 = 100_000;
const REFUSALS_TIME: Duration = Duration::from_secs(10);

impl Refusals {
    /// Notes one, and says whether they are without end.
    fn are_endless(&mut self, now: Instant) -> bool {
        let first = *self.first.get_or_insert(now);
        self.count += 1;
        if self.count < REFUSALS_MAX {
            return false;
        }
        *self = Self::default();
        now.duration_since(first) < REFUSALS_TIME
    }
}

/// One vCPU, ready to run.
pub(crate) struct Vcpu {
    pub(crate) index: u8,
    pub(crate) fd: VcpuFd,
    pub(crate) bus: Arc<Bus>,
    pub(crate) end: Arc<EndSignal>,
    pub(crate) exits: Arc<ExitCounters>,
    pub(crate) notes: Arc<Notes>,
    pub(crate) refusals: Refusals,
}

/// How a vCPU's thread ended.
#[derive(Debug)]
pub(crate) enum VcpuEnd {
    /// The VM is over, and the [`EndSignal`] knows why.
    Told,
    /// It was asked to pause, and has.
    Paused(VcpuFd),
}

impl Vcpu {
    /// Runs the guest until the VM ends or is to pause.
    pub(crate) fn run(mut self) -> VcpuEnd {
        loop {
            if self.notes.is_pausing() {
                return match self.pause() {
                    Ok(()) => VcpuEnd::Paused(self.fd),
                    Err(error) => {
                        let reason = format!("pause a vCPU: {error}");
                        self.end.set(VmEnd::KvmFailure(reason));
                        VcpuEnd::Told
                    }
                };
            }
            if let Some(end) = self.step() {
                self.end.set(end);
                return VcpuEnd::Told;
            }
        }
    }

    /// Completes the access of the last exit, which KVM does on the way in.
    fn pause(&mut self) -> Result<(), kvm_ioctls::Error> {
        self.fd.set_kvm_immediate_exit(1);
        match self.fd.run() {
            Err(error) if error.errno() == libc::EINTR => Ok(()),
            Err(error) => Err(error),
            // It leaves before the guest's next instruction, so that there is no other exit.
            Ok(_) => Err(kvm_ioctls::Error::new(libc::EBUSY)),
        }
    }

    /// What KVM calls its error, after an exit for one.
    #[allow(unsafe_code)] // a union
    fn internal_error(&mut self) -> u32 {
        let run = self.fd.get_kvm_run();
        // SAFETY: KVM wrote this part for the exit, and any bits are a number.
        unsafe { run.__bindgen_anon_1.internal.suberror }
    }

    fn step(&mut self) -> Option<VmEnd> {
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) if error.errno() == libc::EINTR => {
                self.notes.take_down(self.index, &self.fd);
                return None;
            }
            Err(error) if error.errno() == libc::EAGAIN => {
                let endless = self.refusals.are_endless(Instant::now());
                return endless.then(|| {
                    VmEnd::KvmFailure(format!("KVM_RUN: {error}, {REFUSALS_MAX} times in a row"))
                });
            }
            Err(error) => return Some(VmEnd::KvmFailure(format!("KVM_RUN: {error}"))),
        };
        self.refusals = Refusals::default();
        let counter = match &exit {
            VcpuExit::IoIn(..) | VcpuExit::IoOut(..) => &self.exits.port_io,
            VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..) => &self.exits.mmio,
            _ => &self.exits.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match exit {
            VcpuExit::MmioRead(address, data) => self.bus.mmio_read(address, data),
            VcpuExit::MmioWrite(address, data) => self.bus.mmio_write(address, data),
            VcpuExit::IoIn(port, data) => self.bus.port_read(port, data),
            VcpuExit::IoOut(port, data) => {
                self.bus.port_write(port, data);
                if self.bus.reset_requested() {
                    return Some(VmEnd::Reset);
                }
            }
            VcpuExit::Shutdown => return Some(VmEnd::TripleFault),
            VcpuExit::SystemEvent(..) => return Some(VmEnd::Reset),
            VcpuExit::FailEntry(reason, _) => {
                return Some(VmEnd::KvmFailure(format!(
                    "entry refused, reason {reason:#x}"
                )));
            }
            VcpuExit::InternalError => {
                let reason = internal_error(self.internal_error());
                return Some(VmEnd::KvmFailure(reason));
            }
            VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen => {}
            other => return Some(VmEnd::KvmFailure(format!("unexpected exit {other:?}"))),
        }
        None
    }
}

/// KVM's internal errors in words (Linux uapi/linux/kvm.h).
fn internal_error(number: u32) -> String {
    let what = match number {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction can't be emulated",
        KVM_INTERNAL_ERROR_SIMUL_EX => "exceptions at the same time",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while an event was delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit that it does not know",
        _ => "of a kind that has no name here",
    };
    format!(
        "internal error {number}: {what}; it may be a /dev/kvm without hardware support, which emulates too little"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_endless_when_they_come_without_a_pause() {
        let begun = Instant::now();
        let mut refusals = Refusals::default();
        let mut after = |pause: Duration| {
            let ends = (0..REFUSALS_MAX).map(|at| refusals.are_endless(begun + pause * at));
            ends.filter(|endless| *endless).count()
        };
        assert_eq!(after(Duration::ZERO), 1);
        // Counted anew.
        assert_eq!(after(Duration::from_micros(50)), 1);
        assert_eq!(after(Duration::from_millis(1)), 0);
    }

    #[test]
    fn an_internal_error_is_told_with_its_number() {
        for number in [0, 1, 2, 3, 4, u32::MAX] {
            let text = internal_error(number);
            assert!(
                text.starts_with(&format!("internal error {number}: ")),
                "{text}"
            );
            assert!(text.contains("it may be"), "{text}");
        }
    }
}
