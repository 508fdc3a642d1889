//! System call filters: Docker's default profile, profiles of the user, and the kernel's filter.
//!
//! Called by [`crate::launch`]. [`default`] and [`profile`] make a [`Policy`], [`filter`] turns it
//! into a BPF program, [`load`] gives it to the kernel. It is our own generator and not a crate's,
//! because a filter must speak for both architectures that an image's programs can use (x86-64 and
//! i386), and because its answers must be found by bisection: the kernel runs it once for every
//! call number when it is loaded, which is part of every start.
// seccomp(2) has no safe wrapper.
#![allow(unsafe_code)]

mod default;
mod filter;
mod profile;
mod rules;
mod table;

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

pub use filter::{Program, TooLong};
pub use profile::{Context, ProfileError};
pub use rules::docker_default as docker_default_rules;

/// What the kernel does with a system call: a `SECCOMP_RET_*` value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Action(u32);

// SECCOMP_RET_* (Linux uapi/linux/seccomp.h).
impl Action {
    const KILL_PROCESS: Self = Self(0x8000_0000);
    const KILL_THREAD: Self = Self(0);
    const TRAP: Self = Self(0x0003_0000);
    const LOG: Self = Self(0x7ffc_0000);
    const ALLOW: Self = Self(0x7fff_0000);
    const NO_PERMISSION: Self = Self::errno(1);
    const NO_SUCH_CALL: Self = Self::errno(38);

    const fn errno(number: u16) -> Self {
        Self(0x0005_0000 | number as u32)
    }

    const fn trace(message: u16) -> Self {
        Self(0x7ff0_0000 | message as u32)
    }

    /// Whether a call that nobody listed gets through, so that one which the kernel lacks may too.
    fn lets_through(self) -> bool {
        self == Self::ALLOW || self == Self::LOG || self.0 & 0xffff_0000 == Self::trace(0).0
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal after masking the argument with this.
    Masked(u64),
}

/// One comparison of one argument with a value, both 64 bits wide and unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    /// Which argument, 0 to 5.
    argument: u8,
    comparison: Comparison,
    value: u64,
}

/// An action for the calls whose arguments meet all conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    conditions: Vec<Condition>,
    action: Action,
}

/// What happens to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// The policy's default.
    Unlisted,
    /// This.
    Plain(Action),
    /// The first rule that matches, the policy's default when none does.
    Checked(Vec<Rule>),
}

/// The verdicts of one architecture by call number, up to the highest number that is listed.
type Verdicts = Vec<Verdict>;

/// A whole policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    default: Action,
    x86_64: Verdicts,
    /// `None`: calls of the 32-bit architecture end the thread.
    i386: Option<Verdicts>,
    flags: u32,
}

// SECCOMP_FILTER_FLAG_* (Linux uapi/linux/seccomp.h).
const FLAG_LOG: u32 = 2;
const FLAG_SPEC_ALLOW: u32 = 4;

impl Policy {
    /// Docker's default profile for a process that may have `capabilities`.
    #[must_use]
    pub fn docker_default(capabilities: CapabilitySet) -> Self {
        default::policy(capabilities)
    }

    /// A profile in Docker's JSON form.
    ///
    /// # Errors
    /// See [`ProfileError`].
    pub fn from_profile(json: &str, context: &Context) -> Result<Self, ProfileError> {
        profile::parse(json, context)
    }

    fn new(default: Action, i386: bool, flags: u32) -> Self {
        Self {
            default,
            x86_64: Vec::new(),
            i386: i386.then(Vec::new),
            flags,
        }
    }

    /// Adds a rule for the call in `row` on each architecture that has it.
    fn add(&mut self, row: &table::Row, rule: &Rule) {
        let tables = [(row.1, Some(&mut self.x86_64)), (row.2, self.i386.as_mut())];
        for (number, table) in tables {
            if let Some(table) = table.filter(|_| number != table::ABSENT) {
                add(table, number.into(), rule.clone());
            }
        }
    }
}

/// An unconditional rule wins over conditional ones wherever it stands; otherwise the first wins.
fn add(table: &mut Verdicts, number: usize, rule: Rule) {
    if table.len() <= number {
        table.resize(number + 1, Verdict::Unlisted);
    }
    let Some(verdict) = table.get_mut(number) else {
        return;
    };
    match verdict {
        Verdict::Plain(_) => {}
        _ if rule.conditions.is_empty() => *verdict = Verdict::Plain(rule.action),
        Verdict::Unlisted => *verdict = Verdict::Checked(vec![rule]),
        Verdict::Checked(rules) => rules.push(rule),
    }
}

/// Puts `program` on this process and all that come from it. Without `no_new_privs` it needs
/// `CAP_SYS_ADMIN`.
///
/// # Errors
/// What `seccomp(2)` says.
pub fn load(program: &Program) -> Result<(), Errno> {
    /// `SECCOMP_SET_MODE_FILTER`
    const SET_MODE_FILTER: libc::c_ulong = 1;
    let instructions = program.instructions();
    let header = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
        filter: instructions.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the header's pointer and length are those of a slice that lives over the call, of
    // instructions with the layout of `struct sock_filter`; the kernel only reads them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            libc::c_ulong::from(program.flags()),
            &raw const header,
        )
    };
    if answer != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}
