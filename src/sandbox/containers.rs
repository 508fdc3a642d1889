//! The containers of a user: adding, finding, listing and removing them, and clearing away what
//! killed processes left. Called by the verbs; one container's folder is [`super::state`]'s.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use images::Digest;
use images::store::ContainerUse;

use super::events;
use super::lock;
use super::network;
use super::paths::{self, Root};
use super::plain;
use super::state::{
    ContainerConfig, EXIT_CODE_KILLED, Folder, Holder, ID_LEN, Lock, NEW, OLD, Status, configs,
};

/// Time between two tries to get the lock of a container whose supervisor was killed.
const LOCK_POLL: Duration = Duration::from_millis(5);

/// So long the ports of a container that was killed are waited for.
const PORTS_TIME: Duration = Duration::from_secs(5);

/// So often a lock that is held may name nobody who has it: a command that is about to hand it over has
/// not signed it, one that is at files has no VM yet, and who has just ended has it no more.
const NOBODY_MAX: u32 = if cfg!(test) { 100 } else { 6000 };

/// Adds a container under a name that no other has. The lock is for its supervisor; one that is not
/// `begun` at once waits to be started.
///
/// # Errors
/// Docker's conflict sentence when the name is taken; otherwise as [`Folder::create`].
pub fn create(root: &Root, config: &ContainerConfig, begun: bool) -> Result<(Folder, Lock)> {
    // So that no other takes the name meanwhile.
    let _alone = paths::lock(&root.containers())?;
    remove_unfinished(root)?;
    check_name(root, &config.name)?;
    let folder = Folder::of(root, &config.id);
    let lock = folder.create(config, begun)?;
    events::of_container(&folder, config, "create", &[]);
    Ok((folder, lock))
}

/// Refuses a name that another container has. The caller holds the lock of [`create`].
fn check_name(root: &Root, name: &str) -> Result<()> {
    let taken = list(root)?
        .into_iter()
        .find(|(_, other)| other.name == name);
    if let Some((_, other)) = taken {
        bail!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{}\". \
             You have to remove (or rename) that container to be able to reuse that name.",
            other.id
        );
    }
    Ok(())
}

/// What `rename` says first of a name that can't be had.
pub const NO_NEW_NAME: &str = "Error when allocating new name";

/// Gives a container another name.
///
/// # Errors
/// Docker's sentences when the name is taken, or its own.
pub fn rename(root: &Root, wanted: &str, name: &str) -> Result<()> {
    // So that no other takes the name meanwhile.
    let _alone = paths::lock(&root.containers())?;
    let (folder, mut config) = find(root, wanted)?;
    if config.name == name {
        bail!("Renaming a container with the same name as its current name");
    }
    check_name(root, name).context(NO_NEW_NAME)?;
    let old = std::mem::replace(&mut config.name, name.to_owned());
    folder.set_config(&config)?;
    events::of_container(
        &folder,
        &config,
        "rename",
        &[("oldName", format!("/{old}"))],
    );
    Ok(())
}

/// Changes what was asked for.
///
/// # Errors
/// When the container is not there any more, or the disk is full; those of `change`.
pub fn update(
    root: &Root,
    wanted: &str,
    change: impl FnOnce(&mut ContainerConfig) -> Result<()>,
) -> Result<()> {
    // So that no other changes it meanwhile.
    let _alone = paths::lock(&root.containers())?;
    let (folder, mut config) = find(root, wanted)?;
    change(&mut config)?;
    folder.set_config(&config)
}

/// Removes a container that does not run; with `force` also one that does, by killing its VM, whose ports
/// are free then. Whoever is at the files of one that is stopped is waited for, or with `force` ended.
///
/// # Errors
/// Docker's sentence when it runs and `force` is not given.
pub fn remove(folder: &Folder, config: &ContainerConfig, force: bool) -> Result<()> {
    let mut killed = None;
    let mut nobody = 0;
    loop {
        match folder.try_lock() {
            // Another removed it, and tells.
            Ok(Some(_lock)) if !folder.path().exists() => return Ok(()),
            Ok(Some(_lock)) => {
                let mut network = None;
                if killed.is_some() {
                    network = folder.state().ok().and_then(|state| state.network);
                    let signal = [("signal", libc::SIGKILL.to_string())];
                    events::of_container(folder, config, "kill", &signal);
                    let code = [("exitCode", EXIT_CODE_KILLED.to_string())];
                    events::of_container(folder, config, "die", &code);
                }
                folder.remove()?;
                events::of_container(folder, config, "destroy", &[]);
                // passt ends when the VM is torn down, some time after its supervisor.
                if let Some(network) = network {
                    network::wait_until_free(&network, PORTS_TIME);
                }
                return Ok(());
            }
            Ok(None) => {}
            // It was of `--rm` and has just ended.
            Err(_) if !folder.path().exists() => return Ok(()),
            Err(error) => return Err(error),
        }
        let looked_into = match folder.is_looked_into() {
            Err(_) if !folder.path().exists() => return Ok(()),
            looked_into => looked_into?,
        };
        if looked_into && force {
            remove_beneath_command(folder, config)?;
            events::of_container(folder, config, "destroy", &[]);
            return Ok(());
        }
        if looked_into {
            folder.wait_for_files()?;
            continue;
        }
        if !force {
            let name = &config.name;
            match folder.true_state()?.status {
                Status::Paused => bail!(
                    "cannot remove container \"/{name}\": container is paused and must be unpaused first"
                ),
                status => bail!(
                    "cannot remove container \"/{name}\": container is {}: stop the container \
                     before removing or force remove",
                    match status {
                        Status::Restarting => status.word(),
                        _ => "running",
                    }
                ),
            }
        }
        let lock = match folder.open_lock() {
            Err(_) if !folder.path().exists() => return Ok(()),
            lock => lock?,
        };
        // The VM dies with its supervisor. There may be none yet: then the command is about to start it.
        let holder = Holder::read(&lock).ok();
        if killed.is_none() || killed != holder {
            match holder {
                Some(holder) if holder.end(&lock)? => killed = Some(holder),
                // It may have ended just now.
                _ if nobody < NOBODY_MAX => nobody += 1,
                _ => bail!(not_ended(folder, config)),
            }
        }
        std::thread::sleep(LOCK_POLL);
    }
}

/// Removes a container while a command is at its files, which then finds that it is gone.
fn remove_beneath_command(folder: &Folder, config: &ContainerConfig) -> Result<()> {
    let lock = folder.open_lock()?;
    // Nobody takes the lock any more then. Who has it is told by its VM's end, and may take its time: what
    // it writes to may be full.
    let has_ended = || {
        let is_ended = |holder: Holder| holder.end(&lock).unwrap_or(false);
        !lock::is_held(&lock).unwrap_or(false) || Holder::read(&lock).is_ok_and(is_ended)
    };
    let mut ended = false;
    folder.remove_after(|| ended = has_ended())?;
    // What says that it is such a command may be a supervisor that was taken over.
    for _ in 0..NOBODY_MAX {
        if ended {
            return Ok(());
        }
        std::thread::sleep(LOCK_POLL);
        ended = has_ended();
    }
    bail!(not_ended(folder, config))
}

/// Somebody has the lock, and it says of nobody that has it.
fn not_ended(folder: &Folder, config: &ContainerConfig) -> String {
    format!(
        "remove container \"/{}\": a process has its lock, which does not say which one\n\
         hint: end the process of bulkhead that has {} open",
        config.name,
        folder.lock_path().display()
    )
}

/// Every container that has a readable configuration, newest first. One of `--rm` whose supervisor
/// died is removed instead, as the supervisor would have done.
///
/// # Errors
/// When the folder of containers can't be read.
pub fn list(root: &Root) -> Result<Vec<(Folder, ContainerConfig)>> {
    let mut all = Vec::new();
    for (name, path) in entries(root)? {
        if is_full_id(&name) {
            let folder = Folder::at(path);
            if let Ok(config) = folder.config()
                && !(config.launch.auto_remove
                    && was_begun(&folder)
                    && remove_abandoned(&folder, &config))
            {
                all.push((folder, config));
            }
        }
    }
    all.sort_by(|a, b| b.1.created.cmp(&a.1.created));
    Ok(all)
}

/// Whether a container is on its way, or was: one of `--rm` that waits for its first start stays.
fn was_begun(folder: &Folder) -> bool {
    folder.state().is_ok_and(|state| state.was_begun)
}

/// Removes a folder whose lock nobody holds. One that can't be removed is told of by who needs it.
fn remove_abandoned(folder: &Folder, config: &ContainerConfig) -> bool {
    match folder.try_lock() {
        Ok(Some(_lock)) if folder.path().exists() => {
            let removed = folder.remove().is_ok();
            if removed {
                events::of_container(folder, config, "destroy", &[]);
            }
            removed
        }
        _ => !folder.path().exists(),
    }
}

/// Removes folders that a killed command left half made or half removed. The caller holds the lock
/// of [`create`], so that nobody is at making one; who is at removing one does not mind.
fn remove_unfinished(root: &Root) -> Result<()> {
    for (name, path) in entries(root)? {
        if name.starts_with(NEW) || name.starts_with(OLD) {
            let id = name.trim_start_matches(OLD);
            let _ = plain::remove(&path, id);
            // What can't be removed is in nobody's way.
            let _ = std::fs::remove_dir_all(path);
        }
    }
    // What is on record of a container that is not there: nobody is at making or changing one.
    for entry in std::fs::read_dir(configs(root))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let is_id = name.to_str().is_some_and(is_full_id);
        if !is_id || !root.containers().join(&name).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Names and paths in the folder of containers.
fn entries(root: &Root) -> Result<Vec<(String, PathBuf)>> {
    let folder = root.containers();
    let read = || format!("read {}", folder.display());
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(read)? {
        let entry = entry.with_context(read)?;
        if let Ok(name) = entry.file_name().into_string() {
            all.push((name, entry.path()));
        }
    }
    Ok(all)
}

fn is_full_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// There is none of this name or id. The words are Docker's.
#[derive(Debug, thiserror::Error)]
#[error("No such container: {0}")]
pub struct NoSuchContainer(String);

/// Finds a container as Docker does: full id, then name, then an unambiguous start of an id.
///
/// # Errors
/// [`NoSuchContainer`], or that the id is ambiguous.
pub fn find(root: &Root, wanted: &str) -> Result<(Folder, ContainerConfig)> {
    let name = wanted.strip_prefix('/').unwrap_or(wanted);
    let mut all = list(root)?;
    if let Some(at) = all
        .iter()
        .position(|(_, config)| config.id == wanted)
        .or_else(|| all.iter().position(|(_, config)| config.name == name))
    {
        return Ok(all.swap_remove(at));
    }
    let mut matching = all
        .into_iter()
        .filter(|(_, c)| !wanted.is_empty() && c.id.starts_with(wanted));
    match (matching.next(), matching.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => bail!("multiple IDs found with provided prefix: {wanted}"),
        _ => Err(NoSuchContainer(wanted.to_owned()).into()),
    }
}

/// What containers need of the image store.
///
/// # Errors
/// When a container's files can't be read.
pub fn uses(root: &Root) -> Result<Vec<ContainerUse>, Box<dyn std::error::Error + Send + Sync>> {
    let mut all = Vec::new();
    for (folder, config) in list(root)? {
        let state = match folder.true_state() {
            // Removed since it was listed.
            Err(_) if !folder.path().exists() => continue,
            // One that can't be read is of one that may run, which holds up nothing for the others.
            state => state,
        };
        all.push(ContainerUse {
            container: config.short_id().to_owned(),
            image: Digest::parse(&config.image_id)?,
            layers: config.launch.layers.clone(),
            running: state.map(|state| state.status.is_alive()).unwrap_or(true),
        });
    }
    Ok(all)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::sandbox::launch::Launch;
    use crate::sandbox::state::ContainerState;

    pub(crate) fn root() -> (tempfile::TempDir, Root) {
        let temp = tempfile::tempdir().unwrap();
        let root = Root::at(temp.path().to_owned());
        std::fs::create_dir(root.containers()).unwrap();
        (temp, root)
    }

    pub(crate) fn config(digit: char, name: &str, auto_remove: bool) -> ContainerConfig {
        let run = json!({
            "layers": [], "upper_disk": true, "read_only_root": false, "hostname": "h",
            "domainname": "", "hosts": "", "resolv_conf": "", "tmpfs": {}, "shm_bytes": 0,
            "sysctls": {}, "resources": {}, "init": false, "privileged": false,
            "system_paths_unconfined": false, "writable_cgroups": false, "ipc_none": false,
            "devices": [],
            "process": {
                "args": ["true"], "env": [], "user": "", "group_add": [], "cwd": "/",
                "terminal": null, "stdio": {"stdin": null, "stdout": null, "stderr": null},
                "rlimits": [], "capabilities": [], "no_new_privileges": false,
                "seccomp": "default", "oom_score_adj": null,
            },
        });
        ContainerConfig {
            id: digit.to_string().repeat(ID_LEN),
            name: name.to_owned(),
            created: "2025-01-01T00:00:00Z".to_owned(),
            image: "image".to_owned(),
            image_id: Digest::of(b"image").to_string(),
            labels: std::collections::BTreeMap::new(),
            annotations: std::collections::BTreeMap::new(),
            env: Vec::new(),
            exposed_ports: std::collections::BTreeSet::new(),
            given: Default::default(),
            launch: Launch {
                run: serde_json::from_value(run).unwrap(),
                isolation: crate::sandbox::launch::Isolation::Vm,
                network: None,
                vcpu_count: 1,
                memory_mib: 128,
                host_cpus: Vec::new(),
                block_io: Default::default(),
                layers: Vec::new(),
                mounts: Vec::new(),
                writable_bytes: 0,
                auto_remove,
                open_stdin: false,
                stop_signal: 15,
                stop_timeout_s: 10,
                stdin_once: false,
                restart: Default::default(),
                health: None,
                log: Default::default(),
            },
        }
    }

    fn names(root: &Root) -> Vec<String> {
        let all = list(root).unwrap().into_iter();
        let mut names: Vec<_> = all.map(|(_, config)| config.name).collect();
        names.sort();
        names
    }

    /// What is in the folder of containers.
    fn files(root: &Root) -> Vec<String> {
        let all = entries(root).unwrap().into_iter();
        let mut names: Vec<_> = all.map(|(name, _)| name).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_not_there_is_told_from_what_is_ambiguous() {
        let (_temp, root) = root();
        for (id, name) in [("ab1", "one"), ("ab2", "two")] {
            let id = format!("{id:0<ID_LEN$}");
            let folder = Folder::of(&root, &id);
            std::fs::create_dir(folder.path()).unwrap();
            let config = ContainerConfig {
                id,
                ..config('a', name, false)
            };
            folder.set_config(&config).unwrap();
            folder.set_state(&ContainerState::created()).unwrap();
        }
        assert_eq!(find(&root, "ab1").unwrap().1.name, "one");
        for (wanted, is_there) in [("ab", true), ("none", false), ("", false)] {
            let error = find(&root, wanted).unwrap_err();
            assert_eq!(
                !error.is::<NoSuchContainer>(),
                is_there,
                "{wanted}: {error}"
            );
        }
    }

    #[test]
    fn of_rm_is_removed_as_soon_as_nobody_holds_its_lock() {
        let (_temp, root) = root();
        let (_, kept) = create(&root, &config('a', "kept", false), true).unwrap();
        let (folder, lock) = create(&root, &config('b', "gone", true), true).unwrap();
        std::fs::write(folder.upper(), "data").unwrap();
        // As on its way to a supervisor that has not begun yet.
        let inherited = Lock::inherited(std::os::fd::OwnedFd::from(lock).into());
        assert_eq!(names(&root), ["gone", "kept"]);
        drop((inherited, kept));
        assert_eq!(names(&root), ["kept"]);
        assert_eq!(files(&root), ["a".repeat(ID_LEN)]);
    }

    #[test]
    fn the_name_of_a_dead_one_of_rm_is_free() {
        let (_temp, root) = root();
        let (_, lock) = create(&root, &config('a', "name", true), true).unwrap();
        let error = create(&root, &config('b', "name", true), true).unwrap_err();
        assert!(error.to_string().contains("already in use"), "{error}");
        drop(lock);
        create(&root, &config('b', "name", true), true).unwrap();
        assert_eq!(files(&root), ["b".repeat(ID_LEN)]);
    }

    #[test]
    fn what_a_killed_command_left_half_made_or_half_removed_goes() {
        let (_temp, root) = root();
        for name in [".new-a", ".old-b"] {
            let folder = root.containers().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("upper.img"), "data").unwrap();
        }
        for left in ["b".repeat(ID_LEN), ".new-x".to_owned()] {
            let left = configs(&root).join(left);
            std::fs::create_dir_all(&left).unwrap();
            std::fs::write(left.join("config.json"), "{}").unwrap();
        }
        assert_eq!(names(&root), Vec::<String>::new());
        let (folder, _lock) = create(&root, &config('c', "c", false), true).unwrap();
        let id = "c".repeat(ID_LEN);
        assert_eq!(files(&root), std::slice::from_ref(&id));
        let records = || {
            let all = std::fs::read_dir(configs(&root)).unwrap();
            let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(records(), [id].into());
        // In its folder, where its supervisor may write, there is none.
        for name in ["config.json", "lock"] {
            assert!(!folder.path().join(name).exists());
        }
        folder.remove().unwrap();
        assert_eq!(records().len(), 0);
    }

    #[test]
    fn a_folder_that_can_not_be_made_leaves_nothing() {
        let (_temp, root) = root();
        let config = config('a', "a", false);
        let taken = root.containers().join(&config.id);
        std::fs::create_dir(&taken).unwrap();
        std::fs::write(taken.join("file"), "").unwrap();
        Folder::of(&root, &config.id)
            .create(&config, true)
            .unwrap_err();
        assert_eq!(files(&root), [config.id]);
    }

    #[test]
    fn one_whose_lock_is_held_is_removed_by_force_only() {
        let (_temp, root) = root();
        let config = config('a', "a", false);
        let (folder, lock) = create(&root, &config, true).unwrap();
        let error = remove(&folder, &config, false).unwrap_err();
        assert!(
            error.to_string().contains("container is running"),
            "{error}"
        );
        // Its supervisor ends before it could be killed.
        let end = std::thread::spawn(move || {
            std::thread::sleep(LOCK_POLL * 4);
            drop(lock);
        });
        remove(&folder, &config, true).unwrap();
        end.join().unwrap();
        assert_eq!(files(&root), Vec::<String>::new());
        remove(&folder, &config, false).unwrap();
    }

    #[test]
    fn a_process_that_a_lock_names_and_that_has_it_not_is_left_alone() {
        let (_temp, root) = root();
        let config = config('a', "a", false);
        let (folder, _lock) = create(&root, &config, true).unwrap();
        let stranger = std::process::Command::new("sleep").arg("600").spawn();
        let mut stranger = stranger.unwrap();
        let id = stranger.id();
        std::fs::write(folder.lock_path(), id.to_string()).unwrap();
        let error = remove(&folder, &config, true).unwrap_err().to_string();
        assert!(error.contains("does not say which one"), "{error}");
        assert!(folder.path().exists() && stranger.try_wait().unwrap().is_none());
        // Nor is one that it calls the VM of a command.
        std::fs::write(folder.lock_path(), format!("{id} files {id}")).unwrap();
        let error = remove(&folder, &config, true).unwrap_err().to_string();
        assert!(error.contains("does not say which one"), "{error}");
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn its_first_state_is_created() {
        let (_temp, root) = root();
        let (folder, _lock) = create(&root, &config('a', "a", false), true).unwrap();
        let state = folder.true_state().unwrap();
        assert_eq!(state.status, ContainerState::created().status);
        assert_eq!(
            Holder::read(&folder.open_lock().unwrap()).unwrap(),
            Holder::Unsigned
        );
    }

    #[test]
    fn ids_are_sixty_four_lower_case_hex_digits() {
        assert!(is_full_id(&"a0".repeat(32)));
        for wrong in [
            "",
            "a0",
            &"A0".repeat(32),
            &"g0".repeat(32),
            &"a".repeat(65),
        ] {
            assert!(!is_full_id(wrong), "{wrong}");
        }
    }
}
