//! A plain container's agent as its supervisor sees it: starts the process, holds the other ends of its
//! connections, ends it. Called by [`super::super::enclosure`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use images::Digest;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::super::agent::{AgentError, AgentLink};
use super::super::block_io::Controls;
use super::super::child::Child;
use super::super::paths::{GuestFiles, Root};
use super::super::program::{Descriptors, FIRST_FD, Program};
use super::super::state::{ContainerConfig, Folder};
use super::super::vm::stream_pair;
use super::agent::{AGENT_VERB, AgentConfig};
use super::rootfs::{self, Unpacked};
use super::{BUNDLE, agent_program, find_runtime, group};

/// From the end of the connection to the end of the agent and of all that it has started.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two looks at whether the agent has ended.
const END_POLL: Duration = Duration::from_millis(2);

/// How long a request to the agent may wait for room.
const AGENT_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module's page. Dropped, it is ended.
#[derive(Debug)]
pub struct RunningPlain {
    child: Child,
    /// The connection to the agent; without it the agent ends.
    pub agent: AgentLink,
    /// Byte streams by port; the caller takes them out.
    pub streams: BTreeMap<u32, UnixStream>,
    /// Where the agent takes streams for more ports.
    pub offers: OwnedFd,
    id: String,
    is_root: bool,
    /// Nobody removes it meanwhile.
    _image: Unpacked,
}

impl RunningPlain {
    /// Starts the agent of a container, which runs nothing yet.
    ///
    /// # Errors
    /// When its image can't be had, there is no runtime, or the process can't be started.
    pub fn spawn(
        root: &Root,
        folder: &Folder,
        config: &ContainerConfig,
        ports: &[u32],
        log: &File,
    ) -> Result<Self> {
        let guest = GuestFiles::find()?;
        let runtime = find_runtime()?;
        let image = Digest::parse(&config.image_id)?;
        // It is there, as long as nobody took it away by hand.
        let image = rootfs::unpacked(root, &guest, &image, &|_| {})?;
        let mut fds = Descriptors::default();
        let writer = fds.begin()?;
        let (control, theirs) = UnixStream::pair().context("create a socket pair")?;
        control
            .set_write_timeout(Some(AGENT_WRITE_TIMEOUT))
            .context("set up a socket pair")?;
        let control_fd = fds.add(theirs)?;
        let (offers, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .context("create a socket pair")?;
        let offers_fd = fds.add(theirs)?;
        let mut streams = BTreeMap::new();
        let mut stream_fds = Vec::new();
        for port in ports {
            let (ours, theirs) = stream_pair()?;
            streams.insert(*port, ours);
            stream_fds.push((*port, fds.add(theirs)?));
        }
        let is_root = nix::unistd::geteuid().is_root();
        let agent = AgentConfig {
            runtime,
            id: config.id.clone(),
            bundle: folder.path().join(BUNDLE),
            lower: image.path.clone(),
            program: agent_program(&guest)?,
            is_root,
            block_io: config.launch.block_io.controls()?,
            control: control_fd,
            offers: offers_fd,
            streams: stream_fds,
        };
        let lines = log.try_clone().context("share the container's log")?;
        Ok(Self {
            child: start_process(&agent, writer, fds, lines)?,
            agent: AgentLink::new(control),
            streams,
            offers,
            id: config.id.clone(),
            is_root,
            _image: image,
        })
    }

    /// Process id of the container's own process, as the host counts; of the agent, as long as there is
    /// none.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let own = self.child.pid().as_raw_nonzero().get().unsigned_abs();
        let inner = children(own).first().copied();
        inner
            .and_then(|inner| children(inner).into_iter().find(|pid| is_first(*pid)))
            .unwrap_or(own)
    }

    /// Gives it another weight of block I/O.
    ///
    /// # Errors
    /// One that nobody would hold.
    pub fn set_weight(&self, weight: Option<u16>) -> Result<()> {
        let group = self.is_root.then(|| group::folder(&self.id));
        Controls::of_weight(weight).write(group.as_deref())
    }

    /// Ends the agent and all that it has started.
    pub fn kill(&mut self) {
        self.agent.close();
        let until = Instant::now() + END_TIMEOUT;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() >= until {
                self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(END_POLL);
        }
        if self.is_root {
            group::remove(&self.id);
        }
    }

    /// Adds to the error of a container that failed what its agent said last.
    #[must_use]
    pub fn post_mortem(mut self, error: &anyhow::Error, log: &mut File) -> anyhow::Error {
        self.kill();
        match error.downcast_ref() {
            Some(AgentError::Closed) => anyhow::anyhow!(
                "the agent of the plain container ended{}",
                super::super::log_tail(log)
            ),
            _ => anyhow::anyhow!("{error:#}"),
        }
    }
}

impl Drop for RunningPlain {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the agent, which says its own lines to `lines`.
fn start_process(
    config: &AgentConfig,
    mut writer: PipeWriter,
    fds: Descriptors,
    lines: File,
) -> Result<Child> {
    let text = serde_json::to_vec(config).context("configure the container's agent")?;
    let program = Program {
        path: std::env::current_exe().context("find the path of this command")?,
        arguments: vec![AGENT_VERB.to_owned(), FIRST_FD.to_string()],
        stdout: None,
        stderr: lines.into(),
        descriptors: fds.into(),
        group: None,
    };
    let child = program.spawn().context("start the container's agent")?;
    // That it has ended by now is what the connection tells.
    let _ = writer.write_all(&text);
    Ok(child)
}

/// Children of a process (proc(5)).
fn children(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|child| status(*child, "PPid:").and_then(|of| of.parse().ok()) == Some(pid))
        .collect()
}

/// Whether a process is PID 1 of its own namespace.
fn is_first(pid: u32) -> bool {
    status(pid, "NSpid:").as_deref() == Some("1")
}

/// The last word of a line of a process's status.
fn status(pid: u32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next_back().map(str::to_owned)
}
