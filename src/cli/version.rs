//! `bulkhead version`: the command, the protocol and the guest kernel that belong together.

use anyhow::Result;
use serde_json::Value;

use crate::sandbox::paths::GuestFiles;

/// Prints what there is; a missing kernel is said and is no error.
///
/// # Errors
/// Never: it reports what it finds.
pub fn run() -> Result<()> {
    println!("bulkhead {}", env!("CARGO_PKG_VERSION"));
    println!("agent protocol {}", protocol::PROTOCOL_VERSION);
    let guest = match GuestFiles::find() {
        Ok(guest) => guest,
        Err(error) => {
            println!("guest kernel: {error:#}");
            return Ok(());
        }
    };
    println!("guest kernel {}", guest.kernel.display());
    let manifest = std::fs::read_to_string(&guest.manifest).unwrap_or_default();
    if let Ok(Value::Object(map)) = serde_json::from_str(&manifest) {
        for (name, value) in map {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            println!("  {name}: {text}");
        }
    }
    Ok(())
}
