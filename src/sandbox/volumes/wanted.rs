//! What a user asked for, made into mounts: volumes are found or made, paths of the host checked.
//! `cli/mounts` calls it; before each start the paths are checked again. It knows no flags.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::{DATA, Mount, MountKind, Origin, Volumes};

/// One `-v`, `--mount`, or `VOLUME` of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Path of the host, name of a volume, or nothing for a volume without a name.
    pub source: String,
    /// Which of the two `source` is.
    pub kind: MountKind,
    /// Path in the container, clean.
    pub target: String,
    /// Whether the container may not write.
    pub read_only: bool,
    /// The options as they were written.
    pub mode: String,
    /// Whether an empty volume takes what the image has at the target.
    pub copy_up: bool,
    /// Labels of a volume that is made.
    pub labels: BTreeMap<String, String>,
    /// Where it was asked for; a path of `-v` that is missing is made.
    pub origin: Origin,
}

impl Volumes {
    /// Makes mounts of what is wanted. Volumes without a name that are made go with the container
    /// `goes_with`, if there is one.
    ///
    /// # Errors
    /// Docker's sentence for a path that is missing or a bad name; volumes without a name that were
    /// made are removed then.
    pub fn resolve(&self, wanted: &[Wanted], goes_with: Option<&str>) -> Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        for one in wanted {
            let mount = match one.kind {
                MountKind::Bind => bind(one),
                MountKind::Volume => self.volume(one, goes_with),
            };
            match mount {
                Ok(mount) => mounts.push(mount),
                Err(error) => {
                    // What can't be removed goes with the next prune.
                    let _ = self.remove_anonymous_of(&mounts);
                    return Err(error);
                }
            }
        }
        Ok(mounts)
    }

    fn volume(&self, wanted: &Wanted, goes_with: Option<&str>) -> Result<Mount> {
        let volume = match wanted.source.as_str() {
            "" => self.create_anonymous(&wanted.labels, goes_with)?,
            name => self.create(name, &wanted.labels)?,
        };
        let data = self.data(&volume.name);
        let mount = wanted.mount(volume.name.clone(), data.clone())?;
        // As of the folder of volumes, so of what is in it: no link leads out.
        let place = fs::canonicalize(&self.folder)
            .with_context(|| format!("look at {}", data.display()))?;
        if mount.resolved != place.join(&volume.name).join(DATA) {
            bail!("{} leads through a symbolic link", data.display());
        }
        Ok(mount)
    }
}

impl Wanted {
    fn mount(&self, name: String, source: PathBuf) -> Result<Mount> {
        let resolved = fs::canonicalize(&source)
            .with_context(|| format!("look at mount source {}", source.display()))?;
        Ok(Mount {
            kind: self.kind,
            name,
            source,
            resolved,
            target: self.target.clone(),
            read_only: self.read_only,
            mode: self.mode.clone(),
            copy_up: self.copy_up,
            origin: self.origin,
            anonymous: self.kind == MountKind::Volume && self.source.is_empty(),
        })
    }
}

fn bind(wanted: &Wanted) -> Result<Mount> {
    let path = Path::new(&wanted.source);
    check_source(path, wanted.origin, |path| fs::create_dir_all(path))?;
    wanted.mount(String::new(), path.to_owned())
}

impl Mount {
    /// Looks whether a path of the host is there and can be shared, as before each start. One of `-v`
    /// that is missing is made.
    ///
    /// # Errors
    /// Docker's sentence for one of `--mount` that is missing; a kind of file that can't cross.
    pub fn check_source(&self) -> Result<()> {
        match self.kind {
            MountKind::Bind => {
                self.check_links()?;
                check_source(self.place(), self.origin, make_without_links)
            }
            MountKind::Volume => Ok(()),
        }
    }

    /// No folder on the way has become a link since the container was made.
    fn check_links(&self) -> Result<()> {
        for path in self.place().ancestors() {
            match fs::symlink_metadata(path) {
                Ok(metadata) if metadata.is_symlink() => bail!(
                    "bind source {} leads through a symbolic link that was not there when the \
                     container was made: {}",
                    self.source.display(),
                    path.display()
                ),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Makes folders, none of them through a link: between two looks somebody may have put one there.
pub(super) fn make_without_links(path: &Path) -> std::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = rustix::fs::open("/", flags, Mode::empty())?;
    for name in path.components().skip(1) {
        let name = name.as_os_str();
        match mkdirat(&folder, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        folder = openat(&folder, name, flags, Mode::empty())?;
    }
    Ok(())
}

fn check_source(
    path: &Path,
    origin: Origin,
    make: impl FnOnce(&Path) -> std::io::Result<()>,
) -> Result<()> {
    let kind = match fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if origin == Origin::Mount {
                bail!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    path.display()
                );
            }
            make(path).with_context(|| {
                format!(
                    "error while creating mount source path '{}'",
                    path.display()
                )
            })?;
            return Ok(());
        }
        Err(error) => {
            return Err(error).with_context(|| format!("look at mount source {}", path.display()));
        }
    };
    let is = if kind.is_socket() {
        "a socket, behind which is a process of the host"
    } else if kind.is_fifo() {
        "a pipe, whose other end is on the host"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device of the host"
    } else {
        return Ok(());
    };
    bail!(
        "bind source {} is not supported: it is {is}, out of a VM's reach",
        path.display()
    )
}
