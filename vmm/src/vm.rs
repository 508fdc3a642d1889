//! A VM that was built: runs it to its end, or to where a snapshot of it is taken.
//!
//! The builder makes it. It serves the devices and knows none of them: on the caller's thread those
//! that never wait for the host, each other one on a thread of its own.

use std::sync::mpsc::TryRecvError;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread::JoinHandle;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use kvm_ioctls::{Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::builder::{BuildError, BuildTimes, host_error, kvm_error};
use crate::bus::Bus;
use crate::snapshot::{self, MachineState, Snapshot, VcpuState};
use crate::vcpu::{EndSignal, ExitCounters, ExitCounts, Vcpu, VcpuEnd, VmEnd};
use crate::virtio::mmio::Transport;
use crate::virtio::{TransportState, Worker};
use crate::watch::{self, HaltWatch, Notes};

/// So long every vCPU must have waited for a snapshot to be taken: rounds, and milliseconds of
/// each. Longer than what Linux waits for in the middle of work, such as an RCU grace period.
const IDLE_ROUNDS: u32 = 8;
const IDLE_ROUND_MS: i32 = 10;

/// Milliseconds between two looks whether another thread has paused or answered.
const PAUSE_POLL_MS: i32 = 1;

/// A vCPU thread serves exits some calls deep; 256 KiB is far more than that needs.
const VCPU_STACK_BYTES: usize = 256 << 10;

/// The thread of a device has the vectors of one request on its stack at most.
const DEVICE_STACK_BYTES: usize = 256 << 10;

/// A thread of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// Runs one vCPU.
    Vcpu,
    /// Serves the devices that never wait for the host: the thread that called.
    EventLoop,
    /// Serves one disk.
    Disk,
}

/// Shuts the calling thread in, before the guest's first instruction.
pub type Confine = Arc<dyn Fn(Thread) -> std::io::Result<()> + Send + Sync>;

/// A VM that is built and does not run yet.
pub struct Vm {
    pub(crate) vcpus: Vec<Vcpu>,
    /// Those that [`Vm::run`] started.
    pub(crate) threads: Arc<Vec<JoinHandle<VcpuEnd>>>,
    pub(crate) events: EventManager<Box<dyn MutEventSubscriber>>,
    /// Of each device that waits for the host, its own.
    pub(crate) alone: Vec<EventManager<Worker>>,
    pub(crate) end: Arc<EndSignal>,
    pub(crate) exits: Arc<ExitCounters>,
    pub(crate) notes: Arc<Notes>,
    pub(crate) bus: Arc<Bus>,
    pub(crate) memory_mib: u32,
    pub(crate) times: BuildTimes,
    pub(crate) kvm: Kvm,
    /// KVM's VM lives as long as this process uses it.
    pub(crate) vm: VmFd,
    pub(crate) confine: Confine,
}

/// Wakes the event loop when a thread reports the end.
pub(crate) struct EndListener(pub(crate) Arc<EndSignal>);

impl MutEventSubscriber for EndListener {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(self.0.event(), EventSet::IN)) {
            crate::say(format_args!("watch the end of the VM: {error}"));
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps) {
        let _ = self.0.event().read();
    }
}

/// Where every thread of a VM waits until all are confined.
struct Gate {
    all: Barrier,
    failure: Mutex<Option<std::io::Error>>,
}

impl Gate {
    fn new(threads: usize) -> Self {
        Self {
            all: Barrier::new(threads),
            failure: Mutex::new(None),
        }
    }

    /// Confines the calling thread and waits for the others; `Err` when one of them could not be.
    fn pass(&self, thread: Thread, confine: &Confine) -> Result<(), ()> {
        let failure = || self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = confine(thread) {
            failure().get_or_insert(error);
        }
        self.all.wait();
        if failure().is_some() {
            return Err(());
        }
        Ok(())
    }

    /// The same for the caller's thread, which tells why not.
    fn open(&self, confine: &Confine) -> Result<(), BuildError> {
        self.pass(Thread::EventLoop, confine).map_err(|()| {
            let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            // It stays, for the other threads to see.
            let text = failure
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            host_error("confine the VM's threads")(std::io::Error::other(text))
        })
    }
}

impl Vm {
    /// When each step of the build was done.
    #[must_use]
    pub fn times(&self) -> BuildTimes {
        self.times
    }

    /// Counts exits to user space while the VM runs.
    #[must_use]
    pub fn exits(&self) -> Arc<ExitCounters> {
        self.exits.clone()
    }

    /// Has each thread call this when it has all it needs and before any vCPU runs. One that fails
    /// keeps the VM from running.
    pub fn set_confinement(&mut self, confine: Confine) {
        self.confine = confine;
    }

    /// Adds a subscriber of the caller's own to the event loop, such as a control socket.
    pub fn add_subscriber(&mut self, subscriber: Box<dyn MutEventSubscriber>) {
        self.events.add_subscriber(subscriber);
    }

    /// Starts the other threads and serves devices on this one until the VM ends.
    ///
    /// Threads that still run are not joined: the process that ran a VM ends with it. What the host
    /// has not taken of the guest's bytes then is for [`Self::deliver`].
    ///
    /// # Errors
    /// When a thread can't be started or the event loop fails.
    pub fn run(&mut self) -> Result<(VmEnd, ExitCounts), BuildError> {
        let (threads, gate) = self.start_threads()?;
        self.threads = Arc::new(threads);
        let (notes, end) = (self.notes.clone(), self.end.clone());
        let watch = HaltWatch::new(self.threads.clone(), notes, end)
            .map_err(host_error("watch for a halt"))?;
        self.events.add_subscriber(Box::new(watch));
        gate.open(&self.confine)?;
        loop {
            self.serve(-1)?;
            if let Some(end) = self.end.take() {
                return Ok((end, self.exits.snapshot()));
            }
        }
    }

    /// Serves the host, after the end of the VM, until it has taken all that devices have for it or is
    /// gone. The vCPUs are stopped meanwhile.
    ///
    /// # Errors
    /// When the event loop fails.
    pub fn deliver(&mut self) -> Result<(), BuildError> {
        let transports = self.bus.transports().iter();
        let on_this_thread = transports.filter(|transport| !transport.waits_for_host());
        let mut waiting: Vec<_> = on_this_thread.map(Transport::deliver).collect();
        self.notes.pause();
        loop {
            waiting.retain(|done| done.try_recv() == Err(TryRecvError::Empty));
            if waiting.is_empty() {
                return Ok(());
            }
            let stopped = self.threads.iter().all(JoinHandle::is_finished);
            if !stopped {
                watch::kick(&self.threads);
            }
            self.serve(if stopped { -1 } else { PAUSE_POLL_MS })?;
        }
    }

    /// Runs the guest until `ready` was written to and then every vCPU waits for an interrupt, for
    /// long enough that no work is under way, and takes a snapshot. What the guest's memory is then
    /// is in the file of [`Start::BootInto`](crate::Start::BootInto).
    ///
    /// # Errors
    /// When a thread can't be started, the event loop fails or KVM does not tell a state. A guest
    /// that ends before is the other way to return.
    pub fn run_to_snapshot(
        mut self,
        ready: &EventFd,
    ) -> Result<Result<Snapshot, VmEnd>, BuildError> {
        let (threads, gate) = self.start_threads()?;
        gate.open(&self.confine)?;
        let mut rounds = None;
        while rounds.is_none_or(|rounds| rounds < IDLE_ROUNDS) {
            self.serve(IDLE_ROUND_MS)?;
            if let Some(end) = self.end.take() {
                return Ok(Err(end));
            }
            rounds = match rounds {
                None => ready.read().ok().map(|_| 0),
                Some(rounds) if self.notes.all_wait(threads.len()) => Some(rounds + 1),
                Some(_) => Some(0),
            };
            if rounds.is_some() {
                watch::kick(&threads);
            }
        }
        self.notes.pause();
        while !threads.iter().all(JoinHandle::is_finished) {
            // Again, for the one that was about to enter the guest.
            watch::kick(&threads);
            // It may wait for a device to be reset.
            self.serve(PAUSE_POLL_MS)?;
        }
        let mut fds = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(VcpuEnd::Paused(fd)) => fds.push(fd),
                Ok(VcpuEnd::Told) => {
                    let lost = || VmEnd::KvmFailure("a vCPU is gone".to_owned());
                    return Ok(Err(self.end.take().unwrap_or_else(lost)));
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let devices = self.save_devices()?;
        let save = || -> Result<_, kvm_ioctls::Error> {
            let msrs = snapshot::msr_indices(&self.kvm)?;
            let vcpus = fds
                .iter()
                .map(|fd| VcpuState::save(fd, &msrs))
                .collect::<Result<Vec<_>, _>>()?;
            let first = fds.first().ok_or(kvm_ioctls::Error::new(libc::EINVAL))?;
            Ok((vcpus, MachineState::save(&self.vm, first)?))
        };
        let (vcpus, machine) = save().map_err(kvm_error("read the state of the VM"))?;
        Ok(Ok(Snapshot {
            memory_mib: self.memory_mib,
            vcpus,
            devices,
            machine,
        }))
    }

    /// All wait at the gate; those of vCPUs are returned.
    fn start_threads(&mut self) -> Result<(Vec<JoinHandle<VcpuEnd>>, Arc<Gate>), BuildError> {
        watch::take_kick_signal().map_err(host_error("take a signal for vCPU threads"))?;
        let gate = Arc::new(Gate::new(self.vcpus.len() + self.alone.len() + 1));
        for (index, events) in self.alone.drain(..).enumerate() {
            let (gate, confine) = (gate.clone(), self.confine.clone());
            let end = self.end.clone();
            std::thread::Builder::new()
                .name(format!("disk{index}"))
                .stack_size(DEVICE_STACK_BYTES)
                .spawn(move || {
                    if gate.pass(Thread::Disk, &confine).is_ok() {
                        serve_alone(events, &end);
                    }
                })
                .map_err(host_error("start the thread of a disk"))?;
        }
        let mut threads = Vec::new();
        for vcpu in self.vcpus.drain(..) {
            let (gate, confine) = (gate.clone(), self.confine.clone());
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{}", vcpu.index))
                .stack_size(VCPU_STACK_BYTES)
                .spawn(move || match gate.pass(Thread::Vcpu, &confine) {
                    Ok(()) => vcpu.run(),
                    // The caller's thread tells.
                    Err(_) => VcpuEnd::Told,
                })
                .map_err(host_error("start a vCPU thread"))?;
            threads.push(thread);
        }
        Ok((threads, gate))
    }

    /// One turn of the event loop, which begins within `timeout_ms`; a signal makes it an empty one.
    fn serve(&mut self, timeout_ms: i32) -> Result<(), BuildError> {
        let served = self.events.run_with_timeout(timeout_ms);
        served.map(drop).map_err(BuildError::EventLoop)
    }

    /// Asks each device's worker, which answers on its thread when it is at no request: mostly here.
    fn save_devices(&mut self) -> Result<Vec<TransportState>, BuildError> {
        let bus = self.bus.clone();
        let mut states = Vec::new();
        for transport in bus.transports() {
            let answer = transport.ask_for_state();
            let worker = loop {
                self.serve(PAUSE_POLL_MS)?;
                match answer.try_recv() {
                    Ok(state) => break state,
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Disconnected) => {
                        return Err(BuildError::Shape("a device is gone"));
                    }
                }
            };
            states.push(transport.state(worker));
        }
        Ok(states)
    }
}

/// Serves one device until the process ends.
fn serve_alone(mut events: EventManager<Worker>, end: &EndSignal) {
    loop {
        if let Err(error) = events.run() {
            end.set(VmEnd::DeviceFailure(format!("event loop: {error}")));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_that_is_not_confined_keeps_all_from_running() {
        let gate = Arc::new(Gate::new(3));
        let confine: Confine = Arc::new(|thread| match thread {
            Thread::Vcpu => Err(std::io::Error::other("denied")),
            Thread::EventLoop | Thread::Disk => Ok(()),
        });
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (gate, confine) = (gate.clone(), confine.clone());
                std::thread::spawn(move || gate.pass(Thread::Vcpu, &confine).is_ok())
            })
            .collect();
        let error = gate.open(&confine).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(error.to_string(), "confine the VM's threads");
        assert_eq!(cause.as_deref(), Some("denied"));
        for thread in threads {
            assert!(!thread.join().unwrap(), "it would have run");
        }
    }
}
