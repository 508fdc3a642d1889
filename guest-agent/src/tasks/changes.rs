//! What the container changed of its image, as `docker diff` has it.
//!
//! Called by [`super`] in a child. The upper layer of the overlay has every file that was touched;
//! what it means is told by what was there before. As with Docker, a directory in which something
//! changed is changed, a file whose content and attributes are as before is not, and of a directory
//! that is gone only the directory is named.

use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::message::FailureKind;
use protocol::task::CHANGE_PATH_MAX;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use tarball::shown;

use super::place::{self, Found};
use crate::failure::{Context, Failure};

/// Changes that are told: far more than anyone reads.
const CHANGES_MAX: u64 = 10_000_000;

/// Directories in each other, as many as a path of [`CHANGE_PATH_MAX`] can have.
const DEPTH_MAX: usize = CHANGE_PATH_MAX / 2;

/// Tells every change: `upper` against `before`, the root as it was.
///
/// # Errors
/// What reading says, or that there are too many.
pub fn list(upper: BorrowedFd<'_>, before: BorrowedFd<'_>, to: impl Write) -> Result<(), Failure> {
    let open = |root| place::look_in(root, b".").context(|| "open the container's root".into());
    let (upper, before) = (open(upper)?, open(before)?);
    let mut listing = Listing {
        to: BufWriter::new(to),
        path: Vec::new(),
        depth: 0,
        count: 0,
    };
    listing.directory(&upper.fd, Some(&before.fd), &mut Vec::new())?;
    listing.to.flush().context(writing)
}

/// The directory that changes are looked for in.
struct Listing<W: Write> {
    to: BufWriter<W>,
    path: Vec<u8>,
    depth: usize,
    count: u64,
}

/// Directories on the way that changed only by what is in them: told when something is.
type Untold = Vec<usize>;

impl<W: Write> Listing<W> {
    fn directory(
        &mut self,
        upper: &OwnedFd,
        before: Option<&OwnedFd>,
        untold: &mut Untold,
    ) -> Result<(), Failure> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(limit("directories in each other", DEPTH_MAX as u64));
        }
        let mut names = self.names(upper)?;
        if let Some(before) = before
            && place::is_opaque(upper.as_fd()).context(|| self.about())?
        {
            // What was there before and is not any more.
            names.extend(self.names(before)?);
            names.sort_unstable();
            names.dedup();
        }
        let len = self.path.len();
        for name in names {
            self.path.truncate(len);
            self.path.push(b'/');
            self.path.extend_from_slice(&name);
            if self.path.len() > CHANGE_PATH_MAX {
                return Err(limit("bytes of a path", CHANGE_PATH_MAX as u64));
            }
            self.one(upper, before, &name, untold)?;
        }
        self.path.truncate(len);
        self.depth -= 1;
        Ok(())
    }

    fn one(
        &mut self,
        upper: &OwnedFd,
        before: Option<&OwnedFd>,
        name: &[u8],
        untold: &mut Untold,
    ) -> Result<(), Failure> {
        let now = self
            .look(upper, name)?
            .filter(|now| !place::is_whiteout(&now.stat));
        let was = match before {
            Some(before) => self.look(before, name)?,
            None => None,
        };
        let (now, was) = match (now, was) {
            (None, None) => return Ok(()),
            (None, Some(_)) => return self.tell(b'D', untold),
            (Some(now), was) => (now, was),
        };
        match &was {
            None => self.tell(b'A', untold)?,
            Some(was) if differ(&now.stat, &was.stat) => self.tell(b'C', untold)?,
            Some(_) => {
                if is_dir(&now) {
                    untold.push(self.path.len());
                }
            }
        }
        if is_dir(&now) {
            let len = self.path.len();
            let was = was.as_ref().filter(|was| is_dir(was)).map(|was| &was.fd);
            self.directory(&now.fd, was, untold)?;
            // Nothing changed in it.
            if untold.last() == Some(&len) {
                untold.pop();
            }
        }
        Ok(())
    }

    /// Tells a change of the current path, and of what it makes changed.
    fn tell(&mut self, kind: u8, untold: &mut Untold) -> Result<(), Failure> {
        for len in untold.drain(..) {
            let dir = self.path.get(..len).unwrap_or_default();
            write(&mut self.to, b'C', dir)?;
            self.count += 1;
        }
        write(&mut self.to, kind, &self.path)?;
        self.count += 1;
        if self.count > CHANGES_MAX {
            return Err(limit("changes", CHANGES_MAX));
        }
        Ok(())
    }

    fn look(&self, dir: &OwnedFd, name: &[u8]) -> Result<Option<Found>, Failure> {
        match place::look_in(dir.as_fd(), name) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).context(|| self.about()),
        }
    }

    fn names(&self, dir: &OwnedFd) -> Result<Vec<Vec<u8>>, Failure> {
        place::names(dir.as_fd()).context(|| self.about())
    }

    fn about(&self) -> String {
        format!("read {}", shown(&self.path))
    }
}

fn write(to: &mut impl Write, kind: u8, path: &[u8]) -> Result<(), Failure> {
    to.write_all(&[kind])
        .and_then(|()| to.write_all(path))
        .and_then(|()| to.write_all(&[0]))
        .context(writing)
}

fn is_dir(found: &Found) -> bool {
    place::kind(&found.stat) == FileType::Directory
}

/// What Docker compares: neither size nor time of directories.
fn differ(now: &Stat, was: &Stat) -> bool {
    let all = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    let content = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    all(now) != all(was)
        || (place::kind(now) != FileType::Directory && content(now) != content(was))
}

fn writing() -> String {
    "write the changes".to_owned()
}

fn limit(what: &str, limit: u64) -> Failure {
    Failure::new(
        FailureKind::LimitExceeded,
        format!("more than {limit} {what}"),
    )
}

#[cfg(test)]
mod tests;
