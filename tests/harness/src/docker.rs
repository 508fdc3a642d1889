//! The real Docker engine as the oracle: Debian's docker.io with a data root, sockets and log of
//! its own, without networks. It needs root and a host where containers run.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::invocation::{Output, pid, words};
use crate::{Invocation, PATIENCE, POLL_INTERVAL, Terminal};

/// Debian's client; a machine may have others.
const CLIENT: &str = "/usr/bin/docker";

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// An engine that runs. Dropped, it ends with all of its containers.
pub struct Docker {
    child: Child,
    folder: TempDir,
}

impl Docker {
    /// The client's version and build; the engine is of the same package.
    ///
    /// # Errors
    ///
    /// It is not installed.
    pub fn version() -> Result<&'static str> {
        static VERSION: OnceLock<Result<String, String>> = OnceLock::new();
        let ask = || {
            let output = Invocation::new(CLIENT).arg("--version").output();
            output
                .and_then(Output::only_stdout)
                .map(|text| text.trim().to_owned())
                .map_err(|error| format!("{error:#}"))
        };
        VERSION
            .get_or_init(ask)
            .as_deref()
            .map_err(|error| anyhow!("ask docker for its version: {error}"))
    }

    /// Starts an engine without images.
    ///
    /// # Errors
    ///
    /// It is not installed or does not come up; the message has its log.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("docker-")
            .tempdir()
            .context("create an engine's folder")?;
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("work")).context("create an engine's folder")?;
        fs::create_dir(path("home")).context("create an engine's folder")?;
        let log = File::create(path("log")).context("create a log")?;
        let child = Command::new("dockerd")
            .env("PATH", PATH)
            // No bridge and no rules: a host's network stays as it is.
            .args(["--bridge=none", "--iptables=false", "--ip-masq=false"])
            // The one driver that every file system bears.
            .args(["--storage-driver=vfs", "--host"])
            .arg(format!("unix://{}", path("socket").display()))
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log)
            .spawn()
            .context("start dockerd (Debian's package docker.io)")?;
        let mut docker = Self { child, folder };
        docker.wait_until_up()?;
        Ok(docker)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let begun = Instant::now();
        while self.docker(["version"]).output()?.code != 0 {
            let ended = self.child.try_wait().context("watch the engine")?;
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                bail!("dockerd does not come up ({ended:?}): {log}");
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// An empty folder that commands start in.
    #[must_use]
    pub fn work(&self) -> std::path::PathBuf {
        self.folder.path().join("work")
    }

    fn variables(&self) -> Vec<(&'static str, std::ffi::OsString)> {
        let socket = format!("unix://{}", self.folder.path().join("socket").display());
        vec![
            ("PATH", PATH.into()),
            ("HOME", self.folder.path().join("home").into()),
            ("DOCKER_HOST", socket.into()),
        ]
    }

    /// The client with these arguments, to be run.
    #[must_use]
    pub fn docker<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Invocation {
        self.variables()
            .into_iter()
            .fold(Invocation::new(CLIENT), |invocation, (name, value)| {
                invocation.env(name, value)
            })
            .args(arguments)
            .current_dir(self.work())
    }

    /// The client with these arguments at a terminal.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn terminal<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Result<Terminal> {
        let mut line = vec![CLIENT.into()];
        line.extend(words(arguments));
        Terminal::start(&line, &self.variables(), &self.work())
    }

    /// Removes all containers, running or not.
    ///
    /// # Errors
    ///
    /// The engine refuses it.
    pub fn remove_containers(&self) -> Result<()> {
        let ids = self.docker(["ps", "--all", "--quiet"]).output()?;
        let ids = ids.only_stdout()?;
        if !ids.is_empty() {
            self.docker(["rm", "--force"])
                .args(ids.split_whitespace())
                .output()?
                .code(0)?;
        }
        Ok(())
    }

    /// Loads what `docker save` wrote.
    ///
    /// # Errors
    ///
    /// The engine refuses it.
    pub fn load(&self, archive: &Path) -> Result<()> {
        self.docker(["load", "-i"]).arg(archive).output()?.code(0)?;
        Ok(())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Ended politely, it ends containerd and its containers and unmounts what it mounted.
        if let Ok(pid) = pid(self.child.id()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE {
            std::thread::sleep(POLL_INTERVAL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
