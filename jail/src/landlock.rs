//! Landlock (landlock(7)) with no rule, or one: whatever a kernel can deny of files, network and other
//! processes is denied, so that what is open is all there is.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};

/// What a kernel made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// All of it.
    Full,
    /// What this kernel knows of.
    Partial,
    /// None: not built in, or not among `lsm=`.
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
/// a device.
///
/// # Errors
/// As [`restrict`].
pub fn restrict_to(folder: Option<BorrowedFd<'_>>) -> Result<Enforcement, RulesetError> {
    let abi = ABI::V6;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    if let Some(folder) = folder {
        let denied = AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar;
        let access = AccessFs::from_all(abi) & !denied;
        rules = rules.add_rule(PathBeneath::new(folder, access))?;
    }
    let status = rules.restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforcement::Full,
        RulesetStatus::PartiallyEnforced => Enforcement::Partial,
        RulesetStatus::NotEnforced => Enforcement::None,
    })
}
