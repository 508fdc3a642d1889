//! Moves bytes from one descriptor to another, neither of which waits: a process's pipe or terminal and
//! the supervisor's socket. Called by [`super::process`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::unistd::{read, write};

use crate::sandbox::poll::readable_until;

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
            match read(&self.from, &mut self.buffer) {
                Ok(0) => return false,
                Ok(len) => {
                    self.filled = 0..len;
                    if self.to.is_none() {
                        moved = moved.saturating_add(len);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return true,
                // A terminal that nobody has open any more says EIO.
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether there is nothing on its way.
    pub(super) fn is_drained(&self) -> bool {
        let waits = || readable_until(self.from.as_fd(), Some(Instant::now()));
        self.filled.is_empty() && !waits().unwrap_or(false)
    }

    /// From now on what comes is thrown away, and the other end is told that there is no more.
    pub(super) fn discard(&mut self) {
        self.to = None;
        self.filled = 0..0;
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
    fn what_is_discarded_ends_the_stream_and_keeps_the_writer_going() {
        let (pipe, mut writer) = std::io::pipe().unwrap();
        let (socket, mut reader) = UnixStream::pair().unwrap();
        let mut pump = Pump::new(pipe.into(), socket.into()).unwrap();
        writer.write_all(b"one").unwrap();
        assert!(!pump.is_drained());
        assert!(pump.run());
        assert!(pump.is_drained());
        pump.discard();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
        writer.write_all(b"two").unwrap();
        assert!(pump.run());
        drop(writer);
        assert!(!pump.run());
    }
}
