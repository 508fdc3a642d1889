//! The byte streams of a process: its pipes or its terminal, and the vsock connections to the host
//! that they are pumped to and from.
//!
//! Called by [`crate::container`]. Programs get pipes and
//! terminals and never the connection itself, because they open `/dev/stdout` and ask for its type.
//! Knows no frames: a stream is bytes and its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::message::WindowSize;
use protocol::spec::ProcessSpec;
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::failure::{Context, Failure};
use crate::mount::{Detached, Setup};
use crate::pump::{self, Pump, Role};
use crate::vsock::{self, Connecting};

/// Bytes that a pipe holds: with the default of 64 KiB the pumps run four times as often.
const PIPE_LEN: usize = 256 << 10;

/// The child's ends, to become its descriptors 0, 1 and 2.
#[derive(Debug)]
pub enum ChildIo {
    /// Pipes; `/dev/null` where there is none.
    Pipes([Option<OwnedFd>; 3]),
    /// A terminal for all three.
    Terminal(OwnedFd),
}

impl ChildIo {
    /// All that there are.
    #[must_use]
    pub fn ends(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Pipes(ends) => ends.iter().flatten().map(AsFd::as_fd).collect(),
            Self::Terminal(end) => vec![end.as_fd()],
        }
    }
}

/// Both sides of a process's streams.
#[derive(Debug)]
pub struct Streams {
    /// For the child.
    pub child: ChildIo,
    /// From the host to the process.
    pub input: Option<Pump>,
    /// From the process to the host.
    pub outputs: Vec<Pump>,
    /// The other side of the process's terminal.
    pub terminal: Option<OwnedFd>,
}

/// Connections to the host that were begun for a process.
#[derive(Debug)]
pub struct Connections([Option<Connecting>; 3]);

/// Begins to connect the streams of a process, so that it takes as long as the slowest one.
///
/// # Errors
/// What `connect` says.
pub fn connect(spec: &ProcessSpec) -> Result<Connections, Failure> {
    let ports = [spec.stdio.stdin, spec.stdio.stdout, spec.stdio.stderr];
    let mut connections = [None, None, None];
    for (connection, port) in connections.iter_mut().zip(ports) {
        *connection = port
            .map(|port| vsock::connect(port).context(|| format!("connect stream port {port}")))
            .transpose()?;
    }
    Ok(Connections(connections))
}

impl Connections {
    /// Waits for the connections and joins them with pipes, or with a new terminal of `terminals`.
    ///
    /// # Errors
    /// A connection that the host refuses, or what making pipes and terminals says.
    pub fn join(self, size: Option<WindowSize>, terminals: &Terminals) -> Result<Streams, Failure> {
        let finish = |connection: Option<Connecting>| {
            let Some(connection) = connection else {
                return Ok(None);
            };
            let port = connection.port();
            let socket = connection.finish();
            socket
                .map(Some)
                .context(|| format!("connect stream port {port}"))
        };
        let [stdin, stdout, stderr] = self.0;
        let sockets = [finish(stdin)?, finish(stdout)?, finish(stderr)?];
        match size {
            Some(size) => terminal_streams(sockets, size, terminals),
            None => pipe_streams(sockets),
        }
        .context(|| "set up the streams of a process".into())
    }
}

fn pipe_streams(sockets: [Option<OwnedFd>; 3]) -> Result<Streams, Errno> {
    let [stdin, stdout, stderr] = sockets;
    let mut streams = Streams {
        child: ChildIo::Pipes([None, None, None]),
        input: None,
        outputs: Vec::new(),
        terminal: None,
    };
    let mut ends = [None, None, None];
    let [in_end, out_end, err_end] = &mut ends;
    if let Some(socket) = stdin {
        let (theirs, ours) = pipe()?;
        set_nonblocking(&ours)?;
        streams.input = Some(Pump::splicing(socket, ours, Role::Input));
        *in_end = Some(theirs);
    }
    for (socket, end) in [(stdout, out_end), (stderr, err_end)] {
        if let Some(socket) = socket {
            let (ours, theirs) = pipe()?;
            set_nonblocking(&ours)?;
            let pump = Pump::splicing(ours, socket, Role::Output);
            streams.outputs.push(pump);
            *end = Some(theirs);
        }
    }
    streams.child = ChildIo::Pipes(ends);
    Ok(streams)
}

fn terminal_streams(
    sockets: [Option<OwnedFd>; 3],
    size: WindowSize,
    terminals: &Terminals,
) -> Result<Streams, Errno> {
    let (ours, theirs) = terminals.open(size)?;
    let [stdin, stdout, _] = sockets;
    let input = match stdin {
        Some(socket) => Some(Pump::copying(socket, again(&ours)?, Role::Input)),
        None => None,
    };
    let sink = match stdout {
        Some(socket) => socket,
        None => pump::null()?,
    };
    Ok(Streams {
        child: ChildIo::Terminal(theirs),
        input,
        outputs: vec![Pump::copying(again(&ours)?, sink, Role::Output)],
        terminal: Some(ours),
    })
}

/// A pipe's reading and writing end.
fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let ends = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&ends.0, PIPE_LEN)?;
    Ok(ends)
}

/// Only our end may be so: most programs can't cope with a standard stream that does not wait.
fn set_nonblocking(end: &OwnedFd) -> Result<(), Errno> {
    fcntl_setfl(end, fcntl_getfl(end)? | OFlags::NONBLOCK)
}

fn again(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
}

/// The container's own terminals: a devpts that becomes its `/dev/pts`.
#[derive(Debug)]
pub struct Terminals(Detached);

impl Terminals {
    /// Makes the file system with Docker's options.
    ///
    /// # Errors
    /// What making it says.
    pub fn new() -> Result<Self, Failure> {
        let devpts = Setup::new("devpts", "devpts")?;
        for (key, value) in [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")] {
            devpts.value(key, value)?;
        }
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        devpts.create(attributes).map(Self)
    }

    /// The mount.
    #[must_use]
    pub fn mount(&self) -> &Detached {
        &self.0
    }

    /// Opens a terminal: our side, which does not wait, and the process's.
    fn open(&self, size: WindowSize) -> Result<(OwnedFd, OwnedFd), Errno> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let ours = openat(&self.0, "ptmx", flags, Mode::empty())?;
        unlockpt(&ours)?;
        resize(ours.as_fd(), size)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        Ok((ours, theirs))
    }
}

/// Tells a terminal its size; the kernel tells the processes in it.
///
/// # Errors
/// What the ioctl says.
pub fn resize(terminal: BorrowedFd<'_>, size: WindowSize) -> Result<(), Errno> {
    tcsetwinsize(
        terminal,
        Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pump::Flow;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn sockets() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    }

    #[test]
    fn each_stream_reaches_its_own_descriptor() {
        let (ours, hosts): (Vec<_>, Vec<_>) = (0..3).map(|_| sockets()).unzip();
        let ours: [OwnedFd; 3] = ours.try_into().unwrap();
        let mut streams = pipe_streams(ours.map(Some)).unwrap();
        let ChildIo::Pipes([Some(stdin), Some(stdout), Some(stderr)]) = streams.child else {
            panic!("an end is missing");
        };
        let mut buffer = [0; 16];
        rustix::io::write(&hosts[0], b"in").unwrap();
        assert_eq!(streams.input.as_mut().unwrap().run(), Flow::Open);
        assert_eq!(rustix::io::read(&stdin, &mut buffer), Ok(2));
        for (end, host, word) in [(&stdout, &hosts[1], b"out"), (&stderr, &hosts[2], b"err")] {
            rustix::io::write(end, word).unwrap();
            for pump in &mut streams.outputs {
                assert_eq!(pump.run(), Flow::Open);
            }
            let len = rustix::io::read(host, &mut buffer).unwrap();
            assert_eq!(&buffer[..len], word);
        }
    }

    #[test]
    fn only_our_ends_do_not_wait() {
        let (ours, _host) = sockets();
        let streams = pipe_streams([None, Some(ours), None]).unwrap();
        let ChildIo::Pipes([None, Some(stdout), None]) = &streams.child else {
            panic!("other ends than asked for");
        };
        assert!(!fcntl_getfl(stdout).unwrap().contains(OFlags::NONBLOCK));
        let (ours, _) = streams.outputs[0].interest();
        assert!(fcntl_getfl(ours).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn streams_without_a_port_are_not_made() {
        let streams = pipe_streams([None, None, None]).unwrap();
        assert!(streams.input.is_none() && streams.outputs.is_empty());
        assert!(matches!(streams.child, ChildIo::Pipes([None, None, None])));
    }
}
