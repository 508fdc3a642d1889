//! One side: runs the probe through this command and measures it from outside.
//!
//! ```text
//! spawn ─► "bulkhead-probe 1" ─► cost of memory and disk ─► "go" ─► report ─► (panic of another) ─► end
//!   └─ start time ─┘
//! ```
//! What the probe says is a stranger's: lines are bounded, and a report is what [`Report::parse`] takes.

use std::collections::BTreeMap;
use std::fs;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use images::Store;
use protocol::probe::{READY, REPORT_BYTES_MAX, Report};
use serde::Serialize;

use super::PROBE_VERB;
use crate::sandbox::paths::{self, Root};
use crate::sandbox::plain;
use crate::sandbox::program;

/// Longest time until the probe answers: an image is pulled and unpacked before, a kernel boots.
const READY_TIMEOUT: Duration = Duration::from_secs(600);

/// Longest time of a report: a command of 10 s, two quotas, some hundred system calls, on an emulated
/// host.
const REPORT_TIMEOUT: Duration = Duration::from_secs(120);

/// Longest time to an end that was asked for.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Lines that are kept before anybody asks for them.
const LINES_AHEAD: usize = 4;

/// Bytes of what the command says on standard error.
const WORDS_MAX: u64 = 16 << 10;

/// Bytes of a Linux process's report of its memory.
const ROLLUP_MAX: u64 = 16 << 10;

/// What is run.
pub struct Wanted<'a> {
    /// `--isolation`.
    pub isolation: &'static str,
    /// Flags of the limits.
    pub limits: &'a [&'a str],
    /// The image.
    pub image: &'a str,
    /// The command, if any.
    pub command: &'a [String],
}

/// One side's measurements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// Milliseconds from the command's start to the first line of the process.
    pub start_ms: u64,
    /// Memory of all processes on the host that exist for it alone, in bytes (PSS).
    pub memory_bytes: u64,
    /// How many these are.
    pub processes: usize,
    /// How many of them nobody but root may look into: their memory is not in the sum.
    pub unread: usize,
    /// Disk that all containers of the image share, in bytes.
    pub disk_shared_bytes: u64,
    /// Disk of this container alone, in bytes.
    pub disk_own_bytes: u64,
    /// What a panic of the workload's kernel did.
    pub panic: Option<Panic>,
    /// What the probe said.
    pub report: Report,
}

/// What a kernel panic did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Panic {
    /// What the command said of it.
    pub words: String,
    /// Its exit code.
    pub code: i32,
    /// Whether the other VM's process still answered afterwards.
    pub other_lives: bool,
}

/// Runs and measures one side.
///
/// # Errors
/// It can't be run, or its probe says nothing that is a report.
pub fn measure(wanted: &Wanted, with_panic: bool) -> Result<Measured> {
    // Nobody else's, whatever the umask.
    let scratch = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .context("create a scratch folder")?;
    let id_file = scratch.path().join("id");
    // What is pulled and unpacked is so once; it is no part of a start.
    Side::start(wanted, "report", None)?.end()?;
    let begin = Instant::now();
    let mut side = Side::start(wanted, "report", Some(&id_file))?;
    side.expect_ready()?;
    let start_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let memory = memory_below(side.child.id());
    let (disk_shared_bytes, disk_own_bytes) = disk(wanted, &id_file)?;
    side.say("go")?;
    let line = side.line(REPORT_TIMEOUT)?;
    let report = Report::parse(line.as_bytes())?;
    let panic = match with_panic {
        true => Some(panic(wanted, &mut side)?),
        false => None,
    };
    side.end()?;
    Ok(Measured {
        start_ms,
        memory_bytes: memory.iter().flatten().sum(),
        processes: memory.len(),
        unread: memory.iter().filter(|bytes| bytes.is_none()).count(),
        disk_shared_bytes,
        disk_own_bytes,
        panic,
        report,
    })
}

/// Lets another VM's kernel panic while `side` runs.
fn panic(wanted: &Wanted, side: &mut Side) -> Result<Panic> {
    let mut other = Side::start(wanted, "panic", None)?;
    let code = other.wait(READY_TIMEOUT)?;
    let words = other.words();
    let other_lives = side.say("still there?").is_ok() && side.line(END_TIMEOUT).is_ok();
    Ok(Panic {
        words,
        code,
        other_lives,
    })
}

/// A command that runs a probe. Dropped, it is killed: its container goes with it.
struct Side {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    words: Option<std::thread::JoinHandle<String>>,
}

impl Side {
    fn start(wanted: &Wanted, mode: &str, id_file: Option<&Path>) -> Result<Self> {
        let mut command = Command::new(program::own()?);
        command
            .args([
                PROBE_VERB,
                mode,
                "--rm",
                "-i",
                "--no-healthcheck",
                "--isolation",
            ])
            .arg(wanted.isolation)
            .args(wanted.limits);
        if let Some(path) = id_file {
            command.arg("--cidfile").arg(path);
        }
        let mut child = command
            .arg(wanted.image)
            .args(wanted.command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start this command again")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("take the output")?;
        let stderr = child.stderr.take().context("take the output")?;
        let (sender, lines) = sync_channel(LINES_AHEAD);
        std::thread::Builder::new()
            .name("probe".to_owned())
            .spawn(move || {
                let mut stdout = BufReader::new(stdout);
                // One line more than a report may have, so that a longer one is seen to be.
                let limit = u64::try_from(REPORT_BYTES_MAX + 2).unwrap_or(u64::MAX);
                let mut line = Vec::new();
                while (&mut stdout)
                    .take(limit)
                    .read_until(b'\n', &mut line)
                    .is_ok_and(|len| len > 0)
                {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    line.clear();
                    if sender.send(text).is_err() {
                        return;
                    }
                }
            })
            .context("start the thread probe")?;
        let words = std::thread::Builder::new()
            .name("words".to_owned())
            .spawn(move || {
                let mut bytes = Vec::new();
                let mut stderr = stderr;
                let _ = (&mut stderr).take(WORDS_MAX).read_to_end(&mut bytes);
                // The rest is read so that nobody waits to be.
                let _ = std::io::copy(&mut stderr, &mut std::io::sink());
                String::from_utf8_lossy(&bytes).into_owned()
            })
            .context("start the thread words")?;
        Ok(Self {
            child,
            stdin,
            lines,
            words: Some(words),
        })
    }

    fn expect_ready(&mut self) -> Result<()> {
        match self.line(READY_TIMEOUT)?.as_str() {
            READY => Ok(()),
            _ => bail!("what runs in place of the probe says something else"),
        }
    }

    fn say(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the input is closed")?;
        writeln!(stdin, "{text}").context("speak to the probe")
    }

    fn line(&mut self, timeout: Duration) -> Result<String> {
        match self.lines.recv_timeout(timeout) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the probe says nothing for {} s", timeout.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.wait(END_TIMEOUT)?;
                match self.words() {
                    words if words.is_empty() => bail!("the probe ended without a word"),
                    words => bail!("{words}"),
                }
            }
        }
    }

    /// What the command said, without its name and without hints.
    fn words(&mut self) -> String {
        let text = self.words.take().and_then(|words| words.join().ok());
        let text = text.unwrap_or_default();
        let said: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("bulkhead: "))
            .collect();
        said.join("; ")
    }

    /// Waits for the end: the exit code.
    fn wait(&mut self, timeout: Duration) -> Result<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("wait for the command")? {
                return Ok(status.code().unwrap_or(-1));
            }
            if begin.elapsed() > timeout {
                bail!("the command did not end in {} s", timeout.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the probe by ending its input.
    fn end(mut self) -> Result<()> {
        self.stdin = None;
        let code = self.wait(READY_TIMEOUT)?;
        if code != 0 {
            match self.words() {
                words if words.is_empty() => bail!("the probe ended with code {code}"),
                words => bail!("{words}"),
            }
        }
        Ok(())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Memory of all processes below `pid`, itself included: proportional set sizes in bytes, as far as this
/// user may know them.
fn memory_below(pid: u32) -> Vec<Option<u64>> {
    let mut parents: BTreeMap<u32, u32> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // Behind the name, which may hold anything: state, parent.
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1));
        if let Some(parent) = parent.and_then(|text| text.parse().ok()) {
            parents.insert(child, parent);
        }
    }
    let mut mine = vec![pid];
    let mut at = 0;
    while let Some(parent) = mine.get(at).copied() {
        at += 1;
        mine.extend(
            parents
                .iter()
                .filter(|(_, of)| **of == parent)
                .map(|(child, _)| *child),
        );
    }
    mine.into_iter().map(proportional_bytes).collect()
}

fn proportional_bytes(pid: u32) -> Option<u64> {
    let mut text = String::new();
    let _ = fs::File::open(format!("/proc/{pid}/smaps_rollup"))
        .and_then(|file| file.take(ROLLUP_MAX).read_to_string(&mut text));
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    kib.map(|kib| kib.saturating_mul(1024))
}

/// Disk of the image, and of this container alone.
fn disk(wanted: &Wanted, id_file: &Path) -> Result<(u64, u64)> {
    let root = Root::of_user()?;
    let id = fs::read_to_string(id_file).context("read the container's id")?;
    let store = Store::open(&root.images())?;
    let image = store.resolve(wanted.image)?;
    if wanted.isolation == "container" {
        let folder = root.containers().join(id);
        return Ok((plain::space(&root, &image), paths::space_below(&folder)));
    }
    let disks = store.layer_disks()?;
    let mut shared: u64 = 0;
    for layer in &image.layers {
        if let Some(disk) = disks.get(&layer.key())? {
            shared = shared.saturating_add(disk.len);
        }
    }
    Ok((shared, paths::space_below(&root.containers().join(id))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_of_a_process_and_those_below() {
        let memory = memory_below(std::process::id());
        assert!(memory.first().copied().flatten() > Some(1 << 20));
        assert_eq!(proportional_bytes(u32::MAX), None);
    }
}
