//! What an archive is compressed with, by how it begins. Nothing is decompressed here.
//!
//! Called on both sides of a VM's border: by whoever has to have a VM decompress, and by the agent that does.

/// Bytes that tell the formats apart.
pub const MAGIC_LEN: u64 = 10;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// It is not, as far as is known.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Packing {
    /// What the first [`MAGIC_LEN`] bytes say.
    #[must_use]
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            // The level, then the digits of pi that begin a block or those that end an empty stream: a tar may
            // begin with a file named BZh…
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The program that unpacks it.
    #[must_use]
    pub fn program(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Bzip2 => Some("bzip2"),
            Self::Xz => Some("xz"),
            Self::Zstd => Some("zstd"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_beginning() {
        for (head, program) in [
            (&b"\x1f\x8b\x08\0"[..], Some("gzip")),
            (b"BZh91AY&SY", Some("bzip2")),
            (b"BZh9\x17\x72\x45\x38\x50\x90", Some("bzip2")),
            (b"\xfd7zXZ\0\0", Some("xz")),
            (b"\x28\xb5\x2f\xfd\0", Some("zstd")),
            (b"", None),
            (b"\x1f\x8b", None),
            (b"BZhello, a file", None),
        ] {
            assert_eq!(Packing::of(head).program(), program, "{head:?}");
        }
    }
}
