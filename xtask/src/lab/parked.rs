//! A VM that never runs, kept as long as the emulated host is up.
//!
//! KVM rewrites the kernel's scheduler when the first VM of a host is made and when the last one
//! goes, and code of its own when the last interrupt controller that is off goes (static keys, Linux
//! Documentation/staging/static-keys.rst). QEMU 7.2 has CPUs of an emulated machine execute what was
//! there before now and then: a breakpoint that is gone, for ever. With a VM that stays, nothing is
//! rewritten (docs/adr/0005). The server makes it. It must not know what other VMs there are.

use anyhow::{Context, Result};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

/// See the module's page. Dropped, the VM goes.
pub(super) struct ParkedVm {
    _vcpu: VcpuFd,
    _vm: VmFd,
}

impl ParkedVm {
    /// Makes one with a vCPU whose interrupt controller is off, as each is at its start.
    pub(super) fn new() -> Result<Self> {
        let kvm = Kvm::new().context("open /dev/kvm")?;
        let vm = kvm.create_vm().context("create a VM")?;
        vm.create_irq_chip()
            .context("create interrupt controllers")?;
        let vcpu = vm.create_vcpu(0).context("create a vCPU")?;
        Ok(Self {
            _vcpu: vcpu,
            _vm: vm,
        })
    }
}
