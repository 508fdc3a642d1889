//! From a policy to the kernel's filter: classic BPF over `struct seccomp_data`.
//!
//! Called by [`crate::launch`] with a policy. The program first tells the architecture apart and
//! then finds the call's number by bisection over ranges of numbers with the same verdict; a leaf
//! compares arguments if it has to and returns.

use super::{Action, Comparison, Condition, Policy, Rule, Verdict, Verdicts};

/// Longest program that the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

// Architectures as `seccomp_data.arch` tells them (Linux uapi/linux/audit.h).
const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_I386: u32 = 0x4000_0003;

/// Bit that marks the x32 architecture's calls, which share the value of x86-64. The guest's kernel
/// has none of them.
const X32: u32 = 0x4000_0000;

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

// Operation codes (Linux uapi/linux/bpf_common.h).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// One instruction, `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u16,
    /// How many instructions to skip when a comparison holds.
    if_true: u8,
    /// How many to skip when it does not.
    if_false: u8,
    operand: u32,
}

/// A filter ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
    flags: u32,
}

/// A policy whose program the kernel would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("seccomp filter of {0} instructions, the kernel's limit is {MAX_INSTRUCTIONS}")]
pub struct TooLong(usize);

impl Program {
    /// Compiles a policy.
    ///
    /// # Errors
    /// [`TooLong`]
    pub fn new(policy: &Policy) -> Result<Self, TooLong> {
        let mut native = vec![
            plain(LOAD, NUMBER),
            branch(JUMP_GREATER_OR_EQUAL, X32, 0, 1),
            answer(Action::NO_SUCH_CALL),
        ];
        native.extend(bisect(
            &ranges(&policy.x86_64, policy.default),
            policy.default,
        ));

        let mut instructions = vec![plain(LOAD, ARCH), branch(JUMP_EQUAL, ARCH_X86_64, 1, 0)];
        instructions.push(skip(native.len()));
        instructions.extend(native);
        if let Some(verdicts) = &policy.i386 {
            instructions.push(branch(JUMP_EQUAL, ARCH_I386, 1, 0));
            instructions.push(answer(Action::KILL_THREAD));
            instructions.push(plain(LOAD, NUMBER));
            instructions.extend(bisect(&ranges(verdicts, policy.default), policy.default));
        } else {
            instructions.push(answer(Action::KILL_THREAD));
        }
        if instructions.len() > MAX_INSTRUCTIONS {
            return Err(TooLong(instructions.len()));
        }
        Ok(Self {
            instructions,
            flags: policy.flags,
        })
    }

    pub(super) fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    pub(super) fn flags(&self) -> u32 {
        self.flags
    }

    /// Code, distances when a comparison holds and when it does not, and operand of each
    /// instruction: for fuzzing.
    #[cfg(any(test, feature = "fuzz"))]
    pub fn rows(&self) -> impl Iterator<Item = (u16, u8, u8, u32)> + '_ {
        self.instructions
            .iter()
            .map(|one| (one.code, one.if_true, one.if_false, one.operand))
    }
}

/// A range of numbers: its first one, and what happens up to the next range.
type Range<'a> = (u32, Leaf<'a>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf<'a> {
    Plain(Action),
    Checked(&'a [Rule]),
}

/// Numbers with the same verdict side by side become one range. Above the last listed number a
/// policy that refuses says that there is no such call, which is what programs expect of a kernel
/// older than they are.
fn ranges(verdicts: &Verdicts, default: Action) -> Vec<Range<'_>> {
    let above = if default.lets_through() {
        default
    } else {
        Action::NO_SUCH_CALL
    };
    let leaves = verdicts
        .iter()
        .map(|verdict| match verdict {
            Verdict::Unlisted => Leaf::Plain(default),
            Verdict::Plain(action) => Leaf::Plain(*action),
            Verdict::Checked(rules) => Leaf::Checked(rules),
        })
        .chain([Leaf::Plain(above)]);
    let mut ranges: Vec<Range<'_>> = Vec::new();
    for (number, leaf) in (0_u32..).zip(leaves) {
        if ranges.last().is_none_or(|(_, last)| *last != leaf) {
            ranges.push((number, leaf));
        }
    }
    ranges
}

fn bisect(ranges: &[Range<'_>], default: Action) -> Vec<Instruction> {
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let Some((first, leaf)) = high.first() else {
        return vec![answer(default)];
    };
    if low.is_empty() {
        return match leaf {
            Leaf::Plain(action) => vec![answer(*action)],
            Leaf::Checked(rules) => check(rules, default),
        };
    }
    let low = bisect(low, default);
    let mut code = match u8::try_from(low.len()) {
        Ok(len) => vec![branch(JUMP_GREATER_OR_EQUAL, *first, len, 0)],
        Err(_) => vec![branch(JUMP_GREATER_OR_EQUAL, *first, 0, 1), skip(low.len())],
    };
    code.extend(low);
    code.extend(bisect(high, default));
    code
}

fn check(rules: &[Rule], default: Action) -> Vec<Instruction> {
    let mut code = Vec::new();
    for rule in rules {
        code.extend(check_rule(rule));
    }
    code.push(answer(default));
    code
}

/// Where a step of a comparison leads.
#[derive(Clone, Copy)]
enum To {
    Next,
    /// The condition holds: to the next condition.
    Holds,
    /// It does not: to the next rule.
    Fails,
}

/// A comparison's step, before the distances are known.
struct Step {
    code: u16,
    operand: u32,
    if_true: To,
    if_false: To,
}

/// At most six conditions of six steps, so that every distance fits its byte.
fn check_rule(rule: &Rule) -> Vec<Instruction> {
    let conditions: Vec<Vec<Step>> = rule.conditions.iter().map(steps).collect();
    let total: usize = conditions.iter().map(Vec::len).sum();
    let mut code: Vec<Instruction> = Vec::with_capacity(total + 1);
    let mut end = 0;
    for condition in conditions {
        end += condition.len();
        for step in condition {
            let behind = code.len() + 1;
            let distance = |to| {
                let target = match to {
                    To::Next => behind,
                    To::Holds => end,
                    To::Fails => total + 1,
                };
                u8::try_from(target.saturating_sub(behind)).unwrap_or(u8::MAX)
            };
            code.push(branch(
                step.code,
                step.operand,
                distance(step.if_true),
                distance(step.if_false),
            ));
        }
    }
    code.push(answer(rule.action));
    code
}

/// Compares the halves of a 64-bit argument, the upper one first.
fn steps(condition: &Condition) -> Vec<Step> {
    use To::{Fails, Holds, Next};
    let step = |code, operand, if_true, if_false| Step {
        code,
        operand,
        if_true,
        if_false,
    };
    let offset = ARGUMENTS + 8 * u32::from(condition.argument);
    let load_low = step(LOAD, offset, Next, Next);
    let load_high = step(LOAD, offset + 4, Next, Next);
    let (high, low) = halves(condition.value);
    match condition.comparison {
        Comparison::Equal => vec![
            load_high,
            step(JUMP_EQUAL, high, Next, Fails),
            load_low,
            step(JUMP_EQUAL, low, Next, Fails),
        ],
        Comparison::NotEqual => vec![
            load_high,
            step(JUMP_EQUAL, high, Next, Holds),
            load_low,
            step(JUMP_EQUAL, low, Fails, Next),
        ],
        Comparison::Masked(mask) => {
            let (mask_high, mask_low) = halves(mask);
            vec![
                load_high,
                step(AND, mask_high, Next, Next),
                step(JUMP_EQUAL, high, Next, Fails),
                load_low,
                step(AND, mask_low, Next, Next),
                step(JUMP_EQUAL, low, Next, Fails),
            ]
        }
        Comparison::Greater | Comparison::GreaterOrEqual => {
            let last = match condition.comparison {
                Comparison::Greater => JUMP_GREATER,
                _ => JUMP_GREATER_OR_EQUAL,
            };
            vec![
                load_high,
                step(JUMP_GREATER, high, Holds, Next),
                step(JUMP_EQUAL, high, Next, Fails),
                load_low,
                step(last, low, Next, Fails),
            ]
        }
        Comparison::Less | Comparison::LessOrEqual => {
            let last = match condition.comparison {
                Comparison::Less => JUMP_GREATER_OR_EQUAL,
                _ => JUMP_GREATER,
            };
            vec![
                load_high,
                step(JUMP_GREATER, high, Fails, Next),
                step(JUMP_EQUAL, high, Next, Holds),
                load_low,
                step(last, low, Fails, Next),
            ]
        }
    }
}

/// The upper and the lower half.
#[allow(clippy::cast_possible_truncation)] // splitting is the purpose
fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

fn branch(code: u16, operand: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction {
        code,
        if_true,
        if_false,
        operand,
    }
}

fn plain(code: u16, operand: u32) -> Instruction {
    branch(code, operand, 0, 0)
}

/// A jump over `count` instructions. Programs are far shorter than its operand can say.
fn skip(count: usize) -> Instruction {
    plain(JUMP, u32::try_from(count).unwrap_or(u32::MAX))
}

fn answer(action: Action) -> Instruction {
    plain(RETURN, action.0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::seccomp::table;

    /// Which architecture a test's call comes from.
    #[derive(Debug, Clone, Copy)]
    pub(in crate::seccomp) enum Machine {
        X86_64,
        I386,
        X32,
        Other,
    }

    /// Runs a program on a call given by number, as the kernel would.
    pub(in crate::seccomp) fn verdict_of_number(
        program: &Program,
        machine: Machine,
        number: u32,
        arguments: &[u64],
    ) -> Action {
        let (arch, number) = match machine {
            Machine::X86_64 => (ARCH_X86_64, number),
            Machine::I386 => (ARCH_I386, number),
            Machine::X32 => (ARCH_X86_64, number | X32),
            Machine::Other => (0xc000_00b7, number),
        };
        let mut data = vec![number, arch, 0, 0];
        for index in 0..6 {
            let (high, low) = halves(arguments.get(index).copied().unwrap_or_default());
            data.extend([low, high]);
        }
        let mut accumulator = 0;
        let mut next = 0;
        loop {
            let one = program.instructions[next];
            next += 1;
            let holds = match one.code {
                LOAD => {
                    accumulator = data[usize::try_from(one.operand / 4).unwrap()];
                    continue;
                }
                AND => {
                    accumulator &= one.operand;
                    continue;
                }
                JUMP => {
                    next += usize::try_from(one.operand).unwrap();
                    continue;
                }
                RETURN => return Action(one.operand),
                JUMP_EQUAL => accumulator == one.operand,
                JUMP_GREATER => accumulator > one.operand,
                JUMP_GREATER_OR_EQUAL => accumulator >= one.operand,
                other => panic!("unknown operation {other:#x}"),
            };
            next += usize::from(if holds { one.if_true } else { one.if_false });
        }
    }

    /// The same for a call given by name.
    pub(in crate::seccomp) fn verdict(
        program: &Program,
        machine: Machine,
        name: &str,
        arguments: &[u64],
    ) -> Action {
        let row = table::row(name).unwrap();
        let number = match machine {
            Machine::I386 => row.2,
            _ => row.1,
        };
        assert_ne!(number, table::ABSENT, "{name}");
        verdict_of_number(program, machine, number.into(), arguments)
    }

    #[test]
    fn every_comparison_is_right_around_both_halves() {
        let interesting = [
            0,
            1,
            7,
            0xffff_ffff,
            0x1_0000_0000,
            0x1_0000_0001,
            0x7_ffff_ffff,
            u64::MAX - 1,
            u64::MAX,
        ];
        type Reference = fn(u64, u64) -> bool;
        let comparisons: [(Comparison, Reference); 7] = [
            (Comparison::Equal, |a, b| a == b),
            (Comparison::NotEqual, |a, b| a != b),
            (Comparison::Less, |a, b| a < b),
            (Comparison::LessOrEqual, |a, b| a <= b),
            (Comparison::Greater, |a, b| a > b),
            (Comparison::GreaterOrEqual, |a, b| a >= b),
            (Comparison::Masked(0x1_0000_0007), |a, b| {
                a & 0x1_0000_0007 == b
            }),
        ];
        for (comparison, reference) in comparisons {
            for value in interesting {
                for argument in [0, 5] {
                    let mut policy = Policy::new(Action::NO_PERMISSION, false, 0);
                    let conditions = vec![Condition {
                        argument,
                        comparison,
                        value,
                    }];
                    let action = Action::ALLOW;
                    let rule = Rule { conditions, action };
                    policy.add(table::row("read").unwrap(), &rule);
                    let program = Program::new(&policy).unwrap();
                    for given in interesting {
                        let mut arguments = [0x55; 6];
                        arguments[usize::from(argument)] = given;
                        let got = verdict(&program, Machine::X86_64, "read", &arguments);
                        let want = reference(given, value);
                        assert_eq!(got == action, want, "{given:#x} {comparison:?} {value:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_number_gets_its_own_verdict() {
        let mut policy = Policy::new(Action::KILL_PROCESS, true, 0);
        for row in &table::TABLE {
            let errno = if row.1 == table::ABSENT { row.2 } else { row.1 };
            let action = Action::errno(errno);
            let conditions = Vec::new();
            policy.add(row, &Rule { conditions, action });
        }
        let program = Program::new(&policy).unwrap();
        for row in &table::TABLE {
            for (machine, number) in [(Machine::X86_64, row.1), (Machine::I386, row.2)] {
                if number == table::ABSENT {
                    continue;
                }
                let want = if row.1 == table::ABSENT { row.2 } else { row.1 };
                let got = verdict_of_number(&program, machine, number.into(), &[]);
                assert_eq!(got, Action::errno(want), "{} {machine:?}", row.0);
            }
        }
        assert!(program.instructions().len() < MAX_INSTRUCTIONS);
    }

    #[test]
    fn other_architectures_are_no_way_around() {
        let mut policy = Policy::new(Action::NO_PERMISSION, false, 0);
        let conditions = Vec::new();
        let action = Action::ALLOW;
        policy.add(table::row("read").unwrap(), &Rule { conditions, action });
        let program = Program::new(&policy).unwrap();
        let on = |machine| verdict(&program, machine, "read", &[]);
        assert_eq!(on(Machine::X86_64), Action::ALLOW);
        assert_eq!(on(Machine::X32), Action::NO_SUCH_CALL);
        assert_eq!(on(Machine::I386), Action::KILL_THREAD);
        assert_eq!(on(Machine::Other), Action::KILL_THREAD);
    }

    #[test]
    fn a_policy_without_rules_still_answers() {
        for (default, above) in [
            (Action::NO_PERMISSION, Action::NO_SUCH_CALL),
            (Action::ALLOW, Action::ALLOW),
            (Action::LOG, Action::LOG),
            (Action::trace(7), Action::trace(7)),
        ] {
            let program = Program::new(&Policy::new(default, true, 0)).unwrap();
            for machine in [Machine::X86_64, Machine::I386] {
                assert_eq!(verdict_of_number(&program, machine, 99_999, &[]), above);
            }
        }
    }

    #[test]
    fn a_program_beyond_the_kernels_limit_is_refused() {
        let mut policy = Policy::new(Action::NO_PERMISSION, false, 0);
        for value in 0..2000 {
            let conditions = vec![Condition {
                argument: 0,
                comparison: Comparison::Equal,
                value,
            }];
            let action = Action::ALLOW;
            policy.add(table::row("read").unwrap(), &Rule { conditions, action });
        }
        assert!(matches!(Program::new(&policy), Err(TooLong(len)) if len > MAX_INSTRUCTIONS));
    }
}
