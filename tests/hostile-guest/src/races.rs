//! Two vCPUs at the same queues: one writes rings, buffers and registers while the other kicks.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::machine::{RAM_END, Random, SCRATCH, put, write};
use crate::say;
use crate::virtio::{Device, NEXT, Queue, WRITE};

/// Page of real mode where the second vCPU begins (SDM volume 3A, section 9.4.4).
const START_PAGE: u64 = 0x8;

/// Where it finds the page tables and, 8 bytes on, the GDT's limit and address.
const PLACES: u64 = 0x7000;

/// Local APIC: interrupt command register.
const APIC_COMMAND: u64 = 0xfee0_0300;
const APIC_TARGET: u64 = 0xfee0_0310;

/// How often the second vCPU went round; it ends when the first bit of [`STOP`] is set.
static ROUNDS: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicU64 = AtomicU64::new(0);

/// Base of the device that is raced for, and the number of its queues.
static BASE: AtomicU64 = AtomicU64::new(0);

const BUFFERS: u64 = SCRATCH + (2 << 20);

// From real mode to long mode with the first vCPU's page tables and GDT, which it finds at PLACES.
global_asm!(
    r#"
    .section .text.trampoline, "ax"
    .code16
    .globl trampoline
trampoline:
    cli
    xor ax, ax
    mov ds, ax
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov eax, dword ptr [0x7000]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    and eax, 0xfffffffb
    or eax, 0x80000003
    mov cr0, eax
    lgdtd [0x7008]
    .byte 0x66, 0xea
    .long second_cpu_start
    .word 0x10
    .globl trampoline_end
trampoline_end:
    .code64
second_cpu_start:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    lea rsp, [rip + second_stack_end]
    xor ebp, ebp
    call second_cpu
    hlt
    "#
);

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
    static page_root: u8;
    static gdt: u8;
}

/// Starts the second vCPU: INIT, then a start-up message, as the MP specification has it.
fn start_second() -> bool {
    let (from, to) = (&raw const trampoline, &raw const trampoline_end);
    // SAFETY: the linker puts both around the same few instructions.
    let code = unsafe { core::slice::from_raw_parts(from, to.offset_from_unsigned(from)) };
    put(START_PAGE << 12, code);
    write(PLACES, 8, (&raw const page_root).addr() as u64);
    write(PLACES + 8, 2, 31);
    write(PLACES + 10, 4, (&raw const gdt).addr() as u64);
    for command in [0x4500, 0x4600 | START_PAGE, 0x4600 | START_PAGE] {
        write(APIC_TARGET, 4, 1 << 24);
        write(APIC_COMMAND, 4, command);
        for _ in 0..2000 {
            crate::machine::port_read(0x80, 1);
            if ROUNDS.load(Ordering::Acquire) > 0 {
                return true;
            }
        }
    }
    false
}

/// What the second vCPU does: descriptors, indices and registers, at random.
#[unsafe(no_mangle)]
extern "C" fn second_cpu() -> ! {
    let random = Random::new(77);
    while STOP.load(Ordering::Acquire) == 0 {
        ROUNDS.fetch_add(1, Ordering::AcqRel);
        let base = BASE.load(Ordering::Acquire);
        if base == 0 {
            continue;
        }
        let rings = SCRATCH + random.below(4) * 0x10000;
        for _ in 0..256 {
            let descriptor = rings + random.below(16) * 16;
            match random.below(8) {
                0 => write(
                    descriptor,
                    8,
                    random.of(&[BUFFERS, RAM_END - 8, u64::MAX, rings]),
                ),
                1 => write(
                    descriptor + 8,
                    4,
                    random.of(&[0, 44, 4096, 1 << 20, 0xffff_ffff]),
                ),
                2 => write(descriptor + 12, 2, random.below(8)),
                3 => write(descriptor + 14, 2, random.below(20)),
                4 => write(rings + 0x4002, 2, random.next()),
                5 => write(rings + 0x8002, 2, random.next()),
                6 => write(rings + 0x4004 + random.below(64), 2, random.below(20)),
                _ => write(BUFFERS + random.below(64), 8, random.next()),
            }
        }
        // And its registers, a reset among them.
        match random.below(32) {
            0 => write(base + 0x70, 4, 0),
            1 => write(base + 0x50, 4, random.below(5)),
            2 => write(base + 0x30, 4, random.below(5)),
            3 => write(base + 0x44, 4, random.below(2)),
            4 => write(base + 0x70, 4, 15),
            _ => {}
        }
    }
    loop {
        // SAFETY: interrupts are off: it stops here.
        unsafe { asm!("cli", "hlt") };
    }
}

/// So many kicks of each device while the other vCPU is at its rings.
pub fn two_cpus(random: &Random, count: u64) {
    assert!(start_second(), "the second vCPU does not start");
    for device in Device::all() {
        let mut queues = device.bring_up(SCRATCH);
        BASE.store(device.base, Ordering::Release);
        for _ in 0..count {
            if device.status() & 0x44 != 4 {
                queues = device.bring_up(SCRATCH);
            }
            for queue in queues.iter_mut().flatten() {
                offer(queue, random);
            }
        }
        BASE.store(0, Ordering::Release);
        device.reset();
        say!("hostile: device {} raced for", device.kind);
    }
    STOP.store(1, Ordering::Release);
    say!(
        "hostile: the other vCPU went round {} times",
        ROUNDS.load(Ordering::Acquire)
    );
}

fn offer(queue: &mut Queue, random: &Random) {
    for index in 0..4 {
        let flags = random.of(&[0, NEXT, NEXT | WRITE, WRITE]);
        queue.describe(index, BUFFERS, 4096, flags, index + 1);
    }
    queue.offer(random.below(4) as u16);
    queue.kick();
}
