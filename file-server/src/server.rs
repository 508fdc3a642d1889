//! The loop: a message names a slot, the slot holds a request; the reply goes into its place, and a
//! message back says how long it is.
//!
//! ```text
//! VMM ── slot, bytes of the request, room for the reply: 3 × u32 ──► server
//!     ◄────────────── slot, bytes of the reply: 2 × u32 ────────────
//! ```
//! Both on one sequential-packet socket, whose end is the server's. Little-endian. A request that
//! gets no reply (FORGET) is answered with no bytes. Called by the process that [`crate::jail`] made.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;

use ::jail::filter::Filter;
use ::jail::table::Thread;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::area::{Area, Slot};
use crate::files::{DATA_BYTES_MAX, Files, Reply};
use crate::reader::Reader;
use crate::reply;
use crate::wire::{self, OUT_HEADER_BYTES, REQUEST_BYTES_MAX, Refused};

/// Slots: requests under way at a time.
pub const SLOT_COUNT: usize = 32;

/// Bytes of a slot: data, and a page for what is around it.
pub const SLOT_BYTES: usize = DATA_BYTES_MAX as usize + 4096;

/// Threads, so that a slow call does not hold up the others.
const THREADS: usize = 4;

/// Serves until the other end is closed. Every thread is under its filter before `ready` is called, and
/// that is before the first request is read.
///
/// # Errors
/// When a thread can't be started or confined, or the socket fails.
pub fn serve(
    socket: &OwnedFd,
    area: &Area,
    files: &Files,
    ready: impl FnOnce() -> std::io::Result<()>,
) -> std::io::Result<()> {
    let filter = Filter::new(Thread::Files).map_err(std::io::Error::other)?;
    let (socket, filter) = (socket.as_fd(), &filter);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        // Whoever waits leaves when these are dropped.
        let mut starts = Vec::new();
        let (tell, confined) = mpsc::channel();
        for index in 0..THREADS {
            let (start, started) = mpsc::channel::<()>();
            let tell = tell.clone();
            let thread = std::thread::Builder::new()
                .name(format!("files{index}"))
                .stack_size(256 << 10)
                .spawn_scoped(scope, move || {
                    let _ = tell.send(filter.install());
                    match started.recv() {
                        Ok(()) => serve_one(socket, area, files),
                        Err(_) => Ok(()),
                    }
                })?;
            threads.push(thread);
            starts.push(start);
        }
        drop(tell);
        filter.install().map_err(std::io::Error::other)?;
        for result in confined.iter().take(THREADS) {
            result.map_err(std::io::Error::other)?;
        }
        ready()?;
        for start in starts {
            start.send(()).map_err(std::io::Error::other)?;
        }
        for thread in threads {
            thread
                .join()
                .map_err(|_| std::io::Error::other("a thread failed"))??;
        }
        Ok(())
    })
}

fn serve_one(socket: BorrowedFd<'_>, area: &Area, files: &Files) -> std::io::Result<()> {
    loop {
        let mut message = [0; 12];
        let len = match recv(socket, &mut message, RecvFlags::empty()) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => return Ok(()),
            Ok((_, len)) => len,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let Some((slot, reply)) = one(message.get(..len).unwrap_or_default(), area, files) else {
            return Err(std::io::Error::other("a message that is none"));
        };
        let mut answer = [0; 8];
        let (first, second) = answer.split_at_mut(4);
        first.copy_from_slice(&slot.to_le_bytes());
        second.copy_from_slice(&u32::try_from(reply).unwrap_or(0).to_le_bytes());
        match send(socket, &answer, SendFlags::NOSIGNAL) {
            Ok(_) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Serves one message: the slot's number and the length of the reply in it.
fn one(message: &[u8], area: &Area, files: &Files) -> Option<(u32, usize)> {
    let mut reader = Reader::new(message);
    let (index, len, room) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let slot = area.slot(usize::try_from(index).ok()?)?;
    let (len, room) = (usize::try_from(len).ok()?, usize::try_from(room).ok()?);
    if len > slot.len() {
        return None;
    }
    Some((index, answer(files, slot, len, room.min(slot.len()))))
}

/// Answers the request of `len` bytes in `slot`, in its place; returns the length of the reply, at
/// most `room`.
#[must_use]
pub fn answer(files: &Files, slot: Slot<'_>, len: usize, room: usize) -> usize {
    let Ok(request) = slot.read(len.min(REQUEST_BYTES_MAX)) else {
        return 0;
    };
    let (unique, result) = match wire::parse(&request, len) {
        Ok((header, operation)) => (header.unique, files.answer(&header, operation, slot)),
        Err(Refused {
            unique: Some(unique),
            errno,
        }) => (unique, Err(errno)),
        // Whom to answer is not known.
        Err(Refused { unique: None, .. }) => return 0,
    };
    let result = match result {
        Ok(Reply::None) => return 0,
        Ok(Reply::InSlot(len)) => Ok(len),
        Ok(Reply::Bytes(bytes)) => slot.write(OUT_HEADER_BYTES, &bytes).map(|()| bytes.len()),
        Err(errno) => Err(errno),
    };
    // A driver has room for the reply it asked for; one that has not loses its end.
    let (len, errno) = match result {
        Ok(len) if OUT_HEADER_BYTES + len <= room => (OUT_HEADER_BYTES + len, 0),
        Ok(_) => (OUT_HEADER_BYTES, Errno::IO.raw_os_error()),
        Err(errno) => (OUT_HEADER_BYTES, errno.raw_os_error()),
    };
    match slot.write(0, &reply::out_header(len, errno, unique)) {
        Ok(()) if len <= room => len,
        _ => 0,
    }
}
