//! What a process gives up of itself: capabilities, what it could gain by executing something, how
//! much it may take of the host, and that others of its user look into it.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_no_new_privs,
};

use crate::{Context, JailError};

/// Gives up every capability but those of these that it has, for ever, and whatever executing a file
/// would bring. Root in a container of another engine has some of root's only.
///
/// # Errors
/// When the process lacks `CAP_SETPCAP`.
pub fn drop_all_but(kept: CapabilitySet) -> Result<(), JailError> {
    let kept = kept & capabilities(None).context("read capabilities")?.permitted;
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED,
    )
    .context("keep capabilities apart from users")?;
    for capability in (CapabilitySet::all() - kept).iter() {
        match remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno).context("give up capabilities"),
        }
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )
    .context("give up capabilities")?;
    set_no_new_privs(true).context("give up privileges")
}

/// Keeps others of its user from looking into the process, and its memory out of core files.
///
/// # Errors
/// The kernel's.
pub fn hide() -> Result<(), JailError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("hide the process's memory")?;
    limit(Resource::Core, 0)
}

/// Lowers a resource limit, soft and hard; one that is lower stays.
///
/// # Errors
/// The kernel's.
pub fn limit(resource: Resource, most: u64) -> Result<(), JailError> {
    let now = rustix::process::getrlimit(resource);
    let lower = Some(now.maximum.map_or(most, |maximum| maximum.min(most)));
    let limit = Rlimit {
        current: lower,
        maximum: lower,
    };
    setrlimit(resource, limit).context("limit resources")
}
