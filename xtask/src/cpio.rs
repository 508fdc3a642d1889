//! A writer of `newc` cpio archives, the format of an initramfs
//! (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
//! `artifacts` and the lab call it. Same entries, same bytes: times and owners are zero,
//! inode numbers count up. It reads no file.

/// File type bits of `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// The archive's last entry.
const TRAILER: &str = "TRAILER!!!";

/// Headers, names and data start at multiples of this many bytes.
const ALIGNMENT: usize = 4;

/// An archive being written.
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// An empty archive.
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            inode: 0,
        }
    }

    /// Adds a folder. Parents must have been added before.
    pub(crate) fn directory(&mut self, path: &str, permissions: u32) {
        self.entry(path, DIRECTORY | permissions, (0, 0), &[]);
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }

    /// Adds a character device.
    pub(crate) fn character_device(
        &mut self,
        path: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) {
        self.entry(path, CHARACTER | permissions, (major, minor), &[]);
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.write(TRAILER, 0, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        self.write(path, self.inode, mode, device, content);
    }

    fn write(
        &mut self,
        path: &str,
        inode: u32,
        mode: u32,
        (major, minor): (u32, u32),
        content: &[u8],
    ) {
        // The format has 32 bits for a size; what is packed here is our own and far smaller.
        let size = u32::try_from(content.len()).expect("a cpio entry is below 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("a path is below 4 GiB");
        let links = 1;
        let fields = [
            inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new();
        archive.directory("dev", 0o755);
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.file("init", 0o755, b"hello");
        archive.finish()
    }

    #[test]
    fn a_file_entry_has_the_layout_of_the_format() {
        let mut archive = Archive::new();
        archive.file("ab", 0o644, b"xyz");
        let bytes = archive.finish();
        let expected = concat!(
            "070701", "00000001", "000081a4", "00000000", "00000000", "00000001", "00000000",
            "00000003", "00000000", "00000000", "00000000", "00000000", "00000003", "00000000",
            "ab\0", "\0\0\0", "xyz\0",
        );
        assert_eq!(&bytes[..expected.len()], expected.as_bytes());
    }

    #[test]
    fn entries_start_aligned_and_the_trailer_is_last() {
        let bytes = sample();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let starts: Vec<_> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, w)| w == b"070701")
            .map(|(at, _)| at)
            .collect();
        assert_eq!(starts.len(), 4);
        assert!(
            starts.iter().all(|start| start % ALIGNMENT == 0),
            "{starts:?}"
        );
        let last = starts.last().copied().unwrap_or_default();
        assert_eq!(&bytes[last + 110..last + 121], b"TRAILER!!!\0");
    }

    #[test]
    fn the_console_is_a_device_with_its_numbers() {
        let bytes = sample();
        let at = bytes
            .windows(11)
            .position(|w| w == b"dev/console")
            .expect("entry");
        let header = std::str::from_utf8(&bytes[at - 110..at]).expect("ascii");
        assert_eq!(&header[14..22], "00002180");
        assert_eq!(&header[78..94], "0000000500000001");
    }

    #[test]
    fn the_same_entries_give_the_same_bytes() {
        assert_eq!(sample(), sample());
    }
}
