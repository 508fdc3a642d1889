//! Content of directories: sorted names in blocks (`struct erofs_dirent`).
//!
//! Called by [`super`]. In each block first come the entries, then their names; a block but the
//! last is filled up with zeros.

use super::super::UnpackError;
use super::super::output::BLOCK;
use super::super::tree::{Directory, InodeId, Kind, Tree};
use super::format::{DIRENT_LEN, Fields};
use super::{Nids, wrong};

/// The names of a directory in order, with `.` and `..` in their place among them.
pub(super) struct Names<'a> {
    names: Vec<(&'a [u8], InodeId)>,
}

impl<'a> Names<'a> {
    /// Those of `directory`, which is `own`.
    pub(super) fn of(directory: &'a Directory, own: InodeId) -> Self {
        let mut names: Vec<(&[u8], InodeId)> = Vec::with_capacity(directory.entries.len() + 2);
        names.extend([(&b"."[..], own), (&b".."[..], directory.parent)]);
        names.extend(directory.entries.iter().map(|(name, id)| (&**name, *id)));
        // Mostly sorted already, which this sort makes use of.
        names.sort();
        Self { names }
    }

    /// As many as go into one block each.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &[(&'a [u8], InodeId)]> {
        let mut rest = self.names.as_slice();
        std::iter::from_fn(move || {
            let mut used = 0;
            let count = rest
                .iter()
                .take_while(|(name, _)| {
                    used += DIRENT_LEN + name.len();
                    used <= BLOCK
                })
                .count();
            let (now, later) = rest.split_at(count);
            rest = later;
            (!now.is_empty()).then_some(now)
        })
    }

    /// Bytes of the whole content.
    pub(super) fn len(&self) -> u64 {
        let mut blocks: u64 = 0;
        let mut last = 0;
        for names in self.blocks() {
            blocks += 1;
            last = used(names) as u64;
        }
        blocks.saturating_sub(1) * BLOCK as u64 + last
    }
}

/// Bytes of a block that `names` take.
fn used(names: &[(&[u8], InodeId)]) -> usize {
    names.iter().map(|(name, _)| DIRENT_LEN + name.len()).sum()
}

/// A block, without the zeros behind it.
pub(super) fn encode(
    names: &[(&[u8], InodeId)],
    tree: &Tree,
    nids: &Nids,
) -> Result<Vec<u8>, UnpackError> {
    let mut block = Fields(Vec::with_capacity(BLOCK));
    let mut name_at = names.len() * DIRENT_LEN;
    for (name, id) in names {
        block.u64(u64::from(nids.get(*id)?));
        block.u16(u16::try_from(name_at).map_err(|_| wrong())?);
        block.0.extend([file_type(&tree.inode(*id)?.kind), 0]);
        name_at += name.len();
    }
    for (name, _) in names {
        block.0.extend(*name);
    }
    Ok(block.0)
}

/// `FT_*` of linux/fs_types.h.
fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => 1,
        Kind::Directory(_) => 2,
        Kind::CharDevice { .. } => 3,
        Kind::BlockDevice { .. } => 4,
        Kind::Fifo => 5,
        Kind::Symlink(_) => 7,
    }
}
