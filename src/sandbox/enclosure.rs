//! What a container's processes run in: a VM, or the host's namespaces. Both have an agent that speaks
//! the protocol; what differs beyond that is told apart here. Called by [`super::supervisor`].

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use anyhow::Result;

use super::agent::AgentLink;
use super::control_group::{ControlGroup, CpuShare};
use super::launcher::Launcher;
use super::plain::RunningPlain;
use super::vm::{self, RunningVm};
use super::vmm_process::VmReport;

/// See the module's page.
#[derive(Debug)]
pub enum Enclosure {
    /// A microVM.
    Vm(Box<RunningVm>),
    /// A plain container.
    Plain(RunningPlain),
}

impl Enclosure {
    /// Control connection to the agent.
    pub fn agent(&mut self) -> &mut AgentLink {
        match self {
            Self::Vm(vm) => &mut vm.agent,
            Self::Plain(plain) => &mut plain.agent,
        }
    }

    /// The descriptor to poll for events.
    #[must_use]
    pub fn agent_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Vm(vm) => vm.agent.fd(),
            Self::Plain(plain) => plain.agent.fd(),
        }
    }

    /// The host's end of a stream that was there from the start.
    pub fn take_stream(&mut self, port: u32) -> Option<UnixStream> {
        match self {
            Self::Vm(vm) => vm.streams.remove(&port),
            Self::Plain(plain) => plain.streams.remove(&port),
        }
    }

    /// Offers the agent a stream on another port, and returns the host's end of it.
    ///
    /// # Errors
    /// When it is gone.
    pub fn offer(&self, port: u32) -> Result<UnixStream> {
        let (ours, theirs) = vm::stream_pair()?;
        self.offer_end(port, theirs.as_fd())?;
        Ok(ours)
    }

    /// As [`RunningVm::offer_end`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn offer_end(&self, port: u32, theirs: BorrowedFd<'_>) -> Result<()> {
        match self {
            Self::Vm(vm) => vm.offer_end(port, theirs),
            Self::Plain(plain) => vm::offer_to(plain.offers.as_fd(), port, theirs),
        }
    }

    /// The process that the container is on the host: its VMM, or its own.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match self {
            Self::Vm(vm) => vm.pid(),
            Self::Plain(plain) => plain.pid(),
        }
    }

    /// The control group of a VMM.
    #[must_use]
    pub fn group(&self) -> Option<String> {
        match self {
            Self::Vm(vm) => ControlGroup::name(vm.group()),
            Self::Plain(_) => None,
        }
    }

    /// Gives the VMM another share of CPU time; a plain container's agent has done so itself.
    pub fn set_cpu(&self, cpu: CpuShare) {
        if let Self::Vm(vm) = self {
            vm.group().set_cpu(cpu);
        }
    }

    /// Lets a VMM run on these host CPUs only; a plain container has no such limit.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn pin(&self, launcher: &Launcher, cpus: &[usize]) -> Result<()> {
        match self {
            Self::Vm(vm) => vm.pin(launcher, cpus),
            Self::Plain(_) => Ok(()),
        }
    }

    /// Gives it another weight of block I/O.
    ///
    /// # Errors
    /// One that nobody would hold.
    pub fn set_weight(&self, launcher: &Launcher, weight: Option<u16>) -> Result<()> {
        match self {
            Self::Vm(vm) => vm.group().set_weight(weight),
            Self::Plain(_) => launcher.set_weight(weight),
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        match self {
            Self::Vm(vm) => vm.kill(),
            Self::Plain(plain) => plain.kill(),
        }
    }

    /// Waits for its end after the agent's last word; what a VMM reports.
    ///
    /// # Errors
    /// When the process can't be waited for.
    pub fn finish_soon(self) -> Result<Option<VmReport>> {
        match self {
            Self::Vm(vm) => vm.finish_soon().map(Some),
            Self::Plain(plain) => {
                drop(plain);
                Ok(None)
            }
        }
    }

    /// Adds to the error of one that failed what is known of why.
    #[must_use]
    pub fn post_mortem(self, error: &anyhow::Error, log: &mut File) -> anyhow::Error {
        match self {
            Self::Vm(vm) => vm.post_mortem(error, log),
            Self::Plain(plain) => plain.post_mortem(error, log),
        }
    }
}
