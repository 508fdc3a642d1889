//! Whether this host can run VMs, and why not: findings, each with a hint. `cli/doctor` prints all of
//! them; the verbs that start VMs (`run`, `start`, `build` …) ask [`can_run`] before they do anything, so
//! that they end at once on a host that can't, and `info` shows what it says.
//!
//! Probes read files below a root folder and judge what they find, so that tests fake a host by a
//! folder. It knows no container and prints nothing.

mod guest;
mod host;
mod jail;
mod kvm;
mod network;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest file of the kernel's that is read, in bytes: /proc/cpuinfo of the largest hosts.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// VMs run; something could be better.
    Warn,
    /// No VM can run.
    Fail,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do; none when nothing is to be done.
    pub hint: Option<String>,
}

impl Finding {
    fn ok(text: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            text: text.into(),
            hint: None,
        }
    }

    fn warn(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            text: text.into(),
            hint: Some(hint.into()),
        }
    }

    fn fail(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            text: text.into(),
            hint: Some(hint.into()),
        }
    }
}

/// Why no VM can run here.
#[derive(Debug, thiserror::Error)]
#[error("this host can't run VMs: {text}")]
pub struct Reason {
    text: String,
    /// What to do.
    pub hint: String,
}

/// A host by the folder that its root file system is in.
#[derive(Debug, Clone)]
struct Host(PathBuf);

impl Host {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// A file without the blanks around it; empty when it can't be read, as where a kernel does
    /// not have it.
    fn read(&self, path: &str) -> String {
        let mut text = String::new();
        let read = File::open(self.path(path))
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
        match read {
            Ok(_) => text.trim().to_owned(),
            Err(_) => String::new(),
        }
    }

    /// Names in a folder, sorted.
    fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path(path))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

/// What decides whether a VM can run, most basic first.
fn decisive(host: &Host) -> Vec<Finding> {
    // Whoever can't read it finds nothing else.
    if host.read("proc/cpuinfo").is_empty() {
        return vec![Finding::fail(
            "/proc is not mounted, or /proc/cpuinfo can't be read",
            "mount it: `mount -t proc proc /proc`",
        )];
    }
    let cpu = kvm::cpu(host);
    let device = kvm::device(host, cpu.level == Level::Ok);
    // What KVM can do is asked only where it is KVM that answers.
    let extensions = match (device.level, cpu.level) {
        (Level::Ok, Level::Ok) => Some(kvm::extensions(host)),
        _ => None,
    };
    let mut all = vec![device, cpu];
    all.extend(extensions);
    all.extend([
        jail::namespaces(host),
        guest::files(),
        guest::mke2fs(host),
        guest::state_root(),
    ]);
    all
}

/// Everything, in the order to read it.
#[must_use]
pub fn report() -> Vec<Finding> {
    let host = Host(Path::new("/").to_owned());
    let mut all = decisive(&host);
    all.extend(guest::checksum());
    all.push(network::passt());
    all.extend(jail::tried(&host));
    all.push(jail::landlock());
    all.extend(host::side_channels(&host));
    all.push(host::page_merging(&host));
    all.push(host::swap(&host));
    all.extend(host::overcommit(&host));
    all.push(host::cgroup(&host));
    all.extend(host::lingering(&host));
    all
}

/// Whether a verb that starts VMs may go on. Reads a few small files and asks KVM for its version.
///
/// # Errors
/// The first thing that keeps VMs from running.
pub fn can_run() -> Result<(), Reason> {
    let host = Host(Path::new("/").to_owned());
    let failed = decisive(&host)
        .into_iter()
        .find(|finding| finding.level == Level::Fail);
    match failed {
        None => Ok(()),
        Some(Finding { text, hint, .. }) => Err(Reason {
            text,
            hint: hint.unwrap_or_default(),
        }),
    }
}

#[cfg(test)]
mod fake {
    //! A host made of files.

    use super::Host;

    /// A host with these files; the folder goes with the first value.
    pub(super) fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let host = Host(folder.path().to_owned());
        (folder, host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_the_reason_and_every_failure_has_a_hint() {
        let (_folder, host) = fake::host(&[("proc/cpuinfo", "flags\t: fpu\n")]);
        let findings = decisive(&host);
        assert_eq!(findings[0].level, Level::Fail);
        assert!(findings[0].text.contains("does not exist"), "{findings:?}");
        assert_eq!(findings[1].level, Level::Fail);
        for finding in findings {
            assert_eq!(
                finding.hint.is_some(),
                finding.level != Level::Ok,
                "{finding:?}"
            );
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_empty() {
        let (_folder, host) = fake::host(&[("a/b", " x \n")]);
        assert_eq!(host.read("a/b"), "x");
        assert_eq!(host.read("a/c"), "");
        assert_eq!(host.names("a"), ["b"]);
        assert!(host.names("c").is_empty());
    }
}
