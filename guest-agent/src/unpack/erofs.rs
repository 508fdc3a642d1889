//! Writes a tree as EROFS metadata behind the data that is on the output already.
//!
//! Uncompressed EROFS as Linux 6.12 reads it (Documentation/filesystems/erofs.rst,
//! fs/erofs/erofs_fs.h): blocks of 4 KiB, extended inodes in 32-byte slots, a node's id being its
//! slot; small data behind its inode, larger data by block number, files with holes as a map of
//! 4 KiB chunks. The result depends on the layer alone.

use super::UnpackError;
use super::output::{BLOCK, Output};
use super::tree::{
    Content, Directory, Extent, Inode, InodeId, Kind, Metadata, ROOT, S_IFBLK, S_IFCHR, S_IFDIR,
    S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, Tree,
};

const MAGIC: u32 = 0xe0f5_e1e2;
const SUPER_OFFSET: usize = 1024;
const BLOCK_BITS: u8 = 12;
/// The superblock has a checksum; every inode has its own time.
const FEATURE_COMPAT: u32 = 1 | 2;
/// Files may be maps of chunks.
const FEATURE_INCOMPAT: u32 = 4;

const SLOT: usize = 32;
const INODE_LEN: usize = 64;
const EXTENDED: u16 = 1;
const FLAT_PLAIN: u16 = 0;
const FLAT_INLINE: u16 = 2;
const CHUNK_BASED: u16 = 4;
/// Block number of a hole, and of data that is not there.
const NO_BLOCK: u32 = u32::MAX;

const XATTR_HEADER: usize = 12;
const XATTR_USER: u8 = 1;
const XATTR_ACL_ACCESS: u8 = 2;
const XATTR_ACL_DEFAULT: u8 = 3;
const XATTR_TRUSTED: u8 = 4;
const XATTR_SECURITY: u8 = 6;

const DIRENT_LEN: usize = 12;

/// Marks for the agent and for overlayfs.
const OPAQUE: &[u8] = b"overlay.opaque";
const IMPLIED: &[u8] = b"bulkhead.implied";
/// On the root when there is any: their number, so that nobody searches a layer without.
const IMPLIED_COUNT: &[u8] = b"trusted.bulkhead.implied_count";

/// An inode's place and shape, known before anything is written.
struct Plan {
    /// Offset in the metadata area.
    at: u64,
    layout: u16,
    xattrs: Vec<u8>,
    /// Behind inode and attributes: inline data or the chunk map. A directory's is made later.
    behind: usize,
    /// `i_u`: block number, device number or chunk format.
    union: u32,
    size: u64,
}

/// Writes the metadata and the superblock; returns the length of the image.
pub(super) fn write(mut tree: Tree, mut output: Output, diff_id: &str) -> Result<u64, UnpackError> {
    mark_directories(&mut tree);
    let order = order(&tree)?;
    output.pad()?;
    // Blocks of large directories come before the metadata; their place is known by size alone.
    let mut next_block = output.block()?;
    let mut plans: Vec<Option<Plan>> = Vec::new();
    plans.resize_with(tree.inodes.len(), || None);
    let mut at = 0;
    for id in &order {
        let plan = plan(tree.inode(*id)?, &mut at, &mut next_block)?;
        *slot(&mut plans, *id)? = Some(plan);
    }
    for id in &order {
        if let Kind::Directory(directory) = &tree.inode(*id)?.kind {
            let plan = get(&plans, *id)?;
            let blocks = dirents(directory, *id, &tree, &plans)?;
            let whole = blocks.len() - plan.behind;
            output.append(blocks.get(..whole).unwrap_or_default())?;
            output.pad()?;
        }
    }
    let meta_block = output.block()?;
    if meta_block != next_block {
        return Err(wrong());
    }
    let meta_start = output.position();
    for (number, id) in (1_u32..).zip(&order) {
        let inode = tree.inode(*id)?;
        let plan = get(&plans, *id)?;
        let gap = (meta_start + plan.at)
            .checked_sub(output.position())
            .ok_or_else(wrong)?;
        output.append(&vec![0; usize::try_from(gap).map_err(|_| wrong())?])?;
        output.append(&header(inode, &tree, plan, number)?)?;
        output.append(&plan.xattrs)?;
        match &inode.kind {
            Kind::Directory(directory) => {
                let blocks = dirents(directory, *id, &tree, &plans)?;
                output.append(blocks.get(blocks.len() - plan.behind..).unwrap_or_default())?;
            }
            Kind::File(content) if plan.layout == CHUNK_BASED => {
                output.append(&chunk_map(content)?)?
            }
            Kind::File(content) => output.append(&content.tail)?,
            Kind::Symlink(target) => output.append(target)?,
            Kind::Special { .. } => {}
        }
    }
    output.pad()?;
    let blocks = output.block()?;
    let root = u16::try_from(get(&plans, ROOT)?.at / SLOT as u64).map_err(|_| wrong())?;
    let superblock = superblock(root, order.len() as u64, blocks, meta_block, diff_id);
    output.finish(&superblock)
}

/// Attributes that say what the directory's flags say.
fn mark_directories(tree: &mut Tree) {
    let implied = |inode: &&Inode| matches!(&inode.kind, Kind::Directory(one) if one.implied);
    let count = tree.inodes.iter().filter(implied).count();
    if let Some(root) = tree.inodes.first_mut().filter(|_| count > 0) {
        let count = count.to_string().into_bytes();
        root.metadata.xattrs.push((IMPLIED_COUNT.to_vec(), count));
    }
    for inode in &mut tree.inodes {
        if let Kind::Directory(directory) = &inode.kind {
            for (set, name) in [(directory.opaque, OPAQUE), (directory.implied, IMPLIED)] {
                if set {
                    let name = [b"trusted.".as_slice(), name].concat();
                    inode.metadata.xattrs.push((name, b"y".to_vec()));
                }
            }
            inode.metadata.xattrs.sort();
        }
    }
}

/// Every inode that has a name, the root first, directory by directory.
fn order(tree: &Tree) -> Result<Vec<InodeId>, UnpackError> {
    let mut order = vec![ROOT];
    let mut seen = vec![false; tree.inodes.len()];
    *slot(&mut seen, ROOT)? = true;
    let mut next = 0;
    while let Some(id) = order.get(next).copied() {
        next += 1;
        if let Kind::Directory(directory) = &tree.inode(id)?.kind {
            for child in directory.entries.values() {
                if !std::mem::replace(slot(&mut seen, *child)?, true) {
                    order.push(*child);
                }
            }
        }
    }
    Ok(order)
}

/// Chooses layout and place of an inode.
fn plan(inode: &Inode, at: &mut u64, next_block: &mut u32) -> Result<Plan, UnpackError> {
    let xattrs = xattr_body(&inode.metadata)?;
    let head = INODE_LEN + xattrs.len();
    let room = BLOCK.saturating_sub(head);
    let (layout, behind, union, size) = match &inode.kind {
        Kind::Directory(directory) => {
            let size = directory_size(directory);
            let tail = size % BLOCK;
            let blocks = size / BLOCK;
            let inline = tail > 0 && tail <= room;
            let stored = if inline { blocks } else { size.div_ceil(BLOCK) };
            let first = if stored == 0 {
                NO_BLOCK
            } else {
                take_blocks(next_block, stored)?
            };
            if inline {
                (FLAT_INLINE, tail, first, size as u64)
            } else {
                (FLAT_PLAIN, 0, first, size as u64)
            }
        }
        Kind::File(content) => file_plan(content, room),
        Kind::Symlink(target) if target.len() <= room => {
            (FLAT_INLINE, target.len(), NO_BLOCK, target.len() as u64)
        }
        Kind::Symlink(target) => {
            return Err(UnpackError::corrupt(format!(
                "a symbolic link of {} bytes with {} bytes of attributes",
                target.len(),
                xattrs.len()
            )));
        }
        Kind::Special { major, minor, .. } => (FLAT_PLAIN, 0, device(*major, *minor), 0),
    };
    // Inline data must lie in one block with the end of what is before it.
    let start = if layout == FLAT_INLINE {
        let len = (head + behind) as u64;
        let left = BLOCK as u64 - *at % BLOCK as u64;
        if len > left {
            at.next_multiple_of(BLOCK as u64)
        } else {
            *at
        }
    } else {
        *at
    };
    let end = start + (head + behind) as u64;
    *at = end.next_multiple_of(SLOT as u64);
    Ok(Plan {
        at: start,
        layout,
        xattrs,
        behind,
        union,
        size,
    })
}

fn file_plan(content: &Content, room: usize) -> (u16, usize, u32, u64) {
    let tail = content.tail.len();
    let covered: u64 = content.extents.iter().map(|e| u64::from(e.count)).sum();
    let blocks = content.size / BLOCK as u64;
    let rest = content.size % BLOCK as u64;
    let one_run = match content.extents.as_slice() {
        [] => blocks == 0,
        [one] => one.from == 0,
        _ => false,
    };
    let first = content.extents.first().map_or(NO_BLOCK, |e| e.block);
    if one_run && tail > 0 && tail <= room && covered == blocks {
        (FLAT_INLINE, tail, first, content.size)
    } else if one_run && tail == 0 && covered == blocks + u64::from(rest > 0) {
        (FLAT_PLAIN, 0, first, content.size)
    } else {
        // One 4-byte block number for each block; chunks of one block: format 0.
        let chunks = usize::try_from(content.size.div_ceil(BLOCK as u64)).unwrap_or(usize::MAX);
        (CHUNK_BASED, chunks.saturating_mul(4), 0, content.size)
    }
}

fn take_blocks(next: &mut u32, count: usize) -> Result<u32, UnpackError> {
    let first = *next;
    *next = u32::try_from(count)
        .ok()
        .and_then(|count| first.checked_add(count))
        .ok_or(UnpackError::Limit {
            what: "blocks of file system",
            limit: u64::from(u32::MAX),
        })?;
    Ok(first)
}

/// The block number of each block of a file with holes.
fn chunk_map(content: &Content) -> Result<Vec<u8>, UnpackError> {
    let chunks = usize::try_from(content.size.div_ceil(BLOCK as u64)).map_err(|_| wrong())?;
    let mut map = vec![0xff; chunks * 4];
    for Extent { from, block, count } in &content.extents {
        for index in 0..*count {
            let at = usize::try_from(from + index).map_err(|_| wrong())? * 4;
            let entry = map.get_mut(at..at + 4).ok_or_else(wrong)?;
            entry.copy_from_slice(&(block + index).to_le_bytes());
        }
    }
    Ok(map)
}

/// `struct erofs_inode_extended`.
fn header(
    inode: &Inode,
    tree: &Tree,
    plan: &Plan,
    number: u32,
) -> Result<[u8; INODE_LEN], UnpackError> {
    let meta = &inode.metadata;
    let (type_bits, links) = match &inode.kind {
        Kind::Directory(directory) => (S_IFDIR, subdirectories(directory, tree)?.saturating_add(2)),
        Kind::File(_) => (S_IFREG, inode.links),
        Kind::Symlink(_) => (S_IFLNK, inode.links),
        Kind::Special { type_bits, .. } => (*type_bits & S_IFMT, inode.links),
    };
    let icount = match plan.xattrs.len() {
        0 => 0,
        len => u16::try_from((len - XATTR_HEADER) / 4 + 1).map_err(|_| wrong())?,
    };
    let mut out = Fields(Vec::with_capacity(INODE_LEN));
    out.u16(plan.layout << 1 | EXTENDED);
    out.u16(icount);
    out.u16(type_bits | meta.mode & !S_IFMT);
    out.u16(0);
    out.u64(plan.size);
    out.u32(plan.union);
    out.u32(number);
    out.u32(meta.uid);
    out.u32(meta.gid);
    out.u64(meta.mtime.0.cast_unsigned());
    out.u32(meta.mtime.1);
    out.u32(links);
    out.0.resize(INODE_LEN, 0);
    out.0.try_into().map_err(|_| wrong())
}

/// Each directory's `..` is a link to its parent.
fn subdirectories(directory: &Directory, tree: &Tree) -> Result<u32, UnpackError> {
    let mut count: u32 = 0;
    for id in directory.entries.values() {
        if matches!(tree.inode(*id)?.kind, Kind::Directory(_)) {
            count = count.saturating_add(1);
        }
    }
    Ok(count)
}

fn device(major: u32, minor: u32) -> u32 {
    // new_encode_dev of linux/kdev_t.h.
    minor & 0xff | major << 8 & 0x000f_ff00 | (minor & !0xff) << 12
}

/// `struct erofs_xattr_ibody_header` and its entries; empty without attributes.
fn xattr_body(meta: &Metadata) -> Result<Vec<u8>, UnpackError> {
    if meta.xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut body = vec![0; XATTR_HEADER];
    // The name filter says which names are surely not there: none, so every look-up reads on.
    for (name, value) in &meta.xattrs {
        let (index, rest) = name_index(name).ok_or_else(wrong)?;
        let too_long = || {
            UnpackError::corrupt(format!(
                "an extended attribute that is too long: {}",
                super::shown(name)
            ))
        };
        let name_len = u8::try_from(rest.len()).map_err(|_| too_long())?;
        let value_len = u16::try_from(value.len()).map_err(|_| too_long())?;
        body.extend([name_len, index]);
        body.extend(value_len.to_le_bytes());
        body.extend(rest);
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    // The count of 4-byte units is a u16.
    if (body.len() - XATTR_HEADER) / 4 >= usize::from(u16::MAX) {
        return Err(UnpackError::Limit {
            what: "bytes of extended attributes of one entry",
            limit: 4 * u64::from(u16::MAX),
        });
    }
    Ok(body)
}

fn name_index(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((XATTR_ACL_ACCESS, b"")),
        b"system.posix_acl_default" => return Some((XATTR_ACL_DEFAULT, b"")),
        _ => {}
    }
    let prefixes: [(&[u8], u8); 3] = [
        (b"user.", XATTR_USER),
        (b"trusted.", XATTR_TRUSTED),
        (b"security.", XATTR_SECURITY),
    ];
    prefixes
        .iter()
        .find_map(|(prefix, index)| Some((*index, name.strip_prefix(*prefix)?)))
}

/// The names of a directory in order, with `.` and `..` among them.
fn names(directory: &Directory, own: InodeId) -> Vec<(&[u8], InodeId)> {
    let mut all: Vec<(&[u8], InodeId)> = vec![(b".", own), (b"..", directory.parent)];
    all.extend(
        directory
            .entries
            .iter()
            .map(|(name, id)| (name.as_slice(), *id)),
    );
    all.sort();
    all
}

/// How many entries of `names` go into one block, and how many bytes they take.
fn fit(names: &[(&[u8], InodeId)]) -> (usize, usize) {
    let mut used = 0;
    for (count, (name, _)) in names.iter().enumerate() {
        let more = DIRENT_LEN + name.len();
        if used + more > BLOCK {
            return (count, used);
        }
        used += more;
    }
    (names.len(), used)
}

fn directory_size(directory: &Directory) -> usize {
    let all = names(directory, ROOT);
    let mut rest = all.as_slice();
    let mut size = 0;
    while !rest.is_empty() {
        let (count, used) = fit(rest);
        rest = rest.get(count..).unwrap_or_default();
        size += if rest.is_empty() { used } else { BLOCK };
    }
    size
}

/// The content of a directory: in each block first the entries, then their names.
fn dirents(
    directory: &Directory,
    own: InodeId,
    tree: &Tree,
    plans: &[Option<Plan>],
) -> Result<Vec<u8>, UnpackError> {
    let all = names(directory, own);
    let mut rest = all.as_slice();
    let mut content = Vec::new();
    while !rest.is_empty() {
        let (count, _) = fit(rest);
        let (now, later) = rest.split_at(count);
        let start = content.len();
        let mut name_at = count * DIRENT_LEN;
        for (name, id) in now {
            let nid = get(plans, *id)?.at / SLOT as u64;
            content.extend(nid.to_le_bytes());
            content.extend(u16::try_from(name_at).map_err(|_| wrong())?.to_le_bytes());
            content.extend([file_type(&tree.inode(*id)?.kind), 0]);
            name_at += name.len();
        }
        for (name, _) in now {
            content.extend(*name);
        }
        if !later.is_empty() {
            content.resize(start + BLOCK, 0);
        }
        rest = later;
    }
    Ok(content)
}

/// `FT_*` of linux/fs_types.h.
fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 1,
        Kind::Directory(_) => 2,
        Kind::Special {
            type_bits: S_IFCHR, ..
        } => 3,
        Kind::Special {
            type_bits: S_IFBLK, ..
        } => 4,
        Kind::Special {
            type_bits: S_IFIFO, ..
        } => 5,
        Kind::Special { .. } => 0,
        Kind::Symlink(_) => 7,
    }
}

/// Block 0 with `struct erofs_super_block` in it.
fn superblock(root: u16, inodes: u64, blocks: u32, meta_block: u32, diff_id: &str) -> [u8; BLOCK] {
    let mut out = Fields(Vec::with_capacity(128));
    out.u32(MAGIC);
    out.u32(0);
    out.u32(FEATURE_COMPAT);
    out.0.extend([BLOCK_BITS, 0]);
    out.u16(root);
    out.u64(inodes);
    out.u64(0);
    out.u32(0);
    out.u32(blocks);
    out.u32(meta_block);
    out.u32(0);
    // The first half of the diff_id, 16 of its hex digits' bytes, tells images apart.
    let uuid: Vec<u8> = diff_id
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(16)
        .collect();
    out.0.extend(uuid);
    out.0.extend([0; 16]);
    out.u32(FEATURE_INCOMPAT);
    out.0.resize(128, 0);
    let mut block = [0; BLOCK];
    for (to, from) in block.iter_mut().skip(SUPER_OFFSET).zip(&out.0) {
        *to = *from;
    }
    let checksum = crc32c(block.get(SUPER_OFFSET..).unwrap_or_default());
    for (to, from) in block
        .iter_mut()
        .skip(SUPER_OFFSET + 4)
        .zip(checksum.to_le_bytes())
    {
        *to = from;
    }
    block
}

/// CRC-32C as the kernel's `crc32c(~0, …)`: not inverted at the end. 3 KiB once an image.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ POLYNOMIAL
            } else {
                crc >> 1
            };
        }
        crc
    })
}

/// Little-endian fields of a structure.
struct Fields(Vec<u8>);

impl Fields {
    fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }
}

fn slot<T>(list: &mut [T], id: InodeId) -> Result<&mut T, UnpackError> {
    usize::try_from(id)
        .ok()
        .and_then(|index| list.get_mut(index))
        .ok_or_else(wrong)
}

fn get(plans: &[Option<Plan>], id: InodeId) -> Result<&Plan, UnpackError> {
    usize::try_from(id)
        .ok()
        .and_then(|index| plans.get(index))
        .and_then(Option::as_ref)
        .ok_or_else(wrong)
}

/// Our own layout contradicts itself; better no image than a wrong one.
fn wrong() -> UnpackError {
    UnpackError::corrupt("the file system's layout is inconsistent")
}
