//! Waiting for descriptors with a deadline. Called wherever this folder waits for a VM, its agent, another
//! process or a log; it does not know which.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

/// Waits until `fd` is readable or at its end (`true`), or `deadline` is reached (`false`).
///
/// # Errors
/// When the kernel can't poll it.
pub fn readable_until(fd: BorrowedFd, deadline: Option<Instant>) -> nix::Result<bool> {
    loop {
        let timeout = timeout_until(deadline);
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, timeout) {
            Ok(0) if deadline.is_some_and(|at| Instant::now() >= at) => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

/// The time left until `deadline`, rounded up to milliseconds, as `poll` takes it.
#[must_use]
pub fn timeout_until(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else {
        return PollTimeout::NONE;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let millis = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
}
