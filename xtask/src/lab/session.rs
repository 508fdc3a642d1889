//! One emulated host that stays up: `lab start`, `exec`, `stop`, `status`. Its state is one file
//! that only this user can read, since it has the token. `lab` calls it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::client::{self, Address};
use super::emulator::{self, Options};
use crate::paths;

/// Powering off takes a second; then the emulator is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The emulated host that is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Session {
    process: i32,
    /// Tells the process from a later one with the same id: ticks since boot, proc(5) starttime.
    process_start: u64,
    port: u16,
    token: String,
    pub(super) out: PathBuf,
    pub(super) memory_mib: u32,
    pub(super) cpus: u32,
    started_unix_s: u64,
}

impl Session {
    /// The session that is up, if any.
    ///
    /// # Errors
    ///
    /// The state file can't be read.
    pub(super) fn current() -> Result<Option<Self>> {
        let path = state_file();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        // One of another version of this program is as good as none: its process is found by no one.
        let session: Option<Self> = serde_json::from_slice(&bytes).ok();
        Ok(session.filter(Self::is_up))
    }

    fn is_up(&self) -> bool {
        start_ticks(self.process) == Some(self.process_start)
    }

    /// Where its exec server is.
    pub(super) fn address(&self) -> Address {
        Address {
            port: self.port,
            token: self.token.clone(),
        }
    }

    /// One line for a person.
    pub(super) fn describe(&self) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        format!(
            "up for {} s: process {}, {} CPUs, {} MiB, writable folder {}",
            now.saturating_sub(self.started_unix_s),
            self.process,
            self.cpus,
            self.memory_mib,
            self.out.display()
        )
    }
}

/// Starts one, or returns the one that is up.
///
/// # Errors
///
/// It does not start.
pub(super) fn start(options: &Options) -> Result<Session> {
    let _lock = lock()?;
    if let Some(session) = Session::current()? {
        return Ok(session);
    }
    let machine = emulator::start(options)?;
    let process = i32::try_from(machine.emulator.id()).context("process id")?;
    let session = Session {
        process,
        process_start: start_ticks(process).context("the emulator is gone")?,
        port: machine.address.port,
        token: machine.address.token.clone(),
        out: options.out.clone(),
        memory_mib: options.memory_mib,
        cpus: options.cpus,
        started_unix_s: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    };
    let path = state_file();
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&serde_json::to_vec(&session)?)
        .context("write the state")?;
    fs::rename(&temporary, &path).context("write the state")?;
    machine.detach();
    Ok(session)
}

/// Stops the one that is up; false when there was none.
///
/// # Errors
///
/// It can't be killed.
pub(super) fn stop() -> Result<bool> {
    let _lock = lock()?;
    let Some(session) = Session::current()? else {
        return Ok(false);
    };
    let asked = session.address();
    // In a thread: a stuck host must not keep us waiting.
    thread::spawn(move || client::power_off(&asked));
    let begun = Instant::now();
    while session.is_up() {
        if begun.elapsed() > STOP_TIMEOUT {
            kill(Pid::from_raw(session.process), Signal::SIGKILL).context("kill the emulator")?;
        }
        thread::sleep(POLL_INTERVAL);
    }
    let _ = fs::remove_file(state_file());
    Ok(true)
}

/// One start or stop at a time.
fn lock() -> Result<Flock<File>> {
    let folder = paths::lab();
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => Ok(lock),
        Err((_, error)) => bail!("lock {}: {error}", path.display()),
    }
}

fn state_file() -> PathBuf {
    paths::lab().join("session.json")
}

/// Start time of a process in ticks since boot, `None` when there is none or it is a zombie.
fn start_ticks(process: i32) -> Option<u64> {
    parse_start_ticks(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// Fields 3 (state) and 22 (starttime) of proc(5) stat; the name before may have blanks.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    if *fields.first()? == "Z" {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_a_name_with_blanks() {
        let numbers = (4..=52)
            .map(|field| field.to_string())
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(
            parse_start_ticks(&format!("9 (a) b) S {numbers}")),
            Some(22)
        );
        assert_eq!(parse_start_ticks(&format!("9 (a) Z {numbers}")), None);
        assert_eq!(parse_start_ticks(""), None);
    }

    #[test]
    fn this_process_has_a_start_time_and_an_impossible_one_has_none() {
        let this = i32::try_from(std::process::id()).expect("id");
        assert!(start_ticks(this).is_some());
        assert_eq!(start_ticks(i32::MAX), None);
    }
}
