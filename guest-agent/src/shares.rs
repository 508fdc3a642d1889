//! Folders and files of the host: the file system device, mounted once, and a mount of each share to be
//! put into the container.
//!
//! Called by [`crate::container`] before the container has processes; [`crate::rootfs`] attaches what
//! it returns. Whether a share is read-only is the host's to enforce, here it is only shown.

use std::os::fd::{AsFd, BorrowedFd};

use protocol::FILES_TAG;
use protocol::spec::{CopyUp, MountSpec, Owned};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, StatxFlags, Uid, fchmod, fchown, openat, statx,
};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::copy_up;
use crate::failure::{Context, Failure};
use crate::layers::STAGE;
use crate::mount::{self, Detached, Setup};
use crate::paths::{self, Want};

/// One share.
#[derive(Debug)]
pub struct Share {
    /// Path in the container.
    pub target: String,
    /// What goes there.
    pub mount: Detached,
    /// Whether that is a directory.
    pub is_directory: bool,
}

/// Mounts the device and clones each share; volumes take the image's content, below `root`, first.
///
/// # Errors
/// A device or share that is not there, or a volume that can't take the content.
pub fn mount(specs: &[MountSpec], root: BorrowedFd<'_>) -> Result<Vec<Share>, Failure> {
    if specs.is_empty() {
        return Ok(Vec::new());
    }
    let files = Setup::new("virtiofs", FILES_TAG)?.create(MountAttrFlags::empty())?;
    // Attached, so that a share's own file system is found when its name is looked up.
    files
        .attach_at(STAGE)
        .context(|| format!("mount {STAGE}"))?;
    let shares = specs
        .iter()
        .map(|spec| share(spec, root))
        .collect::<Result<_, _>>();
    mount::detach(STAGE).context(|| format!("detach {STAGE}"))?;
    shares
}

fn share(spec: &MountSpec, root: BorrowedFd<'_>) -> Result<Share, Failure> {
    let target = &spec.target;
    let about = || format!("mount {target}");
    let mount =
        Detached::clone_of(rustix::fs::CWD, &format!("{STAGE}/{}", spec.share)).context(about)?;
    let status = statx(&mount, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE).context(about)?;
    let is_directory = FileType::from_raw_mode(status.stx_mode.into()) == FileType::Directory;
    if spec.copy_up != CopyUp::No {
        fill(spec, root, mount.as_fd()).map_err(|failure| Failure {
            message: format!("copy the image's {target} to its volume: {failure}"),
            ..failure
        })?;
    }
    if let Some(owned) = &spec.owned
        && is_directory
    {
        own(mount.as_fd(), owned).context(about)?;
    }
    if spec.read_only {
        mount.make_read_only().context(about)?;
    }
    Ok(Share {
        target: target.clone(),
        mount,
        is_directory,
    })
}

/// Gives an empty directory its owner and permissions. One with something in it has had them.
fn own(directory: BorrowedFd<'_>, owned: &Owned) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(directory, ".", flags, Mode::empty())?;
    let mut names = Dir::read_from(&directory)?.flatten();
    if names.any(|entry| !matches!(entry.file_name().to_bytes(), b"." | b"..")) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(owned.uid), Gid::from_raw(owned.gid));
    fchown(&directory, Some(uid), Some(gid))?;
    fchmod(&directory, Mode::from_raw_mode(owned.mode.into()))
}

/// Gives a volume what the image has at its target.
fn fill(spec: &MountSpec, root: BorrowedFd<'_>, volume: BorrowedFd<'_>) -> Result<(), Failure> {
    if spec.copy_up == CopyUp::Again {
        copy_up::clear(volume)?;
    }
    let source = match paths::open(root, &spec.target, Want::Directory) {
        Ok(source) => source,
        // Nothing to take; what is no directory is told when it is mounted on.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(errno).context(|| "find it".into()),
    };
    copy_up::copy(source.as_fd(), volume)
}

/// Attaches a share at its target, which is made when it is missing.
///
/// # Errors
/// A target that can't be made or is of the other kind.
pub fn attach(share: &Share, root: BorrowedFd<'_>) -> Result<(), Failure> {
    let want = if share.is_directory {
        Want::NewDirectory
    } else {
        Want::NewFile
    };
    let target = &share.target;
    let place = match paths::open(root, target, want) {
        Err(Errno::NOTDIR | Errno::ISDIR) => {
            return Err(Failure::bad_config(format!(
                "mount {target}: not a directory: Are you trying to mount a directory onto a file (or \
                 vice-versa)? Check if the specified host path exists and is the expected type"
            )));
        }
        place => place.config(|| format!("mount {target}"))?,
    };
    share
        .mount
        .attach(place.as_fd())
        .context(|| format!("mount {target}"))
}
