//! Opens what a guest has looked up, and makes files that are open at once. Part of [`crate::files`].

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{CWD, FileType, Mode, OFlags, openat, openat2};
use rustix::io::Errno;

use super::{BENEATH, Files, Found, OPEN_FLAGS, Reply, VALID_S, attributes, look, permissions};
use crate::identity::{Maker, without_setid};
use crate::nodes::{Handle, Node};
use crate::reply::Writer;
use crate::wire::{Header, Name, OPEN_KILL_SUIDGID};

/// Flags of who wants to change a file.
const WRITES: OFlags = OFlags::WRONLY.union(OFlags::RDWR).union(OFlags::TRUNC);

/// Refuses a file that has no name any more, once: the guest may have come here by a name that it
/// remembers and another took away. On `ESTALE` its kernel looks the name up again, and makes the file
/// if it is to be made. Who comes by a descriptor of `/proc` comes a second time.
fn is_still_named(node: &Node) -> Result<(), Errno> {
    if attributes(node.place.as_fd())?.0.nlink > 0 {
        return Ok(());
    }
    match node.told_nameless.fetch_xor(true, Ordering::Relaxed) {
        false => Err(Errno::STALE),
        true => Ok(()),
    }
}

impl Files {
    /// Opens a node for more than its place. What is no regular file or directory would do
    /// something else when it is opened: devices, pipes, sockets.
    pub(super) fn reopen(&self, node: &Node, flags: OFlags) -> Result<OwnedFd, Errno> {
        match node.kind {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO),
        }
        let path = self.path(node.place.as_fd());
        openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
    }

    pub(super) fn open_file(
        &self,
        node: &Node,
        flags: u32,
        open_flags: u32,
    ) -> Result<OwnedFd, Errno> {
        if node.kind == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        let wanted = OFlags::from_bits_retain(flags);
        let flags = wanted & OPEN_FLAGS;
        if flags.intersects(WRITES) {
            is_still_named(node)?;
        }
        let open = || match self.reopen(node, flags) {
            // A file that is only to be appended to, by chattr(1). Not one that could be mapped: its
            // pages would be appended, too.
            Err(Errno::PERM)
                if wanted.contains(OFlags::APPEND | OFlags::WRONLY)
                    && !wanted.contains(OFlags::RDWR) =>
            {
                self.reopen(node, flags | OFlags::APPEND)
            }
            other => other,
        };
        if open_flags & OPEN_KILL_SUIDGID == 0 {
            open()
        } else {
            without_setid(open)
        }
    }

    /// Makes a file and opens it; opens the one that is there, unless it is to be new.
    pub(super) fn create(
        &self,
        parent: &Node,
        header: &Header,
        name: Name<'_>,
        (flags, open_flags): (u32, u32),
        mode: u32,
    ) -> Result<Reply, Errno> {
        let wanted = OFlags::from_bits_retain(flags);
        let new = (wanted & OPEN_FLAGS) | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let maker = Maker::new(header.uid, header.gid);
        let made = openat2(&parent.place, name.bytes(), new, permissions(mode), BENEATH);
        drop(maker);
        let (file, found) = match made {
            Ok(file) => {
                let found = self.place_of(&file, parent)?;
                (file, found)
            }
            Err(Errno::EXIST) if !wanted.contains(OFlags::EXCL) => {
                let found = self.find(parent, name)?;
                (self.open_file(&found.node, flags, open_flags)?, found)
            }
            Err(errno) => return Err(errno),
        };
        self.made(file, found)
    }

    /// Makes a file without a name in a directory (`O_TMPFILE`).
    pub(super) fn make_temporary(
        &self,
        parent: &Node,
        header: &Header,
        flags: u32,
        mode: u32,
    ) -> Result<Reply, Errno> {
        let wanted = OFlags::from_bits_retain(flags);
        // With `EXCL` it never gets a name.
        let new = (wanted & (OPEN_FLAGS | OFlags::EXCL)) | OFlags::TMPFILE | OFlags::CLOEXEC;
        let maker = Maker::new(header.uid, header.gid);
        let made = openat2(&parent.place, ".", new, permissions(mode), BENEATH);
        drop(maker);
        let file = made?;
        let found = self.place_of(&file, parent)?;
        self.made(file, found)
    }

    /// The very file that was made, whatever has its name by now.
    fn place_of(&self, file: &OwnedFd, parent: &Node) -> Result<Found, Errno> {
        let path = self.path(file.as_fd());
        let place = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        look(place, Some(parent))
    }

    /// Remembers a file that is open.
    fn made(&self, file: OwnedFd, found: Found) -> Result<Reply, Errno> {
        let (id, attributes) = self.remember(found)?;
        let mut writer = Writer::new();
        writer.entry(id, VALID_S, &attributes);
        self.opened(writer, file)
            .inspect_err(|_| self.nodes.forget(id, 1))
    }

    pub(super) fn opened(&self, writer: Writer, file: OwnedFd) -> Result<Reply, Errno> {
        let id = self.handles.add(Handle {
            file,
            directory: None,
        })?;
        Ok(open_out(writer, id).into())
    }
}

pub(super) fn open_out(mut writer: Writer, handle: u64) -> Writer {
    writer.u64(handle).u32(0).u32(0);
    writer
}
