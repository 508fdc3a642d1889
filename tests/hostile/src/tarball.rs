//! Builds a tar record by record, also such as no archiver would write. Cases are made with it, and
//! the unpacker's own tests.

/// Fields of a header that tests set.
#[derive(Debug, Clone)]
pub struct Header {
    /// The type flag.
    pub kind: u8,
    /// At most 100 bytes.
    pub path: Vec<u8>,
    /// At most 100 bytes.
    pub link: Vec<u8>,
    /// At most seven octal digits; so for the other numbers, of eleven for size and time.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u64,
    /// Major and minor.
    pub device: (u32, u32),
    /// With the version behind it.
    pub magic: [u8; 8],
    /// What ustar has before the path.
    pub prefix: Vec<u8>,
    /// Where it is not the data's length.
    pub size: Option<u64>,
    /// Bytes that replace those at an offset, before the checksum is made.
    pub patches: Vec<(usize, Vec<u8>)>,
}

/// Of POSIX.
pub const USTAR: [u8; 8] = *b"ustar\x0000";
/// Of GNU tar.
pub const GNU: [u8; 8] = *b"ustar  \0";

impl Header {
    /// Root's, of 2001, without data.
    #[must_use]
    pub fn new(kind: u8, path: impl AsRef<[u8]>) -> Self {
        Self {
            kind,
            path: path.as_ref().to_vec(),
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            mtime: 1_000_000_000,
            device: (0, 0),
            magic: USTAR,
            prefix: Vec::new(),
            size: None,
            patches: Vec::new(),
        }
    }

    /// With these bytes at an offset.
    #[must_use]
    pub fn patch(mut self, at: usize, bytes: impl AsRef<[u8]>) -> Self {
        self.patches.push((at, bytes.as_ref().to_vec()));
        self
    }

    fn encode(&self, data_len: usize) -> [u8; 512] {
        let mut header = [0_u8; 512];
        let mut set = |at: usize, bytes: &[u8]| {
            header[at..at + bytes.len()].copy_from_slice(bytes);
        };
        set(0, &self.path);
        set(100, format!("{:07o}", self.mode).as_bytes());
        set(108, format!("{:07o}", self.uid).as_bytes());
        set(116, format!("{:07o}", self.gid).as_bytes());
        let size = self.size.unwrap_or(data_len as u64);
        set(124, format!("{size:011o}").as_bytes());
        set(136, format!("{:011o}", self.mtime).as_bytes());
        set(156, &[self.kind]);
        set(157, &self.link);
        set(257, &self.magic);
        set(329, format!("{:07o}", self.device.0).as_bytes());
        set(337, format!("{:07o}", self.device.1).as_bytes());
        set(345, &self.prefix);
        for (at, bytes) in &self.patches {
            set(*at, bytes);
        }
        set(148, b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header
    }
}

/// A tar so far, without its end.
#[derive(Debug, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An entry, with padding.
    #[must_use]
    pub fn header(mut self, header: &Header, data: &[u8]) -> Self {
        self.0.extend(header.encode(data.len()));
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, path: impl AsRef<[u8]>, data: &[u8]) -> Self {
        self.header(&Header::new(b'0', path), data)
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, path: impl AsRef<[u8]>) -> Self {
        self.header(&Header::new(b'5', path), b"")
    }

    /// A hard link (`1`) or symbolic link (`2`).
    #[must_use]
    pub fn link(self, kind: u8, path: &str, target: &str) -> Self {
        let mut header = Header::new(kind, path);
        header.link = target.into();
        self.header(&header, b"")
    }

    /// An extended header for the next entry.
    #[must_use]
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.header(&Header::new(b'x', "PaxHeader"), &pax_records(records))
    }

    /// GNU's long name (`L`) or link name (`K`) for the next entry.
    #[must_use]
    pub fn long(self, kind: u8, name: impl AsRef<[u8]>) -> Self {
        let mut header = Header::new(kind, "././@LongLink");
        header.magic = GNU;
        self.header(&header, &[name.as_ref(), b"\0"].concat())
    }

    /// The whole, with two records of zeros.
    #[must_use]
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// The data of an extended header.
#[must_use]
pub fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        data.extend(format!("{len} {key}=").bytes());
        data.extend(*value);
        data.push(b'\n');
    }
    data
}
