//! Extended attributes behind an inode (`struct erofs_xattr_ibody_header` and its entries).
//!
//! Called by [`super`]. Attributes are stored with each inode: those that most files of a layer
//! share, such as SELinux labels, are short, and those beside an inode need no further read.

use super::super::UnpackError;
use super::format::{Fields, XATTR_HEADER_LEN};
use tarball::Xattr;
use tarball::shown;

/// `EROFS_XATTR_INDEX_*`
const USER: u8 = 1;
const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;
const TRUSTED: u8 = 4;
const SECURITY: u8 = 6;

/// Bytes of all attributes of one inode: their count of 4-byte units has 16 bits.
const BODY_MAX: usize = XATTR_HEADER_LEN + 4 * (u16::MAX as usize - 1);

/// The attributes as they are stored; nothing without any.
///
/// # Errors
/// More than [`BODY_MAX`] bytes, or a name that EROFS can't hold.
pub(super) fn encode(xattrs: &[Xattr]) -> Result<Vec<u8>, UnpackError> {
    if xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut body = Fields::default();
    // The name filter and the shared attributes' count: there are none of either.
    body.0.resize(XATTR_HEADER_LEN, 0);
    for Xattr { name, value } in xattrs {
        let impossible = || UnpackError::corrupt(format!("an attribute {}", shown(name)));
        let (index, rest) = name_index(name).ok_or_else(impossible)?;
        let name_len = u8::try_from(rest.len()).map_err(|_| impossible())?;
        let value_len = u16::try_from(value.len()).map_err(|_| impossible())?;
        body.0.extend([name_len, index]);
        body.u16(value_len);
        body.0.extend(rest);
        body.0.extend(value);
        body.0.resize(body.0.len().next_multiple_of(4), 0);
    }
    if body.0.len() > BODY_MAX {
        return Err(UnpackError::Limit {
            what: "bytes of extended attributes of one entry",
            limit: BODY_MAX as u64,
        });
    }
    Ok(body.0)
}

/// The number of a namespace, and the name in it. The kernel keeps access control lists in
/// namespaces of their own, in the form of the system call.
fn name_index(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((ACL_ACCESS, b"")),
        b"system.posix_acl_default" => return Some((ACL_DEFAULT, b"")),
        _ => {}
    }
    let prefixes: [(&[u8], u8); 3] = [
        (b"user.", USER),
        (b"trusted.", TRUSTED),
        (b"security.", SECURITY),
    ];
    prefixes
        .iter()
        .find_map(|(prefix, index)| Some((*index, name.strip_prefix(*prefix)?)))
}
