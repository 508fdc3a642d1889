//! The hidden verb `__files`: the file server of one VM, in a jail of its own (crate `file-server`).
//!
//! [`super::vm`] has it started for a VM that has shares and gives the VM's process the other end of
//! its socket. It knows paths and numbers, no container.
#![allow(unsafe_code)] // takes ownership of inherited descriptors by number

use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ::jail::JailError;
use anyhow::{Context, Result, bail};
use file_server::area::Area;
use file_server::files::Files;
use file_server::jail::{self, Ids, Subordinate};
use file_server::server::{SLOT_BYTES, SLOT_COUNT, serve};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};

use super::child::Child;
use super::control_group::ControlGroup;
use super::launcher::Launcher;
use super::program::{self, FIRST_FD, Program, Told};

/// Name of the hidden verb.
pub const FILES_VERB: &str = "__files";

/// Longest configuration in bytes: 1024 shares with paths of 4 KiB.
const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// Longest word of the server in bytes.
const WORD_BYTES_MAX: u64 = 16 << 10;

/// What it says when it serves.
const READY: &str = "ready\n";

/// For namespaces and mounts, on a host that is busy.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// From the kill to the end of a server that may be in the middle of a slow call.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A folder or file of the host that a VM may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Absolute.
    pub source: PathBuf,
    /// Whether nothing below may be changed.
    pub read_only: bool,
}

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
struct FilesConfig {
    /// Process id of the process that starts it, and whose end is its own.
    supervisor: u32,
    shares: Vec<Share>,
    /// Subordinate users and groups: first and count.
    users: Option<(u32, u32)>,
    groups: Option<(u32, u32)>,
    socket: RawFd,
    area: RawFd,
    /// Takes one line: [`READY`] or why not.
    report: RawFd,
}

/// The VM's end of a file server.
#[derive(Debug)]
pub struct Backend {
    /// Sequential-packet socket.
    pub socket: OwnedFd,
    /// Shared memory.
    pub area: File,
}

/// A file server's process.
#[derive(Debug)]
pub struct FileServer {
    child: Child,
    report: PipeReader,
}

impl FileServer {
    /// Has one started for these shares, in the control group of its VM; it says its own lines to `lines`.
    ///
    /// # Errors
    /// When the process can't be started; whether it serves is [`Self::wait_ready`]'s to say.
    pub fn start(
        launcher: &Launcher,
        shares: &[Share],
        group: &ControlGroup,
        lines: &File,
    ) -> Result<(Self, Backend)> {
        if shares.len() > jail::SHARES_MAX {
            bail!("{} shares: at most {}", shares.len(), jail::SHARES_MAX);
        }
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .context("create a socket pair")?;
        let area = create_area()?;
        let (report, report_writer) = std::io::pipe().context("create a pipe")?;
        let lines = lines.try_clone().context("share the VM's log")?;
        let of_server = area.try_clone().context("share the area")?;
        let ends = Ends([lines.into(), theirs, of_server.into(), report_writer.into()]);
        let child = launcher.files(shares, ends, group)?;
        let backend = Backend { socket: ours, area };
        Ok((Self { child, report }, backend))
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// What kept it from that.
    pub fn wait_ready(&self) -> Result<()> {
        let deadline = Some(Instant::now() + READY_TIMEOUT);
        let mut word = Vec::new();
        let mut report = (&self.report).take(WORD_BYTES_MAX);
        let mut buffer = [0; 512];
        while !word.ends_with(b"\n") {
            let ready = super::poll::readable_until(self.report.as_fd(), deadline);
            if !ready.context("wait for the file server")? {
                bail!("the file server said nothing in {READY_TIMEOUT:?}");
            }
            match report.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => word.extend_from_slice(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("wait for the file server"),
            }
        }
        match String::from_utf8_lossy(&word).trim() {
            word if word == READY.trim() => Ok(()),
            "" => bail!("the file server ended before it began"),
            word => bail!("{word}"),
        }
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        // The process that serves is its child and dies with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // It holds the pipe to its very end: after that it touches nothing.
        let deadline = Some(Instant::now() + END_TIMEOUT);
        let mut buffer = [0; 512];
        while super::poll::readable_until(self.report.as_fd(), deadline).unwrap_or(false)
            && self.report.read(&mut buffer).is_ok_and(|len| len > 0)
        {}
    }
}

/// Number of a file server's [`Ends`].
pub(super) const ENDS: usize = 4;

/// What a file server is given: where its lines go, its socket, the area, where it reports.
#[derive(Debug)]
pub(super) struct Ends([OwnedFd; ENDS]);

impl Ends {
    /// In that order.
    pub(super) fn of(descriptors: [OwnedFd; ENDS]) -> Self {
        Self(descriptors)
    }

    /// In that order.
    pub(super) fn into_descriptors(self) -> [OwnedFd; ENDS] {
        self.0
    }
}

/// The file server of these shares, for the process `supervisor`.
///
/// # Errors
/// When there are no descriptors left.
pub(super) fn program(shares: &[Share], supervisor: u32, ends: Ends) -> Result<(Program, Told)> {
    let [lines, socket, area, report] = ends.0;
    let (config_reader, writer) = std::io::pipe().context("create a pipe")?;
    let config = FilesConfig {
        supervisor,
        shares: shares.to_vec(),
        users: subordinate("/etc/subuid"),
        groups: subordinate("/etc/subgid"),
        socket: FIRST_FD + 1,
        area: FIRST_FD + 2,
        report: FIRST_FD + 3,
    };
    let program = Program {
        path: program::own()?,
        arguments: vec![FILES_VERB.to_owned(), FIRST_FD.to_string()],
        stdout: None,
        stderr: lines,
        descriptors: vec![config_reader.into(), socket, area, report],
        group: None,
    };
    Ok((program, Told::new(&config, writer)?))
}

/// Memory that both sides may write to and neither may make smaller.
fn create_area() -> Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let area = File::from(memfd_create("files", flags).context("create shared memory")?);
    let len = SLOT_COUNT.checked_mul(SLOT_BYTES).unwrap_or(0);
    area.set_len(u64::try_from(len)?)
        .context("create shared memory")?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&area, FcntlArg::F_ADD_SEALS(seals)).context("seal shared memory")?;
    Ok(area)
}

/// Subordinate users and groups of this user.
pub(super) fn subordinates() -> Ids {
    let range = |path| subordinate(path).map(|(start, count)| Subordinate { start, count });
    Ids {
        users: range("/etc/subuid"),
        groups: range("/etc/subgid"),
    }
}

/// This user's range in a file of `subuid(5)`.
fn subordinate(path: &str) -> Option<(u32, u32)> {
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        return None;
    }
    let name = nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .map(|user| user.name);
    range_of(
        &std::fs::read_to_string(path).ok()?,
        name.as_deref(),
        uid.as_raw(),
    )
}

fn range_of(text: &str, name: Option<&str>, uid: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut parts = line.trim().split(':');
        let who = parts.next()?;
        if Some(who) != name && who.parse() != Ok(uid) {
            return None;
        }
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

/// Runs the file server that the configuration on descriptor `config` describes.
///
/// # Errors
/// When the configuration can't be read or there can be no jail.
pub fn main(config: RawFd) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("tie the file server to its supervisor")?;
    let mut text = String::new();
    // SAFETY: the supervisor passed this descriptor for this use only.
    let file = unsafe { File::from_raw_fd(config) };
    file.take(CONFIG_BYTES_MAX)
        .read_to_string(&mut text)
        .context("read the file server's configuration")?;
    let config: FilesConfig =
        serde_json::from_str(&text).context("parse the file server's configuration")?;
    if std::os::unix::process::parent_id() != config.supervisor {
        bail!("the supervisor is gone");
    }
    // SAFETY: as above; each number in the configuration is named once.
    let (socket, area, mut report) = unsafe {
        (
            OwnedFd::from_raw_fd(config.socket),
            File::from_raw_fd(config.area),
            File::from_raw_fd(config.report),
        )
    };
    let shares: Vec<jail::Share> = config
        .shares
        .into_iter()
        .map(|share| jail::Share {
            source: share.source,
            read_only: share.read_only,
        })
        .collect();
    let range =
        |range: Option<(u32, u32)>| range.map(|(start, count)| Subordinate { start, count });
    let ids = Ids {
        users: range(config.users),
        groups: range(config.groups),
    };
    let mut report_of_child = report.try_clone().context("share a pipe")?;
    let run = jail::run(&shares, &ids, move |root| {
        match begin(root, &area) {
            Ok((area, files)) => {
                let mut report = &report_of_child;
                let ready = move || report.write_all(READY.as_bytes());
                let served = serve(&socket, &area, &files, ready);
                if let Err(error) = &served {
                    // Told where it did not begin to serve.
                    let _ = report_of_child.write_all(format!("{error}\n").as_bytes());
                }
                i32::from(served.is_err())
            }
            Err(error) => {
                // The supervisor tells it.
                let _ = report_of_child.write_all(format!("{error:#}\n").as_bytes());
                1
            }
        }
    });
    if let Err(error) = run {
        let _ = report.write_all(format!("{error:#}\n").as_bytes());
        return Err(error.into());
    }
    Ok(())
}

fn begin(root: Result<OwnedFd, JailError>, area: &File) -> Result<(Area, Files)> {
    let root = root?;
    let area = Area::map(area, SLOT_COUNT, SLOT_BYTES).context("map shared memory")?;
    let files = Files::new(root, jail::DESCRIPTORS).context("look at the shares")?;
    Ok((area, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_are_found_by_name_or_number() {
        let text = "root:1:2\nuser:100000:65536\n1001:200000:65536\nbroken\nuser2:x:y\n";
        assert_eq!(range_of(text, Some("user"), 1000), Some((100_000, 65_536)));
        assert_eq!(range_of(text, Some("other"), 1001), Some((200_000, 65_536)));
        assert_eq!(range_of(text, None, 1002), None);
        assert_eq!(range_of(text, Some("user2"), 1003), None);
        assert_eq!(range_of("", Some("user"), 1000), None);
    }

    #[test]
    fn the_area_can_not_be_made_smaller() {
        let area = create_area().unwrap();
        assert!(area.set_len(1).is_err());
        assert!(area.set_len(1 << 30).is_err());
    }
}
