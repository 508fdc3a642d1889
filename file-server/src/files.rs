//! What becomes of a request: a system call on a place that the guest has looked up.
//!
//! [`crate::server`] calls [`Files::answer`] from several threads. A name is resolved below its
//! directory's descriptor and nowhere else (`RESOLVE_BENEATH`), links are the guest's to follow, and
//! only regular files and directories are ever opened for more than their place (`open`).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, SeekFrom,
    StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat,
    copy_file_range, fallocate, fdatasync, fstatvfs, fsync, ftruncate, getxattr, linkat, listxattr,
    mkdirat, mknodat, openat2, readlinkat, removexattr, renameat_with, seek, setxattr, statx,
    symlinkat, syncfs, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::area::Slot;
use crate::identity::{Maker, without_setid};
use crate::nodes::{Handle, Handles, Key, Limits, Node, Nodes, ROOT};
use crate::reply::{Attributes, Writer};
use crate::wire::{
    self, ATTR_SUBMOUNT, Header, Name, OUT_HEADER_BYTES, Operation, SetAttributes, Time,
    WRITE_CACHE, WRITE_DATA_OFFSET, WRITE_KILL_SUIDGID, XATTR_BYTES_MAX, XattrName, init, valid,
};

/// Pages of data in one request: 512 KiB.
pub const PAGES_MAX: u16 = 128;

/// Bytes of data in one request.
pub const DATA_BYTES_MAX: u32 = PAGES_MAX as u32 * 4096;

/// Seconds for which a guest may go on with a name and attributes that it has seen: a change by the
/// host or another container is seen after so long at the latest. virtiofsd's own default.
pub const VALID_S: u64 = 1;

/// Requests of reads ahead and asynchronous I/O that the guest has under way.
const BACKGROUND_MAX: u16 = 16;

/// Most bytes of one COPY_FILE_RANGE, so that it does not keep a thread for long. The guest's
/// kernel asks again for the rest.
const COPY_BYTES_MAX: u64 = 16 << 20;

/// What is taken of the features a guest's kernel offers. No write-back cache: what is written is in
/// the file when the call returns, for the host and for other containers to see.
const FEATURES: u64 = init::ASYNC_READ
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::AUTO_INVAL_DATA
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::MAX_PAGES
    | init::SUBMOUNTS
    | init::HANDLE_KILLPRIV_V2
    | init::INIT_EXT;

/// Flags of an open file that mean something on this side.
const OPEN_FLAGS: OFlags = OFlags::WRONLY
    .union(OFlags::RDWR)
    .union(OFlags::TRUNC)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC);

/// How a name is resolved: below its directory, over nothing.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// What a request comes to.
#[derive(Debug)]
pub enum Reply {
    /// These bytes behind the header.
    Bytes(Vec<u8>),
    /// So many bytes behind the header, which are in the slot already.
    InSlot(usize),
    /// Nothing is said.
    None,
}

impl From<Writer> for Reply {
    fn from(writer: Writer) -> Self {
        Self::Bytes(writer.into_bytes())
    }
}

/// The shared folders of one guest.
#[derive(Debug)]
pub struct Files {
    nodes: Nodes,
    handles: Handles,
    /// Where this process's descriptors have names.
    descriptors: String,
}

/// A place and what it is.
pub(crate) struct Found {
    pub(crate) node: Node,
    pub(crate) attributes: Attributes,
}

fn place_flags() -> OFlags {
    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

impl Files {
    /// The folders that are in `root`. `descriptors` is a path at which procfs shows this process's
    /// descriptors: they are opened again through it.
    ///
    /// # Errors
    /// What looking at the root says.
    pub fn new(root: OwnedFd, descriptors: &str) -> Result<Self, Errno> {
        let root = look(root, None)?;
        let descriptors_max = getrlimit(Resource::Nofile).current;
        let descriptors_max = descriptors_max.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        let limits = Limits::of(descriptors_max);
        Ok(Self {
            nodes: Nodes::new(root.node, limits.nodes),
            handles: Handles::new(limits.handles),
            descriptors: descriptors.to_owned(),
        })
    }

    /// Carries a request out.
    ///
    /// # Errors
    /// What the guest is told.
    pub fn answer(
        &self,
        header: &Header,
        operation: Operation<'_>,
        slot: Slot<'_>,
    ) -> Result<Reply, Errno> {
        use Operation as O;
        let id = header.node;
        let node = || self.nodes.get(id);
        let done = Ok(Reply::Bytes(Vec::new()));
        match operation {
            O::Init {
                major,
                minor,
                max_readahead,
                flags,
            } => self.init(major, minor, max_readahead, flags),
            O::Destroy => {
                self.handles.clear();
                self.nodes.clear();
                done
            }
            O::Lookup(name) => self.lookup(&*node()?, name),
            O::Forget { lookups } => {
                self.nodes.forget(id, lookups);
                Ok(Reply::None)
            }
            O::BatchForget(pairs) => {
                for pair in pairs.chunks_exact(16) {
                    let mut reader = crate::reader::Reader::new(pair);
                    if let (Some(id), Some(lookups)) = (reader.u64(), reader.u64()) {
                        self.nodes.forget(id, lookups);
                    }
                }
                Ok(Reply::None)
            }
            O::GetAttributes => self.attributes(&*node()?),
            O::SetAttributes(change) => self.set_attributes(&*node()?, &change),
            O::ReadLink => {
                let target = readlinkat(&node()?.place, "", Vec::new())?;
                Ok(Reply::Bytes(target.into_bytes()))
            }
            O::Symlink { name, target } => {
                let parent = node()?;
                let maker = Maker::new(header.uid, header.gid);
                symlinkat(target, &parent.place, name.bytes())?;
                drop(maker);
                self.lookup(&parent, name)
            }
            O::MakeNode { name, mode } => self.make_node(&*node()?, header, name, mode),
            O::MakeDirectory { name, mode } => {
                let parent = node()?;
                let maker = Maker::new(header.uid, header.gid);
                mkdirat(&parent.place, name.bytes(), permissions(mode))?;
                drop(maker);
                self.lookup(&parent, name)
            }
            O::Unlink(name) => {
                unlinkat(&node()?.place, name.bytes(), AtFlags::empty())?;
                done
            }
            O::RemoveDirectory(name) => {
                unlinkat(&node()?.place, name.bytes(), AtFlags::REMOVEDIR)?;
                done
            }
            O::Rename {
                name,
                new_parent,
                new_name,
                flags,
            } => {
                let flags = RenameFlags::from_bits_retain(flags);
                if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags) {
                    return Err(Errno::INVAL);
                }
                let (from, to) = (node()?, self.nodes.get(new_parent)?);
                renameat_with(
                    &from.place,
                    name.bytes(),
                    &to.place,
                    new_name.bytes(),
                    flags,
                )?;
                done
            }
            O::Link { node: old, name } => {
                let (old, parent) = (self.nodes.get(old)?, node()?);
                let from = self.path(old.place.as_fd());
                let follow = AtFlags::SYMLINK_FOLLOW;
                linkat(CWD, from, &parent.place, name.bytes(), follow)?;
                self.lookup(&parent, name)
            }
            O::Open { flags, open_flags } => {
                let file = self.open_file(&*node()?, flags, open_flags)?;
                self.opened(Writer::new(), file)
            }
            O::Create {
                name,
                flags,
                mode,
                open_flags,
            } => self.create(&*node()?, header, name, (flags, open_flags), mode),
            O::MakeTemporary { flags, mode } => self.make_temporary(&*node()?, header, flags, mode),
            O::Read {
                handle,
                offset,
                size,
            } => {
                let file = self.handles.file(handle)?;
                let room = slot.len().saturating_sub(OUT_HEADER_BYTES);
                let len = usize::try_from(size).unwrap_or(room).min(room);
                slot.read_file(file.as_fd(), OUT_HEADER_BYTES, len, offset)
                    .map(Reply::InSlot)
            }
            O::Write {
                handle,
                offset,
                size,
                write_flags,
                flags,
            } => {
                let file = self.handles.file(handle)?;
                // Of a page that comes from the guest's cache it is known where it belongs.
                let append = flags & OFlags::APPEND.bits() != 0 && write_flags & WRITE_CACHE == 0;
                let len = usize::try_from(size).map_err(|_| Errno::INVAL)?;
                let write =
                    || slot.write_file(file.as_fd(), WRITE_DATA_OFFSET, len, offset, append);
                let count = if write_flags & WRITE_KILL_SUIDGID == 0 {
                    write()?
                } else {
                    without_setid(write)?
                };
                Ok(written(count))
            }
            O::StatFs => statfs(&*node()?),
            O::Release { handle } | O::ReleaseDirectory { handle } => {
                self.handles.remove(handle);
                done
            }
            O::Sync { handle, data_only } => {
                sync(self.handles.file(handle)?.as_fd(), data_only)?;
                done
            }
            O::SyncDirectory { handle, data_only } => {
                sync(self.handles.directory(handle)?.as_fd(), data_only)?;
                done
            }
            // The guest's kernel does not hold them, so that here is a file system without: who sets one
            // is not to think that it denies anything.
            O::SetXattr { name, .. } | O::GetXattr { name, .. } | O::RemoveXattr(name)
                if name.is_acl() =>
            {
                Err(Errno::OPNOTSUPP)
            }
            O::SetXattr { name, value, flags } => {
                let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
                setxattr(self.path(node()?.place.as_fd()), name.bytes(), value, flags)?;
                done
            }
            O::GetXattr { name, size } => {
                let node = node()?;
                let path = self.path(node.place.as_fd());
                xattr(size, |buffer| getxattr(&*path, name.bytes(), buffer))
            }
            O::ListXattr { size } => {
                let node = node()?;
                let names = xattr_names(&self.path(node.place.as_fd()))?;
                xattr(size, |buffer| {
                    if let Some(room) = buffer.get_mut(..names.len()) {
                        room.copy_from_slice(&names);
                    } else if !buffer.is_empty() {
                        return Err(Errno::RANGE);
                    }
                    Ok(names.len())
                })
            }
            O::RemoveXattr(name) => {
                removexattr(self.path(node()?.place.as_fd()), name.bytes())?;
                done
            }
            O::OpenDirectory => {
                let node = node()?;
                if node.kind != FileType::Directory {
                    return Err(Errno::NOTDIR);
                }
                let file = self.reopen(&node, OFlags::RDONLY | OFlags::DIRECTORY)?;
                let id = self.handles.add(Handle {
                    file,
                    directory: Some(Mutex::default()),
                })?;
                Ok(open::open_out(Writer::new(), id).into())
            }
            O::ReadDirectory {
                handle,
                offset,
                size,
                plus,
            } => {
                let room = slot.len().saturating_sub(OUT_HEADER_BYTES);
                let size = usize::try_from(size).unwrap_or(room).min(room);
                let directory = self.handles.directory(handle)?;
                let of = if plus { Some(node()?) } else { None };
                crate::directory::read(self, of.as_deref(), &directory, offset, size)
            }
            O::Allocate {
                handle,
                offset,
                length,
                mode,
            } => {
                let known = FallocateFlags::KEEP_SIZE
                    | FallocateFlags::PUNCH_HOLE
                    | FallocateFlags::ZERO_RANGE;
                let mode = FallocateFlags::from_bits(mode)
                    .filter(|mode| known.contains(*mode))
                    .ok_or(Errno::OPNOTSUPP)?;
                let file = self.handles.file(handle)?;
                // The guest does not say whether set-user-id bits are to go. They are, with a content.
                without_setid(|| fallocate(&file, mode, offset, length))?;
                done
            }
            O::Seek {
                handle,
                offset,
                whence,
            } => {
                let to = match i32::try_from(whence) {
                    Ok(libc::SEEK_DATA) => SeekFrom::Data(offset),
                    Ok(libc::SEEK_HOLE) => SeekFrom::Hole(offset),
                    _ => return Err(Errno::INVAL),
                };
                let found = seek(self.handles.file(handle)?, to)?;
                let mut writer = Writer::new();
                writer.u64(found);
                Ok(writer.into())
            }
            O::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                length,
            } => {
                let (from, to) = (self.handles.file(from)?, self.handles.file(to)?);
                let len = usize::try_from(length.min(COPY_BYTES_MAX)).map_err(|_| Errno::INVAL)?;
                let (mut at, mut into) = (from_offset, to_offset);
                let copy = || copy_file_range(&from, Some(&mut at), &to, Some(&mut into), len);
                let count = without_setid(copy)?;
                Ok(written(count))
            }
            O::SyncFs => {
                let node = node()?;
                if id == ROOT {
                    self.sync_files_of_root(&node)?;
                } else if node.kind == FileType::Directory {
                    syncfs(self.reopen(&node, OFlags::RDONLY | OFlags::DIRECTORY)?)?;
                }
                done
            }
        }
    }

    fn init(&self, major: u32, minor: u32, readahead: u32, flags: u64) -> Result<Reply, Errno> {
        if major < wire::MAJOR {
            return Err(Errno::PROTO);
        }
        // A new driver knows nothing of what the last one had.
        self.handles.clear();
        self.nodes.clear();
        let mut writer = Writer::new();
        writer.u32(wire::MAJOR);
        if major > wire::MAJOR {
            // It begins again with our version.
            writer.u32(wire::MINOR).bytes(&[0; 56]);
            return Ok(writer.into());
        }
        let taken = (FEATURES & flags).to_le_bytes();
        let (low, high) = taken.split_at(4);
        writer
            .u32(minor.min(wire::MINOR))
            .u32(readahead.min(DATA_BYTES_MAX))
            .bytes(low)
            .u16(BACKGROUND_MAX)
            .u16(BACKGROUND_MAX / 4 * 3)
            .u32(DATA_BYTES_MAX)
            .u32(1)
            .u16(PAGES_MAX)
            .u16(0)
            .bytes(high)
            .bytes(&[0; 28]);
        Ok(writer.into())
    }

    /// Shared files lie in the root's file system for the guest, and each in one of its own here.
    fn sync_files_of_root(&self, root: &Node) -> Result<(), Errno> {
        let directory = self.reopen(root, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for name in crate::directory::names(&directory)? {
            let found = self.find(root, Name::check(&name)?)?;
            if found.node.kind == FileType::RegularFile {
                syncfs(self.reopen(&found.node, OFlags::RDONLY)?)?;
            }
        }
        Ok(())
    }

    /// A name of one descriptor of this process.
    fn path(&self, fd: BorrowedFd<'_>) -> String {
        format!("{}/{}", self.descriptors, fd.as_raw_fd())
    }

    /// Finds a name of a directory, without remembering it.
    pub(crate) fn find(&self, parent: &Node, name: Name<'_>) -> Result<Found, Errno> {
        let (flags, mode) = (place_flags(), Mode::empty());
        let place = openat2(&parent.place, name.bytes(), flags, mode, BENEATH)?;
        look(place, Some(parent))
    }

    /// Remembers what was found: the reply that names it counts.
    pub(crate) fn remember(&self, found: Found) -> Result<(u64, Attributes), Errno> {
        Ok((self.nodes.found(found.node)?, found.attributes))
    }

    fn lookup(&self, parent: &Node, name: Name<'_>) -> Result<Reply, Errno> {
        let (id, attributes) = self.remember(self.find(parent, name)?)?;
        let mut writer = Writer::new();
        writer.entry(id, VALID_S, &attributes);
        Ok(writer.into())
    }

    fn attributes(&self, node: &Node) -> Result<Reply, Errno> {
        let attributes = attributes(node.place.as_fd())?.0;
        let mut writer = Writer::new();
        writer.u64(VALID_S).u32(0).u32(0).attributes(&attributes);
        Ok(writer.into())
    }

    fn make_node(
        &self,
        parent: &Node,
        header: &Header,
        name: Name<'_>,
        mode: u32,
    ) -> Result<Reply, Errno> {
        let kind = FileType::from_raw_mode(mode);
        // A device node on the host would be the host's device.
        if !matches!(
            kind,
            FileType::RegularFile | FileType::Fifo | FileType::Socket
        ) {
            return Err(Errno::PERM);
        }
        let maker = Maker::new(header.uid, header.gid);
        mknodat(&parent.place, name.bytes(), kind, permissions(mode), 0)?;
        drop(maker);
        self.lookup(parent, name)
    }

    fn set_attributes(&self, node: &Node, change: &SetAttributes) -> Result<Reply, Errno> {
        let has = |bit| change.valid & bit != 0;
        let path = self.path(node.place.as_fd());
        if has(valid::MODE) {
            chmodat(CWD, &*path, permissions(change.mode), AtFlags::empty())?;
        }
        if has(valid::UID) || has(valid::GID) {
            self.change_owner(node, change)?;
        }
        if has(valid::SIZE) {
            let truncate = || match has(valid::FH) {
                true => ftruncate(self.handles.file(change.handle)?, change.size),
                false => ftruncate(self.reopen(node, OFlags::WRONLY)?, change.size),
            };
            if has(valid::KILL_SUIDGID) {
                without_setid(truncate)?;
            } else {
                truncate()?;
            }
        }
        if has(valid::ATIME) || has(valid::MTIME) {
            let time = |given, now, time: Time| Timespec {
                tv_sec: time.seconds,
                tv_nsec: match (has(given), has(now)) {
                    (true, true) => UTIME_NOW,
                    // A number that is no count of nanoseconds might be one of the two words.
                    (true, false) if time.nanoseconds < 1_000_000_000 => time.nanoseconds.into(),
                    (true, false) => 0,
                    (false, _) => UTIME_OMIT,
                },
            };
            let times = Timestamps {
                last_access: time(valid::ATIME, valid::ATIME_NOW, change.atime),
                last_modification: time(valid::MTIME, valid::MTIME_NOW, change.mtime),
            };
            utimensat(CWD, &*path, &times, AtFlags::empty())?;
        }
        self.attributes(node)
    }

    fn change_owner(&self, node: &Node, change: &SetAttributes) -> Result<(), Errno> {
        let given = |bit, id: u32| match (change.valid & bit != 0, id) {
            (false, _) => Ok(None),
            // "Leave it" in the system call.
            (true, u32::MAX) => Err(Errno::INVAL),
            (true, id) => Ok(Some(id)),
        };
        let uid = given(valid::UID, change.uid)?.map(Uid::from_raw);
        let gid = given(valid::GID, change.gid)?.map(Gid::from_raw);
        chownat(&node.place, "", uid, gid, AtFlags::EMPTY_PATH).map_err(|errno| match errno {
            // A user that is not mapped on this host.
            Errno::INVAL => Errno::PERM,
            other => other,
        })
    }

    /// Nodes that the guest knows.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

fn written(count: usize) -> Reply {
    let mut writer = Writer::new();
    writer.u32(u32::try_from(count).unwrap_or(u32::MAX)).u32(0);
    writer.into()
}

fn sync(file: BorrowedFd<'_>, data_only: bool) -> Result<(), Errno> {
    if data_only {
        fdatasync(file)
    } else {
        fsync(file)
    }
}

/// The answer to a question for an extended attribute or their names: the value, or its length when
/// there is no room asked for.
fn xattr(size: u32, get: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Result<Reply, Errno> {
    let wanted = usize::try_from(size).unwrap_or(usize::MAX);
    let mut value = vec![0; wanted.min(XATTR_BYTES_MAX)];
    if size == 0 {
        let len = get(&mut [])?;
        return Ok(written(len));
    }
    let len = get(&mut value)?;
    value.truncate(len);
    Ok(Reply::Bytes(value))
}

/// The names of a file's extended attributes but those of ACLs, each with its NUL.
fn xattr_names(path: &str) -> Result<Vec<u8>, Errno> {
    let mut names = vec![0; XATTR_BYTES_MAX];
    let len = listxattr(path, &mut *names)?;
    names.truncate(len);
    let is_acl = |name: &&[u8]| XattrName::check(name).is_ok_and(XattrName::is_acl);
    let names = names.split(|byte| *byte == 0);
    let shown = names.filter(|name| !name.is_empty() && !is_acl(name));
    Ok(shown.flat_map(|name| [name, b"\0"].concat()).collect())
}

fn statfs(node: &Node) -> Result<Reply, Errno> {
    let of = fstatvfs(&node.place)?;
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let mut writer = Writer::new();
    for value in [of.f_blocks, of.f_bfree, of.f_bavail, of.f_files, of.f_ffree] {
        writer.u64(value);
    }
    for value in [of.f_bsize, of.f_namemax, of.f_frsize] {
        writer.u32(small(value));
    }
    writer.bytes(&[0; 28]);
    Ok(writer.into())
}

/// What a place is. A directory on another mount than the one it was found in is marked, so that the
/// guest tells its files from others of the same number.
fn look(place: OwnedFd, parent: Option<&Node>) -> Result<Found, Errno> {
    let (mut attributes, key) = attributes(place.as_fd())?;
    let kind = FileType::from_raw_mode(attributes.mode);
    if kind == FileType::Directory && parent.is_some_and(|parent| parent.key.mount != key.mount) {
        attributes.flags |= ATTR_SUBMOUNT;
    }
    Ok(Found {
        node: Node {
            place,
            kind,
            key,
            told_nameless: AtomicBool::new(false),
        },
        attributes,
    })
}

fn attributes(place: BorrowedFd<'_>) -> Result<(Attributes, Key), Errno> {
    let flags = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let of = statx(place, "", AtFlags::EMPTY_PATH, flags)?;
    let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
    let attributes = Attributes {
        ino: of.stx_ino,
        size: of.stx_size,
        blocks: of.stx_blocks,
        times: [time(of.stx_atime), time(of.stx_mtime), time(of.stx_ctime)],
        mode: of.stx_mode.into(),
        nlink: of.stx_nlink,
        uid: of.stx_uid,
        gid: of.stx_gid,
        // As Linux packs a device's numbers for user space.
        rdev: (of.stx_rdev_minor & 0xff)
            | (of.stx_rdev_major & 0xfff) << 8
            | (of.stx_rdev_minor & !0xff) << 12,
        blksize: of.stx_blksize,
        flags: 0,
    };
    let key = Key {
        device: (of.stx_dev_major, of.stx_dev_minor),
        inode: of.stx_ino,
        mount: of.stx_mnt_id,
    };
    Ok((attributes, key))
}

mod open;
#[cfg(test)]
mod tests;
