//! Moves bytes from one descriptor to another, neither of which waits: a process's pipe or terminal and
//! the supervisor's socket. Called by [`super::process`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::unistd::{read, write};
use rustix::io::ioctl_fionread;
use rustix::termios::isatty;

/// Bytes that are held at most.
const BUFFER_LEN: usize = 64 << 10;

/// Bytes that one turn moves at most, so that one process does not keep the others waiting.
const TURN_LEN: usize = 1 << 20;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Pump {
    from: OwnedFd,
    /// Without it what comes is thrown away.
    to: Option<OwnedFd>,
    buffer: Vec<u8>,
    filled: std::ops::Range<usize>,
    /// Bytes that are still to be read for the other end, where what follows is not.
    left: Option<usize>,
}

impl Pump {
    /// Moves what comes out of `from`, which is made not to wait, as `to` is.
    ///
    /// # Errors
    /// When the kernel refuses that.
    pub(super) fn new(from: OwnedFd, to: OwnedFd) -> nix::Result<Self> {
        for end in [&from, &to] {
            let flags = OFlag::from_bits_retain(fcntl(end, FcntlArg::F_GETFL)?);
            fcntl(end, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        Ok(Self {
            from,
            to: Some(to),
            buffer: vec![0; BUFFER_LEN],
            filled: 0..0,
            left: None,
        })
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match &self.to {
            Some(to) if !self.filled.is_empty() => (to.as_fd(), PollFlags::POLLOUT),
            _ => (self.from.as_fd(), PollFlags::POLLIN),
        }
    }

    /// Moves what there is; `false` when nothing more will come or go.
    pub(super) fn run(&mut self) -> bool {
        let mut moved = 0;
        while moved < TURN_LEN {
            if let Some(to) = self.to.as_ref().filter(|_| !self.filled.is_empty()) {
                let bytes = self.buffer.get(self.filled.clone()).unwrap_or_default();
                match write(to, bytes) {
                    Ok(len) => {
                        self.filled.start = self.filled.start.saturating_add(len);
                        moved = moved.saturating_add(len);
                    }
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => return true,
                    Err(_) => return false,
                }
                continue;
            }
            if self.left == Some(0) {
                self.discard();
            }
            let len = self.left.unwrap_or(BUFFER_LEN).min(BUFFER_LEN);
            let free = self.buffer.get_mut(..len).unwrap_or_default();
            match read(&self.from, free) {
                Ok(0) => return false,
                Ok(len) => {
                    self.filled = 0..len;
                    self.left = self.left.map(|left| left.saturating_sub(len));
                    if self.to.is_none() {
                        moved = moved.saturating_add(len);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    if self.left.is_some() {
                        // Somebody else has read the rest.
                        self.discard();
                    }
                    return true;
                }
                // A terminal that nobody has open any more says EIO.
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether what comes is thrown away: everything that was for the other end is delivered.
    pub(super) fn discards(&self) -> bool {
        self.to.is_none()
    }

    /// From now on only what the source holds at this moment is for the other end, however long that
    /// takes; what comes after it is thrown away. A terminal can't say how much that is: of one, all that
    /// comes until it has nothing more to give.
    pub(super) fn conclude(&mut self) {
        if !self.discards() && self.left.is_none() {
            self.left = Some(match isatty(&self.from) {
                true => usize::MAX,
                // A source that can't say has nothing.
                false => {
                    usize::try_from(ioctl_fionread(&self.from).unwrap_or(0)).unwrap_or(usize::MAX)
                }
            });
        }
    }

    /// From now on what comes is thrown away, and the other end is told that there is no more.
    fn discard(&mut self) {
        self.to = None;
        self.filled = 0..0;
        self.left = None;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_wait_for_a_slow_reader_and_none_is_lost() {
        let (pipe, mut writer) = std::io::pipe().unwrap();
        let (socket, mut reader) = UnixStream::pair().unwrap();
        let mut pump = Pump::new(pipe.into(), socket.into()).unwrap();
        let wanted: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let sent = wanted.clone();
        let thread = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        let collects = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        loop {
            let (fd, flags) = pump.interest();
            let mut fds = [nix::poll::PollFd::new(fd, flags)];
            nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE).unwrap();
            if !pump.run() {
                break;
            }
        }
        drop(pump);
        thread.join().unwrap();
        assert!(collects.join().unwrap() == wanted);
    }

    #[test]
    fn what_comes_too_late_ends_the_stream_and_keeps_the_writer_going() {
        let (pipe, mut writer) = std::io::pipe().unwrap();
        let (socket, mut reader) = UnixStream::pair().unwrap();
        let mut pump = Pump::new(pipe.into(), socket.into()).unwrap();
        writer.write_all(b"one").unwrap();
        pump.conclude();
        writer.write_all(b"late").unwrap();
        assert!(!pump.discards());
        assert!(pump.run());
        assert!(pump.discards());
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
        writer.write_all(b"two").unwrap();
        assert!(pump.run());
        drop(writer);
        assert!(!pump.run());
    }
}
