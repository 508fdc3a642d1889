//! Replies as bytes: the structures of `linux/fuse.h` that go to the guest, little-endian.
//!
//! Used by [`crate::files`], [`crate::directory`] and [`crate::server`]. It knows no request and no
//! file.

use crate::wire::OUT_HEADER_BYTES;

/// Attributes of a file as `struct fuse_attr` has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are those of the structure in fuse.h
pub struct Attributes {
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    /// Access, change of content, change of attributes: seconds and nanoseconds.
    pub times: [(i64, u32); 3],
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub blksize: u32,
    pub flags: u32,
}

/// A reply's bytes behind the header.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes so far.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends a number.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a number.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a number.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends zeroes up to a multiple of 8.
    pub fn pad(&mut self) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }

    /// Appends a `struct fuse_attr`.
    pub fn attributes(&mut self, of: &Attributes) -> &mut Self {
        self.u64(of.ino).u64(of.size).u64(of.blocks);
        for (seconds, _) in of.times {
            self.u64(seconds.cast_unsigned());
        }
        for (_, nanoseconds) in of.times {
            self.u32(nanoseconds);
        }
        for value in [
            of.mode, of.nlink, of.uid, of.gid, of.rdev, of.blksize, of.flags,
        ] {
            self.u32(value);
        }
        self
    }

    /// Appends a `struct fuse_entry_out` that is good for `valid_s` seconds.
    pub fn entry(&mut self, node: u64, valid_s: u64, attributes: &Attributes) -> &mut Self {
        self.u64(node)
            .u64(0)
            .u64(valid_s)
            .u64(valid_s)
            .u32(0)
            .u32(0)
            .attributes(attributes)
    }

    /// Appends a `struct fuse_dirent`, padded.
    pub fn entry_of_directory(&mut self, ino: u64, next: u64, kind: u32, name: &[u8]) -> &mut Self {
        let len = u32::try_from(name.len()).unwrap_or(0);
        self.u64(ino).u64(next).u32(len).u32(kind).bytes(name).pad()
    }
}

/// The header of a reply of `len` bytes in all; `errno` 0 for success.
#[must_use]
pub fn out_header(len: usize, errno: i32, unique: u64) -> [u8; OUT_HEADER_BYTES] {
    let mut writer = Writer::new();
    writer
        .u32(u32::try_from(len).unwrap_or(u32::MAX))
        .u32((-errno).cast_unsigned())
        .u64(unique);
    let mut header = [0; OUT_HEADER_BYTES];
    for (to, from) in header.iter_mut().zip(writer.into_bytes()) {
        *to = from;
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_have_the_sizes_of_the_kernels_structures() {
        let len = |write: &dyn Fn(&mut Writer)| {
            let mut writer = Writer::new();
            write(&mut writer);
            writer.len()
        };
        let attributes = Attributes::default();
        assert_eq!(
            len(&|w| {
                w.attributes(&attributes);
            }),
            88
        );
        assert_eq!(
            len(&|w| {
                w.entry(1, 1, &attributes);
            }),
            128
        );
        assert_eq!(
            len(&|w| {
                w.entry_of_directory(1, 2, 8, b"abc");
            }),
            32
        );
        assert_eq!(
            out_header(16, 2, 77),
            [16, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 77, 0, 0, 0, 0, 0, 0, 0]
        );
    }
}
