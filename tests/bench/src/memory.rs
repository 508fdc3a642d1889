//! Private memory of the VMM and the supervisor above guest RAM, with a busybox VM idle.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::table::{Table, median};

/// A mapping of at least this many KiB is guest RAM: nothing else of ours comes near.
const GUEST_RAM_KIB: u64 = 64 << 10;

/// Starts an idle container, sums up its processes, ends it.
pub fn measure(host: &Host, table: &mut Table) -> Result<()> {
    let mut together = Vec::new();
    let mut parts = String::new();
    for _ in 0..host.runs.min(3) {
        let mut child = host
            .command(&["run", "--rm", "-i", "busybox", "sh", "-c", "echo up; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start an idle container")?;
        let mut up = [0; 3];
        child
            .stdout
            .as_mut()
            .context("no stdout")?
            .read_exact(&mut up)?;
        let vmm = private_kib("__vmm")?;
        let supervisor = private_kib("__supervisor")?;
        together.push(kib_to_mib(vmm + supervisor));
        parts = format!(
            "last run: VMM {:.2}, supervisor {:.2}",
            kib_to_mib(vmm),
            kib_to_mib(supervisor)
        );
        drop(child.stdin.take());
        child.wait()?;
    }
    table.add(
        "private memory of VMM and supervisor above guest RAM",
        format!("{:.2} MiB", median(&together)),
        "at most 5 MiB",
        &format!("private pages in /proc/PID/smaps; {parts}"),
    );
    Ok(())
}

fn kib_to_mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

/// Private KiB of the process whose first argument is `verb`, without guest RAM.
fn private_kib(verb: &str) -> Result<u64> {
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(cmdline) = fs::read(path.join("cmdline")) else {
            continue;
        };
        if cmdline.split(|byte| *byte == 0).nth(1) == Some(verb.as_bytes()) {
            let smaps = fs::read_to_string(path.join("smaps"))?;
            return Ok(sum_private(&smaps));
        }
    }
    anyhow::bail!("no process {verb}")
}

/// Sums `Private_Clean` and `Private_Dirty` of every mapping smaller than guest RAM.
fn sum_private(smaps: &str) -> u64 {
    let (mut sum, mut size) = (0, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (
            words.next(),
            words.next().and_then(|v| v.parse::<u64>().ok()),
        );
        match (name, value) {
            (Some("Size:"), Some(kib)) => size = kib,
            (Some("Private_Clean:" | "Private_Dirty:"), Some(kib)) if size < GUEST_RAM_KIB => {
                sum += kib;
            }
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_ram_does_not_count() {
        let smaps = "a-b rw-p\nSize: 100 kB\nPrivate_Clean: 4 kB\nPrivate_Dirty: 8 kB\n\
            c-d rw-p\nSize: 1048576 kB\nPrivate_Dirty: 50000 kB\n";
        assert_eq!(sum_private(smaps), 12);
    }
}
