//! As whom a thread makes files, and without which capability it writes. Used by [`crate::files`].
//!
//! The process keeps its capabilities whatever its file-system user is (`SECBIT_NO_SETUID_FIXUP`, set
//! by [`crate::jail`]): the guest's kernel has checked who may do what in a shared folder, and only who
//! owns what is made is left to be said.
#![allow(unsafe_code)] // setfsuid and setfsgid, which rustix does not have

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// While it lives, what this thread makes belongs to a user and group of the guest; a user that is
/// not mapped on this host leaves it to the server's own.
#[derive(Debug)]
pub struct Maker {
    before: (libc::c_int, libc::c_int),
}

impl Maker {
    /// Begins.
    #[must_use]
    pub fn new(uid: u32, gid: u32) -> Self {
        // SAFETY: both calls only change this thread's own identity, and say no when they may not.
        let before = unsafe { (libc::setfsuid(uid), libc::setfsgid(gid)) };
        Self { before }
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        let (uid, gid) = self.before;
        // SAFETY: as above; these were the thread's own.
        unsafe {
            libc::setfsgid(gid.cast_unsigned());
            libc::setfsuid(uid.cast_unsigned());
        }
    }
}

/// Does `what` so that the kernel clears set-user-id and set-group-id bits, as it does for a writer
/// without `CAP_FSETID`.
///
/// # Errors
/// Those of `what`, or of giving the capability up.
pub fn without_setid<T>(what: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let before = capabilities(None)?;
    let mut less = before;
    less.effective.remove(CapabilitySet::FSETID);
    set_capabilities(None, less)?;
    let result = what();
    set_capabilities(None, before)?;
    result
}
