//! vsock connections from the guest to the host.
//!
//! Called by [`crate::control`], [`crate::stdio`] and [`crate::tasks`]. Knows addresses and ports, nothing of what
//! travels. Sockets are non-blocking: the host's side is read by one loop and so is ours.
// The address family has no safe wrapper in rustix: connect and one ioctl by hand.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

/// How long a connection may take. The host listens before it starts the VM, so this only ends the
/// wait for a host that is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two attempts while the device is not there yet.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// A connection that was begun.
#[derive(Debug)]
pub struct Connecting {
    socket: OwnedFd,
    port: u32,
}

/// Begins a connection to `port` of the host; [`Connecting::finish`] waits for it.
///
/// # Errors
/// What `socket` or `connect` say; `ENODEV` and `EHOSTUNREACH` while there is no device.
pub fn connect(port: u32) -> Result<Connecting, Errno> {
    let socket = socket_with(
        AddressFamily::VSOCK,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let host = protocol::HOST_CID;
    // SAFETY: all bits zero is a valid sockaddr_vm.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).map_err(|_| Errno::INVAL)?;
    address.svm_port = port;
    address.svm_cid = host;
    let len = libc::socklen_t::try_from(size_of_val(&address)).map_err(|_| Errno::INVAL)?;
    // SAFETY: the socket is open, and the pointer and length are those of a whole sockaddr_vm that
    // lives over the call.
    let answer = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) };
    match answer {
        0 => Ok(()),
        _ => match last_errno() {
            Errno::INPROGRESS => Ok(()),
            errno => Err(errno),
        },
    }?;
    Ok(Connecting { socket, port })
}

/// [`connect`], tried again while the kernel has not found the device yet.
///
/// # Errors
/// The last attempt's, after [`CONNECT_TIMEOUT`].
pub fn connect_when_present(port: u32) -> Result<Connecting, Errno> {
    let start = Instant::now();
    loop {
        match connect(port) {
            Err(Errno::NODEV | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::ADDRNOTAVAIL)
                if start.elapsed() < CONNECT_TIMEOUT =>
            {
                std::thread::sleep(RETRY_PAUSE);
            }
            other => return other,
        }
    }
}

impl Connecting {
    /// Waits until the host accepted.
    ///
    /// # Errors
    /// `ETIMEDOUT` after [`CONNECT_TIMEOUT`], `ECONNRESET` when the host refuses, or what `poll`
    /// says.
    pub fn finish(self) -> Result<OwnedFd, Errno> {
        let timeout = Timespec::try_from(CONNECT_TIMEOUT).map_err(|_| Errno::INVAL)?;
        let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
        if poll(&mut fds, Some(&timeout))? == 0 {
            return Err(Errno::TIMEDOUT);
        }
        sockopt::socket_error(&self.socket)??;
        Ok(self.socket)
    }

    /// The host's port.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }
}

/// Waits until the device took every byte written to `socket`, so that a power-off loses none.
///
/// # Errors
/// `ETIMEDOUT` when bytes are left after `limit`, or what the ioctl says.
pub fn wait_sent(socket: BorrowedFd<'_>, limit: Duration) -> Result<(), Errno> {
    /// A look costs about a microsecond, the device takes some ten: sleep in between, briefly.
    const PAUSE: Duration = Duration::from_micros(20);
    let start = Instant::now();
    while unsent(socket)? != 0 {
        if start.elapsed() > limit {
            return Err(Errno::TIMEDOUT);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Bytes written to `socket` that the device has not taken (`SIOCOUTQ`, Linux 6.11).
fn unsent(socket: BorrowedFd<'_>) -> Result<libc::c_int, Errno> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open and the ioctl writes one int to the pointer.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if answer < 0 {
        return Err(last_errno());
    }
    Ok(bytes)
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

impl AsFd for Connecting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
