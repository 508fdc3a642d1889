//! Private memory of the VMM and the supervisor above guest RAM, with a busybox VM idle.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::table::{Table, median};

/// Among the flags of a mapping: not in core dumps, which is how the VMM marks guest RAM.
const NOT_DUMPED: &str = "dd";

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
        // It may still be on its way.
        let launcher = private_kib("__launcher").unwrap_or(0);
        let supervisor = private_kib("__supervisor")? + launcher;
        together.push(kib_to_mib(vmm + supervisor));
        parts = format!(
            "last run: VMM {:.2}, supervisor and launcher {:.2}",
            kib_to_mib(vmm),
            kib_to_mib(supervisor)
        );
        drop(child.stdin.take());
        child.wait()?;
    }
    table.add(
        "private memory of VMM, supervisor and launcher above guest RAM",
        format!("{:.2} MiB", median(&together)),
        "at most 5 MiB",
        &format!("private pages in /proc/PID/smaps; {parts}"),
    );
    Ok(())
}

/// Kibibytes as mebibytes.
pub fn kib_to_mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

/// Private KiB of the processes whose first argument is `verb`, without guest RAM.
pub fn private_kib(verb: &str) -> Result<u64> {
    let mut sum = None;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(cmdline) = fs::read(path.join("cmdline")) else {
            continue;
        };
        if cmdline.split(|byte| *byte == 0).nth(1) == Some(verb.as_bytes()) {
            let smaps = fs::read_to_string(path.join("smaps"))?;
            sum = Some(sum.unwrap_or(0) + sum_private(&smaps));
        }
    }
    sum.with_context(|| format!("no process {verb}"))
}

/// Sums `Private_Clean` and `Private_Dirty` of every mapping that is not guest RAM.
fn sum_private(smaps: &str) -> u64 {
    let (mut sum, mut private) = (0, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Private_Clean:" | "Private_Dirty:") => {
                private += words
                    .next()
                    .and_then(|v| v.parse::<u64>().ok())
                    .unwrap_or(0);
            }
            // The last line of each mapping.
            Some("VmFlags:") => {
                let private = std::mem::take(&mut private);
                if !words.any(|flag| flag == NOT_DUMPED) {
                    sum += private;
                }
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
            VmFlags: rd wr mr mw me ac\n\
            c-d rw-p\nSize: 2048 kB\nPrivate_Dirty: 500 kB\nVmFlags: rd wr dd hg\n\
            e-f rw-p\nPrivate_Dirty: 1 kB\nVmFlags: rd wr\n";
        assert_eq!(sum_private(smaps), 13);
    }
}
