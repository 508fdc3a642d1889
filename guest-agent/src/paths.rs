//! Paths inside the container's root, which an image or a workload may have filled with anything.
//!
//! Called by [`crate::rootfs`], [`crate::launch`] and [`crate::tasks`] with a descriptor of the root. Links are
//! followed as they would be inside the container: an absolute one starts at its root, `..` stops
//! there, and the links of procfs that jump to an open file are text like any other, so none leads
//! to a descriptor of the agent.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fstat, mkdirat, openat, openat2,
    readlinkat, statx,
};
use rustix::io::Errno;

/// How many links a path may lead through; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Longest path and link in bytes (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// What a path is to lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A directory that exists.
    Directory,
    /// A directory; what is missing on the way is made, owned by root, mode 755.
    NewDirectory,
    /// Something that is no directory; an empty file, mode 644, is made when nothing is there.
    NewFile,
}

/// Opens what `path` leads to, as a place (`O_PATH`).
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `EISDIR`, `ELOOP`, `ENAMETOOLONG`, or what making something says.
pub fn open(root: BorrowedFd<'_>, path: impl AsRef<[u8]>, want: Want) -> Result<OwnedFd, Errno> {
    let path = path.as_ref();
    if path.len() > MAX_PATH {
        return Err(Errno::NAMETOOLONG);
    }
    let mut names: Vec<Vec<u8>> = split(path);
    let mut above: Vec<OwnedFd> = Vec::new();
    let mut here = root.try_clone_to_owned().map_err(from_io)?;
    let mut links = 0;
    while let Some(name) = names.pop() {
        if name == b".." {
            if let Some(parent) = above.pop() {
                here = parent;
            }
            continue;
        }
        let found = match place(here.as_fd(), &name) {
            Err(Errno::NOENT) if want == Want::NewFile && names.is_empty() => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                openat(&here, &*name, flags, Mode::from_raw_mode(0o644))?;
                return place(here.as_fd(), &name);
            }
            Err(Errno::NOENT) if want != Want::Directory => {
                mkdirat(&here, &*name, Mode::from_raw_mode(0o755))?;
                place(here.as_fd(), &name)?
            }
            other => other?,
        };
        match FileType::from_raw_mode(fstat(&found)?.st_mode) {
            FileType::Directory => above.push(std::mem::replace(&mut here, found)),
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = readlinkat(&found, "", Vec::new())?.into_bytes();
                if target.starts_with(b"/") {
                    above.clear();
                    here = root.try_clone_to_owned().map_err(from_io)?;
                }
                names.extend(split(&target));
            }
            _ if want == Want::NewFile && names.is_empty() => return Ok(found),
            _ => return Err(Errno::NOTDIR),
        }
    }
    match want {
        Want::NewFile => Err(Errno::ISDIR),
        Want::Directory | Want::NewDirectory => Ok(here),
    }
}

/// The names of a path, last first, without the ones that say nothing.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

fn place(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

fn from_io(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// A directory right below the root that is no link, made when it is missing.
///
/// # Errors
/// `ELOOP` or `ENOTDIR` when something else is there.
pub fn plain_directory(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    match mkdirat(root, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(root, name, flags, Mode::empty())
}

/// Why a file of the image was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The file has more bytes than the limit.
    #[error("more than {0} bytes")]
    TooLarge(usize),
    /// It can't be opened or read, or is no regular file.
    #[error("{0}")]
    Io(#[from] Errno),
}

/// Reads a regular file of at most `limit` bytes. Never waits, whatever the path leads to.
///
/// # Errors
/// See [`ReadError`].
pub fn read(root: BorrowedFd<'_>, path: &str, limit: usize) -> Result<Vec<u8>, ReadError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(root, path, flags, Mode::empty(), resolve)?;
    let status = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    if FileType::from_raw_mode(status.stx_mode.into()) != FileType::RegularFile {
        return Err(Errno::INVAL.into());
    }
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match rustix::io::read(&file, &mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(len) => bytes.extend_from_slice(chunk.get(..len).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if bytes.len() > limit {
            return Err(ReadError::TooLarge(limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    struct Tree {
        folder: tempfile::TempDir,
        root: OwnedFd,
    }

    impl Tree {
        /// A root beside a folder that no path may reach.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(folder.path().join("root/etc")).unwrap();
            std::fs::create_dir_all(folder.path().join("outside")).unwrap();
            std::fs::write(folder.path().join("outside/secret"), "secret").unwrap();
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = folder.path().join("root");
            let root = rustix::fs::open(root, flags, Mode::empty()).unwrap();
            Self { folder, root }
        }

        fn path(&self, path: &str) -> std::path::PathBuf {
            self.folder.path().join("root").join(path)
        }

        fn link(&self, target: &str, name: &str) {
            symlink(target, self.path(name)).unwrap();
        }

        /// Where `path` leads to, as a path below the root.
        fn open(&self, path: &str, want: Want) -> Result<String, Errno> {
            let fd = open(self.root.as_fd(), path, want)?;
            let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
            let full = std::fs::read_link(link).unwrap();
            let below = full.strip_prefix(self.path("").canonicalize().unwrap());
            Ok(format!(
                "/{}",
                below.unwrap_or(Path::new("OUTSIDE")).display()
            ))
        }
    }

    #[test]
    fn missing_directories_are_made_on_the_way() {
        let tree = Tree::new();
        assert_eq!(tree.open("/a//b/./c/", Want::Directory), Err(Errno::NOENT));
        assert_eq!(
            tree.open("/a//b/./c/", Want::NewDirectory),
            Ok("/a/b/c".into())
        );
        assert_eq!(tree.open("a/b", Want::Directory), Ok("/a/b".into()));
        assert_eq!(tree.open("", Want::Directory), Ok("/".into()));
        assert_eq!(
            tree.open("/x/y/file", Want::NewFile),
            Ok("/x/y/file".into())
        );
        assert!(tree.path("x/y/file").is_file());
        assert_eq!(tree.open("/x/y", Want::NewFile), Err(Errno::ISDIR));
        assert_eq!(
            tree.open("/x/y/file", Want::NewDirectory),
            Err(Errno::NOTDIR)
        );
        assert_eq!(tree.open("/x/y/file/z", Want::NewFile), Err(Errno::NOTDIR));
    }

    #[test]
    fn no_link_leads_out_of_the_root() {
        let tree = Tree::new();
        let outside = tree.folder.path().join("outside");
        tree.link("../../../outside", "up");
        tree.link(outside.to_str().unwrap(), "absolute");
        tree.link("/etc", "ok");
        tree.link("ok", "chain");
        assert_eq!(tree.open("/up", Want::NewDirectory), Ok("/outside".into()));
        assert_eq!(
            tree.open("../../outside", Want::Directory),
            Ok("/outside".into())
        );
        let made = tree.open("/absolute", Want::NewDirectory).unwrap();
        assert!(
            made.ends_with("/outside") && made.len() > "/outside".len(),
            "{made}"
        );
        assert_eq!(tree.open("/chain/x", Want::NewFile), Ok("/etc/x".into()));
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 1);
    }

    #[test]
    fn dangling_links_lead_to_what_is_made() {
        let tree = Tree::new();
        tree.link("/run/lock", "lock");
        tree.link("hosts.real", "etc/hosts");
        assert_eq!(
            tree.open("/lock", Want::NewDirectory),
            Ok("/run/lock".into())
        );
        assert_eq!(
            tree.open("/etc/hosts", Want::NewFile),
            Ok("/etc/hosts.real".into())
        );
    }

    #[test]
    fn loops_and_long_paths_end() {
        let tree = Tree::new();
        tree.link("b", "a");
        tree.link("a", "b");
        tree.link("self/self", "self");
        for path in ["/a", "/self", "/a/x"] {
            assert_eq!(tree.open(path, Want::NewDirectory), Err(Errno::LOOP));
        }
        let long = "x/".repeat(MAX_PATH);
        assert_eq!(
            tree.open(&long, Want::NewDirectory),
            Err(Errno::NAMETOOLONG)
        );
        let name = "x".repeat(300);
        assert_eq!(
            tree.open(&name, Want::NewDirectory),
            Err(Errno::NAMETOOLONG)
        );
    }

    #[test]
    fn links_of_procfs_are_text() {
        let tree = Tree::new();
        let secret = std::fs::File::open(tree.folder.path().join("outside")).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&secret);
        tree.link(&format!("/proc/self/fd/{fd}"), "leak");
        let made = tree.open("/leak", Want::NewDirectory).unwrap();
        assert_eq!(made, format!("/proc/self/fd/{fd}"));
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let tree = Tree::new();
        let read = |path: &str| read(tree.root.as_fd(), path, 10);
        std::fs::write(tree.path("etc/small"), "0123456789").unwrap();
        std::fs::write(tree.path("etc/large"), "0123456789a").unwrap();
        rustix::fs::mkfifoat(&tree.root, "fifo", Mode::from_raw_mode(0o666)).unwrap();
        tree.link("/fifo", "etc/fifo");
        tree.link("/etc/small", "etc/link");
        tree.link("../../outside/secret", "etc/out");
        assert_eq!(read("/etc/small").unwrap(), b"0123456789");
        assert_eq!(read("/etc/link").unwrap(), b"0123456789");
        assert_eq!(read("/etc/large"), Err(ReadError::TooLarge(10)));
        assert_eq!(read("/etc/fifo"), Err(Errno::INVAL.into()));
        assert_eq!(read("/etc"), Err(Errno::INVAL.into()));
        assert_eq!(read("/etc/out"), Err(Errno::NOENT.into()));
    }
}
