//! What a supervisor gives up when it has a VM, before it hears the guest, or before it has the agent of
//! a plain container: files that are not its container's (Landlock), system calls that it has no use
//! for, and as root all capabilities but two. What it may not start any more,
//! its launcher starts.
//!
//! docs/security.md has the promise. [`super::life`] calls it in the first life.

use std::fs::File;
use std::path::{Path, PathBuf};

use ::jail::filter::Filter;
use ::jail::landlock::{self, Rights};
use ::jail::privileges;
use ::jail::table::Thread;
use anyhow::{Context, Result};
use images::SharedDisks;
use nix::unistd::Uid;
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;

use super::super::control_group::ControlGroup;
use super::super::events;
use super::super::launcher::{Launcher, LauncherConfig};
use super::super::paths::GuestFiles;
use super::super::template::Templates;
use super::super::volumes::{Mount, MountKind};
use super::Supervisor;

/// What root's supervisor keeps: a volume that it looks into, and a folder above a share, may be
/// another's; the socket to passt has more than the usual room.
const CAPABILITIES: CapabilitySet = CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::NET_ADMIN);

impl Supervisor {
    /// Starts the launcher, which may start what `launched` says, and shuts this process in; once.
    ///
    /// # Errors
    /// When that can't be: then there is no container.
    pub(super) fn confine(&mut self, guest: &GuestFiles, launched: LauncherConfig) -> Result<()> {
        if !self.launcher.is_here() {
            return Ok(());
        }
        let network = self.config.launch.network.as_ref();
        let group = self.group.as_ref().and_then(ControlGroup::path);
        self.launcher = Launcher::apart(&LauncherConfig {
            supervisor: std::process::id(),
            root: self.root.path().to_owned(),
            folder: self.folder.path().to_owned(),
            group: group.map(Path::to_owned),
            volumes: self.volumes().cloned().collect(),
            ports: network
                .map(|network| network.ports.clone())
                .unwrap_or_default(),
            ..launched
        })?;
        let rules = self.rules(guest)?;
        landlock::restrict_files(&rules).context("shut the supervisor in by Landlock")?;
        if Uid::effective().is_root() {
            privileges::drop_all_but(CAPABILITIES).context("shut the supervisor in")?;
        }
        let filter = Filter::new(Thread::Supervisor)?;
        filter.install().context("shut the supervisor in")
    }

    /// The mounts of the container that are of volumes.
    fn volumes(&self) -> impl Iterator<Item = &Mount> {
        let mounts = self.config.launch.mounts.iter();
        mounts.filter(|mount| mount.kind == MountKind::Volume)
    }

    /// What it may do below which folder.
    fn rules(&self, guest: &GuestFiles) -> Result<Vec<(File, Rights)>> {
        let root = &self.root;
        let mut rules = vec![
            (root.path().to_owned(), Rights::Read),
            // Layers for its next life.
            (SharedDisks::of_host().folder().to_owned(), Rights::Read),
            (self.folder.path().to_owned(), Rights::Own),
            (events::folder(root.path()), Rights::Own),
            // Of the kernel: CPUs, processes of a plain container. A folder would stand for its process.
            ("/proc".into(), Rights::ReadFiles),
            ("/dev/null".into(), Rights::ReadAndWrite),
            ("/dev/urandom".into(), Rights::Read),
        ];
        rules.extend(
            guest
                .kernel
                .parent()
                .map(|folder| (folder.to_owned(), Rights::Read)),
        );
        // One that its VM could not go on from is removed.
        rules.extend(Templates::of(root).map(|it| (it.folder().to_owned(), Rights::Removal)));
        rules.extend(self.group.iter().flat_map(ControlGroup::files));
        let volumes = self.volumes().filter_map(|mount| mount.source.parent());
        rules.extend(volumes.map(|folder| (folder.to_owned(), Rights::Own)));
        // What is not there can't be opened later, either.
        let there = rules.into_iter().filter(|(path, _)| path.exists());
        there
            .map(|(path, rights): (PathBuf, Rights)| Ok((open(&path)?, rights)))
            .collect()
    }
}

/// A place, whether it may be read or not.
fn open(path: &Path) -> Result<File> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .with_context(|| format!("open {}", path.display()))
}
