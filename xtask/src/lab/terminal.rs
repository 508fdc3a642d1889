//! The terminal that a command was called from: its size, and raw mode for as long as a
//! command inside has a terminal of its own. `client` calls it; `server` sets sizes with it.
#![allow(unsafe_code)] // The window size ioctls have no safe wrapper in nix.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Mutex;

use nix::sys::termios::{self, SetArg, Termios};

use super::wire::Size;

/// What the terminal was like before raw mode; the only way back for whoever ends the process.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal's size when the command should have a terminal: standard input and output are
/// one. With output redirected a terminal would mix the two outputs, so there is none.
pub(super) fn wanted() -> Option<Size> {
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        size(io::stdin())
    } else {
        None
    }
}

/// The size of the terminal behind `descriptor`.
pub(super) fn size(descriptor: impl AsFd) -> Option<Size> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize, and `size` is one that lives through the call.
    let result = unsafe {
        libc::ioctl(
            descriptor.as_fd().as_raw_fd(),
            libc::TIOCGWINSZ,
            &raw mut size,
        )
    };
    (result == 0).then_some(Size {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Sets the size of the terminal behind `descriptor`.
pub(super) fn resize(descriptor: impl AsFd, size: Size) {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize, and `size` is one that lives through the call.
    // A terminal that has just been closed has no size to set: nothing to do about it.
    unsafe {
        libc::ioctl(
            descriptor.as_fd().as_raw_fd(),
            libc::TIOCSWINSZ,
            &raw const size,
        )
    };
}

/// Hands every key to the command inside.
///
/// # Errors
///
/// Standard input is no terminal.
pub(super) fn make_raw() -> nix::Result<()> {
    let before = termios::tcgetattr(io::stdin())?;
    let mut raw = before.clone();
    termios::cfmakeraw(&mut raw);
    *BEFORE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(before);
    termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)
}

/// Undoes [`make_raw`]; does nothing without it.
pub(super) fn restore() {
    if let Some(before) = BEFORE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .take()
    {
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &before);
    }
}
