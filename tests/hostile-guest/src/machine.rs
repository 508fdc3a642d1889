//! The machine: its first instructions, ports, memory-mapped I/O in every width, pseudo-random
//! numbers, and the functions on memory that the compiler calls.

use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::fmt::{self, Write};

/// RAM that nothing else uses: rings and buffers. The program lies below, so that what is too long runs
/// over other things.
pub const SCRATCH: u64 = 32 << 20;
/// Its length.
pub const SCRATCH_LEN: u64 = 32 << 20;
/// First address beyond RAM: the tests' 128 MiB and what a VM has for its kernel
/// (`GUEST_OVERHEAD_MIB` of `src/sandbox/launch.rs`).
pub const RAM_END: u64 = (128 + 64) << 20;
/// Register block of the first device.
pub const MMIO_START: u64 = 0xd000_0000;
/// Bytes of a register block.
pub const REGION_LEN: u64 = 0x1000;

/// Command port of the keyboard controller, and what resets there.
pub const RESET_PORT: u16 = 0x64;
const RESET: u32 = 0xfe;
const SERIAL: u16 = 0x3f8;

// Enables SSE, maps 4 GiB one to one in pages of 2 MiB, takes a GDT of its own (low memory is for
// devices to write to), and calls `begin` on a stack of its own.
global_asm!(
    r#"
    .section .text.start, "ax"
    .globl _start
_start:
    cli
    mov rax, cr0
    and ax, 0xfffb
    or ax, 2
    mov cr0, rax
    mov rax, cr4
    or ax, 0x600
    mov cr4, rax
    lea rdi, [rip + page_directories]
    mov rax, 0x83
    mov ecx, 2048
2:  mov [rdi], rax
    add rax, 0x200000
    add rdi, 8
    dec ecx
    jnz 2b
    lea rdi, [rip + page_pointers]
    lea rax, [rip + page_directories]
    or rax, 3
    mov ecx, 4
3:  mov [rdi], rax
    add rax, 0x1000
    add rdi, 8
    dec ecx
    jnz 3b
    lea rdi, [rip + page_root]
    lea rax, [rip + page_pointers]
    or rax, 3
    mov [rdi], rax
    mov cr3, rdi
    lgdt [rip + gdt_pointer]
    lea rsp, [rip + stack_end]
    xor ebp, ebp
    call begin
    hlt

    .section .data
    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .globl gdt_pointer
gdt_pointer:
    .word 31
    .quad gdt

    .section .bss
    .balign 4096
    .globl page_root
page_root: .skip 4096
page_pointers: .skip 4096
page_directories: .skip 16384
    .skip 65536
stack_end:
    .skip 65536
    .globl second_stack_end
second_stack_end:
    "#
);

/// Reads a port in a width of 1, 2 or 4 bytes.
pub fn port_read(port: u16, width: u8) -> u32 {
    let value: u32;
    // SAFETY: port I/O touches no memory of the program.
    unsafe {
        match width {
            1 => asm!("in al, dx", in("dx") port, inout("eax") 0_u32 => value),
            2 => asm!("in ax, dx", in("dx") port, inout("eax") 0_u32 => value),
            _ => asm!("in eax, dx", in("dx") port, out("eax") value),
        }
    }
    value
}

/// Writes a port in a width of 1, 2 or 4 bytes.
pub fn port_write(port: u16, width: u8, value: u32) {
    // SAFETY: as above.
    unsafe {
        match width {
            1 => asm!("out dx, al", in("dx") port, in("eax") value),
            2 => asm!("out dx, ax", in("dx") port, in("eax") value),
            _ => asm!("out dx, eax", in("dx") port, in("eax") value),
        }
    }
}

/// `rep insb` and `rep outsb`: KVM hands many bytes over at once.
pub fn port_strings(port: u16, bytes: u32) {
    // SAFETY: the scratch memory is that long and nobody's.
    unsafe {
        asm!("cld", "rep insb", in("dx") port, inout("rdi") SCRATCH => _, inout("rcx") u64::from(bytes) => _);
        asm!("cld", "rep outsb", in("dx") port, inout("rsi") SCRATCH => _, inout("rcx") u64::from(bytes) => _);
    }
}

/// Reads at an address in a width of 1, 2, 4 or 8 bytes, aligned or not.
pub fn read(address: u64, width: u8) -> u64 {
    let value: u64;
    // SAFETY: all 4 GiB are mapped; what is no RAM is the hypervisor's to answer.
    unsafe {
        match width {
            1 => asm!("movzx eax, byte ptr [{}]", in(reg) address, out("rax") value),
            2 => asm!("movzx eax, word ptr [{}]", in(reg) address, out("rax") value),
            4 => asm!("mov eax, [{}]", in(reg) address, out("rax") value),
            _ => asm!("mov rax, [{}]", in(reg) address, out("rax") value),
        }
    }
    value
}

/// Writes at an address in a width of 1, 2, 4 or 8 bytes, aligned or not.
pub fn write(address: u64, width: u8, value: u64) {
    // SAFETY: as above; callers write to scratch memory and to what is no RAM.
    unsafe {
        match width {
            1 => asm!("mov [{}], al", in(reg) address, in("rax") value),
            2 => asm!("mov [{}], ax", in(reg) address, in("rax") value),
            4 => asm!("mov [{}], eax", in(reg) address, in("rax") value),
            _ => asm!("mov [{}], rax", in(reg) address, in("rax") value),
        }
    }
}

/// Whether what is written at an address is there.
pub fn is_ram(address: u64) -> bool {
    let other = !read(address, 8);
    write(address, 8, other);
    read(address, 8) == other
}

/// Fills memory with a byte.
pub fn fill(address: u64, len: u64, byte: u8) {
    // SAFETY: callers fill scratch memory.
    unsafe {
        asm!("cld", "rep stosb", inout("rdi") address => _, inout("rcx") len => _, in("al") byte);
    }
}

/// Copies bytes to memory.
pub fn put(address: u64, bytes: &[u8]) {
    for (at, byte) in (address..).zip(bytes) {
        write(at, 1, u64::from(*byte));
    }
}

/// Pulls the reset line, for ever.
pub fn reset() -> ! {
    loop {
        port_write(RESET_PORT, 1, RESET);
    }
}

/// Whether a write would reset the machine before its time.
pub fn resets(port: u16, width: u8, value: u32) -> bool {
    port == RESET_PORT && width == 1 && value & 0xff == RESET
}

/// The serial port.
pub struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            port_write(SERIAL, 1, u32::from(byte));
        }
        Ok(())
    }
}

/// Prints a line by the serial port.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::machine::Serial, $($argument)*);
    }};
}

/// xorshift64*: the same seed, the same accesses.
pub struct Random(Cell<u64>);

impl Random {
    /// From any seed.
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    /// The next 64 bits.
    pub fn next(&self) -> u64 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below a bound.
    pub fn below(&self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of these.
    pub fn of<T: Copy>(&self, choices: &[T]) -> T {
        choices[(self.next() % choices.len() as u64) as usize]
    }
}

/// What the compiler calls.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("cld", "rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _);
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("cld", "rep stosb", inout("rdi") to => _, inout("rcx") len => _, in("al") byte as u8);
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, len: usize) -> i32 {
    for at in 0..len {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { (one.add(at).read_volatile(), other.add(at).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}
