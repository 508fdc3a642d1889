//! Capabilities of a process: names to sets, and giving up the rest.
//!
//! Called by [`crate::launch`] in the child that becomes the process. Knows no users: that the
//! kernel clears permitted and effective capabilities when a user other than root executes
//! something is what gives such users none.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
};

/// A name that is no capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability {0:?}")]
pub struct UnknownCapability(String);

/// The set of `names`, which are upper case and without `CAP_`.
///
/// # Errors
/// The first name that is no capability of Linux 6.12.
pub fn parse(names: &[String]) -> Result<CapabilitySet, UnknownCapability> {
    names.iter().try_fold(CapabilitySet::empty(), |set, name| {
        CapabilitySet::from_name(name)
            .map(|capability| set | capability)
            .ok_or_else(|| UnknownCapability(name.clone()))
    })
}

/// Every capability of the kernel.
#[must_use]
pub fn all() -> CapabilitySet {
    CapabilitySet::all() & CapabilitySet::from_bits_retain((1 << 41) - 1)
}

/// Removes from the bounding set what is not in `keep`. Needs `CAP_SETPCAP`.
///
/// # Errors
/// What `prctl` says.
pub fn bound(keep: CapabilitySet) -> Result<(), Errno> {
    (all() - keep)
        .iter()
        .try_for_each(remove_capability_from_bounding_set)
}

/// Makes `set` permitted and effective; nothing is inheritable, and so nothing ambient.
///
/// # Errors
/// What `capset` says.
pub fn assume(set: CapabilitySet) -> Result<(), Errno> {
    set_capabilities(
        None,
        CapabilitySets {
            effective: set,
            permitted: set,
            inheritable: CapabilitySet::empty(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn dockers_default_set_is_dockers_mask() {
        let set = parse(&names(
            "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW \
             SETFCAP SETGID SETPCAP SETUID SYS_CHROOT",
        ))
        .unwrap();
        assert_eq!(set.bits(), 0xa804_25fb);
    }

    #[test]
    fn all_is_what_a_privileged_container_shows() {
        assert_eq!(all().bits(), 0x1ff_ffff_ffff);
        assert_eq!(all().iter().count(), 41);
    }

    #[test]
    fn unknown_names_are_told() {
        for bad in ["CAP_CHOWN", "chown", "", "NOPE"] {
            let error = parse(&names(&format!("KILL {bad}"))).unwrap_err();
            assert_eq!(error, UnknownCapability(bad.into()));
        }
    }
}
