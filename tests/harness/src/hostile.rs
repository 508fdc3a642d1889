//! Guests that mean ill, with their orders written into them: a program in the kernel's place
//! (`tests/hostile-guest`) and one in the agent's (`tests/hostile-agent`), in the folder that
//! BULKHEAD_HOSTILE names.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The variable that names the folder.
pub const HOSTILE_VARIABLE: &str = "BULKHEAD_HOSTILE";

/// In front of the orders in either program.
const MARK: &[u8] = b"bulkhead-orders:";

/// Room for the orders behind it.
const ORDERS_LEN: usize = 48;

/// Makes `folder` what BULKHEAD_GUEST is to name for a VM whose kernel is hostile and does this; the
/// rest of it is from the folder `honest`.
///
/// # Errors
///
/// The variable is not set, or a file can't be copied.
pub fn kernel(honest: &Path, folder: &Path, orders: &str) -> Result<()> {
    put(honest, folder, "vmlinux", "initramfs.cpio", orders)
}

/// As [`kernel`], with the kernel as it should be and a hostile agent.
///
/// # Errors
///
/// As [`kernel`].
pub fn agent(honest: &Path, folder: &Path, orders: &str) -> Result<()> {
    put(honest, folder, "initramfs.cpio", "vmlinux", orders)
}

fn put(honest: &Path, folder: &Path, hostile: &str, kept: &str, orders: &str) -> Result<()> {
    let source = env::var_os(HOSTILE_VARIABLE).with_context(|| {
        format!("{HOSTILE_VARIABLE} is not set; `cargo xtask test` and `bench` make the guests and set it")
    })?;
    let source = PathBuf::from(source).join(hostile);
    let mut program = fs::read(&source).with_context(|| format!("read {}", source.display()))?;
    write_orders(&mut program, orders)?;
    fs::create_dir_all(folder).context("create a guest's folder")?;
    fs::write(folder.join(hostile), program).context("write a hostile guest")?;
    for name in [kept, "kernel.json"] {
        fs::copy(honest.join(name), folder.join(name)).context("copy a guest's file")?;
    }
    Ok(())
}

fn write_orders(program: &mut [u8], orders: &str) -> Result<()> {
    let marks: Vec<_> = program
        .windows(MARK.len())
        .enumerate()
        .filter_map(|(at, bytes)| (bytes == MARK).then_some(at + MARK.len()))
        .collect();
    let [at] = marks.as_slice() else {
        bail!("{} places for orders", marks.len());
    };
    let place = program
        .get_mut(*at..at + ORDERS_LEN)
        .context("the orders have no room")?;
    if orders.len() > place.len() {
        bail!("orders of {} bytes", orders.len());
    }
    place.fill(b' ');
    place[..orders.len()].copy_from_slice(orders.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_written_where_their_place_is() {
        let mut program = [b"code", MARK, &[b'x'; ORDERS_LEN], b"data"].concat();
        write_orders(&mut program, "rings 7").expect("write");
        let text = String::from_utf8(program.clone()).expect("text");
        assert_eq!(text, format!("codebulkhead-orders:{:<48}data", "rings 7"));
        assert!(write_orders(&mut program, &"x".repeat(49)).is_err());
        assert!(write_orders(&mut b"none".to_vec(), "x").is_err());
    }
}
