//! Writes a tree as EROFS metadata behind the data that is on the output already.
//!
//! Called by [`super::unpack`]. Uncompressed EROFS as Linux 6.12 reads it
//! (Documentation/filesystems/erofs.rst): blocks of 4 KiB; inodes in 32-byte slots, an inode's id
//! (nid) being its slot's number. The image depends on the layer alone.
//!
//! ```text
//! block 0      superblock
//!       1 …    content of files, in the tar's order
//!              content of large directories, long symbolic links
//! meta_block   inodes, directory by directory, each with what follows it:
//!                [inode 32 or 64] [attributes] [last partial block | map of chunks]
//! ```
//!
//! An inode is of the short form when its time is the one that most of the layer's files have:
//! images that are built reproducibly have one time only.

mod directory;
mod format;
mod shape;
mod xattr;

use self::directory::Names;
use self::format::{DataLayout, SLOT, Superblock};
use self::shape::{Shape, Shapes, chunks};
use super::UnpackError;
use super::output::{BLOCK, Output};
use super::tree::{Data, InodeId, Kind, ROOT, Tree};

/// The root's slot: its nid becomes its inode number, and some programs take 0 for none.
const ROOT_SLOT: u16 = 1;

/// Bytes gathered before they are appended.
const BUFFER: usize = 64 << 10;

/// What is in the image.
pub(super) struct Written {
    /// Length in bytes.
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

/// Writes the metadata and the superblock of `tree`, whose file data is on `output`.
///
/// # Errors
/// The output is full, or the image would have more than EROFS can hold.
pub(super) fn write(
    tree: &Tree,
    mut output: Output,
    uuid: [u8; 16],
) -> Result<Written, UnpackError> {
    let order = order(tree)?;
    let image = Image {
        tree,
        shapes: Shapes {
            implied_count: implied_count(tree, &order)?,
        },
        time: usual_time(tree, &order)?,
        ahead: output.block()?,
    };
    let (nids, meta_block) = image.place(&order)?;
    image.write_ahead(&order, &nids, &mut output)?;
    if output.block()? != meta_block {
        return Err(wrong());
    }
    image.write_inodes(&order, &nids, &mut output)?;
    output.pad()?;
    let superblock = Superblock {
        root: ROOT_SLOT,
        inodes: order.len() as u64,
        time: image.time,
        blocks: output.block()?,
        meta_block,
        uuid,
    };
    Ok(Written {
        bytes: output.finish(&superblock.encode())?,
        inodes: order.len() as u64,
    })
}

/// The slot of each inode.
pub(super) struct Nids(Vec<u32>);

impl Nids {
    fn get(&self, id: InodeId) -> Result<u32, UnpackError> {
        usize::try_from(id)
            .ok()
            .and_then(|index| self.0.get(index))
            .copied()
            .ok_or_else(wrong)
    }

    fn set(&mut self, id: InodeId, nid: u32) -> Result<(), UnpackError> {
        let index = usize::try_from(id).map_err(|_| wrong())?;
        *self.0.get_mut(index).ok_or_else(wrong)? = nid;
        Ok(())
    }
}

/// An image being written.
struct Image<'a> {
    tree: &'a Tree,
    shapes: Shapes,
    /// The superblock's time, which inodes of the short form have.
    time: (i64, u32),
    /// First block of the content that is made here.
    ahead: u32,
}

impl Image<'_> {
    /// Calls `each` with every inode's shape, the nid of which depends on those before.
    fn shapes(
        &self,
        order: &[InodeId],
        mut each: impl FnMut(InodeId, &Shape) -> Result<(), UnpackError>,
    ) -> Result<u32, UnpackError> {
        let mut ahead = self.ahead;
        for (number, id) in (1_u32..).zip(order) {
            let mut shape = self.shapes.shape(self.tree, *id, ahead)?;
            shape.header.number = number;
            ahead = ahead.checked_add(shape.blocks_ahead).ok_or_else(full)?;
            each(*id, &shape)?;
        }
        Ok(ahead)
    }

    /// Gives every inode its slot; returns the first block of the inodes, too.
    fn place(&self, order: &[InodeId]) -> Result<(Nids, u32), UnpackError> {
        let mut nids = Nids(vec![0; self.tree.inodes.len()]);
        let mut slot = u64::from(ROOT_SLOT);
        let meta_block = self.shapes(order, |id, shape| {
            let mut at = slot * SLOT;
            let len = shape.len(self.time);
            let left = BLOCK as u64 - at % BLOCK as u64;
            // A last block must not cross the border of two: it is kept together with its inode,
            // so that both are read at once.
            if shape.header.layout == DataLayout::FlatInline && len > left {
                at += left;
            }
            nids.set(id, u32::try_from(at / SLOT).map_err(|_| full())?)?;
            slot = (at + len).div_ceil(SLOT);
            Ok(())
        })?;
        Ok((nids, meta_block))
    }

    /// Content of large directories and long symbolic links.
    fn write_ahead(
        &self,
        order: &[InodeId],
        nids: &Nids,
        output: &mut Output,
    ) -> Result<(), UnpackError> {
        self.shapes(order, |id, shape| {
            let blocks = usize::try_from(shape.blocks_ahead).map_err(|_| wrong())?;
            match &self.tree.inode(id)?.kind {
                Kind::Directory(directory) => {
                    let names = Names::of(directory, id);
                    for block in names.blocks().take(blocks) {
                        output.append(&directory::encode(block, self.tree, nids)?)?;
                        output.pad()?;
                    }
                }
                Kind::Symlink(target) if blocks > 0 => {
                    output.append(target)?;
                    output.pad()?;
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(())
    }

    fn write_inodes(
        &self,
        order: &[InodeId],
        nids: &Nids,
        output: &mut Output,
    ) -> Result<(), UnpackError> {
        let start = output.position();
        let mut buffer = Vec::with_capacity(2 * BUFFER);
        self.shapes(order, |id, shape| {
            // Up to the inode's slot.
            let at = start + u64::from(nids.get(id)?) * SLOT;
            let gap = at.checked_sub(output.position() + buffer.len() as u64);
            let gap = gap.and_then(|gap| usize::try_from(gap).ok());
            buffer.resize(buffer.len() + gap.ok_or_else(wrong)?, 0);
            let header = shape.header.encode(self.time).ok_or_else(wrong)?;
            buffer.extend(header);
            buffer.extend(&shape.xattrs);
            self.write_behind(id, shape, nids, output, &mut buffer)?;
            if buffer.len() >= BUFFER {
                output.append(&buffer)?;
                buffer.clear();
            }
            Ok(())
        })?;
        output.append(&buffer)
    }

    /// What follows an inode.
    fn write_behind(
        &self,
        id: InodeId,
        shape: &Shape,
        nids: &Nids,
        output: &mut Output,
        buffer: &mut Vec<u8>,
    ) -> Result<(), UnpackError> {
        match &self.tree.inode(id)?.kind {
            Kind::Directory(directory) if shape.behind > 0 => {
                let names = Names::of(directory, id);
                let last = names.blocks().last().ok_or_else(wrong)?;
                buffer.extend(directory::encode(last, self.tree, nids)?);
            }
            Kind::Symlink(target) if shape.behind > 0 => buffer.extend(&**target),
            Kind::File {
                data: Data::Tail { at, .. },
                ..
            } => {
                let tail = usize::try_from(*at)
                    .ok()
                    .zip(usize::try_from(shape.behind).ok())
                    .and_then(|(at, len)| self.tree.tails.get(at..at + len));
                buffer.extend(tail.ok_or_else(wrong)?);
            }
            Kind::File {
                size,
                data: Data::Holes(extents),
            } => {
                for block in chunks(*size, shape.header.union, extents) {
                    buffer.extend(block.to_le_bytes());
                    if buffer.len() >= BUFFER {
                        output.append(buffer)?;
                        buffer.clear();
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Every inode that has a name, the root first, directory by directory.
fn order(tree: &Tree) -> Result<Vec<InodeId>, UnpackError> {
    let mut order = vec![ROOT];
    let mut seen = vec![false; tree.inodes.len()];
    let mut next = 0;
    while let Some(id) = order.get(next).copied() {
        next += 1;
        let Kind::Directory(directory) = &tree.inode(id)?.kind else {
            continue;
        };
        for child in directory.entries.values() {
            let seen = usize::try_from(*child)
                .ok()
                .and_then(|index| seen.get_mut(index));
            if !std::mem::replace(seen.ok_or_else(wrong)?, true) {
                order.push(*child);
            }
        }
    }
    Ok(order)
}

fn implied_count(tree: &Tree, order: &[InodeId]) -> Result<u64, UnpackError> {
    let mut count = 0;
    for id in order {
        if let Kind::Directory(directory) = &tree.inode(*id)?.kind {
            count += u64::from(directory.implied);
        }
    }
    Ok(count)
}

/// The time that more than half of all inodes have, if there is one, else that of any (the
/// algorithm of Boyer and Moore).
fn usual_time(tree: &Tree, order: &[InodeId]) -> Result<(i64, u32), UnpackError> {
    let mut usual = (0, 0);
    let mut lead: u64 = 0;
    for id in order {
        let time = tree.inode(*id)?.metadata.mtime;
        if lead == 0 {
            usual = time;
        }
        if time == usual {
            lead += 1;
        } else {
            lead -= 1;
        }
    }
    Ok(usual)
}

/// More than 32 bits of block or slot numbers.
fn full() -> UnpackError {
    UnpackError::Limit {
        what: "blocks of file system",
        limit: u64::from(u32::MAX),
    }
}

/// Our own layout contradicts itself; better no image than a wrong one.
fn wrong() -> UnpackError {
    UnpackError::corrupt("the file system's layout is inconsistent")
}
