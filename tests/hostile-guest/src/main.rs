//! A guest that is no Linux and means ill: booted in the kernel's place, it does to each device of
//! its VM what a driver must never do, says so by the serial port, and resets.
//!
//! `tests/vm/bare.rs` writes its orders into [`ORDERS`] and looks at the host meanwhile. It knows
//! the registers of virtio-mmio (virtio 1.2) and of the PC, and nothing of what is behind them.
#![no_std]
#![no_main]

mod devices;
mod machine;
mod races;
mod registers;
mod rings;
mod virtio;
mod vsock;

use machine::Random;

/// Where the tests find the orders: this text, then 48 bytes `MODE SEED COUNT`, blanks at the end.
#[unsafe(link_section = ".data")]
#[unsafe(no_mangle)]
static mut ORDERS: [u8; 64] = *b"bulkhead-orders:registers 1 0                                   ";

/// Length of the text that marks them.
const MARK: usize = 16;

/// Called by [`machine`]'s first instructions, with a stack, all memory mapped, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn begin() -> ! {
    // SAFETY: nothing writes to it while the program runs.
    let orders = unsafe { core::ptr::read_volatile(&raw const ORDERS) };
    let text = core::str::from_utf8(&orders[MARK..]).unwrap_or_default();
    let mut words = text.split_ascii_whitespace();
    let mode = words.next().unwrap_or_default();
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    let (seed, count) = (number().unwrap_or(1), number().unwrap_or(0));
    say!("hostile: {mode} seed {seed} count {count}");
    assert!(
        machine::is_ram(machine::RAM_END - 8) && !machine::is_ram(machine::RAM_END),
        "memory ends elsewhere"
    );
    let random = Random::new(seed);
    match mode {
        "registers" => registers::every_one_in_every_state(),
        "random" => registers::at_random(&random, count),
        "rings" => rings::bad_ones(),
        "races" => races::two_cpus(&random, count),
        "devices" => devices::bad_requests(&random),
        "files" => devices::bad_file_requests(&random, count),
        "floods" => devices::floods(count),
        "packets" => vsock::bad_packets(&random, count),
        "frames" => vsock::bad_frames(&random, count),
        "spin" => loop {
            machine::port_read(0x80, 1);
        },
        _ => say!("hostile: no such mode"),
    }
    say!("hostile: {mode} done");
    machine::reset()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    say!("hostile: {info}");
    machine::reset()
}
