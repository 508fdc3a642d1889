//! FUSE requests from bytes (Linux `uapi/linux/fuse.h`, protocol 7.38; all numbers little-endian);
//! replies are [`crate::reply`]'s.
//!
//! [`crate::server`] calls it with what a guest wrote. Pure: every length is checked here, and a name
//! that could lead out of its folder does not get past [`Name::check`].

use rustix::io::Errno;

use crate::reader::Reader;

/// Length of the header in front of every request (`struct fuse_in_header`).
pub const IN_HEADER_BYTES: usize = 40;

/// Length of the header in front of every reply (`struct fuse_out_header`).
pub const OUT_HEADER_BYTES: usize = 16;

/// Where the data of a WRITE begins in its request.
pub const WRITE_DATA_OFFSET: usize = IN_HEADER_BYTES + 40;

/// Most bytes of a request that are looked at: the largest, but for the data of a WRITE, sets an
/// extended attribute of 64 KiB.
pub const REQUEST_BYTES_MAX: usize = 72 << 10;

/// Protocol version spoken.
pub const MAJOR: u32 = 7;
/// See [`MAJOR`].
pub const MINOR: u32 = 38;

/// Longest name in bytes (`NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;

/// Longest target of a symbolic link in bytes (`PATH_MAX` without its NUL).
pub const LINK_BYTES_MAX: usize = 4095;

/// Largest value of an extended attribute in bytes (`XATTR_SIZE_MAX`).
pub const XATTR_BYTES_MAX: usize = 64 << 10;

/// Bits of `init_in.flags` and `init_out.flags`.
pub mod init {
    /// Reads of one file may be under way at the same time.
    pub const ASYNC_READ: u64 = 1 << 0;
    /// OPEN truncates.
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    /// WRITE of more than a page.
    pub const BIG_WRITES: u64 = 1 << 5;
    /// Cached data goes when size or time of a file has changed.
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    /// READDIRPLUS is understood.
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    /// The kernel chooses between READDIR and READDIRPLUS.
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Direct I/O may be under way at the same time.
    pub const ASYNC_DIO: u64 = 1 << 15;
    /// Look-ups in one directory may be under way at the same time.
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    /// `max_pages` counts.
    pub const MAX_PAGES: u64 = 1 << 22;
    /// A directory can be marked as the root of another file system.
    pub const SUBMOUNTS: u64 = 1 << 27;
    /// This side clears set-user-id bits, and is told when.
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// There is a second word of flags.
    pub const INIT_EXT: u64 = 1 << 30;
}

/// `setattr_in.valid`.
pub mod valid {
    /// See `FATTR_MODE` and so on.
    pub const MODE: u32 = 1 << 0;
    /// Owner.
    pub const UID: u32 = 1 << 1;
    /// Group.
    pub const GID: u32 = 1 << 2;
    /// Length.
    pub const SIZE: u32 = 1 << 3;
    /// Time of the last access.
    pub const ATIME: u32 = 1 << 4;
    /// Time of the last change.
    pub const MTIME: u32 = 1 << 5;
    /// The file handle counts.
    pub const FH: u32 = 1 << 6;
    /// The last access is now.
    pub const ATIME_NOW: u32 = 1 << 7;
    /// The last change is now.
    pub const MTIME_NOW: u32 = 1 << 8;
    /// Set-user-id bits go.
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// `FUSE_WRITE_CACHE`: the data comes from the guest's page cache.
pub const WRITE_CACHE: u32 = 1 << 0;
/// `FUSE_WRITE_KILL_SUIDGID`.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_OPEN_KILL_SUIDGID`.
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `FUSE_FSYNC_FDATASYNC`.
pub const FSYNC_DATA: u32 = 1 << 0;
/// `FUSE_ATTR_SUBMOUNT`.
pub const ATTR_SUBMOUNT: u32 = 1 << 0;

/// A name of one directory entry that leads nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks it.
    ///
    /// # Errors
    /// `EINVAL` when it is empty, `.`, `..` or has a `/` or NUL; `ENAMETOOLONG`.
    pub fn check(name: &'a [u8]) -> Result<Self, Errno> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let leads_away = matches!(name, b"" | b"." | b"..");
        if leads_away || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(Errno::INVAL);
        }
        Ok(Self(name))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// What names of POSIX ACLs begin with (acl(5)).
const ACL: &[u8] = b"system.posix_acl_";

/// The name of an extended attribute, which may hold `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XattrName<'a>(&'a [u8]);

impl<'a> XattrName<'a> {
    /// Checks it.
    ///
    /// # Errors
    /// `ERANGE`, as the kernel has it (xattr(7)), when it is empty or too long; `EINVAL` when it has a
    /// NUL.
    pub fn check(name: &'a [u8]) -> Result<Self, Errno> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Errno::RANGE);
        }
        if name.contains(&0) {
            return Err(Errno::INVAL);
        }
        Ok(Self(name))
    }

    /// Whether it names a POSIX ACL.
    #[must_use]
    pub fn is_acl(self) -> bool {
        self.0.starts_with(ACL)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// What stands in front of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What is asked.
    pub opcode: u32,
    /// Repeated in the reply.
    pub unique: u64,
    /// Of which node.
    pub node: u64,
    /// Who asks: user in the guest.
    pub uid: u32,
    /// Who asks: group in the guest.
    pub gid: u32,
}

/// A new time of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Below a second.
    pub nanoseconds: u32,
}

/// SETATTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetAttributes {
    /// Bits of [`valid`].
    pub valid: u32,
    /// A file handle.
    pub handle: u64,
    /// Length.
    pub size: u64,
    /// Times.
    pub atime: Time,
    /// Times.
    pub mtime: Time,
    /// Mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are those of the structures in fuse.h
pub enum Operation<'a> {
    Init {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u64,
    },
    Destroy,
    Lookup(Name<'a>),
    Forget {
        lookups: u64,
    },
    /// Pairs of node and look-ups, 16 bytes each.
    BatchForget(&'a [u8]),
    GetAttributes,
    SetAttributes(SetAttributes),
    ReadLink,
    Symlink {
        name: Name<'a>,
        target: &'a [u8],
    },
    MakeNode {
        name: Name<'a>,
        mode: u32,
    },
    MakeDirectory {
        name: Name<'a>,
        mode: u32,
    },
    Unlink(Name<'a>),
    RemoveDirectory(Name<'a>),
    Rename {
        name: Name<'a>,
        new_parent: u64,
        new_name: Name<'a>,
        flags: u32,
    },
    Link {
        node: u64,
        name: Name<'a>,
    },
    Open {
        flags: u32,
        open_flags: u32,
    },
    Create {
        name: Name<'a>,
        flags: u32,
        mode: u32,
        open_flags: u32,
    },
    MakeTemporary {
        flags: u32,
        mode: u32,
    },
    Read {
        handle: u64,
        offset: u64,
        size: u32,
    },
    Write {
        handle: u64,
        offset: u64,
        size: u32,
        write_flags: u32,
        flags: u32,
    },
    StatFs,
    Release {
        handle: u64,
    },
    Sync {
        handle: u64,
        data_only: bool,
    },
    SetXattr {
        name: XattrName<'a>,
        value: &'a [u8],
        flags: u32,
    },
    GetXattr {
        name: XattrName<'a>,
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr(XattrName<'a>),
    OpenDirectory,
    ReadDirectory {
        handle: u64,
        offset: u64,
        size: u32,
        plus: bool,
    },
    ReleaseDirectory {
        handle: u64,
    },
    SyncDirectory {
        handle: u64,
        data_only: bool,
    },
    Allocate {
        handle: u64,
        offset: u64,
        length: u64,
        mode: u32,
    },
    Seek {
        handle: u64,
        offset: u64,
        whence: u32,
    },
    CopyRange {
        from: u64,
        from_offset: u64,
        to: u64,
        to_offset: u64,
        length: u64,
    },
    SyncFs,
}

/// A request that is none, with the error to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Whom to answer; `None` when there is no whole header.
    pub unique: Option<u64>,
    /// With what.
    pub errno: Errno,
}

/// Reads a request of `total` bytes, of which `bytes` are the first.
///
/// # Errors
/// [`Refused`] for what is too short, too long, unknown or has a bad name.
pub fn parse(bytes: &[u8], total: usize) -> Result<(Header, Operation<'_>), Refused> {
    let mut reader = Reader::new(bytes);
    let (len, header) = header(&mut reader).ok_or(Refused {
        unique: None,
        errno: Errno::INVAL,
    })?;
    let refused = |errno| Refused {
        unique: Some(header.unique),
        errno,
    };
    // What is longer than announced has been padded by nobody we know.
    if usize::try_from(len) != Ok(total) || bytes.len() > total {
        return Err(refused(Errno::INVAL));
    }
    let operation = operation(header.opcode, &mut reader, total).map_err(refused)?;
    Ok((header, operation))
}

fn header(reader: &mut Reader<'_>) -> Option<(u32, Header)> {
    let len = reader.u32()?;
    let header = Header {
        opcode: reader.u32()?,
        unique: reader.u64()?,
        node: reader.u64()?,
        uid: reader.u32()?,
        gid: reader.u32()?,
    };
    reader.skip(8)?;
    Some((len, header))
}

fn operation<'a>(
    opcode: u32,
    reader: &mut Reader<'a>,
    total: usize,
) -> Result<Operation<'a>, Errno> {
    use Operation as O;
    let short = Errno::INVAL;
    let name = |reader: &mut Reader<'a>| Name::check(reader.text().ok_or(short)?);
    let xattr = |reader: &mut Reader<'a>| XattrName::check(reader.text().ok_or(short)?);
    let read = |reader: &mut Reader<'a>| -> Option<(u64, u64, u32)> {
        let values = (reader.u64()?, reader.u64()?, reader.u32()?);
        reader.skip(20)?;
        Some(values)
    };
    let sync = |reader: &mut Reader<'a>| -> Option<(u64, bool)> {
        let values = (reader.u64()?, reader.u32()? & FSYNC_DATA != 0);
        reader.skip(4)?;
        Some(values)
    };
    let parsed = match opcode {
        1 => O::Lookup(name(reader)?),
        2 => O::Forget {
            lookups: reader.u64().ok_or(short)?,
        },
        // Flags and a handle: the node says as much.
        3 => reader.skip(16).map(|()| O::GetAttributes).ok_or(short)?,
        4 => O::SetAttributes(set_attributes(reader).ok_or(short)?),
        5 => O::ReadLink,
        6 => {
            let name = name(reader)?;
            let target = reader.text().ok_or(short)?;
            if target.is_empty() {
                return Err(Errno::NOENT);
            }
            if target.len() > LINK_BYTES_MAX {
                return Err(Errno::NAMETOOLONG);
            }
            O::Symlink { name, target }
        }
        8 => {
            let mode = reader.u32().ok_or(short)?;
            reader.skip(12).ok_or(short)?;
            O::MakeNode {
                mode,
                name: name(reader)?,
            }
        }
        9 => {
            let mode = reader.u32().ok_or(short)?;
            reader.skip(4).ok_or(short)?;
            O::MakeDirectory {
                mode,
                name: name(reader)?,
            }
        }
        10 => O::Unlink(name(reader)?),
        11 => O::RemoveDirectory(name(reader)?),
        12 | 45 => {
            let new_parent = reader.u64().ok_or(short)?;
            let mut flags = 0;
            if opcode == 45 {
                flags = reader.u32().ok_or(short)?;
                reader.skip(4).ok_or(short)?;
            }
            O::Rename {
                new_parent,
                flags,
                name: name(reader)?,
                new_name: name(reader)?,
            }
        }
        13 => O::Link {
            node: reader.u64().ok_or(short)?,
            name: name(reader)?,
        },
        14 => O::Open {
            flags: reader.u32().ok_or(short)?,
            open_flags: reader.u32().ok_or(short)?,
        },
        15 => {
            let (handle, offset, size) = read(reader).ok_or(short)?;
            O::Read {
                handle,
                offset,
                size,
            }
        }
        16 => write(reader, total)?,
        17 => O::StatFs,
        18 | 29 => {
            let handle = reader.u64().ok_or(short)?;
            if opcode == 18 {
                O::Release { handle }
            } else {
                O::ReleaseDirectory { handle }
            }
        }
        20 | 30 => {
            let (handle, data_only) = sync(reader).ok_or(short)?;
            if opcode == 20 {
                O::Sync { handle, data_only }
            } else {
                O::SyncDirectory { handle, data_only }
            }
        }
        21 => {
            let size = reader.u32().ok_or(short)?;
            let flags = reader.u32().ok_or(short)?;
            let name = xattr(reader)?;
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size > XATTR_BYTES_MAX {
                return Err(Errno::TOOBIG);
            }
            O::SetXattr {
                name,
                value: reader.bytes(size).ok_or(short)?,
                flags,
            }
        }
        22 => {
            let size = reader.u32().ok_or(short)?;
            reader.skip(4).ok_or(short)?;
            O::GetXattr {
                size,
                name: xattr(reader)?,
            }
        }
        23 => O::ListXattr {
            size: reader.u32().ok_or(short)?,
        },
        24 => O::RemoveXattr(xattr(reader)?),
        26 => init(reader).ok_or(short)?,
        27 => O::OpenDirectory,
        28 | 44 => {
            let (handle, offset, size) = read(reader).ok_or(short)?;
            O::ReadDirectory {
                handle,
                offset,
                size,
                plus: opcode == 44,
            }
        }
        35 => {
            let flags = reader.u32().ok_or(short)?;
            let mode = reader.u32().ok_or(short)?;
            reader.skip(4).ok_or(short)?;
            let open_flags = reader.u32().ok_or(short)?;
            O::Create {
                flags,
                mode,
                open_flags,
                name: name(reader)?,
            }
        }
        38 => O::Destroy,
        42 => {
            let count = reader.u32().ok_or(short)?;
            reader.skip(4).ok_or(short)?;
            let len = usize::try_from(count).ok().and_then(|n| n.checked_mul(16));
            O::BatchForget(len.and_then(|len| reader.bytes(len)).ok_or(short)?)
        }
        43 => O::Allocate {
            handle: reader.u64().ok_or(short)?,
            offset: reader.u64().ok_or(short)?,
            length: reader.u64().ok_or(short)?,
            mode: reader.u32().ok_or(short)?,
        },
        46 => O::Seek {
            handle: reader.u64().ok_or(short)?,
            offset: reader.u64().ok_or(short)?,
            whence: reader.u32().ok_or(short)?,
        },
        47 => copy_range(reader).ok_or(short)?,
        50 => O::SyncFs,
        // As CREATE, with a name that means nothing.
        51 => {
            let flags = reader.u32().ok_or(short)?;
            let mode = reader.u32().ok_or(short)?;
            O::MakeTemporary { flags, mode }
        }
        _ => return Err(Errno::NOSYS),
    };
    Ok(parsed)
}

fn write<'a>(reader: &mut Reader<'a>, total: usize) -> Result<Operation<'a>, Errno> {
    let mut parse = || {
        let (handle, offset, size) = (reader.u64()?, reader.u64()?, reader.u32()?);
        let write_flags = reader.u32()?;
        reader.skip(8)?;
        let flags = reader.u32()?;
        reader.skip(4)?;
        Some(Operation::Write {
            handle,
            offset,
            size,
            write_flags,
            flags,
        })
    };
    let write = parse().ok_or(Errno::INVAL)?;
    match write {
        Operation::Write { size, .. }
            if usize::try_from(size).ok() == total.checked_sub(WRITE_DATA_OFFSET) =>
        {
            Ok(write)
        }
        _ => Err(Errno::INVAL),
    }
}

fn init<'a>(reader: &mut Reader<'a>) -> Option<Operation<'a>> {
    let (major, minor, max_readahead) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let mut flags = u64::from(reader.u32()?);
    if flags & init::INIT_EXT != 0 {
        flags |= u64::from(reader.u32()?) << 32;
    }
    Some(Operation::Init {
        major,
        minor,
        max_readahead,
        flags,
    })
}

fn set_attributes(reader: &mut Reader<'_>) -> Option<SetAttributes> {
    let valid = reader.u32()?;
    reader.skip(4)?;
    let (handle, size) = (reader.u64()?, reader.u64()?);
    reader.skip(8)?;
    let (atime, mtime) = (reader.i64()?, reader.i64()?);
    reader.skip(8)?;
    let (atime_nsec, mtime_nsec) = (reader.u32()?, reader.u32()?);
    reader.skip(4)?;
    let mode = reader.u32()?;
    reader.skip(4)?;
    let (uid, gid) = (reader.u32()?, reader.u32()?);
    reader.skip(4)?;
    let time = |seconds, nanoseconds| Time {
        seconds,
        nanoseconds,
    };
    Some(SetAttributes {
        valid,
        handle,
        size,
        atime: time(atime, atime_nsec),
        mtime: time(mtime, mtime_nsec),
        mode,
        uid,
        gid,
    })
}

fn copy_range<'a>(reader: &mut Reader<'a>) -> Option<Operation<'a>> {
    let (from, from_offset) = (reader.u64()?, reader.u64()?);
    // The node of the second file: its handle says the same.
    reader.skip(8)?;
    let (to, to_offset, length) = (reader.u64()?, reader.u64()?, reader.u64()?);
    Some(Operation::CopyRange {
        from,
        from_offset,
        to,
        to_offset,
        length,
    })
}

#[cfg(test)]
mod tests;
