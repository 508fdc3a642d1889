//! The layer's tree in memory. Names are bytes and keys, nothing else: a path is walked here and
//! nowhere else.
//!
//! Filled by [`super::apply`], written out by [`super::erofs`]. It knows neither tar nor EROFS.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::UnpackError;
use super::path::split;
use tarball::Xattr;
use tarball::shown;

/// Index of an inode in the tree.
pub(super) type InodeId = u32;

/// The root directory.
pub(super) const ROOT: InodeId = 0;

/// Symbolic links followed on the way to one name, as the kernel does.
const HOPS_MAX: u32 = 40;

/// Mode of a directory that the tar does not describe, as in Docker.
const IMPLIED_MODE: u16 = 0o755;

/// Bytes of memory for the tree: a converter VM has 2 GiB, of which the small files' contents, a
/// zstd window, the kernel and its page cache take the rest.
const MEMORY_MAX: u64 = 1280 << 20;

/// What a directory's entry takes besides its name: a share of a B-tree's node, and the allocator's
/// rounding.
const DIRENT_MEMORY: usize = 64;

/// What a directory takes besides its inode: a B-tree of one node.
const DIRECTORY_MEMORY: usize = 320;

/// What every inode has.
#[derive(Debug, Clone, Default)]
pub(super) struct Metadata {
    /// Permissions; the type bits come from [`Kind`].
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Xattrs,
}

/// Extended attributes, sorted by name. Many files have the same ones, so they are shared.
pub(super) type Xattrs = Option<Rc<Vec<Xattr>>>;

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

impl Extent {
    /// The first block in the file behind it.
    pub(super) fn end(&self) -> u32 {
        self.from.saturating_add(self.count)
    }
}

/// Where the content of a regular file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    /// From this block of the output on, without a hole.
    Flat { block: u32 },
    /// As [`Self::Flat`], but for the last, partial block: that is kept in memory, in
    /// [`Tree::tails`] from this offset on.
    Tail { block: u32, at: u32 },
    /// In these, in order; what no extent covers is a hole.
    Holes(Box<[Extent]>),
}

/// What an inode is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Directory(Box<Directory>),
    File { size: u64, data: Data },
    Symlink(Box<[u8]>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// overlayfs's mark for a name that is gone.
const WHITEOUT: Kind = Kind::CharDevice { major: 0, minor: 0 };

/// A directory.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) entries: BTreeMap<Box<[u8]>, InodeId>,
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
    /// Names that lead to it; 1 for a directory, 0 when it was replaced.
    pub(super) links: u32,
}

impl Inode {
    fn is_whiteout(&self) -> bool {
        matches!(self.kind, Kind::CharDevice { major: 0, minor: 0 })
    }
}

/// The tree.
pub(super) struct Tree {
    pub(super) inodes: Vec<Inode>,
    /// See [`Data::Tail`].
    pub(super) tails: Vec<u8>,
    xattrs: BTreeSet<Rc<Vec<Xattr>>>,
    /// Inodes at most.
    inodes_max: u64,
    memory: u64,
}

fn implied_metadata() -> Metadata {
    Metadata {
        mode: IMPLIED_MODE,
        ..Metadata::default()
    }
}

fn directory(parent: InodeId, metadata: Metadata) -> Inode {
    Inode {
        metadata,
        kind: Kind::Directory(Box::new(Directory {
            entries: BTreeMap::new(),
            parent,
            opaque: false,
            implied: false,
        })),
        links: 1,
    }
}

impl Tree {
    /// A root directory that nothing describes; `inodes_max` inodes at most.
    pub(super) fn new(inodes_max: u64) -> Self {
        let mut root = directory(ROOT, implied_metadata());
        if let Kind::Directory(root) = &mut root.kind {
            root.implied = true;
        }
        Self {
            inodes: vec![root],
            tails: Vec::new(),
            xattrs: BTreeSet::new(),
            inodes_max,
            memory: 0,
        }
    }

    pub(super) fn inode(&self, id: InodeId) -> Result<&Inode, UnpackError> {
        usize::try_from(id)
            .ok()
            .and_then(|index| self.inodes.get(index))
            .ok_or_else(lost)
    }

    fn inode_mut(&mut self, id: InodeId) -> Result<&mut Inode, UnpackError> {
        usize::try_from(id)
            .ok()
            .and_then(|index| self.inodes.get_mut(index))
            .ok_or_else(lost)
    }

    pub(super) fn directory(&self, id: InodeId) -> Result<&Directory, UnpackError> {
        match &self.inode(id)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(lost()),
        }
    }

    fn directory_mut(&mut self, id: InodeId) -> Result<&mut Directory, UnpackError> {
        match &mut self.inode_mut(id)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(lost()),
        }
    }

    fn child(&self, parent: InodeId, name: &[u8]) -> Result<Option<InodeId>, UnpackError> {
        Ok(self.directory(parent)?.entries.get(name).copied())
    }

    /// Counts memory that is never given back: what a layer replaces again is not worth tracking.
    pub(super) fn take_memory(&mut self, bytes: usize) -> Result<(), UnpackError> {
        self.memory = self.memory.saturating_add(bytes as u64);
        if self.memory > MEMORY_MAX {
            return Err(UnpackError::Limit {
                what: "bytes of memory for names and attributes",
                limit: MEMORY_MAX,
            });
        }
        Ok(())
    }

    /// The same attributes, stored once.
    pub(super) fn share_xattrs(&mut self, xattrs: Vec<Xattr>) -> Result<Xattrs, UnpackError> {
        if xattrs.is_empty() {
            return Ok(None);
        }
        if let Some(same) = self.xattrs.get(&xattrs) {
            return Ok(Some(Rc::clone(same)));
        }
        let bytes = |xattr: &Xattr| xattr.name.len() + xattr.value.len() + DIRENT_MEMORY;
        self.take_memory(xattrs.iter().map(bytes).sum())?;
        let shared = Rc::new(xattrs);
        self.xattrs.insert(Rc::clone(&shared));
        Ok(Some(shared))
    }

    fn add(&mut self, parent: InodeId, name: &[u8], inode: Inode) -> Result<InodeId, UnpackError> {
        let limit = self.inodes_max;
        let id = InodeId::try_from(self.inodes.len())
            .ok()
            .filter(|id| u64::from(*id) < limit)
            .ok_or(UnpackError::Limit {
                what: "entries",
                limit,
            })?;
        self.take_memory(size_of::<Inode>())?;
        self.inodes.push(inode);
        self.name(parent, name, id)?;
        Ok(id)
    }

    fn name(&mut self, parent: InodeId, name: &[u8], id: InodeId) -> Result<(), UnpackError> {
        self.take_memory(name.len() + DIRENT_MEMORY)?;
        self.directory_mut(parent)?.entries.insert(name.into(), id);
        Ok(())
    }

    fn add_directory(
        &mut self,
        parent: InodeId,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<InodeId, UnpackError> {
        self.take_memory(DIRECTORY_MEMORY)?;
        self.add(parent, name, directory(parent, metadata))
    }

    fn add_implied(&mut self, parent: InodeId, name: &[u8]) -> Result<InodeId, UnpackError> {
        let id = self.add_directory(parent, name, implied_metadata())?;
        self.directory_mut(id)?.implied = true;
        Ok(id)
    }

    /// The directory that `path` leads to, made where it is missing.
    pub(super) fn make_directories(&mut self, path: &[&[u8]]) -> Result<InodeId, UnpackError> {
        let mut walk = Walk::new(path);
        while let Some(name) = walk.pending.pop() {
            if walk.step(self, &name)? {
                continue;
            }
            match self.child(walk.at, &name)? {
                None => walk.at = self.add_implied(walk.at, &name)?,
                Some(id) if self.inode(id)?.is_whiteout() => {
                    self.unlink(walk.at, &name)?;
                    walk.at = self.add_implied(walk.at, &name)?;
                    // What lower layers have under this name stays hidden.
                    self.directory_mut(walk.at)?.opaque = true;
                }
                Some(_) => {
                    return Err(UnpackError::corrupt(format!(
                        "{} is no directory, and an entry lies below it",
                        shown(&name)
                    )));
                }
            }
        }
        Ok(walk.at)
    }

    /// As [`Self::make_directories`], making nothing.
    fn find_directory(&self, path: &[&[u8]]) -> Result<Option<InodeId>, UnpackError> {
        let mut walk = Walk::new(path);
        while let Some(name) = walk.pending.pop() {
            if !walk.step(self, &name)? {
                return Ok(None);
            }
        }
        Ok(Some(walk.at))
    }

    /// Puts a directory under `name`: over an existing one only the metadata changes.
    pub(super) fn put_directory(
        &mut self,
        parent: InodeId,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<(), UnpackError> {
        let mut opaque = false;
        if let Some(id) = self.child(parent, name)? {
            let inode = self.inode_mut(id)?;
            if matches!(inode.kind, Kind::Directory(_)) {
                return self.describe(id, metadata);
            }
            // The whiteout said that nothing of lower layers is to be seen here.
            opaque = inode.is_whiteout();
            self.unlink(parent, name)?;
        }
        let id = self.add_directory(parent, name, metadata)?;
        self.directory_mut(id)?.opaque = opaque;
        Ok(())
    }

    /// Gives a directory the metadata that the tar has for it.
    pub(super) fn describe(&mut self, id: InodeId, metadata: Metadata) -> Result<(), UnpackError> {
        self.directory_mut(id)?.implied = false;
        self.inode_mut(id)?.metadata = metadata;
        Ok(())
    }

    /// Puts anything but a directory under `name`, in place of what was there.
    pub(super) fn put(
        &mut self,
        parent: InodeId,
        name: &[u8],
        metadata: Metadata,
        kind: Kind,
    ) -> Result<(), UnpackError> {
        self.take_memory(match &kind {
            Kind::Symlink(target) => target.len(),
            Kind::File {
                data: Data::Holes(extents),
                ..
            } => size_of_val(&**extents),
            _ => 0,
        })?;
        self.unlink(parent, name)?;
        self.add(
            parent,
            name,
            Inode {
                metadata,
                kind,
                links: 1,
            },
        )?;
        Ok(())
    }

    /// Marks `name` as gone from lower layers. What this very layer has under that name stays,
    /// whichever of both comes first (OCI image specification, layer.md).
    pub(super) fn hide(&mut self, parent: InodeId, name: &[u8]) -> Result<(), UnpackError> {
        let Some(id) = self.child(parent, name)? else {
            return self.put_whiteout(parent, name);
        };
        if let Kind::Directory(directory) = &mut self.inode_mut(id)?.kind {
            directory.opaque = true;
        }
        Ok(())
    }

    /// Puts a whiteout under `name`, in place of what was there.
    pub(super) fn put_whiteout(&mut self, parent: InodeId, name: &[u8]) -> Result<(), UnpackError> {
        self.put(parent, name, Metadata::default(), WHITEOUT)
    }

    /// Hides what lower layers have in this directory.
    pub(super) fn make_opaque(&mut self, id: InodeId) -> Result<(), UnpackError> {
        self.directory_mut(id)?.opaque = true;
        Ok(())
    }

    /// Gives what is at `target` another name. As with `link(2)`, a symbolic link that is there is
    /// given the name itself; one on the way is followed.
    pub(super) fn link(
        &mut self,
        parent: InodeId,
        name: &[u8],
        target: &[&[u8]],
    ) -> Result<(), UnpackError> {
        // First, as Docker does: so a link to itself, or to what it replaces, has no target.
        self.unlink(parent, name)?;
        let missing = || {
            UnpackError::corrupt(format!(
                "a hard link to {}, which this layer does not have",
                shown(&target.join(&b'/'))
            ))
        };
        let (last, path) = target.split_last().ok_or_else(missing)?;
        let folder = self.find_directory(path)?.ok_or_else(missing)?;
        let id = self.child(folder, last)?.ok_or_else(missing)?;
        let inode = self.inode_mut(id)?;
        if inode.is_whiteout() {
            return Err(missing());
        }
        if matches!(inode.kind, Kind::Directory(_)) {
            return Err(UnpackError::corrupt(format!(
                "a hard link to the directory {}",
                shown(&target.join(&b'/'))
            )));
        }
        // Each link is an entry, of which there are far fewer than 2^32.
        inode.links = inode.links.saturating_add(1);
        self.name(parent, name, id)
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
            let kind = std::mem::replace(&mut inode.kind, Kind::Fifo);
            inode.metadata.xattrs = None;
            if let Kind::Directory(directory) = kind {
                doomed.extend(directory.entries.into_values());
            }
        }
        Ok(())
    }
}

/// A path being followed within a tree, as if the tree's root were `/`.
struct Walk<'a> {
    /// Components to come, the last first.
    pending: Vec<Cow<'a, [u8]>>,
    at: InodeId,
    hops: u32,
}

impl<'a> Walk<'a> {
    fn new(path: &[&'a [u8]]) -> Self {
        Self {
            pending: path.iter().rev().map(|part| Cow::Borrowed(*part)).collect(),
            at: ROOT,
            hops: 0,
        }
    }

    /// Goes into `name`, or puts where it leads to in front of what is to come. `false` when there
    /// is no directory of this name and no symbolic link.
    fn step(&mut self, tree: &Tree, name: &[u8]) -> Result<bool, UnpackError> {
        let directory = tree.directory(self.at)?;
        if name == b".." {
            self.at = directory.parent;
            return Ok(true);
        }
        let Some(id) = directory.entries.get(name).copied() else {
            return Ok(false);
        };
        match &tree.inode(id)?.kind {
            Kind::Directory(_) => self.at = id,
            Kind::Symlink(target) => {
                self.hops += 1;
                // Targets add up to no more than this many paths either.
                if self.hops > HOPS_MAX {
                    return Err(UnpackError::corrupt(format!(
                        "more than {HOPS_MAX} symbolic links on the way to it, the last one {}",
                        shown(name)
                    )));
                }
                if target.first() == Some(&b'/') {
                    self.at = ROOT;
                }
                let parts = split(target)?.rev();
                self.pending
                    .extend(parts.map(|part| Cow::Owned(part.to_vec())));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Our own bookkeeping is wrong; unpacking stops rather than writing nonsense.
fn lost() -> UnpackError {
    UnpackError::corrupt("the layer's tree is inconsistent")
}
