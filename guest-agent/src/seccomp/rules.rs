//! Docker's default profile as rules of the OCI runtime specification, for a plain container.
//!
//! Called by [`crate::plain`]. The same table as [`super::default`], which makes a filter of it for a
//! guest's kernel.

use protocol::plain::{FilterRule, FirstArgument};
use rustix::thread::CapabilitySet;

use super::default::{AF_VSOCK, NAMESPACE_FLAGS, PERSONALITIES};
use super::table::{Allowed, TABLE};

/// The rules for a process that may have `capabilities`; what has none is refused.
#[must_use]
pub fn docker_default(capabilities: CapabilitySet) -> Vec<FilterRule> {
    let admin = capabilities.contains(CapabilitySet::SYS_ADMIN);
    let mut rules = Vec::new();
    for (name, _, _, allowed) in &TABLE {
        let mut put = |allow, first| {
            rules.push(FilterRule {
                name: (*name).to_owned(),
                allow,
                first,
            });
        };
        match *allowed {
            Allowed::Always => put(true, None),
            Allowed::With(unlocking) if capabilities.intersects(unlocking) => put(true, None),
            Allowed::Never | Allowed::With(_) => {}
            Allowed::Socket => put(true, Some(FirstArgument::NotEqual(AF_VSOCK))),
            Allowed::Personality => {
                for value in PERSONALITIES {
                    put(true, Some(FirstArgument::Equal(value)));
                }
            }
            Allowed::Clone | Allowed::Clone3 if admin => put(true, None),
            Allowed::Clone => put(true, Some(FirstArgument::Without(NAMESPACE_FLAGS))),
            Allowed::Clone3 => put(false, None),
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_those_of_the_table() {
        let rules = docker_default(CapabilitySet::empty());
        let of = |name: &str| {
            let rules = rules.iter().filter(|rule| rule.name == name);
            rules.cloned().collect::<Vec<_>>()
        };
        assert_eq!(of("read").len(), 1);
        assert!(of("mount").is_empty() && of("bpf").is_empty());
        assert_eq!(of("personality").len(), PERSONALITIES.len());
        assert!(!of("clone3")[0].allow);
        assert_eq!(
            of("clone")[0].first,
            Some(FirstArgument::Without(NAMESPACE_FLAGS))
        );
        let admin = docker_default(CapabilitySet::SYS_ADMIN);
        assert!(admin.iter().any(|rule| rule.name == "mount"));
    }
}
