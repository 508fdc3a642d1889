//! Has what a VM writes to its disk counted for its control group, as far as the host's file system can.
//!
//! A write reaches the disk later, on the account that the kernel keeps for the file as a whole
//! (cgroup v2, "Writeback"): that of the first who wrote to it, here the supervisor. The kernel moves a
//! file to another account when most of several write-backs in a row were of pages of that one. Left to
//! itself it comes to that after about a second of the disk's full speed, and until then no limit of
//! writing holds; so the beginning of the disk is written back again and again, as it is.
//!
//! Called by [`super::vmm_process`] in the group and before the jail, for a VM whose writes are limited, and
//! before a rate is: so it takes no longer where little may be written.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{Advice, fadvise};

/// Bytes that are written back at a time. A piece must take the fastest disk some 0.1 ms, or it is no
/// measure to the kernel.
const PIECE_LEN: usize = 256 << 10;

/// It takes some thirty times, and the kernel a moment to follow; on a host that is busy.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of `io.stat`: a line for each of the host's disks.
const STAT_BYTES_MAX: u64 = 64 << 10;

/// Has the kernel move the file's account to this process's control group, whose `io.stat` tells.
///
/// # Errors
/// When the file can't be read or written, or the kernel does not follow in time.
pub fn claim(disk: &File, stat: &mut File, timeout: Duration) -> Result<()> {
    // Pages belong to the group that first had them in memory.
    disk.sync_data().context("write the disk back")?;
    fadvise(disk, 0, None, Advice::DontNeed).context("let go of the disk's pages")?;
    let until = Instant::now() + timeout;
    let mut piece = vec![0; PIECE_LEN];
    let mut written = written_bytes(stat)?;
    loop {
        let len = disk.read_at(&mut piece, 0).context("read the disk")?;
        let piece = piece.get(..len).unwrap_or_default();
        disk.write_all_at(piece, 0).context("write to the disk")?;
        disk.sync_data().context("write the disk back")?;
        // Some of the file system's own is counted before.
        let before = std::mem::replace(&mut written, written_bytes(stat)?);
        if written.saturating_sub(before) >= u64::try_from(len)? {
            return Ok(());
        }
        if Instant::now() >= until {
            bail!(
                "the kernel does not account what is written to the container's disk to its VM, as it can \
                 on ext4, XFS, Btrfs and F2FS: leave out --device-write-bps, --device-write-iops and weights"
            );
        }
    }
}

/// What was written on the group's account, to all disks.
fn written_bytes(stat: &mut File) -> Result<u64> {
    let mut text = String::new();
    stat.rewind()
        .and_then(|()| stat.take(STAT_BYTES_MAX).read_to_string(&mut text))
        .context("read io.stat")?;
    let words = text.split_ascii_whitespace();
    let counts = words.filter_map(|word| word.strip_prefix("wbytes=")?.parse::<u64>().ok());
    Ok(counts.fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn what_was_written_is_summed() {
        for (text, want) in [
            ("", 0),
            ("8:0 \n", 0),
            ("8:0 rbytes=5 wbytes=0 rios=1 wios=0\n", 0),
            ("8:0 rbytes=5 wbytes=7\n8:16 rbytes=0 wbytes=4096\n", 4103),
        ] {
            assert_eq!(written_bytes(&mut file(text)).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn the_disk_stays_as_it_is() {
        let disk = file("a disk");
        // Here nothing is counted.
        let error = claim(&disk, &mut file("8:0 wbytes=9\n"), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("does not account"), "{error}");
        let mut text = [0; 16];
        let len = disk.read_at(&mut text, 0).unwrap();
        assert_eq!(text.get(..len), Some(&b"a disk"[..]));
    }
}
