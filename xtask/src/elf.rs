//! Whether an executable is static. `artifacts` asks of the agent, `packages` of busybox: neither
//! has a dynamic loader where it runs. It reads no file.

use anyhow::{Context, Result, bail};

/// Whether an ELF executable of 64 bits has a PT_INTERP segment (System V ABI, "Program Header").
///
/// # Errors
///
/// It is no such file, or it is cut short.
pub(crate) fn asks_for_interpreter(elf: &[u8]) -> Result<bool> {
    const PT_INTERP: usize = 3;
    let number = |at: usize, bytes: usize| {
        let field = elf.get(at..at + bytes).context("cut short")?;
        Ok::<_, anyhow::Error>(
            field
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | usize::from(*byte)),
        )
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        bail!("not a little-endian ELF of 64 bits");
    }
    let (offset, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        if number(offset + index * size, 4)? == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_asks_for_a_loader_and_a_script_is_no_elf() {
        let this = std::fs::read(std::env::current_exe().expect("path")).expect("read");
        assert!(asks_for_interpreter(&this).expect("elf"));
        assert!(asks_for_interpreter(b"#!/bin/sh").is_err());
        assert!(asks_for_interpreter(&this[..60]).is_err());
    }
}
