//! Other limits for a container that runs: what its VM can take is sent to the agent, the rest is
//! refused. Called by [`super`] for a command, and for the agent's answer.

use std::collections::VecDeque;

use anyhow::{Result, bail};
use protocol::message::Request;

use super::super::launch::{GUEST_OVERHEAD_MIB, Isolation, memory_mib};
use super::super::wire::{NewLimits, ToCommand};
use super::Supervisor;
use super::clients::ClientId;

/// Updates that the agent has not answered yet, the oldest first.
pub(super) type Updates = VecDeque<(ClientId, NewLimits)>;

impl Supervisor {
    /// Changes the limits; an answer, unless the agent is asked first.
    pub(super) fn update(&mut self, client: ClientId, limits: NewLimits) -> Option<ToCommand> {
        if self.running.is_none() {
            // Between two lives: the next one reads them.
            return Some(ToCommand::Done);
        }
        if self.state.phases.started == 0 {
            let id = &self.config.id;
            return Some(ToCommand::Refused(format!(
                "container {id} is starting, try again when it runs"
            )));
        }
        let launch = &self.config.launch;
        if launch.isolation == Isolation::Vm
            && let Some(sentence) = refusal(
                launch.vcpu_count,
                launch.memory_mib,
                launch.run.resources.memory_max,
                &limits,
            )
        {
            return Some(ToCommand::Refused(sentence));
        }
        let weight = limits.blkio_weight;
        if weight != launch.block_io.weight
            && let Some(running) = &self.running
            && let Err(error) = running.vm.set_weight(&self.launcher, weight)
        {
            return Some(ToCommand::Refused(format!("{error:#}")));
        }
        self.send(Request::Update(limits.resources));
        self.updates.push_back((client, limits));
        None
    }

    /// The agent's answer to the oldest update.
    pub(super) fn note_updated(&mut self, trouble: Option<&str>) -> Result<()> {
        let Some((client, limits)) = self.updates.pop_front() else {
            bail!("the agent broke the protocol: it updated what nobody asked for");
        };
        let answer = match trouble {
            None => {
                let pinned = match &self.running {
                    Some(running) if limits.host_cpus != self.config.launch.host_cpus => {
                        running.vm.pin(&self.launcher, &limits.host_cpus)
                    }
                    _ => Ok(()),
                };
                if let Err(error) = pinned {
                    self.clients.tell(client, &super::failed(&error));
                    return Ok(());
                }
                // Size and vCPUs stay what the VM has begun with.
                if let Some(running) = &self.running {
                    running.vm.set_cpu((&limits.resources).into());
                }
                self.config.launch.run.resources = limits.resources;
                self.config.launch.block_io.weight = limits.blkio_weight;
                self.config.launch.host_cpus = limits.host_cpus;
                ToCommand::Done
            }
            Some(text) => {
                if let Some(running) = &self.running {
                    // Nothing of it holds.
                    let weight = self.config.launch.block_io.weight;
                    let _ = running.vm.set_weight(&self.launcher, weight);
                }
                ToCommand::Refused(super::super::printable(text))
            }
        };
        self.clients.tell(client, &answer);
        Ok(())
    }

    /// The VM is gone: nobody answers any more.
    pub(super) fn refuse_updates(&mut self) {
        for (client, _) in std::mem::take(&mut self.updates) {
            self.clients.tell(client, &super::has_ended());
        }
    }
}

/// Why a VM of so many vCPUs and so much memory can't have these limits while it runs.
fn refusal(
    vcpu_count: u8,
    vm_mib: u32,
    old_max: Option<u64>,
    limits: &NewLimits,
) -> Option<String> {
    if limits.vcpu_count > vcpu_count {
        return Some(format!(
            "its VM has {vcpu_count} vCPUs as long as it runs, not {}: stop the container first",
            limits.vcpu_count
        ));
    }
    let max = limits.resources.memory_max;
    if max != old_max && memory_mib(max) > vm_mib {
        return Some(format!(
            "its VM has {vm_mib} MiB as long as it runs, of which a container can have {}: stop the \
             container first",
            vm_mib.saturating_sub(GUEST_OVERHEAD_MIB)
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_keeps_its_size() {
        let limits = |vcpu_count, mib: Option<u64>| {
            let mut limits = NewLimits {
                resources: protocol::spec::Resources::default(),
                blkio_weight: None,
                vcpu_count,
                host_cpus: Vec::new(),
            };
            limits.resources.memory_max = mib.map(|mib| mib << 20);
            limits
        };
        let refusal = |old: Option<u64>, new| refusal(2, 1024, old.map(|mib| mib << 20), &new);
        assert_eq!(refusal(None, limits(2, None)), None);
        assert_eq!(refusal(None, limits(1, Some(960))), None);
        assert_eq!(refusal(Some(2000), limits(1, Some(2000))), None);
        assert_eq!(
            refusal(None, limits(2, Some(961))).unwrap(),
            "its VM has 1024 MiB as long as it runs, of which a container can have 960: stop the \
             container first"
        );
        assert_eq!(
            refusal(None, limits(3, None)).unwrap(),
            "its VM has 2 vCPUs as long as it runs, not 3: stop the container first"
        );
    }
}
