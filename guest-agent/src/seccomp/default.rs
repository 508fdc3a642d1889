//! Docker's default profile as a policy.
//!
//! Called through [`Policy::docker_default`]. What is listed is in [`super::table`]; here are the
//! rules that look at arguments.

use rustix::thread::CapabilitySet;

use super::table::{Allowed, TABLE};
use super::{Action, Comparison, Condition, FLAG_SPEC_ALLOW, Policy, Rule};

/// Address family of vsock.
pub(super) const AF_VSOCK: u64 = 40;

/// Flags of `clone` that make namespaces: `CLONE_NEWNS` to `CLONE_NEWNET` and `CLONE_NEWCGROUP`.
pub(super) const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the question what is set.
pub(super) const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

pub(super) fn policy(capabilities: CapabilitySet) -> Policy {
    let admin = capabilities.contains(CapabilitySet::SYS_ADMIN);
    let allow = Rule {
        conditions: Vec::new(),
        action: Action::ALLOW,
    };
    let mut policy = Policy::new(Action::NO_PERMISSION, true, FLAG_SPEC_ALLOW);
    for row in &TABLE {
        match row.3 {
            Allowed::Always => policy.add(row, &allow),
            Allowed::With(unlocking) if capabilities.intersects(unlocking) => {
                policy.add(row, &allow);
            }
            Allowed::Never | Allowed::With(_) => {}
            Allowed::Socket => {
                policy.add(row, &allow_if(Comparison::NotEqual, AF_VSOCK));
            }
            Allowed::Personality => {
                for value in PERSONALITIES {
                    policy.add(row, &allow_if(Comparison::Equal, value));
                }
            }
            Allowed::Clone | Allowed::Clone3 if admin => policy.add(row, &allow),
            Allowed::Clone => {
                policy.add(row, &allow_if(Comparison::Masked(NAMESPACE_FLAGS), 0));
            }
            Allowed::Clone3 => policy.add(
                row,
                &Rule {
                    conditions: Vec::new(),
                    action: Action::NO_SUCH_CALL,
                },
            ),
        }
    }
    policy
}

/// Allows a call whose first argument compares so.
fn allow_if(comparison: Comparison, value: u64) -> Rule {
    Rule {
        conditions: vec![Condition {
            argument: 0,
            comparison,
            value,
        }],
        action: Action::ALLOW,
    }
}

#[cfg(test)]
mod tests {
    use super::super::filter::tests::{Machine, verdict, verdict_of_number};
    use super::super::{Program, table};
    use super::*;

    /// Docker's default capabilities.
    const DEFAULT: CapabilitySet = CapabilitySet::from_bits_retain(0xa804_25fb);

    fn program(capabilities: CapabilitySet) -> Program {
        Program::new(&policy(capabilities)).unwrap()
    }

    fn allows(program: &Program, name: &str, arguments: &[u64]) -> bool {
        verdict(program, Machine::X86_64, name, arguments) == Action::ALLOW
    }

    #[test]
    fn a_plain_container_may_what_docker_lets_it() {
        let program = program(DEFAULT);
        for name in [
            "read", "execve", "fork", "ptrace", "chroot", "io_setup", "mseal", "mknod",
        ] {
            assert!(allows(&program, name, &[]), "{name}");
        }
        let refused = "mount umount2 unshare setns bpf keyctl add_key request_key reboot \
            init_module finit_module kexec_load io_uring_setup userfaultfd perf_event_open \
            open_by_handle_at syslog settimeofday clock_settime swapon pivot_root sethostname \
            iopl ioperm acct quotactl fsopen move_mount open_tree vhangup nfsservctl";
        for name in refused.split_whitespace() {
            let got = verdict(&program, Machine::X86_64, name, &[]);
            assert_eq!(got, Action::NO_PERMISSION, "{name}");
        }
    }

    #[test]
    fn vsock_is_refused_and_other_families_are_not() {
        for capabilities in [DEFAULT, CapabilitySet::all()] {
            let program = program(capabilities);
            for machine in [Machine::X86_64, Machine::I386] {
                let on = |family| verdict(&program, machine, "socket", &[family, 1, 0]);
                assert_eq!(on(AF_VSOCK), Action::NO_PERMISSION);
                for family in [1, 2, 10, 16, 17, 39, 41] {
                    assert_eq!(on(family), Action::ALLOW, "{family}");
                }
            }
        }
    }

    #[test]
    fn clone_makes_threads_but_no_namespaces() {
        let plain = program(DEFAULT);
        let thread = 0x003d_0f00;
        assert!(allows(&plain, "clone", &[thread]));
        for namespace in [
            1 << 17,
            1 << 25,
            1 << 26,
            1 << 27,
            1 << 28,
            1 << 29,
            1 << 30,
        ] {
            assert!(!allows(&plain, "clone", &[thread | namespace]));
        }
        assert_eq!(
            verdict(&plain, Machine::X86_64, "clone3", &[]),
            Action::NO_SUCH_CALL
        );
        let admin = program(DEFAULT | CapabilitySet::SYS_ADMIN);
        assert!(allows(&admin, "clone", &[1 << 29]) && allows(&admin, "clone3", &[]));
        assert!(allows(&admin, "mount", &[]) && allows(&admin, "bpf", &[]));
        assert!(!allows(&admin, "reboot", &[]));
    }

    #[test]
    fn personality_is_limited_to_harmless_values() {
        let program = program(DEFAULT);
        for value in PERSONALITIES {
            assert!(allows(&program, "personality", &[value]));
        }
        for value in [0x0040_0000, 1, 0x1_0000_0000] {
            assert!(!allows(&program, "personality", &[value]), "{value:#x}");
        }
    }

    #[test]
    fn each_capability_unlocks_its_calls() {
        let table = [
            (CapabilitySet::SYS_TIME, "settimeofday"),
            (CapabilitySet::SYS_MODULE, "init_module"),
            (CapabilitySet::SYS_PTRACE, "kcmp"),
            (CapabilitySet::BPF, "bpf"),
            (CapabilitySet::PERFMON, "perf_event_open"),
            (CapabilitySet::SYSLOG, "syslog"),
            (CapabilitySet::SYS_RAWIO, "iopl"),
            (CapabilitySet::SYS_NICE, "mbind"),
            (CapabilitySet::DAC_READ_SEARCH, "open_by_handle_at"),
            (CapabilitySet::SYS_BOOT, "reboot"),
            (CapabilitySet::SYS_CHROOT, "chroot"),
            (CapabilitySet::SYS_TTY_CONFIG, "vhangup"),
            (CapabilitySet::SYS_PACCT, "acct"),
        ];
        let none = program(CapabilitySet::empty());
        for (capability, name) in table {
            assert!(!allows(&none, name, &[]), "{name}");
            assert!(allows(&program(capability), name, &[]), "{name}");
        }
    }

    #[test]
    fn numbers_that_no_kernel_knows_yet_do_not_exist() {
        let program = program(DEFAULT);
        for machine in [Machine::X86_64, Machine::I386] {
            for number in [u32::try_from(table::NUMBERS).unwrap(), 9999, 0x3fff_ffff] {
                let got = verdict_of_number(&program, machine, number, &[]);
                assert_eq!(got, Action::NO_SUCH_CALL);
            }
        }
        assert_eq!(
            verdict(&program, Machine::X32, "read", &[]),
            Action::NO_SUCH_CALL
        );
    }

    #[test]
    fn the_program_stays_small() {
        let len = program(DEFAULT).instructions().len();
        assert!(len < 600, "{len}");
    }
}
