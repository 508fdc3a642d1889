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
use images::{SharedDisks, Store};
use nix::unistd::Uid;
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;

use super::super::control_group::ControlGroup;
use super::super::events;
use super::super::launch::Launch;
use super::super::launcher::{Launcher, LauncherConfig};
use super::super::paths::{GuestFiles, Root};
use super::super::state::Folder;
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
            volumes: volumes_of(&self.config.launch).cloned().collect(),
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

    /// What it may do below which folder, or with which file.
    fn rules(&self, guest: &GuestFiles) -> Result<Vec<(File, Rights)>> {
        let mut rules = places(&self.root, &self.folder, &self.config.launch);
        rules.extend(of_guest(guest).map(|path| (path, Rights::ReadFiles)));
        rules.extend(self.group.iter().flat_map(ControlGroup::files));
        // What is not there can't be opened later, either.
        let there = rules.into_iter().filter(|(path, _)| path.exists());
        there
            .map(|(path, rights)| Ok((open(&path)?, rights)))
            .collect()
    }
}

/// What it boots from: the folder, in which an upgrade puts other files for its next life. Where that has folders
/// it is not the guest's alone, and may be a home: then these files, which an upgrade must not replace.
fn of_guest(guest: &GuestFiles) -> impl Iterator<Item = PathBuf> {
    let folder = guest.kernel.parent().filter(|folder| !has_folders(folder));
    let files = [&guest.kernel, &guest.initramfs, &guest.manifest];
    let files = files.into_iter().filter(move |_| folder.is_none());
    folder.into_iter().map(Path::to_owned).chain(files.cloned())
}

fn has_folders(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .into_iter()
        .any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

/// Where it goes in the state root and in the kernel's folders. A folder that it could list it could
/// lock (flock(2)), and with it all of its user's commands.
fn places(root: &Root, folder: &Folder, launch: &Launch) -> Vec<(PathBuf, Rights)> {
    let mut places = vec![
        (folder.path().to_owned(), Rights::Own),
        // What was asked for: it may have been renamed, or changed for the next life.
        (folder.kept(), Rights::ReadFiles),
        (events::folder(root.path()), Rights::Own),
        (root.ports(), Rights::ReadFiles),
        // Of the kernel: CPUs, processes of a plain container. A folder would stand for its process.
        ("/proc".into(), Rights::ReadFiles),
        ("/dev/null".into(), Rights::ReadAndWrite),
        ("/dev/urandom".into(), Rights::Read),
        // Layers for its next life, of those that root shares and of the user's: one may be unpacked again
        // by then. They are called by what is in them.
        (Store::layers_of(&root.images()), Rights::ReadFiles),
        (SharedDisks::of_host().folder().to_owned(), Rights::Read),
    ];
    // One that its VM could not go on from is removed.
    places.extend(Templates::of(root).map(|it| (it.folder().to_owned(), Rights::Removal)));
    places.extend(volumes_of(launch).filter_map(|mount| {
        let folder = mount.source.parent()?.to_owned();
        // What marks it as one that is being filled lies beside its data.
        let rights = match mount.read_only {
            true => Rights::Read,
            false => Rights::Own,
        };
        Some((folder, rights))
    }));
    places
}

/// The mounts that are of volumes.
fn volumes_of(launch: &Launch) -> impl Iterator<Item = &Mount> {
    let mounts = launch.mounts.iter();
    mounts.filter(|mount| mount.kind == MountKind::Volume)
}

/// A place, whether it may be read or not.
fn open(path: &Path) -> Result<File> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .with_context(|| format!("open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use ::jail::landlock::Enforcement;

    use super::super::super::containers::create;
    use super::super::super::containers::tests::{config, root};
    use super::super::super::volumes::{MountKind, Volumes, Wanted};
    use super::*;

    #[test]
    fn a_home_is_not_read_for_the_guests_files_in_it() {
        let temp = tempfile::tempdir().unwrap();
        let file = |name| temp.path().join(name);
        let guest = GuestFiles {
            kernel: file("vmlinux"),
            initramfs: file("initramfs.cpio"),
            manifest: file("kernel.json"),
        };
        fs::write(&guest.kernel, "").unwrap();
        assert_eq!(of_guest(&guest).collect::<Vec<_>>(), [temp.path()]);
        fs::create_dir(file(".ssh")).unwrap();
        let files = [&guest.kernel, &guest.initramfs, &guest.manifest];
        assert!(of_guest(&guest).eq(files.into_iter().cloned()));
    }

    /// What a thread that is shut in as a supervisor finds when it does all of these.
    fn shut_in(
        places: &[(PathBuf, Rights)],
        tries: impl FnOnce() -> Vec<(&'static str, std::io::Result<()>)> + Send + 'static,
    ) -> (Enforcement, Vec<(&'static str, Option<ErrorKind>)>) {
        let there = places.iter().filter(|(path, _)| path.exists());
        let rules: Vec<_> = there
            .map(|(path, rights)| (open(path).unwrap(), *rights))
            .collect();
        let thread = std::thread::spawn(move || {
            let enforced = landlock::restrict_files(&rules).unwrap();
            let found = tries().into_iter();
            let found = found.map(|(what, done)| (what, done.err().map(|error| error.kind())));
            (enforced, found.collect())
        });
        thread.join().unwrap()
    }

    #[test]
    fn it_changes_its_containers_files_and_no_others() {
        let (_temp, root) = root();
        let mut own = config('a', "own", false);
        let wanted = |name: &str, read_only| Wanted {
            source: name.to_owned(),
            kind: MountKind::Volume,
            target: format!("/{name}"),
            read_only,
            mode: String::new(),
            copy_up: true,
            labels: Default::default(),
            origin: super::super::super::volumes::Origin::Bind,
        };
        let volumes = Volumes::lock(&root).unwrap();
        let both = [wanted("data", false), wanted("read", true)];
        own.launch.mounts = volumes.resolve(&both, None).unwrap();
        fs::write(root.volumes().join("read/_data/file"), "").unwrap();
        let others_volume = volumes.create("others", &Default::default()).unwrap().name;
        drop(volumes);
        let (own_folder, _own_lock) = create(&root, &own, true).unwrap();
        let (other_folder, _other_lock) = create(&root, &config('b', "b", false), true).unwrap();
        fs::create_dir_all(events::folder(root.path())).unwrap();
        fs::write(events::folder(root.path()).join("log"), "").unwrap();
        fs::create_dir_all(root.images().join("layers")).unwrap();
        fs::write(root.images().join("index.json"), "").unwrap();
        fs::write(root.ports(), "").unwrap();
        fs::write(own_folder.path().join("kept"), "").unwrap();
        let places = places(&root, &own_folder, &own.launch);
        let (enforced, found) = shut_in(&places, move || {
            let own = own_folder.path();
            let data = root.volumes().join("data");
            let read_only = root.volumes().join("read");
            let of_others = root.volumes().join(&others_volume);
            let own_kept = own_folder.kept();
            let (theirs, events) = (other_folder.path(), events::folder(root.path()));
            let list = |path: &Path| fs::read_dir(path).map(drop);
            let read = |path: PathBuf| File::open(path).map(drop);
            let write = |path: PathBuf| fs::write(path, "x");
            vec![
                // It may.
                ("+ write a state", write(own.join(".new-1"))),
                (
                    "+ replace it",
                    fs::rename(own.join(".new-1"), own.join("state.json")),
                ),
                ("+ listen", UnixListener::bind(own.join("socket")).map(drop)),
                ("+ remove", fs::remove_file(own.join("kept"))),
                ("+ list", list(own)),
                ("+ note an event", write(events.join("log"))),
                (
                    "+ turn its journal",
                    fs::rename(events.join("log"), events.join("log.1")),
                ),
                ("+ mark a volume", write(data.join("copying"))),
                ("+ look into a volume", list(&data.join("_data"))),
                ("+ and into one to read", read(read_only.join("_data/file"))),
                ("+ lock ports", read(root.ports())),
                (
                    "+ read what was asked for",
                    read(own_kept.join("config.json")),
                ),
                // It may not.
                ("what was asked for", write(own_kept.join("config.json"))),
                ("whose lock it is", write(own_kept.join("lock"))),
                ("another lock", write(own_kept.join("other"))),
                (
                    "what was asked for of another",
                    read(other_folder.kept().join("config.json")),
                ),
                ("list what was asked for", list(&own_kept)),
                ("list all of it", list(&root.path().join("configs"))),
                ("the state root", list(root.path())),
                ("containers", list(&root.containers())),
                ("volumes", list(&root.volumes())),
                ("another container", write(theirs.join("state.json"))),
                ("read another container", read(theirs.join("state.json"))),
                ("another volume", write(of_others.join("volume.json"))),
                ("one to read", write(read_only.join("_data/file"))),
                ("its marker", write(read_only.join("copying"))),
                (
                    "lose its name",
                    fs::rename(own, root.containers().join("other")),
                ),
                ("a link", symlink("/", own.join("link"))),
                ("a folder", fs::create_dir(own.join("folder"))),
                (
                    "a volume's files elsewhere",
                    fs::rename(data.join("_data"), data.join("old")),
                ),
                (
                    "from a volume",
                    fs::rename(data.join("copying"), own.join("x")),
                ),
                (
                    "from the journal",
                    fs::rename(events.join("log.1"), own.join("y")),
                ),
                ("list layers", list(&root.images().join("layers"))),
                ("the index", read(root.images().join("index.json"))),
                ("a process's folder", list(Path::new("/proc/1"))),
                ("the host", read("/etc/passwd".into())),
            ]
        });
        assert_ne!(enforced, Enforcement::None, "this kernel has no Landlock");
        let expected = |what: &str| match what.starts_with('+') {
            true => None,
            false => Some(ErrorKind::PermissionDenied),
        };
        for (what, refused) in found {
            // Between folders nothing moves: EXDEV where a rule would allow both ends.
            let refused = refused.map(|kind| match kind {
                ErrorKind::CrossesDevices => ErrorKind::PermissionDenied,
                kind => kind,
            });
            assert_eq!(refused, expected(what), "{what}");
        }
    }
}
