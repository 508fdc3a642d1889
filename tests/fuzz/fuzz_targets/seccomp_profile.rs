//! What the agent makes of any seccomp profile. The kernel would take every filter that comes out,
//! and for a profile put together here its answers are those that the profile's rules ask for.
//!
//! ```text
//! input = form, capabilities, then
//!   form % 2 = 0  the profile's text
//!              1  default action, errno; flags; rules: action, errno, calls, arguments;
//!                 behind rule 0xff the calls to ask about: machine, call, arguments
//! ```
#![no_main]

use bulkhead_fuzz::Input;
use guest_agent::seccomp::{Context, Policy, Program};
use libfuzzer_sys::fuzz_target;
use rustix::thread::CapabilitySet;
use serde_json::{Value, json};

const KERNEL: (u32, u32) = (6, 12);

/// Longest program that the kernel takes.
const INSTRUCTIONS_MAX: usize = 4096;

/// Bytes of `struct seccomp_data`.
const DATA_BYTES: u32 = 64;

const RULES_MAX: usize = 64;

type Row = (u16, u8, u8, u32);

// Linux uapi/linux/bpf_common.h.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// As the kernel checks a filter (`bpf_check_classic`, `seccomp_check_filter`).
fn assert_loadable(rows: &[Row]) {
    assert!((1..=INSTRUCTIONS_MAX).contains(&rows.len()));
    for (at, (code, if_true, if_false, operand)) in rows.iter().enumerate() {
        let behind = rows.len() - at - 1;
        match *code {
            LOAD => assert!(*operand < DATA_BYTES && operand.is_multiple_of(4)),
            JUMP => assert!((*operand as usize) < behind),
            JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_OR_EQUAL => {
                assert!(usize::from(*if_true.max(if_false)) < behind);
            }
            AND | RETURN => {}
            other => panic!("code {other:#x}"),
        }
    }
    assert_eq!(rows[rows.len() - 1].0, RETURN);
}

/// What a filter that [`assert_loadable`] answers.
fn run(rows: &[Row], data: &[u8; DATA_BYTES as usize]) -> u32 {
    let (mut at, mut value) = (0, 0_u32);
    loop {
        let (code, if_true, if_false, operand) = rows[at];
        at += 1;
        let holds = match code {
            LOAD => {
                let from = operand as usize;
                value = u32::from_le_bytes(data[from..from + 4].try_into().expect("four bytes"));
                continue;
            }
            AND => {
                value &= operand;
                continue;
            }
            JUMP => {
                at += operand as usize;
                continue;
            }
            RETURN => return operand,
            JUMP_EQUAL => value == operand,
            JUMP_GREATER => value > operand,
            _ => value >= operand,
        };
        at += usize::from(if holds { if_true } else { if_false });
    }
}

fn program(text: &str, capabilities: u8) -> Option<Vec<Row>> {
    // CAP_SYS_ADMIN and its neighbours.
    let capabilities = CapabilitySet::from_bits_truncate(u64::from(capabilities) << 16);
    let context = Context {
        capabilities,
        kernel: KERNEL,
    };
    let policy = Policy::from_profile(text, &context).ok()?;
    let rows: Vec<Row> = Program::new(&policy).ok()?.rows().collect();
    assert_loadable(&rows);
    Some(rows)
}

/// Name, and number on x86-64 and i386.
const CALLS: [(&str, Option<u32>, Option<u32>); 12] = [
    ("read", Some(0), Some(3)),
    ("write", Some(1), Some(4)),
    ("open", Some(2), Some(5)),
    ("ioctl", Some(16), Some(54)),
    ("socket", Some(41), Some(359)),
    ("personality", Some(135), Some(136)),
    ("arch_prctl", Some(158), Some(384)),
    ("openat", Some(257), Some(295)),
    ("statx", Some(332), Some(383)),
    ("clone3", Some(435), Some(435)),
    ("mmap2", None, Some(192)),
    ("no_such_call", None, None),
];

const ACTIONS: [(&str, u32); 8] = [
    ("SCMP_ACT_ALLOW", 0x7fff_0000),
    ("SCMP_ACT_ERRNO", 0x0005_0000),
    ("SCMP_ACT_KILL", 0),
    ("SCMP_ACT_KILL_THREAD", 0),
    ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
    ("SCMP_ACT_TRAP", 0x0003_0000),
    ("SCMP_ACT_LOG", 0x7ffc_0000),
    ("SCMP_ACT_TRACE", 0x7ff0_0000),
];

const ENOSYS: u32 = 0x0005_0000 | 38;

const COMPARISONS: [&str; 7] = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];

struct Argument {
    index: usize,
    comparison: usize,
    value: u64,
    value_two: u64,
}

impl Argument {
    fn holds(&self, arguments: &[u64; 6]) -> bool {
        let argument = arguments[self.index];
        match self.comparison {
            0 => argument != self.value,
            1 => argument < self.value,
            2 => argument <= self.value,
            3 => argument == self.value,
            4 => argument >= self.value,
            5 => argument > self.value,
            _ => argument & self.value == self.value_two,
        }
    }
}

struct Rule {
    action: u32,
    calls: Vec<usize>,
    arguments: Vec<Argument>,
}

impl Rule {
    /// Conditions on one argument are each a rule of its own, as with runc.
    fn holds(&self, arguments: &[u64; 6]) -> bool {
        let mut indexes: Vec<_> = self.arguments.iter().map(|one| one.index).collect();
        indexes.sort_unstable();
        indexes.dedup();
        let mut held = self.arguments.iter().map(|one| one.holds(arguments));
        if indexes.len() < self.arguments.len() {
            held.any(|holds| holds)
        } else {
            held.all(|holds| holds)
        }
    }
}

struct Profile {
    default: u32,
    with_i386: bool,
    rules: Vec<Rule>,
}

/// Numbers that lie next to each other, in either half.
fn number(input: &mut Input) -> u64 {
    let byte = input.byte();
    let small = u64::from(byte & 7);
    match byte >> 3 & 7 {
        0..=2 => small,
        3 => small << 32,
        4 => small << 32 | 1,
        5 => u64::MAX - small,
        6 => u64::from(u32::MAX) - small,
        _ => u64::from(input.word()) << 32 | u64::from(input.word()),
    }
}

fn action(input: &mut Input) -> (&'static str, u16, u32) {
    let (name, value) = ACTIONS[usize::from(input.byte()) % ACTIONS.len()];
    let errno = u16::from(input.byte());
    let takes_it = matches!(name, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE");
    let value = value | if takes_it { u32::from(errno) } else { 0 };
    (name, errno, value)
}

fn rule(input: &mut Input, shape: u8) -> (Rule, Value) {
    let (name, errno, action) = action(input);
    let calls: Vec<_> = (0..=shape % 3)
        .map(|_| usize::from(input.byte()) % CALLS.len())
        .collect();
    let mut arguments = Vec::new();
    for _ in 0..shape / 3 % 8 {
        let selector = usize::from(input.byte());
        arguments.push(Argument {
            index: selector % 6,
            comparison: selector / 6 % COMPARISONS.len(),
            value: number(input),
            value_two: number(input),
        });
    }
    let text = json!({
        "names": calls.iter().map(|call| CALLS[*call].0).collect::<Vec<_>>(),
        "action": name,
        "errnoRet": errno,
        "args": arguments.iter().map(|one| json!({
            "index": one.index,
            "value": one.value,
            "valueTwo": one.value_two,
            "op": COMPARISONS[one.comparison],
        })).collect::<Vec<_>>(),
    });
    let rule = Rule {
        action,
        calls,
        arguments,
    };
    (rule, text)
}

fn profile(input: &mut Input) -> (Profile, String) {
    let (name, errno, default) = action(input);
    let with_i386 = input.byte() & 1 == 1;
    let (mut rules, mut texts) = (Vec::new(), Vec::new());
    while rules.len() < RULES_MAX && !input.is_empty() {
        let shape = input.byte();
        if shape == 0xff {
            break;
        }
        let (rule, text) = rule(input, shape);
        rules.push(rule);
        texts.push(text);
    }
    let mut architectures = vec!["SCMP_ARCH_X86_64"];
    if with_i386 {
        architectures.push("SCMP_ARCH_X86");
    }
    let text = json!({
        "defaultAction": name,
        "defaultErrnoRet": errno,
        "architectures": architectures,
        "syscalls": texts,
    });
    let profile = Profile {
        default,
        with_i386,
        rules,
    };
    (profile, text.to_string())
}

impl Profile {
    /// What is to happen to a call of a machine that the profile covers.
    fn expected(&self, is_i386: bool, number: u32, arguments: &[u64; 6]) -> u32 {
        let number_of = |call: &usize| {
            let (_, native, i386) = CALLS[*call];
            if is_i386 { i386 } else { native }
        };
        // A rule that says what happens anyway is none.
        let rules = || self.rules.iter().filter(|rule| rule.action != self.default);
        let listed = rules().flat_map(|rule| rule.calls.iter().filter_map(number_of));
        let lets_through = matches!(self.default, 0x7fff_0000 | 0x7ffc_0000)
            || self.default & 0xffff_0000 == 0x7ff0_0000;
        if listed.max().is_none_or(|last| number > last) {
            return if lets_through { self.default } else { ENOSYS };
        }
        let named = |rule: &&Rule| {
            let mut numbers = rule.calls.iter().filter_map(number_of);
            numbers.any(|one| one == number)
        };
        let always = rules().filter(named).find(|rule| rule.arguments.is_empty());
        let rule = always.or_else(|| rules().filter(named).find(|rule| rule.holds(arguments)));
        rule.map_or(self.default, |rule| rule.action)
    }
}

fn ask(input: &mut Input, profile: &Profile, rows: &[Row]) {
    let selector = input.byte();
    let (_, native, i386) = CALLS[usize::from(input.byte()) % CALLS.len()];
    let is_i386 = selector & 1 == 1;
    let listed = if is_i386 { i386 } else { native };
    // Numbers next to a listed one are asked about as well.
    let number = listed.unwrap_or(400) + u32::from(selector >> 1 & 1);
    let arguments: [u64; 6] = std::array::from_fn(|_| self::number(input));
    let mut data = [0; DATA_BYTES as usize];
    let arch: u32 = if is_i386 { 0x4000_0003 } else { 0xc000_003e };
    data[..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&arch.to_le_bytes());
    for (place, argument) in data[16..].as_chunks_mut::<8>().0.iter_mut().zip(arguments) {
        *place = argument.to_le_bytes();
    }
    let expected = if is_i386 && !profile.with_i386 {
        0
    } else {
        profile.expected(is_i386, number, &arguments)
    };
    assert_eq!(run(rows, &data), expected, "call {number} {arguments:x?}");
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let (form, capabilities) = (input.byte(), input.byte());
    if form % 2 == 0 {
        if let Ok(text) = std::str::from_utf8(input.rest()) {
            program(text, capabilities);
        }
        return;
    }
    let (profile, text) = profile(&mut input);
    // Many conditions make a program too long.
    let Some(rows) = program(&text, capabilities) else {
        return;
    };
    while !input.is_empty() {
        ask(&mut input, &profile, &rows);
    }
});
