//! Moving bytes between a process's pipe or terminal and its connection to the host.
//!
//! Made by [`crate::stdio`], run by [`crate::process`] when the poll loop says that one of its two
//! descriptors is ready. It waits for one of them at a time and never blocks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{SpliceFlags, splice};

/// Bytes moved by one call.
const MOVE_LEN: usize = 1 << 20;

/// Calls in a row before other streams get their turn.
const MOVES_IN_A_ROW: usize = 16;

/// Bytes of a terminal's buffer, of which the kernel's own holds 4 KiB, and of what is thrown away at
/// once.
const BUFFER_LEN: usize = 16 << 10;

/// A program that writes again so soon is a stream, not a conversation.
const STREAM_GAP: Duration = Duration::from_millis(4);

/// A stream gets so long to fill its pipe.
const FILL_TIME: Duration = Duration::from_millis(2);

const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// What a pump is for; decides what a sink that is gone means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To the process: without a reader there is nothing to do.
    Input,
    /// From the process: without a listener it goes on, into nothing, as on Docker.
    Output,
}

/// How bytes are moved, and where to.
#[derive(Debug)]
enum Way {
    /// One side is a pipe: without copying them to us.
    Splice(OwnedFd),
    /// A terminal: through a buffer.
    Copy {
        to: OwnedFd,
        buffer: Vec<u8>,
        start: usize,
        end: usize,
    },
    /// To nowhere, which takes no descriptor.
    Discard,
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
    way: Way,
    role: Role,
    waiting: Waiting,
    /// Bytes of the source that are still to be delivered, where what follows is not.
    left: Option<usize>,
    /// When it last moved something.
    moved: Option<Instant>,
}

enum Step {
    Moved,
    SourceEmpty,
    SinkFull,
    SourceEnded,
    SinkGone,
}

impl Pump {
    /// A pump between a pipe and a socket. Both must not block.
    #[must_use]
    pub fn splicing(from: OwnedFd, to: OwnedFd, role: Role) -> Self {
        Self::new(from, Way::Splice(to), role)
    }

    /// A pump between a terminal and a socket, neither of which can be spliced into the other. Both
    /// must not block.
    #[must_use]
    pub fn copying(from: OwnedFd, to: OwnedFd, role: Role) -> Self {
        let way = Way::Copy {
            to,
            buffer: vec![0; BUFFER_LEN],
            start: 0,
            end: 0,
        };
        Self::new(from, way, role)
    }

    fn new(from: OwnedFd, way: Way, role: Role) -> Self {
        Self {
            from,
            way,
            role,
            waiting: Waiting::ForSource,
            left: None,
            moved: None,
        }
    }

    /// The descriptor to poll, and what for.
    #[must_use]
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match (self.waiting, &self.way) {
            (Waiting::ForSink, Way::Splice(to) | Way::Copy { to, .. }) => {
                (to.as_fd(), PollFlags::OUT)
            }
            _ => (self.from.as_fd(), PollFlags::IN),
        }
    }

    /// Whether what comes is thrown away: nobody listens, or everything that was for the listener is
    /// delivered.
    #[must_use]
    pub fn discards(&self) -> bool {
        matches!(self.way, Way::Discard)
    }

    /// From now on only what the source holds at this moment is for the listener, however long that
    /// takes; what comes after it is thrown away. A terminal can't say how much that is: of one, all that
    /// comes until it has nothing more to give.
    pub fn conclude(&mut self) {
        if self.discards() || self.left.is_some() {
            return;
        }
        self.left = Some(match self.way {
            Way::Splice(_) => {
                // A source that can't say has nothing.
                let left = ioctl_fionread(&self.from).unwrap_or(0);
                usize::try_from(left).unwrap_or(usize::MAX)
            }
            Way::Copy { .. } | Way::Discard => usize::MAX,
        });
    }

    /// Moves what there is.
    pub fn run(&mut self) -> Flow {
        if self.is_streaming() {
            std::thread::sleep(FILL_TIME);
        }
        for _ in 0..MOVES_IN_A_ROW {
            if self.left == Some(0) && self.holds_nothing() {
                self.discard();
            }
            match self.step() {
                Step::Moved => self.moved = Some(Instant::now()),
                Step::SourceEmpty => {
                    if self.left.is_some() {
                        // Somebody else has read the rest.
                        self.discard();
                    }
                    self.waiting = Waiting::ForSource;
                    return Flow::Open;
                }
                Step::SinkFull => {
                    self.waiting = Waiting::ForSink;
                    return Flow::Open;
                }
                Step::SourceEnded => return Flow::Ended,
                Step::SinkGone => {
                    if self.role == Role::Input {
                        return Flow::Ended;
                    }
                    self.discard();
                }
            }
        }
        // There is more, but not for now: the sink is asked first, since it took everything.
        self.waiting = Waiting::ForSink;
        Flow::Open
    }

    /// Whether a program that goes on writing is best left to it for a moment: programs write 4 KiB
    /// at a time, and each delivery costs an exit from the VM and an interrupt.
    fn is_streaming(&self) -> bool {
        let is_output = self.role == Role::Output && !matches!(self.way, Way::Copy { .. });
        let soon = |moved: Instant| moved.elapsed() < STREAM_GAP;
        if !is_output || self.waiting != Waiting::ForSource || !self.moved.is_some_and(soon) {
            return false;
        }
        let mut fds = [PollFd::new(&self.from, PollFlags::IN)];
        let polled = poll(&mut fds, Some(&NOW));
        let [source] = fds;
        polled.is_ok() && !source.revents().contains(PollFlags::HUP)
    }

    /// Delivers to nowhere from now on; the sink is closed.
    fn discard(&mut self) {
        self.way = Way::Discard;
        self.left = None;
    }

    /// Whether everything that was taken from the source is delivered.
    fn holds_nothing(&self) -> bool {
        match &self.way {
            Way::Copy { start, end, .. } => start == end,
            Way::Splice(_) | Way::Discard => true,
        }
    }

    fn step(&mut self) -> Step {
        let max = self.left.unwrap_or(usize::MAX);
        match &mut self.way {
            Way::Splice(to) => {
                let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                match splice(&self.from, None, to, None, MOVE_LEN.min(max), flags) {
                    Ok(0) => Step::SourceEnded,
                    Ok(len) => {
                        self.left = self.left.map(|left| left.saturating_sub(len));
                        Step::Moved
                    }
                    Err(Errno::INTR) => Step::Moved,
                    // The kernel does not say which side it would have to wait for.
                    Err(Errno::AGAIN) if has_some(&self.from) => Step::SinkFull,
                    Err(Errno::AGAIN) => Step::SourceEmpty,
                    Err(_) => Step::SinkGone,
                }
            }
            Way::Discard => match rustix::io::read(&self.from, &mut [0; BUFFER_LEN]) {
                Ok(0) => Step::SourceEnded,
                Ok(_) | Err(Errno::INTR) => Step::Moved,
                Err(Errno::AGAIN) => Step::SourceEmpty,
                // A terminal that nobody has open any more says EIO.
                Err(_) => Step::SourceEnded,
            },
            Way::Copy {
                to,
                buffer,
                start,
                end,
            } => {
                if start == end {
                    let len = buffer.len().min(max);
                    let free = buffer.get_mut(..len).unwrap_or_default();
                    match rustix::io::read(&self.from, free) {
                        Ok(0) | Err(Errno::IO) => return Step::SourceEnded,
                        Ok(len) => {
                            (*start, *end) = (0, len);
                            self.left = self.left.map(|left| left.saturating_sub(len));
                        }
                        Err(Errno::INTR) => return Step::Moved,
                        Err(Errno::AGAIN) => return Step::SourceEmpty,
                        Err(_) => return Step::SourceEnded,
                    }
                }
                match rustix::io::write(to, buffer.get(*start..*end).unwrap_or_default()) {
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
}

/// Whether there is something to read.
fn has_some(from: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(from, PollFlags::IN)];
    poll(&mut fds, Some(&NOW)).is_ok_and(|ready| ready > 0)
}

/// Takes everything, says nothing.
///
/// # Errors
/// What opening `/dev/null` says.
pub fn null() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    open("/dev/null", flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{fcntl_getfl, fcntl_setfl};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::pipe::{PipeFlags, pipe_with};
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

    fn sockets() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    }

    fn set_nonblocking(fd: &OwnedFd) {
        fcntl_setfl(fd, fcntl_getfl(fd).unwrap() | OFlags::NONBLOCK).unwrap();
    }

    fn pattern(len: usize) -> Vec<u8> {
        let byte = |index: usize| u8::try_from(index % 251).unwrap();
        (0..len).map(byte).collect()
    }

    /// A pump from a process, the process's end and the host's.
    fn output() -> (Pump, OwnedFd, OwnedFd) {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        set_nonblocking(&ours);
        let (socket, host) = sockets();
        (Pump::splicing(ours, socket, Role::Output), theirs, host)
    }

    /// A pump to a process, the process's end and the host's.
    fn input() -> (Pump, OwnedFd, OwnedFd) {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        set_nonblocking(&ours);
        let (socket, host) = sockets();
        (Pump::splicing(socket, ours, Role::Input), theirs, host)
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

    fn write_all(fd: &OwnedFd, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let len = rustix::io::write(fd, bytes).unwrap();
            bytes = &bytes[len..];
        }
    }

    /// Runs a pump until it ends, reading what it delivers.
    fn deliver(mut pump: Pump, host: &OwnedFd) -> Vec<u8> {
        let mut got = Vec::new();
        loop {
            let (fd, flags) = pump.interest();
            let mut fds = [PollFd::new(&fd, flags), PollFd::new(host, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            let flow = pump.run();
            if flow == Flow::Ended {
                drop(pump);
                read_all(host, &mut got);
                return got;
            }
            read_all(host, &mut got);
        }
    }

    #[test]
    fn output_arrives_whole_and_its_end_after_it() {
        let (pump, stdout, host) = output();
        let sent = pattern(5 << 20);
        let writer = std::thread::spawn({
            let sent = sent.clone();
            move || write_all(&stdout, &sent)
        });
        let got = deliver(pump, &host);
        writer.join().unwrap();
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
        assert_eq!(rustix::io::read(&host, &mut [0; 1]), Ok(0));
    }

    #[test]
    fn a_host_that_does_not_read_stops_the_pump_and_not_the_agent() {
        let (mut pump, stdout, host) = output();
        set_nonblocking(&stdout);
        let block = pattern(64 << 10);
        let mut written = 0;
        loop {
            match rustix::io::write(&stdout, &block) {
                Ok(len) => written += len,
                Err(errno) => {
                    assert_eq!(errno, Errno::AGAIN);
                    assert_eq!(pump.run(), Flow::Open);
                    match rustix::io::write(&stdout, &block) {
                        Ok(len) => written += len,
                        Err(_) => break,
                    }
                }
            }
        }
        assert_eq!(pump.interest().1, PollFlags::OUT);
        drop(stdout);
        assert_eq!(deliver(pump, &host).len(), written);
    }

    #[test]
    fn output_goes_on_when_the_host_stops_listening() {
        let (mut pump, stdout, host) = output();
        drop(host);
        for _ in 0..100 {
            rustix::io::write(&stdout, &pattern(64 << 10)).unwrap();
            assert_eq!(pump.run(), Flow::Open);
            assert!(pump.discards());
            assert_eq!(pump.interest().1, PollFlags::IN);
        }
        drop(stdout);
        assert_eq!(pump.run(), Flow::Ended);
    }

    #[test]
    fn what_is_written_when_the_rest_is_concluded_is_thrown_away() {
        let (mut pump, stdout, host) = output();
        let block = pattern(64 << 10);
        set_nonblocking(&stdout);
        // Until neither the socket nor the pipe takes more: nobody reads yet.
        let mut written = Vec::new();
        loop {
            match rustix::io::write(&stdout, &block) {
                Ok(len) => written.extend_from_slice(&block[..len]),
                Err(errno) => {
                    assert_eq!((errno, pump.run()), (Errno::AGAIN, Flow::Open));
                    match rustix::io::write(&stdout, &block) {
                        Ok(len) => written.extend_from_slice(&block[..len]),
                        Err(_) => break,
                    }
                }
            }
        }
        pump.conclude();
        assert_eq!(pump.run(), Flow::Open);
        assert!(!pump.discards());
        let mut got = Vec::new();
        while !pump.discards() {
            read_all(&host, &mut got);
            assert_eq!(pump.run(), Flow::Open);
            // It never has nothing to give.
            let _ = rustix::io::write(&stdout, b"more");
        }
        read_all(&host, &mut got);
        assert!(got == written, "{} of {}", got.len(), written.len());
        assert_eq!(rustix::io::read(&host, &mut [0; 1]), Ok(0));
        // Whoever writes goes on.
        for _ in 0..100 {
            rustix::io::write(&stdout, b"more").unwrap();
            assert_eq!(pump.run(), Flow::Open);
        }
        drop(stdout);
        assert_eq!(pump.run(), Flow::Ended);
    }

    #[test]
    fn a_source_that_holds_nothing_is_concluded_at_once() {
        let (mut pump, stdout, host) = output();
        rustix::io::write(&stdout, b"last").unwrap();
        pump.conclude();
        rustix::io::write(&stdout, b"late").unwrap();
        assert_eq!(pump.run(), Flow::Open);
        assert!(pump.discards());
        let mut got = Vec::new();
        read_all(&host, &mut got);
        assert_eq!(got, b"last");
    }

    #[test]
    fn input_arrives_whole_and_its_end_closes_the_pipe() {
        let (pump, stdin, host) = input();
        let sent = pattern(3 << 20);
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            read_all(&stdin, &mut got);
            got
        });
        let mut rest = &sent[..];
        let mut host = Some(host);
        let mut pump = Some(pump);
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
        let (mut pump, stdin, host) = input();
        drop(stdin);
        rustix::io::write(&host, b"nobody reads this").unwrap();
        assert_eq!(pump.run(), Flow::Ended);
    }

    #[test]
    fn a_terminals_last_words_are_delivered() {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&terminal).unwrap();
        set_nonblocking(&terminal);
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let process = ioctl_tiocgptpeer(&terminal, flags).unwrap();
        let (socket, host) = sockets();
        let pump = Pump::copying(terminal, socket, Role::Output);
        let line = "0123456789".repeat(300);
        write_all(&process, format!("{line}\n").as_bytes());
        drop(process);
        assert_eq!(deliver(pump, &host), format!("{line}\r\n").as_bytes());
    }

    /// Of which the kernel counts 4 KiB.
    #[test]
    fn what_a_terminal_holds_when_it_is_concluded_is_delivered() {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&terminal).unwrap();
        set_nonblocking(&terminal);
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let process = ioctl_tiocgptpeer(&terminal, flags).unwrap();
        set_nonblocking(&process);
        let (socket, host) = sockets();
        let mut pump = Pump::copying(terminal, socket, Role::Output);
        let mut written = Vec::new();
        while let Ok(len) = rustix::io::write(&process, &[b'x'; 1000]) {
            written.extend(std::iter::repeat_n(b'x', len));
        }
        assert!(written.len() > 4096, "{}", written.len());
        drop(process);
        pump.conclude();
        assert!(deliver(pump, &host) == written);
    }
}
