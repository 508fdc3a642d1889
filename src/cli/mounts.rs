//! All mounts of a container: of the flags, of other containers, of the image. Called by `run`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::flags::Flags;
use super::values::device;
use super::values::mount::{self, Attachment};
use crate::sandbox::containers;
use crate::sandbox::paths::Root;
use crate::sandbox::volumes::{Mount, Origin, Volumes, Wanted};

/// What the flags say of mounts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// `-v` and `--mount`.
    pub wanted: Vec<Wanted>,
    /// `--tmpfs` and `--mount type=tmpfs`: path to options.
    pub tmpfs: BTreeMap<String, String>,
    /// `--volumes-from`: container, and whether its mounts are read-only here.
    pub from: Vec<(String, bool)>,
}

impl MountOptions {
    /// Reads the flags.
    ///
    /// # Errors
    /// Docker's sentence for the first value that is wrong, or a target that is named twice.
    pub fn parse(flags: &Flags) -> Result<Self> {
        let mut options = Self {
            from: flags.each("volumes-from", mount::volumes_from)?,
            ..Self::default()
        };
        if let Some(driver) = flags.text("volume-driver") {
            mount::check_driver(&driver)?;
        }
        let mut targets = BTreeSet::new();
        let mut take = |target: &str| {
            if targets.insert(target.to_owned()) {
                return Ok(());
            }
            bail!("Duplicate mount point: {target}")
        };
        let mut texts = BTreeSet::new();
        for text in flags.list("volume") {
            // The same once more is the same, as in Docker.
            if !texts.insert(text.clone()) {
                continue;
            }
            let wanted = mount::volume(&text)?;
            take(&wanted.target)?;
            options.wanted.push(wanted);
        }
        for attachment in flags.each("mount", mount::mount)? {
            match attachment {
                Attachment::Shared(wanted) => {
                    take(&wanted.target)?;
                    options.wanted.push(wanted);
                }
                Attachment::Tmpfs(target, words) => {
                    take(&target)?;
                    options.tmpfs.insert(target, words);
                }
            }
        }
        let mut own = BTreeMap::new();
        for text in flags.list("tmpfs") {
            // The last one counts, as in Docker.
            let (target, words) = device::tmpfs(&text)?;
            own.insert(target, words);
        }
        for (target, words) in own {
            take(&target)?;
            options.tmpfs.insert(target, words);
        }
        Ok(options)
    }

    /// The container's mounts: other containers' first, then the flags', then the image's where
    /// nothing else is.
    ///
    /// # Errors
    /// When a container is not there, a path is missing or a volume can't be made.
    pub fn resolve(
        &self,
        root: &Root,
        volumes: &Volumes,
        of_image: &[String],
        goes_with: Option<&str>,
    ) -> Result<Vec<Mount>> {
        let mut taken: BTreeSet<String> = self.tmpfs.keys().cloned().collect();
        taken.extend(self.wanted.iter().map(|wanted| wanted.target.clone()));
        let mut mounts: Vec<Mount> = Vec::new();
        for (container, read_only) in &self.from {
            let (_, config) = containers::find(root, container)?;
            for mut mount in config.launch.mounts {
                mount.read_only |= read_only;
                mount.origin = Origin::Other;
                // As in Docker, whose words of another container are not this one's.
                mount.mode = String::new();
                mounts.retain(|other| other.target != mount.target);
                if !taken.contains(&mount.target) {
                    mounts.push(mount);
                }
            }
        }
        taken.extend(mounts.iter().map(|mount| mount.target.clone()));
        let mut wanted = self.wanted.clone();
        for path in of_image {
            let volume = mount::of_image(path)?;
            if taken.insert(volume.target.clone()) {
                wanted.push(volume);
            }
        }
        mounts.extend(volumes.resolve(&wanted, goes_with)?);
        Ok(mounts)
    }
}
