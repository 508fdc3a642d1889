//! Makes a seccomp filter of a thread's calls (seccomp(2)), and puts the calling thread under it.
//! Whatever is not in the table kills the process with SIGSYS, and the kernel's log names the call; a
//! supervisor's call fails as one that the kernel does not have.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use crate::table::{Check, Thread};

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The table makes no sense.
    #[error("make a filter of system calls: {0}")]
    Table(#[from] BackendError),
    /// The kernel does not take it.
    #[error("install a filter of system calls: {0}")]
    Install(#[from] seccompiler::Error),
}

/// A filter that was made and not yet installed.
#[derive(Debug, Clone)]
pub struct Filter(BpfProgram);

impl Filter {
    /// The filter of `thread`.
    ///
    /// # Errors
    /// When its table has a check that can't be.
    pub fn new(thread: Thread) -> Result<Self, FilterError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for call in thread.calls() {
            // No rule at all stands for any arguments.
            let of_call = rules.entry(call.number).or_default();
            if call.checks.is_empty() {
                continue;
            }
            for conditions in alternatives(call.checks)? {
                of_call.push(SeccompRule::new(conditions)?);
            }
        }
        let filter = SeccompFilter::new(
            rules,
            match thread {
                // What it lacks may be of no account, and a container ends with it. glibc tries another
                // way to make a thread then.
                Thread::Supervisor => SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
                _ => SeccompAction::KillProcess,
            },
            SeccompAction::Allow,
            TargetArch::x86_64,
        )?;
        Ok(Self(filter.try_into()?))
    }

    /// Puts the calling thread under it, for ever; threads that it starts then are, too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn install(&self) -> Result<(), FilterError> {
        Ok(seccompiler::apply_filter(&self.0)?)
    }
}

/// Conjunctions of which one must hold for all checks to hold.
fn alternatives(checks: &[Check]) -> Result<Vec<Vec<SeccompCondition>>, BackendError> {
    let mut all = vec![Vec::new()];
    for check in checks {
        let conditions = match check {
            Check::OneOf(argument, values) => values
                .iter()
                .map(|(_, value)| {
                    let equal = SeccompCmpOp::Eq;
                    let value = u64::from(*value);
                    SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, equal, value)
                })
                .collect::<Result<Vec<_>, _>>()?,
            Check::Bits(argument, mask, value, _) => {
                let equal = SeccompCmpOp::MaskedEq(*mask);
                vec![SeccompCondition::new(
                    *argument,
                    SeccompCmpArgLen::Qword,
                    equal,
                    *value,
                )?]
            }
        };
        all = all
            .iter()
            .flat_map(|before| {
                conditions.iter().map(|condition| {
                    let mut together: Vec<SeccompCondition> = before.clone();
                    together.push(condition.clone());
                    together
                })
            })
            .collect();
    }
    Ok(all)
}
