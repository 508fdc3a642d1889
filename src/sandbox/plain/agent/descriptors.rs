//! Descriptors that come in messages over a local socket: streams that the supervisor offers, and the
//! terminal that a runtime has made.
//! Called by `serve` and `process`. It does not know what the bytes beside them say.
#![allow(unsafe_code)] // takes ownership of descriptors out of control messages

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Bytes of a message that are looked at: a port, or a terminal's name.
const MESSAGE_LEN: usize = 256;

/// The next message that has arrived: its bytes and its descriptor; `None` when there is none yet, or
/// the other side is gone.
///
/// # Errors
/// When it can't be read.
pub(super) fn receive(socket: BorrowedFd) -> Result<Option<(Vec<u8>, OwnedFd)>> {
    let mut bytes = [0; MESSAGE_LEN];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut iovecs = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<()>(socket.as_raw_fd(), &mut iovecs, Some(&mut space), flags) {
        Ok(message) => message,
        Err(Errno::EINTR | Errno::EAGAIN | Errno::ECONNRESET) => return Ok(None),
        Err(error) => return Err(error).context("receive a descriptor"),
    };
    let mut received = Vec::new();
    for control in message.cmsgs().context("read a control message")? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel opened them for this process alone, just now.
            let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
            received.extend(descriptors.into_iter().map(own));
        }
    }
    let len = message.bytes;
    let text = bytes.get(..len).unwrap_or_default().to_vec();
    Ok(received.pop().map(|descriptor| (text, descriptor)))
}
