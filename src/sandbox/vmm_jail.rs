//! Shuts the VMM process in: namespaces and an empty root before it has a VM, then a filter of
//! system calls for each thread before the guest's first instruction (crate `jail`).
//!
//! ```text
//! started by the supervisor ── clone ──► the VMM: own namespaces, user, root; no privileges
//!    │ hands it over on stdout             ├ builds the VM
//!    └ ends                                └ each thread: its filter ──► the guest runs
//! ```
//! Until the copy has its ids, the starter reports what goes wrong; from then on the copy does.
//! [`super::vmm_process`] calls it, [`super::vmm_child`] is the other side. It knows no VM.
#![allow(unsafe_code)] // _exit

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

use ::jail::clone::{self, Side};
use ::jail::filter::Filter;
use ::jail::{landlock, privileges, root, table};
use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::program;
use super::vmm_process::{DiskConfig, StartConfig, VmmConfig};
use super::wire::Link;

/// Memory of the process beyond the guest's, in bytes: heap, stacks, a template's state while it
/// is read; several times what was seen.
const OWN_BYTES: u64 = 256 << 20;

/// Longest file that it writes to beside disks: the VM's log and a template's state have limits of
/// their own, far below.
const FILE_BYTES_MIN: u64 = 64 << 20;

/// What the starter says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// There is a copy with this id, and a descriptor that stands for it.
    Made(i32),
    /// It may go on.
    Started,
}

/// Goes on in a copy of this process that is shut in, and ends the process that called. The process
/// has one thread and all the files it will ever open.
///
/// # Errors
/// When there can be no jail: nothing is run outside of one.
pub fn enter(config: &VmmConfig) -> Result<()> {
    let (from_starter, to_copy) = std::io::pipe().context("create a pipe")?;
    let (from_copy, to_starter) = std::io::pipe().context("create a pipe")?;
    let copied = clone::clone_into_namespaces().context("shut the VMM in")?;
    match copied {
        Side::Starter(copy, process) => {
            drop((from_starter, to_starter));
            let output = std::io::stdout().as_fd().try_clone_to_owned();
            let link = Link::new(output.context("tell the VMM's id")?.into());
            let said = Said::Made(copy.as_raw_nonzero().get());
            link.send(&said, &[process.as_fd()])
                .context("tell the VMM's id")?;
            let ids = clone::ids(copy);
            clone::map(copy, ids).context("shut the VMM in")?;
            let code = start(
                ids.own().unwrap_or(0),
                config.supervisor,
                &link,
                to_copy,
                from_copy,
            );
            // Its error is told by the copy, or by its silence.
            std::process::exit(i32::from(code.is_err()))
        }
        Side::Copy => {
            drop((to_copy, from_copy));
            shut_in(config, from_starter, to_starter)
        }
    }
}

/// The starter's part; it ends when the copy is tied to the supervisor.
fn start(
    own: u32,
    supervisor: u32,
    link: &Link,
    mut to_copy: PipeWriter,
    mut from_copy: PipeReader,
) -> Result<()> {
    to_copy
        .write_all(&own.to_ne_bytes())
        .context("start the VMM")?;
    let mut tied = [0];
    from_copy.read_exact(&mut tied).context("start the VMM")?;
    // Had the supervisor died before the copy was tied to it, nobody would end the copy.
    super::vmm_process::check_parent(supervisor)?;
    link.send(&Said::Started, &[])
        .context("tell that the VMM goes on")?;
    to_copy.write_all(&[0]).context("start the VMM")
}

/// The copy's part.
fn shut_in(
    config: &VmmConfig,
    mut from_starter: PipeReader,
    mut to_starter: PipeWriter,
) -> Result<()> {
    rustix::stdio::dup2_stdout(std::io::stdin()).context("let go of the starter's output")?;
    let mut own = [0; 4];
    if from_starter.read_exact(&mut own).is_err() {
        // The starter reports why.
        std::process::exit(1);
    }
    leave_host(u32::from_ne_bytes(own))?;
    limit(config)?;
    privileges::drop_all_but(rustix::thread::CapabilitySet::empty())?;
    privileges::hide()?;
    landlock::restrict().context("shut the VMM in by Landlock")?;
    // After the last change of credentials, which clears it.
    set_parent_process_death_signal(Some(Signal::KILL)).context("tie the VM to its supervisor")?;
    to_starter.write_all(&[0]).context("tell that it is tied")?;
    let mut go = [0];
    if from_starter.read_exact(&mut go).is_err() {
        bail!("the supervisor is gone");
    }
    Ok(())
}

/// Becomes the user `own`, unless that is 0, and has an empty tree from then on.
fn leave_host(own: u32) -> Result<()> {
    clone::become_own((own != 0).then_some(own))?;
    root::keep_mounts()?;
    let tree = root::make()?;
    root::enter(tree.as_fd())?;
    Ok(())
}

/// Verb of the process that tries whether one can be shut in here.
pub const TRY_VERB: &str = "__try-jail";

/// Goes as far as a VMM does before it has anything of its VM. What fails is told on standard error,
/// which the copy has as well.
///
/// # Errors
/// When there can be no jail.
pub fn try_out() -> Result<()> {
    let (mut from_starter, mut to_copy) = std::io::pipe().context("create a pipe")?;
    match clone::clone_into_namespaces()? {
        Side::Starter(copy, _process) => {
            drop(from_starter);
            let ids = clone::ids(copy);
            clone::map(copy, ids)?;
            let own = ids.own().unwrap_or(0);
            to_copy.write_all(&own.to_ne_bytes()).context("go on")
        }
        Side::Copy => {
            drop(to_copy);
            let mut own = [0; 4];
            match from_starter.read_exact(&mut own) {
                Ok(()) => leave_host(u32::from_ne_bytes(own)),
                // The starter tells why.
                Err(_) => Ok(()),
            }
        }
    }
}

/// Whether a process can be shut in here, as another one that tries it says.
///
/// # Errors
/// Why not.
pub fn tried() -> Result<()> {
    let mut process = Command::new(program::own()?);
    process.arg(TRY_VERB).stdin(Stdio::null());
    // Until both of them have ended.
    let said = process.output().context("start a process")?.stderr;
    if said.is_empty() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said);
    bail!(
        "{}",
        super::printable(said.trim().trim_start_matches("bulkhead: "))
    )
}

/// Memory in bytes that the process of a VM with so much may take.
pub fn memory_bytes(guest_mib: u32) -> u64 {
    (u64::from(guest_mib) << 20).saturating_add(OWN_BYTES)
}

/// What the process may take of the host; how many files and threads, [`confinement`] says.
fn limit(config: &VmmConfig) -> Result<()> {
    let guest = u64::from(config.memory_mib) << 20;
    privileges::limit(Resource::Data, memory_bytes(config.memory_mib))?;
    let disks = config.disks.iter().map(|disk| match disk {
        DiskConfig::Writable { bytes, .. } => *bytes,
        DiskConfig::ReadOnly(_) | DiskConfig::Absent { .. } => 0,
    });
    let memory = match config.start {
        StartConfig::MakeTemplate { .. } => guest,
        StartConfig::Boot(_) | StartConfig::Template { .. } => 0,
    };
    let longest = disks.max().unwrap_or(0).max(memory).max(FILE_BYTES_MIN);
    privileges::limit(Resource::Fsize, longest)?;
    privileges::limit(Resource::Memlock, 0)?;
    privileges::limit(Resource::Msgqueue, 0)?;
    Ok(())
}

/// What each thread of the VM does before the guest runs: a filter of its own, and no descriptor
/// and no thread more than it may need.
///
/// # Errors
/// When the table of calls makes no sense.
pub fn confinement(config: &VmmConfig) -> Result<vmm::Confine> {
    let main = match config.start {
        StartConfig::MakeTemplate { .. } => table::Thread::TemplateMaker,
        StartConfig::Boot(_) | StartConfig::Template { .. } => table::Thread::EventLoop,
    };
    let of_loop = Filter::new(main)?;
    let of_vcpu = Filter::new(table::Thread::Vcpu)?;
    let of_disk = Filter::new(table::Thread::Disk)?;
    let disks = u64::try_from(config.disks.len())?;
    let threads = u64::from(config.vcpu_count) + disks + THREADS_BESIDE;
    Ok(Arc::new(move |thread| match thread {
        vmm::Thread::Vcpu => of_vcpu.install().map_err(std::io::Error::other),
        vmm::Thread::Disk => of_disk.install().map_err(std::io::Error::other),
        vmm::Thread::EventLoop => {
            limit_to_what_is_there(threads).map_err(std::io::Error::other)?;
            of_loop.install().map_err(std::io::Error::other)
        }
    }))
}

/// Ports that the supervisor may still offer, and connections of the guest.
const STREAMS_MAX: u64 = {
    let ports = vmm::virtio::vsock::MAX_OFFERED_PORTS as u64;
    ports + vmm::virtio::vsock::MAX_CONNECTIONS as u64
};

/// Threads beside those of vCPUs and disks: the event loop, and one that KVM makes in the VMM's process
/// when a vCPU first runs (it recovers huge pages, Linux 6.14 and later). Without room for that one,
/// KVM_RUN says EAGAIN for ever. The filters let no thread make another.
const THREADS_BESIDE: u64 = 2;

/// Numbers of descriptors that are looked at: layers, devices and vCPUs are some hundred.
const DESCRIPTORS_MAX: i32 = 1024;

fn limit_to_what_is_there(threads: u64) -> Result<()> {
    let is_open = |number: &i32| {
        // SAFETY: fcntl(2) with F_GETFD reads a flag, of whatever the number stands for.
        let flags = unsafe { libc::fcntl(*number, libc::F_GETFD) };
        flags >= 0
    };
    let used = u64::try_from((0..DESCRIPTORS_MAX).filter(is_open).count())?;
    privileges::limit(Resource::Nofile, used + STREAMS_MAX)?;
    privileges::limit(Resource::Nproc, threads)?;
    Ok(())
}

/// One line and the end, where a panic would otherwise send its process a signal that the first
/// process of a namespace ignores.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(std::io::stderr(), "vmm: {panic}");
        // SAFETY: it ends the process. Not `exit`, where a second thread that panics would wait for the
        // first by a call that it may not make.
        unsafe { libc::_exit(PANIC_CODE) }
    }));
}

/// Exit code of a VMM that panicked; as a shell shows SIGABRT.
pub const PANIC_CODE: i32 = 134;
