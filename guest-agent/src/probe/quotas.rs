//! Whether limits hold: memory is touched, CPUs are spun, the file system is asked for its size.
#![allow(unsafe_code)] // fork, and a clock of the whole process

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use protocol::probe::Quotas;
use rustix::fs::statvfs;
use rustix::thread::sched_getaffinity;

use super::{one_line, seen};
use crate::spawn;

const MIB: usize = 1 << 20;

/// MiB that are touched when nothing stops it: twice the largest limit that `contrast` sets by
/// itself, little enough for any host.
const TOUCH_MIB: u32 = 256;

/// Bytes of a page.
const PAGE: usize = 4096;

/// How long the CPUs are spun: five periods of a quota.
const SPIN: Duration = Duration::from_millis(500);

/// Threads that spin.
const SPINNERS: usize = 4;

pub(super) fn quotas() -> Quotas {
    let (memory_touched_mib, memory_held) = touch();
    let (cpu_used_us, cpu_wall_us) = spin();
    let (disk_bytes, disk_free_bytes) = statvfs("/").map_or((0, 0), |status| {
        let bytes = |blocks: u64| blocks.saturating_mul(status.f_frsize);
        (bytes(status.f_blocks), bytes(status.f_bavail))
    });
    Quotas {
        memory_limit: limit("memory.max"),
        memory_touched_mib,
        memory_held,
        cpu_limit: limit("cpu.max"),
        cpus: sched_getaffinity(None).map_or(0, |cpus| cpus.count()),
        cpu_used_us,
        cpu_wall_us,
        pids_limit: limit("pids.max"),
        disk_type: disk_type(&seen::text("/proc/self/mountinfo")),
        disk_bytes,
        disk_free_bytes,
    }
}

fn limit(name: &str) -> String {
    one_line(&seen::text(&format!("/sys/fs/cgroup/{name}")))
}

/// The type of the file system at `/`: of the last such line, the word behind ` - `.
fn disk_type(mountinfo: &str) -> String {
    let mut roots = mountinfo
        .lines()
        .filter(|line| line.split(' ').nth(4) == Some("/"));
    let kind = roots
        .next_back()
        .and_then(|line| line.split_once(" - "))
        .and_then(|(_, rest)| rest.split(' ').next());
    one_line(kind.unwrap_or_default())
}

/// Touches memory in a child until it is killed: MiB that it had, and whether it was killed.
fn touch() -> (u32, bool) {
    let Ok((mut reader, mut writer)) = std::io::pipe() else {
        return (0, false);
    };
    // SAFETY: the probe has one thread here, so the child may go on as any process.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop(reader);
        let mut kept = Vec::new();
        for _ in 0..TOUCH_MIB {
            let mut piece = Vec::<u8>::new();
            if piece.try_reserve_exact(MIB).is_err() {
                spawn::exit(0);
            }
            piece.resize(MIB, 0);
            for page in piece.chunks_mut(PAGE) {
                if let Some(byte) = page.first_mut() {
                    *byte = 1;
                }
            }
            kept.push(piece);
            if writer.write_all(b"m").is_err() {
                break;
            }
        }
        spawn::exit(0)
    }
    drop(writer);
    let mut bytes = Vec::new();
    let _ = reader.read_to_end(&mut bytes);
    let mut status = 0;
    // SAFETY: waits for the child above; the status is an int of ours.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    let killed =
        waited == pid && libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
    (u32::try_from(bytes.len()).unwrap_or(u32::MAX), killed)
}

/// Spins on several threads: CPU time that they got, and the time that went by, in microseconds.
fn spin() -> (u64, u64) {
    let begin = Instant::now();
    let before = cpu_time();
    std::thread::scope(|scope| {
        for _ in 0..SPINNERS {
            let turn = move || {
                while begin.elapsed() < SPIN {
                    std::hint::spin_loop();
                }
            };
            // With fewer threads, less is asked of the CPUs.
            let _ = std::thread::Builder::new().spawn_scoped(scope, turn);
        }
    });
    let used = cpu_time().saturating_sub(before);
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    (micros(used), micros(begin.elapsed()))
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_last_that_was_mounted_there() {
        let text = "1 0 0:1 / / rw - rootfs rootfs rw\n\
                    2 1 0:5 / /proc rw - proc proc rw\n\
                    3 1 0:2 / / rw,relatime shared:1 - overlay o rw\n";
        assert_eq!(disk_type(text), "overlay");
        assert_eq!(disk_type(""), "");
    }

    #[test]
    fn spinning_takes_cpu_time() {
        let (used, wall) = spin();
        assert!(used > 0 && wall >= 500_000);
    }
}
