//! `bulkhead version`: the command, the protocol and the guest kernel that belong together.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::output;
use super::template::Template;
use crate::sandbox::paths::GuestFiles;

/// Bytes of the file that describes the guest kernel: a few hundred are enough.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// As Go, and Docker with it, calls the one that there is.
const ARCH: &str = "amd64";

/// Flags of `version`.
#[derive(Debug, clap::Args)]
pub struct VersionArgs {
    /// `json` or a template such as '{{.GuestKernel.config_hash}}'
    #[arg(short, long)]
    format: Option<String>,
}

/// Prints what there is; a missing kernel is said and is no error.
///
/// # Errors
/// A format that is none.
pub fn run(args: &VersionArgs) -> Result<()> {
    let guest = GuestFiles::find();
    let kernel = match &guest {
        Ok(guest) => manifest(&guest.manifest),
        Err(_) => json!({}),
    };
    let version = env!("CARGO_PKG_VERSION");
    if let Some(format) = args.format.as_deref().filter(|format| !format.is_empty()) {
        // Here the two are one; scripts ask for either.
        let side = json!({
            "Version": version,
            "Os": std::env::consts::OS,
            "Arch": ARCH,
        });
        let all = json!({
            "Client": side,
            "Server": side,
            "Version": version,
            "AgentProtocol": protocol::PROTOCOL_VERSION,
            "GuestKernel": kernel,
        });
        return output::line(&Template::parse(format)?.render(&all)?);
    }
    output::line(&format!("bulkhead {version}"))?;
    output::line(&format!("agent protocol {}", protocol::PROTOCOL_VERSION))?;
    match guest {
        Err(error) => output::line(&format!("guest kernel: {error:#}"))?,
        Ok(guest) => output::line(&format!("guest kernel {}", guest.kernel.display()))?,
    }
    for (name, value) in kernel.as_object().into_iter().flatten() {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        output::line(&format!("  {name}: {text}"))?;
    }
    Ok(())
}

/// What the kernel was built from; nothing when the file can't be read.
pub fn manifest(path: &Path) -> Value {
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(MANIFEST_BYTES_MAX).read_to_string(&mut text));
    match (read, serde_json::from_str(&text)) {
        (Ok(_), Ok(value @ Value::Object(_))) => value,
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_manifest_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel.json");
        assert_eq!(manifest(&path), json!({}));
        std::fs::write(&path, "[1").unwrap();
        assert_eq!(manifest(&path), json!({}));
        std::fs::write(&path, r#"{"config_hash": "abc"}"#).unwrap();
        assert_eq!(manifest(&path)["config_hash"], "abc");
    }
}
