//! Pushing and pulling next to skopeo, against docker-registry on the same machine.
//!
//! Each measurement has a registry and caches of its own, so that nothing is there before and nothing is
//! mounted from elsewhere. What skopeo reads and writes is an OCI layout in a folder, the nearest thing
//! to our store that it has.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use harness::registry::{Access, Registry};

use crate::host::{Host, time};
use crate::table::{Table, median, ratio, spread};

/// Bytes of the layer that is stored plain.
const PLAIN_BYTES: usize = 128 << 20;

/// Decimal, as disks and networks count.
const MB: f64 = 1e6;

/// Measures and adds the rows.
pub fn measure(host: &Host, debian: &Path, table: &mut Table) -> Result<()> {
    let archive = debian.to_str().context("archive path is not UTF-8")?;
    let loaded = host.output(&["load", "-i", archive])?;
    let name = loaded.trim().rsplit(' ').next().unwrap_or_default();
    host.output(&["tag", name, "compressed:1"])?;
    let tar = host.scratch().join("plain.tar");
    make_plain(&tar)?;
    let tar = tar.to_str().context("a path is not UTF-8")?;
    host.output(&["import", tar, "plain:1"])?;
    for (image, what) in [
        ("compressed:1", "a compressed layer"),
        ("plain:1", "a plain layer, compressed on the way"),
    ] {
        measure_image(host, image, what, table)?;
    }
    Ok(())
}

/// Seconds of one run each.
#[derive(Default)]
struct Times {
    push: Vec<f64>,
    again: Vec<f64>,
    pull: Vec<f64>,
}

fn measure_image(host: &Host, image: &str, what: &str, table: &mut Table) -> Result<()> {
    let layout = layout(host, image)?;
    let bytes = folder_bytes(&layout.join("blobs/sha256"))?;
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for number in 0..=host.runs {
        let own = measure_own(host, image)?;
        let skopeo = measure_skopeo(host, &layout)?;
        // The first of each is for the caches.
        if number == 0 {
            continue;
        }
        for (times, [push, again, pull]) in [(&mut ours, own), (&mut theirs, skopeo)] {
            times.push.push(push);
            times.again.push(again);
            times.pull.push(pull);
        }
    }
    let how = format!("{:.0} MB stored, {} runs in turn", bytes / MB, host.runs);
    let rate = |seconds: &[f64]| {
        let rates: Vec<f64> = seconds.iter().map(|seconds| bytes / MB / seconds).collect();
        spread(&rates, "MB/s")
    };
    for (verb, own, skopeo) in [
        ("push", &ours.push, &theirs.push),
        ("pull", &ours.pull, &theirs.pull),
    ] {
        table.add(&format!("`{verb}` of {what}"), rate(own), "", &how);
        table.add(&format!("`skopeo copy`, {verb}"), rate(skopeo), "", &how);
        table.add(
            "time to skopeo's",
            format!("{:.2}", ratio(own, skopeo)),
            "",
            "median of pairs",
        );
    }
    table.add(
        &format!("second `push` of {what}"),
        spread(&ours.again, "s"),
        "",
        "nothing is sent",
    );
    table.add(
        "`skopeo copy` once more",
        spread(&theirs.again, "s"),
        "",
        &format!(
            "ratio of medians {:.2}",
            median(&ours.again) / median(&theirs.again)
        ),
    );
    fs::remove_dir_all(&layout).context("remove a layout")
}

/// Push, push again, pull: seconds.
fn measure_own(host: &Host, image: &str) -> Result<[f64; 3]> {
    let registry = Registry::start(Access::Open)?;
    let name = registry.name("bench:1");
    host.output(&["tag", image, &name])?;
    let push = time(&mut host.command(&["push", &name]))?;
    let again = time(&mut host.command(&["push", &name]))?;
    host.output(&["rmi", &name])?;
    let root = host.scratch().join("pulled");
    let pull = time(host.command(&["pull", &name]).env("BULKHEAD_ROOT", &root))?;
    fs::remove_dir_all(&root).context("remove what was pulled")?;
    Ok([push, again, pull])
}

fn measure_skopeo(host: &Host, layout: &Path) -> Result<[f64; 3]> {
    let registry = Registry::start(Access::Open)?;
    // Where it keeps what it knows of registries.
    let home = host.scratch().join("skopeo");
    let copied = host.scratch().join("copied");
    fs::create_dir(&home).context("create a folder")?;
    let remote = format!("docker://{}", registry.name("bench:1"));
    let copy = |from: &str, to: &str| {
        let mut command = Command::new("skopeo");
        command
            .args(["--insecure-policy", "copy", "--quiet"])
            .args(["--src-tls-verify=false", "--dest-tls-verify=false"])
            .args([from, to])
            .env("HOME", &home)
            .stdin(Stdio::null());
        time(&mut command)
    };
    let local = format!("oci:{}", layout.display());
    let push = copy(&local, &remote)?;
    let again = copy(&local, &remote)?;
    let pull = copy(&remote, &format!("oci:{}:1", copied.display()))?;
    fs::remove_dir_all(&home).context("remove a folder")?;
    fs::remove_dir_all(&copied).context("remove what was copied")?;
    Ok([push, again, pull])
}

/// The image as an OCI layout in a folder.
fn layout(host: &Host, image: &str) -> Result<PathBuf> {
    let folder = host.scratch().join("layout");
    fs::create_dir(&folder).context("create a layout")?;
    let archive = host.scratch().join("saved.tar");
    let path = archive.to_str().context("a path is not UTF-8")?;
    host.output(&["save", "-o", path, image])?;
    let status = Command::new("tar")
        .arg("-xf")
        .arg(&archive)
        .arg("-C")
        .arg(&folder)
        .status()
        .context("run tar")?;
    fs::remove_file(&archive).context("remove an archive")?;
    if !status.success() {
        bail!("tar: {status}");
    }
    Ok(folder)
}

fn folder_bytes(folder: &Path) -> Result<f64> {
    let mut bytes = 0_u64;
    for entry in fs::read_dir(folder).context("read a folder")? {
        bytes += entry.context("read a folder")?.metadata()?.len();
    }
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    Ok(bytes as f64)
}

/// A tar of one file, half of it noise and half of it text, which compress as programs do together.
fn make_plain(path: &Path) -> Result<()> {
    let folder = path.with_extension("d");
    fs::create_dir(&folder).context("create a folder")?;
    let mut file = File::create(folder.join("data")).context("create a file")?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(64 << 10);
    for number in 0..PLAIN_BYTES / (64 << 10) {
        block.clear();
        while block.len() < 32 << 10 {
            // xorshift64: the same noise each time.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        while block.len() < 64 << 10 {
            let line = format!("line {} of block {number}\n", block.len());
            block.extend_from_slice(line.as_bytes());
        }
        block.truncate(64 << 10);
        file.write_all(&block).context("write a file")?;
    }
    let status = Command::new("tar")
        .arg("-cf")
        .arg(path)
        .arg("-C")
        .arg(&folder)
        .arg("data")
        .status()
        .context("run tar")?;
    if !status.success() {
        bail!("tar: {status}");
    }
    fs::remove_dir_all(&folder).context("remove a folder")
}
