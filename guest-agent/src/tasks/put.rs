//! Putting files into the root of a build's step, by the rules of `COPY` and `ADD`.
//!
//! Called by [`super`] in a child. What comes is an archive that the host made or that another VM
//! sent through it; [`extract`] keeps all of it beneath the root.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::task::{Place, PlaceTarget};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, mkdirat, openat, readlinkat, statat,
    unlinkat,
};
use rustix::io::Errno;
use tarball::{Entry, EntryKind, TarReader};

use super::extract::{self, Data, Extraction, bad, clean};
use super::unpacked;
use crate::failure::{Context, Failure};
use crate::layers::SCRATCH;
use crate::packing;
use crate::paths::{self, Want};

/// Links that are followed for one name, as in the kernel.
const LINKS_MAX: usize = 40;

/// Puts what comes `from` the host into the root, or aside on the `disk`.
///
/// # Errors
/// What is wrong with the archive, with the place, or what making a file says.
pub fn into(
    root: BorrowedFd<'_>,
    disk: Option<BorrowedFd<'_>>,
    place: &Place,
    from: impl Read,
) -> Result<(), Failure> {
    let owner = place.owner.as_deref();
    let owner = owner.map(|owner| extract::identity(root, owner));
    let owner = owner.transpose()?;
    match &place.target {
        PlaceTarget::Scratch(number) => {
            let aside = make_aside(disk, *number)?;
            put(aside.as_fd(), "/", true, owner, place, from)
        }
        PlaceTarget::Root { path, is_directory } => {
            put(root, path, *is_directory, owner, place, from)
        }
    }
}

/// Makes a directory and those above it; the ones that were missing get the owner.
///
/// # Errors
/// An owner that the root does not know, or what making a directory says.
pub fn make_directory(
    root: BorrowedFd<'_>,
    path: &str,
    owner: Option<&str>,
) -> Result<(), Failure> {
    let owner = owner.map(|owner| extract::identity(root, owner));
    make_directories(root, path, owner.transpose()?)
}

/// A directory of the disk that holds what a step is to see besides its root.
fn make_aside(disk: Option<BorrowedFd<'_>>, number: u32) -> Result<OwnedFd, Failure> {
    let about = || format!("make the directory of mount {number}");
    let disk = disk.ok_or_else(|| Failure::other("there is no writable disk"))?;
    match mkdirat(disk, SCRATCH, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).context(about),
    }
    let path = format!("{SCRATCH}/{number}");
    mkdirat(disk, &path, Mode::from_raw_mode(0o755)).context(about)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(disk, path, flags, Mode::empty()).context(about)
}

fn put(
    root: BorrowedFd<'_>,
    path: &str,
    is_directory: bool,
    owner: Option<(u32, u32)>,
    place: &Place,
    from: impl Read,
) -> Result<(), Failure> {
    let mut tar = TarReader::new(from);
    let Some(mut entry) = tar.next_entry().map_err(bad)? else {
        // A directory with nothing in it.
        return match is_directory {
            true => make_directories(root, path, owner),
            false => Ok(()),
        };
    };
    let about = || format!("make {path}");
    let path = path.trim_end_matches('/');
    // A sole file takes the very place, unless a directory is there or it is an archive.
    let has_place = entry.kind != EntryKind::Directory
        && !is_directory
        && match paths::open(root, path, Want::Directory) {
            Ok(_) => false,
            Err(Errno::NOENT | Errno::NOTDIR) => true,
            Err(errno) => return Err(errno).config(about),
        };
    let followed = match has_place && !place.replace_links {
        true => follow(root, path)?,
        false => path.to_owned(),
    };
    let (above, name) = match followed.rsplit_once('/') {
        Some((above, name)) => (above, name),
        None => ("", followed.as_str()),
    };
    let mut head = Vec::new();
    let mut archive = None;
    if place.unpack && is_whole_file(&entry)? {
        (head, archive) = unpacked::look(&mut Data(&mut tar))?;
    }
    let renamed = has_place && archive.is_none();
    let target = if renamed { above } else { path };
    if place.replace_links {
        replace_links(root, target)?;
    }
    make_directories(root, target, owner)?;
    let mut extraction = Extraction::new(root, target.as_bytes(), owner);
    extraction.mode = place.mode.as_ref();
    extraction.replace_links = place.replace_links;
    if renamed {
        entry.path = name.as_bytes().to_vec();
    }
    loop {
        let mut data = head.as_slice().chain(Data(&mut tar));
        match archive.take() {
            Some(packing) => unpack(root, target, packing::decoded(packing, &mut data)?)?,
            None => extraction.put(&entry, &mut data)?,
        }
        head.clear();
        let Some(next) = tar.next_entry().map_err(bad)? else {
            break;
        };
        if renamed {
            return Err(Failure::bad_config(
                "when copying more than one source file, the destination must be a directory that \
                 is there, or end with a /",
            ));
        }
        entry = next;
        if place.unpack && is_whole_file(&entry)? {
            (head, archive) = unpacked::look(&mut Data(&mut tar))?;
        }
    }
    extraction.set_times();
    Ok(())
}

/// Unpacks an archive that was added. As in Docker the directory is a root for what is in the archive,
/// links and all, and what is in it has its own owners and modes.
fn unpack(root: BorrowedFd<'_>, target: &str, archive: impl Read) -> Result<(), Failure> {
    let target = paths::open(root, target, Want::Directory).config(|| format!("open {target}"))?;
    let mut extraction = Extraction::new(target.as_fd(), b"", None);
    extraction.replace_kinds = true;
    extraction.all(TarReader::new(archive))?;
    extraction.set_times();
    Ok(())
}

/// The place of a file: where the links lead that are there by its name, whether there is something or
/// not.
fn follow(root: BorrowedFd<'_>, path: &str) -> Result<String, Failure> {
    let about = || format!("make {path}");
    let mut place = path.to_owned();
    for _ in 0..LINKS_MAX {
        let (above, name) = place.rsplit_once('/').unwrap_or(("", &place));
        let target = match paths::open(root, above, Want::Directory) {
            Ok(above) => readlinkat(&above, name, Vec::new()),
            Err(errno) => Err(errno),
        };
        let target = match target {
            Ok(target) => target,
            // There is nothing, or no link.
            Err(Errno::NOENT | Errno::INVAL | Errno::NOTDIR) => return Ok(place),
            Err(errno) => return Err(errno).config(about),
        };
        let Ok(target) = target.to_str() else {
            return Err(Failure::bad_config(format!(
                "{path} is a link to what is not UTF-8"
            )));
        };
        place = match target.starts_with('/') {
            true => target.to_owned(),
            false => format!("{above}/{target}"),
        };
    }
    Err(Errno::LOOP).config(about)
}

/// Whether an entry is a file that was named itself, and not one of a directory's.
fn is_whole_file(entry: &Entry) -> Result<bool, Failure> {
    Ok(entry.kind == EntryKind::File && clean(&entry.path)?.len() == 1)
}

/// Removes the first link on the way to a directory: what is behind it is not meant.
fn replace_links(root: BorrowedFd<'_>, path: &str) -> Result<(), Failure> {
    let about = || format!("make {path}");
    let mut here = root.try_clone_to_owned().context(about)?;
    for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        here = match openat(&here, name, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let there = statat(&here, name, AtFlags::SYMLINK_NOFOLLOW).context(about)?;
                return match FileType::from_raw_mode(there.st_mode) {
                    FileType::Symlink => unlinkat(&here, name, AtFlags::empty()).context(about),
                    _ => Err(Errno::NOTDIR).config(about),
                };
            }
            Err(errno) => return Err(errno).context(about),
        };
    }
    Ok(())
}

/// Makes a directory and those above it; the ones that were missing get the owner.
fn make_directories(
    root: BorrowedFd<'_>,
    path: &str,
    owner: Option<(u32, u32)>,
) -> Result<(), Failure> {
    let about = || format!("make {path}");
    let Some((uid, gid)) = owner else {
        return paths::open(root, path, Want::NewDirectory)
            .map(drop)
            .config(about);
    };
    let ends = path.match_indices('/').map(|(index, _)| index);
    for end in ends.chain([path.len()]) {
        let prefix = path.get(..end).unwrap_or_default();
        match paths::open(root, prefix, Want::Directory) {
            Ok(_) => {}
            Err(Errno::NOENT) => {
                let made = paths::open(root, prefix, Want::NewDirectory).config(about)?;
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                chownat(&made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).config(about)?;
            }
            Err(errno) => return Err(errno).config(about),
        }
    }
    Ok(())
}
