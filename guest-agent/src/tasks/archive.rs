//! Writing files of the container as a tar: one path, the whole root, or what was changed.
//!
//! Called by [`super`] in a child. What changes while it is read is archived as it was found, and
//! what is gone again is left out. Sockets are left out: a tar has no kind for them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::message::FailureKind;
use rustix::fs::{FileType, Stat, fstatfs, major, minor};
use rustix::io::Errno;
use tarball::{Entry, EntryKind, TarWriter, shown};

use super::place::{self, Found};
use crate::failure::{Context, Failure};

/// Bytes that are written to the host at once.
const BUFFER_LEN: usize = 256 << 10;

/// Longest path in an archive in bytes (`PATH_MAX`): what no program could name.
const PATH_MAX: usize = 4095;

/// Bytes of names that are held: those of every directory on the way to the current one.
const NAMES_MAX: usize = 64 << 20;

/// Bytes for names of files that have several; beyond, such a file is archived once more.
const LINKS_MAX: usize = 32 << 20;

/// Whiteouts and the mark of an opaque directory (OCI image specification, layer.md).
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// File systems that show the kernel's state, and tmpfs: what is mounted in a container from them
/// belongs to its running processes. An archive of what is around them has the empty directory.
const NOT_ENTERED: [i64; 6] = [
    0x9fa0,      // PROC_SUPER_MAGIC
    0x6265_6572, // SYSFS_MAGIC
    0x6367_7270, // CGROUP2_SUPER_MAGIC
    0x1cd1,      // DEVPTS_SUPER_MAGIC
    0x1980_0202, // MQUEUE_MAGIC
    0x0102_1994, // TMPFS_MAGIC
];

/// How the files are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    /// As they are.
    Files,
    /// As the upper layer of an overlay, whose marks become those of a layer's archive.
    Layer,
}

/// Writes one file, or one directory with what is in it, under the name `name`.
///
/// # Errors
/// What reading or writing says, or that a limit is exceeded.
pub fn of_one(found: Found, name: &[u8], to: impl Write) -> Result<(), Failure> {
    let mut archive = Archive::new(As::Files, to);
    archive.device = found.stat.st_dev;
    if let Some(dir) = archive.put(found, name)? {
        archive.walk(dir, name)?;
    }
    archive.finish()
}

/// Writes everything below a root.
///
/// # Errors
/// As [`of_one`].
pub fn of_root(root: BorrowedFd<'_>, to: impl Write) -> Result<(), Failure> {
    Archive::new(As::Files, to).all(root)
}

/// Writes the upper layer of an overlay as an OCI layer.
///
/// # Errors
/// As [`of_one`], and that a file's name has a meaning in a layer.
pub fn of_changes(
    upper: BorrowedFd<'_>,
    latest: Option<i64>,
    to: impl Write,
) -> Result<(), Failure> {
    let mut archive = Archive::new(As::Layer, to);
    archive.latest = latest;
    archive.all(upper)
}

/// A directory on the way to the current one.
struct Level {
    dir: OwnedFd,
    /// What is left to do in it, last first.
    names: Vec<Vec<u8>>,
    /// Length of its own path.
    path_len: usize,
    /// Bytes that its names took at first.
    bytes: usize,
}

/// Whether a path is left out.
pub(super) type Excludes<'a> = &'a dyn Fn(&[u8]) -> bool;

pub(super) struct Archive<'a, W: Write> {
    reading: As,
    /// What times are at most, in seconds since 1970.
    latest: Option<i64>,
    /// Whether what lies at a path is left out, with what is below it.
    pub(super) is_excluded: Option<Excludes<'a>>,
    tar: TarWriter<BufWriter<W>>,
    /// Device of where it begins.
    device: u64,
    /// Names of files that have several, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    links_bytes: usize,
    names_bytes: usize,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Archive<'a, W> {
    /// An archive of files as they are.
    pub(super) fn of_files(to: W) -> Self {
        Self::new(As::Files, to)
    }

    fn new(reading: As, to: W) -> Self {
        Self {
            reading,
            latest: None,
            is_excluded: None,
            tar: TarWriter::new(BufWriter::with_capacity(BUFFER_LEN, to)),
            device: 0,
            links: HashMap::new(),
            links_bytes: 0,
            names_bytes: 0,
            buffer: vec![0; BUFFER_LEN],
        }
    }

    /// Everything below a root, and the end.
    fn all(mut self, root: BorrowedFd<'_>) -> Result<(), Failure> {
        let root = place::look_in(root, b".").context(|| "open the container's root".into())?;
        self.begin_at(&root);
        self.walk(root.fd, b"")?;
        self.finish()
    }

    /// What is on another file system than this is entered only if it is one of files. Two names of one file are
    /// one only where they came from one beginning: another one's may be put over them.
    pub(super) fn begin_at(&mut self, found: &Found) {
        self.device = found.stat.st_dev;
        self.links.clear();
        self.links_bytes = 0;
    }

    pub(super) fn finish(self) -> Result<(), Failure> {
        self.tar.finish().map(drop).context(writing)
    }

    /// Archives what is in a directory, whose own path is `path`.
    pub(super) fn walk(&mut self, dir: OwnedFd, path: &[u8]) -> Result<(), Failure> {
        let mut path = path.to_vec();
        let mut levels = vec![self.level(dir, &path)?];
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path_len);
            let Some(name) = level.names.pop() else {
                self.names_bytes = self.names_bytes.saturating_sub(level.bytes);
                levels.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if path.len() > PATH_MAX {
                return Err(limit(format!(
                    "a path of {} bytes, the limit is {PATH_MAX}",
                    path.len()
                )));
            }
            if self.is_excluded.is_some_and(|excludes| excludes(&path)) {
                continue;
            }
            let found = match place::look_in(level.dir.as_fd(), &name) {
                // Gone meanwhile.
                Err(Errno::NOENT) => continue,
                found => found.context(|| format!("open {}", shown(&path)))?,
            };
            if let Some(dir) = self.put(found, &path)? {
                let level = self.level(dir, &path)?;
                levels.push(level);
            }
        }
        Ok(())
    }

    fn level(&mut self, dir: OwnedFd, path: &[u8]) -> Result<Level, Failure> {
        let mut names = place::names(dir.as_fd()).context(|| format!("read {}", shown(path)))?;
        names.reverse();
        let bytes = names
            .iter()
            .map(|name| name.len() + size_of::<Vec<u8>>())
            .sum();
        self.names_bytes += bytes;
        if self.names_bytes > NAMES_MAX {
            return Err(limit(format!(
                "{}: more than {NAMES_MAX} bytes of names in the directories on the way",
                shown(path)
            )));
        }
        Ok(Level {
            dir,
            names,
            path_len: path.len(),
            bytes,
        })
    }

    /// Archives one file; of a directory, what is open of it comes back when it is to be entered.
    pub(super) fn put(&mut self, found: Found, path: &[u8]) -> Result<Option<OwnedFd>, Failure> {
        let about = || format!("read {}", shown(path));
        let Found { fd, stat } = found;
        let kind = match place::kind(&stat) {
            FileType::Directory => EntryKind::Directory,
            FileType::RegularFile => EntryKind::File,
            FileType::Symlink => EntryKind::Symlink,
            FileType::Fifo => EntryKind::Fifo,
            FileType::CharacterDevice => EntryKind::CharDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            _ => return Ok(None),
        };
        if self.reading == As::Layer {
            if place::is_whiteout(&stat) {
                return self.put_mark(path, WHITEOUT).map(|()| None);
            }
            let name = path.rsplit(|byte| *byte == b'/').next();
            if name.is_some_and(|name| name.starts_with(WHITEOUT)) {
                return Err(Failure::other(format!(
                    "{} can't be part of a layer: its name stands for a file that is gone",
                    shown(path)
                )));
            }
        }
        let mut entry = entry(&stat, kind, path);
        if let Some(latest) = self.latest.filter(|latest| entry.mtime > (*latest, 0)) {
            entry.mtime = (latest, 0);
        }
        match kind {
            EntryKind::Symlink => entry.link = place::link(fd.as_fd()).context(about)?,
            EntryKind::File | EntryKind::Directory => {
                entry.xattrs = place::xattrs(fd.as_fd()).context(about)?;
            }
            _ => {}
        }
        if kind != EntryKind::Directory
            && stat.st_nlink > 1
            && let Some(first) = self.other_name(&stat, path)
        {
            entry.kind = EntryKind::HardLink;
            entry.link = first;
            entry.size = 0;
            entry.xattrs.clear();
            return self.tar.entry(&entry).map(|()| None).context(writing);
        }
        self.tar.entry(&entry).context(writing)?;
        match kind {
            EntryKind::File => self.copy(&mut File::from(fd), path).map(|()| None),
            EntryKind::Directory => {
                if self.reading == As::Layer && place::is_opaque(fd.as_fd()).context(about)? {
                    let inside = [path, b"/x"].concat();
                    self.put_named_mark(&inside, OPAQUE)?;
                }
                let is_entered =
                    stat.st_dev == self.device || !is_kernels(fd.as_fd()).context(about)?;
                Ok(is_entered.then_some(fd))
            }
            _ => Ok(None),
        }
    }

    /// The name that this file was archived under before; else the one it is archived under now is
    /// kept.
    fn other_name(&mut self, stat: &Stat, path: &[u8]) -> Option<Vec<u8>> {
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&key) {
            return Some(first.clone());
        }
        self.links_bytes += path.len() + 64;
        if self.links_bytes <= LINKS_MAX {
            self.links.insert(key, path.to_vec());
        }
        None
    }

    /// The content of a file, as long as its header says: the rest of one that was cut meanwhile is
    /// zeros.
    fn copy(&mut self, from: &mut File, path: &[u8]) -> Result<(), Failure> {
        while self.tar.left() > 0 {
            let want = usize::try_from(self.tar.left()).unwrap_or(usize::MAX);
            let len = want.min(self.buffer.len());
            let buffer = self.buffer.get_mut(..len).unwrap_or_default();
            match from.read(buffer) {
                Ok(0) => buffer.fill(0),
                Ok(len) => {
                    self.tar
                        .data(buffer.get(..len).unwrap_or_default())
                        .context(writing)?;
                    continue;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context(|| format!("read {}", shown(path))),
            }
            self.tar.data(buffer).context(writing)?;
        }
        Ok(())
    }

    /// An empty file `.wh.NAME` beside where NAME would be.
    fn put_mark(&mut self, path: &[u8], prefix: &[u8]) -> Result<(), Failure> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let mark = [prefix, name].concat();
        self.put_named_mark(path, &mark)
    }

    /// An empty file of this name in the place of the last one of `path`.
    fn put_named_mark(&mut self, path: &[u8], name: &[u8]) -> Result<(), Failure> {
        let dir = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => path.get(..=at).unwrap_or_default(),
            None => &[],
        };
        let mark = Entry {
            path: [dir, name].concat(),
            link: Vec::new(),
            kind: EntryKind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            device: (0, 0),
            size: 0,
            pieces: Vec::new(),
            xattrs: Vec::new(),
        };
        self.tar.entry(&mark).context(writing)
    }
}

fn entry(stat: &Stat, kind: EntryKind, path: &[u8]) -> Entry {
    Entry {
        path: path.to_vec(),
        link: Vec::new(),
        kind,
        mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        device: (major(stat.st_rdev), minor(stat.st_rdev)),
        size: match kind {
            EntryKind::File => u64::try_from(stat.st_size).unwrap_or(0),
            _ => 0,
        },
        pieces: Vec::new(),
        xattrs: Vec::new(),
    }
}

/// Whether a directory shows what belongs to running processes and not to files.
fn is_kernels(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let kind = fstatfs(dir)?.f_type;
    Ok(NOT_ENTERED.contains(&kind))
}

fn writing() -> String {
    "write the archive".to_owned()
}

fn limit(message: String) -> Failure {
    Failure::new(FailureKind::LimitExceeded, message)
}

#[cfg(test)]
mod tests;
