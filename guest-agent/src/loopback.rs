//! The loopback interface, which every container has up.
//!
//! Called by [`crate::container`]. The VM's network is the container's; its other interfaces are
//! set up by whoever gives it some.
// The interface ioctls have no safe wrappers.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Takes it up. The kernel gives it its addresses.
///
/// # Errors
/// What the ioctl says.
pub fn up() -> Result<(), Errno> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all bits zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from).map_err(|_| Errno::INVAL)?;
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP).map_err(|_| Errno::INVAL)?;
    // SAFETY: the descriptor is open and the request is a whole ifreq that the kernel reads.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if answer != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}
