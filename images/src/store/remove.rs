//! `rmi`: which names go, whether the image goes, and Docker's reasons to refuse.
//!
//! Used by the command through [`Store::remove`]. The decision is pure (index and containers in, index
//! and lines out); removing the content is left to `collect`.

use std::collections::BTreeSet;

use thiserror::Error;

use super::index::{Entry, Index, Match};
use super::{Collected, Store, StoreError};
use crate::digest::Digest;
use crate::image::{Image, Layer};
use crate::layers::LayerKey;
use crate::reference::Reference;

/// Whether soft conflicts count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Every conflict refuses.
    No,
    /// `-f`: only a running container keeps an image.
    Yes,
}

/// A container and what it needs of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUse {
    /// As messages show it: 12 hex digits.
    pub container: String,
    /// The id of its image.
    pub image: Digest,
    /// Its layer disks.
    pub layers: Vec<LayerKey>,
    /// Whether it runs.
    pub running: bool,
}

/// A line of `rmi`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone.
    Untagged(Reference),
    /// An image, or one of its layers as stored, is gone.
    Deleted(Digest),
}

impl std::fmt::Display for Removed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Untagged(name) => write!(out, "Untagged: {}", name.familiar()),
            Self::Deleted(digest) => write!(out, "Deleted: {digest}"),
        }
    }
}

/// What [`Store::remove_unused`] did.
#[derive(Debug, Default)]
pub struct Unused {
    /// The images that went, with what `rmi` would say of each.
    pub removed: Vec<(Digest, Vec<Removed>)>,
    /// Images that stay, as somebody may be about to use them.
    pub postponed: usize,
}

/// Why an image stays. The messages are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RemoveError {
    /// Its last name, and a container uses it.
    #[error(
        "conflict: unable to remove repository reference \"{reference}\" (must force) - \
         container {container} is using its referenced image {image}"
    )]
    ReferenceInUse {
        /// What was to be removed, as typed.
        reference: String,
        /// Short id of a container.
        container: String,
        /// Short id.
        image: String,
    },
    /// A running container uses it; not even `-f` helps.
    #[error(
        "conflict: unable to delete {image} (cannot be forced) - image is being used by running container {container}"
    )]
    Running {
        /// Short id.
        image: String,
        /// Short id of a container.
        container: String,
    },
    /// A stopped container uses it.
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is being used by stopped container {container}"
    )]
    Stopped {
        /// Short id.
        image: String,
        /// Short id of a container.
        container: String,
    },
    /// An id was given, and it has names in several repositories.
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is referenced in multiple repositories"
    )]
    Referenced {
        /// Short id.
        image: String,
    },
}

impl Store {
    /// Removes a name, or an image by its id, as `docker rmi` does. `containers` lists what containers
    /// use; it is asked twice, the second time when nothing can start any more. It must not call the store.
    ///
    /// Content is removed at once, or by a later call where a pull or start is on its way.
    pub fn remove(
        &self,
        target: &str,
        force: Force,
        containers: &dyn Fn()
            -> Result<Vec<ContainerUse>, Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<Vec<Removed>, StoreError> {
        let mut layers = Vec::new();
        let mut has_surplus = false;
        let mut removed = self.change(|index| {
            let uses = containers().map_err(StoreError::Containers)?;
            let id = index.resolve(target)?.id();
            for entry in index.of_id(&id) {
                // A damaged image can be removed too; its layers are just not listed then.
                let image = self.read_entry(entry);
                layers.extend(image.into_iter().flat_map(|image| image.layers));
            }
            let nameless = |index: &Index| -> BTreeSet<Digest> {
                let entries = index.nameless();
                entries.map(|entry| entry.manifest.digest).collect()
            };
            let mut kept = nameless(index);
            let lines = remove(index, target, force, &uses)?;
            // What lost its last name just now goes, though others of its id stay.
            let used = index.nameless().filter(|entry| self.is_used(entry, &uses));
            kept.extend(used.map(|entry| entry.manifest.digest));
            has_surplus = index.drop_nameless(&kept);
            Ok(lines)
        })?;
        let is_gone = removed
            .iter()
            .any(|line| matches!(line, Removed::Deleted(_)));
        if (is_gone || has_surplus)
            && let Collected::Done { blobs, .. } = self.collect(containers)?
        {
            // Those of an image that stays are not told: to who reads on they would be the image's end.
            let of_image =
                |blob: &Digest| is_gone && layers.iter().any(|layer| layer.blob == *blob);
            removed.extend(blobs.into_iter().filter(of_image).map(Removed::Deleted));
        }
        Ok(removed)
    }

    /// Removes every image that `is_meant` holds of and no container uses, and what nobody needs then, as
    /// `docker image prune` does. Names and containers are looked at in the moment of the removal: what got a name
    /// or a container meanwhile stays. While a pull, load or start is on its way, which may have chosen an image,
    /// images with tags stay, and content is left to a later call.
    pub fn remove_unused(
        &self,
        is_meant: &dyn Fn(&Image) -> bool,
        containers: &dyn Fn()
            -> Result<Vec<ContainerUse>, Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<Unused, StoreError> {
        let alone = self.alone()?;
        let mut unused = Unused::default();
        let mut layers = Vec::new();
        let uses = self.change(|index| {
            let uses = containers().map_err(StoreError::Containers)?;
            for id in index.ids() {
                let entry = self.of_id(index, &id);
                // A damaged one is told of by who lists.
                let Ok(image) = entry.and_then(|entry| self.image(index, entry)) else {
                    continue;
                };
                if !is_meant(&image) || uses.iter().any(|user| user.image == id) {
                    continue;
                }
                if alone.is_none() && !index.names(&id).is_empty() {
                    unused.postponed += 1;
                    continue;
                }
                let mut lines = Vec::new();
                for name in index.names(&id) {
                    untag(index, &name, &mut lines);
                }
                index.drop_image(&id);
                lines.push(Removed::Deleted(id));
                layers.push(image.layers);
                unused.removed.push((id, lines));
            }
            Ok(uses)
        })?;
        if let Some(alone) = &alone
            && let Collected::Done { blobs, .. } = self.collect_alone(alone, &uses)?
        {
            let mut gone: BTreeSet<Digest> = blobs.into_iter().collect();
            for ((_, lines), layers) in unused.removed.iter_mut().zip(layers) {
                let own = layers.iter().filter(|layer| gone.remove(&layer.blob));
                lines.extend(own.map(|layer| Removed::Deleted(layer.blob)));
            }
        }
        Ok(unused)
    }

    /// Whether a container was made of the layers of this manifest: a commit of it needs them.
    pub(super) fn is_used(&self, entry: &Entry, uses: &[ContainerUse]) -> bool {
        let mut uses = uses.iter().filter(|user| user.image == entry.id).peekable();
        uses.peek().is_some()
            && self.read_entry(entry).is_ok_and(|image| {
                let layers: Vec<LayerKey> = image.layers.iter().map(Layer::key).collect();
                uses.any(|user| user.layers == layers)
            })
    }
}

fn remove(
    index: &mut Index,
    target: &str,
    force: Force,
    uses: &[ContainerUse],
) -> Result<Vec<Removed>, StoreError> {
    let mut removed = Vec::new();
    let found = index.resolve(target)?;
    let id = found.id();
    let name = match found {
        Match::Name(entry) => entry.name.clone(),
        Match::Id(_) => None,
    };
    let by_name = name.is_some();
    let using = |running: bool| {
        uses.iter()
            .find(|user| user.image == id && user.running == running)
    };
    let image = id.short();

    if let Some(name) = name {
        let user = using(true).or_else(|| using(false));
        if let (Force::No, true, Some(user)) = (force, is_single(&index.names(&id)), user) {
            let (reference, container) = (target.to_owned(), user.container.clone());
            return Err(RemoveError::ReferenceInUse {
                reference,
                container,
                image,
            }
            .into());
        }
        untag(index, &name, &mut removed);
        if name.digest().is_none() {
            untag_orphans(index, &id, &name, &mut removed);
        }
        if !index.names(&id).is_empty() {
            return Ok(removed);
        }
    } else if is_single(&index.names(&id)) {
        check_users(&image, force, using(true), using(false))?;
        for name in index.names(&id) {
            untag(index, &name, &mut removed);
        }
    }

    match check(index, &id, force, using(true), using(false)) {
        // The name is gone, which is what was asked for; the image stays for its container.
        Err(_) if by_name => return Ok(removed),
        other => other?,
    }
    for name in index.names(&id) {
        untag(index, &name, &mut removed);
    }
    index.drop_image(&id);
    removed.push(Removed::Deleted(id));
    Ok(removed)
}

/// Docker's conflicts in Docker's order: a running container, further names, a stopped container.
fn check(
    index: &Index,
    id: &Digest,
    force: Force,
    running: Option<&ContainerUse>,
    stopped: Option<&ContainerUse>,
) -> Result<(), RemoveError> {
    let image = id.short();
    if running.is_none() && force == Force::No && !index.names(id).is_empty() {
        return Err(RemoveError::Referenced { image });
    }
    check_users(&image, force, running, stopped)
}

fn check_users(
    image: &str,
    force: Force,
    running: Option<&ContainerUse>,
    stopped: Option<&ContainerUse>,
) -> Result<(), RemoveError> {
    let image = image.to_owned();
    match (running, stopped, force) {
        (Some(user), _, _) => Err(RemoveError::Running {
            image,
            container: user.container.clone(),
        }),
        (None, Some(user), Force::No) => Err(RemoveError::Stopped {
            image,
            container: user.container.clone(),
        }),
        _ => Ok(()),
    }
}

fn untag(index: &mut Index, name: &Reference, removed: &mut Vec<Removed>) {
    index.untag(name);
    removed.push(Removed::Untagged(name.clone()));
}

/// When the last tag of a repository goes, the names by digest in that repository go with it.
fn untag_orphans(index: &mut Index, id: &Digest, gone: &Reference, removed: &mut Vec<Removed>) {
    let same: Vec<Reference> = index
        .names(id)
        .into_iter()
        .filter(|name| name.repository() == gone.repository())
        .collect();
    if same.iter().all(|name| name.digest().is_some()) {
        for name in same {
            untag(index, &name, removed);
        }
    }
}

/// Whether the names amount to one: one tag, and names by digest in its repository only.
fn is_single(names: &[Reference]) -> bool {
    let mut tags = names.iter().filter(|name| name.digest().is_none());
    let Some(first) = tags.next().or_else(|| names.first()) else {
        return true;
    };
    tags.next().is_none()
        && names
            .iter()
            .all(|name| name.repository() == first.repository())
}

#[cfg(test)]
mod tests;
