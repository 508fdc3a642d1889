//! `cargo xtask ci`: what a change must pass: format, lints, documentation, dependencies, then all
//! tests. `.ci/run` calls it on a clean machine. It must not know what is tested.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::progress::Step;
use crate::test::{self, TestArgs};
use crate::{cargo, hostile, packages, paths};

/// A check that is one cargo command.
struct Check {
    name: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const CHECKS: &[Check] = &[
    Check {
        name: "format",
        arguments: &["fmt", "--all", "--check"],
        environment: &[],
    },
    Check {
        name: "format of the fuzz targets",
        arguments: &["fmt", "--manifest-path", "tests/fuzz/Cargo.toml", "--check"],
        environment: &[],
    },
    Check {
        name: "format of the hostile guest",
        arguments: &["fmt", "--manifest-path", hostile::MANIFEST, "--check"],
        environment: &[],
    },
    Check {
        name: "lints of the hostile guest",
        arguments: &[
            "clippy",
            "--manifest-path",
            hostile::MANIFEST,
            "--target-dir",
            "target/hostile/build",
            "--target",
            "x86_64-unknown-linux-gnu",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
        environment: &[],
    },
    Check {
        name: "lints",
        arguments: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
        environment: &[],
    },
    Check {
        // No target of `--all-targets`, as it needs KVM to run.
        name: "lints of the VM tests",
        arguments: &[
            "clippy",
            "--package",
            "bulkhead",
            "--test",
            "vm",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
        environment: &[],
    },
    Check {
        name: "documentation",
        arguments: &["doc", "--workspace", "--no-deps", "--locked"],
        environment: &[(
            "RUSTDOCFLAGS",
            // A link to a private item says where to read on in the source.
            "-D warnings -A rustdoc::private_intra_doc_links",
        )],
    },
];

/// Needs a download of advisories for its other checks; these it can do offline.
const CARGO_DENY: Check = Check {
    name: "cargo-deny",
    arguments: &["deny", "--offline", "check", "bans", "licenses", "sources"],
    environment: &[],
};

/// The verb: all checks, then all tests if they passed.
///
/// # Errors
///
/// Something can't be started or built. What does not pass is the exit code.
pub(crate) fn main() -> Result<ExitCode> {
    // All at once, before the first check is waited for.
    packages::ensure(&test::all_needs()?)?;
    let mut failed = Vec::new();
    for check in CHECKS {
        if !check.passes()? {
            failed.push(check.name);
        }
    }
    if is_installed("deny") {
        if !CARGO_DENY.passes()? {
            failed.push(CARGO_DENY.name);
        }
    } else {
        println!(
            "cargo-deny is not installed: licenses, sources and versions are checked by tests/tidy alone"
        );
    }
    if !failed.is_empty() {
        println!("did not pass: {}", failed.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    test::main(&TestArgs::default())
}

impl Check {
    fn passes(&self) -> Result<bool> {
        let step = Step::begin(self.name);
        let mut command = cargo::command();
        command
            .args(self.arguments)
            .envs(self.environment.iter().copied());
        let passes = command.status().context("start cargo")?.success();
        if passes {
            step.done();
        }
        Ok(passes)
    }
}

fn is_installed(subcommand: &str) -> bool {
    let mut command = Command::new("cargo");
    command
        .current_dir(paths::workspace())
        .args([subcommand, "--version"]);
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
