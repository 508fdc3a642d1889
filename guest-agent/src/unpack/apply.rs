//! From the tar's entries to the tree and the data area, by Docker's rules for layers.
//!
//! Called by [`super::read`]. The rules are those of Docker's overlay2 driver and of `umoci unpack`
//! where both agree. Where they don't:
//!
//! | the tar has | Docker | umoci | here |
//! |---|---|---|---|
//! | a whiteout behind an entry of the same name | fails | the entry stays, what it hides is gone | as umoci |
//! | a whiteout before a directory of the same name | lower layers shine through | they are gone | as umoci |
//! | metadata in a hard link's entry | applied | ignored | ignored |
//! | metadata of the root directory | ignored | applied | kept, and no container's `/` takes it |
//! | a symbolic link on the way that leads nowhere | fails | its target is made | as umoci |
//! | old GNU sparse files | refused | refused | unpacked |
//! | `/..` at the front of a path | taken for `/` | taken for `/` | refused |
//! | a time before 1970 | becomes 1970 | kept | kept |
//! | a character device 0:0 | a whiteout | a device | a whiteout |

use std::io::Read;

use protocol::spec::ConvertLimits;

use super::UnpackError;
use super::content::FileWriter;
use super::output::{BLOCK, Output};
use super::path::{PATH_MAX, clean};
use super::tree::{InodeId, Kind, Metadata, Tree};
use tarball::shown;
use tarball::{Entry, EntryKind, TarReader, Xattr};

/// Whiteouts and the mark of an opaque directory (OCI image specification, layer.md).
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Any other name of this form is bookkeeping of the aufs driver, which Docker ignores.
const AUFS: &[u8] = b".wh..wh.";

/// Bytes of attributes beside which a file's last block fits for sure: half of a block each, less
/// the inode.
const ATTRIBUTES_BESIDE_TAIL: usize = BLOCK / 2 - 128;

/// Bytes of an attribute's name (`XATTR_NAME_MAX`).
const XATTR_NAME_MAX: usize = 255;

/// Namespaces of attributes that EROFS has. Others, such as NFS's, are dropped, as Docker does
/// where the file system does not know them.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Largest device numbers (Linux kdev_t.h: 12 and 20 bits).
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

/// Mode of every symbolic link, whatever the archive says.
const SYMLINK_MODE: u16 = 0o777;

/// An id that `chown(2)` takes for "leave it": unpacked by root, such a file is root's.
const NO_ID: u32 = u32::MAX;

/// Reads the whole tar: data goes to `output`, everything else into the tree.
///
/// # Errors
/// What is wrong with the layer, with the entry's name.
pub(super) fn read_layer(
    from: impl Read,
    output: &mut Output,
    limits: &ConvertLimits,
) -> Result<Tree, UnpackError> {
    let mut layer = Layer {
        tar: TarReader::new(from),
        output,
        tree: Tree::new(limits.entries),
        files: FileWriter::new(),
    };
    let mut entries: u64 = 0;
    while let Some(mut entry) = layer.tar.next_entry()? {
        entries += 1;
        if entries > limits.entries {
            return Err(UnpackError::Limit {
                what: "entries",
                limit: limits.entries,
            });
        }
        let path = std::mem::take(&mut entry.path);
        layer
            .apply(&path, entry)
            .map_err(|error| error.in_entry(&path))?;
    }
    Ok(layer.tree)
}

struct Layer<'a, 'o, R> {
    tar: TarReader<R>,
    output: &'a mut Output<'o>,
    tree: Tree,
    files: FileWriter,
}

impl<R: Read> Layer<'_, '_, R> {
    fn apply(&mut self, path: &[u8], entry: Entry) -> Result<(), UnpackError> {
        let path = clean(path)?;
        let Some((name, above)) = path.split_last() else {
            if entry.kind != EntryKind::Directory {
                return Err(UnpackError::corrupt("the root is no directory"));
            }
            let metadata = self.metadata(entry)?;
            return self.tree.describe(super::tree::ROOT, metadata);
        };
        let aufs = |part: &&[u8]| part.starts_with(AUFS);
        if above.iter().any(aufs) || (aufs(name) && *name != OPAQUE) {
            return Ok(());
        }
        let parent = self.tree.make_directories(above)?;
        if *name == OPAQUE {
            return self.tree.make_opaque(parent);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(UnpackError::corrupt("a whiteout of no name"));
            }
            return self.tree.hide(parent, hidden);
        }
        self.put(parent, name, entry)
    }

    fn put(&mut self, parent: InodeId, name: &[u8], mut entry: Entry) -> Result<(), UnpackError> {
        let kind = match entry.kind {
            EntryKind::Directory => {
                let metadata = self.metadata(entry)?;
                return self.tree.put_directory(parent, name, metadata);
            }
            EntryKind::HardLink => return self.tree.link(parent, name, &clean(&entry.link)?),
            EntryKind::Symlink => {
                let link = std::mem::take(&mut entry.link);
                if link.is_empty() || link.len() > PATH_MAX {
                    return Err(UnpackError::corrupt(format!(
                        "a symbolic link of {} bytes",
                        link.len()
                    )));
                }
                entry.mode = SYMLINK_MODE;
                Kind::Symlink(link.into())
            }
            EntryKind::CharDevice if entry.device == (0, 0) => {
                return self.tree.put_whiteout(parent, name);
            }
            EntryKind::CharDevice => {
                let (major, minor) = device(&entry)?;
                Kind::CharDevice { major, minor }
            }
            EntryKind::BlockDevice => {
                let (major, minor) = device(&entry)?;
                Kind::BlockDevice { major, minor }
            }
            EntryKind::Fifo => Kind::Fifo,
            EntryKind::File => {
                let bytes = |xattr: &Xattr| xattr.name.len() + xattr.value.len() + 8;
                let attributes: usize = entry.xattrs.iter().map(bytes).sum();
                let data = self.files.write(
                    &entry,
                    &mut self.tar,
                    self.output,
                    &mut self.tree.tails,
                    attributes <= ATTRIBUTES_BESIDE_TAIL,
                )?;
                Kind::File {
                    size: entry.size,
                    data,
                }
            }
        };
        let metadata = self.metadata(entry)?;
        self.tree.put(parent, name, metadata, kind)
    }

    fn metadata(&mut self, entry: Entry) -> Result<Metadata, UnpackError> {
        let owner = |id| if id == NO_ID { 0 } else { id };
        let mut xattrs = entry.xattrs;
        xattrs.retain(|xattr| {
            let known = NAMESPACES
                .iter()
                .any(|space| xattr.name.starts_with(space) && xattr.name.len() > space.len())
                || ACLS.contains(&xattr.name.as_slice());
            known && !is_reserved(&xattr.name)
        });
        for xattr in &xattrs {
            if xattr.name.len() > XATTR_NAME_MAX {
                return Err(UnpackError::corrupt(format!(
                    "an extended attribute with a name of {} bytes, {XATTR_NAME_MAX} are possible",
                    xattr.name.len()
                )));
            }
            if ACLS.contains(&xattr.name.as_slice()) && !is_acl(&xattr.value) {
                return Err(UnpackError::corrupt(format!(
                    "its attribute {} is damaged",
                    shown(&xattr.name)
                )));
            }
        }
        xattrs.sort();
        Ok(Metadata {
            mode: entry.mode,
            uid: owner(entry.uid),
            gid: owner(entry.gid),
            mtime: entry.mtime,
            xattrs: self.tree.share_xattrs(xattrs)?,
        })
    }
}

fn device(entry: &Entry) -> Result<(u32, u32), UnpackError> {
    let (major, minor) = entry.device;
    if major > MAJOR_MAX || minor > MINOR_MAX {
        return Err(UnpackError::corrupt(format!(
            "a device {major}:{minor}, {MAJOR_MAX}:{MINOR_MAX} is the last"
        )));
    }
    Ok((major, minor))
}

/// Whether Linux would take it for an access control list (linux/posix_acl_xattr.h): a version,
/// then entries of tag, permissions and id. The kernel fails every access to a file with another.
fn is_acl(value: &[u8]) -> bool {
    const VERSION: [u8; 4] = 2_u32.to_le_bytes();
    const TAGS: [u16; 6] = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20];
    let Some(entries) = value.strip_prefix(&VERSION) else {
        return false;
    };
    let (entries, rest) = entries.as_chunks::<8>();
    rest.is_empty()
        && entries
            .iter()
            .all(|[low, high, ..]| TAGS.contains(&u16::from_le_bytes([*low, *high])))
}

/// Whether an attribute is not an archive's to set: overlayfs would take it for its own (Linux
/// Documentation/filesystems/overlayfs.rst), or the agent for the converter's.
#[must_use]
pub fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"trusted.bulkhead.")
}
