//! Calls cargo and learns what it built. Every verb that builds calls it: `artifacts`, `bench`, `ci`,
//! `fixtures`, `fuzz`, `guide` and `test`, and `hostile` for them. It must not know what is built.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::packages::Package;
use crate::paths;

/// What linking needs, and C in dependencies.
pub(crate) const PACKAGES: &[Package] = &[
    Package::file("gcc", &["/usr/bin/cc"]),
    Package::file("libc6-dev", &["/usr/lib/x86_64-linux-gnu/libc.a"]),
];

/// A cargo command in the root of the work tree.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace()).stdin(Stdio::null());
    command
}

/// A line of `--message-format=json` (cargo reference, "External tools"), as far as it is used.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

/// An executable that cargo has built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Executable {
    /// The name of its target.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// Runs `cargo ARGUMENTS`, which must build something, and returns the executables. Diagnostics
/// and progress go to standard error.
///
/// # Errors
///
/// Cargo fails.
pub(crate) fn build(mut command: Command) -> Result<Vec<Executable>> {
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        let arguments: Vec<_> = command
            .get_args()
            .map(|argument| argument.to_string_lossy())
            .collect();
        bail!("cargo {} ended with {}", arguments.join(" "), output.status);
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The executable called `name`.
///
/// # Errors
///
/// There is none.
pub(crate) fn named(executables: Vec<Executable>, name: &str) -> Result<PathBuf> {
    let found = executables
        .into_iter()
        .find(|executable| executable.name == name);
    Ok(found
        .with_context(|| format!("cargo built no executable called {name}"))?
        .path)
}

fn executables(messages: &str) -> Vec<Executable> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter_map(|message| {
            Some(Executable {
                name: message.target?.name,
                path: message.executable?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_taken_from_artifact_messages_only() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"lib","kind":["lib"]},"executable":null}
{"reason":"compiler-message","target":{"name":"vm"}}
not json
{"reason":"compiler-artifact","target":{"name":"vm","kind":["test"]},"executable":"/t/vm-1"}
{"reason":"build-finished","success":true}"#;
        let found = executables(messages);
        assert_eq!(
            found,
            [Executable {
                name: "vm".into(),
                path: "/t/vm-1".into()
            }]
        );
        assert_eq!(
            named(found.clone(), "vm").expect("vm"),
            PathBuf::from("/t/vm-1")
        );
        assert!(named(found, "lib").is_err());
    }
}
