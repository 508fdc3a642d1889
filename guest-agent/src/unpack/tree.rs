//! The layer's tree in memory. Names are bytes and keys, nothing else: a path is walked here and
//! nowhere else.

use std::collections::BTreeMap;

use super::UnpackError;

/// Index of an inode in the tree.
pub(super) type InodeId = u32;

/// The root directory.
pub(super) const ROOT: InodeId = 0;

/// File type bits of a mode (`<sys/stat.h>`).
pub(super) const S_IFMT: u16 = 0o170_000;
pub(super) const S_IFIFO: u16 = 0o010_000;
pub(super) const S_IFCHR: u16 = 0o020_000;
pub(super) const S_IFDIR: u16 = 0o040_000;
pub(super) const S_IFBLK: u16 = 0o060_000;
pub(super) const S_IFREG: u16 = 0o100_000;
pub(super) const S_IFLNK: u16 = 0o120_000;

/// Bytes of a name in a directory (`NAME_MAX`, and EROFS's own limit).
pub(super) const NAME_MAX: usize = 255;

/// Symbolic links followed on the way to one name, as the kernel does.
const HOPS_MAX: u32 = 40;

/// Components of one path: deeper trees can't be named by any program (`PATH_MAX` is 4096).
const DEPTH_MAX: usize = 2048;

/// What every inode has.
#[derive(Debug, Clone, Default)]
pub(super) struct Metadata {
    /// Permissions; the type bits come from [`Kind`].
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Full names and values, sorted by name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A run of blocks on the output that holds a run of blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// First block in the file.
    pub(super) from: u32,
    /// First block on the output.
    pub(super) block: u32,
    /// How many.
    pub(super) count: u32,
}

/// Content of a regular file.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) size: u64,
    /// In order; what no extent covers is a hole.
    pub(super) extents: Vec<Extent>,
    /// The last, partial block, when it is kept with the inode.
    pub(super) tail: Vec<u8>,
}

/// What an inode is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Directory(Directory),
    File(Content),
    Symlink(Vec<u8>),
    /// Character or block device, or a fifo: type bits and device number.
    Special {
        type_bits: u16,
        major: u32,
        minor: u32,
    },
}

/// A directory.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) entries: BTreeMap<Vec<u8>, InodeId>,
    pub(super) parent: InodeId,
    /// It hides what lies below it in lower layers.
    pub(super) opaque: bool,
    /// No entry of the tar describes it.
    pub(super) implied: bool,
}

/// One inode.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) metadata: Metadata,
    pub(super) kind: Kind,
    /// Names that lead to it, for anything but a directory.
    pub(super) links: u32,
}

impl Inode {
    /// Whether it is overlayfs's mark for a name that is gone.
    fn is_whiteout(&self) -> bool {
        matches!(
            self.kind,
            Kind::Special {
                type_bits: S_IFCHR,
                major: 0,
                minor: 0
            }
        )
    }
}

/// The tree.
pub(super) struct Tree {
    pub(super) inodes: Vec<Inode>,
    /// Inodes at most.
    limit: u64,
}

/// Mode of a directory that the tar does not describe.
const IMPLIED_MODE: u16 = 0o755;

fn directory(parent: InodeId, implied: bool, metadata: Metadata) -> Inode {
    Inode {
        metadata,
        kind: Kind::Directory(Directory {
            entries: BTreeMap::new(),
            parent,
            opaque: false,
            implied,
        }),
        links: 1,
    }
}

impl Tree {
    /// A root directory; `limit` inodes at most.
    pub(super) fn new(limit: u64) -> Self {
        let root = Metadata {
            mode: IMPLIED_MODE,
            ..Metadata::default()
        };
        Self {
            inodes: vec![directory(ROOT, true, root)],
            limit,
        }
    }

    /// Inodes that have a name.
    pub(super) fn inode_count(&self) -> u64 {
        self.inodes.iter().filter(|inode| inode.links > 0).count() as u64
    }

    pub(super) fn inode(&self, id: InodeId) -> Result<&Inode, UnpackError> {
        usize::try_from(id)
            .ok()
            .and_then(|index| self.inodes.get(index))
            .ok_or_else(lost)
    }

    pub(super) fn inode_mut(&mut self, id: InodeId) -> Result<&mut Inode, UnpackError> {
        usize::try_from(id)
            .ok()
            .and_then(|index| self.inodes.get_mut(index))
            .ok_or_else(lost)
    }

    fn add(&mut self, inode: Inode) -> Result<InodeId, UnpackError> {
        let limit = self.limit;
        let id = InodeId::try_from(self.inodes.len())
            .ok()
            .filter(|id| u64::from(*id) < limit)
            .ok_or(UnpackError::Limit {
                what: "entries",
                limit,
            })?;
        self.inodes.push(inode);
        Ok(id)
    }

    fn child(&self, parent: InodeId, name: &[u8]) -> Result<Option<InodeId>, UnpackError> {
        match &self.inode(parent)?.kind {
            Kind::Directory(directory) => Ok(directory.entries.get(name).copied()),
            _ => Ok(None),
        }
    }

    fn directory_mut(&mut self, id: InodeId) -> Result<&mut Directory, UnpackError> {
        match &mut self.inode_mut(id)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(lost()),
        }
    }

    /// The directory that `path` leads to, made where it is missing. Symbolic links on the way are
    /// followed within this tree, as if its root were `/`.
    pub(super) fn make_directories(&mut self, path: &[Vec<u8>]) -> Result<InodeId, UnpackError> {
        let mut pending: Vec<Vec<u8>> = path.iter().rev().cloned().collect();
        let mut at = ROOT;
        let mut hops = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                at = match &self.inode(at)?.kind {
                    Kind::Directory(directory) => directory.parent,
                    _ => return Err(lost()),
                };
                continue;
            }
            let found = self.child(at, &name)?;
            let Some(next) = found else {
                at = self.add_directory(
                    at,
                    name,
                    true,
                    Metadata {
                        mode: IMPLIED_MODE,
                        ..Metadata::default()
                    },
                )?;
                continue;
            };
            let inode = self.inode(next)?;
            match &inode.kind {
                Kind::Directory(_) => at = next,
                Kind::Symlink(target) => {
                    hops += 1;
                    if hops > HOPS_MAX {
                        return Err(UnpackError::corrupt(format!(
                            "more than {HOPS_MAX} symbolic links on the way to {}",
                            super::shown(&path.join(&b'/'))
                        )));
                    }
                    let target = target.clone();
                    if target.first() == Some(&b'/') {
                        at = ROOT;
                    }
                    let parts = split(&target)?;
                    if pending.len() + parts.len() > DEPTH_MAX {
                        return Err(too_deep(&target));
                    }
                    pending.extend(parts.into_iter().rev());
                }
                _ if inode.is_whiteout() => {
                    self.unlink(at, &name)?;
                    let metadata = Metadata {
                        mode: IMPLIED_MODE,
                        ..Metadata::default()
                    };
                    at = self.add_directory(at, name, true, metadata)?;
                    // What a lower layer has under this name stays hidden.
                    self.directory_mut(at)?.opaque = true;
                }
                _ => {
                    return Err(UnpackError::corrupt(format!(
                        "{} is no directory, and an entry lies below it",
                        super::shown(&name)
                    )));
                }
            }
        }
        Ok(at)
    }

    fn add_directory(
        &mut self,
        parent: InodeId,
        name: Vec<u8>,
        implied: bool,
        metadata: Metadata,
    ) -> Result<InodeId, UnpackError> {
        let id = self.add(directory(parent, implied, metadata))?;
        self.directory_mut(parent)?.entries.insert(name, id);
        Ok(id)
    }

    /// Puts a directory under `name`: over an existing one only the metadata changes.
    pub(super) fn put_directory(
        &mut self,
        parent: InodeId,
        name: Vec<u8>,
        metadata: Metadata,
    ) -> Result<(), UnpackError> {
        if let Some(id) = self.child(parent, &name)? {
            let inode = self.inode_mut(id)?;
            let whiteout = inode.is_whiteout();
            if let Kind::Directory(directory) = &mut inode.kind {
                directory.implied = false;
                inode.metadata = metadata;
                return Ok(());
            }
            self.unlink(parent, &name)?;
            let id = self.add_directory(parent, name, false, metadata)?;
            // The whiteout said that nothing of lower layers is to be seen here.
            self.directory_mut(id)?.opaque = whiteout;
            return Ok(());
        }
        self.add_directory(parent, name, false, metadata).map(drop)
    }

    /// Describes the root directory.
    pub(super) fn put_root(&mut self, metadata: Metadata) -> Result<(), UnpackError> {
        let root = self.inode_mut(ROOT)?;
        root.metadata = metadata;
        if let Kind::Directory(directory) = &mut root.kind {
            directory.implied = false;
        }
        Ok(())
    }

    /// Puts anything but a directory under `name`, in place of what was there.
    pub(super) fn put(
        &mut self,
        parent: InodeId,
        name: Vec<u8>,
        metadata: Metadata,
        kind: Kind,
    ) -> Result<(), UnpackError> {
        self.unlink(parent, &name)?;
        let id = self.add(Inode {
            metadata,
            kind,
            links: 1,
        })?;
        self.directory_mut(parent)?.entries.insert(name, id);
        Ok(())
    }

    /// Marks `name` as gone, unless this very layer has it.
    pub(super) fn put_whiteout(
        &mut self,
        parent: InodeId,
        name: Vec<u8>,
    ) -> Result<(), UnpackError> {
        if self.child(parent, &name)?.is_some() {
            return Ok(());
        }
        let kind = Kind::Special {
            type_bits: S_IFCHR,
            major: 0,
            minor: 0,
        };
        self.put(parent, name, Metadata::default(), kind)
    }

    /// Hides what lower layers have in this directory.
    pub(super) fn make_opaque(&mut self, id: InodeId) -> Result<(), UnpackError> {
        self.directory_mut(id)?.opaque = true;
        Ok(())
    }

    /// Gives the file at `target` another name.
    pub(super) fn link(
        &mut self,
        parent: InodeId,
        name: Vec<u8>,
        target: &[Vec<u8>],
    ) -> Result<(), UnpackError> {
        let missing = || {
            UnpackError::corrupt(format!(
                "hard link {} to {}, which this layer does not have",
                super::shown(&name),
                super::shown(&target.join(&b'/'))
            ))
        };
        let (last, path) = target.split_last().ok_or_else(missing)?;
        let folder = self.find_directory(path)?.ok_or_else(missing)?;
        let id = self.child(folder, last)?.ok_or_else(missing)?;
        let inode = self.inode(id)?;
        if matches!(inode.kind, Kind::Directory(_)) || inode.is_whiteout() {
            return Err(missing());
        }
        if self.child(parent, &name)? == Some(id) {
            return Ok(());
        }
        self.unlink(parent, &name)?;
        let inode = self.inode_mut(id)?;
        // Each link is an entry, of which there are far fewer than 2^32.
        inode.links = inode.links.saturating_add(1);
        self.directory_mut(parent)?.entries.insert(name, id);
        Ok(())
    }

    /// As [`Self::make_directories`], making nothing.
    fn find_directory(&self, path: &[Vec<u8>]) -> Result<Option<InodeId>, UnpackError> {
        let mut pending: Vec<Vec<u8>> = path.iter().rev().cloned().collect();
        let (mut at, mut hops) = (ROOT, 0);
        while let Some(name) = pending.pop() {
            if name == b".." {
                if let Kind::Directory(directory) = &self.inode(at)?.kind {
                    at = directory.parent;
                }
                continue;
            }
            let Some(next) = self.child(at, &name)? else {
                return Ok(None);
            };
            match &self.inode(next)?.kind {
                Kind::Directory(_) => at = next,
                Kind::Symlink(target) if hops < HOPS_MAX => {
                    hops += 1;
                    if target.first() == Some(&b'/') {
                        at = ROOT;
                    }
                    let parts = split(target)?;
                    if pending.len() + parts.len() > DEPTH_MAX {
                        return Err(too_deep(target));
                    }
                    pending.extend(parts.into_iter().rev());
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Takes the name away, and everything below it when it is a directory.
    fn unlink(&mut self, parent: InodeId, name: &[u8]) -> Result<(), UnpackError> {
        let Some(id) = self.directory_mut(parent)?.entries.remove(name) else {
            return Ok(());
        };
        let mut doomed = vec![id];
        while let Some(id) = doomed.pop() {
            let inode = self.inode_mut(id)?;
            inode.links = inode.links.saturating_sub(1);
            if inode.links > 0 {
                continue;
            }
            match &mut inode.kind {
                Kind::Directory(directory) => {
                    doomed.extend(std::mem::take(&mut directory.entries).into_values());
                }
                Kind::File(content) => *content = Content::default(),
                Kind::Symlink(_) | Kind::Special { .. } => {}
            }
            inode.metadata.xattrs = Vec::new();
        }
        Ok(())
    }
}

/// The components of a path, without empty ones and `.`.
pub(super) fn split(path: &[u8]) -> Result<Vec<Vec<u8>>, UnpackError> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        if part.is_empty() || part == b"." {
            continue;
        }
        if part.len() > NAME_MAX {
            return Err(UnpackError::corrupt(format!(
                "a name of {} bytes, the limit is {NAME_MAX}: {}",
                part.len(),
                super::shown(part)
            )));
        }
        if part.contains(&0) {
            return Err(UnpackError::corrupt(format!(
                "a NUL byte in the name {}",
                super::shown(part)
            )));
        }
        if parts.len() == DEPTH_MAX {
            return Err(too_deep(path));
        }
        parts.push(part.to_vec());
    }
    Ok(parts)
}

/// As [`split`], with `..` taken back as in a shell; `None` when it leads out of the root.
pub(super) fn split_clean(path: &[u8]) -> Result<Option<Vec<Vec<u8>>>, UnpackError> {
    let mut clean: Vec<Vec<u8>> = Vec::new();
    for part in split(path)? {
        if part == b".." {
            if clean.pop().is_none() {
                return Ok(None);
            }
        } else {
            clean.push(part);
        }
    }
    Ok(Some(clean))
}

fn too_deep(path: &[u8]) -> UnpackError {
    UnpackError::corrupt(format!(
        "a path of more than {DEPTH_MAX} parts: {}",
        super::shown(path)
    ))
}

/// Our own bookkeeping is wrong; unpacking stops rather than writing nonsense.
fn lost() -> UnpackError {
    UnpackError::corrupt("the layer's tree is inconsistent")
}
