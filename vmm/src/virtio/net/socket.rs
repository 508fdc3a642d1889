//! The socket to passt: gathering writes and scattering reads on guest memory itself, neither of
//! which waits. [`super::receive`] and [`super::transmit`] call it; it knows no frame.
#![allow(unsafe_code)] // readv and sendmsg on guest memory, which is never a Rust slice

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use vm_memory::VolatileSlice;
use vm_memory::volatile_memory::{PtrGuard, PtrGuardMut};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Vectors of one system call (`IOV_MAX`).
const VECTORS_MAX: usize = 1024;

/// A connected stream socket, set not to block.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    /// What a marked message bears; nobody listens to it.
    mark: EventFd,
}

/// A control message with one descriptor (cmsg(3)).
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    fd: RawFd,
}

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes, at least one.
    Bytes(usize),
    /// None for now.
    WouldBlock,
    /// The other side is gone.
    Gone,
}

/// A piece of what is sent.
pub(super) enum Piece<'a> {
    /// The host's own bytes.
    Own(&'a [u8]),
    /// The guest's.
    Guest(VolatileSlice<'a>),
}

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let mark = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self { fd, mark })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Fills `guest` and then `own` as far as there is something to read.
    pub(super) fn read(&self, guest: &[VolatileSlice], own: &mut [u8]) -> Moved {
        // The last place is for the host's own.
        let guards: Vec<PtrGuardMut> = guest
            .iter()
            .take(VECTORS_MAX - 1)
            .map(VolatileSlice::ptr_guard_mut)
            .collect();
        let mut vectors: Vec<libc::iovec> = guards
            .iter()
            .map(|guard| vector(guard.as_ptr(), guard.len()))
            .collect();
        // What comes after a part of the guest's bytes that did not fit is the guest's, too.
        if guards.len() == guest.len() {
            vectors.push(vector(own.as_mut_ptr(), own.len()));
        }
        let count = libc::c_int::try_from(vectors.len()).unwrap_or(0);
        // SAFETY: each vector is guest memory that `guards` keeps mapped, or `own`; their lengths
        // are those of the slices, and all of them outlive the call.
        outcome(|| unsafe { libc::readv(self.fd(), vectors.as_ptr(), count) })
    }

    /// Sends as much of `pieces`, less their first `skip` bytes, as goes at once. No call of the other
    /// side reads beyond a `marked` message, unless it is in two pieces: then beyond the first.
    pub(super) fn write(&self, pieces: &[Piece], skip: usize, marked: bool) -> Moved {
        let guards: Vec<PtrGuard> = pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Guest(slice) => Some(slice.ptr_guard()),
                Piece::Own(_) => None,
            })
            .collect();
        let mut of_guest = guards.iter();
        let mut left = skip;
        let mut vectors = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let (start, len) = match piece {
                Piece::Own(bytes) => (bytes.as_ptr(), bytes.len()),
                Piece::Guest(_) => match of_guest.next() {
                    Some(guard) => (guard.as_ptr(), guard.len()),
                    None => break,
                },
            };
            let skipped = left.min(len);
            left -= skipped;
            if skipped < len {
                // An address inside the piece, by arithmetic that can't leave it.
                vectors.push(vector(
                    start.wrapping_add(skipped).cast_mut(),
                    len - skipped,
                ));
            }
            if vectors.len() == VECTORS_MAX {
                break;
            }
        }
        // SAFETY: all bits zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = vectors.len();
        let mut rights = Rights {
            header: libc::cmsghdr {
                cmsg_len: size_of::<libc::cmsghdr>() + size_of::<RawFd>(),
                cmsg_level: libc::SOL_SOCKET,
                cmsg_type: libc::SCM_RIGHTS,
            },
            fd: self.mark.as_raw_fd(),
        };
        if marked {
            message.msg_control = (&raw mut rights).cast();
            message.msg_controllen = size_of::<Rights>();
        }
        // SAFETY: each vector is the host's own bytes or guest memory that `guards` keeps mapped,
        // which the call only reads; their lengths lie inside the pieces. The control message is
        // `rights`, whole. All outlive the call.
        outcome(|| unsafe { libc::sendmsg(self.fd(), &raw const message, libc::MSG_NOSIGNAL) })
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.fd
    }
}

fn vector(start: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: start.cast(),
        iov_len: len,
    }
}

fn outcome(mut call: impl FnMut() -> isize) -> Moved {
    loop {
        let count = call();
        if let Ok(count) = usize::try_from(count) {
            return if count == 0 {
                Moved::Gone
            } else {
                Moved::Bytes(count)
            };
        }
        match io::Error::last_os_error().kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Moved::WouldBlock,
            _ => return Moved::Gone,
        }
    }
}
