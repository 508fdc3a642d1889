//! From the tar's entries to the tree and the data area, by Docker's rules for layers.

use std::io::Read;

use protocol::spec::ConvertLimits;

use super::output::{BLOCK, Output};
use super::tar::{Entry, EntryKind, TarReader};
use super::tree::{Content, Extent, Kind, Metadata, S_IFBLK, S_IFCHR, S_IFIFO, Tree, split_clean};
use super::{UnpackError, shown};

/// Whiteouts and the mark of an opaque directory (OCI image specification, layer.md).
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Anything else of this form is bookkeeping of the aufs driver, which Docker ignores.
const AUFS: &[u8] = b".wh..wh.";

/// File data is looked at in pieces of this many bytes: a piece of zeros becomes a hole. Smaller
/// ones are not worth a map.
const PIECE: usize = 64 << 10;

/// Largest last block that is kept with the inode; a larger one gets a block of its own, which
/// wastes at most half of it.
const TAIL_MAX: usize = BLOCK / 2;

/// Bytes of attributes beside which such a block fits for sure.
const ATTRIBUTES_BESIDE_TAIL: usize = 1024;

/// Bytes of last blocks, names and attributes that are kept in memory: the converter has 2 GiB.
const KEPT_MAX: u64 = 1 << 30;

/// Attributes that would tell overlayfs something: an image must not (Linux
/// Documentation/filesystems/overlayfs.rst).
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Namespaces of attributes that EROFS has. Others (such as NFS's) are dropped, as on any file
/// system that does not know them.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Reads the whole tar: data goes to `output`, everything else into the tree.
pub(super) fn read_layer(
    from: impl Read,
    output: &mut Output,
    limits: &ConvertLimits,
) -> Result<Tree, UnpackError> {
    let mut layer = Layer {
        tar: TarReader::new(from),
        output,
        tree: Tree::new(limits.entries),
        kept: 0,
        piece: vec![0; PIECE],
    };
    let mut entries = 0;
    while let Some(entry) = layer.tar.next_entry()? {
        entries += 1;
        if entries > limits.entries {
            return Err(UnpackError::Limit {
                what: "entries",
                limit: limits.entries,
            });
        }
        let path = entry.path.clone();
        layer.apply(entry).map_err(|error| match error {
            UnpackError::Corrupt(reason) => {
                UnpackError::corrupt(format!("entry {}: {reason}", shown(&path)))
            }
            other => other,
        })?;
    }
    Ok(layer.tree)
}

struct Layer<'a, 'o, R> {
    tar: TarReader<R>,
    output: &'a mut Output<'o>,
    tree: Tree,
    kept: u64,
    piece: Vec<u8>,
}

impl<R: Read> Layer<'_, '_, R> {
    fn apply(&mut self, entry: Entry) -> Result<(), UnpackError> {
        let outside = || UnpackError::corrupt("it leads out of the layer");
        let mut path = split_clean(&entry.path)?.ok_or_else(outside)?;
        let Some(name) = path.pop() else {
            return match entry.kind {
                EntryKind::Directory => self.tree.put_root(metadata(&entry)),
                _ => Err(UnpackError::corrupt(
                    "the root of the layer is no directory",
                )),
            };
        };
        let parent = self.tree.make_directories(&path)?;
        if name == OPAQUE {
            return self.tree.make_opaque(parent);
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(UnpackError::corrupt("a whiteout of no name"));
            }
            return self.tree.put_whiteout(parent, hidden.to_vec());
        }
        let meta = metadata(&entry);
        self.keep(
            name.len()
                + meta
                    .xattrs
                    .iter()
                    .map(|(n, v)| n.len() + v.len())
                    .sum::<usize>(),
        )?;
        let special = |type_bits| {
            let (major, minor) = entry.device;
            Kind::Special {
                type_bits,
                major,
                minor,
            }
        };
        let kind = match entry.kind {
            EntryKind::Directory => return self.tree.put_directory(parent, name, meta),
            EntryKind::HardLink => {
                let target = split_clean(&entry.link)?.ok_or_else(outside)?;
                return self.tree.link(parent, name, &target);
            }
            EntryKind::Symlink => {
                if entry.link.is_empty() || entry.link.len() >= BLOCK {
                    return Err(UnpackError::corrupt(format!(
                        "a symbolic link of {} bytes",
                        entry.link.len()
                    )));
                }
                self.keep(entry.link.len())?;
                Kind::Symlink(entry.link)
            }
            EntryKind::CharDevice => special(S_IFCHR),
            EntryKind::BlockDevice => special(S_IFBLK),
            EntryKind::Fifo => special(S_IFIFO),
            EntryKind::File => Kind::File(self.read_file(&entry)?),
        };
        if matches!(
            kind,
            Kind::Special {
                type_bits: S_IFCHR,
                major: 0,
                minor: 0
            }
        ) {
            // To overlayfs it would be a whiteout.
            return self.tree.put_whiteout(parent, name);
        }
        self.tree.put(parent, name, meta, kind)
    }

    fn keep(&mut self, bytes: usize) -> Result<(), UnpackError> {
        self.kept = self.kept.saturating_add(bytes as u64);
        if self.kept > KEPT_MAX {
            return Err(UnpackError::Limit {
                what: "bytes of names, attributes and small files",
                limit: KEPT_MAX,
            });
        }
        Ok(())
    }

    fn read_file(&mut self, entry: &Entry) -> Result<Content, UnpackError> {
        let mut content = Content {
            size: entry.size,
            ..Content::default()
        };
        let mut source = FileData {
            pieces: match &entry.sparse {
                Some(map) => map.clone(),
                None => vec![(0, entry.size)],
            },
            next: 0,
            used: 0,
        };
        let mut piece = std::mem::take(&mut self.piece);
        // The last block must fit behind the inode and its attributes.
        let attributes: usize = entry
            .xattrs
            .iter()
            .map(|(n, v)| n.len() + v.len() + 8)
            .sum();
        let may_inline = attributes <= ATTRIBUTES_BESIDE_TAIL;
        let mut at = 0;
        while at < entry.size {
            // Whole pieces that no data lies in are passed over without looking at each.
            let data_at = source.next_data().unwrap_or(entry.size);
            let skip = data_at.saturating_sub(at) / PIECE as u64 * PIECE as u64;
            at += skip;
            if at >= entry.size {
                break;
            }
            let len = usize::try_from(entry.size - at).map_or(PIECE, |left| left.min(PIECE));
            let Some(bytes) = piece.get_mut(..len) else {
                break;
            };
            source.fill(&mut self.tar, at, bytes)?;
            self.store(at, bytes, may_inline, &mut content)?;
            at += len as u64;
        }
        self.piece = piece;
        Ok(content)
    }

    /// Stores a piece of a file that begins at `at`, a multiple of [`PIECE`].
    fn store(
        &mut self,
        at: u64,
        bytes: &[u8],
        may_inline: bool,
        content: &mut Content,
    ) -> Result<(), UnpackError> {
        if bytes.len() == PIECE && is_zero(bytes) {
            return Ok(());
        }
        let too_large = |_| UnpackError::corrupt("its size is beyond what EROFS addresses");
        let from = u32::try_from(at / BLOCK as u64).map_err(too_large)?;
        let whole = bytes.len() / BLOCK * BLOCK;
        let (blocks, tail) = bytes.split_at(whole);
        // Behind the inode there is room for a last block only if there is no map of holes.
        let no_hole = match content.extents.as_slice() {
            [] => at == 0,
            [one] => one.from == 0 && one.count == from,
            _ => false,
        };
        let keep_tail = may_inline && no_hole && !tail.is_empty() && tail.len() <= TAIL_MAX;
        let stored = if keep_tail { blocks } else { bytes };
        if !stored.is_empty() {
            let block = self.output.block()?;
            let count = u32::try_from(stored.len().div_ceil(BLOCK)).map_err(too_large)?;
            self.output.append(stored)?;
            self.output.pad()?;
            match content.extents.last_mut() {
                Some(last)
                    if last.from + last.count == from && last.block + last.count == block =>
                {
                    last.count += count;
                }
                _ => content.extents.push(Extent { from, block, count }),
            }
        }
        if keep_tail {
            self.keep(tail.len())?;
            content.tail = tail.to_vec();
        }
        Ok(())
    }
}

/// The data of a file, sparse or not, as the archive holds it: piece after piece.
struct FileData {
    pieces: Vec<(u64, u64)>,
    next: usize,
    /// Bytes of the next piece that were read.
    used: u64,
}

impl FileData {
    /// Offset of the next byte of data.
    fn next_data(&mut self) -> Option<u64> {
        loop {
            let (offset, len) = *self.pieces.get(self.next)?;
            if self.used < len {
                return Some(offset + self.used);
            }
            self.next += 1;
            self.used = 0;
        }
    }

    /// Fills `bytes`, the file's at `at`, with data and with zeros where there is none.
    fn fill<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        at: u64,
        bytes: &mut [u8],
    ) -> Result<(), UnpackError> {
        bytes.fill(0);
        let end = at + bytes.len() as u64;
        while let Some(data_at) = self.next_data().filter(|data_at| *data_at < end) {
            let Some((offset, len)) = self.pieces.get(self.next).copied() else {
                break;
            };
            let stop = (offset + len).min(end);
            let range = usize::try_from(data_at.saturating_sub(at))
                .ok()
                .zip(usize::try_from(stop - at).ok());
            let Some(room) = range.and_then(|(from, to)| bytes.get_mut(from..to)) else {
                break;
            };
            let read = tar.read(room)?;
            if read < room.len() {
                return Err(UnpackError::corrupt("its data ends early"));
            }
            self.used += read as u64;
        }
        Ok(())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Eight bytes at a time; a piece is a multiple of that.
    let (chunks, rest) = bytes.as_chunks::<8>();
    chunks.iter().all(|chunk| u64::from_ne_bytes(*chunk) == 0) && rest.iter().all(|b| *b == 0)
}

fn metadata(entry: &Entry) -> Metadata {
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = entry
        .xattrs
        .iter()
        .filter(|(name, _)| {
            let known = NAMESPACES
                .iter()
                .any(|space| name.starts_with(space) && name.len() > space.len())
                || ACLS.contains(&name.as_slice());
            known && !OVERLAY.iter().any(|prefix| name.starts_with(prefix))
        })
        .cloned()
        .collect();
    xattrs.sort();
    Metadata {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs,
    }
}
