//! Which device nodes the container may open and make: a BPF program on its control group.
//!
//! Called by [`crate::container`]. Device nodes are just files that an image can bring or a process
//! with `CAP_MKNOD` can make; this filter is what keeps the VM's raw disks and memory out of reach.
//!
//! The program is written instruction by instruction: a compiler for a dozen comparisons would be
//! larger than they are. It sees `struct bpf_cgroup_dev_ctx`: the access (upper half) and the type
//! (lower half) in one word, then major and minor number.
// bpf(2) has no safe wrapper.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// Kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// `b`
    Block,
    /// `c`
    Char,
}

/// What may be done with a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceAccess(u8);

impl DeviceAccess {
    /// `m`: making a node.
    pub const MKNOD: Self = Self(1);
    /// `rwm`
    pub const ALL: Self = Self(7);

    /// Parses any of the letters `r`, `w`, `m`.
    #[must_use]
    pub fn parse(letters: &str) -> Option<Self> {
        let bits = letters.bytes().try_fold(0, |bits, letter| {
            Some(
                bits | match letter {
                    b'm' => 1,
                    b'r' => 2,
                    b'w' => 4,
                    _ => return None,
                },
            )
        })?;
        (bits != 0).then_some(Self(bits))
    }
}

/// Allows some access to some devices; what no rule allows is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Kind of node.
    pub kind: DeviceKind,
    /// Major number, any if absent.
    pub major: Option<u32>,
    /// Minor number, any if absent.
    pub minor: Option<u32>,
    /// What is allowed.
    pub access: DeviceAccess,
}

/// What every container may do: make any node, open the harmless ones and its terminals.
pub const DEFAULT_RULES: [DeviceRule; 11] = [
    any(DeviceKind::Char),
    any(DeviceKind::Block),
    device(1, 3),
    device(1, 5),
    device(1, 7),
    device(1, 8),
    device(1, 9),
    device(5, 0),
    device(5, 1),
    device(5, 2),
    DeviceRule {
        kind: DeviceKind::Char,
        major: Some(136),
        minor: None,
        access: DeviceAccess::ALL,
    },
];

const fn any(kind: DeviceKind) -> DeviceRule {
    DeviceRule {
        kind,
        major: None,
        minor: None,
        access: DeviceAccess::MKNOD,
    }
}

const fn device(major: u32, minor: u32) -> DeviceRule {
    DeviceRule {
        kind: DeviceKind::Char,
        major: Some(major),
        minor: Some(minor),
        access: DeviceAccess::ALL,
    }
}

/// One instruction, `struct bpf_insn`: the registers are the halves of a byte, low half first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: u32,
}

// Operation codes (Linux uapi/linux/bpf.h and bpf_common.h).
const LOAD_WORD: u8 = 0x61;
const MOVE_32: u8 = 0xbc;
const MOVE_32_IMMEDIATE: u8 = 0xb4;
const AND_32_IMMEDIATE: u8 = 0x54;
const SHIFT_RIGHT_32_IMMEDIATE: u8 = 0x74;
const JUMP_UNEQUAL_32: u8 = 0x5e;
const JUMP_UNEQUAL_32_IMMEDIATE: u8 = 0x56;
const EXIT: u8 = 0x95;

// Registers: 0 holds the verdict, 1 the context and later scratch, 2 the access.
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The program for `rules`.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let op = |code, to: u8, from: u8, offset, immediate| Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    };
    let mut code = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(LOAD_WORD, MAJOR, 1, 4, 0),
        op(LOAD_WORD, MINOR, 1, 8, 0),
        op(MOVE_32, KIND, 2, 0, 0),
        op(AND_32_IMMEDIATE, KIND, 0, 0, 0xffff),
        op(SHIFT_RIGHT_32_IMMEDIATE, 2, 0, 0, 16),
    ];
    for rule in rules {
        let kind = match rule.kind {
            DeviceKind::Block => 1,
            DeviceKind::Char => 2,
        };
        let numbers = [(MAJOR, rule.major), (MINOR, rule.minor)];
        let known = numbers
            .into_iter()
            .filter_map(|(register, number)| number.map(|number| (register, number)));
        let mut checks = vec![
            op(JUMP_UNEQUAL_32_IMMEDIATE, KIND, 0, 0, kind),
            op(MOVE_32, 1, 2, 0, 0),
            op(AND_32_IMMEDIATE, 1, 0, 0, rule.access.0.into()),
            op(JUMP_UNEQUAL_32, 1, 2, 0, 0),
        ];
        checks.extend(
            known.map(|(register, number)| op(JUMP_UNEQUAL_32_IMMEDIATE, register, 0, 0, number)),
        );
        checks.push(op(MOVE_32_IMMEDIATE, 0, 0, 0, 1));
        checks.push(op(EXIT, 0, 0, 0, 0));
        for (behind, instruction) in (0..).zip(checks.iter_mut().rev()) {
            if matches!(
                instruction.code,
                JUMP_UNEQUAL_32 | JUMP_UNEQUAL_32_IMMEDIATE
            ) {
                instruction.offset = behind;
            }
        }
        code.extend(checks);
    }
    code.push(op(MOVE_32_IMMEDIATE, 0, 0, 0, 0));
    code.push(op(EXIT, 0, 0, 0, 0));
    code
}

/// A filter that the kernel has checked.
#[derive(Debug)]
pub struct Filter(OwnedFd);

impl Filter {
    /// Loads the filter of `rules`.
    ///
    /// # Errors
    /// What `bpf(2)` says.
    pub fn load(rules: &[DeviceRule]) -> Result<Self, Errno> {
        let code = program(rules);
        let load = ProgramLoad {
            kind: PROGRAM_CGROUP_DEVICE,
            count: u32::try_from(code.len()).map_err(|_| Errno::TOOBIG)?,
            instructions: code.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            ..ProgramLoad::default()
        };
        let fd = bpf(COMMAND_PROGRAM_LOAD, &load)?;
        // SAFETY: the kernel just returned this descriptor to us and to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Puts it on a cgroup; it holds for every group below as well, and as long as the group lives.
    ///
    /// # Errors
    /// What `bpf(2)` says.
    pub fn attach(&self, cgroup: BorrowedFd<'_>) -> Result<(), Errno> {
        let attach = ProgramAttach {
            target: cgroup.as_raw_fd(),
            program: self.0.as_raw_fd(),
            kind: ATTACH_CGROUP_DEVICE,
            flags: ATTACH_MULTI,
        };
        bpf(COMMAND_PROGRAM_ATTACH, &attach).map(|_| ())
    }
}

// bpf(2): commands, kinds and flags (Linux uapi/linux/bpf.h).
const COMMAND_PROGRAM_LOAD: libc::c_long = 5;
const COMMAND_PROGRAM_ATTACH: libc::c_long = 8;
const PROGRAM_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ATTACH_MULTI: u32 = 2;

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is missing as zero.
#[derive(Debug, Default)]
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// The start of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[derive(Debug)]
#[repr(C)]
struct ProgramAttach {
    target: i32,
    program: i32,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> Result<i32, Errno> {
    // SAFETY: both structures are prefixes of `union bpf_attr` of the length given, and the
    // pointers inside them stay valid over the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    i32::try_from(answer)
        .ok()
        .filter(|answer| *answer >= 0)
        .ok_or_else(|| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program on one access, as the kernel would.
    fn verdict(code: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u32 {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u32; 16];
        let mut next = 0_usize;
        let mut steps = 0;
        while steps < 10_000 {
            steps += 1;
            let one = code[next];
            next += 1;
            let to = usize::from(one.registers & 15);
            let from = usize::from(one.registers >> 4);
            let mut jump = |taken: bool| {
                if taken {
                    next += usize::try_from(one.offset).unwrap();
                }
            };
            match one.code {
                LOAD_WORD => {
                    assert_eq!(from, 1);
                    registers[to] = context[usize::try_from(one.offset).unwrap() / 4];
                }
                MOVE_32 => registers[to] = registers[from],
                MOVE_32_IMMEDIATE => registers[to] = one.immediate,
                AND_32_IMMEDIATE => registers[to] &= one.immediate,
                SHIFT_RIGHT_32_IMMEDIATE => registers[to] >>= one.immediate,
                JUMP_UNEQUAL_32 => jump(registers[to] != registers[from]),
                JUMP_UNEQUAL_32_IMMEDIATE => jump(registers[to] != one.immediate),
                EXIT => return registers[0],
                other => panic!("unknown operation {other:#x}"),
            }
        }
        panic!("the program does not end");
    }

    const BLOCK: u32 = 1;
    const CHAR: u32 = 2;
    const MKNOD: u32 = 1;
    const READ: u32 = 2;
    const READ_WRITE: u32 = 6;

    #[test]
    fn a_container_opens_the_harmless_devices_and_makes_any_node() {
        let code = program(&DEFAULT_RULES);
        for (major, minor) in [
            (1, 3),
            (1, 5),
            (1, 7),
            (1, 8),
            (1, 9),
            (5, 0),
            (5, 1),
            (5, 2),
        ] {
            assert_eq!(verdict(&code, CHAR, READ_WRITE, major, minor), 1);
        }
        assert_eq!(verdict(&code, CHAR, READ_WRITE, 136, 77), 1);
        assert_eq!(verdict(&code, BLOCK, MKNOD, 254, 0), 1);
        assert_eq!(verdict(&code, CHAR, MKNOD, 10, 200), 1);
    }

    #[test]
    fn a_container_opens_no_disk_and_no_memory() {
        let code = program(&DEFAULT_RULES);
        let refused = [
            (BLOCK, 254, 0),
            (BLOCK, 254, 16),
            (BLOCK, 1, 3),
            (CHAR, 1, 1),
            (CHAR, 1, 11),
            (CHAR, 10, 200),
            (CHAR, 10, 229),
            (CHAR, 4, 64),
        ];
        for (kind, major, minor) in refused {
            assert_eq!(
                verdict(&code, kind, READ, major, minor),
                0,
                "{major}:{minor}"
            );
            assert_eq!(verdict(&code, kind, READ | MKNOD, major, minor), 0);
        }
    }

    #[test]
    fn a_rule_allows_its_access_and_no_more() {
        let rule = DeviceRule {
            kind: DeviceKind::Char,
            major: Some(10),
            minor: Some(229),
            access: DeviceAccess::parse("r").unwrap(),
        };
        let code = program(&[rule]);
        assert_eq!(verdict(&code, CHAR, READ, 10, 229), 1);
        assert_eq!(verdict(&code, CHAR, READ_WRITE, 10, 229), 0);
        assert_eq!(verdict(&code, CHAR, READ, 10, 230), 0);
        assert_eq!(verdict(&program(&[]), CHAR, READ, 1, 3), 0);
    }

    #[test]
    fn access_letters() {
        assert_eq!(DeviceAccess::parse("rwm"), Some(DeviceAccess::ALL));
        assert_eq!(DeviceAccess::parse("mm"), Some(DeviceAccess::MKNOD));
        for bad in ["", "x", "rw ", "RW"] {
            assert_eq!(DeviceAccess::parse(bad), None);
        }
    }
}
