//! `bulkhead version`: the command, the protocol and the guest kernel that belong together.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::output;
use super::template::{Template, left_out};
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
        return output::line(&Template::parse(format)?.render(&all(&kernel))?);
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

/// Members of Docker's that mean nothing here: templates read them as empty.
const WITHOUT_MEANING: [&str; 6] = [
    "APIVersion",
    "ApiVersion",
    "BuildTime",
    "GitCommit",
    "GoVersion",
    "MinAPIVersion",
];

/// What templates read.
fn all(kernel: &Value) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    // Here the two are one; scripts ask for either.
    let mut client = json!({
        "Platform": {"Name": "bulkhead"},
        "Version": version,
        "Os": std::env::consts::OS,
        "Arch": ARCH,
    });
    for name in WITHOUT_MEANING {
        left_out::add(&mut client, name, "".into());
    }
    let mut server = client.clone();
    client["Context"] = "default".into();
    left_out::add(&mut client, "DefaultAPIVersion", "".into());
    server["KernelVersion"] = kernel.get("source_version").cloned().unwrap_or("".into());
    left_out::add(&mut server, "Components", Value::Null);
    left_out::add(&mut server, "Experimental", false.into());
    json!({
        "Client": client,
        "Server": server,
        "Version": version,
        "AgentProtocol": protocol::PROTOCOL_VERSION,
        "GuestKernel": kernel,
    })
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
    fn dockers_members_are_there() {
        let render = |format: &str| {
            let all = all(&json!({"source_version": "6.1.2"}));
            Template::parse(format).unwrap().render(&all).unwrap()
        };
        for (format, want) in [
            ("{{.Server.KernelVersion}}", "6.1.2"),
            (
                "{{.Server.Platform.Name}}{{.Client.Platform.Name}}",
                "bulkheadbulkhead",
            ),
            (
                "{{.Client.Context}} {{.Server.Experimental}}",
                "default false",
            ),
            (
                "<{{.Client.APIVersion}}{{.Client.DefaultAPIVersion}}>",
                "<>",
            ),
            ("<{{.Server.APIVersion}}{{.Server.MinAPIVersion}}>", "<>"),
            (
                "<{{.Server.GitCommit}}{{.Client.GoVersion}}{{.Server.BuildTime}}>",
                "<>",
            ),
            ("{{if .Server.Components}}some{{end}}", ""),
            (
                "{{json .Server}}",
                &format!(
                    r#"{{"Arch":"amd64","KernelVersion":"6.1.2","Os":"linux","Platform":{{"Name":"bulkhead"}},"Version":"{}"}}"#,
                    env!("CARGO_PKG_VERSION")
                ),
            ),
        ] {
            assert_eq!(render(format), want, "{format}");
        }
    }

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
