//! A plain container's agent as its supervisor sees it: has the launcher start the process, holds the
//! other ends of its connections, ends it. Called by [`super::super::enclosure`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use images::Digest;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::super::agent::{AgentError, AgentLink};
use super::super::block_io::Controls;
use super::super::child::Child;
use super::super::launcher::Launcher;
use super::super::paths::{GuestFiles, Root, create_private};
use super::super::proc;
use super::super::program::{self, Descriptors, FIRST_FD, Program, Told};
use super::super::state::{ContainerConfig, Folder};
use super::super::vm::stream_pair;
use super::agent::{AGENT_VERB, AgentConfig, Allowed, Fixed};
use super::rootfs::{self, Unpacked};
use super::{BUNDLE, RUN, agent_program, find_runtime};

/// From the end of the connection to the end of the agent and of all that it has started.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two looks at whether the agent has ended.
const END_POLL: Duration = Duration::from_millis(2);

/// How long a request to the agent may wait for room.
const AGENT_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a plain container takes that a supervisor which is shut in could not have any more; it is kept
/// for all of the container's lives.
#[derive(Debug)]
pub struct Prepared {
    /// What of its agent no order changes.
    pub fixed: Fixed,
    /// Nobody removes it meanwhile.
    _image: Unpacked,
}

impl Prepared {
    /// Finds all of it.
    ///
    /// # Errors
    /// When its image can't be had, or there is no runtime.
    pub fn new(
        root: &Root,
        guest: &GuestFiles,
        folder: &Folder,
        config: &ContainerConfig,
    ) -> Result<Self> {
        let id = Digest::parse(&config.image_id)?;
        let runtime = find_runtime()?;
        // It is there, as long as nobody took it away by hand.
        let image = rootfs::unpacked(root, guest, (&id, &config.launch.layers), &|_| {})?;
        let run = root.path().join(RUN);
        create_private(&run)?;
        let fixed = Fixed {
            runtime,
            id: config.id.clone(),
            bundle: folder.path().join(BUNDLE),
            run,
            lower: image.path.clone(),
            program: agent_program(guest)?,
            is_root: nix::unistd::geteuid().is_root(),
            allowed: Allowed::of(&config.launch.run.process),
            read_only_root: config.launch.run.read_only_root,
        };
        Ok(Self {
            fixed,
            _image: image,
        })
    }
}

/// What an agent is given: where its lines go, its connection, where streams are offered to it, and
/// those that are there already, by port.
#[derive(Debug)]
pub struct Ends {
    lines: OwnedFd,
    control: OwnedFd,
    offers: OwnedFd,
    streams: Vec<(u32, OwnedFd)>,
}

impl Ends {
    /// How many there are with these ports.
    #[must_use]
    pub fn count(ports: &[u32]) -> usize {
        ports.len().saturating_add(3)
    }

    /// In that order.
    pub fn of(ports: &[u32], mut next: impl FnMut() -> OwnedFd) -> Self {
        Self {
            lines: next(),
            control: next(),
            offers: next(),
            streams: ports.iter().map(|port| (*port, next())).collect(),
        }
    }

    /// The ports, and all in that order.
    #[must_use]
    pub fn into_descriptors(self) -> (Vec<u32>, Vec<OwnedFd>) {
        let (ports, streams): (_, Vec<_>) = self.streams.into_iter().unzip();
        let all = [self.lines, self.control, self.offers].into_iter();
        (ports, all.chain(streams).collect())
    }
}

/// An agent with these ends.
///
/// # Errors
/// When there are no descriptors left.
pub fn program(fixed: &Fixed, block_io: Controls, ends: Ends) -> Result<(Program, Told)> {
    let mut fds = Descriptors::default();
    let writer = fds.begin()?;
    let control = fds.add(ends.control)?;
    let offers = fds.add(ends.offers)?;
    let streams = ends.streams.into_iter();
    let streams = streams.map(|(port, fd)| Ok((port, fds.add(fd)?)));
    let config = AgentConfig {
        fixed: fixed.clone(),
        block_io,
        control,
        offers,
        streams: streams.collect::<Result<_>>()?,
    };
    let program = Program {
        path: program::own()?,
        arguments: vec![AGENT_VERB.to_owned(), FIRST_FD.to_string()],
        stdout: None,
        stderr: ends.lines,
        descriptors: fds.into(),
        group: None,
    };
    Ok((program, Told::new(&config, writer)?))
}

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
}

impl RunningPlain {
    /// Has the agent of a container started, which runs nothing yet.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn spawn(
        launcher: &Launcher,
        block_io: Controls,
        ports: &[u32],
        log: &File,
    ) -> Result<Self> {
        let (control, theirs) = UnixStream::pair().context("create a socket pair")?;
        control
            .set_write_timeout(Some(AGENT_WRITE_TIMEOUT))
            .context("set up a socket pair")?;
        let (offers, their_offers) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .context("create a socket pair")?;
        let mut streams = BTreeMap::new();
        let mut their_streams = Vec::new();
        for port in ports {
            let (ours, theirs) = stream_pair()?;
            streams.insert(*port, ours);
            their_streams.push((*port, theirs.into()));
        }
        let lines = log.try_clone().context("share the container's log")?;
        let ends = Ends {
            lines: lines.into(),
            control: theirs.into(),
            offers: their_offers,
            streams: their_streams,
        };
        Ok(Self {
            child: launcher.agent(block_io, ends)?,
            agent: AgentLink::new(control),
            streams,
            offers,
        })
    }

    /// Process id of the container's own process, as the host counts; of the agent, as long as there is
    /// none.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let own = self.child.pid().as_raw_nonzero().get().unsigned_abs();
        let inner = children(own);
        // A runtime may leave its process's parent behind, which is about to end (crun does): that one's
        // child it is then, or has just become the agent's.
        let behind: Vec<u32> = inner.iter().copied().flat_map(children).collect();
        let parents = inner.iter().chain(&behind).chain(&inner).copied();
        let mut found = parents.flat_map(children);
        found.find(|pid| is_first(*pid)).unwrap_or(own)
    }

    /// Ends the agent and all that it has started; its control group is its launcher's to remove.
    pub fn kill(&mut self) {
        self.agent.close();
        let until = Instant::now() + END_TIMEOUT;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() >= until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(END_POLL);
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

/// Children of a process of one thread (proc(5)); none where the kernel does not tell.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let numbers = text.split_ascii_whitespace();
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// Whether a process is PID 1 of its own namespace.
fn is_first(pid: u32) -> bool {
    proc::status(pid, "NSpid:").as_deref() == Some("1")
}
