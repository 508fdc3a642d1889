//! What a VM needs that went on from a template: the time, randomness of its own, and its disks,
//! which the template's VM did not have yet. And what it needs when its host slept: the time again.
//!
//! Called by [`crate::init`] before anything of a container runs, by [`crate::container`] while one
//! does, and where disks are first used. It fails rather than go on with what other VMs of the same
//! template have, too.
// The two ioctls of the random device have no safe wrapper.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::failure::{Context, Failure};

/// How long a disk may take to be there: the kernel hears of it by an interrupt.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two looks at it.
const DISK_PAUSE: Duration = Duration::from_micros(200);

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Sets the clock and stirs `entropy` into the kernel's random numbers, so that from here on none
/// is like another VM's.
///
/// # Errors
/// What the kernel says.
pub fn up(entropy: &[u8; 32], realtime_ns: u64) -> Result<(), Failure> {
    reseed(entropy).context(|| "reseed the random number generator".into())?;
    clock_settime(ClockId::Realtime, timespec(realtime_ns)).context(|| "set the clock".into())
}

fn timespec(ns: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(ns / SECOND_NS).unwrap_or(0),
        tv_nsec: i64::try_from(ns % SECOND_NS).unwrap_or(0),
    }
}

/// `CLOCK_REALTIME` in nanoseconds since 1970; 0 before.
#[must_use]
pub fn clock_ns() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let ns = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(SECOND_NS).saturating_add(ns)
}

/// Sets the clock forward or back. Where that leads to no time that the kernel takes, it stays.
pub fn shift_clock(ns: i64) {
    if let Some(time) = clock_ns().checked_add_signed(ns) {
        let _ = clock_settime(ClockId::Realtime, timespec(time));
    }
}

/// `struct rand_pool_info` (Linux uapi/linux/random.h) with 32 bytes.
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    len: libc::c_int,
    bytes: [u8; 32],
}

fn reseed(entropy: &[u8; 32]) -> Result<(), Errno> {
    /// `_IOW('R', 0x03, int[2])`
    const ADD_ENTROPY: libc::c_ulong = 0x4008_5203;
    /// `_IO('R', 0x07)`
    const RESEED: libc::c_ulong = 0x5207;
    let device = open(
        "/dev/random",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let info = PoolInfo {
        entropy_bits: 256,
        len: 32,
        bytes: *entropy,
    };
    // SAFETY: the descriptor is open, and the argument is a whole structure of the kernel's layout
    // that lives over the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), ADD_ENTROPY, &raw const info) } != 0 {
        return Err(last_errno());
    }
    // SAFETY: the descriptor is open; this request takes no argument.
    if unsafe { libc::ioctl(device.as_raw_fd(), RESEED, 0) } != 0 {
        return Err(last_errno());
    }
    Ok(())
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Waits until this disk has a size.
///
/// # Errors
/// When it has none in time, or can't be opened.
pub fn wait_for_disk(device: &str) -> Result<(), Failure> {
    let disk = open(device, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("open {device}"))?;
    let begun = Instant::now();
    while seek(&disk, SeekFrom::End(0)).context(|| format!("read the size of {device}"))? == 0 {
        if begun.elapsed() > DISK_TIMEOUT {
            return Err(Failure::other(format!("{device} has no size")));
        }
        std::thread::sleep(DISK_PAUSE);
    }
    Ok(())
}
