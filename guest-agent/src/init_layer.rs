//! The init layer: a small layer of our own between the image and the writable one.
//!
//! Called by [`crate::layers`]. Docker has one too, and for the same reason: the container needs
//! places to mount on (`/proc`, `/etc/hosts`, …) whatever the image brings, and making them in the
//! writable layer would show up as changes of the user's.
//!
//! A directory in it hides the attributes that the image gave to the same directory, so every one
//! gets the image's. That also mends directories which a layer's archive only implied by naming
//! something below them: the converter had to invent attributes for those and marked them.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::spec::RunSpec;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, mkdirat, openat, openat2,
    symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::failure::{Context, Failure};
use crate::mount::Detached;
use crate::unpack::is_reserved;

/// xattr of a directory that its layer's archive only implied.
const IMPLIED: &CStr = c"trusted.bulkhead.implied";

/// xattr of a layer's root: how many such directories it has, in decimal digits.
const IMPLIED_COUNT: &CStr = c"trusted.bulkhead.implied_count";

/// Most implied directories that are mended; each costs memory in the guest.
const MAX_IMPLIED: usize = 100_000;

/// Longest xattr value (`XATTR_SIZE_MAX`) and list of names (`XATTR_LIST_MAX`) in bytes.
const MAX_XATTR: usize = 64 << 10;

/// Files to mount over the container's own.
#[derive(Debug)]
pub struct InitLayer {
    /// Paths in the container and what goes there.
    pub files: [(&'static str, Detached); 3],
}

/// Which places the layer makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    /// All that a running container needs.
    All,
    /// None: nothing runs, and what lies there is the image's.
    None,
}

/// Fills the directory `init` in the stage, which becomes the layer, and the files beside it. `layers` are the
/// roots of the image's layers, the highest first.
///
/// # Errors
/// What making files in a tmpfs says.
pub fn build(
    stage: BorrowedFd<'_>,
    layers: &[BorrowedFd<'_>],
    spec: &RunSpec,
    places: Places,
) -> Result<InitLayer, Failure> {
    let root =
        openat(stage, "init", DIRECTORY, Mode::empty()).context(|| "open the init layer".into())?;
    let mut made = Made {
        root,
        layers,
        directories: BTreeMap::new(),
    };
    if places == Places::All {
        for name in ["dev", "etc", "proc", "sys"] {
            made.directory(name)?;
        }
    }
    for path in implied(layers) {
        // A higher layer may have removed it, or put something else there.
        if directory(layers, &path).is_some() {
            made.directory(&path)?;
        }
    }
    if places == Places::All {
        for name in [".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf"] {
            write(made.root.as_fd(), name, 0o755, b"")?;
        }
        symlinkat("/proc/mounts", &made.root, "etc/mtab").context(|| "make /etc/mtab".into())?;
    }
    made.finish()?;

    let file = |path: &'static str, name: &str, content: &str| {
        write(stage, name, 0o644, content.as_bytes())?;
        let mount = Detached::clone_of(stage, name).context(|| format!("mount {path}"))?;
        Ok::<_, Failure>((path, mount))
    };
    let hostname = format!("{}\n", spec.hostname);
    Ok(InitLayer {
        files: [
            file("/etc/hostname", "hostname", &hostname)?,
            file("/etc/hosts", "hosts", &spec.hosts)?,
            file("/etc/resolv.conf", "resolv.conf", &spec.resolv_conf)?,
        ],
    })
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Makes a file of the agent's own.
///
/// # Errors
/// What making or writing it says.
pub fn write(dir: BorrowedFd<'_>, name: &str, mode: u32, content: &[u8]) -> Result<(), Failure> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file =
        openat(dir, name, flags, Mode::from_raw_mode(mode)).context(|| format!("make {name}"))?;
    let mut rest = content;
    while !rest.is_empty() {
        let len = rustix::io::write(&file, rest).context(|| format!("write {name}"))?;
        rest = rest.get(len..).unwrap_or_default();
    }
    Ok(())
}

/// The layer being made. Attributes come last: making something in a directory changes its times.
struct Made<'a> {
    root: OwnedFd,
    layers: &'a [BorrowedFd<'a>],
    directories: BTreeMap<String, Option<Attributes>>,
}

impl Made<'_> {
    /// Makes a directory and those above it.
    fn directory(&mut self, path: &str) -> Result<(), Failure> {
        let ends = path.match_indices('/').map(|(index, _)| index);
        for end in ends.chain([path.len()]) {
            let prefix = path.get(..end).unwrap_or_default();
            if self.directories.contains_key(prefix) {
                continue;
            }
            mkdirat(&self.root, prefix, Mode::from_raw_mode(0o755))
                .context(|| format!("make {prefix:?} in the init layer"))?;
            let attributes = directory(self.layers, prefix)
                .map(|fd| Attributes::of(fd.as_fd()))
                .transpose()
                .context(|| format!("read the attributes of {prefix:?}"))?;
            self.directories.insert(prefix.to_owned(), attributes);
        }
        Ok(())
    }

    /// Sets the attributes, deepest first.
    fn finish(self) -> Result<(), Failure> {
        for (path, attributes) in self.directories.iter().rev() {
            if let Some(attributes) = attributes {
                attributes
                    .apply(self.root.as_fd(), path)
                    .context(|| format!("set the attributes of {path:?}"))?;
            }
        }
        Ok(())
    }
}

/// Owner, mode, times and xattrs of a directory or file.
#[derive(Debug)]
pub struct Attributes {
    status: Stat,
    xattrs: Vec<(CString, Vec<u8>)>,
}

impl Attributes {
    /// Those of an open directory or file. What belongs to the overlay or to us is left out.
    ///
    /// # Errors
    /// What reading them says.
    pub fn of(directory: BorrowedFd<'_>) -> Result<Self, Errno> {
        let status = fstat(directory)?;
        let mut none: [u8; 0] = [];
        let mut names = vec![0; flistxattr(directory, &mut none)?.min(MAX_XATTR)];
        if !names.is_empty() {
            let len = flistxattr(directory, &mut *names)?;
            names.truncate(len);
        }
        let mut xattrs = Vec::new();
        for name in names.split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else {
                continue;
            };
            if is_reserved(name.to_bytes()) {
                continue;
            }
            let mut value = vec![0_u8; MAX_XATTR];
            let len = fgetxattr(directory, name, &mut *value)?;
            value.truncate(len);
            xattrs.push((name.to_owned(), value));
        }
        Ok(Self { status, xattrs })
    }

    /// Gives them to the directory `path` below `dir`, which is the agent's own.
    ///
    /// # Errors
    /// What setting them says.
    pub fn apply(&self, dir: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
        let target = openat(dir, path, DIRECTORY, Mode::empty())?;
        self.apply_to_file(target.as_fd(), dir, path.as_bytes())
    }

    /// Gives them to the open `target`, which is `path` below `dir`. An owner or an extended attribute
    /// that can't be given keeps nothing else from being set.
    ///
    /// # Errors
    /// What setting them says: the first that was refused only if nothing else failed.
    pub fn apply_to_file(
        &self,
        target: BorrowedFd<'_>,
        dir: BorrowedFd<'_>,
        path: &[u8],
    ) -> Result<(), Errno> {
        let status = &self.status;
        let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
        let mode = Mode::from_raw_mode(status.st_mode & 0o7777);
        let mut refused = fchown(target, Some(uid), Some(gid)).err();
        fchmod(target, mode)?;
        for (name, value) in &self.xattrs {
            let set = fsetxattr(target, name.as_c_str(), value, XattrFlags::empty());
            match set.map_err(|errno| refusal(name, errno)) {
                Err(errno @ (Errno::PERM | Errno::OPNOTSUPP)) => {
                    refused.get_or_insert(errno);
                }
                set => set?,
            }
        }
        let time = |seconds, nanoseconds: u64| Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
        };
        let times = Timestamps {
            last_access: time(status.st_atime, status.st_atime_nsec),
            last_modification: time(status.st_mtime, status.st_mtime_nsec),
        };
        utimensat(dir, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        refused.map_or(Ok(()), Err)
    }
}

/// What is wrong with an attribute that can't be set. An ACL of users whom the other side does not know
/// is invalid to it.
fn refusal(name: &CStr, errno: Errno) -> Errno {
    let is_acl = name.to_bytes().starts_with(b"system.posix_acl_");
    match errno {
        Errno::INVAL if is_acl => Errno::OPNOTSUPP,
        errno => errno,
    }
}

/// What one layer says of a path.
enum Found {
    Directory {
        fd: OwnedFd,
        /// Its attributes are the converter's: the layers below may have real ones.
        implied: bool,
    },
    Nothing,
    /// Hidden from here down: a whiteout or something that is no directory, at the path or above.
    End,
}

/// The directory whose attributes `path` has in the image: the highest one that an archive named,
/// or else the highest that one implied. `None` when there is none. `layers` are the highest first.
#[must_use]
pub fn directory(layers: &[BorrowedFd<'_>], path: &str) -> Option<OwnedFd> {
    let mut invented = None;
    for layer in layers {
        let (found, opaque) = find(*layer, path);
        match found {
            Found::Directory { fd, implied: false } => return Some(fd),
            Found::Directory { fd, implied: true } => invented = invented.or(Some(fd)),
            Found::Nothing => {}
            Found::End => break,
        }
        if opaque {
            break;
        }
    }
    invented
}

/// What `layer` says of `path`, and whether a directory above it hides all lower layers. One that is
/// opaque itself hides what lower layers have in it, not what they say of it.
fn find(layer: BorrowedFd<'_>, path: &str) -> (Found, bool) {
    let Ok(mut here) = openat(layer, ".", DIRECTORY, Mode::empty()) else {
        return (Found::Nothing, false);
    };
    let (mut opaque, mut opaque_above) = (false, false);
    for name in path.split('/').filter(|name| !name.is_empty()) {
        opaque_above |= opaque;
        here = match openat(&here, name, DIRECTORY, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) => return (Found::Nothing, opaque_above),
            Err(_) => return (Found::End, opaque_above),
        };
        opaque = xattr(&here, c"trusted.overlay.opaque").is_some_and(|value| value == b"y");
    }
    let implied = xattr(&here, IMPLIED).is_some();
    (Found::Directory { fd: here, implied }, opaque_above)
}

/// A short xattr.
fn xattr(file: &OwnedFd, name: &CStr) -> Option<Vec<u8>> {
    let mut value = [0_u8; 64];
    let len = fgetxattr(file, name, &mut value).ok()?;
    value.get(..len).map(<[u8]>::to_vec)
}

/// The paths of implied directories, of all layers that say they have some.
fn implied(layers: &[BorrowedFd<'_>]) -> Vec<String> {
    let mut paths = Vec::new();
    for layer in layers {
        let Ok(root) = openat(*layer, ".", DIRECTORY, Mode::empty()) else {
            continue;
        };
        let count = xattr(&root, IMPLIED_COUNT)
            .and_then(|digits| std::str::from_utf8(&digits).ok()?.parse().ok())
            .unwrap_or(0);
        let wanted = MAX_IMPLIED.min(paths.len().saturating_add(count));
        // The root itself counts, but has no path in the init layer.
        walk(*layer, wanted, xattr(&root, IMPLIED).is_some(), &mut paths);
    }
    paths
}

/// Adds the implied directories of a layer until there are `wanted` in all.
fn walk(layer: BorrowedFd<'_>, wanted: usize, root_is_one: bool, paths: &mut Vec<String>) {
    let mut missing = wanted
        .saturating_sub(paths.len())
        .saturating_sub(usize::from(root_is_one));
    let mut queue = vec![String::new()];
    while missing > 0
        && let Some(path) = queue.pop()
    {
        let name = if path.is_empty() { "." } else { &path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let Ok(directory) = openat2(layer, name, DIRECTORY, Mode::empty(), resolve) else {
            continue;
        };
        if !path.is_empty() && xattr(&directory, IMPLIED).is_some() {
            paths.push(path.clone());
            missing -= 1;
        }
        let entries = Dir::read_from(&directory).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type() == FileType::Directory) {
            // A name that is no UTF-8 keeps the attributes that the converter invented.
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if name != "." && name != ".." {
                let slash = if path.is_empty() { "" } else { "/" };
                queue.push(format!("{path}{slash}{name}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// Layers as plain folders. The marks are `trusted.*` xattrs, which need root; what does not
    /// depend on them is tested here, the rest in a VM.
    struct Layers {
        folder: tempfile::TempDir,
        roots: Vec<OwnedFd>,
    }

    impl Layers {
        /// Makes `count` of them, the highest first.
        fn new(count: usize) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let roots = (0..count)
                .map(|index| {
                    let path = folder.path().join(index.to_string());
                    std::fs::create_dir(&path).unwrap();
                    rustix::fs::open(&path, DIRECTORY, Mode::empty()).unwrap()
                })
                .collect();
            Self { folder, roots }
        }

        fn make(&self, layer: usize, path: &str, mode: u32) {
            let path = self.path(layer, path);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }

        fn path(&self, layer: usize, path: &str) -> std::path::PathBuf {
            self.folder.path().join(layer.to_string()).join(path)
        }

        fn mode(&self, path: &str) -> Option<u32> {
            let layers: Vec<BorrowedFd<'_>> = self.roots.iter().map(AsFd::as_fd).collect();
            let found = directory(&layers, path)?;
            Some(fstat(&found).unwrap().st_mode & 0o7777)
        }
    }

    #[test]
    fn an_attribute_that_is_refused_keeps_nothing_else_from_being_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["from", "to"] {
            std::fs::write(path(name), "").unwrap();
        }
        let from = std::fs::File::open(path("from")).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(981_173_106);
        from.set_modified(time).unwrap();
        let mut attributes = Attributes::of(from.as_fd()).unwrap();
        let root = rustix::fs::open(folder.path(), DIRECTORY, Mode::empty()).unwrap();
        let to = std::fs::File::open(path("to")).unwrap();
        for name in [c"system.posix_acl_access", c"unknown.name"] {
            let refused = (name.to_owned(), b"no value".to_vec());
            attributes.xattrs.insert(0, refused);
        }
        let given = attributes.apply_to_file(to.as_fd(), root.as_fd(), b"to");
        assert_eq!(given, Err(Errno::OPNOTSUPP));
        assert_eq!(to.metadata().unwrap().modified().unwrap(), time);
        assert_eq!(refusal(c"user.x", Errno::INVAL), Errno::INVAL);
        let acl = c"system.posix_acl_default";
        assert_eq!(refusal(acl, Errno::INVAL), Errno::OPNOTSUPP);
        assert_eq!(refusal(acl, Errno::NOSPC), Errno::NOSPC);
    }

    #[test]
    fn the_highest_layer_with_the_directory_counts() {
        let layers = Layers::new(3);
        layers.make(0, "a", 0o700);
        layers.make(1, "a", 0o711);
        layers.make(2, "b/c", 0o2755);
        assert_eq!(layers.mode("a"), Some(0o700));
        assert_eq!(layers.mode("b/c"), Some(0o2755));
        assert_eq!(layers.mode("nope"), None);
        assert_eq!(layers.mode("b/c/nope"), None);
    }

    #[test]
    fn what_is_no_directory_hides_the_layers_below() {
        let layers = Layers::new(3);
        std::fs::write(layers.path(0, "file"), "").unwrap();
        symlink("/etc", layers.path(0, "link")).unwrap();
        std::fs::write(layers.path(1, "above"), "").unwrap();
        for path in ["file", "link", "above/x"] {
            layers.make(2, path, 0o755);
            assert_eq!(layers.mode(path), None, "{path}");
        }
    }

    #[test]
    fn attributes_are_copied() {
        let layers = Layers::new(2);
        layers.make(0, "from", 0o1731);
        layers.make(1, "to", 0o700);
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(981_173_106, 123_456_789);
        let from = std::fs::File::open(layers.path(0, "from")).unwrap();
        from.set_modified(time).unwrap();
        let attributes = Attributes::of(from.as_fd()).unwrap();
        attributes.apply(layers.roots[1].as_fd(), "to").unwrap();
        let status = std::fs::metadata(layers.path(1, "to")).unwrap();
        assert_eq!(status.mode() & 0o7777, 0o1731);
        assert_eq!(status.modified().unwrap(), time);
    }

    #[test]
    fn layers_without_marks_are_not_searched() {
        let layers = Layers::new(1);
        layers.make(0, "a/b/c", 0o755);
        let roots: Vec<BorrowedFd<'_>> = layers.roots.iter().map(AsFd::as_fd).collect();
        assert_eq!(implied(&roots), Vec::<String>::new());
    }
}
