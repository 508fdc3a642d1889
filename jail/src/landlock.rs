//! Landlock (landlock(7)) with no rule, or one: whatever a kernel can deny of files, network and other
//! processes is denied, so that what is open is all there is. A supervisor has rules for its files.

use std::os::fd::{AsFd, BorrowedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// What a kernel made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// All of it.
    Full,
    /// What this kernel knows of.
    Partial,
    /// None: not built in, or not among `lsm=`, or of no use.
    None,
}

/// Denies the calling thread, and all it starts then, every access that this kernel can deny.
///
/// # Errors
/// When a kernel that has Landlock refuses.
pub fn restrict() -> Result<Enforcement, RulesetError> {
    restrict_to(None)
}

/// The same, but for what lies beneath a folder: all may be done there but executing a file and making
/// a device. Nothing is denied where [`knows_moves`] says no.
///
/// # Errors
/// As [`restrict`].
pub fn restrict_to(folder: Option<BorrowedFd<'_>>) -> Result<Enforcement, RulesetError> {
    if folder.is_some() && !knows_moves() {
        return Ok(Enforcement::None);
    }
    let abi = ABI::V6;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    if let Some(folder) = folder {
        rules = rules.add_rule(PathBeneath::new(folder, Rights::All.access(abi)))?;
    }
    Ok(rules.restrict_self()?.ruleset.into())
}

/// Whether this kernel's Landlock can allow to move or link a file from one folder to another. That of
/// Linux 5.13 to 5.18 denies it to whoever is restricted at all.
#[must_use]
pub fn knows_moves() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)
        .is_ok()
}

/// What may be done below a folder, or with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Read files and folders.
    Read,
    /// Read files, and list no folder.
    ReadFiles,
    /// The same, and write to files.
    ReadAndWrite,
    /// List a folder.
    List,
    /// Read files and remove what has a known name; list no folder.
    Removal,
    /// Read, and make, write and remove files and sockets. Folders stay as they are, links and pipes are
    /// not made, and nothing is moved from one folder to another.
    Own,
    /// All but executing a file and making a device.
    All,
}

impl Rights {
    fn access(self, abi: ABI) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        match self {
            Self::Read => read,
            Self::ReadFiles => AccessFs::ReadFile.into(),
            Self::ReadAndWrite => read | AccessFs::WriteFile | AccessFs::Truncate,
            Self::List => AccessFs::ReadDir.into(),
            Self::Removal => AccessFs::ReadFile | AccessFs::RemoveFile | AccessFs::RemoveDir,
            Self::Own => {
                let made = AccessFs::MakeReg | AccessFs::MakeSock | AccessFs::RemoveFile;
                read | AccessFs::WriteFile | AccessFs::Truncate | made
            }
            Self::All => AccessFs::from_all(abi) & !denied(),
        }
    }
}

/// What nothing that is shut in has to do with files.
fn denied() -> BitFlags<AccessFs> {
    AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar
}

/// Denies the calling thread, and all it starts then, every file but those below these. What is open
/// stays so; sockets and signals are another filter's.
///
/// # Errors
/// As [`restrict`].
pub fn restrict_files(places: &[(impl AsFd, Rights)]) -> Result<Enforcement, RulesetError> {
    let abi = ABI::V6;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .create()?;
    for (place, rights) in places {
        rules = rules.add_rule(PathBeneath::new(place.as_fd(), rights.access(abi)))?;
    }
    Ok(rules.restrict_self()?.ruleset.into())
}

impl From<RulesetStatus> for Enforcement {
    fn from(status: RulesetStatus) -> Self {
        match status {
            RulesetStatus::FullyEnforced => Self::Full,
            RulesetStatus::PartiallyEnforced => Self::Partial,
            RulesetStatus::NotEnforced => Self::None,
        }
    }
}
