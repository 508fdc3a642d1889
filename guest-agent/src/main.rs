//! The agent's entry point: hands over to [`guest_agent::init::run`], or to what the program is under
//! another name ([`guest_agent::mode`]).
//!
//! Called by the kernel as PID 1. It bypasses Rust's own start-up, which aborts when descriptors
//! 0 to 2 are closed and there is no `/dev/null` to put in their place: both hold in an initramfs
//! that has nothing in it but this program.
#![no_main]
// Exporting the symbol `main` is what replaces the start-up.
#![allow(unsafe_code)]

/// The C runtime's entry point.
// SAFETY: no other object of the program defines `main`, and the signature is C's.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> std::ffi::c_int {
    guest_agent::mode::run()
}
