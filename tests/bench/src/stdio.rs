//! Bytes through stdin and stdout of a container, per second.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::table::{Table, spread};

/// MiB sent each way: some seconds in an emulated host.
const MIB: usize = 64;

/// Measures both directions from the first byte to the last.
pub fn measure(host: &Host, table: &mut Table) -> Result<()> {
    let (mut inward, mut outward) = (Vec::new(), Vec::new());
    for _ in 0..host.runs.min(3) {
        inward.push(into(host)?);
        outward.push(out_of(host)?);
    }
    let how = format!("{MIB} MiB, first byte to last");
    table.add(
        "stdin, host to container",
        spread(&inward, "MiB/s"),
        "",
        &how,
    );
    table.add(
        "stdout, container to host",
        spread(&outward, "MiB/s"),
        "",
        &how,
    );
    Ok(())
}

fn rate(seconds: f64) -> f64 {
    f64::from(u32::try_from(MIB).unwrap_or(u32::MAX)) / seconds
}

fn into(host: &Host) -> Result<f64> {
    let script = "echo up; cat > /dev/null; echo done";
    let mut child = host
        .command(&["run", "--rm", "-i", "busybox", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let mut stdout = child.stdout.take().context("no stdout")?;
    stdout.read_exact(&mut [0; 3])?;
    let start = Instant::now();
    let block = vec![0x5a; 1 << 20];
    for _ in 0..MIB {
        stdin.write_all(&block)?;
    }
    drop(stdin);
    stdout.read_exact(&mut [0; 5])?;
    let seconds = start.elapsed().as_secs_f64();
    child.wait()?;
    Ok(rate(seconds))
}

fn out_of(host: &Host) -> Result<f64> {
    let count = format!("dd if=/dev/zero bs=1M count={MIB} 2>/dev/null");
    let mut child = host
        .command(&["run", "--rm", "busybox", "sh", "-c", &count])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = child.stdout.take().context("no stdout")?;
    stdout.read_exact(&mut [0; 1])?;
    let start = Instant::now();
    std::io::copy(&mut stdout, &mut std::io::sink())?;
    let seconds = start.elapsed().as_secs_f64();
    child.wait()?;
    Ok(rate(seconds))
}
