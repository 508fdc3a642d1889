//! Archives that lie, written byte by byte (POSIX pax, ustar interchange format). `serve` sends them in
//! place of what was asked for.

use std::io::{Error, Result, Write};

/// Bytes of a header, and what content is padded to.
const BLOCK: usize = 512;

const FILE: u8 = b'0';
const HARD_LINK: u8 = b'1';
const LINK: u8 = b'2';
const DEVICE: u8 = b'3';
const DIRECTORY: u8 = b'5';

/// What is written where nothing should be.
const CONTENT: &[u8] = b"hostile";

/// Writes an archive that lies so, of something that is to be called `top`; `None` when there is no such lie.
pub fn write(lie: &str, top: &str, to: &mut dyn Write) -> Option<Result<()>> {
    let mut tar = Tar(to);
    Some(match lie {
        "dots" => tar.file(&format!("{top}/../../escaped")),
        "absolute" => tar.file("/tmp/bulkhead-escaped"),
        "through-link" => tar.through_link(top, "../.."),
        "through-root" => tar.through_link(top, "/tmp"),
        "hard-link" => tar.hard_link(top),
        "other-top" => tar.file("escaped"),
        "device" => tar.device(top),
        "endless" => tar.endless(top),
        "short" => tar.lengths(top, 1 << 20, 10),
        "long" => tar.lengths(top, 10, 1 << 20),
        "huge" => tar.lengths(top, u64::MAX, 1 << 20),
        "garbage" => tar.bytes(&[b'x'; 64 << 10]),
        "nothing" => Ok(()),
        _ => return None,
    })
}

struct Tar<'a>(&'a mut dyn Write);

impl Tar<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes)
    }

    fn header(&mut self, path: &str, kind: u8, size: u64, link: &str) -> Result<()> {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| -> Result<()> {
            let place = header.get_mut(at..at + bytes.len());
            let place = place.ok_or_else(|| Error::other("no room in a header"))?;
            place.copy_from_slice(bytes);
            Ok(())
        };
        put(0, path.as_bytes())?;
        put(100, b"0000755\0")?;
        put(108, b"0000000\0")?;
        put(116, b"0000000\0")?;
        match size < 1 << 33 {
            true => put(124, format!("{size:011o}\0").as_bytes())?,
            // Base 256, as GNU tar writes what has no room.
            false => {
                put(124, &[0x80, 0, 0, 0])?;
                put(128, &size.to_be_bytes())?;
            }
        }
        put(136, b"00000000000\0")?;
        put(148, b"        ")?;
        put(156, &[kind])?;
        put(157, link.as_bytes())?;
        put(257, b"ustar\x0000")?;
        put(329, b"0000001\0")?;
        put(337, b"0000003\0")?;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        let sum = format!("{sum:06o}\0 ");
        if let Some(place) = header.get_mut(148..156) {
            place.copy_from_slice(sum.as_bytes());
        }
        self.bytes(&header)
    }

    /// A file of [`CONTENT`].
    fn one(&mut self, path: &str) -> Result<()> {
        self.header(path, FILE, CONTENT.len() as u64, "")?;
        let mut block = CONTENT.to_vec();
        block.resize(BLOCK, 0);
        self.bytes(&block)
    }

    fn end(&mut self) -> Result<()> {
        self.bytes(&[0; 2 * BLOCK])
    }

    fn file(&mut self, path: &str) -> Result<()> {
        self.one(path)?;
        self.end()
    }

    fn through_link(&mut self, top: &str, link: &str) -> Result<()> {
        self.header(&format!("{top}/"), DIRECTORY, 0, "")?;
        self.header(&format!("{top}/link"), LINK, 0, link)?;
        self.file(&format!("{top}/link/bulkhead-escaped"))
    }

    fn hard_link(&mut self, top: &str) -> Result<()> {
        self.header(&format!("{top}/"), DIRECTORY, 0, "")?;
        let secret = format!("{top}/../../secret");
        self.header(&format!("{top}/hard"), HARD_LINK, 0, &secret)?;
        self.end()
    }

    /// Of the kernel's memory.
    fn device(&mut self, top: &str) -> Result<()> {
        self.header(&format!("{top}/"), DIRECTORY, 0, "")?;
        self.header(&format!("{top}/memory"), DEVICE, 0, "")?;
        self.end()
    }

    fn endless(&mut self, top: &str) -> Result<()> {
        self.header(top, FILE, 1 << 39, "")?;
        let chunk = [b'x'; 64 << 10];
        loop {
            self.bytes(&chunk)?;
        }
    }

    /// A file of `told` bytes that has others.
    fn lengths(&mut self, top: &str, told: u64, sent: usize) -> Result<()> {
        self.header(top, FILE, told, "")?;
        self.bytes(&vec![b'x'; sent])
    }
}
