//! Processes of one copy of the command, found by the file they execute: whatever they call
//! themselves, whoever their parent is. `Sandbox` and the leftover search use it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, kill_process};

use crate::invocation::pid;
use crate::{PATIENCE, POLL_INTERVAL};

/// So often a process is asked for arguments that it does not have yet.
const EXECUTION_POLLS: u32 = 100;

/// A process that executes the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub id: u32,
    /// Its parent's id.
    pub parent: u32,
    /// Its arguments after the first.
    pub arguments: Vec<String>,
}

impl Process {
    /// Whether its first argument is this hidden verb.
    #[must_use]
    pub fn has_verb(&self, verb: &str) -> bool {
        self.arguments.first().is_some_and(|first| first == verb)
    }

    /// Ends it at once.
    ///
    /// # Errors
    ///
    /// It may not be signalled. That it is gone already is fine.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// It may not be signalled. That it is gone already is fine.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match kill_process(pid(self.id)?, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("send {signal:?} to {self:?}")),
        }
    }
}

/// All processes that execute `program`.
///
/// # Errors
///
/// `program` is not there, or `/proc` can't be read.
pub fn executing(program: &Path) -> Result<Vec<Process>> {
    let wanted = identity(program).with_context(|| format!("look at {}", program.display()))?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("read /proc")? {
        let folder = entry.context("read /proc")?.path();
        let id = folder
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let Some(id) = id else {
            continue;
        };
        // Processes end while we look, and others' may not be looked at.
        if identity(&folder.join("exe")).ok() != Some(wanted) {
            continue;
        }
        let arguments = command_line(&folder);
        // Each ends with a zero byte.
        let arguments = arguments
            .strip_suffix(b"\0")
            .unwrap_or_default()
            .split(|byte| *byte == 0)
            .skip(1)
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect();
        let parent = parent(&folder).unwrap_or_default();
        found.push(Process {
            id,
            parent,
            arguments,
        });
    }
    Ok(found)
}

/// A process that executes a file is known by it before its arguments are there.
fn command_line(folder: &Path) -> Vec<u8> {
    for _ in 0..EXECUTION_POLLS {
        match fs::read(folder.join("cmdline")) {
            Ok(arguments) if arguments.is_empty() => std::thread::sleep(POLL_INTERVAL / 4),
            Ok(arguments) => return arguments,
            // It has ended.
            Err(_) => break,
        }
    }
    Vec::new()
}

/// All processes that execute something, with what it is: not the kernel's own, nor those that have ended.
///
/// # Errors
///
/// `/proc` can't be read.
pub fn all() -> Result<BTreeMap<u32, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("read /proc")? {
        let folder = entry.context("read /proc")?.path();
        let name = folder.file_name().and_then(|name| name.to_str());
        if let Some(id) = name.and_then(|name| name.parse().ok())
            && let Ok(program) = fs::read_link(folder.join("exe"))
        {
            found.insert(id, program);
        }
    }
    Ok(found)
}

/// The second field after the name, which may hold anything (proc(5)).
fn parent(folder: &Path) -> Option<u32> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(1)?.parse().ok()
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Waits until `wanted` finds something among the processes that execute `program`.
///
/// # Errors
///
/// It never does; the message lists what there was.
pub fn wait_until<T>(
    program: &Path,
    what: &str,
    wanted: impl Fn(&[Process]) -> Option<T>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        let processes = executing(program)?;
        if let Some(found) = wanted(&processes) {
            return Ok(found);
        }
        if begun.elapsed() > PATIENCE {
            bail!("waited in vain for {what}; there are {processes:?}");
        }
        std::thread::sleep(POLL_INTERVAL / 4);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn processes_are_found_by_their_file_and_killed() {
        let folder = tempfile::tempdir().expect("tempdir");
        let program = folder.path().join("own-sleep");
        fs::copy("/bin/sleep", &program).expect("copy");
        assert_eq!(executing(&program).expect("look"), []);
        let mut child = Command::new(&program).arg("1000").spawn().expect("spawn");
        let process =
            wait_until(&program, "a sleeper", |found| found.first().cloned()).expect("found");
        assert_eq!(process.id, child.id());
        assert_eq!(all().expect("look").get(&child.id()), Some(&program));
        assert_eq!(process.parent, std::process::id());
        assert!(process.has_verb("1000"));
        process.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(executing(&program).expect("look"), []);
        assert_eq!(all().expect("look").get(&child.id()), None);
        process.kill().expect("gone is fine");
    }
}
