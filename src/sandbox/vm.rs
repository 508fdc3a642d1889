//! Starts a VMM process with everything it needs already open, and holds the host's ends.
//!
//! Called by [`super::supervisor`] for a container, by [`super::access`] for the files of a stopped one,
//! by [`super::disks`] for a conversion, by [`super::build`] for the steps of a stage and by
//! [`super::template`]. It knows descriptors and numbers, no container and no image.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IoSlice, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};

use vmm::{ExitCounts, VmEnd};

use super::agent::{AgentError, AgentLink};
use super::block_io::Controls;
use super::control_group::{ControlGroup, CpuShare, Limits};
use super::files::{FileServer, Share};
use super::launcher::Launcher;
use super::network::{self, Card};
use super::paths::{self, GuestFiles, Root};
use super::program::Descriptors;
use super::template::{Shape, Templates};
use super::vmm_child::{self, VmmChild};
use super::vmm_jail;
use super::vmm_process::{
    CardConfig, DiskConfig, FilesConfig, KernelConfig, SegmentConfig, StartConfig, StreamConfig,
    VmReport, VmTimes, VmmConfig,
};

/// Name of the hidden verb that [`super::vmm_process`] serves.
pub const VMM_VERB: &str = "__vmm";

/// How long a request to the agent may wait for room.
const AGENT_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest report in bytes that is read from a VMM process.
const REPORT_BYTES_MAX: u64 = 64 << 10;

/// Layers and the blob start on such a boundary of the image disk: the guest's page size.
pub const DISK_ALIGNMENT: u64 = 4096;

/// A block device of the VM.
#[derive(Debug)]
pub enum DiskSource {
    /// Files end to end, each padded to [`DISK_ALIGNMENT`].
    ReadOnly(Vec<Segment>),
    /// A file of this many bytes.
    Writable {
        /// Opened for reading and writing.
        file: File,
        /// Size of the device.
        bytes: u64,
        /// Whether a flush reaches the host's disk.
        durable: bool,
    },
}

/// A file on a read-only disk.
#[derive(Debug)]
pub struct Segment {
    /// Opened read-only.
    pub file: File,
    /// Length in bytes.
    pub len: u64,
}

/// What to start.
#[derive(Debug)]
pub struct VmRequest {
    /// Number of vCPUs.
    pub vcpu_count: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// The host's limits for its processes.
    pub group: ControlGroup,
    /// Host CPUs the VM may run on; empty for all.
    pub host_cpus: Vec<usize>,
    /// In the guest's order.
    pub disks: Vec<DiskSource>,
    /// The network card, if there is one.
    pub card: Option<Card>,
    /// vsock ports that carry byte streams.
    pub stream_ports: Vec<u32>,
    /// Folders and files of the host that it may reach, by number.
    pub shares: Vec<Share>,
    /// Takes the early console and the VMM's own lines.
    pub log: File,
}

/// A VMM process and the host's ends of its connections.
#[derive(Debug)]
pub struct RunningVm {
    child: VmmChild,
    /// Control connection to the agent.
    pub agent: AgentLink,
    /// Byte streams by port; the caller takes them out.
    pub streams: BTreeMap<u32, UnixStream>,
    /// Where the VMM takes streams for more ports.
    offers: OwnedFd,
    report: PipeReader,
    /// The folder of the template that it went on from.
    template: Option<PathBuf>,
    /// What serves its shares.
    files: Option<FileServer>,
    /// The host's limits for its processes; removed when they have ended.
    group: ControlGroup,
}

impl RunningVm {
    /// Starts the process; the guest goes on from the template of its shape, or boots where there
    /// can be none.
    ///
    /// # Errors
    /// When a file is missing or the process can't be started.
    pub fn spawn(
        launcher: &Launcher,
        root: &Root,
        guest: &GuestFiles,
        request: VmRequest,
    ) -> Result<Self> {
        let shape = Shape {
            vcpu_count: request.vcpu_count,
            memory_mib: request.memory_mib,
            network: request.card.is_some(),
            shares: !request.shares.is_empty(),
        };
        let template = Templates::of(root)
            .map(|templates| templates.find_or_make(launcher, guest, shape))
            .transpose();
        let mut fds = Descriptors::default();
        let config_reader = fds.begin()?;
        let mut folder = None;
        let start = match template {
            Ok(Some(template)) => {
                folder = Some(template.folder);
                StartConfig::Template {
                    memory: fds.add(template.memory)?,
                    state: fds.add(template.state)?,
                }
            }
            none => {
                if let Err(error) = none {
                    let _ = writeln!(&request.log, "boot, without a template: {error:#}");
                }
                StartConfig::Boot(kernel(guest, &mut fds)?)
            }
        };
        let (report, report_writer) = std::io::pipe().context("create a pipe")?;
        let (agent, control) = stream_pair()?;
        // An agent that reads nothing for so long is of no use, and must not hold up its supervisor.
        agent
            .set_write_timeout(Some(AGENT_WRITE_TIMEOUT))
            .context("set up a socket pair")?;
        let mut streams = BTreeMap::new();
        let mut stream_configs = vec![StreamConfig {
            port: protocol::CONTROL_PORT,
            socket: fds.add(control)?,
        }];
        for port in request.stream_ports {
            let (ours, theirs) = stream_pair()?;
            streams.insert(port, ours);
            stream_configs.push(StreamConfig {
                port,
                socket: fds.add(theirs)?,
            });
        }
        let (offers, offered) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .context("create a socket pair")?;
        let mut files = None;
        let mut files_config = None;
        if shape.shares {
            let (server, backend) =
                FileServer::start(launcher, &request.shares, &request.group, &request.log)?;
            files = Some(server);
            files_config = Some(FilesConfig::Served {
                socket: fds.add(backend.socket)?,
                area: fds.add(backend.area)?,
            });
        }
        let own_lines = request.log.try_clone().context("share the VM's log")?;
        let config = VmmConfig {
            supervisor: std::process::id(),
            // What is in memory is written to no disk.
            io_stat: (!paths::is_in_memory(root.path()))
                .then(|| request.group.io_stat())
                .flatten()
                .map(|stat| fds.add(stat))
                .transpose()?,
            vcpu_count: request.vcpu_count,
            memory_mib: request.memory_mib,
            host_cpus: request.host_cpus,
            start,
            disks: request
                .disks
                .into_iter()
                .map(|disk| disk_config(disk, &mut fds))
                .collect::<Result<_>>()?,
            card: request
                .card
                .map(|card| card_config(card, &mut fds))
                .transpose()?,
            streams: stream_configs,
            offers: Some(fds.add(offered)?),
            files: files_config,
            console: fds.add(request.log)?,
            report: fds.add(report_writer)?,
        };
        let group = Some(&request.group);
        let mut vm = Self {
            child: start_process(launcher, fds, config_reader, own_lines, &config, group)?,
            agent: AgentLink::new(agent),
            streams,
            offers,
            report,
            template: folder,
            files,
            group: request.group,
        };
        if !vm.child.has_started() {
            let soon = Instant::now() + DEATH_TIMEOUT;
            let end = finish(&mut vm.child, &mut vm.report, soon)?.end;
            let reason = end.map_or_else(|reason| reason, |end| end.to_string());
            bail!(
                "start the VMM: {}\nhint: `bulkhead doctor` says what this host denies it",
                super::printable(&reason)
            );
        }
        vm.files.as_ref().map_or(Ok(()), FileServer::wait_ready)?;
        vm.group.check_member(vm.pid())?;
        vm.group.hold_rates()?;
        Ok(vm)
    }

    /// Process id of the VMM.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets every thread of the VMM run on these host CPUs only.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn pin(&self, launcher: &Launcher, cpus: &[usize]) -> Result<()> {
        launcher.pin(self.child.as_fd(), cpus)
    }

    /// Its control group.
    #[must_use]
    pub fn group(&self) -> &ControlGroup {
        &self.group
    }

    /// Offers the guest a stream on another port: the connected socket `theirs`, whose other end is
    /// somebody else's. It must not block.
    ///
    /// # Errors
    /// When the VMM is gone.
    pub fn offer_end(&self, port: u32, theirs: BorrowedFd<'_>) -> Result<()> {
        offer_to(self.offers.as_fd(), port, theirs)
    }

    /// Ends the VM at once, as pulling its plug. No file of a share is touched after that.
    pub fn kill(&mut self) {
        // A rate would hold up its end by what is still to be written.
        self.group.lift_rates();
        self.child.kill();
        self.files = None;
    }

    /// Waits for the process to report the VM's end until `deadline`, then kills it, and returns what
    /// it reported. What it still has for somebody who reads slowly is lost: who wants that has waited
    /// for the end of the stream.
    ///
    /// # Errors
    /// When the process can't be waited for.
    pub fn finish(mut self, deadline: Instant) -> Result<VmReport> {
        self.group.lift_rates();
        finish(&mut self.child, &mut self.report, deadline)
    }

    /// Adds to the error of a VM that failed what the VMM reports and what the guest's console
    /// said last. A template that it could not go on from is removed.
    #[must_use]
    pub fn post_mortem(mut self, error: &anyhow::Error, log: &mut File) -> anyhow::Error {
        if let Some(AgentError::Request(_)) = error.downcast_ref() {
            // The VM is not at fault.
            return anyhow::anyhow!("{error:#}");
        }
        let template = self.template.take();
        let end = match self.finish(Instant::now() + DEATH_TIMEOUT) {
            Ok(VmReport { end: Ok(end), .. }) => end.to_string(),
            Ok(VmReport {
                end: Err(reason),
                by_itself,
                ..
            }) => {
                if let Some(folder) = template.filter(|_| by_itself) {
                    // One that stays fails the next time again, with the same words.
                    super::template::remove(&folder);
                }
                super::printable(&reason)
            }
            Err(error) => format!("{error:#}"),
        };
        anyhow::anyhow!("{error:#}: {end}{}", super::log_tail(log))
    }

    /// As [`Self::finish`], within the time an orderly power-off takes.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn finish_soon(self) -> Result<VmReport> {
        self.finish(Instant::now() + POWER_OFF_TIMEOUT)
    }
}

impl Drop for RunningVm {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

fn finish(child: &mut VmmChild, report: &mut PipeReader, deadline: Instant) -> Result<VmReport> {
    let ended = super::poll::readable_until(report.as_fd(), Some(deadline));
    let _ = ended.context("wait for the VM")?;
    child.kill();
    let mut text = Vec::new();
    report
        .take(REPORT_BYTES_MAX)
        .read_to_end(&mut text)
        .context("read the VM's report")?;
    let status = child.wait()?;
    Ok(serde_json::from_slice(&text).unwrap_or_else(|_| VmReport {
        by_itself: false,
        end: Err(vmm_child::cause(status)),
        exits: ExitCounts::default(),
        times: VmTimes::default(),
    }))
}

/// Boots a VM of this shape up to the point where its agent calls the host, and leaves its state and
/// memory in these files.
///
/// # Errors
/// When the process can't be started, or the guest ends or says nothing.
pub fn make_template(guest: &GuestFiles, shape: Shape, state: &File, memory: &File) -> Result<()> {
    let mut log = tempfile::tempfile().context("create a log")?;
    let mut fds = Descriptors::default();
    let config_reader = fds.begin()?;
    let share = |file: &File| file.try_clone().context("share a file");
    let (mut report, report_writer) = std::io::pipe().context("create a pipe")?;
    let empty = tempfile::tempfile().context("create an empty disk")?;
    let config = VmmConfig {
        supervisor: std::process::id(),
        io_stat: None,
        vcpu_count: shape.vcpu_count,
        memory_mib: shape.memory_mib,
        host_cpus: Vec::new(),
        start: StartConfig::MakeTemplate {
            kernel: kernel(guest, &mut fds)?,
            memory: fds.add(share(memory)?)?,
            state: fds.add(share(state)?)?,
        },
        // As many, and as writable, as every VM has.
        disks: vec![
            DiskConfig::Absent { writable: None },
            DiskConfig::Absent {
                writable: Some(fds.add(empty)?),
            },
        ],
        card: shape.network.then(|| CardConfig {
            socket: None,
            endpoint: network::template_endpoint(),
            go: None,
        }),
        streams: Vec::new(),
        offers: None,
        files: shape.shares.then_some(FilesConfig::Absent),
        console: fds.add(share(&log)?)?,
        report: fds.add(report_writer)?,
    };
    let lines = share(&log)?;
    let mut child = start_process(&Launcher::Here, fds, config_reader, lines, &config, None)?;
    let end = finish(&mut child, &mut report, Instant::now() + TEMPLATE_TIMEOUT)?.end;
    match end {
        Ok(VmEnd::Saved) => Ok(()),
        Ok(end) => bail!("make a template: {end}{}", super::log_tail(&mut log)),
        Err(reason) => bail!(
            "make a template: {}{}",
            super::printable(&reason),
            super::log_tail(&mut log)
        ),
    }
}

/// A boot and what follows, up to the agent's call.
const TEMPLATE_TIMEOUT: Duration = Duration::from_secs(60);

fn kernel(guest: &GuestFiles, fds: &mut Descriptors) -> Result<KernelConfig> {
    Ok(KernelConfig {
        kernel: fds.add(open(&guest.kernel)?)?,
        initramfs: fds.add(open(&guest.initramfs)?)?,
    })
}

/// What a VM of this size may take of the host, with neither passt nor a file server beside it.
#[must_use]
pub fn limits(root: &Root, vcpu_count: u8, memory_mib: u32, cpu: CpuShare) -> Limits {
    Limits {
        vcpu_count,
        cpu,
        memory_bytes: (!paths::is_in_memory(root.path()))
            .then(|| vmm_jail::memory_bytes(memory_mib).saturating_add(page_tables(memory_mib))),
        network: false,
        shares: false,
        block_io: Controls::default(),
    }
}

/// Bytes of the kernel's tables for all of a guest's memory in pages of 4 KiB: eight for each, in the
/// VMM's and in those that its vCPUs have. They count for its group.
fn page_tables(memory_mib: u32) -> u64 {
    (u64::from(memory_mib) << 20) / 4096 * 16
}

/// Starts a VMM process in this control group, which says its own lines to `lines`, and tells it its
/// configuration.
fn start_process(
    launcher: &Launcher,
    fds: Descriptors,
    mut config_writer: PipeWriter,
    lines: File,
    config: &VmmConfig,
    group: Option<&ControlGroup>,
) -> Result<VmmChild> {
    let (said, output) = UnixStream::pair().context("create a socket pair")?;
    let starter = launcher.vmm(output.into(), lines.into(), fds.into(), group)?;
    let text = serde_json::to_vec(config).context("write the VM's configuration")?;
    // One that has ended by now says so by its status; a broken pipe would be taken for the user's.
    let _ = config_writer.write_all(&text);
    drop(config_writer);
    VmmChild::of(starter, said)
}

/// A guest whose agent fails resets itself; one that does not is killed after so long.
const DEATH_TIMEOUT: Duration = Duration::from_secs(3);

/// From the agent's last word to the end of its VM: unmounted already, it only has to reset.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(10);

fn open(path: &std::path::Path) -> Result<File> {
    File::open(path).with_context(|| format!("open {}", path.display()))
}

/// Offers a stream on a port to whoever is at the other end of `offers`.
///
/// # Errors
/// When nobody is.
pub fn offer_to(offers: BorrowedFd<'_>, port: u32, theirs: BorrowedFd<'_>) -> Result<()> {
    let bytes = port.to_le_bytes();
    let descriptors = [theirs.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let iovecs = [IoSlice::new(&bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(offers.as_raw_fd(), &iovecs, &rights, flags, None)
        .with_context(|| format!("offer port {port} to the agent"))?;
    Ok(())
}

/// A stream to a guest: our end, which blocks, and the VMM's, which does not.
///
/// # Errors
/// When there are no descriptors left.
pub fn stream_pair() -> Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair().context("create a socket pair")?;
    theirs
        .set_nonblocking(true)
        .context("set up a socket pair")?;
    Ok((ours, theirs))
}

fn card_config(card: Card, fds: &mut Descriptors) -> Result<CardConfig> {
    Ok(CardConfig {
        socket: Some(fds.add(card.socket)?),
        endpoint: card.endpoint,
        go: card.go.map(|gate| fds.add(gate)).transpose()?,
    })
}

fn disk_config(disk: DiskSource, fds: &mut Descriptors) -> Result<DiskConfig> {
    Ok(match disk {
        DiskSource::ReadOnly(segments) => DiskConfig::ReadOnly(
            segments
                .into_iter()
                .map(|segment| {
                    Ok(SegmentConfig {
                        file: fds.add(segment.file)?,
                        len: segment.len,
                        // A layer may be no bytes at all, no disk can be that small.
                        capacity: segment
                            .len
                            .next_multiple_of(DISK_ALIGNMENT)
                            .max(DISK_ALIGNMENT),
                    })
                })
                .collect::<Result<_>>()?,
        ),
        DiskSource::Writable {
            file,
            bytes,
            durable,
        } => DiskConfig::Writable {
            file: fds.add(file)?,
            bytes,
            durable,
        },
    })
}
