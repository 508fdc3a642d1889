//! The outer tar of an archive, read front to back in one pass: headers to members, contents to the caller.
//!
//! Used by `archive`, and by the fuzzer without a store. It uses the tar crate for the fields of a header
//! and walks the blocks itself, because the crate reads long names and PAX headers into memory without a
//! limit. It keeps names as bytes and gives them no meaning.

use std::io::{self, Read};

use tar::{EntryType, Header};
use thiserror::Error;

use super::ArchiveError;
use crate::limits::{
    ARCHIVE_BYTES, ARCHIVE_EXTENSIONS, ARCHIVE_MEMBERS, ARCHIVE_NAME_BYTES, ARCHIVE_PAX_BYTES,
    LAYER_BYTES,
};

/// Bytes of a tar block (POSIX.1-2017, pax, "ustar Interchange Format").
const BLOCK: u64 = 512;
/// Bytes after the end mark that are read and dropped, so that a writer into a pipe isn't cut off. GNU tar
/// fills up to 10 KiB.
const TRAILER_BYTES: u64 = 1 << 20;

/// A tar that can't be used.
#[derive(Debug, Error)]
pub enum TarError {
    /// It ends in the middle of something.
    #[error("it ends too early")]
    Truncated,
    /// A header whose checksum is wrong: this is no tar, or a damaged one.
    #[error("the header at byte {0} has a wrong checksum")]
    Checksum(u64),
    /// A number in a header that can't be read.
    #[error("the header at byte {0} has a malformed number")]
    Number(u64),
    /// A PAX header that can't be read.
    #[error("the extended header at byte {0} is malformed")]
    Pax(u64),
    /// A sparse member.
    #[error("the member at byte {0} is sparse, which is not supported")]
    Sparse(u64),
    /// A member or header above its limit.
    #[error("the {what} at byte {at} has {size} bytes, above the limit of {limit}")]
    TooLarge {
        /// Which kind of thing.
        what: &'static str,
        /// Where its header is.
        at: u64,
        /// Bytes it has.
        size: u64,
        /// Bytes it may have.
        limit: u64,
    },
    /// More than [`ARCHIVE_MEMBERS`].
    #[error("it has more than {ARCHIVE_MEMBERS} members")]
    TooManyMembers,
    /// More than [`ARCHIVE_EXTENSIONS`] extended headers for one member.
    #[error("the member at byte {0} has more than {ARCHIVE_EXTENSIONS} extended headers")]
    TooManyExtensions(u64),
    /// More than [`ARCHIVE_BYTES`].
    #[error("its members have more than {ARCHIVE_BYTES} bytes together")]
    TooMuch,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// A file with content.
    File,
    /// Its link target is relative to its directory.
    Symlink,
    /// Its link target is another member's name.
    Hardlink,
    /// A directory, device or anything else without use here.
    Other,
}

/// A member's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub kind: MemberKind,
    /// As it stands in the archive.
    pub name: Vec<u8>,
    /// As it stands in the archive; empty for what is no link.
    pub link: Vec<u8>,
}

impl Member {
    /// The name, if it is text.
    pub fn name(&self) -> Option<&str> {
        std::str::from_utf8(&self.name).ok()
    }

    /// The link target, if it is text.
    pub fn link(&self) -> Option<&str> {
        std::str::from_utf8(&self.link).ok()
    }
}

/// What headers before a member say about it.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    count: usize,
}

/// Gives each member and its content to `visit`, which may leave content unread.
pub fn read(
    source: impl Read,
    mut visit: impl FnMut(&Member, &mut dyn Read) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let mut tar = Tar { source, at: 0 };
    let mut extensions = Extensions::default();
    let (mut members, mut total) = (0_usize, 0_u64);
    loop {
        let at = tar.at;
        let Some(block) = tar.block()? else {
            return Ok(());
        };
        if block == [0; 512] {
            return tar.drain();
        }
        let header = Header::from_byte_slice(&block);
        check_sum(header, at)?;
        let size = header.entry_size().map_err(|_| TarError::Number(at))?;
        match header.entry_type() {
            EntryType::GNULongName => {
                extensions.name = Some(until_nul(tar.small(
                    "long name",
                    at,
                    size,
                    ARCHIVE_NAME_BYTES,
                )?));
            }
            EntryType::GNULongLink => {
                extensions.link = Some(until_nul(tar.small(
                    "long link target",
                    at,
                    size,
                    ARCHIVE_NAME_BYTES,
                )?));
            }
            EntryType::XHeader => {
                let records = tar.small("extended header", at, size, ARCHIVE_PAX_BYTES)?;
                extensions.read_pax(&records, at)?;
            }
            // It would hold for every member after it; nothing in it is needed, so it can't poison any.
            EntryType::XGlobalHeader => {
                tar.small("global extended header", at, size, ARCHIVE_PAX_BYTES)?;
            }
            EntryType::GNUSparse => return Err(TarError::Sparse(at).into()),
            kind => {
                members += 1;
                if members > ARCHIVE_MEMBERS {
                    return Err(TarError::TooManyMembers.into());
                }
                let extensions = std::mem::take(&mut extensions);
                let (member, size) = member(header, kind, size, extensions);
                if size > LAYER_BYTES {
                    return Err(TarError::TooLarge {
                        what: "member",
                        at,
                        size,
                        limit: LAYER_BYTES,
                    }
                    .into());
                }
                total = total.saturating_add(size);
                if total > ARCHIVE_BYTES {
                    return Err(TarError::TooMuch.into());
                }
                let mut content = Content {
                    tar: &mut tar,
                    left: size,
                };
                visit(&member, &mut content)?;
                content.skip()?;
                tar.skip_padding(size)?;
                continue;
            }
        }
        extensions.count += 1;
        if extensions.count > ARCHIVE_EXTENSIONS {
            return Err(TarError::TooManyExtensions(at).into());
        }
    }
}

/// Links, directories and devices have no content, whatever size their header names (POSIX).
fn member(header: &Header, kind: EntryType, size: u64, extensions: Extensions) -> (Member, u64) {
    let size = extensions.size.unwrap_or(size);
    let (kind, size) = match kind {
        EntryType::Regular | EntryType::Continuous => (MemberKind::File, size),
        EntryType::Symlink => (MemberKind::Symlink, 0),
        EntryType::Link => (MemberKind::Hardlink, 0),
        EntryType::Directory | EntryType::Char | EntryType::Block | EntryType::Fifo => {
            (MemberKind::Other, 0)
        }
        _ => (MemberKind::Other, size),
    };
    let name = extensions
        .name
        .unwrap_or_else(|| header.path_bytes().into_owned());
    let link = extensions
        .link
        .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
    // Before ustar, a directory was a file whose name ends in a slash.
    let kind = if kind == MemberKind::File && name.ends_with(b"/") {
        MemberKind::Other
    } else {
        kind
    };
    (Member { kind, name, link }, size)
}

/// The sum of all bytes, with the checksum's own eight taken as spaces.
fn check_sum(header: &Header, at: u64) -> Result<(), TarError> {
    let bytes = header.as_bytes();
    let sum: u32 = (0..)
        .zip(bytes)
        .map(|(index, byte)| {
            if (148..156).contains(&index) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    if header.cksum().is_ok_and(|stored| stored == sum) {
        Ok(())
    } else {
        Err(TarError::Checksum(at))
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

impl Extensions {
    /// Reads records of the form `length key=value\n`, the length counting the whole record.
    fn read_pax(&mut self, mut records: &[u8], at: u64) -> Result<(), TarError> {
        while !records.is_empty() {
            let malformed = || TarError::Pax(at);
            let space = records
                .iter()
                .position(|byte| *byte == b' ')
                .ok_or_else(malformed)?;
            let (digits, _) = records.split_at_checked(space).ok_or_else(malformed)?;
            let length: usize = std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(malformed)?;
            let (record, rest) = records.split_at_checked(length).ok_or_else(malformed)?;
            records = rest;
            let record = record
                .get(space + 1..)
                .and_then(|record| record.strip_suffix(b"\n"))
                .ok_or_else(malformed)?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(malformed)?;
            let (key, value) = record.split_at_checked(equals).ok_or_else(malformed)?;
            let value = value.strip_prefix(b"=").ok_or_else(malformed)?;
            let is_name = value.len() <= usize::try_from(ARCHIVE_NAME_BYTES).unwrap_or(usize::MAX)
                && !value.contains(&0);
            match key {
                b"path" | b"linkpath" if !is_name => return Err(malformed()),
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value)
                        .ok()
                        .and_then(|digits| digits.parse().ok());
                    self.size = Some(size.ok_or(TarError::Number(at))?);
                }
                _ if key.starts_with(b"GNU.sparse.") => return Err(TarError::Sparse(at)),
                _ => {}
            }
        }
        Ok(())
    }
}

struct Tar<R> {
    source: R,
    /// Bytes read so far.
    at: u64,
}

impl<R: Read> Tar<R> {
    /// The next block, or `None` at an end between blocks.
    fn block(&mut self) -> Result<Option<[u8; 512]>, ArchiveError> {
        let mut block = [0; 512];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.source.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Read(error)),
            }
        }
        self.at = self.at.saturating_add(BLOCK);
        Ok(Some(block))
    }

    /// The content of a header that is read into memory.
    fn small(
        &mut self,
        what: &'static str,
        at: u64,
        size: u64,
        limit: u64,
    ) -> Result<Vec<u8>, ArchiveError> {
        if size > limit {
            return Err(TarError::TooLarge {
                what,
                at,
                size,
                limit,
            }
            .into());
        }
        let mut bytes = Vec::new();
        Content {
            tar: self,
            left: size,
        }
        .read_to_end(&mut bytes)
        .map_err(reason)?;
        self.skip_padding(size)?;
        Ok(bytes)
    }

    fn skip_padding(&mut self, size: u64) -> Result<(), ArchiveError> {
        let padding = size.next_multiple_of(BLOCK).saturating_sub(size);
        Content {
            tar: self,
            left: padding,
        }
        .skip()
    }

    fn drain(&mut self) -> Result<(), ArchiveError> {
        io::copy(
            &mut self.source.by_ref().take(TRAILER_BYTES),
            &mut io::sink(),
        )
        .map_err(ArchiveError::Read)?;
        Ok(())
    }
}

/// The content of one member. An archive that ends in it gives an error, not a short content.
struct Content<'a, R> {
    tar: &'a mut Tar<R>,
    left: u64,
}

impl<R: Read> Content<'_, R> {
    fn skip(&mut self) -> Result<(), ArchiveError> {
        io::copy(self, &mut io::sink()).map_err(reason)?;
        Ok(())
    }
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        let count = self.tar.source.read(buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let read = u64::try_from(count).unwrap_or(u64::MAX);
        self.left = self.left.saturating_sub(read);
        self.tar.at = self.tar.at.saturating_add(read);
        Ok(count)
    }
}

/// Tells an archive that ends too early from one that can't be read.
pub(super) fn reason(error: io::Error) -> ArchiveError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarError::Truncated.into(),
        _ => ArchiveError::Read(error),
    }
}

impl From<TarError> for ArchiveError {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

#[cfg(test)]
mod tests;
