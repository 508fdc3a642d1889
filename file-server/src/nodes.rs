//! What a guest has looked up and not forgotten, and what it has open. Used by [`crate::files`].
//!
//! A node is an open place (`O_PATH`), so that neither a rename nor a link on the host changes what
//! it is. Both tables have limits: a guest that fills them gets `ENFILE`.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::directory::Reading;

/// Nodes of one guest. Each is an open descriptor of the host; a guest with 1 GiB of memory keeps
/// some 500,000 before it forgets. The process's own limit of descriptors may be lower, see [`Limits`].
pub const NODES_MAX: usize = 1_000_000;

/// Files and directories that one guest has open at a time.
pub const HANDLES_MAX: usize = 65_536;

/// Descriptors beside: socket, memory, shares, and a few for each request under way.
pub const RESERVE: usize = 256;

/// What a guest may hold with the descriptors that there are: nodes never take the room of handles, or
/// what is known could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At most [`NODES_MAX`].
    pub nodes: usize,
    /// At most [`HANDLES_MAX`], and a quarter.
    pub handles: usize,
}

impl Limits {
    /// Of a process that may have so many descriptors.
    #[must_use]
    pub fn of(descriptors: usize) -> Self {
        let handles = HANDLES_MAX.min(descriptors / 4);
        let reserve = RESERVE.min(descriptors / 4);
        let left = descriptors.saturating_sub(handles + reserve);
        Self {
            nodes: NODES_MAX.min(left),
            handles,
        }
    }
}

/// The root directory's node (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;

/// Tells one file of the host from another: device, inode, and the mount through which it was
/// reached, because that one may be read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// Its number there.
    pub inode: u64,
    /// `stx_mnt_id`.
    pub mount: u64,
}

/// Something in a shared folder.
#[derive(Debug)]
pub struct Node {
    /// Where it is (`O_PATH`).
    pub place: OwnedFd,
    /// Fixed for the life of an inode.
    pub kind: FileType,
    /// Which file it is.
    pub key: Key,
    /// The guest was told that it has no name any more, and may not know yet.
    pub told_nameless: AtomicBool,
}

#[derive(Debug)]
struct Entry {
    node: Arc<Node>,
    /// Replies that named it, less what the guest forgot.
    lookups: u64,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<u64, Entry>,
    by_key: HashMap<Key, u64>,
    last: u64,
}

/// All nodes of a guest.
#[derive(Debug)]
pub struct Nodes {
    table: Mutex<Table>,
    max: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nodes {
    /// Only the root, which is never forgotten, and room for `max`.
    #[must_use]
    pub fn new(root: Node, max: usize) -> Self {
        let table = Mutex::new(Table {
            last: ROOT,
            ..Table::default()
        });
        let nodes = Self { table, max };
        lock(&nodes.table).by_id.insert(
            ROOT,
            Entry {
                node: Arc::new(root),
                lookups: 1,
            },
        );
        nodes
    }

    /// A node by its number.
    ///
    /// # Errors
    /// `ESTALE` when there is none.
    pub fn get(&self, id: u64) -> Result<Arc<Node>, Errno> {
        let table = lock(&self.table);
        let entry = table.by_id.get(&id).ok_or(Errno::STALE)?;
        Ok(entry.node.clone())
    }

    /// The number of a node that a reply is about to name; the one that is there already, if it is.
    ///
    /// # Errors
    /// `ENFILE` beyond the limit.
    pub fn found(&self, node: Node) -> Result<u64, Errno> {
        let mut table = lock(&self.table);
        if let Some(id) = table.by_key.get(&node.key).copied()
            && let Some(entry) = table.by_id.get_mut(&id)
        {
            entry.lookups = entry.lookups.saturating_add(1);
            return Ok(id);
        }
        if table.by_id.len() >= self.max {
            return Err(Errno::NFILE);
        }
        table.last += 1;
        let id = table.last;
        table.by_key.insert(node.key, id);
        let entry = Entry {
            node: Arc::new(node),
            lookups: 1,
        };
        table.by_id.insert(id, entry);
        Ok(id)
    }

    /// The guest forgets so many replies that named a node.
    pub fn forget(&self, id: u64, lookups: u64) {
        if id == ROOT {
            return;
        }
        let mut table = lock(&self.table);
        let Some(entry) = table.by_id.get_mut(&id) else {
            return;
        };
        entry.lookups = entry.lookups.saturating_sub(lookups);
        if entry.lookups == 0 {
            let key = entry.node.key;
            table.by_key.remove(&key);
            let gone = table.by_id.remove(&id);
            // Closing takes time that others need not wait for.
            drop(table);
            drop(gone);
        }
    }

    /// Forgets everything but the root.
    pub fn clear(&self) {
        let mut table = lock(&self.table);
        table.by_id.retain(|id, _| *id == ROOT);
        table.by_key.clear();
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.table).by_id.len()
    }

    /// Never: the root is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Something that the guest has open.
#[derive(Debug)]
pub struct Handle {
    /// Open for what the guest wants.
    pub file: OwnedFd,
    /// A directory's: how far it is read, by one request at a time.
    pub directory: Option<Mutex<Reading>>,
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[derive(Debug, Default)]
struct Opened {
    by_id: HashMap<u64, Arc<Handle>>,
    last: u64,
}

/// All that a guest has open.
#[derive(Debug)]
pub struct Handles {
    opened: Mutex<Opened>,
    max: usize,
}

impl Handles {
    /// None, and room for `max`.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let opened = Mutex::default();
        Self { opened, max }
    }

    /// Keeps an open file; returns its number.
    ///
    /// # Errors
    /// `ENFILE` beyond the limit.
    pub fn add(&self, handle: Handle) -> Result<u64, Errno> {
        let mut opened = lock(&self.opened);
        if opened.by_id.len() >= self.max {
            return Err(Errno::NFILE);
        }
        opened.last += 1;
        let id = opened.last;
        opened.by_id.insert(id, Arc::new(handle));
        Ok(id)
    }

    fn get(&self, id: u64) -> Result<Arc<Handle>, Errno> {
        lock(&self.opened)
            .by_id
            .get(&id)
            .cloned()
            .ok_or(Errno::BADF)
    }

    /// An open file.
    ///
    /// # Errors
    /// `EBADF` when there is none of that number, or it is a directory.
    pub fn file(&self, id: u64) -> Result<Arc<Handle>, Errno> {
        let handle = self.get(id)?;
        match handle.directory {
            None => Ok(handle),
            Some(_) => Err(Errno::BADF),
        }
    }

    /// An open directory.
    ///
    /// # Errors
    /// `EBADF` when there is none of that number, or it is a file.
    pub fn directory(&self, id: u64) -> Result<Arc<Handle>, Errno> {
        let handle = self.get(id)?;
        match handle.directory {
            Some(_) => Ok(handle),
            None => Err(Errno::BADF),
        }
    }

    /// Closes one.
    pub fn remove(&self, id: u64) {
        let gone = lock(&self.opened).by_id.remove(&id);
        drop(gone);
    }

    /// Closes all.
    pub fn clear(&self) {
        lock(&self.opened).by_id.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_room_to_open_what_is_known() {
        for (descriptors, nodes, handles) in [
            (NODES_MAX + HANDLES_MAX + RESERVE, NODES_MAX, HANDLES_MAX),
            (usize::MAX, NODES_MAX, HANDLES_MAX),
            // The kernel's own limit, and systemd's.
            (1 << 20, (1 << 20) - HANDLES_MAX - RESERVE, HANDLES_MAX),
            (1 << 19, (1 << 19) - HANDLES_MAX - RESERVE, HANDLES_MAX),
            (4096, 4096 - 1024 - RESERVE, 1024),
            (64, 32, 16),
        ] {
            let limits = Limits { nodes, handles };
            assert_eq!(Limits::of(descriptors), limits, "{descriptors}");
        }
    }
}
