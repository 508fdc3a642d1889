//! Volumes: folders of the state root that containers share and that outlive them, as Docker's `local`
//! driver keeps them.
//!
//! ```text
//! <root>/volumes/<name>/_data         what containers see
//!                       volume.json   when and as what it was made
//!                       copying       there while a container fills it from its image, and locked then
//! ```
//! A folder has its name only while it is whole: `.new-<name>` before, `.old-<random>` while it goes.
//! Who makes, uses or removes a volume holds the lock of the folder of volumes, until its container is
//! on record; which container uses which volume is read from their configurations. What is in `_data`
//! is a guest's: it is listed, counted and removed here, never read.
//! Called by the verbs, by [`super::supervisor`] and, for it, by [`super::launcher`].

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use super::containers;
use super::events;
use super::paths::{self, Root};
use super::removal::{self, remove_tree};
use super::state::{NEW, OLD};

/// Label of volumes that nobody named.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// Name of the folder in a volume's that containers see.
const DATA: &str = "_data";

/// Longest record in bytes that is read.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// What a mount is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// A path of the host.
    Bind,
    /// A volume.
    Volume,
}

impl MountKind {
    /// Docker's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
        }
    }
}

/// Where a mount was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// `-v` with a source.
    Bind,
    /// `--mount`.
    Mount,
    /// The image, another container, or `-v` without a source.
    Other,
}

/// A volume or a path of the host in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Which of the two.
    pub kind: MountKind,
    /// The volume's name; empty for a bind.
    pub name: String,
    /// Path on the host, as it was asked for.
    pub source: PathBuf,
    /// The same path without links, as it was when the container was made. Each life has what is there,
    /// so that no guest that may write above it puts a link in its way. Nothing in a container that was
    /// made before this was kept: see [`Self::place`].
    #[serde(default)]
    pub resolved: PathBuf,
    /// Path in the container.
    pub target: String,
    /// Whether the container may not write.
    pub read_only: bool,
    /// The options as they were written, for `inspect`.
    pub mode: String,
    /// Whether an empty volume takes what the image has at the target.
    pub copy_up: bool,
    /// Where it was asked for.
    pub origin: Origin,
    /// Whether its volume was made for it, because none was named.
    #[serde(default)]
    pub anonymous: bool,
}

impl Mount {
    /// The path that is shared. It has to be without links: one that is not is refused when it is shared.
    #[must_use]
    pub fn place(&self) -> &Path {
        match self.resolved.as_os_str().is_empty() {
            true => &self.source,
            false => &self.resolved,
        }
    }

    /// Whether its volume takes the image's content while there is nothing in it.
    #[must_use]
    pub fn wants_content(&self) -> bool {
        self.kind == MountKind::Volume && self.copy_up && !self.read_only
    }
}

/// What is on record of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Unique.
    pub name: String,
    /// RFC 3339.
    pub created: String,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// The container of `--rm` with which it goes.
    #[serde(default)]
    pub goes_with: Option<String>,
}

impl Volume {
    /// Whether nobody named it.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }
}

/// The volumes of a state root, while no other process changes them.
#[derive(Debug)]
pub struct Volumes {
    root: Root,
    folder: PathBuf,
    _alone: Flock<File>,
}

impl Volumes {
    /// Waits for its turn.
    ///
    /// # Errors
    /// When the folder can't be made or locked.
    pub fn lock(root: &Root) -> Result<Self> {
        let folder = root.volumes();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("create {}", folder.display()))?;
        let alone = paths::lock(&folder)?;
        let volumes = Self {
            root: root.clone(),
            folder,
            _alone: alone,
        };
        volumes.sweep()?;
        Ok(volumes)
    }

    /// Removes what killed commands left half made or half removed, and volumes that were to go with
    /// a container that has gone.
    fn sweep(&self) -> Result<()> {
        let mut left = Vec::new();
        for entry in fs::read_dir(&self.folder).context("read the volumes")? {
            let entry = entry.context("read the volumes")?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(NEW) || name.starts_with(OLD) {
                // What can't be removed is in nobody's way.
                let _ = remove_tree(&entry.path());
            } else if let Ok(Volume {
                goes_with: Some(id),
                ..
            }) = self.get(&name)
                && !self.root.containers().join(id).exists()
            {
                left.push(name.into_owned());
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        // By --volumes-from another container may have it.
        let uses = self.uses()?;
        for name in left.iter().filter(|name| !uses.contains_key(*name)) {
            let _ = self.remove_folder(name);
        }
        Ok(())
    }

    /// Where the files of a volume are.
    #[must_use]
    pub fn data(&self, name: &str) -> PathBuf {
        data(&self.root, name)
    }

    /// The volume of this name; made, with these labels, when there is none.
    ///
    /// # Errors
    /// Docker's sentence for a bad name, or when the disk is full.
    pub fn create(&self, name: &str, labels: &BTreeMap<String, String>) -> Result<Volume> {
        check_name(name)?;
        if let Ok(found) = self.get(name) {
            return Ok(found);
        }
        self.make(Volume {
            name: name.to_owned(),
            created: super::clock::now(),
            labels: labels.clone(),
            goes_with: None,
        })
    }

    /// A volume without a name of a person's choice; with `goes_with`, one that goes with that
    /// container of `--rm`.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn create_anonymous(
        &self,
        labels: &BTreeMap<String, String>,
        goes_with: Option<&str>,
    ) -> Result<Volume> {
        let mut labels = labels.clone();
        labels.insert(ANONYMOUS.to_owned(), String::new());
        self.make(Volume {
            name: random_name()?,
            created: super::clock::now(),
            labels,
            goes_with: goes_with.map(str::to_owned),
        })
    }

    fn make(&self, volume: Volume) -> Result<Volume> {
        let name = &volume.name;
        let new = self.folder.join(format!("{NEW}{name}"));
        let about = || format!("create volume {name}");
        let made = DirBuilder::new()
            .mode(0o700)
            .create(&new)
            // Users of the guest go in and out, not of the host: the folder above is private.
            .and_then(|()| DirBuilder::new().mode(0o755).create(new.join(DATA)))
            .and_then(|()| {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(new.join(DATA), fs::Permissions::from_mode(0o755))
            })
            .and_then(|()| {
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(new.join("volume.json"))?;
                file.write_all(&serde_json::to_vec(&volume)?)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&new, self.folder.join(name)));
        made.inspect_err(|_| drop(fs::remove_dir_all(&new)))
            .with_context(about)?;
        events::of_volume(self.root.path(), "create", name, &[]);
        Ok(volume)
    }

    /// A volume by its name.
    ///
    /// # Errors
    /// Docker's sentence when there is none.
    pub fn get(&self, name: &str) -> Result<Volume> {
        let missing = || format!("get {name}: no such volume");
        if check_name(name).is_err() {
            bail!(missing());
        }
        let path = self.folder.join(name).join("volume.json");
        let text = match File::open(&path) {
            Ok(file) => read_limited(file).with_context(|| format!("read {}", path.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(missing()),
            Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
        };
        let volume: Volume =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        // It lies where supervisors of the volume's containers write, and names no other.
        if volume.name != name {
            bail!("{} is of another volume", path.display());
        }
        Ok(volume)
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn list(&self) -> Result<Vec<Volume>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder).context("read the volumes")? {
            let entry = entry.context("read the volumes")?;
            if let Some(name) = entry.file_name().to_str()
                && let Ok(volume) = self.get(name)
            {
                all.push(volume);
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Which containers use which volume: ids by name.
    ///
    /// # Errors
    /// When the containers can't be read.
    pub fn uses(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut uses: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (_, config) in containers::list(&self.root)? {
            for mount in &config.launch.mounts {
                if mount.kind == MountKind::Volume {
                    let ids = uses.entry(mount.name.clone()).or_default();
                    if !ids.contains(&config.id) {
                        ids.push(config.id.clone());
                    }
                }
            }
        }
        Ok(uses)
    }

    /// Removes a volume that no container has.
    ///
    /// # Errors
    /// Docker's sentence when one has, or there is no such volume.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.get(name)?;
        if let Some(ids) = self.uses()?.get(name) {
            bail!("remove {name}: volume is in use - [{}]", ids.join(", "));
        }
        self.remove_folder(name)
    }

    fn remove_folder(&self, name: &str) -> Result<()> {
        let about = || format!("remove volume {name}");
        let (path, old) = (
            self.folder.join(name),
            self.folder.join(format!("{OLD}{}", random_name()?)),
        );
        fs::rename(&path, &old).with_context(about)?;
        if let Err(error) = removal::check(&old, Uid::effective()) {
            // It is whole still.
            fs::rename(&old, &path).with_context(about)?;
            return Err(error).with_context(about);
        }
        events::of_volume(self.root.path(), "destroy", name, &[]);
        remove_tree(&old).with_context(about)
    }

    /// Removes the anonymous volumes of a container that has gone, unless another has them.
    ///
    /// # Errors
    /// The first that could not be removed.
    pub fn remove_anonymous_of(&self, mounts: &[Mount]) -> Result<()> {
        let uses = self.uses()?;
        let mut removed = Ok(());
        for mount in mounts {
            // A volume that somebody named by its digits stays.
            if mount.anonymous
                && !uses.contains_key(&mount.name)
                && self
                    .get(&mount.name)
                    .is_ok_and(|volume| volume.is_anonymous())
            {
                removed = removed.and(self.remove_folder(&mount.name));
            }
        }
        removed
    }

    /// Bytes that a volume takes on the disk.
    #[must_use]
    pub fn disk_bytes(&self, name: &str) -> u64 {
        disk_bytes(&self.data(name))
    }
}

/// 64 hex digits, as Docker names volumes that nobody named.
fn random_name() -> Result<String> {
    use std::fmt::Write as _;
    use std::io::Read as _;
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("read random bytes")?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Where the files of a volume are.
#[must_use]
pub fn data(root: &Root, name: &str) -> PathBuf {
    root.volumes().join(name).join(DATA)
}

/// Has volumes be where they are: the state root may have been moved since a container was made.
pub fn relocate(root: &Root, mounts: &mut [Mount]) {
    let of_volumes = |mount: &&mut Mount| mount.kind == MountKind::Volume;
    for mount in mounts.iter_mut().filter(of_volumes) {
        let source = data(root, &mount.name);
        if mount.source != source {
            let folder = fs::canonicalize(root.volumes());
            let resolved = folder.map(|folder| folder.join(&mount.name).join(DATA));
            mount.resolved = resolved.unwrap_or_default();
            mount.source = source;
        }
    }
}

/// Removes the anonymous volumes of a container that has gone.
///
/// # Errors
/// The first that could not be removed.
pub fn remove_anonymous(root: &Root, mounts: &[Mount]) -> Result<()> {
    let has_volume = |mount: &Mount| mount.kind == MountKind::Volume;
    if mounts.iter().any(has_volume) {
        Volumes::lock(root)?.remove_anonymous_of(mounts)?;
    }
    Ok(())
}

fn read_limited(file: File) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    file.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Blocks of a tree, without following links or going to other file systems.
fn disk_bytes(path: &Path) -> u64 {
    let Ok(top) = fs::symlink_metadata(path) else {
        return 0;
    };
    let (mut bytes, mut queue) = (0_u64, vec![path.to_owned()]);
    while let Some(folder) = queue.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            // overlayfs shows files under other devices than folders.
            if metadata.is_dir() && metadata.dev() != top.dev() {
                continue;
            }
            bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
            if metadata.is_dir() {
                queue.push(entry.path());
            }
        }
    }
    bytes
}

/// Docker's rule for names of volumes.
///
/// # Errors
/// Docker's sentences.
pub fn check_name(name: &str) -> Result<()> {
    if name.len() < 2 {
        bail!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        );
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !first || !name.bytes().all(good) || name.len() > 255 - NEW.len() {
        bail!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
             absolute path"
        );
    }
    Ok(())
}

/// A volume that a container is about to fill from its image. As long as this lives, no other
/// container fills or uses it. Dropped before it has begun, it leaves the volume as it was: whoever
/// finds the marker takes what is in the volume for a half of the image's content.
#[derive(Debug)]
pub struct Filling {
    marker: PathBuf,
    /// Whether the volume was empty, and nobody has begun to fill it.
    is_untouched: bool,
    _lock: Flock<File>,
}

/// What a container with this mount has to do with its volume first.
#[derive(Debug)]
pub enum Fill {
    /// Nothing.
    No,
    /// Fill it.
    Empty(Filling),
    /// Fill it again: the last one did not come to its end.
    Again(Filling),
    /// Wait, and ask again: another container fills it.
    Busy,
}

impl Fill {
    /// Says what is to be done with the volume of `mount`. In the first life of its container
    /// (`is_first`) an empty one is filled; what is emptied later stays so, as with Docker.
    ///
    /// # Errors
    /// When the volume can't be read or the marker be made.
    pub fn begin(mount: &Mount, is_first: bool) -> Result<Self> {
        if mount.kind != MountKind::Volume {
            return Ok(Self::No);
        }
        let marker = mount.source.with_file_name("copying");
        let about = || format!("look at volume {}", mount.name);
        let is_left = marker.exists();
        let is_empty = fs::read_dir(&mount.source)
            .with_context(about)?
            .next()
            .is_none();
        let wants_content = mount.wants_content();
        let is_to_be_filled = is_empty && wants_content && is_first;
        if !is_left && !is_to_be_filled {
            return Ok(Self::No);
        }
        let mut options = OpenOptions::new();
        // One that is there is locked only, for which a supervisor whose container may not write to the
        // volume has the right, too.
        options.read(is_left).write(!is_left).create_new(!is_left);
        let opened = options.mode(0o600).open(&marker);
        let file = match opened {
            // Another container made it, or came to its end and removed it, since it was looked for.
            Err(error)
                if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) =>
            {
                return Self::begin(mount, is_first);
            }
            opened => opened.with_context(about)?,
        };
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => return Ok(Self::Busy),
            lock => lock.map_err(|(_, error)| error).with_context(about)?,
        };
        // Whoever had it may have come to its end meanwhile, and removed the marker.
        let same = fs::metadata(&marker)
            .is_ok_and(|now| lock.metadata().is_ok_and(|ours| ours.ino() == now.ino()));
        if !same {
            return Self::begin(mount, is_first);
        }
        let mut filling = Filling {
            marker,
            is_untouched: !is_left,
            _lock: lock,
        };
        let is_empty = fs::read_dir(&mount.source)
            .with_context(about)?
            .next()
            .is_none();
        // Nobody writes to it here, so that what the marker says stays true.
        if is_empty && mount.read_only {
            return Ok(Self::No);
        }
        // Or another filled it between the first look and our marker.
        if (is_empty && !wants_content) || (!is_empty && !is_left) {
            filling.done()?;
            return Ok(Self::No);
        }
        if !wants_content {
            bail!(
                "volume {} was not filled to its end: mount it once without ro and nocopy",
                mount.name
            );
        }
        filling.is_untouched = is_empty;
        Ok(match is_empty {
            true => Self::Empty(filling),
            false => Self::Again(filling),
        })
    }
}

impl Filling {
    /// From now on there may be something in the volume.
    pub fn begun(&mut self) {
        self.is_untouched = false;
    }

    /// The volume is whole.
    ///
    /// # Errors
    /// When the marker can't be removed.
    pub fn done(mut self) -> Result<()> {
        // Another's marker may be there once ours is gone.
        self.is_untouched = false;
        fs::remove_file(&self.marker).with_context(|| format!("remove {}", self.marker.display()))
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if self.is_untouched {
            let _ = fs::remove_file(&self.marker);
        }
    }
}

mod wanted;

pub use wanted::Wanted;

#[cfg(test)]
mod tests;
