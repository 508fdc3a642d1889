//! What the container uses: its control group's counters, and those of the network interfaces.
//!
//! Called by [`super`] in a child. Files: Linux admin-guide/cgroup-v2.rst, proc(5).

use std::os::fd::{AsFd, BorrowedFd};

use protocol::task::Usage;
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::MountAttrFlags;
use rustix::system::sysinfo;

use crate::cgroup::{counter, read as read_file};
use crate::failure::{Context, Failure};
use crate::mount::Setup;
use crate::network::INTERFACE;
use crate::spawn::boottime_ns;

/// Bytes of `/proc/net/dev` that are read: more interfaces than a container has.
const NET_DEV_MAX: usize = 16 << 10;

/// Reads them.
///
/// # Errors
/// What reading the group's files says.
pub fn read(cgroup: BorrowedFd<'_>) -> Result<Usage, Failure> {
    let file = |name: &str| read_file(cgroup, name).context(|| format!("read {name}"));
    let memory = number(&file("memory.current")?);
    let inactive = counter(&file("memory.stat")?, "inactive_file");
    let info = sysinfo();
    let total = info.totalram.saturating_mul(info.mem_unit.into());
    let io = file("io.stat").unwrap_or_default();
    let (received_bytes, sent_bytes) = traffic(&net_dev().unwrap_or_default());
    Ok(Usage {
        boottime_ns: boottime_ns(),
        cpu_us: counter(&file("cpu.stat")?, "usage_usec"),
        memory_bytes: memory.saturating_sub(inactive),
        // Without a limit it says "max".
        memory_limit_bytes: match number(&file("memory.max")?) {
            0 => total,
            limit => limit.min(total),
        },
        pids: number(&file("pids.current")?),
        read_bytes: sum(&io, "rbytes="),
        written_bytes: sum(&io, "wbytes="),
        received_bytes,
        sent_bytes,
    })
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The sum of all words that begin with `key`.
fn sum(text: &str, key: &str) -> u64 {
    text.split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(key))
        .map(number)
        .fold(0, u64::saturating_add)
}

fn net_dev() -> Result<String, Failure> {
    let proc = Setup::new("proc", "proc")?.create(MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let about = || "read /proc/net/dev".to_owned();
    let file = openat(proc.as_fd(), "net/dev", flags, Mode::empty()).context(about)?;
    let mut bytes = vec![0; NET_DEV_MAX];
    let len = rustix::io::read(&file, &mut *bytes).context(about)?;
    bytes.truncate(len);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Bytes received and sent on the container's card. What it made itself, such as bridges, would count them
/// again.
fn traffic(net_dev: &str) -> (u64, u64) {
    let mut total = (0_u64, 0_u64);
    for line in net_dev.lines() {
        if let Some((name, counters)) = line.split_once(':')
            && name.trim() == INTERFACE
        {
            let counters: Vec<u64> = counters.split_ascii_whitespace().map(number).collect();
            let at = |index: usize| counters.get(index).copied().unwrap_or(0);
            total.0 = total.0.saturating_add(at(0));
            total.1 = total.1.saturating_add(at(8));
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed() {
        let io = "254:16 rbytes=10 wbytes=5 rios=1\n254:0 rbytes=32 wbytes=0\n";
        assert_eq!((sum(io, "rbytes="), sum(io, "wbytes=")), (42, 5));
        assert_eq!(sum("", "rbytes="), 0);
        let net = "Inter-|   Receive\n face |bytes    packets\n    lo: 9 1 0 0 0 0 0 0 9 1\n  \
                   eth0: 100 1 0 0 0 0 0 0 200 2 0\n  docker0:1 1 0 0 0 0 0 0 2 2 0\n";
        assert_eq!(traffic(net), (100, 200));
        assert_eq!((number("max\n"), number("17\n")), (0, 17));
    }
}
