//! A container's mounts at the start of a life: shares for its VM, and volumes that it fills first.
//! Called by [`super::life`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use protocol::spec::{CopyUp, MountSpec, RunSpec};

use super::super::clock::ZERO_TIME;
use super::super::files::Share;
use super::super::volumes::{Fill, Filling, Mount, MountKind};
use super::Supervisor;

/// What a life has of its mounts.
pub(super) struct Prepared {
    /// By the numbers that the mounts have now.
    pub(super) shares: Vec<Share>,
    /// Volumes that take the image's content.
    pub(super) fillings: Vec<Filling>,
}

/// Time between two looks at a volume that another container fills.
const FILL_POLL: Duration = Duration::from_millis(50);

impl Supervisor {
    /// Takes the volumes that are to be filled, and says so in `run`. While another container fills
    /// one of them, commands are served. `None` when one wants this container to end.
    pub(super) fn prepare_mounts(
        &mut self,
        mounts: &[Mount],
        run: &mut RunSpec,
    ) -> Result<Option<Prepared>> {
        mounts.iter().try_for_each(Mount::check_source)?;
        loop {
            let is_first = self.state.started_at == ZERO_TIME;
            if let Some(prepared) = prepare(mounts, &mut run.mounts, is_first)? {
                return Ok(Some(prepared));
            }
            self.turn(Some(Instant::now() + FILL_POLL))?;
            if self.by_hand || self.again {
                return Ok(None);
            }
        }
    }
}

/// `None` when another container fills one of the volumes: none is taken then.
fn prepare(mounts: &[Mount], specs: &mut [MountSpec], is_first: bool) -> Result<Option<Prepared>> {
    let mut fillings = Vec::new();
    for (_, index) in fillers(mounts) {
        let (Some(mount), Some(spec)) = (mounts.get(index), specs.get_mut(index)) else {
            continue;
        };
        let (copy_up, filling) = match Fill::begin(mount, is_first)? {
            Fill::No => (CopyUp::No, None),
            Fill::Empty(filling) => (CopyUp::IfEmpty, Some(filling)),
            Fill::Again(filling) => (CopyUp::Again, Some(filling)),
            Fill::Busy => return Ok(None),
        };
        spec.copy_up = copy_up;
        fillings.extend(filling);
    }
    let mut shares: Vec<Share> = Vec::new();
    for (mount, spec) in mounts.iter().zip(specs) {
        let share = Share {
            source: mount.place().to_owned(),
            read_only: mount.read_only,
        };
        // One that is mounted twice is one to the guest, which caches it once.
        let known = shares.iter().position(|other| *other == share);
        spec.share = u32::try_from(known.unwrap_or(shares.len()))?;
        if known.is_none() {
            shares.push(share);
        }
    }
    Ok(Some(Prepared { shares, fillings }))
}

/// Which mount fills each volume: the first that may, else the first that writes to it, else the first. A
/// volume is taken once, however often it is mounted, and volumes in the order of their names, so that two
/// containers don't wait for each other.
fn fillers(mounts: &[Mount]) -> BTreeMap<&str, usize> {
    let mut fillers = BTreeMap::new();
    let volumes = mounts.iter().enumerate();
    for (index, mount) in volumes.filter(|(_, mount)| mount.kind == MountKind::Volume) {
        let chosen = fillers.entry(mount.name.as_str()).or_insert(index);
        let rank = |index: usize| {
            let mount = mounts.get(index);
            mount.map(|mount| (mount.wants_content(), !mount.read_only))
        };
        if rank(index) > rank(*chosen) {
            *chosen = index;
        }
    }
    fillers
}

#[cfg(test)]
mod tests {
    use super::super::super::volumes::Origin;
    use super::*;

    fn mount(name: &str, target: &str, read_only: bool, copy_up: bool) -> Mount {
        Mount {
            kind: MountKind::Volume,
            name: name.to_owned(),
            source: name.into(),
            target: target.to_owned(),
            read_only,
            mode: String::new(),
            copy_up,
            origin: Origin::Bind,
            anonymous: false,
            resolved: name.into(),
        }
    }

    #[test]
    fn who_waits_for_one_volume_leaves_the_others_as_they_were() {
        let temp = tempfile::tempdir().unwrap();
        let volume = |name: &str, target: &str| {
            let source = temp.path().join(name).join("_data");
            std::fs::create_dir_all(&source).unwrap();
            let mount = mount(name, target, false, true);
            Mount {
                resolved: source.clone(),
                source,
                ..mount
            }
        };
        let mounts = [volume("aa", "/1"), volume("zz", "/2")];
        let marker = |name: &str| temp.path().join(name).join("copying");
        let mut specs: Vec<_> = mounts
            .iter()
            .map(|mount| MountSpec {
                share: 0,
                target: mount.target.clone(),
                read_only: false,
                copy_up: CopyUp::No,
                owned: None,
            })
            .collect();
        let Fill::Empty(other) = Fill::begin(&mounts[1], true).unwrap() else {
            panic!("it is empty");
        };
        assert!(prepare(&mounts, &mut specs, true).unwrap().is_none());
        assert!(!marker("aa").exists());
        assert!(marker("zz").exists());
        // What somebody puts there meanwhile is not the image's, and is kept.
        std::fs::write(mounts[0].source.join("mine"), "").unwrap();
        drop(other);
        let prepared = prepare(&mounts, &mut specs, true).unwrap().unwrap();
        let copies: Vec<_> = specs.iter().map(|spec| spec.copy_up).collect();
        assert_eq!(copies, [CopyUp::No, CopyUp::IfEmpty]);
        assert_eq!(prepared.fillings.len(), 1);
        // So too when there is no VM in the end.
        drop(prepared);
        assert!(!marker("zz").exists());
    }

    #[test]
    fn each_volume_is_filled_once_by_the_first_that_may() {
        let mounts = [
            mount("zz", "/1", true, true),
            mount("aa", "/2", false, false),
            mount("zz", "/3", false, true),
            mount("zz", "/4", false, true),
            mount("aa", "/5", false, false),
        ];
        let fillers: Vec<_> = fillers(&mounts).into_iter().collect();
        assert_eq!(fillers, [("aa", 1), ("zz", 2)]);
    }
}
