//! A container's mounts at the start of a life: shares for its VM, and volumes that it fills first.
//! Called by [`super::life`].

use anyhow::Result;
use protocol::spec::{CopyUp, RunSpec};

use super::super::files::Share;
use super::super::volumes::{Fill, Filling, Mount};

/// What a life has of its mounts.
pub(super) struct Prepared {
    /// By the numbers that the mounts have now.
    pub(super) shares: Vec<Share>,
    /// Volumes that take the image's content.
    pub(super) fillings: Vec<Filling>,
}

/// Takes the volumes that are to be filled, and says so in `run`.
pub(super) fn prepare(mounts: &[Mount], run: &mut RunSpec) -> Result<Prepared> {
    let mut fillings = Vec::new();
    let mut shares: Vec<Share> = Vec::new();
    for (mount, spec) in mounts.iter().zip(&mut run.mounts) {
        let (copy_up, filling) = match Fill::begin(mount)? {
            Fill::No => (CopyUp::No, None),
            Fill::Empty(filling) => (CopyUp::IfEmpty, Some(filling)),
            Fill::Again(filling) => (CopyUp::Again, Some(filling)),
        };
        spec.copy_up = copy_up;
        fillings.extend(filling);
        let share = Share {
            source: mount.source.clone(),
            read_only: mount.read_only,
        };
        // One that is mounted twice is one to the guest, which caches it once.
        let known = shares.iter().position(|other| *other == share);
        spec.share = u32::try_from(known.unwrap_or(shares.len()))?;
        if known.is_none() {
            shares.push(share);
        }
    }
    Ok(Prepared { shares, fillings })
}
