//! What each inode looks like in the image, before anything is written: its header, attributes,
//! and how much follows it.
//!
//! Called by [`super`], twice for each inode: when it is given its place and when it is written.

use std::borrow::Cow;

use super::super::UnpackError;
use super::super::output::BLOCK;
use super::super::tree::{Data, Extent, Inode, InodeId, Kind, ROOT, Tree};
use super::directory::Names;
use super::format::{CHUNK_BITS_MAX, CHUNK_LEN, DataLayout, InodeHeader, NO_BLOCK, device};
use super::xattr;
use tarball::Xattr;

/// File type bits of a mode (`<sys/stat.h>`).
const S_IFIFO: u16 = 0o010_000;
const S_IFCHR: u16 = 0o020_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFBLK: u16 = 0o060_000;
const S_IFREG: u16 = 0o100_000;
const S_IFLNK: u16 = 0o120_000;

/// What overlayfs reads on a directory that hides lower layers.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// What the agent reads on a directory that the tar has no entry for: its metadata is invented, and
/// hides what lower layers say of it. On the root, how many there are, in decimal digits, so that
/// nobody searches a layer without.
const IMPLIED: &[u8] = b"trusted.bulkhead.implied";
const IMPLIED_COUNT: &[u8] = b"trusted.bulkhead.implied_count";

/// An inode as it will be written.
pub(super) struct Shape {
    pub(super) header: InodeHeader,
    pub(super) xattrs: Vec<u8>,
    /// Bytes behind inode and attributes: the last block's content, or the map of chunks.
    pub(super) behind: u64,
    /// Blocks of content that are written ahead of the inodes. Those of files are there already.
    pub(super) blocks_ahead: u32,
}

/// What all shapes depend on.
pub(super) struct Shapes {
    /// Directories that the tar has no entry for.
    pub(super) implied_count: u64,
}

impl Shapes {
    /// The shape of inode `id`; content that is written ahead of the inodes begins at `ahead`.
    pub(super) fn shape(&self, tree: &Tree, id: InodeId, ahead: u32) -> Result<Shape, UnpackError> {
        let inode = tree.inode(id)?;
        let xattrs = xattr::encode(&self.xattrs(inode, id))?;
        // An inode of the longer form is assumed.
        let room = (BLOCK as u64).saturating_sub(64 + xattrs.len() as u64);
        let mut shape = Shape {
            header: InodeHeader {
                layout: DataLayout::FlatPlain,
                xattr_len: xattrs.len(),
                mode: type_bits(&inode.kind) | inode.metadata.mode,
                size: 0,
                union: NO_BLOCK,
                number: 0,
                uid: inode.metadata.uid,
                gid: inode.metadata.gid,
                mtime: inode.metadata.mtime,
                links: inode.links,
            },
            xattrs,
            behind: 0,
            blocks_ahead: 0,
        };
        match &inode.kind {
            Kind::Directory(directory) => {
                shape.header.links = subdirectories(tree, id)?.saturating_add(2);
                shape.made_content(Names::of(directory, id).len(), room, ahead)?;
            }
            Kind::Symlink(target) => shape.made_content(target.len() as u64, room, ahead)?,
            Kind::File { size, data } => shape.file(*size, data),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                shape.header.union = device(*major, *minor);
            }
            Kind::Fifo => {}
        }
        Ok(shape)
    }

    /// The inode's attributes, and those that say what a directory's flags say.
    fn xattrs<'a>(&self, inode: &'a Inode, id: InodeId) -> Cow<'a, [Xattr]> {
        let own: &[Xattr] = inode.metadata.xattrs.as_deref().map_or(&[], |own| own);
        let Kind::Directory(directory) = &inode.kind else {
            return Cow::Borrowed(own);
        };
        let count = self.implied_count.to_string();
        let marks = [
            (directory.opaque, OPAQUE, "y"),
            (directory.implied, IMPLIED, "y"),
            (id == ROOT && self.implied_count > 0, IMPLIED_COUNT, &count),
        ];
        let mut all = Cow::Borrowed(own);
        for (_, name, value) in marks.iter().filter(|(set, ..)| *set) {
            all.to_mut().push(Xattr {
                name: name.to_vec(),
                value: value.as_bytes().to_vec(),
            });
        }
        all
    }
}

impl Shape {
    /// Content of `size` bytes that is made here: the last block behind the inode if there is
    /// `room`, the others ahead of all inodes.
    fn made_content(&mut self, size: u64, room: u64, ahead: u32) -> Result<(), UnpackError> {
        let tail = size % BLOCK as u64;
        let mut blocks = size / BLOCK as u64;
        if tail > 0 && tail <= room {
            self.header.layout = DataLayout::FlatInline;
            self.behind = tail;
        } else {
            blocks += u64::from(tail > 0);
        }
        self.header.size = size;
        self.blocks_ahead = u32::try_from(blocks)
            .map_err(|_| UnpackError::corrupt("a directory that is too large"))?;
        if self.blocks_ahead > 0 {
            self.header.union = ahead;
        }
        Ok(())
    }

    fn file(&mut self, size: u64, data: &Data) {
        self.header.size = size;
        match data {
            Data::Flat { .. } if size == 0 => {}
            Data::Flat { block } => self.header.union = *block,
            Data::Tail { block, .. } => {
                self.header.layout = DataLayout::FlatInline;
                self.behind = size % BLOCK as u64;
                if size >= BLOCK as u64 {
                    self.header.union = *block;
                }
            }
            Data::Holes(extents) => {
                let bits = chunk_bits(size, extents);
                self.header.layout = DataLayout::ChunkBased;
                self.header.union = bits;
                self.behind = size.div_ceil((BLOCK as u64) << bits) * CHUNK_LEN;
            }
        }
    }

    /// Bytes from the inode to the end of what follows it.
    pub(super) fn len(&self, time: (i64, u32)) -> u64 {
        (self.header.len(time) + self.xattrs.len()) as u64 + self.behind
    }
}

fn type_bits(kind: &Kind) -> u16 {
    match kind {
        Kind::Directory(_) => S_IFDIR,
        Kind::File { .. } => S_IFREG,
        Kind::Symlink(_) => S_IFLNK,
        Kind::CharDevice { .. } => S_IFCHR,
        Kind::BlockDevice { .. } => S_IFBLK,
        Kind::Fifo => S_IFIFO,
    }
}

/// Each directory's `..` is a link to its parent.
fn subdirectories(tree: &Tree, id: InodeId) -> Result<u32, UnpackError> {
    let mut count: u32 = 0;
    for id in tree.directory(id)?.entries.values() {
        if matches!(tree.inode(*id)?.kind, Kind::Directory(_)) {
            count = count.saturating_add(1);
        }
    }
    Ok(count)
}

/// The largest chunks, as a power of two of blocks, of which each is all data or all hole.
fn chunk_bits(size: u64, extents: &[Extent]) -> u32 {
    let end = size.div_ceil(BLOCK as u64);
    let borders = extents
        .iter()
        .flat_map(|extent| [u64::from(extent.from), u64::from(extent.end())])
        .filter(|border| *border < end)
        .fold(0, |all, border| all | border);
    borders.trailing_zeros().min(CHUNK_BITS_MAX)
}

/// The first block on the output of each chunk of a file with holes.
pub(super) fn chunks(size: u64, bits: u32, extents: &[Extent]) -> impl Iterator<Item = u32> {
    let mut extents = extents.iter().peekable();
    let count = size.div_ceil((BLOCK as u64) << bits);
    (0..count).map(move |chunk| {
        let from = chunk << bits;
        while extents
            .next_if(|extent| u64::from(extent.end()) <= from)
            .is_some()
        {}
        match extents.peek() {
            Some(extent) if u64::from(extent.from) <= from => {
                u32::try_from(from).map_or(NO_BLOCK, |from| extent.block + (from - extent.from))
            }
            _ => NO_BLOCK,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(from: u32, block: u32, count: u32) -> Extent {
        Extent { from, block, count }
    }

    #[test]
    fn chunks_are_as_large_as_they_can_be() {
        const MIB: u64 = 1 << 20;
        for (size, extents, bits, map) in [
            (100 * MIB, &[][..], 31, &[NO_BLOCK][..]),
            (16 << 40, &[], 31, &[NO_BLOCK, NO_BLOCK]),
            // A hole, then data up to the end.
            (2 * MIB, &[extent(256, 10, 256)], 8, &[NO_BLOCK, 10]),
            (2 * MIB - 5, &[extent(256, 10, 256)], 8, &[NO_BLOCK, 10]),
            // Data, then a hole.
            (MIB, &[extent(0, 10, 16)], 4, &[10; 1]),
            (
                512 << 10,
                &[extent(16, 1, 32), extent(64, 33, 16)],
                4,
                &[NO_BLOCK, 1, 17, NO_BLOCK, 33, NO_BLOCK, NO_BLOCK, NO_BLOCK],
            ),
        ] {
            assert_eq!(chunk_bits(size, extents), bits, "{extents:?}");
            let found: Vec<u32> = chunks(size, bits, extents).collect();
            assert_eq!(found.get(..map.len()), Some(map), "{extents:?}");
            assert!(found.iter().skip(map.len()).all(|block| *block == NO_BLOCK));
        }
    }
}
