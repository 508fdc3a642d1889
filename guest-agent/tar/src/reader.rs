//! Reads a tar: ustar, PAX and GNU headers, GNU's four sparse forms. Every field is a stranger's.
//!
//! It knows no file system and writes nothing. Formats: POSIX.1-2001 pax interchange format; GNU tar
//! manual, "Basic Tar Format". Where readers of tar disagree, this one
//! does as Go's archive/tar, which is Docker's, or refuses the archive.
//!
//! The crate `tar` is no match: it gives up on sparse files of PAX headers, ignores damaged PAX
//! records and has no limits on extended headers.

use std::io::{ErrorKind, Read};
use std::ops::Range;

use crate::error::TarError;
use crate::header::{
    DEVICE_MAJOR, DEVICE_MINOR, GID, Header, MODE, MTIME, RECORD, SIZE, UID, until_nul,
};
use crate::pax::Records;
use crate::sparse;

/// Bytes of one extended header or long name, as in Go's reader.
const EXTENDED_MAX: u64 = 1 << 20;

/// Bytes of one file: what EROFS addresses with 32-bit numbers of 4 KiB blocks.
const FILE_BYTES_MAX: u64 = 1 << 44;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// Another name of an entry before it.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// An extended attribute with its full name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// With its namespace: `user.x`.
    pub name: Vec<u8>,
    /// Any bytes.
    pub value: Vec<u8>,
}

/// Data in a file with holes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where in the file.
    pub offset: u64,
    /// How long.
    pub len: u64,
}

/// One entry; its data is read by [`TarReader::read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it stands in the archive.
    pub path: Vec<u8>,
    /// Target of a link, as it stands in the archive.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// The lower twelve bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Major and minor number.
    pub device: (u32, u32),
    /// Size of the file in bytes.
    pub size: u64,
    /// Where its data lies, in order: all of it, or what a sparse map says.
    pub pieces: Vec<Piece>,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
}

/// What comes before an entry's own header.
#[derive(Debug, Default)]
struct Before {
    records: Option<Records>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// A tar being read.
#[derive(Debug)]
pub struct TarReader<R> {
    from: R,
    /// Bytes of the current entry's data that were not read yet, and the padding behind them.
    left: u64,
    padding: u64,
    /// Bytes read so far.
    offset: u64,
}

impl<R: Read> TarReader<R> {
    /// Reads `from`.
    pub fn new(from: R) -> Self {
        Self {
            from,
            left: 0,
            padding: 0,
            offset: 0,
        }
    }

    /// Fills `buffer` with as much as there is; fewer bytes mean the end.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.from.read(room) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(TarError::Read(source));
                }
            }
        }
        self.offset = self.offset.saturating_add(filled as u64);
        Ok(filled)
    }

    pub(crate) fn truncated(&self) -> TarError {
        TarError::corrupt(format!("the tar is truncated at byte {}", self.offset))
    }

    /// Reads data of the current entry; 0 at its end.
    ///
    /// # Errors
    /// The archive ends early, or the source fails.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let want = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let len = self.fill(buffer.get_mut(..want).unwrap_or_default())?;
        if len < want {
            return Err(self.truncated());
        }
        self.left -= len as u64;
        Ok(len)
    }

    /// Passes over what is left of the current entry.
    fn skip(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 16 << 10];
        while self.left > 0 {
            self.read(&mut buffer)?;
        }
        // The last padding of an archive may be missing: GNU tar and Go read on, so to its end.
        let padding = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or(RECORD);
        self.fill(buffer.get_mut(..padding).unwrap_or_default())?;
        Ok(())
    }

    /// What follows is `size` bytes of data.
    fn set_data(&mut self, size: u64) -> Result<(), TarError> {
        if size > FILE_BYTES_MAX {
            return Err(TarError::Limit {
                what: "bytes of one file",
                limit: FILE_BYTES_MAX,
            });
        }
        self.left = size;
        self.padding = size.next_multiple_of(RECORD as u64) - size;
        Ok(())
    }

    /// The next entry, or `None` at the end of the archive.
    ///
    /// # Errors
    /// A damaged header or the archive's end in the middle of something.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut before = Before::default();
        loop {
            self.skip()?;
            let offset = self.offset;
            let Some(header) = self.next_header()? else {
                let nothing = before.records.is_none()
                    && before.long_path.is_none()
                    && before.long_link.is_none();
                return if nothing {
                    Ok(None)
                } else {
                    Err(self.truncated())
                };
            };
            let entry = self.one_header(&header, &mut before);
            if let Some(entry) = entry.map_err(|error| error.at_header(offset))? {
                return Ok(Some(entry));
            }
        }
    }

    /// The next header, or `None` at the end: that of the stream, or two records of zeros.
    fn next_header(&mut self) -> Result<Option<Header>, TarError> {
        for zeros in 0..2 {
            let mut record = [0; RECORD];
            match self.fill(&mut record)? {
                0 => return Ok(None),
                RECORD => {}
                _ => return Err(self.truncated()),
            }
            let header = Header(record);
            match (header.is_zero(), zeros) {
                (true, _) => {}
                (false, 0) => return Ok(Some(header)),
                // GNU tar would end here, Go refuses.
                (false, _) => {
                    return Err(TarError::corrupt(
                        "an archive that goes on behind a record of zeros",
                    ));
                }
            }
        }
        Ok(None)
    }

    /// An entry, or `None` for a header that only says something of the next one.
    fn one_header(
        &mut self,
        header: &Header,
        before: &mut Before,
    ) -> Result<Option<Entry>, TarError> {
        if !header.checksum_holds() {
            return Err(TarError::corrupt("its checksum is wrong"));
        }
        let size = header
            .number(SIZE)
            .and_then(|size| u64::try_from(size).ok())
            .ok_or_else(|| TarError::corrupt("its size is no number"))?;
        // Where one entry has two of a kind, readers of tar disagree on which one counts.
        let twice = |what: &str| TarError::corrupt(format!("two {what} for one entry"));
        match header.type_flag() {
            b'x' => {
                let records = Records::parse(&self.small(size)?)?;
                if before.records.replace(records).is_some() {
                    return Err(twice("extended headers"));
                }
            }
            // It would apply to all that follows; Docker ignores it.
            b'g' => {
                if before.records.is_some() {
                    return Err(TarError::corrupt(
                        "a global header behind an extended header",
                    ));
                }
                self.small(size)?;
            }
            b'L' => {
                let name = until_nul(&self.small(size)?).to_vec();
                if before.long_path.replace(name).is_some() {
                    return Err(twice("long names"));
                }
            }
            b'K' => {
                let name = until_nul(&self.small(size)?).to_vec();
                if before.long_link.replace(name).is_some() {
                    return Err(twice("long link names"));
                }
            }
            _ => return self.entry(header, size, std::mem::take(before)).map(Some),
        }
        Ok(None)
    }

    /// The data of an extended header.
    fn small(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let too_large = || TarError::Limit {
            what: "bytes of one extended tar header",
            limit: EXTENDED_MAX,
        };
        if size > EXTENDED_MAX {
            return Err(too_large());
        }
        self.set_data(size)?;
        let mut data = vec![0; usize::try_from(size).map_err(|_| too_large())?];
        self.read(&mut data)?;
        Ok(data)
    }

    fn entry(&mut self, header: &Header, size: u64, before: Before) -> Result<Entry, TarError> {
        let records = before.records.unwrap_or_default();
        let mut path = one_name(before.long_path, records.path)?.unwrap_or_else(|| header.path());
        let link = one_name(before.long_link, records.link)?.unwrap_or_else(|| header.link());
        let type_flag = header.type_flag();
        let kind = match type_flag {
            // Old archives have no type for a directory, only a slash.
            0 if path.last() == Some(&b'/') => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                return Err(TarError::corrupt(format!(
                    "an entry of the unknown type {other:#04x}"
                ))
                .in_entry(&path));
            }
        };
        // Other kinds have no data, whatever their size field says: some archivers give hard
        // links the size of their target.
        let mut size = match kind {
            EntryKind::File => records.size.unwrap_or(size),
            _ => 0,
        };
        self.set_data(size)?;
        let mut pieces = vec![Piece {
            offset: 0,
            len: size,
        }];
        let is_sparse = !records.sparse.is_empty();
        if is_sparse && (kind != EntryKind::File || type_flag == b'S') {
            return Err(TarError::corrupt("a sparse map where none can be"));
        }
        if is_sparse || type_flag == b'S' {
            (pieces, size) = if is_sparse {
                self.pax_sparse(&records.sparse)?
            } else {
                self.old_gnu_sparse(header)?
            };
            if let Some(name) = records.sparse.name {
                path = name;
            }
            sparse::check(&pieces, size, self.left)?;
            if size > FILE_BYTES_MAX {
                return Err(TarError::Limit {
                    what: "bytes of one file",
                    limit: FILE_BYTES_MAX,
                });
            }
        }
        let is_device = matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        let device = if is_device && header.has_device() {
            (
                id(None, header, DEVICE_MAJOR, "device major")?,
                id(None, header, DEVICE_MINOR, "device minor")?,
            )
        } else {
            (0, 0)
        };
        let mode = number(header, MODE, "mode")?;
        Ok(Entry {
            path,
            link,
            kind,
            // Type bits in the mode are the archiver's business.
            mode: u16::try_from(mode & 0o7777).unwrap_or_default(),
            uid: id(records.uid, header, UID, "uid")?,
            gid: id(records.gid, header, GID, "gid")?,
            mtime: match records.mtime {
                Some(mtime) => mtime,
                None => (number(header, MTIME, "mtime")?, 0),
            },
            device,
            size,
            pieces,
            xattrs: records.xattrs,
        })
    }
}

/// GNU's long name and PAX's: Go prefers the former, GNU tar the latter.
fn one_name(long: Option<Vec<u8>>, pax: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, TarError> {
    let long = long.filter(|name| !name.is_empty());
    match (long, pax) {
        (Some(long), Some(pax)) if long != pax => Err(TarError::corrupt(
            "a GNU and a PAX name that differ for one entry",
        )),
        (Some(name), _) | (None, Some(name)) => Ok(Some(name)),
        (None, None) => Ok(None),
    }
}

fn number(header: &Header, field: Range<usize>, what: &str) -> Result<i64, TarError> {
    header
        .number(field)
        .ok_or_else(|| TarError::corrupt(format!("its {what} is no number")))
}

fn id(
    given: Option<i64>,
    header: &Header,
    field: Range<usize>,
    what: &str,
) -> Result<u32, TarError> {
    let id = match given {
        Some(id) => id,
        None => number(header, field, what)?,
    };
    u32::try_from(id).map_err(|_| TarError::corrupt(format!("its {what} {id} is out of range")))
}
