//! Structures of EROFS as Linux 6.12 reads them (fs/erofs/erofs_fs.h), as bytes.
//!
//! Called by the other files of [`super`]. It knows no tree.

use super::super::output::BLOCK;

/// Bytes of a slot for inodes; an inode's number (nid) is that of its slot.
pub(super) const SLOT: u64 = 32;

/// Block number of a hole, and of data that is not there (`EROFS_NULL_ADDR`).
pub(super) const NO_BLOCK: u32 = u32::MAX;

/// Bytes of a block number in a map of chunks (`EROFS_BLOCK_MAP_ENTRY_SIZE`).
pub(super) const CHUNK_LEN: u64 = 4;

/// Largest chunk as a power of two of blocks (`EROFS_CHUNK_FORMAT_BLKBITS_MASK`).
pub(super) const CHUNK_BITS_MAX: u32 = 31;

/// Bytes of `struct erofs_dirent`; its name comes behind all of a block's entries.
pub(super) const DIRENT_LEN: usize = 12;

/// Bytes of `struct erofs_xattr_ibody_header`, in front of an inode's attributes.
pub(super) const XATTR_HEADER_LEN: usize = 12;

const MAGIC: u32 = 0xe0f5_e1e2;
const SUPER_OFFSET: usize = 1024;
const SUPER_LEN: usize = 128;
const CHECKSUM_OFFSET: usize = SUPER_OFFSET + 4;
const BLOCK_BITS: u8 = 12;

/// `EROFS_FEATURE_COMPAT_SB_CHKSUM | EROFS_FEATURE_COMPAT_MTIME`: the superblock has a checksum,
/// times are those of modification.
const FEATURE_COMPAT: u32 = 1 | 2;

/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`: files may be maps of chunks.
const FEATURE_INCOMPAT: u32 = 4;

/// `i_format`'s first bit.
const EXTENDED: u16 = 1;

/// Bytes of `struct erofs_inode_compact` and `struct erofs_inode_extended`.
const COMPACT_LEN: usize = 32;
const EXTENDED_LEN: usize = 64;

/// How an inode's content is stored (`i_format` from its second bit on).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// In blocks that follow each other.
    FlatPlain = 0,
    /// As before, but for the last one, which follows the inode.
    FlatInline = 2,
    /// In chunks that a map behind the inode names.
    ChunkBased = 4,
}

/// An inode, before its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InodeHeader {
    pub(super) layout: DataLayout,
    /// Bytes of attributes behind it, as [`XATTR_HEADER_LEN`] says.
    pub(super) xattr_len: usize,
    /// With type bits.
    pub(super) mode: u16,
    pub(super) size: u64,
    /// `i_u`: block number, device number or chunk format.
    pub(super) union: u32,
    /// `i_ino`, what 32-bit programs see.
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) links: u32,
}

impl InodeHeader {
    /// The short form has 16 bits for owner and links, 32 for the size, and the file system's time.
    fn is_compact(&self, time: (i64, u32)) -> bool {
        self.mtime == time
            && [self.uid, self.gid, self.links]
                .iter()
                .all(|number| u16::try_from(*number).is_ok())
            && u32::try_from(self.size).is_ok()
    }

    /// Bytes of the inode, of a file system whose time is `time`.
    pub(super) fn len(&self, time: (i64, u32)) -> usize {
        if self.is_compact(time) {
            COMPACT_LEN
        } else {
            EXTENDED_LEN
        }
    }

    /// `None` when the attributes are too long.
    pub(super) fn encode(&self, time: (i64, u32)) -> Option<Vec<u8>> {
        let icount = match self.xattr_len {
            0 => 0,
            len => u16::try_from(len.checked_sub(XATTR_HEADER_LEN)? / 4 + 1).ok()?,
        };
        let format = (self.layout as u16) << 1;
        let mut out = Fields::default();
        if self.is_compact(time) {
            out.u16(format);
            out.u16(icount);
            out.u16(self.mode);
            out.u16(u16::try_from(self.links).ok()?);
            out.u32(u32::try_from(self.size).ok()?);
            out.u32(0);
            out.u32(self.union);
            out.u32(self.number);
            out.u16(u16::try_from(self.uid).ok()?);
            out.u16(u16::try_from(self.gid).ok()?);
        } else {
            out.u16(format | EXTENDED);
            out.u16(icount);
            out.u16(self.mode);
            out.u16(0);
            out.u64(self.size);
            out.u32(self.union);
            out.u32(self.number);
            out.u32(self.uid);
            out.u32(self.gid);
            // The kernel reads it as signed: times before 1970 stay what they are.
            out.u64(self.mtime.0.cast_unsigned());
            out.u32(self.mtime.1);
            out.u32(self.links);
        }
        out.0.resize(self.len(time), 0);
        Some(out.0)
    }
}

/// What the superblock says.
#[derive(Debug)]
pub(super) struct Superblock {
    pub(super) root: u16,
    pub(super) inodes: u64,
    pub(super) time: (i64, u32),
    pub(super) blocks: u32,
    pub(super) meta_block: u32,
    pub(super) uuid: [u8; 16],
}

impl Superblock {
    /// Block 0.
    pub(super) fn encode(&self) -> [u8; BLOCK] {
        let mut out = Fields::default();
        out.0.resize(SUPER_OFFSET, 0);
        out.u32(MAGIC);
        out.u32(0);
        out.u32(FEATURE_COMPAT);
        out.0.extend([BLOCK_BITS, 0]);
        out.u16(self.root);
        out.u64(self.inodes);
        out.u64(self.time.0.cast_unsigned());
        out.u32(self.time.1);
        out.u32(self.blocks);
        out.u32(self.meta_block);
        out.u32(0);
        out.0.extend(self.uuid);
        out.0.extend([0; 16]);
        out.u32(FEATURE_INCOMPAT);
        debug_assert!(out.0.len() <= SUPER_OFFSET + SUPER_LEN);
        out.0.resize(BLOCK, 0);
        let checksum = crc32c(out.0.get(SUPER_OFFSET..).unwrap_or_default());
        let mut block = [0; BLOCK];
        for (to, from) in block.iter_mut().zip(&out.0) {
            *to = *from;
        }
        for (to, from) in block
            .iter_mut()
            .skip(CHECKSUM_OFFSET)
            .zip(checksum.to_le_bytes())
        {
            *to = from;
        }
        block
    }
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

/// A device number (`new_encode_dev` of linux/kdev_t.h).
pub(super) fn device(major: u32, minor: u32) -> u32 {
    minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// Little-endian fields of a structure.
#[derive(Debug, Default)]
pub(super) struct Fields(pub(super) Vec<u8>);

impl Fields {
    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }
    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }
    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        // RFC 3720, B.4: 32 bytes of zeros have the CRC-32C 0x8a9136aa.
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn devices() {
        assert_eq!(device(0, 0), 0);
        assert_eq!(device(8, 1), 0x801);
        assert_eq!(device(4000, 1_000_000), 0xf42f_a040);
        assert_eq!(device(0xfff, 0xf_ffff), u32::MAX);
    }

    #[test]
    fn inodes_are_short_when_they_can_be() {
        let inode = InodeHeader {
            layout: DataLayout::FlatPlain,
            xattr_len: 0,
            mode: 0o100_644,
            size: u64::from(u32::MAX),
            union: 7,
            number: 1,
            uid: 65_535,
            gid: 65_535,
            mtime: (-5, 9),
            links: 65_535,
        };
        let time = (-5, 9);
        assert_eq!(inode.len(time), 32);
        assert_eq!(inode.encode(time).unwrap().len(), 32);
        for longer in [
            InodeHeader {
                uid: 65_536,
                ..inode
            },
            InodeHeader {
                gid: 65_536,
                ..inode
            },
            InodeHeader {
                links: 65_536,
                ..inode
            },
            InodeHeader {
                size: 1 << 32,
                ..inode
            },
            InodeHeader {
                mtime: (-5, 8),
                ..inode
            },
            InodeHeader {
                mtime: (5, 9),
                ..inode
            },
        ] {
            assert_eq!(longer.len(time), 64, "{longer:?}");
            assert_eq!(longer.encode(time).unwrap().len(), 64);
        }
        let xattrs = |xattr_len| InodeHeader { xattr_len, ..inode }.encode(time);
        assert!(xattrs(12 + 4 * 65_534).is_some());
        assert!(xattrs(12 + 4 * 65_535).is_none());
    }
}
