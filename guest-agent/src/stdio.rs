//! The byte streams of a process: its pipes or its terminal, and the vsock connections to the host
//! that they are pumped to and from.
//!
//! Called by [`crate::container`], whose poll loop runs the [`Pump`]s. Programs get pipes and
//! terminals and never the connection itself, because they open `/dev/stdout` and ask for its type.
//! Knows no frames: a stream is bytes and its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::message::WindowSize;
use protocol::spec::ProcessSpec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::failure::{Context, Failure};
use crate::mount::{Detached, Setup};
use crate::vsock::{self, Connecting};

/// Bytes that a pipe holds: with the default of 64 KiB the pumps run four times as often.
const PIPE_LEN: usize = 256 << 10;

/// Bytes moved by one call.
const MOVE_LEN: usize = 1 << 20;

/// Bytes of a terminal's buffer; the kernel's own holds 4 KiB.
const TERMINAL_LEN: usize = 16 << 10;

/// Calls in a row before other streams get their turn.
const MOVES_IN_A_ROW: usize = 16;

/// The child's ends, to become its descriptors 0, 1 and 2.
#[derive(Debug)]
pub enum ChildIo {
    /// Pipes; `/dev/null` where there is none.
    Pipes([Option<OwnedFd>; 3]),
    /// A terminal for all three.
    Terminal(OwnedFd),
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
        streams.input = Some(Pump::new(socket, ours, Way::Splice, Role::Input));
        *in_end = Some(theirs);
    }
    for (socket, end) in [(stdout, out_end), (stderr, err_end)] {
        if let Some(socket) = socket {
            let (ours, theirs) = pipe()?;
            set_nonblocking(&ours)?;
            let pump = Pump::new(ours, socket, Way::Splice, Role::Output);
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
    let copy = || Way::Copy {
        buffer: vec![0; TERMINAL_LEN],
        start: 0,
        end: 0,
    };
    let input = match stdin {
        Some(socket) => Some(Pump::new(socket, again(&ours)?, copy(), Role::Input)),
        None => None,
    };
    let sink = match stdout {
        Some(socket) => socket,
        None => null()?,
    };
    Ok(Streams {
        child: ChildIo::Terminal(theirs),
        input,
        outputs: vec![Pump::new(again(&ours)?, sink, copy(), Role::Output)],
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

fn null() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    open("/dev/null", flags, Mode::empty())
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

/// What a pump is for; decides what a sink that is gone means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// To the process: without a reader there is nothing to do.
    Input,
    /// From the process: without a listener it goes on, into nothing, as on Docker.
    Output,
}

/// How bytes are moved.
#[derive(Debug)]
enum Way {
    /// One side is a pipe: without copying them to us.
    Splice,
    /// A terminal: through a buffer.
    Copy {
        buffer: Vec<u8>,
        start: usize,
        end: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    ForSource,
    ForSink,
}

/// What a pump says after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// There is more to do when [`Pump::interest`] says so.
    Open,
    /// The source has ended and everything is delivered.
    Ended,
}

/// Moves bytes from one descriptor to another as far as both allow.
#[derive(Debug)]
pub struct Pump {
    from: OwnedFd,
    to: OwnedFd,
    way: Way,
    role: Role,
    waiting: Waiting,
    discards: bool,
}

enum Step {
    Moved,
    SourceEmpty,
    SinkFull,
    SourceEnded,
    SinkGone,
}

impl Pump {
    fn new(from: OwnedFd, to: OwnedFd, way: Way, role: Role) -> Self {
        Self {
            from,
            to,
            way,
            role,
            waiting: Waiting::ForSource,
            discards: false,
        }
    }

    /// The descriptor to poll, and what for.
    #[must_use]
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match self.waiting {
            Waiting::ForSource => (self.from.as_fd(), PollFlags::IN),
            Waiting::ForSink => (self.to.as_fd(), PollFlags::OUT),
        }
    }

    /// Whether the source had nothing more to give when the pump last ran.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.waiting == Waiting::ForSource
    }

    /// Moves what there is.
    pub fn run(&mut self) -> Flow {
        for _ in 0..MOVES_IN_A_ROW {
            match self.step() {
                Step::Moved => {}
                Step::SourceEmpty => {
                    self.waiting = Waiting::ForSource;
                    return Flow::Open;
                }
                Step::SinkFull => {
                    self.waiting = Waiting::ForSink;
                    return Flow::Open;
                }
                Step::SourceEnded => return Flow::Ended,
                Step::SinkGone => {
                    if self.role == Role::Input || self.discards || !self.discard() {
                        return Flow::Ended;
                    }
                }
            }
        }
        // There is more, but not for now: the sink is asked first, since it took everything.
        self.waiting = Waiting::ForSink;
        Flow::Open
    }

    /// Delivers to nowhere from now on.
    fn discard(&mut self) -> bool {
        self.discards = true;
        match null() {
            Ok(null) => {
                self.to = null;
                true
            }
            Err(_) => false,
        }
    }

    fn step(&mut self) -> Step {
        match &mut self.way {
            Way::Splice => self.splice(),
            Way::Copy { buffer, start, end } => {
                if start == end {
                    match rustix::io::read(&self.from, &mut **buffer) {
                        Ok(0) | Err(Errno::IO) => return Step::SourceEnded,
                        Ok(len) => (*start, *end) = (0, len),
                        Err(Errno::INTR) => return Step::Moved,
                        Err(Errno::AGAIN) => return Step::SourceEmpty,
                        Err(_) => return Step::SourceEnded,
                    }
                }
                match rustix::io::write(&self.to, buffer.get(*start..*end).unwrap_or_default()) {
                    Ok(len) => {
                        *start += len;
                        Step::Moved
                    }
                    Err(Errno::INTR) => Step::Moved,
                    Err(Errno::AGAIN) => Step::SinkFull,
                    Err(_) => {
                        *start = *end;
                        Step::SinkGone
                    }
                }
            }
        }
    }

    fn splice(&self) -> Step {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match splice(&self.from, None, &self.to, None, MOVE_LEN, flags) {
            Ok(0) => Step::SourceEnded,
            Ok(_) | Err(Errno::INTR) => Step::Moved,
            // The kernel does not say which side it would have to wait for.
            Err(Errno::AGAIN) if self.source_has_some() => Step::SinkFull,
            Err(Errno::AGAIN) => Step::SourceEmpty,
            Err(_) => Step::SinkGone,
        }
    }

    fn source_has_some(&self) -> bool {
        let mut fds = [PollFd::new(&self.from, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn sockets() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len)
            .map(|index| u8::try_from(index % 251).unwrap())
            .collect()
    }

    /// A process's streams with the host's sides of its connections.
    fn piped() -> (Streams, [OwnedFd; 3]) {
        let (stdin, host_in) = sockets();
        let (stdout, host_out) = sockets();
        let (stderr, host_err) = sockets();
        let streams = pipe_streams([Some(stdin), Some(stdout), Some(stderr)]).unwrap();
        (streams, [host_in, host_out, host_err])
    }

    fn ends(streams: &mut Streams) -> [OwnedFd; 3] {
        match std::mem::replace(&mut streams.child, ChildIo::Pipes([None, None, None])) {
            ChildIo::Pipes(ends) => ends.map(Option::unwrap),
            ChildIo::Terminal(_) => panic!("a terminal"),
        }
    }

    fn read_all(fd: &OwnedFd, into: &mut Vec<u8>) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(len) = rustix::io::read(fd, &mut *buffer) {
            if len == 0 {
                return;
            }
            into.extend_from_slice(&buffer[..len]);
        }
    }

    #[test]
    fn output_arrives_whole_and_its_end_after_it() {
        let (mut streams, [_, host, _]) = piped();
        let [_, stdout, _] = ends(&mut streams);
        let sent = pattern(5 << 20);
        let writer = {
            let sent = sent.clone();
            std::thread::spawn(move || {
                let mut rest = &sent[..];
                while !rest.is_empty() {
                    let len = rustix::io::write(&stdout, rest).unwrap();
                    rest = &rest[len..];
                }
            })
        };
        let pump = &mut streams.outputs[0];
        let mut got = Vec::new();
        loop {
            let (fd, flags) = pump.interest();
            let mut fds = [PollFd::new(&fd, flags), PollFd::new(&host, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            if pump.run() == Flow::Ended {
                break;
            }
            read_all(&host, &mut got);
        }
        streams.outputs.clear();
        read_all(&host, &mut got);
        writer.join().unwrap();
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
        assert_eq!(rustix::io::read(&host, &mut [0; 1]), Ok(0));
    }

    #[test]
    fn a_host_that_does_not_read_stops_the_pump_and_not_the_agent() {
        let (mut streams, [_, host, _]) = piped();
        let [_, stdout, _] = ends(&mut streams);
        set_nonblocking(&stdout).unwrap();
        let pump = &mut streams.outputs[0];
        let block = pattern(64 << 10);
        let mut written = 0;
        loop {
            match rustix::io::write(&stdout, &block) {
                Ok(len) => written += len,
                Err(errno) => {
                    assert_eq!(errno, Errno::AGAIN);
                    assert_eq!(pump.run(), Flow::Open);
                    if !pump.is_drained() && rustix::io::write(&stdout, &block).is_err() {
                        break;
                    }
                }
            }
        }
        assert_eq!(pump.interest().1, PollFlags::OUT);
        drop(stdout);
        let mut got = Vec::new();
        while pump.run() == Flow::Open {
            read_all(&host, &mut got);
        }
        read_all(&host, &mut got);
        assert!(got.len() >= written && written > PIPE_LEN);
    }

    #[test]
    fn output_goes_on_when_the_host_stops_listening() {
        let (mut streams, [_, host, _]) = piped();
        let [_, stdout, _] = ends(&mut streams);
        drop(host);
        let pump = &mut streams.outputs[0];
        for _ in 0..100 {
            rustix::io::write(&stdout, &pattern(PIPE_LEN)).unwrap();
            assert_eq!(pump.run(), Flow::Open);
            assert!(pump.is_drained());
        }
        drop(stdout);
        assert_eq!(pump.run(), Flow::Ended);
    }

    #[test]
    fn input_arrives_whole_and_its_end_closes_the_pipe() {
        let (mut streams, [host, _, _]) = piped();
        let [stdin, _, _] = ends(&mut streams);
        let sent = pattern(3 << 20);
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            read_all(&stdin, &mut got);
            got
        });
        let mut rest = &sent[..];
        let mut host = Some(host);
        let mut pump = streams.input.take();
        while let Some(one) = &mut pump {
            if let Some(socket) = &host {
                match rustix::io::write(socket, rest) {
                    Ok(len) => rest = &rest[len..],
                    Err(errno) => assert_eq!(errno, Errno::AGAIN),
                }
                if rest.is_empty() {
                    host = None;
                }
            }
            if one.run() == Flow::Ended {
                pump = None;
            }
        }
        assert!(reader.join().unwrap() == sent);
    }

    #[test]
    fn input_ends_when_the_process_reads_no_more() {
        let (mut streams, [host, _, _]) = piped();
        drop(ends(&mut streams));
        let pump = streams.input.as_mut().unwrap();
        rustix::io::write(&host, b"nobody reads this").unwrap();
        assert_eq!(pump.run(), Flow::Ended);
    }

    #[test]
    fn streams_without_a_port_are_not_made() {
        let streams = pipe_streams([None, None, None]).unwrap();
        assert!(streams.input.is_none() && streams.outputs.is_empty());
        assert!(matches!(streams.child, ChildIo::Pipes([None, None, None])));
    }
}
