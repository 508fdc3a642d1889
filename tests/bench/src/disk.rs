//! Converting the Debian layer against GNU tar unpacking it, and reading the root disk in the
//! guest against reading the same bytes on the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::{Host, time};
use crate::table::{Table, median, ratio, spread};

/// Measures both and adds the rows.
pub fn measure(host: &Host, debian: &Path, table: &mut Table) -> Result<()> {
    host.load(debian)?;
    convert(host, table)?;
    read(host, table)
}

fn convert(host: &Host, table: &mut Table) -> Result<()> {
    let layer = largest(&host.scratch().join("state/images/blobs/sha256"))?;
    let layers = host.scratch().join("state/images/layers");
    let unpacked = host.scratch().join("unpacked");
    let (mut ours, mut tar) = (Vec::new(), Vec::new());
    for _ in 0..host.runs.min(3) {
        let _ = fs::remove_dir_all(&layers);
        let first = time(&mut host.command(&["run", "--rm", "debian:12", "true"]))?;
        let second = time(&mut host.command(&["run", "--rm", "debian:12", "true"]))?;
        ours.push(first - second);
        let _ = fs::remove_dir_all(&unpacked);
        fs::create_dir(&unpacked)?;
        tar.push(time(
            Command::new("tar")
                .arg("-xf")
                .arg(&layer)
                .arg("-C")
                .arg(&unpacked),
        )?);
    }
    let _ = fs::remove_dir_all(&unpacked);
    table.add(
        "convert the Debian layer",
        spread(&ours, "s"),
        "",
        "first run less a cached run",
    );
    table.add(
        "GNU tar, same layer",
        spread(&tar, "s"),
        "",
        "tar -xf on the same disk, not synced",
    );
    table.add(
        "ratio to GNU tar",
        format!("{:.2}", ratio(&ours, &tar)),
        "at most 2.5",
        "median of pairs",
    );
    Ok(())
}

fn read(host: &Host, table: &mut Table) -> Result<()> {
    let disk = largest(&host.scratch().join("state/images/layers"))?;
    let bytes = fs::metadata(&disk)?.len();
    let script = "t0=$(date +%s%N); find /usr -xdev -type f -exec cat {} + > /dev/null; \
        t1=$(date +%s%N); du -sb --apparent-size /usr | cut -f1; echo $((t1-t0))";
    let (mut guest, mut direct) = (Vec::new(), Vec::new());
    for _ in 0..host.runs.min(3) {
        let text = host.output(&["run", "--rm", "debian:12", "sh", "-c", script])?;
        let numbers: Vec<f64> = text
            .split_whitespace()
            .filter_map(|w| w.parse().ok())
            .collect();
        let [size, nanos] = numbers.as_slice() else {
            bail!("unexpected output {text:?}")
        };
        guest.push(size / nanos * 1e9 / 1_048_576.0);
        let seconds = time(Command::new("cat").arg(&disk))?;
        direct.push(f64::from(u32::try_from(bytes >> 10)?) / 1024.0 / seconds);
    }
    table.add(
        "read every file of /usr in the guest",
        spread(&guest, "MiB/s"),
        "",
        "cold guest cache, warm host cache",
    );
    table.add(
        "read the layer disk on the host",
        spread(&direct, "MiB/s"),
        "",
        "cat, warm cache",
    );
    table.add(
        "guest to host",
        format!("{:.2}", median(&guest) / median(&direct)),
        "",
        "ratio of medians",
    );
    Ok(())
}

/// The largest file in a folder: the Debian layer among a busybox and some JSON.
fn largest(folder: &Path) -> Result<PathBuf> {
    let mut best: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let len = entry.metadata()?.len();
        if entry.file_type()?.is_file() && best.as_ref().is_none_or(|(most, _)| len > *most) {
            best = Some((len, entry.path()));
        }
    }
    Ok(best
        .with_context(|| format!("{} is empty", folder.display()))?
        .1)
}
